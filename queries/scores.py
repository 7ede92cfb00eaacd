"""Scores of a run with their intervals, and whether two runs differ on the same questions.

Intervals follow from the stored Completions: a question is a problem of a benchmark, or a line to infill. Of held-out losses the stage
keeps the mean alone, so that they have none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.tasks.kernels.programs.intervals import difference_of, interval_of
from starloom.tasks.kernels.programs.pass_at_k import pass_at_k

if TYPE_CHECKING:
    from starloom.lineage.records import Run, StepState
    from starloom.queries.rows import Rows

NO_OUTCOMES = "no outcomes of single questions are kept"
NO_COMMON = "no question in common"
_PASS_AT = re.compile(r"pass@(\d+)")
_EXACT_MATCH = "exact-match"
_KEY = ("benchmark", "metric", "language")
_OUTCOMES = ["benchmark", "task_id", "sample", "language", "reference", "passed"]


class _Side(NamedTuple):
    """A run's evaluation: rows of Scores, and outcomes of questions."""

    scores: dict[tuple[str, str, str | None], dict[str, Any]]
    outcomes: pa.Table | None


def scores_of(rows: Rows, step: StepState) -> list[dict[str, Any]]:
    """Return the scores of a step that wrote Scores, in its order.

    Returns:
        For each benchmark, metric, language (None: all): `value`, `count` (of what was measured), `low` and `high` (95 %; None where
        `method` says why there are none), `method`.
    """
    side = _side(rows, step)
    return [_told(each, _questions(side, each)) for each in side.scores.values()]


def scores_of_checkpoint(rows: Rows, run: Run, checkpoint: str | None) -> list[dict[str, Any]]:
    """Return the scores that steps of a run gave a checkpoint, each with its `step`."""
    steps = [step for step in run.steps if "Scores" in step.outputs and checkpoint in {ref["artifact"] for ref in step.inputs.values()}]
    return [{"step": step.name, **score} for step in steps for score in scores_of(rows, step)]


def compared_scores(rows: Rows, before: Run, after: Run) -> list[dict[str, Any]]:
    """Return scores of both runs by step, benchmark, metric and language; empty where neither was evaluated.

    Returns:
        For each: `before`, `after` (values, None where a run lacks it), with `before_low`, `before_high`, `after_low`, `after_high`; and
        of the questions that both were asked (`num_common`): `difference`, `difference_low`, `difference_high`, `num_better`, `num_worse`
        (questions), `p_value`, `test`, and `differs` (None where nothing can be said).
    """
    names = dict.fromkeys(step.name for run in (before, after) for step in run.steps if "Scores" in step.outputs)
    return [row for name in names for row in _compared_step(rows, name, before, after)]


def _compared_step(rows: Rows, name: str, before: Run, after: Run) -> list[dict[str, Any]]:
    sides = []
    for run in (before, after):
        step = run.step(name)
        sides.append(_side(rows, step) if step is not None and "Scores" in step.outputs else _Side({}, None))
    return [_compared(name, key, *sides) for key in dict.fromkeys([*sides[0].scores, *sides[1].scores])]


def _compared(step: str, key: tuple[str, str, str | None], before: _Side, after: _Side) -> dict[str, Any]:
    told: dict[str, Any] = {"step": step, **dict(zip(_KEY, key, strict=True))}
    questions = []
    for name, side in (("before", before), ("after", after)):
        score = side.scores.get(key)
        asked = _questions(side, score) if score else {}
        questions.append(asked)
        whole = _told(score, asked) if score else {"value": None, "low": None, "high": None}
        told |= {name: whole["value"], f"{name}_low": whole["low"], f"{name}_high": whole["high"]}
    return {**told, **_difference(*questions)}


def _difference(first: dict[tuple[Any, ...], float], second: dict[tuple[Any, ...], float]) -> dict[str, Any]:
    common = sorted(first.keys() & second.keys(), key=str)
    names = ("difference", "difference_low", "difference_high", "p_value", "num_better", "num_worse")
    if not common:
        test = NO_COMMON if first and second else NO_OUTCOMES
        return {**dict.fromkeys(names), "num_common": 0, "test": test, "differs": None}
    found = difference_of(np.array([first[each] for each in common]), np.array([second[each] for each in common]))
    values = (found.value, found.low, found.high, found.p_value, found.num_better, found.num_worse)
    return {**dict(zip(names, values, strict=True)), "num_common": len(common), "test": found.method, "differs": found.is_shown}


def _side(rows: Rows, step: StepState) -> _Side:
    found: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for _, table in rows.tables(step.outputs["Scores"]["artifact"], None):
        found |= {(row["benchmark"], row["metric"], row["language"]): row for row in table.to_pylist()}
    if "Completions" not in step.outputs:
        return _Side(found, None)
    parts = [table for _, table in rows.tables(step.outputs["Completions"]["artifact"], _OUTCOMES)]
    return _Side(found, pa.concat_tables(parts) if parts else None)


def _questions(side: _Side, score: dict[str, Any]) -> dict[tuple[Any, ...], float]:
    """Return question → share of right answers, of what a score is the mean of; empty where that is not kept."""
    matched = _PASS_AT.fullmatch(score["metric"])
    if side.outcomes is None or (matched is None and score["metric"] != _EXACT_MATCH):
        return {}
    table = side.outcomes.filter(pc.equal(side.outcomes.column("benchmark"), score["benchmark"]))
    if score["language"] is not None:
        table = table.filter(pc.equal(table.column("language"), score["language"]))
    table = table.set_column(table.column_names.index("passed"), "passed", pc.cast(table.column("passed"), "int64"))
    asked = table.group_by(["task_id", "reference"]).aggregate([("passed", "sum"), ("passed", "count")]).to_pylist()
    k = int(matched[1]) if matched else 1
    return {
        (row["task_id"], row["reference"]): pass_at_k(row["passed_count"], row["passed_sum"], k)
        for row in asked
        if row["passed_count"] >= k
    }


def _told(score: dict[str, Any], questions: dict[tuple[Any, ...], float]) -> dict[str, Any]:
    told = {**{name: score[name] for name in _KEY}, "value": score["value"], "count": score["count"]}
    if not questions:
        return {**told, "low": None, "high": None, "method": NO_OUTCOMES}
    found = interval_of(np.array(list(questions.values())))
    return {**told, "low": found.low, "high": found.high, "method": found.method}
