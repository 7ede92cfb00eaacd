"""Turns of the pages that read the store: a few at a time, where more would only wait for each other's processor time and memory.

Pages that ask Prefect take none: what waits for another process keeps nobody from the store.
"""

from __future__ import annotations

import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 2
_turns = threading.Semaphore(AT_ONCE)


class InTurn(APIRoute):
    """A route whose page waits for its turn, in a thread of its own."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        assert not inspect.iscoroutinefunction(endpoint), "a page that waits would keep the loop from all others"
        super().__init__(path, _in_turn(endpoint), **options)


def _in_turn(page: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(page)
    def waits(*arguments: Any, **named: Any) -> Any:
        with _turns:
            return page(*arguments, **named)

    return waits
