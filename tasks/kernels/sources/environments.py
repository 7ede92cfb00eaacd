"""Distributions installed in a Python environment, each one a repository.

Guarantee: what lies in two environments of the same distributions is listed alike, whatever the installer wrote beside it.
"""

import csv
import os
import re
import stat
import sysconfig
from collections.abc import Collection, Iterator
from typing import NamedTuple

from starloom.tasks.kernels.sources.files import (
    FileSnapshot,
    RepositorySnapshot,
    as_text,
    cached,
    check_folder,
    listed,
    listed_file,
    remember,
)
from starloom.tasks.kernels.sources.languages import classify
from starloom.tasks.kernels.sources.units import Cache, SourceError, hash_of

_SHORT_LICENSE = 100
_LONG_LICENSE = 1000
_NO_LICENSE = frozenset({"", "unknown", "none", "dual license", "other", "see license", "see license file"})
_DIST_INFO_LICENSE = re.compile(r"li[cs]en[cs]e|copying|copyright|notice", re.IGNORECASE)


def list_environment(
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
    check_folder(folder, "give the site-packages folder of a Python environment as `prefix`")
    excluded = {_normalised(name) for name in exclude}
    found = sorted(_distributions(folder))
    if not found:
        raise SourceError(f"no distribution is installed in {folder}", "give a folder with *.dist-info folders as `prefix`")
    chosen = [distribution for distribution in found if distribution.name not in excluded]
    if sample_bytes is not None:
        chosen = _sample(chosen, sample_bytes, seed, cache)
    return [_distribution_snapshot(distribution, source, cache) for distribution in chosen]


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
    for distribution in sorted(found, key=lambda d: hash_of(str(seed), d.name)):
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
    fact = cached(record, status, cache)
    if fact is None:
        sizes = (int(size) if size.isdecimal() else 0 for path, _, size in _records(distribution) if classify(path) is not None)
        fact = remember(record, status, sum(sizes), cache)
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
            repeated.append(FileSnapshot(as_text(path), local, files[path].size, None, "repeated-path", local))
        else:
            files[path] = _recorded_file(path, local, distribution.folder, cache)
    return listed(
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
    return listed(source, distribution.name, [file], root=distribution.folder)


def _recorded_file(path: str, local: str, folder: str, cache: Cache) -> FileSnapshot:
    full = os.path.join(folder, local)
    try:
        status = os.stat(full)
    except OSError as error:
        return FileSnapshot(as_text(path), local, 0, None, "unreadable", error.strerror)
    if not stat.S_ISREG(status.st_mode):
        return FileSnapshot(as_text(path), local, status.st_size, None, "not-a-regular-file")
    if as_text(path) != path:
        return FileSnapshot(as_text(path), local, status.st_size, None, "undecodable-path")
    return listed_file(path, local, full, status, cache)


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
