"""Ingest: a folder of repositories into a table of documents, against a loop that reads files and against git's hashing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.bench._tool import Corpus, Tool

if TYPE_CHECKING:
    from starloom.tasks.kernels.sources.units import Cache

TITLE = "ingest of a folder of repositories"
OLD = 1_600_000_000

_folders: dict[int, tempfile.TemporaryDirectory[str]] = {}
_caches: dict[int, Cache] = {}


def _folder(corpus: Corpus) -> Path:
    """Return the corpus as files, written by the first round; the best round finds them there."""
    if corpus.num_bytes not in _folders:
        _folders[corpus.num_bytes] = tempfile.TemporaryDirectory()
        root = Path(_folders[corpus.num_bytes].name)
        for row in corpus.table.select(["repo", "path", "content"]).to_pylist():
            file = root / row["repo"] / row["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(row["content"].encode())
            os.utime(file, (OLD, OLD))  # a cache does not trust files of this second
    return Path(_folders[corpus.num_bytes].name)


def _ours(corpus: Corpus) -> object:
    """Run the snapshot with an empty cache (reads and hashes all), then the stage (reads, verifies, decides)."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.ingest import Directory, Ingest, ingest, snapshot
    from starloom.tasks.schemas import Repositories

    config = Ingest(sources=[Directory(kind="directory", path=str(_folder(corpus)))])
    found = snapshot(config.sources, 0, {})
    return ingest.function(Repositories(found), config, Runtime(Path()))


def _snapshot_again(corpus: Corpus) -> object:
    """Measure the cost of each further plan: nothing changed, so only file metadata is read."""
    from starloom.tasks.ingest import Directory, snapshot

    cache = _caches.setdefault(corpus.num_bytes, {})
    return snapshot([Directory(kind="directory", path=str(_folder(corpus)))], 0, cache)


def _loop(corpus: Corpus) -> object:
    """Read, hash once, decode, and make a table: no verification, no decision."""
    import pyarrow as pa

    root = _folder(corpus)
    rows = []
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder, name)
            data = file.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            rows.append({"path": str(file.relative_to(root)), "blob": blob, "content": data.decode()})
    return pa.Table.from_pylist(rows)


def _git(corpus: Corpus) -> object:
    """Run `git hash-object` over the same files: reading and hashing only."""
    root = _folder(corpus)
    paths = "\n".join(str(Path(folder, name)) for folder, _, names in os.walk(root) for name in names)
    argv = ["git", "hash-object", "--no-filters", "--stdin-paths"]
    return subprocess.run(argv, input=paths, capture_output=True, text=True, check=True).stdout  # noqa: S603 - fixed words


TOOLS = [
    Tool("starloom", _ours, is_ours=True),
    Tool("starloom, snapshot again", _snapshot_again),
    Tool("a loop over files", _loop),
    Tool("git hash-object", _git),
]
