"""Snapshots of source repositories on this machine, without reading unchanged files again.

A snapshot lists each repository's files with their git blob hashes; it is the identity of what `ingest` will read. Like
git's index, a cache of (size, times, inode) spares reading files that have not been touched; a file touched within the
last two seconds is not trusted to the cache, as it may change again within the clock's grain ("racy git").
Guarantee: nothing in a snapshot but `root` and `local` depends on where the folder lies; a file that cannot be used is
listed with the reason. Cost: one `stat` a file when nothing changed, one read a file otherwise.
"""

import csv
import hashlib
import os
import re
import stat
import sysconfig
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

from starloom.tasks.kernels.sources.languages import classify, may_tell_language

Cache = dict[str, list[Any]]
"""Local path → [size, mtime_ns, ctime_ns, inode, fact], where the fact is the file's blob hash (for a RECORD: the bytes of
known languages that it lists)."""

Holds = Literal["auto", "repositories", "repository"]
"""The kind of a folder: one of repositories, or a repository itself."""

_RACY_NS = 2_000_000_000
_CHUNK_BYTES = 1 << 20
_SHORT_LICENSE = 100
_LONG_LICENSE = 1000
_NO_LICENSE = frozenset({"", "unknown", "none", "dual license", "other", "see license", "see license file"})
_BUILD_FILES = frozenset(
    {
        *("pyproject.toml", "setup.py", "setup.cfg", "package.json", "Cargo.toml", "go.mod", "pom.xml", "build.gradle", "build.gradle.kts"),
        *(
            "CMakeLists.txt",
            "Makefile",
            "meson.build",
            "configure.ac",
            "composer.json",
            "Gemfile",
            "Package.swift",
            "mix.exs",
            "stack.yaml",
        ),
    }
)
"""Build files: a folder that has one is a repository."""
_USUAL_IN_A_REPOSITORY = re.compile(r"li[cs]en[cs]e|copying|readme", re.IGNORECASE)
_DIST_INFO_LICENSE = re.compile(r"li[cs]en[cs]e|copying|copyright|notice", re.IGNORECASE)


class SourceError(Exception):
    """A source that cannot be read; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


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


def python_environment(
    prefix: str | None, cache: Cache, *, source: str, sample_bytes: int | None, exclude: Collection[str], seed: int
) -> list[RepositorySnapshot]:
    """Take each distribution installed in a site-packages folder as a repository.

    A distribution that came from a folder or an address (its `direct_url.json` says so) is not taken but listed, with one
    file "." that is skipped. What the installer writes (RECORD, entry points, caches, scripts, the other metadata) is not
    of the repository; licence files of the metadata are, at the path that they had in the source.

    Args:
        prefix: the folder; None: that of this interpreter.
        cache: brought up to date.
        source: what to call it.
        sample_bytes: take distributions in the order of a hash of (seed, name), each that still fits; None: all.
        exclude: names of distributions to leave out.
        seed: of the sample.

    Raises:
        SourceError: there is no such folder, or no distribution in it.
    """
    folder = prefix or sysconfig.get_paths()["purelib"]
    _check_folder(folder, "give the site-packages folder of a Python environment as `prefix`")
    excluded = {_normalised(name) for name in exclude}
    found = sorted(_distributions(folder))
    if not found:
        raise SourceError(f"no distribution is installed in {folder}", "give a folder with *.dist-info folders as `prefix`")
    chosen = [distribution for distribution in found if distribution.name not in excluded]
    if sample_bytes is not None:
        chosen = _sample(chosen, sample_bytes, seed, cache)
    return [_distribution_snapshot(distribution, source, cache) for distribution in chosen]


def directory(path: str, cache: Cache, *, source: str, holds: Holds = "auto") -> list[RepositorySnapshot]:
    """Take each child folder as a repository, or the folder itself; files beside child folders are listed under "." and skipped.

    Args:
        path: the folder.
        cache: brought up to date.
        source: what to call it.
        holds: which of the two; `auto` looks at what lies there, and notes why it takes the folder itself.

    Raises:
        SourceError: there is no such folder.
    """
    _check_folder(path, "give one repository, or a folder whose child folders are repositories, as `path`")
    children = sorted(os.scandir(path), key=lambda entry: entry.name)
    sign = _sign_of_one(children) if holds == "auto" else None
    if sign or holds == "repository":
        name = _text(os.path.basename(os.path.abspath(path))) or source
        note = f"the source {source} is taken as one repository, {name}: {sign or 'holds says so'}"
        return [replace(_folder_snapshot(path, name, source, cache), note=note if sign else None)]
    folders = [entry for entry in children if entry.is_dir(follow_symlinks=False) and not _is_left_out(entry)]
    snapshots = [_folder_snapshot(entry.path, _text(entry.name), source, cache) for entry in folders]
    loose = [_skipped(entry, "", "outside-repository") for entry in children if entry.is_symlink() or not entry.is_dir()]
    if loose:
        snapshots.insert(0, _snapshot(source, ".", loose, root=path))
    return snapshots


def _sign_of_one(children: list[os.DirEntry[str]]) -> str | None:
    """Return why a folder is itself a repository, and not one of repositories; None if it is one of those."""
    folders = [set(_names(entry.path)) for entry in children if entry.is_dir(follow_symlinks=False) and entry.name != ".git"]
    names = {entry.name for entry in children}
    if ".git" in names:
        return "it has .git"
    built = sorted(names & _BUILD_FILES)
    if any(".git" in inside for inside in folders):
        return None
    if built:
        return f"it has {built[0]}"
    if any(inside & _BUILD_FILES or any(map(_USUAL_IN_A_REPOSITORY.match, inside)) for inside in folders):
        return None
    files = [_text(entry.name) for entry in children if entry.is_file(follow_symlinks=False) and classify(_text(entry.name))]
    return f"it has files, such as {files[0]}, and no repository below it" if files else None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it will be listed as unreadable
        return []


def partition(snapshots: Iterable[RepositorySnapshot], part_bytes: int) -> list[list[RepositorySnapshot]]:
    """Partition repositories into parts: a part is a prefix of the hash of (source, name); one over the limit splits in two.

    A pure function of the set: adding a repository changes only the part that it falls into. A repository is never cut,
    so one that is over the limit by itself is a part by itself.
    """
    keyed = sorted(((_hash_of(s.source, s.repo), s) for s in snapshots), key=lambda pair: (pair[0], pair[1].revision or ""))
    return list(_split(keyed, 0, part_bytes)) if keyed else []


def document_id(source: str, repo: str, revision: str | None, path: str) -> str:
    """Return the first 128 bits of the SHA-256 of the four, in hex."""
    return _hash_of(source, repo, revision, path).hex()[:32]


def blob_id(content: bytes) -> str:
    """Return Git's hash of a file with this content."""
    state = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    state.update(content)
    return state.hexdigest()


def _split(keyed: Sequence[tuple[bytes, RepositorySnapshot]], depth: int, part_bytes: int) -> Iterator[list[RepositorySnapshot]]:
    """Return parts of repositories that share the first `depth` bits of their hash."""
    if sum(s.num_bytes for _, s in keyed) <= part_bytes or keyed[0][0] == keyed[-1][0]:
        yield [snapshot for _, snapshot in keyed]
        return
    ones = [pair for pair in keyed if pair[0][depth // 8] >> (7 - depth % 8) & 1]
    for half in (keyed[: len(keyed) - len(ones)], ones):
        if half:
            yield from _split(half, depth + 1, part_bytes)


def _hash_of(*fields: str | None) -> bytes:
    """Return the SHA-256 of fields, each with its length in front, so that no two lists of fields are written alike."""
    encoded = (None if field is None else field.encode() for field in fields)
    return hashlib.sha256(b"".join(b"-1:" if field is None else b"%d:%b" % (len(field), field) for field in encoded)).digest()


def _snapshot(
    source: str, repo: str, files: Iterable[FileSnapshot], *, root: str, revision: str | None = None, declared: str | None = None
) -> RepositorySnapshot:
    ordered = tuple(sorted(files, key=lambda file: (file.path, file.local)))
    identity = ((file.path, str(file.size), file.blob, file.reason, file.detail) for file in ordered)
    digest = _hash_of(source, repo, revision, declared, *chain.from_iterable(identity)).hex()
    num_bytes = sum(file.size for file in ordered if file.blob is not None)
    return RepositorySnapshot(source, repo, revision, declared, root, ordered, num_bytes, digest)


def _check_folder(path: str, hint: str) -> None:
    if not os.path.isdir(path):
        raise SourceError(f"the source folder {path} does not exist" if not os.path.exists(path) else f"{path} is not a folder", hint)


# ---- a file


def _file(path: str, local: str, full: str, status: os.stat_result, cache: Cache) -> FileSnapshot:
    """Return a regular file: its blob hash, from the cache if it was not touched since."""
    if not may_tell_language(path):
        return FileSnapshot(path, local, status.st_size, None, "unknown-language")
    try:
        fact = _cached(full, status, cache) or _remember(full, status, _hash_file(full, status.st_size), cache)
    except OSError as error:
        return FileSnapshot(path, local, status.st_size, None, "unreadable", error.strerror)
    return FileSnapshot(path, local, status.st_size, fact)


def _cached(full: str, status: os.stat_result, cache: Cache) -> Any:
    entry = cache.get(full)
    same = entry is not None and entry[:4] == [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return entry[4] if entry is not None and same else None


def _remember(full: str, status: os.stat_result, fact: Any, cache: Cache) -> Any:
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


def _skipped(entry: os.DirEntry[str], above: str, reason: str) -> FileSnapshot:
    name = above + entry.name
    return FileSnapshot(_text(name), name, entry.stat(follow_symlinks=False).st_size, None, reason)


def _text(name: str) -> str:
    """Return a file name as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# ---- a folder

_STORE, _STORE_BYTES = re.compile(rb'\{"format": \d+\}'), 64
"""What stands in a store's store.json (`starloom.lineage.store`), and more than it ever takes."""


def _folder_snapshot(root: str, repo: str, source: str, cache: Cache) -> RepositorySnapshot:
    return _snapshot(source, repo, _walk(root, "", cache), root=root, revision=_git_commit(root))


def _walk(root: str, above: str, cache: Cache) -> Iterator[FileSnapshot]:
    """Yield all files under `root/above`, but those of folders that are left out; nothing is followed out of the folder."""
    try:
        entries = list(os.scandir(os.path.join(root, above)))
    except OSError as error:
        yield FileSnapshot(_text(above.rstrip("/")) or ".", above, 0, None, "unreadable", error.strerror)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not _is_left_out(entry):
                yield from _walk(root, f"{above}{entry.name}/", cache)
        elif entry.name != ".git":
            try:
                yield _skipped(entry, above, "symlink") if entry.is_symlink() else _walked_file(entry, above, cache)
            except OSError as error:  # gone since the folder was listed
                yield FileSnapshot(_text(above + entry.name), above + entry.name, 0, None, "unreadable", error.strerror)


def _is_left_out(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder is Git's own, Python's cache, or a store of ours, which grows while it is read."""
    if folder.name in (".git", "__pycache__"):
        return True
    try:
        with open(os.path.join(folder.path, "store.json"), "rb") as file:
            return _STORE.fullmatch(file.read(_STORE_BYTES)) is not None
    except OSError:  # it has none, or cannot be read and will be listed as such
        return False


def _walked_file(entry: os.DirEntry[str], above: str, cache: Cache) -> FileSnapshot:
    status = entry.stat(follow_symlinks=False)
    path = above + entry.name
    if not stat.S_ISREG(status.st_mode):
        return _skipped(entry, above, "not-a-regular-file")
    if _text(path) != path:
        return _skipped(entry, above, "undecodable-path")
    return _file(path, path, entry.path, status, cache)


def _git_commit(root: str) -> str | None:
    """Return the commit that a work tree stands at, read from git's own files; None where there is none."""
    git = os.path.join(root, ".git")
    try:
        if os.path.isfile(git):  # a linked work tree or a submodule
            git = os.path.join(root, _read(git).removeprefix("gitdir:").strip())
        head = _read(os.path.join(git, "HEAD")).strip()
        if not head.startswith("ref:"):
            return _commit(head)
        shared = os.path.join(git, "commondir")
        common = os.path.join(git, _read(shared).strip()) if os.path.exists(shared) else git
        return _commit(_resolve(common, head.removeprefix("ref:").strip()))
    except (OSError, ValueError):  # nothing there, not ours to read, or no text of git's: all the same, no commit is known
        return None


def _resolve(git: str, ref: str) -> str:
    loose = os.path.join(git, ref)
    if os.path.isfile(loose):
        return _read(loose).strip()
    lines = (line.split() for line in _read(os.path.join(git, "packed-refs")).splitlines())
    return next((fields[0] for fields in lines if fields[1:] == [ref]), "")


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


# ---- an installed distribution


class _Distribution(NamedTuple):
    name: str
    version: str
    folder: str
    dist_info: str

    def metadata(self, name: str) -> str:
        return os.path.join(self.folder, self.dist_info, name)


def _distributions(folder: str) -> Iterator[_Distribution]:
    for entry in os.scandir(folder):
        stem, ending = os.path.splitext(entry.name)
        name, dash, version = stem.rpartition("-")
        if ending == ".dist-info" and dash and entry.is_dir():
            yield _Distribution(_normalised(name), version, folder, entry.name)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sample(found: list[_Distribution], sample_bytes: int, seed: int, cache: Cache) -> list[_Distribution]:
    """Sample distributions in the order of a hash of (seed, name), each that still fits into `sample_bytes`."""
    chosen, left = [], sample_bytes
    for distribution in sorted(found, key=lambda d: _hash_of(str(seed), d.name)):
        size = 0 if os.path.exists(distribution.metadata("direct_url.json")) else _declared_bytes(distribution, cache)
        if size <= left:
            chosen.append(distribution)
            left -= size
    return sorted(chosen)


def _declared_bytes(distribution: _Distribution, cache: Cache) -> int:
    """Return the bytes of files with a known language, as RECORD declares them: no file is touched."""
    record = distribution.metadata("RECORD")
    try:
        status = os.stat(record)
    except FileNotFoundError:
        return 0
    fact = _cached(record, status, cache)
    if fact is None:
        sizes = (int(size) if size.isdecimal() else 0 for path, _, size in _records(distribution) if classify(path) is not None)
        fact = _remember(record, status, sum(sizes), cache)
    return int(fact)


def _records(distribution: _Distribution) -> Iterator[tuple[str, str, str]]:
    """Yield (path in the repository, local path, declared size) of the files that are the repository's own."""
    with open(distribution.metadata("RECORD"), encoding="utf-8", errors="surrogateescape", newline="") as stream:
        for row in filter(None, csv.reader(stream)):
            local, size = row[0], row[2] if len(row) > 2 else ""  # noqa: PLR2004 - path, hash, size
            path = _repository_path(local, distribution.dist_info)
            if path is not None:
                yield path, local, size


def _repository_path(local: str, dist_info: str) -> str | None:
    """Return the path of a file of RECORD in its repository; None for what the installer wrote or put elsewhere."""
    if local.startswith(dist_info + "/"):
        inner = local[len(dist_info) + 1 :]
        if inner.startswith(("licenses/", "license_files/")):  # PEP 639: below it, paths are those of the source
            return inner.partition("/")[2]
        return inner if "/" not in inner and _DIST_INFO_LICENSE.match(inner) else None
    parts = local.split("/")
    outside = local.startswith("/") or ".." in parts
    return None if outside or "__pycache__" in parts or local.endswith(".pyc") else local


def _distribution_snapshot(distribution: _Distribution, source: str, cache: Cache) -> RepositorySnapshot:
    if os.path.exists(distribution.metadata("direct_url.json")):
        return _left_out(distribution, source, "direct-url", "installed from a folder or an address, not from an index")
    if not os.path.exists(distribution.metadata("RECORD")):
        return _left_out(distribution, source, "no-record", "without RECORD its files are unknown")
    files: dict[str, FileSnapshot] = {}
    repeated = []
    # Its own files first: a licence of the metadata may be a copy of one that lies in the package at the same path.
    for path, local, _ in sorted(_records(distribution), key=lambda row: (row[1].startswith(distribution.dist_info), row)):
        if path in files:
            repeated.append(FileSnapshot(_text(path), local, files[path].size, None, "repeated-path", local))
        else:
            files[path] = _recorded_file(path, local, distribution.folder, cache)
    return _snapshot(
        source,
        distribution.name,
        [*files.values(), *repeated],
        root=distribution.folder,
        revision=distribution.version,
        declared=_declared_license(distribution),
    )


def _left_out(distribution: _Distribution, source: str, reason: str, detail: str) -> RepositorySnapshot:
    """Return a distribution that is not read, as a skipped file. Without its version: our own changes with every release."""
    file = FileSnapshot(".", "", 0, None, reason, detail)
    return _snapshot(source, distribution.name, [file], root=distribution.folder)


def _recorded_file(path: str, local: str, folder: str, cache: Cache) -> FileSnapshot:
    full = os.path.join(folder, local)
    try:
        status = os.stat(full)
    except OSError as error:
        return FileSnapshot(_text(path), local, 0, None, "unreadable", error.strerror)
    if not stat.S_ISREG(status.st_mode):
        return FileSnapshot(_text(path), local, status.st_size, None, "not-a-regular-file")
    if _text(path) != path:
        return FileSnapshot(_text(path), local, status.st_size, None, "undecodable-path")
    return _file(path, local, full, status, cache)


def _declared_license(distribution: _Distribution) -> str | None:
    """Return License-Expression, else License if it is an answer and short, else the classifiers, joined by "; ".

    Without any of these, the beginning of a long License: some paste the whole text there, and it may be the GPL's.
    """
    fields = list(_metadata_fields(distribution))
    expression = next((value for name, value in fields if name == "license-expression"), None)
    if expression:
        return expression
    free = next((value.strip() for name, value in fields if name == "license"), "")
    if "\n" not in free and len(free) <= _SHORT_LICENSE and free.lower() not in _NO_LICENSE:
        return free
    classifiers = "; ".join(value for name, value in fields if name == "classifier" and value.startswith("License ::"))
    pasted = " ".join(free.split())[:_LONG_LICENSE] if free.lower() not in _NO_LICENSE else ""
    return classifiers or pasted or None


def _metadata_fields(distribution: _Distribution) -> Iterator[tuple[str, str]]:
    """Return header fields of METADATA, names in lower case, continued lines joined by line feeds."""
    try:
        with open(distribution.metadata("METADATA"), encoding="utf-8", errors="replace") as stream:
            header = stream.read().partition("\n\n")[0]
    except FileNotFoundError:
        return
    for field in re.split(r"\n(?=\S)", header):
        name, _, value = field.partition(":")
        yield name.lower(), value.strip()
