"""Named arrays in files of one folder, mapped into memory by whoever opens them.

What is mapped is paged in as it is touched and may be paged out again: an array may be larger than the memory.
Processes that share the folder share the arrays; several may write to rows of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True)
class ArrayFiles:
    """A folder of arrays."""

    folder: Path

    def create(self, name: str, kind: DTypeLike, *shape: int) -> NDArray[Any]:
        """Make an array of zeros and map it."""
        return np.asarray(np.lib.format.open_memmap(self.path(name), "w+", np.dtype(kind), shape))

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Write an array."""
        np.save(self.path(name), array)

    def open(self, name: str, *, writable: bool = False) -> NDArray[Any]:
        """Map an array."""
        return np.asarray(np.load(self.path(name), mmap_mode="r+" if writable else "r"))

    def path(self, name: str) -> Path:
        """Where an array lies."""
        return self.folder / f"{name}.npy"
