"""What training saw: a checkpoint's documents. Batches joined with Spans, in arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import InputError
from starloom.queries.fates import input_of, output_of, producer
from starloom.queries.scores import scores_of_checkpoint
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray

    from starloom.lineage.records import Run, StepState
    from starloom.queries.questions import Question
    from starloom.queries.rows import Rows

UNKNOWN = "(unknown)"
NUM_STRETCHES = 20
"""Of the steps of a training, in what it saw anew."""
_SPAN = ["sequence", "token_start", "token_end", "doc_id", "copy", "role"]
_IDENTITY = ["doc_id", "repo", "path", "language", "declared_license", "swhid"]


class Exposure(NamedTuple):
    """The step at which each sequence of a part was seen; [sequences], -1 for never."""

    first: NDArray[np.int32]
    last: NDArray[np.int32]
    times: NDArray[np.int32]


def first_steps(rows: Rows, packed: str, batches: str, until_step: int | None, parts: Container[int] | None = None) -> list[Exposure]:
    """Return for each part of Packed when its sequences were seen (by `until_step`); of other parts than `parts` nothing is told."""
    table = pa.concat_tables([table for _, table in rows.tables(batches, ["step", "part", "row"])])
    step, part, row = (table.column(name).to_numpy().astype(np.int64) for name in ("step", "part", "row"))
    order = np.argsort(step, kind="stable")
    order = order if until_step is None else order[step[order] <= until_step]
    step, part, row = step[order], part[order], row[order]
    exposures = []
    for number, described in enumerate(rows.artifact(packed).parts):
        mine = np.flatnonzero(part == number) if parts is None or number in parts else np.empty(0, np.int64)
        exposures.append(_exposure(described.num_rows, step[mine], row[mine]))
    return exposures


def _exposure(num_rows: int, step: NDArray[np.int64], row: NDArray[np.int64]) -> Exposure:
    if not len(step):  # of a part that was never seen, one number stands for all: there may be millions
        never, no_times = np.broadcast_to(np.int32(-1), num_rows), np.broadcast_to(np.int32(0), num_rows)
        return Exposure(never, never, no_times)
    first, last = np.full(num_rows, -1, np.int32), np.full(num_rows, -1, np.int32)
    first[row[::-1]] = step[::-1]  # of several the last assignment stands: the earliest step
    last[row] = step
    return Exposure(first, last, np.bincount(row, minlength=num_rows).astype(np.int32))


def packers(run: Run) -> list[StepState]:
    """Return the steps that packed sequences and kept where they came from."""
    return [step for step in run.steps if "Spans" in step.outputs and "Packed" in step.outputs]


def spans_of(rows: Rows, packer: StepState, doc_ids: pa.Array, parts: Sequence[int] | None) -> pa.Table:
    """Spans of the text of some documents: doc_id, part, sequence, tokens."""
    found = [pa.table({"doc_id": pa.array([], pa.string()), **{n: pa.array([], pa.int64()) for n in ("part", "sequence", "tokens")}})]
    spans = packer.outputs["Spans"]["artifact"]
    for part in range(len(rows.artifact(spans).parts)) if parts is None else parts:
        text = _text_spans(rows.of_documents(spans, doc_ids, _SPAN, [part]).drop_columns(["part", "row"]))
        found.append(text.append_column("part", pa.repeat(part, len(text))).select(found[0].column_names).cast(found[0].schema))
    return pa.concat_tables(found)


def _text_spans(spans: pa.Table) -> pa.Table:
    """Return the spans that hold text, of every copy of a document, and how many tokens each has."""
    text = spans.filter(pc.is_in(spans.column("role"), value_set=pa.array(DOCUMENT_ROLES)))
    tokens = pc.cast(pc.subtract(text.column("token_end"), text.column("token_start")), pa.int64())
    return text.append_column("tokens", tokens)


class Trained(NamedTuple):
    """A training that a checkpoint went through."""

    step: StepState
    packer: StepState
    exposures: list[Exposure]
    """Of each part of what the packer wrote."""
    num_steps: int
    """Steps that it took."""


def trace_checkpoint(question: Question, step: StepState) -> dict[str, Any]:
    """Return the documents that a checkpoint saw, and the steps: of its own training, and of those that this continued from.

    Raises:
        InputError: a training kept no record of what it saw.
    """
    rows, run = question.rows, question.run
    trainings = [_trained(question, each, question.until_step if each is step else None) for each in _chain(run, step)]
    begins = np.cumsum([0, *(trained.num_steps for trained in trainings)])
    packings = _seen_of_packings(trainings, begins)
    found = [
        _documents_of(rows, run, packer, part, exposure)
        for packer, seen in packings
        for part, exposure in enumerate(seen)
        if part == 0 or exposure.times.any()  # a part that was never seen costs nothing; the first one gives the columns
    ]
    added_up = _added_up(found, len(packings))
    documents = _in_steps_of(added_up, trainings, begins)
    times = [exposure.times for _, seen in packings for exposure in seen]
    lasts = [int(exposure.last.max()) for exposure in trainings[-1].exposures if len(exposure.last)]
    return {
        "checkpoint": {
            "artifact": output_of(step, "Checkpoint"),
            "step": step.name,
            "until_step": question.until_step,
            "last_step": max(lasts, default=-1),
            "began_with": _beginning(run, trainings[0].step),
            "trainings": [
                {"step": trained.step.name, "artifact": output_of(trained.step, "Checkpoint"), "num_steps": trained.num_steps}
                for trained in trainings
            ],
        },
        "num_documents": len(documents),
        "num_copies": pc.sum(documents.column("copies"), min_count=0).as_py(),
        "num_sequences": sum(int(np.count_nonzero(each)) for each in times),
        "num_sequences_packed": sum(map(len, times)),
        "num_passes": max((int(each.max()) for each in times if len(each)), default=0),
        "tokens": pc.sum(documents.column("tokens"), min_count=0).as_py(),
        "tokens_seen": pc.sum(documents.column("tokens_seen"), min_count=0).as_py(),
        **{
            name: _totals(documents, column)
            for name, column in {"repositories": "repo", "languages": "language", "licenses": "license"}.items()
        },
        "steps": _new_by_step(added_up),
        "scores": scores_of_checkpoint(rows, run, output_of(step, "Checkpoint")),
        "documents": documents.slice(0, question.limit).to_pylist(),
    }


def _chain(run: Run, step: StepState) -> list[StepState]:
    """Return the trainings that a checkpoint went through, the first one first."""
    chain = [step]
    while (initial := input_of(chain[0], "Checkpoint")) is not None:
        maker = producer(run, initial["artifact"])
        if maker is None or "Batches" not in maker.outputs:
            break
        chain.insert(0, maker)
    return chain


def _trained(question: Question, step: StepState, until_step: int | None) -> Trained:
    """Return what one training saw, by `until_step`."""
    rows, run = question.rows, question.run
    packed, batches = input_of(step, "Packed"), output_of(step, "Batches")
    packer = producer(run, packed["artifact"]) if packed else None
    if packed is None or packer is None or batches is None or "Spans" not in packer.outputs:
        raise InputError(
            f"{step.name} of run {run.id} kept no record of which sequences it saw", hint="name a run of train_model, with --run"
        )
    exposures = first_steps(rows, packed["artifact"], batches, until_step)
    last = max((int(exposure.last.max()) for exposure in exposures if len(exposure.last)), default=0)
    return Trained(step, packer, exposures, max(last, 0))


def _seen_of_packings(trainings: list[Trained], begins: NDArray[np.int64]) -> list[tuple[StepState, list[Exposure]]]:
    """Return what was seen of each packing in all trainings together, their steps counted on from one to the next."""
    packings: dict[str, tuple[StepState, list[Exposure]]] = {}
    for trained, begin in zip(trainings, begins[:-1].tolist(), strict=True):
        seen = [each._replace(first=_later(each.first, begin), last=_later(each.last, begin)) for each in trained.exposures]
        name = trained.packer.outputs["Packed"]["artifact"]
        if name in packings:
            seen = [_both(one, other) for one, other in zip(packings[name][1], seen, strict=True)]
        packings[name] = (trained.packer, seen)
    return list(packings.values())


def _later(steps: NDArray[np.int32], begin: int) -> NDArray[np.int32]:
    """Steps counted on from `begin`; -1 stays."""
    return np.where(steps < 0, -1, steps + begin).astype(np.int32) if begin else steps


def _both(one: Exposure, other: Exposure) -> Exposure:
    """Add up what two trainings saw, of which the other came after the one."""
    return Exposure(np.where(one.first < 0, other.first, one.first), np.maximum(one.last, other.last), one.times + other.times)


def _added_up(found: list[pa.Table], num_packings: int) -> pa.Table:
    """Return the documents of all parts and packings, each once, those with most tokens first."""
    documents = pa.concat_tables(found)
    if num_packings > 1:
        sums = dict.fromkeys(("tokens", "tokens_seen", "sequences", "copies"), "sum")
        how = {**dict.fromkeys(documents.column_names, "first"), **sums, "first_step": "min", "last_step": "max"}
        del how["doc_id"]
        added = documents.group_by("doc_id", use_threads=False).aggregate(list(how.items()))
        named = {f"{name}_{function}": name for name, function in how.items()}
        documents = added.rename_columns([named.get(name, name) for name in added.column_names]).select(documents.column_names)
    return documents.sort_by([("tokens", "descending"), ("doc_id", "ascending")])


def _in_steps_of(documents: pa.Table, trainings: list[Trained], begins: NDArray[np.int64]) -> pa.Table:
    """First and last step as those of the training that they fell in, which is named beside."""
    names = pa.array([trained.step.name for trained in trainings])
    for which in ("first", "last"):
        at = documents.column_names.index(f"{which}_step")
        steps = documents.column(at).to_numpy()
        training = np.searchsorted(begins[1:-1], steps, side="left")  # a step that ends a training is of that one
        documents = documents.set_column(at, f"{which}_step", pa.array(steps - begins[training]))
        documents = documents.append_column(f"{which}_training", names.take(pa.array(training)))
    return documents


def _beginning(run: Run, step: StepState) -> dict[str, Any] | None:
    """Return the checkpoint made elsewhere that a training continued from, whose documents are unknown here; None if there is none."""
    initial = input_of(step, "Checkpoint")
    if initial is None:
        return None
    maker = producer(run, initial["artifact"])
    named = maker.components["config"].get("checkpoint") if maker and maker.stage == "import_checkpoint" else None
    return {
        "artifact": initial["artifact"],
        "step": maker.name if maker else None,
        "named": named if isinstance(named, str) else None,
    }


def _documents_of(rows: Rows, run: Run, packer: StepState, part: int, exposure: Exposure) -> pa.Table:
    """Return of one part the documents that were seen: identity, tokens (of each copy), sequences, first and last step, copies."""
    all_spans = rows.table(packer.outputs["Spans"]["artifact"], part, _SPAN)
    seen_ones = exposure.first[all_spans.column("sequence").to_numpy()] >= 0
    spans = _text_spans(all_spans.filter(pa.array(seen_ones)))
    sequence = spans.column("sequence").to_numpy()
    columns = {"first": exposure.first[sequence].astype(np.int64), "last": exposure.last[sequence].astype(np.int64)}
    columns["tokens_seen"] = exposure.times[sequence].astype(np.int64) * spans.column("tokens").to_numpy()
    for name, values in columns.items():
        spans = spans.append_column(name, pa.array(values))
    totals = [("tokens", "sum"), ("tokens_seen", "sum"), ("first", "min"), ("last", "max")]
    totals += [("sequence", "count_distinct"), ("copy", "count_distinct")]
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
    """Return the text that a packing's byte ranges point into."""
    tokens = input_of(packer, "Tokens")
    encoder = producer(run, tokens["artifact"]) if tokens else None
    docs = input_of(encoder, "Docs") if encoder else None
    if docs is None:
        raise InputError(f"run {run.id} does not record which text {packer.name} packed", hint="trace another run, with --run")
    return str(docs["artifact"])


def _new_by_step(documents: pa.Table) -> list[dict[str, Any]]:
    """Documents and tokens that were seen for the first time, in equal stretches of the steps of all trainings together."""
    if not len(documents):
        return []
    steps, tokens = documents.column("first_step").to_numpy(), documents.column("tokens").to_numpy()
    width = -(-(int(steps.max()) + 1) // NUM_STRETCHES)
    counts, sums = np.bincount(steps // width), np.bincount(steps // width, weights=tokens)
    names = [f"{at * width}" if width == 1 else f"{at * width}-{at * width + width - 1}" for at in range(len(counts))]
    return [{"name": n, "documents": int(c), "tokens": int(t)} for n, c, t in zip(names, counts, sums, strict=True)]


def _totals(documents: pa.Table, column: str) -> list[dict[str, Any]]:
    """Documents and tokens for each value of a column, most tokens first."""
    filled = documents.set_column(documents.column_names.index(column), column, pc.fill_null(documents.column(column), UNKNOWN))
    totals = filled.group_by(column).aggregate([("doc_id", "count"), ("tokens", "sum")])
    rows = totals.sort_by([("tokens_sum", "descending"), (column, "ascending")]).to_pylist()
    return [{"name": row[column], "documents": row["doc_id_count"], "tokens": row["tokens_sum"]} for row in rows]
