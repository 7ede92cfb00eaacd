"""Execution of candidate programs, each in a fresh interpreter under limits.

A program is a model's completion followed by the tests of a benchmark; it passes if its last line is reached without
an exception. What the child is given: `RLIMIT_CPU`, `RLIMIT_AS`, `RLIMIT_FSIZE`, `RLIMIT_NOFILE`, `RLIMIT_CORE`,
`RLIMIT_NPROC`; an empty environment; an empty working folder, removed afterwards; no input; no output (both lead
nowhere, so a flood costs nothing); the standard library and no other package; a process group that is killed at the
end, or when this process dies. A pass is answered on a pipe with a nonce drawn for that one run, so a program that merely exits early,
prints "passed" or kills itself is no pass.

What this does NOT isolate, so a stranger's code should not be trusted with it: the network; reading any file that this
user may read, and writing (in small files) where this user may write; processes that leave the group; where the user
is root, the number of processes (`RLIMIT_NPROC` of 0, no new process or thread, does not bind root); the nonce, which
a program that searches its own interpreter's frames can find. Models are not adversaries; for programs that may be,
run the stage in a container.

The limit that decides counts processor time, so that a busy machine fails no program; a program that sleeps meets a
limit by the clock. Strings hash and `random` draws alike in every run, so that outcomes repeat. Cost: about 20 ms for
each program. macOS does not enforce the memory limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POLL_SECONDS = 0.02
MAX_ANSWER_BYTES = 8192
CHILD = Path(__file__).with_name("candidate.py")
PARENT_MARK = "STARLOOM_PARENT"
"""Mark of processes that end with this one, if it asked for that (`starloom.tasks.frame.reaper`); the program does not see it."""
FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")
"""No script folder, user site, site-packages or bytecode files; not `-I`, which would ignore the fixed hash seed."""


@dataclass(frozen=True)
class Limits:
    """The resource limits of one program."""

    cpu_seconds: int = 3
    memory_bytes: int = 512 << 20
    """Of address space; a bare interpreter takes about 20 MB of it."""
    file_bytes: int = 1 << 20
    wall_seconds: int = 15

    def resources(self) -> dict[str, int]:
        """Return the limits by the names of the `resource` module."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": 0,
        }


class Outcome(NamedTuple):
    """The outcome of a program, and the last line of its error.

    One of `passed`, `failed` (it raised), `syntax-error`, `timed-out`, `memory`, `exited` (before its last line) and
    `crashed` (by a signal).
    """

    outcome: str
    detail: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


def run_programs(programs: Sequence[str], limits: Limits, workers: int = 1) -> list[Outcome]:
    """Run the programs, `workers` at a time; return the outcomes in their order."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def run_program(program: str, limits: Limits) -> Outcome:
    """Run one program to its end or to a limit; nothing of its process group is left afterwards."""
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="starloom-candidate-", ignore_cleanup_errors=True) as folder:
        reader, writer = os.pipe()
        try:
            with _job(program, nonce, limits) as job:
                child = _Child(_start(folder, job, writer))
            os.close(writer)
            answer = _answer(child, reader, time.monotonic() + limits.wall_seconds)
            ended_itself = child.has_ended()
        finally:
            child.kill()
            os.close(reader)
    return _verdict(answer, nonce) if answer else _without_answer(child, limits, ended_itself=ended_itself)


class _Child:
    """The running program: its status (negative: the signal that ended it) and processor time, once it has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.status = 0
        self.cpu_seconds = 0.0

    def has_ended(self) -> bool:
        """Return whether the program has ended, without waiting."""
        return self._reap(os.WNOHANG)

    def kill(self) -> None:
        """End the whole group, and wait for the child."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of the group is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reap(0)

    def _reap(self, options: int) -> bool:
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self._process.pid, options)
            if pid:
                self.status = self._process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self._process.returncode is not None


@contextlib.contextmanager
def _job(program: str, nonce: str, limits: Limits) -> Iterator[IO[bytes]]:
    """Return an unnamed file with the job, so that nothing of it is left for the program to read."""
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps({"program": program, "nonce": nonce, "limits": limits.resources()}).encode())
        file.seek(0)
        yield file


def _start(folder: str, job: IO[bytes], writer: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - running the program is the purpose; see the module's docstring
        [sys.executable, *FLAGS, str(CHILD), str(writer)],
        cwd=folder,
        env={"PYTHONHASHSEED": "0", "HOME": folder, "TMPDIR": folder, PARENT_MARK: os.environ.get(PARENT_MARK, "")},
        stdin=job,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writer,),
        start_new_session=True,
    )


def _answer(child: _Child, reader: int, deadline: float) -> bytes:
    """Return what the child wrote, up to a line or the limit; nothing if it ended, or the time did, without a line."""
    received, is_open = b"", True
    while time.monotonic() < deadline:
        ended = child.has_ended()  # before reading: what it wrote last is still in the pipe
        ready, _, _ = select.select([reader] if is_open else [], [], [], 0 if ended else POLL_SECONDS)
        chunk = os.read(reader, MAX_ANSWER_BYTES) if ready else b""
        is_open = is_open and not (ready and not chunk)
        received += chunk
        if b"\n" in received or len(received) > MAX_ANSWER_BYTES:
            return received
        if ended and not chunk:
            break
    return b""


def _verdict(answer: bytes, nonce: str) -> Outcome:
    try:
        given, outcome, detail = json.loads(answer)
    except (ValueError, TypeError):
        given = None
    if given != nonce:
        return Outcome("failed", "it wrote to the descriptor of the verdict")
    return Outcome(outcome, re.sub(r"0x[0-9a-f]+", "0x…", detail))  # addresses differ from run to run


def _without_answer(child: _Child, limits: Limits, *, ended_itself: bool) -> Outcome:
    if not ended_itself or child.cpu_seconds >= limits.cpu_seconds or child.status == -signal.SIGXCPU:
        return Outcome("timed-out", "")  # which clock it was depends on how busy the machine is
    if child.status < 0:
        return Outcome("crashed", signal.Signals(-child.status).name)
    return Outcome("exited", f"status {child.status} before the tests ended")
