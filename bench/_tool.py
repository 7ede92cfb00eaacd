"""What a bench module declares, and the corpus that every tool is given.

A bench module imports no heavy library at top: `python -m starloom.bench --list` imports them all, and what a tool imports
inside its `run` counts to its own memory only.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from starloom.lineage.errors import InputError
from starloom.tasks.schemas import Docs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starloom.bench._peer import Environment

BYTES_PER_MB = 1_000_000
WARM_UP_DOCUMENTS = 64
MAX_FILE_BYTES = 1 << 20
LANGUAGES = {
    ".py": "Python", ".pyi": "Python", ".pyx": "Cython", ".c": "C", ".h": "C", ".cpp": "C++", ".hpp": "C++", ".js": "JavaScript",
    ".ts": "TypeScript", ".css": "CSS", ".html": "HTML", ".sh": "Shell", ".json": "JSON", ".toml": "TOML", ".yaml": "YAML",
    ".yml": "YAML", ".md": "Markdown", ".rst": "reStructuredText", ".txt": "Text",
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """One implementation of the work: ours, or a peer's."""

    name: str
    run: Callable[[Any], object]
    """Does the whole work on the corpus, or on what `prepare` made of it; called once on a small slice to warm up, then timed.
    What it returns is forgotten, except `Dropped`."""
    is_ours: bool = False
    requires: tuple[str, ...] = ()
    """Distributions that it needs and that may be missing; the extra `bench` brings them."""
    prepare: Callable[[Corpus, Path], Any] | None = None
    """Makes what `run` is given, with files below a folder of its own; not timed."""
    environment: Environment | None = None
    """Where it is installed if it cannot be beside ours; `--install` builds it."""


@dataclass(frozen=True)
class Dropped:
    """The decision of a tool that deduplicates."""

    doc_ids: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Documents to work on, as a table with the columns of Docs and as plain strings."""

    table: pa.Table

    @cached_property
    def texts(self) -> list[str]:
        """The contents as Python strings, made on first use: a tool that works on arrays does not pay for them."""
        texts: list[str] = self.table.column("content").to_pylist()
        return texts

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all contents."""
        return int(pc.sum(pc.binary_length(self.table.column("content")), min_count=0).as_py())

    def warm_up(self) -> Corpus:
        """Return the first few documents: enough to import and to compile."""
        return Corpus(self.table.slice(0, WARM_UP_DOCUMENTS))


def read_corpus(path: Path, max_bytes: int | None = None) -> Corpus:
    """Read documents of a Parquet file with the columns of Docs: the first ones, up to `max_bytes` of content.

    Raises:
        InputError: if the file cannot be read, has other columns, or holds no document.
    """
    hint = "give a part of Docs, e.g. from `starloom export Docs`, or leave --corpus out"
    try:
        table = Docs.conform(pq.read_table(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is no file of documents: {str(error).splitlines()[0]}", hint=hint) from error
    if max_bytes is not None:
        ends = pc.cumulative_sum(pc.cast(pc.binary_length(table.column("content")), pa.int64()))
        table = table.slice(0, max(1, pc.sum(pc.less_equal(ends, max_bytes), min_count=0).as_py()))
    if not table.num_rows:
        raise InputError(f"{path} holds no document", hint=hint)
    return Corpus(table)


def environment_corpus(max_bytes: int) -> Corpus:
    """Read source files of the standard library and of site-packages: at least the first `max_bytes` of content.

    The same environment gives the same corpus: files are drawn in the order of the hash of their path, so that all
    packages have their share, and listed in the order of their path.
    """
    rows, num_bytes = [], 0
    for root, path in _source_files():
        content = _text(root / path)
        if content is not None:
            rows.append(_document(path, content))
            num_bytes += rows[-1]["size"]
        if num_bytes >= max_bytes:
            break
    rows.sort(key=lambda row: (row["repo"], row["path"]))
    return Corpus(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))


def _source_files() -> list[tuple[Path, str]]:
    """Return (root, relative path) of every candidate, in the order of the hash of the path."""
    roots = dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))
    found: dict[str, Path] = {}
    for root in roots:
        for path in _below(root):
            found.setdefault(path, root)
    return [(found[path], path) for path in sorted(found, key=lambda path: hashlib.sha256(path.encode()).digest())]


def _below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ("__pycache__", "site-packages", "dist-packages")]
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files if Path(name).suffix in LANGUAGES)


def _text(path: Path) -> str | None:
    """Return the file's text; None for a file that no corpus would hold: huge, empty, unreadable or not UTF-8."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8") if 0 < len(data) <= MAX_FILE_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


def _document(path: str, content: str) -> dict[str, Any]:
    data = content.encode("utf-8")
    repo, _, _ = path.partition("/")
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return {
        "doc_id": hashlib.sha256(path.encode()).hexdigest()[:32],
        "source": "environment",
        "kind": "code",
        "repo": repo,
        "path": path,
        "language": LANGUAGES[Path(path).suffix],
        "content": content,
        "size": len(data),
        "swhid": f"swh:1:cnt:{blob}",
        "is_vendor": False,
        "is_generated": False,
        "is_documentation": False,
    }
