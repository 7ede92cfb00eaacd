"""A reaper: no child process outlives its parent process, even if that is killed (trainers, workers, Prefect's server).

Children that ask whether their parent lives do so too late (while they import torch, they ask nothing), and a launcher stands between
a run and its trainers, each in a session of its own. So the process marks its environment, which all below it inherit, and starts a
reaper: this file as a script, which waits on a pipe that closes when the process is gone, and then kills every process that has the mark.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "STARLOOM_PARENT"
"""Variable that names the process which a child ends with; `starloom.tasks.kernels.programs` hands it on to the programs it runs."""
POLL_SECONDS = 0.1
QUIET_LOOKS = 3
"""Scans in a row that must find no process: one that was being started is seen by the next."""
PATIENCE_SECONDS = 10.0
"""Time after which a reaper gives up on processes that cannot be killed."""
TRACKER_SECONDS = 0.5
"""Time for multiprocessing's resource tracker to clean up and exit."""

_lock = threading.Lock()
_pipe: int | None = None
"""The pipe end that this process alone holds, and never closes."""


def ensure_reaper() -> None:
    """Start the reaper: all processes that this one starts from now on end with it. Costs 50 ms the first time, and nothing after."""
    global _pipe
    with _lock:
        if _pipe is not None and _is_heard(_pipe):
            return
        mark = f"{os.getpid()}-{secrets.token_hex(8)}" if _pipe is None else os.environ[MARK]
        here = Path(__file__)
        theirs, _pipe = os.pipe()
        subprocess.run(  # noqa: S603 - this file
            [sys.executable, "-I", here.name, mark],
            cwd=here.parent,  # its words hold no "starloom": who kills by that name kills the run, and needs the reaper
            env={name: value for name, value in os.environ.items() if name != MARK},  # another's reaper would kill it too early
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )
        os.close(theirs)
        os.environ[MARK] = mark


def _is_heard(pipe: int) -> bool:
    try:
        os.write(pipe, b".")
    except BrokenPipeError:
        return False
    return True


def reap(mark: str) -> None:
    """Kill all processes with the mark, until none is left."""
    started, num_quiet = time.monotonic(), 0
    while num_quiet < QUIET_LOOKS and (seconds := time.monotonic() - started) < PATIENCE_SECONDS:
        found = marked_processes(mark)
        for process in found:
            if seconds > TRACKER_SECONDS or not _is_tracker(process):
                _kill(process)
        num_quiet = 0 if found else num_quiet + 1
        time.sleep(POLL_SECONDS)


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with the mark in their environment; zombies have none."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone, or another user's
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _is_tracker(process: psutil.Process) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    return False


def _kill(process: psutil.Process) -> None:
    """Kill a process, and with one that leads a group the group: a program that was run may have started others without the mark."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def main() -> None:
    """Detach from the parent, wait until no process holds the other end of standard input, and reap."""
    if os.fork():
        os._exit(0)
    while os.read(0, 1):
        pass
    reap(sys.argv[1])


if __name__ == "__main__":
    main()
