"""Progress of a long operation: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(task: str, unit: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Return a function to call with the amount done and the total; unit `bytes` is shown in a readable unit."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        row = progress.add_task(task, total=None)
        yield lambda done, total: progress.update(row, completed=done, total=total)
