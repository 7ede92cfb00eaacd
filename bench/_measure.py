"""Timing tools: each in a process of its own, in interleaved rounds, best of three.

A round runs each tool once, in turn (A B C, A B C, A B C), so that whatever else the machine does hits all alike.
Peak memory is the high-water mark of the tool's process: interpreter, libraries, the corpus, and the work. Compiling
and importing happen in a warm-up on a small slice and are not timed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bench._tool import BYTES_PER_MB, Corpus, Tool, read_corpus

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import ModuleType

ROUNDS = 3
INSTALL = "not installed: pip install 'starloom[bench]'"


@dataclass
class Timing:
    """What was measured of one tool."""

    tool: Tool
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    problem: str | None = None
    """Why there is no figure."""

    def megabytes_per_second(self, num_bytes: int) -> float | None:
        """Speed of the best round over a corpus of that size."""
        return num_bytes / BYTES_PER_MB / min(self.seconds) if self.seconds and not self.problem else None


def measure(module: ModuleType, corpus: Path) -> list[Timing]:
    """Time every tool of a bench module on a corpus file."""
    timings = [Timing(tool) for tool in module.TOOLS]
    workers: list[tuple[Timing, _Worker]] = []
    try:
        for timing in timings:
            if _missing(timing.tool):
                timing.problem = INSTALL
            else:
                workers.append((timing, _Worker(module.__name__, timing.tool.name, corpus)))
        for step in ["warm", *["time"] * ROUNDS, "peak"]:
            for timing, worker in workers:
                _advance(timing, worker, step)
    finally:
        for _, worker in workers:
            worker.end()
    return timings


def _advance(timing: Timing, worker: _Worker, step: str) -> None:
    if timing.problem is not None:
        return
    try:
        answer = worker.ask(step)
    except EOFError:
        timing.problem = f"failed: its process ended with status {worker.exit_status()}"
        return
    if isinstance(answer, str):
        timing.problem = f"failed: {answer}"
    elif step == "time":
        timing.seconds.append(answer)
    elif step == "peak":
        timing.peak_bytes = int(answer)


class _Worker:
    """A spawned process that holds one tool and does one step at a time."""

    def __init__(self, module: str, tool: str, corpus: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs, module, tool, corpus))
        self._process.start()
        theirs.close()

    def ask(self, step: str) -> float | str:
        """The figure, or in words why there is none. EOFError if the process is gone."""
        try:
            self._connection.send(step)
            answer: float | str = self._connection.recv()
        except OSError as error:  # a broken pipe or a reset connection, by how it went
            raise EOFError from error
        return answer

    def exit_status(self) -> int | None:
        """Wait for its end and say how it ended."""
        self._process.join()
        return self._process.exitcode

    def end(self) -> None:
        """Leave no process behind, even one that is still at work."""
        self._connection.close()
        self._process.join(timeout=1)
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, module_name: str, tool_name: str, path: Path) -> None:
    """The worker's side: answers each step until the connection closes."""
    tool = next(t for t in importlib.import_module(module_name).TOOLS if t.name == tool_name)
    corpus = read_corpus(path)
    sys.stdout = sys.stderr  # what a tool prints is not part of the report
    while True:
        try:
            step = connection.recv()
        except EOFError:
            return
        try:
            answer: float | str = _peak_bytes() if step == "peak" else _timed(tool, corpus.warm_up() if step == "warm" else corpus)
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way; it is told in its line
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        connection.send(answer)


def _timed(tool: Tool, corpus: Corpus) -> float:
    start = time.perf_counter()
    tool.run(corpus)
    return time.perf_counter() - start


def _peak_bytes() -> int:
    """High-water mark of this process's resident memory.

    On Linux `ru_maxrss` of a fresh child starts at its parent's mark, so the kernel's own per-address-space mark is
    read where there is one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


def _missing(tool: Tool) -> list[str]:
    return [name for name in tool.requires if not _is_installed(name)]


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
