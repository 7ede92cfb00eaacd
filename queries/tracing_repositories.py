"""Trace of one repository: how many of its documents each step kept, which rules dropped the others, which were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.queries.fates import dropped, input_of, judgements, origins, output_of
from starloom.queries.tracing_training import UNKNOWN, first_steps, packers, spans_of

if TYPE_CHECKING:
    from starloom.lineage.records import Run, StepState
    from starloom.queries.questions import Question
    from starloom.queries.rows import Rows


def trace_repository(question: Question) -> dict[str, Any] | None:
    """Return counts for each step; None if the run read no such repository."""
    rows, run, repo = question.rows, question.run, question.what
    documents, parts = _documents(rows, run, repo)
    skipped = _skipped(rows, run, repo)
    if not len(documents) and not skipped["num_files"]:
        return None
    if question.is_brief:
        return {"repository": {"repo": repo}}
    doc_ids = documents.column("doc_id").combine_chunks()
    drops = _dropped_of(rows, run, doc_ids, parts)
    return {
        "repository": {"repo": repo, **_identity(documents)},
        "steps": [{"step": run_step, **counts} for run_step, counts in _steps(run, documents, drops).items()],
        "skipped": skipped,
        "dropped": _listed(documents, drops, question.limit),
        "num_documents": len(documents),
        "num_kept": len(documents) - len(drops),
        "training": _training(rows, run, doc_ids, parts),
    }


def _documents(rows: Rows, run: Run, repo: str) -> tuple[pa.Table, list[int]]:
    """Return the repository's documents, and the parts that hold them."""
    found, parts = [], []
    columns = ["doc_id", "repo", "path", "source", "revision", "declared_license", "language", "size"]
    for step in origins(run):
        artifact = step.outputs["Docs"]["artifact"]
        for part, positions in rows.equal(artifact, "repo", repo):
            found.append(rows.take(artifact, part, positions, columns))
            parts.append(part)
    if not found:
        return pa.table({name: pa.array([], pa.int64() if name == "size" else pa.string()) for name in columns}), []
    return pa.concat_tables(found), sorted(set(parts))


def _identity(documents: pa.Table) -> dict[str, Any]:
    one = {name: pc.unique(documents.column(name)).to_pylist() for name in ("source", "revision", "declared_license")}
    languages = documents.column("language").value_counts().to_pylist()
    return {
        **{name: values[0] if len(values) == 1 else values for name, values in one.items()},
        "bytes": pc.sum(documents.column("size"), min_count=0).as_py(),
        "languages": {pair["values"] or UNKNOWN: pair["counts"] for pair in sorted(languages, key=lambda pair: -pair["counts"])},
    }


def _dropped_of(rows: Rows, run: Run, doc_ids: pa.Array, parts: list[int]) -> pa.Table:
    return dropped(rows, run, parts, wanted=doc_ids)


def _steps(run: Run, documents: pa.Table, drops: pa.Table) -> dict[str, dict[str, Any]]:
    """Return step → documents kept after it, and dropped by rule."""
    left, told = len(documents), {step.name: {"documents": len(documents), "dropped": 0, "rules": {}} for step in origins(run)}
    for judged in judgements(run):
        rules = drops.filter(pc.equal(drops.column("step"), judged.step)).column("rule").value_counts().to_pylist()
        num_dropped = sum(pair["counts"] for pair in rules)
        left -= num_dropped
        told[judged.step] = {"documents": left, "dropped": num_dropped, "rules": {str(pair["values"]): pair["counts"] for pair in rules}}
    return told


def _listed(documents: pa.Table, drops: pa.Table, limit: int | None) -> list[dict[str, Any]]:
    shown = drops.slice(0, limit)
    paths = documents.column("path").take(pc.index_in(shown.column("doc_id"), value_set=documents.column("doc_id").combine_chunks()))
    return list(shown.drop_columns(["order", "part"]).append_column("path", paths).to_pylist())


def _skipped(rows: Rows, run: Run, repo: str) -> dict[str, Any]:
    rules: dict[str, int] = {}
    for step in origins(run):
        artifact = output_of(step, "Skipped")
        if artifact is None:
            continue
        for part, at in rows.equal(artifact, "repo", repo):
            for pair in rows.take(artifact, part, at, ["rule"]).column("rule").value_counts().to_pylist():
                rules[pair["values"]] = rules.get(pair["values"], 0) + pair["counts"]
    return {"num_files": sum(rules.values()), "rules": rules}


def _training(rows: Rows, run: Run, doc_ids: pa.Array, parts: list[int]) -> list[dict[str, Any]]:
    """Return for each packing: tokens (of every copy) and sequences of the repository, what was left out, which checkpoints saw them."""
    told = []
    for packer in packers(run):
        spans = spans_of(rows, packer, doc_ids, rows.same_parts(packer.outputs["Spans"]["artifact"], _text(run), parts))
        sequences = spans.group_by(["part", "sequence"]).aggregate([])
        told.append(
            {
                "step": packer.name,
                "tokens": pc.sum(spans.column("tokens"), min_count=0).as_py(),
                "sequences": len(sequences),
                "documents": pc.count_distinct(spans.column("doc_id")).as_py(),
                "not_packed": _num_not_packed(rows, run, packer, doc_ids, parts),
                "checkpoints": [_seen(rows, packer, step, sequences) for step in run.steps if _trains_on(step, packer)],
            }
        )
    return told


def _num_not_packed(rows: Rows, run: Run, packer: StepState, doc_ids: pa.Array, parts: list[int]) -> int:
    """Count documents that were encoded and are in no sequence, such as those that the mixture did not take."""
    tokens, found = input_of(packer, "Tokens"), []
    for artifact in (tokens["artifact"], packer.outputs["Spans"]["artifact"]) if tokens else ():
        mine = rows.of_documents(artifact, doc_ids, ["doc_id"], rows.same_parts(artifact, _text(run), parts))
        found.append(pc.count_distinct(mine.column("doc_id")).as_py())
    return found[0] - found[1] if found else 0


def _text(run: Run) -> str:
    return str(origins(run)[0].outputs["Docs"]["artifact"])


def _trains_on(step: StepState, packer: StepState) -> bool:
    packed = input_of(step, "Packed")
    return "Batches" in step.outputs and packed is not None and packed["artifact"] == output_of(packer, "Packed")


def _seen(rows: Rows, packer: StepState, step: StepState, sequences: pa.Table) -> dict[str, Any]:
    places = [sequences.column(name).to_pylist() for name in ("part", "sequence")]
    exposures = first_steps(rows, packer.outputs["Packed"]["artifact"], step.outputs["Batches"]["artifact"], None, set(places[0]))
    firsts = np.array([exposures[part].first[sequence] for part, sequence in zip(*places, strict=True)], np.int64)
    seen = firsts[firsts >= 0]
    first_step = int(seen.min()) if len(seen) else None
    return {"step": step.name, "checkpoint": output_of(step, "Checkpoint"), "sequences_seen": len(seen), "first_step": first_step}
