"""Samples of what a step that judges documents kept or dropped, and how its values lie to its thresholds.

Memory is bounded by a part: of a corpus only counts are held, and only the parts with chosen documents are read for them.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from starloom.lineage.errors import InputError, did_you_mean
from starloom.queries.fates import REASON, input_of
from starloom.queries.offences import Case, offence
from starloom.queries.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.lineage.records import Part, StepState
    from starloom.lineage.store import Store

NUM_BINS = 48
SHOWN_THRESHOLDS = 6
LOGARITHMIC_FROM = 100.0
"""Values that reach so far are counted in bins of their logarithms."""
_TEXT = ["doc_id", "repo", "path", "language", "size", "content"]


# Samples


def sample(store: Store, run_id: str, step_name: str, *, kept: bool, rule: str | None, number: int, seed: int) -> dict[str, Any]:
    """Return some documents that a step kept or dropped, drawn without preference; the same for the same seed.

    Args:
        store: to query.
        run_id: of the run.
        step_name: of a step that wrote Verdicts.
        kept: whether to draw from the documents that it kept, or from those that it dropped.
        rule: only documents with this rule; None for all.
        number: of documents.
        seed: of the draw.

    Returns:
        How many documents there are to draw from, and those drawn, in the order of the corpus: identity, text as the step read it,
        verdict, and `offence`: the places that it is about.

    Raises:
        InputError: if there is no such run or step, or it judged nothing, or `rule` is none of its rules.
    """
    step = _judge(store, run_id, step_name)
    docs = input_of(step, "Docs")
    assert docs is not None, "verdicts are on documents"
    rows, verdicts = Rows(store), step.outputs["Verdicts"]["artifact"]
    per_part = [
        _told(part, kept=kept, rule=rule) if kept is False or rule is None else len(_positions(rows, verdicts, i, kept=kept, rule=rule))
        for i, part in enumerate(rows.artifact(verdicts).parts)
    ]
    total = sum(per_part)
    if rule is not None and not total:
        known = sorted({each["rule"] for each in rules(store, run_id, step_name) if each["rule"] and each["kept"] is kept})
        raise InputError(
            f"{run_id}/{step_name} {'kept' if kept else 'dropped'} no document by the rule {rule!r}", hint=did_you_mean(rule, known)
        )
    drawn = np.sort(np.array(random.Random(seed).sample(range(total), min(number, total)), np.int64))  # noqa: S311 - no secret
    documents = []
    for part, chosen in _by_part(drawn, per_part):
        at = _positions(rows, verdicts, part, kept=kept, rule=rule)[chosen]
        reasons = rows.take(verdicts, part, at, REASON).to_pylist()
        texts = rows.take(docs["artifact"], part, at, _TEXT).to_pylist()
        places = [{"part": part, "row": int(row)} for row in at]
        told = [
            None
            if reason["rule"] is None
            else offence(Case(text["content"], reason["rule"], reason["value"], reason["detail"], step.config))
            for text, reason in zip(texts, reasons, strict=True)
        ]
        found = zip(texts, reasons, places, told, strict=True)
        documents += [{**text, **reason, **place, "offence": each} for text, reason, place, each in found]
    asked = {"rule": rule, "kept": kept, "seed": seed}
    return {"kind": "sample", "run": store.run(run_id).id, "step": step.name, **asked, "num_documents": total, "documents": documents}


def _judge(store: Store, run_id: str, step_name: str) -> StepState:
    run = store.run(run_id)
    step = run.step(step_name)
    judges = [each.name for each in run.steps if "Verdicts" in each.outputs]
    if step is None or step.name not in judges:
        problem = "has no step" if step is None else "judged no documents in its step"
        raise InputError(f"run {run.id} {problem} {step_name!r}", hint=did_you_mean(step_name, judges))
    return step


def _told(part: Part, *, kept: bool, rule: str | None) -> int:
    """Return how many documents a part's own counts say; a rule's are told of dropped ones only."""
    if rule is None:
        return int(part.counts["kept" if kept else "dropped"])
    return int(part.counts["rules"].get(rule, 0))


def _positions(rows: Rows, verdicts: str, part: int, *, kept: bool, rule: str | None) -> NDArray[np.int64]:
    """Return the ascending rows of a part that were kept or dropped by a rule."""
    table = rows.table(verdicts, part, ["keep", "rule"])
    chosen = pc.equal(table.column("keep"), kept)
    if rule is not None:
        chosen = pc.and_(chosen, pc.equal(table.column("rule"), rule))
    found: NDArray[np.int64] = pc.indices_nonzero(pc.fill_null(chosen, fill_value=False)).to_numpy().astype(np.int64)
    return found


def _by_part(drawn: NDArray[np.int64], per_part: list[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (part, numbers within it) of ascending numbers over all parts."""
    starts = np.cumsum([0, *per_part])
    part_of = np.searchsorted(starts, drawn, side="right") - 1
    for part in np.unique(part_of).tolist():
        yield part, drawn[part_of == part] - starts[part]


# Rules and values


def rules(store: Store, run_id: str, step_name: str) -> list[dict[str, Any]]:
    """Return how many documents a step kept and dropped by each of its rules, dropped ones first, then the most frequent.

    Raises:
        InputError: if there is no such run or step, or it judged nothing.
    """
    step, rows, counted = _judge(store, run_id, step_name), Rows(store), Counter[tuple[bool, str | None]]()
    for table in _parts(rows, step.outputs["Verdicts"]["artifact"], ["keep", "rule"]):
        judged = table.filter(pc.is_valid(table.column("keep")))
        for row in judged.group_by(["keep", "rule"]).aggregate([([], "count_all")]).to_pylist():
            counted[row["keep"], row["rule"]] += row["count_all"]
    ordered = sorted(counted.items(), key=lambda item: (item[0][0], -item[1], item[0][1] or ""))
    return [{"kept": kept, "rule": rule, "documents": number} for (kept, rule), number in ordered]


def values(store: Store, run_id: str, step_name: str) -> list[dict[str, Any]]:
    """Return for each rule of a step that measures something how often each value occurs, and the thresholds.

    Where the step read Signals, the values are those of every document that it judged (`of` is `signal`); else those that its verdicts
    tell (`of` is `verdict`), which most stages give of dropped documents alone.

    Returns:
        For each rule: `counts` in equal bins from `low` to `high`, equal by logarithms of 1 + value if `is_logarithmic`.

    Raises:
        InputError: if there is no such run or step, or it judged nothing.
    """
    step, rows = _judge(store, run_id, step_name), Rows(store)
    verdicts, signals = step.outputs["Verdicts"]["artifact"], input_of(step, "Signals")
    measured = set(rows.columns(signals["artifact"], 0)) if signals is not None and rows.artifact(signals["artifact"]).parts else set()
    told = []
    for rule, thresholds in _thresholds(rows, verdicts).items():
        column = rule.replace("-", "_")
        if signals is not None and column in measured:
            told.append({"rule": rule, "of": "signal", "thresholds": thresholds, **_bins(rows, signals["artifact"], column, None)})
        else:
            told.append({"rule": rule, "of": "verdict", "thresholds": thresholds, **_bins(rows, verdicts, "value", rule)})
    return told


def _thresholds(rows: Rows, verdicts: str) -> dict[str, list[float]]:
    """Return rule → its thresholds, of the rules that tell a value."""
    found: dict[str, set[float]] = {}
    for table in _parts(rows, verdicts, ["rule", "value", "threshold"]):
        told = table.filter(pc.and_(pc.is_valid(table.column("value")), pc.is_valid(table.column("rule"))))
        for row in told.group_by(["rule", "threshold"]).aggregate([]).to_pylist():
            found.setdefault(row["rule"], set()).update([] if row["threshold"] is None else [row["threshold"]])
    return {rule: sorted(thresholds)[:SHOWN_THRESHOLDS] for rule, thresholds in sorted(found.items())}


def _bins(rows: Rows, artifact: str, column: str, rule: str | None) -> dict[str, Any]:
    """Count the finite values of a column in equal bins: once through for their range, once for the counts."""
    ranges = [(each.min(), each.max()) for each in _values(rows, artifact, column, rule) if len(each)]
    if not ranges:
        return {"low": 0.0, "high": 0.0, "is_logarithmic": False, "counts": []}
    low, high = float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))
    is_logarithmic = low >= 0 and high > LOGARITHMIC_FROM
    counts = np.zeros(NUM_BINS, np.int64)
    ends = (np.log1p(low), np.log1p(high)) if is_logarithmic else (low, high)
    for each in _values(rows, artifact, column, rule):
        counts += np.histogram(np.log1p(each) if is_logarithmic else each, NUM_BINS, ends if ends[0] < ends[1] else (ends[0], ends[0] + 1))[
            0
        ]
    return {"low": low, "high": high, "is_logarithmic": is_logarithmic, "counts": counts.tolist()}


def _values(rows: Rows, artifact: str, column: str, rule: str | None) -> Iterator[NDArray[np.float64]]:
    """Yield the finite values of each part, of the rows of a rule if one is given."""
    for table in _parts(rows, artifact, [column] if rule is None else [column, "rule"]):
        chosen = table if rule is None else table.filter(pc.equal(table.column("rule"), rule))
        found: NDArray[np.float64] = pc.cast(chosen.column(column), "float64").drop_null().to_numpy()
        yield found[np.isfinite(found)]


def _parts(rows: Rows, artifact: str, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the parts of an artifact one after the other, so that one is held at a time."""
    for part in range(len(rows.artifact(artifact).parts)):
        yield rows.table(artifact, part, columns)
