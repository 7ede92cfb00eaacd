"""Listed files of this machine: repositories as lists of files with their Git blob hashes, and reading them.

Like git's index, a cache of (size, times, inode) spares reading files that have not been touched; a file touched within the
last two seconds is not trusted to the cache, as it may change again within the clock's grain ("racy git").
Guarantee: nothing in a list but `root` and `local` depends on where the folder lies; a file that cannot be used is
listed with the reason. Cost: one `stat` a file when nothing changed, one read a file otherwise; a plan holds some 400 bytes a file.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from starloom.tasks.kernels.sources.contents import Batch, Collector, blob_id
from starloom.tasks.kernels.sources.languages import may_tell_language
from starloom.tasks.kernels.sources.units import Cache, SourceError, hash_of

_RACY_NS = 2_000_000_000
_CHUNK_BYTES = 1 << 20


class FileSnapshot(NamedTuple):
    """A file of a repository: either its blob hash or the reason why it is not read."""

    path: str
    """Within the repository, with `/`."""
    local: str
    """Under the repository's root on this machine."""
    size: int
    blob: str | None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class RepositorySnapshot:
    """A repository as it was found. `root` is its place on this machine and no part of its identity."""

    source: str
    repo: str
    revision: str | None
    declared_license: str | None
    root: str
    files: tuple[FileSnapshot, ...]
    """Sorted by path."""
    num_bytes: int
    """Of the files that will be read."""
    digest: str
    note: str | None = None
    """Message on how it was taken; no part of its identity."""


def listed(
    source: str, repo: str, files: Iterable[FileSnapshot], *, root: str, revision: str | None = None, declared: str | None = None
) -> RepositorySnapshot:
    """Return a repository of these files."""
    ordered = tuple(sorted(files, key=lambda file: (file.path, file.local)))
    identity = ((file.path, str(file.size), file.blob, file.reason, file.detail) for file in ordered)
    digest = hash_of(source, repo, revision, declared, *chain.from_iterable(identity)).hex()
    num_bytes = sum(file.size for file in ordered if file.blob is not None)
    return RepositorySnapshot(source, repo, revision, declared, root, ordered, num_bytes, digest)


def read_listed(unit: RepositorySnapshot, max_file_bytes: int) -> Iterator[Batch]:
    """Yield the files of a listed repository, each checked against its hash.

    Raises:
        SourceError: a file is not what it was when it was listed.
    """
    files = Collector(unit.source, unit.repo, revision=unit.revision, declared_license=unit.declared_license)
    for file in unit.files:
        if file.blob is None:
            files.leave_out(file.path, file.size, file.reason or "unread", detail=file.detail)
        elif file.size > max_file_bytes:
            files.leave_out(file.path, file.size, "too-large", value=file.size, threshold=max_file_bytes)
        else:
            files.add(file.path, _verified_content(unit.root, file), file.blob)
        if files.is_full:
            yield files.batch()
    yield files.batch()


def _verified_content(root: str, file: FileSnapshot) -> bytes:
    full = os.path.join(root, file.local)
    hint = "run again: the plan will see the file as it is now"
    try:
        with open(full, "rb", buffering=0) as stream:
            content = stream.readall()
    except OSError as error:
        raise SourceError(f"{full} could be read when the run was planned, and now: {error.strerror}", hint) from error
    if blob_id(content) != file.blob:
        raise SourceError(f"{full} changed while it was being read", hint)
    return content


def check_folder(path: str, hint: str) -> None:
    """Raise a SourceError unless there is a folder."""
    if not os.path.isdir(path):
        raise SourceError(f"the source folder {path} does not exist" if not os.path.exists(path) else f"{path} is not a folder", hint)


def listed_file(path: str, local: str, full: str, status: os.stat_result, cache: Cache) -> FileSnapshot:
    """Return a regular file: its blob hash, from the cache if it was not touched since."""
    if not may_tell_language(path):
        return FileSnapshot(path, local, status.st_size, None, "unknown-language")
    try:
        fact = cached(full, status, cache) or remember(full, status, _hash_file(full, status.st_size), cache)
    except OSError as error:
        return FileSnapshot(path, local, status.st_size, None, "unreadable", error.strerror)
    return FileSnapshot(path, local, status.st_size, fact)


def cached(full: str, status: os.stat_result, cache: Cache) -> Any:
    """Return what the cache knows of a file that was not touched since; None if nothing."""
    entry = cache.get(full)
    same = entry is not None and entry[:4] == [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return entry[4] if entry is not None and same else None


def remember(full: str, status: os.stat_result, fact: Any, cache: Cache) -> Any:
    """Put a fact about a file into the cache, unless the file may change within the clock's grain; returns the fact."""
    if status.st_mtime_ns < time.time_ns() - _RACY_NS:
        cache[full] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, fact]
    else:
        cache.pop(full, None)
    return fact


def _hash_file(full: str, size: int) -> str:
    """Return Git's blob hash of a file of any size."""
    state = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(full, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def skipped_entry(entry: os.DirEntry[str], above: str, reason: str) -> FileSnapshot:
    """Return an entry of a folder as a file that is not read."""
    name = above + entry.name
    return FileSnapshot(as_text(name), name, entry.stat(follow_symlinks=False).st_size, None, reason)


def as_text(name: str) -> str:
    """Return a file name as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
