"""Named arrays in files of one folder, mapped into memory by whoever opens them.

What is mapped is paged in as it is touched and may be paged out again: an array may be larger than the memory.
Processes that share the folder share the arrays; several may write to rows of their own.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
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
        try:
            return kind(**{name: self.open(f"{kind.__name__}.{name}", writable=writable) for name in names})
        except FileNotFoundError as error:
            raise LookupError(f"{Path(error.filename).name} of {kind.__name__} is read before it was written") from error

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
        """Map an array. `np.load` does the same in three times the time, and a decision over few documents opens thousands."""
        with self.path(name).open("r+b" if writable else "rb") as file:
            np.lib.format.read_magic(file)
            shape, is_fortran, kind = np.lib.format.read_array_header_1_0(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
            return np.ndarray(shape, kind, mapped, file.tell(), order="F" if is_fortran else "C")

    def path(self, name: str) -> Path:
        """Return the file of an array."""
        return self.folder / f"{name}.npy"
