"""A stage by itself on a Parquet file: no store, no recipe, no orchestrator."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from starloom.lineage import keys, parquet
from starloom.lineage.errors import CorruptError, InputError
from starloom.lineage.views import Files, PartSource, Stored, Tabular
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.work import sealed_tables
from starloom.tasks.schemas import ONE_ROW_A_DOCUMENT, Docs, Record, Repositories

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from starloom.tasks.frame.stage import Config, Stage


def run_alone(stage: Stage, config: Config, given: dict[str, Path], out: Path) -> tuple[dict[str, Any], list[str]]:
    """Run a stage on files and write what it makes below `out`; all of it or nothing.

    Args:
        stage: the stage; its first half runs with it.
        config: its knobs.
        given: parameter → Parquet file, or folder for what is a folder.
        out: a folder that does not exist or is empty.

    Returns:
        File name → rows, bytes and counts of it; and what the stage warns of.

    Raises:
        InputError: for an input that cannot be read, or an `out` that holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty", hint="name a new folder: nothing is overwritten")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.parent / f".{out.name}-{uuid.uuid4().hex[:8]}"
    try:
        told = _made(stage, config, given, aside)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return told


def _made(stage: Stage, config: Config, given: dict[str, Path], aside: Path) -> tuple[dict[str, Any], list[str]]:
    runtime = Runtime.alone(aside / "scratch")
    wanted = {name: kind for name, kind in stage.inputs.items() if not _from_half(stage, kind)}
    absent = stage.optional - given.keys()
    inputs = {name: None if name in absent else _opened(kind, given.get(name), aside) for name, kind in wanted.items()}
    if stage.prepare is not None:
        first = stage.prepare
        half = first.function(**{name: inputs[name] for name in first.inputs}, cfg=stage.prepared_config(config), runtime=runtime)
        inputs |= {name: half for name, kind in stage.inputs.items() if kind is type(half)}
    result = stage.function(**inputs, cfg=config, runtime=runtime)
    told: dict[str, Any] = {}
    docs = next((value for value in inputs.values() if isinstance(value, Docs)), None)
    for output in result if isinstance(result, tuple) else (result,):
        told |= _written(stage.name, output, docs, aside)
    for name, file in runtime.shown.items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, aside / name)
        told[name] = {"bytes": file.stat().st_size}
    shutil.rmtree(aside / "scratch")
    return told, runtime.notes.get("warnings", [])


def _written(step: str, output: Tabular | Files, docs: Docs | None, aside: Path) -> dict[str, Any]:
    kind = type(output).__name__.lower()
    if isinstance(output, Files):
        shutil.copytree(output.path, aside / kind)
        return {f"{kind}/{name}": {"bytes": (aside / kind / name).stat().st_size} for name in output.names()}
    told: dict[str, Any] = {}
    tables = list(sealed_tables(step, output, docs))
    for i, (table, counts, _) in enumerate(tables):
        name = f"{kind}.parquet" if len(tables) == 1 else f"{kind}-{i:05}.parquet"
        parquet.write_table(table, aside / name, output.ROWS_PER_GROUP)
        told[name] = {"rows": table.num_rows, "bytes": (aside / name).stat().st_size, **counts}
    return told


def _from_half(stage: Stage, kind: type) -> bool:
    return stage.prepare is not None and kind in stage.prepare.outputs


def _opened(kind: type, path: Path | None, aside: Path) -> Any:
    if kind is Record:
        return Record("alone", ())
    if path is None:
        raise InputError(f"{kind.__name__} is needed", hint=f"give it with --{kind.__name__.lower()} PATH")
    if not path.exists():
        raise InputError(f"there is nothing at {path}", hint="name an existing file or folder")
    if kind is Repositories:
        return _repositories(path)
    if issubclass(kind, Files):
        return kind.of(path)
    try:
        table = parquet.read_table(path)
    except CorruptError as error:
        raise InputError(error.message, hint="name a whole Parquet file") from error
    if kind is Docs:
        full = aside / "scratch" / "docs.parquet"
        parquet.write_table(completed(table, path), full, Docs.ROWS_PER_GROUP)
        return Docs([PartSource(Stored(None, str(full)))])
    assert issubclass(kind, Tabular)
    _conformed(kind, table, path)
    return kind([PartSource(Stored(None, str(path)))])


def _repositories(folder: Path) -> Repositories:
    from starloom.tasks.ingest import Directory, snapshot

    return Repositories(snapshot([Directory(kind="directory", name=folder.name, path=str(folder))], 0, {}))


def completed(table: pa.Table, path: Path) -> pa.Table:
    """`table` with all columns of Docs: what is not there is derived from `content`, or null.

    Raises:
        InputError: if there is no `content`, a column has another type than it should, or a doc_id is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if "content" not in table.column_names:
        raise InputError(
            f"{path} has no column `content`; it has {', '.join(table.column_names[:8])}", hint="rename the column that holds the text"
        )
    rows, made = table.num_rows, {}
    texts = [text.encode() for text in table.column("content").to_pylist()]
    derived: dict[str, Any] = {
        "source": [path.stem] * rows,
        "kind": ["code"] * rows,
        "repo": [path.stem] * rows,
        "path": [f"{i:09}" for i in range(rows)],
        "size": [len(text) for text in texts],
        "swhid": ["swh:1:cnt:" + hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest() for text in texts],
        "doc_id": [keys.digest([path.stem, i])[:32] for i in range(rows)],
        "is_vendor": [False] * rows,
        "is_generated": [False] * rows,
    }
    for field in Docs.SCHEMA:
        if field.name in table.column_names:
            made[field.name] = table.column(field.name)
        else:
            made[field.name] = pa.array(derived.get(field.name, [None] * rows), field.type)
    full = _conformed(Docs, pa.table(made), path)
    ids = full.column("doc_id")
    wrong = ids.filter(pc.invert(pc.match_substring_regex(ids, "^[0-9a-f]{32}$")))
    if len(wrong):
        raise InputError(
            f"{path} has the doc_id {wrong[0].as_py()!r}; a doc_id is 32 hex digits in lower case, by which stages join and sort",
            hint="rename the column or leave it out: ids are then made from the rows' numbers",
        )
    return full


def _conformed(kind: type[Tabular], table: pa.Table, path: Path) -> pa.Table:
    import pyarrow as pa

    try:
        conformed = kind.conform(table)
    except (ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path} does not fit the columns of {kind.__name__}: {error}", hint=f"they are {', '.join(kind.SCHEMA.names)}"
        ) from error
    if kind in ONE_ROW_A_DOCUMENT:
        _each_once(kind, conformed.column("doc_id"), path)
    return conformed


def _each_once(kind: type[Tabular], ids: pa.ChunkedArray, path: Path) -> None:
    import pyarrow.compute as pc

    counted = ids.value_counts()
    if len(counted) < len(ids):
        values, counts = counted.field("values"), counted.field("counts")
        row = pc.index(pc.greater(counts, 1), True).as_py()
        raise InputError(
            f"{path} has {counts[row]} rows of the doc_id {values[row].as_py()!r}; {kind.__name__} has one of each, to join by",
            hint="give each document an id of its own" + (", or leave the column out: ids are then made" if kind is Docs else ""),
        )
