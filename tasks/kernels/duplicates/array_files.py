"""Named arrays in files of one folder, mapped into memory by whoever opens them.

What is mapped is paged in as it is touched and may be paged out again: an array may be larger than the memory.
Processes that share the folder share the arrays; several may write to rows of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

T = TypeVar("T")


@dataclass(frozen=True)
class ArrayFiles:
    """A folder of arrays."""

    folder: Path

    def put(self, phase: Any) -> None:
        """Write the arrays of a dataclass."""
        for field in fields(phase):
            self.save(f"{type(phase).__name__}.{field.name}", getattr(phase, field.name))

    def get(self, kind: type[T], *, writable: bool = False) -> T:
        """Map the arrays of a dataclass.

        Raises:
            LookupError: if they were not written.
        """
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        missing = [name for name in names if not self.path(f"{kind.__name__}.{name}").exists()]
        if missing:
            raise LookupError(f"{', '.join(missing)} of {kind.__name__} is read before it was written")
        return kind(**{name: self.open(f"{kind.__name__}.{name}", writable=writable) for name in names})

    def make(self, kind: type[T], **arrays: tuple[DTypeLike, *tuple[int, ...]]) -> T:
        """Make the arrays of a dataclass, all zero, each of (type, *shape), and map them."""
        return kind(**{name: self.create(f"{kind.__name__}.{name}", *told) for name, told in arrays.items()})

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
        """Return the file of an array."""
        return self.folder / f"{name}.npy"
