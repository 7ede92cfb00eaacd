"""The fates of documents in a run: which text each step judged, and which documents it dropped and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from starloom.lineage.records import Run, StepState
    from starloom.queries.rows import Rows

REASON = ["rule", "value", "threshold", "detail"]
_NO_DROPS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
        ("step", pa.string()),
        ("order", pa.int64()),
        ("part", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A step that judged documents: part i of its verdicts is row-aligned with part i of the text."""

    step: str
    text: str
    """Hash of the Docs artifact that it judged."""
    verdicts: str


def input_of(step: StepState, kind: str) -> dict[str, Any] | None:
    """Return a step's input of a type: {"type", "artifact", "verdicts"}."""
    return next((ref for ref in step.inputs.values() if ref["type"] == kind), None)


def output_of(step: StepState, kind: str) -> str | None:
    """Return the hash of a step's output of a type."""
    return step.outputs[kind]["artifact"] if kind in step.outputs else None


def producer(run: Run, artifact: str) -> StepState | None:
    """Return the step of a run that wrote an artifact."""
    return next((step for step in run.steps if any(out["artifact"] == artifact for out in step.outputs.values())), None)


def judgements(run: Run) -> list[Judgement]:
    """Return the steps that judged documents, in order."""
    found = []
    for step in run.steps:
        docs, verdicts = input_of(step, "Docs"), output_of(step, "Verdicts")
        if docs is not None and verdicts is not None:
            found.append(Judgement(step.name, docs["artifact"], verdicts))
    return found


def origins(run: Run) -> list[StepState]:
    """Return the steps that made documents from sources: where every trace begins."""
    return [step for step in run.steps if "Docs" in step.outputs and input_of(step, "Docs") is None]


def is_linear(run: Run) -> bool:
    """Return whether each step that judges or rewrites documents reads the output of the one before it."""
    at: tuple[str, str | None] | None = None
    for step in run.steps:
        docs, text, verdicts = input_of(step, "Docs"), output_of(step, "Docs"), output_of(step, "Verdicts")
        if text is None and verdicts is None:
            continue
        if at is not None and (docs is None or at != (docs["artifact"], docs["verdicts"])):
            return False
        at = (text, None) if text is not None else (docs["artifact"], verdicts) if docs is not None else at
    return True


def dropped(
    rows: Rows,
    run: Run,
    parts: Sequence[int] | None = None,
    known: AbstractSet[tuple[str, str]] = frozenset(),
    wanted: pa.Array | None = None,
) -> pa.Table:
    """Return every dropped document of a run: doc_id, the step that dropped it first, its reason, and the part it lies in.

    Args:
        rows: of the store.
        run: whose documents.
        parts: of the corpus to look at; None for all.
        known: (step, hash of a part of verdicts) not to look at.
        wanted: doc_ids to tell of; None for all.
    """
    found = [_NO_DROPS.empty_table()]
    for order, judged in enumerate(judgements(run)):
        manifest = rows.artifact(judged.verdicts).parts
        looked_at = [i for i in (range(len(manifest)) if parts is None else parts) if (judged.step, manifest[i].hash) not in known]
        looked_at = [i for i in looked_at if manifest[i].counts.get("dropped", 1)]
        for part, table in _verdicts(rows, judged, looked_at, wanted):
            drops = table.filter(pc.invert(table.column("keep"))).drop_columns(["keep"])
            columns = {
                "step": pa.repeat(judged.step, len(drops)),
                "order": pa.repeat(order, len(drops)),
                "part": pa.repeat(part, len(drops)),
            }
            for name, column in columns.items():
                drops = drops.append_column(name, column)
            found.append(drops.cast(_NO_DROPS))
    return pa.concat_tables(found) if is_linear(run) else _first(pa.concat_tables(found))


def _verdicts(rows: Rows, judged: Judgement, parts: Sequence[int], wanted: pa.Array | None) -> Iterator[tuple[int, pa.Table]]:
    """Yield (part, verdicts), of some documents or of all."""
    columns = ["doc_id", "keep", *REASON]
    if wanted is None:
        yield from rows.tables(judged.verdicts, columns, parts)
        return
    for part in parts:
        yield part, rows.of_documents(judged.verdicts, wanted, columns, [part], like=judged.text).drop_columns(["part", "row"])


def _first(drops: pa.Table) -> pa.Table:
    """Return the earliest drop of each document: where a recipe branches, two filters may drop one document."""
    numbered = drops.append_column("at", pa.array(range(len(drops)), pa.int64()))
    earliest = numbered.group_by("doc_id").aggregate([("at", "min")]).column("at_min")  # drops are in the order of steps
    return drops.take(pc.take(earliest, pc.sort_indices(earliest)))


def funnel(run: Run) -> list[dict[str, Any]]:
    """Return one row for each step that wrote verdicts or documents: what it kept."""
    rows = []
    for step in run.steps:
        if "Verdicts" in step.outputs:
            counts = step.outputs["Verdicts"]["counts"]
            rules = sorted(counts.get("rules", {}).items(), key=lambda rule: -rule[1])
            left = {"documents": counts.get("kept", 0), "bytes": counts.get("kept_bytes", 0)}
            rows.append({"step": step.name, **left, "dropped": counts.get("dropped", 0), "rules": dict(rules)})
        elif "Docs" in step.outputs:
            counts = step.outputs["Docs"]["counts"]
            left = {"documents": counts.get("rows", 0), "bytes": counts.get("text_bytes", 0)}
            rows.append({"step": step.name, **left, "dropped": 0, "rules": {}})
    return rows
