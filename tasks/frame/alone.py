"""Running one stage on a Parquet file: no store, no recipe, no orchestrator."""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING, Any

from starloom.lineage import parquet
from starloom.lineage.errors import CorruptError, InputError
from starloom.lineage.views import Files, PartSource, Stored, Tabular
from starloom.tasks.frame.given import given_documents, given_folder, given_rows
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.work import sealed_tables
from starloom.tasks.schemas import Docs, Record, Repositories, Skipped

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
        File name → rows, bytes and counts of it (`skipped.parquet` holds the rows given that are no documents); what the stage warns of.

    Raises:
        InputError: for an input that cannot be read, or an `out` that is not empty.
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
    told: dict[str, Any] = {}
    inputs = {name: None if name in absent else _opened(kind, given.get(name), aside, told) for name, kind in wanted.items()}
    if stage.prepare is not None:
        first = stage.prepare
        half = first.function(**{name: inputs[name] for name in first.inputs}, cfg=stage.prepared_config(config), runtime=runtime)
        inputs |= {name: half for name, kind in stage.inputs.items() if kind is type(half)}
    result = stage.function(**inputs, cfg=config, runtime=runtime)
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


def _opened(kind: type, path: Path | None, aside: Path, told: dict[str, Any]) -> Any:
    if kind is Record:
        return Record("alone", ())
    if path is None:
        raise InputError(f"{kind.__name__} is needed", hint=f"give it with --{kind.__name__.lower()} PATH")
    if not path.exists():
        raise InputError(f"there is nothing at {path}", hint="name an existing file or folder")
    if kind is Repositories:
        return _repositories(path)
    if issubclass(kind, Files):
        return given_folder(kind, path)
    try:
        table = parquet.read_table(path)
    except CorruptError as error:
        raise InputError(error.message, hint="name a whole Parquet file") from error
    assert issubclass(kind, Tabular)
    if kind is Docs:
        fit, skipped = given_documents(table, path)
        if skipped.num_rows:
            told |= _kept_aside(skipped, table.num_rows, aside)
    else:
        fit = given_rows(kind, table, path)
        if fit.schema.equals(table.schema):
            return kind([PartSource(Stored(None, str(path)))])
    file = aside / "scratch" / f"given-{kind.__name__.lower()}.parquet"
    parquet.write_table(fit, file, kind.ROWS_PER_GROUP)
    return kind([PartSource(Stored(None, str(file)))])


def _kept_aside(skipped: pa.Table, num_rows: int, aside: Path) -> dict[str, Any]:
    """Write the rejected rows, each with its reason, beside the output of the stage."""
    name = f"{Skipped.__name__.lower()}.parquet"
    parquet.write_table(skipped, aside / name, Skipped.ROWS_PER_GROUP)
    rules = {pair["values"]: pair["counts"] for pair in skipped.column("rule").value_counts().to_pylist()}
    counts = {"seen": num_rows, "kept": num_rows - skipped.num_rows, "dropped": skipped.num_rows, "rules": dict(sorted(rules.items()))}
    return {name: {"rows": skipped.num_rows, "bytes": (aside / name).stat().st_size, **counts}}


def _repositories(folder: Path) -> Repositories:
    from starloom.tasks.ingest import Directory, snapshot

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="name a folder whose child folders are repositories")
    name = folder.resolve().name or "root"
    return Repositories(snapshot([Directory(kind="directory", name=name, path=str(folder))], 0, {}))
