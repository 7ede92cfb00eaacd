"""A child process in a process group of its own: read line by line, ended with the run, even if that is killed."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from typing import IO, TYPE_CHECKING

from starloom.lineage.errors import StageError
from starloom.tasks.frame.reaper import ensure_reaper
from starloom.tasks.frame.workers import stopped_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GRACE_SECONDS = 2.5
"""Time between SIGTERM and SIGKILL, unless the child was given more; a run must end within five seconds of Ctrl-C."""
POLL_SECONDS = 0.2
KEPT_LINES = 30
SHOWN_LENGTH = 80
_graces: dict[int, float] = {}
"""Of each child at work."""


def longest_grace_seconds() -> float:
    """Return how long the running children may take to save their work."""
    return max(list(_graces.values()), default=GRACE_SECONDS)


def run_child(
    argv: list[str],
    *,
    on_line: Callable[[str], None] | None,
    env: dict[str, str] | None,
    grace_seconds: float,
    is_cancelled: Callable[[], bool],
) -> None:
    """Run `argv`; see `Runtime.subprocess`."""
    ensure_reaper()
    child = subprocess.Popen(  # noqa: S603 - the command is made by a stage, not by a user
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=KEPT_LINES)
    _graces[child.pid] = grace_seconds
    try:
        for line in _lines(child, is_cancelled):
            last.append(line)
            if on_line is not None:
                on_line(line)
    finally:
        _end(child, grace_seconds)
        del _graces[child.pid]
    if child.returncode:
        raise StageError(
            f"`… {' '.join(argv)[-SHOWN_LENGTH:]}` ended with status {child.returncode}; its last lines:\n" + "\n".join(last),
            hint="fix the error and run the same command again; saved work is kept",
        )


def _lines(child: subprocess.Popen[str], is_cancelled: Callable[[], bool]) -> Iterator[str]:
    lines: queue.Queue[str | None] = queue.Queue()
    assert child.stdout is not None
    threading.Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
    while True:
        if is_cancelled():
            raise stopped_error()
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            child.wait()
            return
        yield line.rstrip("\n")


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _end(child: subprocess.Popen[str], grace_seconds: float) -> None:
    """End the whole group: SIGTERM first, then SIGKILL. A launcher may be gone long before the trainer that it started."""
    deadline = time.monotonic() + grace_seconds
    how: int = signal.SIGTERM
    while _signalled(child.pid, how):
        child.poll()  # a leader that is dead and not waited for would keep its group alive
        how = 0 if time.monotonic() < deadline else signal.SIGKILL
        time.sleep(0.05)
    child.wait()


def _signalled(group: int, how: int) -> bool:
    """Signal a process group; return whether it had any process."""
    try:
        os.killpg(group, how)
    except ProcessLookupError:
        return False
    return True
