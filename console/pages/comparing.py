"""Runs side by side: knobs that differ, funnels, losses laid over each other, scores, documents that changed fate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console.pages.scores import KEYS, drawn_scores, scores_table
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Row, Table
from starloom.console.trainings import Training, finished
from starloom.console.turns import InTurn
from starloom.lineage.errors import ConfigError
from starloom.queries.compare import compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from starloom.lineage.records import Run

router = APIRouter(tags=["runs"], route_class=InTurn)
LEAST, MOST = 2, 8
SHOWN_DOCUMENTS = 20
SHOWN_LANGUAGES = 4
"""Languages whose held-out losses are laid over each other, those with most tokens."""


@router.get("/compare")
def compare_runs(
    here: Here, run: Annotated[list[str] | None, Query(description="Two to eight runs; the others are held against the first.")] = None
) -> Response:
    """Compare runs with the first of them."""
    asked = run or []
    if not LEAST <= len(asked) <= MOST:
        raise ConfigError(f"{len(asked)} runs cannot be compared", hint=f"choose {LEAST} to {MOST} in the list of runs")
    runs = [here.store.run(name) for name in asked]
    limit = SHOWN_DOCUMENTS if here.form == "html" else None
    pairs = [compare(here.store, runs[0].id, other.id, limit) for other in runs[1:]]
    names = [chr(ord("A") + number) for number in range(len(runs))]
    scores = _scores(pairs, names)
    tables = [_knobs(pairs, names), _funnels(pairs, names), scores_table(scores), _differences(pairs, names), _fates(pairs, names, here)]
    return here.answer(
        "compare.html",
        {"runs": [one.id for one in runs], "comparisons": pairs},
        title="Runs compared",
        crumbs=[Crumb("Runs", here.links.to("runs")), Crumb("compare")],
        tables=tables,
        command=here.command("diff", runs[0].id, runs[1].id),
        runs=list(zip(names, runs, strict=True)),
        dots_of=drawn_scores(scores, names),
        curves_of=_curves(here, runs, names),
        pairs=list(zip(names[1:], pairs, strict=True)),
        num_code=len(
            {(line["step"], line["name"]) for pair in pairs for line in pair["settings"] if line["what"] in ("code", "libraries")}
        ),
    )


def _knobs(pairs: list[dict[str, Any]], names: list[str]) -> Table:
    """Return the knobs that differ: a row each, a column a run."""
    rows: dict[tuple[str, str], Row] = {}
    for name, pair in zip(names[1:], pairs, strict=True):
        for line in pair["settings"]:
            if line["what"] in ("config", "step"):
                rows.setdefault((line["step"], line["name"]), {"step": line["step"], "knob": line["name"], names[0]: line["before"]})[
                    name
                ] = line["after"]
    for row in rows.values():
        row |= {name: row[names[0]] for name in names if name not in row}  # as the first has it
        row |= {
            name: "none" if row[name] is None else row[name] if isinstance(row[name], (int, float)) else str(row[name]) for name in names
        }
    return Table(
        "knobs", (Column("step", "step"), Column("knob", "knob"), *(Column(name, name, "code") for name in names)), list(rows.values())
    )


def _funnels(pairs: list[dict[str, Any]], names: list[str]) -> Table:
    rows: dict[str, Row] = {}
    for name, pair in zip(names[1:], pairs, strict=True):
        for line in pair["funnel"]:
            row = rows.setdefault(line["step"], {"step": line["step"]})
            for side, column in (("before", names[0]), ("after", name)):
                if line[side] is not None:
                    row[column] = line[side]["documents"]
    return Table("funnel", (Column("step", "step"), *(Column(name, name, "number") for name in names)), list(rows.values()))


def _scores(pairs: list[dict[str, Any]], names: list[str]) -> list[Row]:
    """Return the scores of every run: a row for each score and run that has it, those of one score together."""
    rows: dict[tuple[str, ...], dict[str, Row]] = {}
    for name, pair in zip(names[1:], pairs, strict=True):
        for line in pair["scores"]:
            of_runs = rows.setdefault(tuple(str(line[key]) for key in KEYS), {})
            for side, run in (("before", names[0]), ("after", name)):
                if line[side] is not None:
                    ends = {end: line[f"{side}_{end}"] for end in ("low", "high")}
                    of_runs[run] = {**{key: line[key] for key in KEYS}, "run": run, "value": line[side], **ends}
    return [of_runs[name] for of_runs in rows.values() for name in names if name in of_runs]


def _differences(pairs: list[dict[str, Any]], names: list[str]) -> Table:
    """Return what can be said of each score on the questions that both runs were asked."""
    rows = []
    for name, pair in zip(names[1:], pairs, strict=True):
        for line in pair["scores"]:
            if line["before"] is not None and line["after"] is not None:
                says = {True: "differ", False: "no difference shown", None: "cannot be said"}[line["differs"]]
                rows.append({**line, "run": f"{name} - {names[0]}", "verdict": says})
    columns = (
        *(Column(key, key) for key in (*KEYS, "run")),
        Column("verdict", "verdict"),
        Column("difference", "difference", "amount"),
        Column("difference_low", "from", "amount"),
        Column("difference_high", "to (95 %)", "amount"),
        Column("p_value", "p", "amount"),
        Column("num_better", "better", "number"),
        Column("num_worse", "worse", "number"),
        Column("num_common", "questions", "number"),
        Column("test", "test"),
    )
    return Table("differences", columns, rows)


def _fates(pairs: list[dict[str, Any]], names: list[str], here: Page) -> Table:
    rows = []
    for name, pair in zip(names[1:], pairs, strict=True):
        for line in pair["documents"]["list"]:
            told = {side: _fate(line[side]) for side in ("before", "after")}
            rows.append({"run": name, "document": line["doc_id"], "repo": line.get("repo"), "path": line.get("path"), **told})
    columns = (
        Column("run", "run"),
        Column("repo", "repository"),
        Column("path", "path", "code", lambda row: here.links.document(row["document"])),
        Column("before", f"in {names[0]}"),
        Column("after", "in the other"),
    )
    return Table("documents", columns, rows, sum(pair["documents"]["num_changed"] for pair in pairs))


def _fate(fate: Any) -> str:
    if not isinstance(fate, dict):
        return str(fate)
    return f"{fate['fate']}, {fate['rule']}" if fate.get("rule") and not fate.get("step") else str(fate["fate"])


def _curves(here: Page, runs: list[Run], names: list[str]) -> list[tuple[str, dict[str, list[tuple[int, float]]]]]:
    """Return for each training the losses of all runs that have it: of the batches, held out, and held out by language."""
    steps = dict.fromkeys(step.name for run in runs for step in run.steps if "Losses" in step.outputs)
    found = []
    for step in steps:
        trained = {
            name: finished(here.store, run, step)
            for name, run in zip(names, runs, strict=True)
            if (record := run.step(step)) is not None and "Losses" in record.outputs
        }
        for what, points_of in _measures(list(trained.values())):
            lines = {name: points for name, training in trained.items() if (points := points_of(training))}
            if lines:
                found.append((f"{step}: {what}", lines))
    return found


def _measures(trained: list[Training]) -> list[tuple[str, Callable[[Training], list[tuple[int, float]]]]]:
    """Return what is laid over each other: a name, and how a training gives it. Languages are those of the first run that has any."""
    languages = next((training.languages for training in trained if training.languages), [])[:SHOWN_LANGUAGES]
    return [
        ("loss of the batches", lambda training: training.loss),
        ("held-out loss", lambda training: training.of_language("all")),
        *((f"held-out loss of {language}", lambda training, language=language: training.of_language(language)) for language in languages),
    ]
