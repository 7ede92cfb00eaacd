"""Samples of documents in which a step redacted something: the text as it left it, the redactions with their places. Values are nowhere."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import InputError, did_you_mean
from starloom.queries.rows import Rows
from starloom.queries.texts import characters_of

if TYPE_CHECKING:
    from starloom.lineage.records import StepState
    from starloom.lineage.store import Store

_TEXT = ["doc_id", "repo", "path", "language", "size", "content"]
HOW = "the redactions, each by its type and detector; what stood there is kept nowhere"


def redacted_types(store: Store, run_id: str, step_name: str) -> list[dict[str, Any]]:
    """Return how many documents have a redaction of each type, the most frequent first, in the form of `sampling.rules`.

    Raises:
        InputError: if there is no such run or step, or it redacted nothing.
    """
    step, rows, counted = _redactor(store, run_id, step_name), Rows(store), Counter[str]()
    for _, table in rows.tables(step.outputs["Redactions"]["artifact"], ["doc_id", "entity"]):
        pairs = table.group_by(["doc_id", "entity"]).aggregate([])
        counted.update(pairs.column("entity").to_pylist())
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [{"kept": True, "rule": entity, "documents": number} for entity, number in ordered]


def sample_redactions(store: Store, run_id: str, step_name: str, *, rule: str | None, number: int, seed: int) -> dict[str, Any]:
    """Return some documents with redactions, drawn without preference; the same for the same seed.

    Args:
        store: to query.
        run_id: of the run.
        step_name: of a step that wrote Redactions.
        rule: only documents with a redaction of this type; None for all.
        number: of documents.
        seed: of the draw.

    Returns:
        As `sampling.sample`.

    Raises:
        InputError: if there is no such run or step, or it redacted nothing, or nothing of that type.
    """
    step, rows = _redactor(store, run_id, step_name), Rows(store)
    redactions = step.outputs["Redactions"]["artifact"]
    per_part = [_documents(table, rule) for _, table in rows.tables(redactions, ["doc_id", "entity"])]
    total = sum(map(len, per_part))
    if rule is not None and not total:
        known = sorted(each["rule"] for each in redacted_types(store, run_id, step_name))
        raise InputError(f"{run_id}/{step_name} redacted nothing of the type {rule!r}", hint=did_you_mean(rule, known))
    drawn = np.sort(np.array(random.Random(seed).sample(range(total), min(number, total)), np.int64))  # noqa: S311 - no secret
    begins = np.cumsum([0, *map(len, per_part)])
    documents: list[dict[str, Any]] = []
    for part, ids in enumerate(per_part):
        mine = drawn[(drawn >= begins[part]) & (drawn < begins[part + 1])] - begins[part]
        if len(mine):
            documents += _shown(rows, step, part, ids.take(pa.array(mine)), rule)
    asked = {"rule": rule, "kept": True, "seed": seed}
    return {"kind": "sample", "run": store.run(run_id).id, "step": step.name, **asked, "num_documents": total, "documents": documents}


def _redactor(store: Store, run_id: str, step_name: str) -> StepState:
    run = store.run(run_id)
    step, redactors = run.step(step_name), [each.name for each in run.steps if "Redactions" in each.outputs]
    if step is None or step.name not in redactors:
        problem = "has no step" if step is None else "redacted nothing in its step"
        raise InputError(f"run {run.id} {problem} {step_name!r}", hint=did_you_mean(step_name, redactors))
    return step


def _documents(table: pa.Table, rule: str | None) -> pa.Array:
    chosen = table if rule is None else table.filter(pc.equal(table.column("entity"), rule))
    return pc.unique(chosen.column("doc_id"))


def _shown(rows: Rows, step: StepState, part: int, ids: pa.Array, rule: str | None) -> list[dict[str, Any]]:
    docs, redactions = step.outputs["Docs"]["artifact"], step.outputs["Redactions"]["artifact"]
    found = rows.of_documents(docs, ids, _TEXT, rows.same_parts(docs, redactions, [part])).to_pylist()
    table = rows.table(redactions, part, ["doc_id", "entity", "detector", "new_start", "new_end"])
    spans = table.filter(pc.is_in(table.column("doc_id"), value_set=ids)).to_pylist()
    return [{**row, **_told([span for span in spans if span["doc_id"] == row["doc_id"]], row["content"], rule)} for row in found]


def _told(spans: list[dict[str, Any]], text: str, rule: str | None) -> dict[str, Any]:
    at = characters_of(text, sorted({span[end] for span in spans for end in ("new_start", "new_end")}))
    places = [
        {"start": at[span["new_start"]], "end": at[span["new_end"]], "label": f"{span['entity']} redacted by {span['detector']}"}
        for span in spans
        if rule is None or span["entity"] == rule
    ]
    types = ", ".join(sorted({span["entity"] for span in spans}))
    offence = {"rule": rule or types, "how": HOW, "places": places, "measured": None, "other": None}
    return {"rule": rule or types, "value": float(len(places)), "threshold": None, "detail": None, "offence": offence}
