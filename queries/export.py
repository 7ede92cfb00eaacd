"""Export of an artifact from the store, for other tools: Parquet, JSON lines, or plain files.

The output folder appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from starloom.lineage import parquet
from starloom.lineage.errors import InputError, did_you_mean
from starloom.lineage.reach import part_name
from starloom.lineage.store import object_name
from starloom.lineage.views import PartSource, Stored
from starloom.queries.fates import input_of
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starloom.lineage.records import Artifact, Part, StepState
    from starloom.lineage.store import Store

FORMATS = ("parquet", "jsonl")
FIRST = ("Docs", "Checkpoint")
"""The default output of a step that wrote several, in order of preference."""
_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Exported:
    """The artifact to export, and the verdicts that select its rows."""

    type: str
    artifact: str
    verdicts: str | None = None


def resolve(store: Store, name: str) -> Exported:
    """Return the artifact named by a hash prefix, RUN/STEP or RUN/STEP/TYPE.

    A step with several outputs gives, unless told, the first of `FIRST` (of a filter: the documents it kept) and its own first one.

    Raises:
        InputError: if there is none, or several.
    """
    if "/" not in name:
        return _by_hash(store, name)
    run_id, _, rest = name.partition("/")
    step_name, _, kind = rest.partition("/")
    run = store.run(run_id)
    step = run.step(step_name)
    if step is None:
        raise InputError(f"run {run.id} has no step {step_name!r}", hint=did_you_mean(step_name, [step.name for step in run.steps]))
    offered = outputs(step)
    if not offered:
        raise InputError(f"{run.id}/{step.name} wrote nothing: it is {step.status}", hint="name a step that is done")
    chosen = kind or next((name for name in FIRST if name in offered), next(iter(offered)))
    by_lower = {name.lower(): name for name in offered}
    if chosen.lower() not in by_lower:
        raise InputError(f"{run.id}/{step.name} wrote no {chosen}", hint=did_you_mean(chosen, list(offered)))
    return offered[by_lower[chosen.lower()]]


def outputs(step: StepState) -> dict[str, Exported]:
    """Return type → artifact that a step wrote; of a filter also the Docs that it kept."""
    offered = {kind: Exported(kind, out["artifact"]) for kind, out in step.outputs.items()}
    docs = input_of(step, "Docs")
    if "Verdicts" in offered and docs is not None:
        offered["Docs"] = Exported("Docs", docs["artifact"], offered["Verdicts"].artifact)
    return offered


def _by_hash(store: Store, prefix: str) -> Exported:
    found = find(store, prefix)
    if len(found) != 1:
        problem = f"{len(found)} artifacts begin with {prefix!r}" if found else f"no artifact of {store.url} begins with {prefix!r}"
        raise InputError(
            problem,
            hint=f"give more of the hash, or RUN/STEP such as latest/near_dedup; `starloom show RUN{store.named}` lists what a run made",
        )
    return Exported(store.artifact(found[0]).type, found[0])


def find(store: Store, prefix: str) -> list[str]:
    """Return the hashes of the artifacts with that prefix, which needs at least six digits."""
    if not _PREFIX.fullmatch(prefix):
        return []
    names = (name.rpartition("/")[2].removesuffix(".json") for name in store.storage.names("artifacts"))
    return [name for name in names if name.startswith(prefix)]


def export(
    store: Store,
    what: Exported,
    out: Path,
    form: Literal["parquet", "jsonl"] = "parquet",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write an artifact into a new folder: part-00000.parquet or .jsonl …, or its files under their names.

    Raises:
        InputError: if the folder is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty; nothing was written", hint="name a folder that does not exist yet")
    artifact = Rows(store).artifact(what.artifact)
    aside = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.partial")
    aside.mkdir(parents=True)
    try:
        num_rows = 0
        for number, part in enumerate(artifact.parts):
            num_rows += _write(store, what, artifact, number, aside, form)
            on_progress(number + 1, len(artifact.parts))
            del part
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return {
        "type": what.type,
        "artifact": what.artifact,
        "verdicts": what.verdicts,
        "out": str(out),
        "rows": num_rows,
        "files": len(sizes),
        "bytes": sum(sizes),
    }


def _write(store: Store, what: Exported, artifact: Artifact, number: int, folder: Path, form: str) -> int:
    part = artifact.parts[number]
    if part.name is not None:
        return _copy_file(store, artifact, part, folder)
    source = _source(store, what, artifact, number)
    if form == "jsonl":
        return _write_lines(source, folder / f"part-{number:05}.jsonl")
    target = folder / f"part-{number:05}.parquet"
    place = store.storage.local(part_name(artifact.type, part))
    if source.verdicts is None:  # as it is, so that its hash is still its name in the store
        shutil.copyfile(place, target)
        return part.num_rows
    table = source.read(None)
    parquet.write_table(table, target, _rows_per_group(place))
    return int(table.num_rows)


def _copy_file(store: Store, artifact: Artifact, part: Part, folder: Path) -> int:
    assert part.name is not None
    target = folder / part.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(store.storage.local(part_name(artifact.type, part)), target)
    return 0


def _source(store: Store, what: Exported, artifact: Artifact, number: int) -> PartSource:
    data = Stored(store.url, object_name(artifact.type, artifact.parts[number].hash))
    if what.verdicts is None:
        return PartSource(data)
    judged = store.artifact(what.verdicts).parts[number]
    return PartSource(data, None if judged.mask is None else Stored(store.url, object_name("Verdicts", judged.hash)))


def _rows_per_group(path: Path) -> int:
    footer = pq.read_metadata(path)
    return max((footer.row_group(i).num_rows for i in range(footer.num_row_groups)), default=_BATCH_ROWS)


def _write_lines(source: PartSource, target: Path) -> int:
    num_rows = 0
    with target.open("w", encoding="utf-8") as file:
        for batch in source.batches(None, _BATCH_ROWS):
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
            num_rows += batch.num_rows
    return num_rows


def _plain(value: Any) -> str:
    """Convert times to ISO 8601, the only values of the schemas that JSON does not know."""
    return str(value.isoformat())
