"""Processor seconds by what they are spent on: functions of the store count what passes in them, in this process, while asked to."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from starloom.lineage import keys, parquet
from starloom.lineage.storage import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COUNTED: tuple[tuple[str, Any, str], ...] = (
    ("read", parquet, "read_table"),
    ("read", parquet, "read_batches"),
    ("read", parquet, "num_rows"),
    ("write", parquet, "write_table"),
    ("write", LocalStorage, "put"),
    ("write", LocalStorage, "create"),
    ("write", LocalStorage, "write"),
    ("hash", keys, "file_digest"),
)
"""What a second counts as, and where the function stands that spends it. None of them calls another."""
STREAMS = ("read_batches",)
"""Those that give one thing after another: what is done between two is not theirs."""


class Clock:
    """Counts processor seconds by what they are spent on."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Count what passes inside."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[kind] += time.process_time() - start

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Have the functions of `COUNTED` count, until the end."""
        before = [(home, name, getattr(home, name)) for _, home, name in COUNTED]
        for (kind, home, name), (_, _, function) in zip(COUNTED, before, strict=True):
            setattr(home, name, (self._stream if name in STREAMS else self._call)(kind, function))
        try:
            yield
        finally:
            for home, name, function in before:
                setattr(home, name, function)

    def _call(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.counting(kind):
                return function(*args, **kwargs)

        return counted

    def _stream(self, kind: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            stream, end = function(*args, **kwargs), object()
            while True:
                with self.counting(kind):
                    item = next(stream, end)
                if item is end:
                    return
                yield item

        return counted
