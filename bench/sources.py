"""Sources: a Git repository and the same files as a folder into tables of documents, beside `git archive` and `git cat-file`.

Run on one core (`taskset -c 0`) for MB/s a core: the peers are two processes each.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

from starloom.bench._tool import Corpus, Tool

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "a repository into documents, from its object database and from its files"


def _committed(corpus: Corpus, folder: Path) -> Path:
    """Return a folder whose only child is a work tree with the corpus in one commit, packed."""
    root = folder / "all" / "repository"
    for row in corpus.table.select(["repo", "path", "content"]).to_pylist():
        file = root / row["repo"] / row["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["content"].encode())
    for words in (["init", "-q"], ["add", "-f", "."], ["commit", "-qm", "all"], ["gc", "-q"]):
        _run(root, *words)
    return root


def _run(root: Path, *words: str, given: bytes | None = None) -> bytes:
    argv = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false", *words]
    return subprocess.run(argv, cwd=root, input=given, capture_output=True, check=True).stdout  # noqa: S603 - fixed words


def _ours(source: dict[str, Any], folder: Path) -> object:
    """Run the snapshot with an empty cache, then the stage."""
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.ingest import Ingest, ingest, snapshot
    from starloom.tasks.schemas import Repositories

    config = Ingest.model_validate({"sources": [source]})
    return ingest.function(Repositories(snapshot(config.sources, 0, {})), config, Runtime(folder))


def _git(root: Path) -> object:
    return _ours({"kind": "git", "repositories": [str(root)]}, root)


def _folder(root: Path) -> object:
    return _ours({"kind": "directory", "path": str(root.parent)}, root)


def _archive(root: Path) -> object:
    """Read what `git archive` writes: no hash is checked, nothing decided."""
    import pyarrow as pa

    with tarfile.open(fileobj=io.BytesIO(_run(root, "archive", "HEAD"))) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
        rows = [{"path": name, "content": stream.read().decode()} for name, stream in files if stream is not None]
    return pa.Table.from_pylist(rows)


def _cat_file(root: Path) -> object:
    """Read what `git cat-file --batch` writes for all files of the commit."""
    import pyarrow as pa

    listed = [line.split(None, 3) for line in _run(root, "ls-tree", "-rz", "HEAD").split(b"\0") if line]
    data, start, rows = _run(root, "cat-file", "--batch", given=b"\n".join(blob for _, _, blob, _ in listed) + b"\n"), 0, []
    for _, _, _, path in listed:
        end = data.index(b"\n", start)
        size = int(data[start:end].split()[2])
        rows.append({"path": path.decode(), "content": data[end + 1 : end + 1 + size].decode()})
        start = end + 2 + size
    return pa.Table.from_pylist(rows)


TOOLS = [
    Tool("starloom, git", _git, is_ours=True, prepare=_committed),
    Tool("starloom, directory", _folder, prepare=_committed),
    Tool("git archive, read as tar", _archive, prepare=_committed),
    Tool("git cat-file --batch", _cat_file, prepare=_committed),
]
