"""numba's `njit`, whose machine code is kept by the bytes of the source file: what one checkout has compiled, no other compiles again.

A kernel calls jitted functions of its own file only, so that file, the versions of numba and Python, the argument types and the
processor decide the machine code; numba checks the last two itself. Where it is kept: `NUMBA_CACHE_DIR` if that is set, else
`starloom/kernels` in the user's cache folder; where that cannot be written, beside the source, as numba does by itself.

Nothing here shapes an output: `starloom.lineage.code` leaves it out of the identity of a stage.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
from numba.core.caching import UserWideCacheLocator

if TYPE_CHECKING:
    from collections.abc import Callable

UNUSED_SECONDS = 90 * 24 * 3600
"""Machine code that nobody has loaded for so long is removed when other code is compiled."""
LOCATORS = f"{__name__}.ContentsLocator,InTreeCacheLocator,UserWideCacheLocator"


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return `numba.njit(**options)` with a cache keyed by file contents."""

    def compile_lazily(function: Callable[..., Any]) -> Any:
        before = numba.config.CACHE_LOCATOR_CLASSES
        numba.config.CACHE_LOCATOR_CLASSES = before or LOCATORS
        try:
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_LOCATOR_CLASSES = before

    return compile_lazily


def cache_folder() -> str:
    """Return the folder of the compiled kernels."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return str(numba.config.CACHE_DIR) or os.path.join(home, "starloom", "kernels")


class ContentsLocator(UserWideCacheLocator):  # type: ignore[misc]  # numba has no types
    """A locator of a function's machine code, in a folder named by the bytes of its file."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        super().__init__(py_func, py_file)
        self._cache_path = _folder(py_file)


@cache
def _folder(py_file: str) -> str:
    versions = f"numba {numba.__version__} python {sys.version_info[0]}.{sys.version_info[1]}\n".encode()
    with open(py_file, "rb") as file:
        digest = hashlib.sha256(versions + file.read()).hexdigest()
    name = os.path.splitext(os.path.basename(py_file))[0]
    folder = os.path.join(cache_folder(), f"{name}-{digest[:32]}")
    _touch(folder)
    return folder


def _touch(folder: str) -> None:
    """Mark a folder as used; where it is new, remove those that have long not been used."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        _remove_unused(os.path.dirname(folder))
    except OSError:
        return  # of another user, or read-only: it is read as it is


def _remove_unused(root: str) -> None:
    if not os.path.isdir(root):
        return
    with os.scandir(root) as entries:
        unused = [entry.path for entry in entries if entry.is_dir() and entry.stat().st_mtime < time.time() - UNUSED_SECONDS]
    for folder in unused:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
