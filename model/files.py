"""Atomic writing of files: a file appears whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file to write; on success it is flushed to disk and renamed to its name, on an error it is removed and the old one stays.

    Raises:
        OSError: the disk is full or cannot be written; nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind; to be called where no other writer is at work."""
    for aside in folder.glob(f".*{PARTIAL}"):
        aside.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
