"""Timing tools: each in a process of its own, in interleaved rounds, best of three.

A round runs each tool once, in turn (A B C, A B C, A B C), so that whatever else the machine does hits all alike.
Peak memory is the high-water mark of the tool's process (interpreter, libraries, the corpus, and the work) and the
most that the processes it started held together, seen ten times a second; pages that they share count in each.
Compiling and importing happen in a warm-up on a small slice and are not timed.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from starloom.bench._tool import BYTES_PER_MB, Corpus, Dropped, Tool, read_corpus

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import ModuleType

ROUNDS = 3
NOT_INSTALLED = "not installed: "
INSTALL = f"{NOT_INSTALLED}pip install 'starloom[bench]'"
SECONDS_BETWEEN_LOOKS = 0.1


@dataclass
class Timing:
    """The measurements of one tool."""

    tool: Tool
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    dropped: Dropped | None = None
    """What the last round decided, if it is a tool that deduplicates."""
    problem: str | None = None
    """Why there is no figure."""

    def megabytes_per_second(self, num_bytes: int) -> float | None:
        """Return the throughput of the best round over a corpus of that size."""
        return num_bytes / BYTES_PER_MB / min(self.seconds) if self.seconds and not self.problem else None


def measure(module: ModuleType, corpus: Path) -> list[Timing]:
    """Time every tool of a bench module on a corpus file."""
    timings = [Timing(tool, problem=_missing(module, tool)) for tool in module.TOOLS]
    workers: list[tuple[Timing, _Worker]] = []
    try:
        for timing in (timing for timing in timings if timing.problem is None):
            workers.append((timing, _Worker(module.__name__, timing.tool.name, corpus)))  # noqa: PERF401 - those started are ended
        for step in ["warm", *["timed"] * rounds(module), "peak"]:
            for timing, worker in workers:
                _advance(timing, worker, step)
    finally:
        for _, worker in workers:
            worker.end()
    return timings


def rounds(module: ModuleType) -> int:
    """Return the number of timed rounds of each tool: one where figures other than speed are asked for."""
    return int(getattr(module, "ROUNDS", ROUNDS))


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
    elif step == "timed":
        timing.seconds.append(answer[0])
        timing.dropped = answer[1]
    elif step == "peak":
        timing.peak_bytes = answer[0] + worker.children_bytes


class _Worker:
    """A spawned process that holds one tool and runs one step at a time."""

    def __init__(self, module: str, tool: str, corpus: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs, module, tool, corpus))
        self._process.start()
        theirs.close()
        self.children_bytes = 0
        """The most that the processes it started held at once."""

    def ask(self, step: str) -> Any:
        """Return the figures, or the reason why there are none. Raises EOFError if the process is gone."""
        try:
            self._connection.send(step)
            while not self._connection.poll(SECONDS_BETWEEN_LOOKS):
                self.children_bytes = max(self.children_bytes, _resident_bytes_of_children(self._process.pid))
            return self._connection.recv()
        except OSError as error:  # a broken pipe or a reset connection, by how it went
            raise EOFError from error

    def exit_status(self) -> int | None:
        """Wait for the process to end and describe its exit status."""
        self._process.join()
        return self._process.exitcode

    def end(self) -> None:
        """End the worker process, even one that is still at work."""
        self._connection.close()
        self._process.join(timeout=1)
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, module_name: str, tool_name: str, path: Path) -> None:
    """Answer each step in the worker process until the connection closes."""
    sys.stdout = sys.stderr  # what a tool prints is not part of the report
    work: _Work | None = None
    while True:
        try:
            step = connection.recv()
        except EOFError:
            return
        try:
            work = work or _Work(next(t for t in importlib.import_module(module_name).TOOLS if t.name == tool_name), path)
            answer = getattr(work, step)()
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way; it is told in its line
            answer = f"{type(error).__name__}: {error}".splitlines()[0]
        connection.send(answer)


class _Work:
    """A tool and its input."""

    def __init__(self, tool: Tool, path: Path) -> None:
        self._tool = tool
        self._folder = path.parent / f"prepared-{os.getpid()}"
        self._corpus = read_corpus(path)
        self._given: Any = None

    def warm(self) -> tuple[()]:
        """Import and compile; then make ready what will be timed."""
        self._tool.run(self._prepared(self._corpus.warm_up(), "warm"))
        self._given = self._prepared(self._corpus, "whole")
        return ()

    def timed(self) -> tuple[float, Dropped | None]:
        """Return the seconds of one round, and its result."""
        start = time.perf_counter()
        result = self._tool.run(self._given)
        return time.perf_counter() - start, result if isinstance(result, Dropped) else None

    def peak(self) -> tuple[int]:
        """Return the peak memory of this process."""
        return (_peak_bytes(),)

    def _prepared(self, corpus: Corpus, name: str) -> Any:
        if self._tool.prepare is None:
            return corpus
        folder = self._folder / name
        folder.mkdir(parents=True)
        return self._tool.prepare(corpus, folder)


def _peak_bytes() -> int:
    """Return the peak resident memory of this process.

    On Linux `ru_maxrss` of a fresh child starts at its parent's mark, so the kernel's own per-address-space mark is
    read where there is one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


def _resident_bytes_of_children(pid: int | None) -> int:
    total = 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
    except psutil.Error:
        pass  # it is gone, which `ask` will notice
    return total


def _missing(module: ModuleType, tool: Tool) -> str | None:
    """Return the install command for what the tool needs; None if all is there."""
    if tool.environment is not None and not tool.environment.is_built():
        return f"{NOT_INSTALLED}python -m starloom.bench {module.__name__.rpartition('.')[2]} --install"
    return INSTALL if any(not _is_installed(name) for name in tool.requires) else None


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
