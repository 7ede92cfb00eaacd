"""Storage of bytes: a local folder or any fsspec URL, behind one interface.

This is the only module that may know of a local disk. Guarantees, on every backend: `write` and `put` are atomic
(a reader sees all of a file or none of it); on a local disk they are also flushed before they are visible.
`create` is exclusive on a local disk; elsewhere the last writer stands, which is harmless because names are hashes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.lineage import keys
from starloom.lineage.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_storage(url: str) -> Storage:
    """Open storage at a folder or URL. `file://` and plain paths are local; `memory://`, `s3://`, `gs://` go through fsspec."""
    if url.startswith("file://"):
        return LocalStorage(Path(url.removeprefix("file://")))
    if "://" not in url:
        return LocalStorage(Path(url))
    return RemoteStorage(url)


class Storage(ABC):
    """A flat space of relative, slash-separated names."""

    url: str
    scratch: Path
    """A local folder for files in the making, on the same disk as the store where there is one."""
    shared: bool
    """Whether another process that opens the same URL sees the same bytes."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises FileNotFoundError if there is none."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file, atomically."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write unless it exists. Returns whether this call made it."""

    @abstractmethod
    def put(self, name: str, file: Path) -> None:
        """Move a finished local file in under `name`; one that is there already stands."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""

    @abstractmethod
    def names(self, prefix: str) -> Iterator[str]:
        """Return all names under a folder, sorted; none if the folder does not exist."""

    def last_holders(self, prefix: str, file: str) -> Iterator[str]:
        """Return what `holders` does, the last one first; no more is looked at than is asked for, where the backend allows it."""
        return reversed(self.holders(prefix, file))

    def holders(self, prefix: str, file: str) -> list[str]:
        """Return the names of the folders directly under a folder that hold a file of that name, sorted."""
        ends = (name.removeprefix(f"{prefix}/").split("/") for name in self.names(prefix))
        return sorted({end[0] for end in ends if end[1:] == [file]})

    @abstractmethod
    def age_seconds(self, name: str, now: float) -> float:
        """Return the seconds from its last change until `now` (seconds since the epoch)."""

    @abstractmethod
    def num_bytes(self, name: str) -> int:
        """Return its size."""

    @abstractmethod
    def digest(self, name: str) -> str:
        """Return the SHA-256 of its bytes as stored now, never of a copy fetched earlier."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove it, if it is there."""

    @abstractmethod
    def local(self, name: str) -> Path:
        """Return the file on a local disk: itself, or a copy fetched once (names under `objects/` never change)."""

    @abstractmethod
    def link(self, name: str, target: str) -> None:
        """Make a browsable link, if the backend supports links."""

    def shelf(self) -> Path:
        """Return a local folder for files that stay for a while: `scratch`, or one of this machine's if the store is read-only."""
        held = next(path for path in (self.scratch, *self.scratch.parents) if path.exists())
        return self.scratch if os.access(held, os.W_OK) else _of_this_machine(self.url)

    @contextlib.contextmanager
    def making(self, suffix: str = "") -> Iterator[Path]:
        """Yield a fresh local path to write to; whatever is left of it afterwards is removed."""
        path = self.scratch / f"{uuid.uuid4().hex}{suffix}"
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            yield path
        except OSError as error:
            raise _explained(error, self.url) from error
        finally:
            if path.exists():  # where nothing can be written, nothing can be removed either
                path.unlink()


class LocalStorage(Storage):
    """A folder. Writes go aside, are flushed, and are renamed into place."""

    shared = True

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.url = str(self.root)
        self.scratch = self.root / "tmp"

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with self._flushed(data) as aside:
            os.replace(aside, self._target(name))

    def create(self, name: str, data: bytes) -> bool:
        with self._flushed(data) as aside:
            try:
                os.link(aside, self._target(name))
            except FileExistsError:
                return False
        return True

    def put(self, name: str, file: Path) -> None:
        try:
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(file, self._target(name))
        except OSError as error:
            raise _explained(error, self.url) from error

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def names(self, prefix: str) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root / prefix):
            folders.sort()
            relative = os.path.relpath(folder, self.root).replace(os.sep, "/")
            aliases = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            yield from (f"{relative}/{file}" for file in sorted([*files, *aliases]))

    def holders(self, prefix: str, file: str) -> list[str]:  # a run's folder has thousands of links: they are not looked at
        try:
            folder = os.open(self.root / prefix, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            return sorted(name for name in os.listdir(folder) if os.access(f"{name}/{file}", os.F_OK, dir_fd=folder))
        finally:
            os.close(folder)

    def last_holders(self, prefix: str, file: str) -> Iterator[str]:
        folder = self.root / prefix
        names = sorted(os.listdir(folder), reverse=True) if folder.is_dir() else []
        return (name for name in names if os.path.isfile(f"{folder}/{name}/{file}"))

    def age_seconds(self, name: str, now: float) -> float:
        return now - (self.root / name).lstat().st_mtime

    def num_bytes(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def digest(self, name: str) -> str:
        return keys.file_digest(self.root / name)

    def delete(self, name: str) -> None:
        path = self.root / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _explained(error, self.url) from error
        with contextlib.suppress(OSError):  # a folder that still holds something stays
            while (path := path.parent) != self.root:
                path.rmdir()

    def local(self, name: str) -> Path:
        return self.root / name

    def link(self, name: str, target: str) -> None:
        try:
            alias = self._target(name)
            alias.unlink(missing_ok=True)
            alias.symlink_to(os.path.relpath(self.root / target, alias.parent))
        except OSError as error:
            raise _explained(error, self.url) from error

    def _target(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _flushed(self, data: bytes) -> Iterator[Path]:
        with self.making() as aside:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield aside


class RemoteStorage(Storage):
    """Storage on any fsspec file system. A put is one atomic upload; reads of parts are cached on the local disk."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StoreError(
                f"the store {url!r} cannot be opened: {error}",
                hint="install the extra that serves this kind of URL, e.g. pip install 'starloom[s3]'",
            ) from error
        self.url = url
        self.shared = "memory" not in _protocols(self._fs)
        self.scratch = _of_this_machine(url)

    def read(self, name: str) -> bytes:
        data: bytes = self._fs.cat_file(self._path(name))
        return data

    def write(self, name: str, data: bytes) -> None:
        self._fs.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
        self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        if self.exists(name):
            return False
        self.write(name, data)
        return True

    def put(self, name: str, file: Path) -> None:
        self._fs.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
        self._fs.put_file(str(file), self._path(name))

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self._path(name)))

    def names(self, prefix: str) -> Iterator[str]:
        if self._fs.exists(self._path(prefix)):
            for path in sorted(self._fs.find(self._path(prefix))):
                yield path[len(self._root) :].lstrip("/")

    def age_seconds(self, name: str, now: float) -> float:
        return now - float(self._fs.modified(self._path(name)).timestamp())

    def num_bytes(self, name: str) -> int:
        return int(self._fs.size(self._path(name)))

    def digest(self, name: str) -> str:
        with self._fs.open(self._path(name), "rb") as file:
            return keys.stream_digest(file)

    def delete(self, name: str) -> None:
        if self.exists(name):
            self._fs.rm_file(self._path(name))

    def local(self, name: str) -> Path:
        copy = self.scratch / "fetched" / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with self.making() as aside:
                self._fs.get_file(self._path(name), str(aside))
                shutil.move(aside, copy)
        return copy

    def link(self, name: str, target: str) -> None:
        """Do nothing: object stores have no links; a run's record names the parts."""

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _of_this_machine(url: str) -> Path:
    """Return a local folder of this user, outside any store, for the store at `url`."""
    return Path(tempfile.gettempdir()) / f"starloom-{os.getuid()}" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _explained(error: OSError, url: str) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"no space left in the store {url}: {error.strerror}",
            hint=f"free space (`starloom gc --store {shlex.quote(url)}` removes what no run needs) and run the same command again; "
            "finished parts are kept",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return StoreError(f"the store {url} cannot be written: {error.strerror}", hint="choose another place with --store")
    return StoreError(f"the store {url} failed: {error}", hint="check the disk, then run the same command again; finished parts are kept")
