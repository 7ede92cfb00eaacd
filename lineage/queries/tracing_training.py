"""What training saw: a checkpoint's documents. Batches joined with Spans, in arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import InputError
from starloom.lineage.queries.fates import input_of, output_of, producer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from starloom.lineage.queries.questions import Question
    from starloom.lineage.queries.rows import Rows
    from starloom.lineage.records import Run, StepState

TEXT_ROLES = ("text", "prefix", "middle", "suffix")
"""Spans that hold bytes of a document; the others are the template's."""
UNKNOWN = "(unknown)"
_SPAN = ["sequence", "token_start", "token_end", "doc_id", "copy", "role"]
_IDENTITY = ["doc_id", "repo", "path", "language", "declared_license", "swhid"]


class Exposure(NamedTuple):
    """The step at which each sequence of a part was seen; [sequences], -1 for never."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    times: NDArray[np.int64]


def first_steps(rows: Rows, packed: str, batches: str, until_step: int | None) -> list[Exposure]:
    """For each part of Packed, when its sequences were seen (by `until_step`)."""
    table = pa.concat_tables([table for _, table in rows.tables(batches, ["step", "part", "row"])])
    step, part, row = (table.column(name).to_numpy().astype(np.int64) for name in ("step", "part", "row"))
    order = np.argsort(step, kind="stable")
    order = order if until_step is None else order[step[order] <= until_step]
    step, part, row = step[order], part[order], row[order]
    exposures = []
    for number, described in enumerate(rows.artifact(packed).parts):
        mine = part == number
        first, last = np.full(described.num_rows, -1), np.full(described.num_rows, -1)
        first[row[mine][::-1]] = step[mine][::-1]  # of several the last assignment stands: the earliest step
        last[row[mine]] = step[mine]
        exposures.append(Exposure(first, last, np.bincount(row[mine], minlength=described.num_rows)))
    return exposures


def packers(run: Run) -> list[StepState]:
    """The steps that packed sequences and kept where they came from."""
    return [step for step in run.steps if "Spans" in step.outputs and "Packed" in step.outputs]


def spans_of(rows: Rows, packer: StepState, doc_ids: pa.Array, parts: Sequence[int] | None) -> pa.Table:
    """Spans of the text of some documents: doc_id, part, sequence, tokens."""
    found = [pa.table({"doc_id": pa.array([], pa.string()), **{n: pa.array([], pa.int64()) for n in ("part", "sequence", "tokens")}})]
    for part, table in rows.tables(packer.outputs["Spans"]["artifact"], ["sequence", "token_start", "token_end", "doc_id", "role"], parts):
        mine = table.filter(pc.is_in(table.column("doc_id"), value_set=doc_ids))
        text = _text_spans(mine)
        found.append(text.append_column("part", pa.repeat(part, len(text))).select(found[0].column_names).cast(found[0].schema))
    return pa.concat_tables(found)


def _text_spans(spans: pa.Table) -> pa.Table:
    """The spans that hold text, of every copy of a document, and how many tokens each has."""
    text = spans.filter(pc.is_in(spans.column("role"), value_set=pa.array(TEXT_ROLES)))
    tokens = pc.cast(pc.subtract(text.column("token_end"), text.column("token_start")), pa.int64())
    return text.append_column("tokens", tokens)


def trace_checkpoint(question: Question, step: StepState) -> dict[str, Any]:
    """Return the documents that a checkpoint saw, and the steps."""
    rows, run = question.rows, question.run
    packed, batches = input_of(step, "Packed"), output_of(step, "Batches")
    packer = producer(run, packed["artifact"]) if packed else None
    if packed is None or packer is None or batches is None or "Spans" not in packer.outputs:
        raise InputError(
            f"{step.name} of run {run.id} kept no record of which sequences it saw", hint="name a run of train_model, with --run"
        )
    exposures = first_steps(rows, packed["artifact"], batches, question.until_step)
    found = [_documents_of(rows, run, packer, part, exposure) for part, exposure in enumerate(exposures)]
    documents = pa.concat_tables(found).sort_by([("tokens", "descending"), ("doc_id", "ascending")])
    times = np.concatenate([exposure.times for exposure in exposures]) if exposures else np.zeros(0, np.int64)
    lasts = [int(exposure.last.max()) for exposure in exposures if len(exposure.last)]
    return {
        "checkpoint": {
            "artifact": output_of(step, "Checkpoint"),
            "step": step.name,
            "until_step": question.until_step,
            "last_step": max(lasts, default=-1),
            "began_with": _beginning(run, step),
        },
        "num_documents": len(documents),
        "num_copies": pc.sum(documents.column("copies"), min_count=0).as_py(),
        "num_sequences": int((times > 0).sum()),
        "num_sequences_packed": len(times),
        "num_passes": int(times.max()) if len(times) else 0,
        "tokens": pc.sum(documents.column("tokens"), min_count=0).as_py(),
        "tokens_seen": pc.sum(documents.column("tokens_seen"), min_count=0).as_py(),
        **{
            name: _totals(documents, column)
            for name, column in {"repositories": "repo", "languages": "language", "licenses": "license"}.items()
        },
        "documents": documents.slice(0, question.limit).to_pylist(),
    }


def _beginning(run: Run, step: StepState) -> dict[str, Any] | None:
    """The checkpoint that a training went on from, whose documents are not counted among its own; None if its weights were fresh."""
    initial = input_of(step, "Checkpoint")
    if initial is None:
        return None
    maker = producer(run, initial["artifact"])
    named = maker.components["config"].get("checkpoint") if maker and maker.stage == "import_checkpoint" else None
    return {
        "artifact": initial["artifact"],
        "step": maker.name if maker else None,
        "was_trained": maker is not None and "Batches" in maker.outputs,
        "named": named if isinstance(named, str) else None,
    }


def _documents_of(rows: Rows, run: Run, packer: StepState, part: int, exposure: Exposure) -> pa.Table:
    """Of one part the documents that were seen: identity, tokens (of each copy), sequences, first and last step, copies."""
    spans = _text_spans(rows.table(packer.outputs["Spans"]["artifact"], part, _SPAN))
    sequence = spans.column("sequence").to_numpy()
    columns = {"first": exposure.first[sequence], "last": exposure.last[sequence]}
    columns["tokens_seen"] = exposure.times[sequence] * spans.column("tokens").to_numpy()
    for name, values in columns.items():
        spans = spans.append_column(name, pa.array(values))
    totals = [("tokens", "sum"), ("tokens_seen", "sum"), ("first", "min"), ("last", "max")]
    totals += [("sequence", "count_distinct"), ("copy", "count_distinct")]
    spans = spans.filter(pc.greater_equal(spans.column("first"), 0))
    seen = spans.group_by("doc_id").aggregate(totals)
    who = _identities(rows, run, packer, part, seen.column("doc_id"))
    names = {"tokens": "tokens_sum", "tokens_seen": "tokens_seen_sum", "sequences": "sequence_count_distinct"}
    names |= {"first_step": "first_min", "last_step": "last_max", "copies": "copy_count_distinct"}
    return pa.table({**who, **{name: seen.column(column) for name, column in names.items()}})


def _identities(rows: Rows, run: Run, packer: StepState, part: int, doc_ids: pa.ChunkedArray) -> dict[str, Any]:
    """Return the identity of the documents of a part, and the evidence for their licence."""
    text = text_of(run, packer)
    table = rows.table(text, part, _IDENTITY)
    who = table.take(pc.index_in(doc_ids, value_set=table.column("doc_id").combine_chunks()))
    return {**{name: who.column(name) for name in _IDENTITY if name != "declared_license"}, "license": _licenses(rows, run, part, who)}


def _licenses(rows: Rows, run: Run, part: int, who: pa.Table) -> pa.ChunkedArray:
    """Return what the licence filter found, where it ran; else what the repository declares."""
    judge = next((step for step in run.steps if step.stage == "license_filter"), None)
    artifact = output_of(judge, "Verdicts") if judge else None
    if artifact is None or part >= len(rows.artifact(artifact).parts):
        return who.column("declared_license")
    verdicts = rows.table(artifact, part, ["doc_id", "detail"])
    found = verdicts.column("detail").take(pc.index_in(who.column("doc_id"), value_set=verdicts.column("doc_id").combine_chunks()))
    return pc.coalesce(found, who.column("declared_license"))


def text_of(run: Run, packer: StepState) -> str:
    """The text that a packing's byte ranges point into."""
    tokens = input_of(packer, "Tokens")
    encoder = producer(run, tokens["artifact"]) if tokens else None
    docs = input_of(encoder, "Docs") if encoder else None
    if docs is None:
        raise InputError(f"run {run.id} does not record which text {packer.name} packed", hint="trace another run, with --run")
    return str(docs["artifact"])


def _totals(documents: pa.Table, column: str) -> list[dict[str, Any]]:
    """Documents and tokens for each value of a column, most tokens first."""
    filled = documents.set_column(documents.column_names.index(column), column, pc.fill_null(documents.column(column), UNKNOWN))
    totals = filled.group_by(column).aggregate([("doc_id", "count"), ("tokens", "sum")])
    rows = totals.sort_by([("tokens_sum", "descending"), (column, "ascending")]).to_pylist()
    return [{"name": row[column], "documents": row["doc_id_count"], "tokens": row["tokens_sum"]} for row in rows]
