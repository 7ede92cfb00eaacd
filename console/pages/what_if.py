"""What a step would keep with other knobs: the answer of `starloom what-if` from what a run stored, with its form and its curve."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console import curves
from starloom.console.pages.runs import crumbs_of_run
from starloom.console.rendering import Crumb, Here
from starloom.console.tables import Column, Table, repo_and_path
from starloom.console.turns import InTurn
from starloom.flows.what_if import adjustable, ask_run, parse_range
from starloom.lineage.errors import StarloomError

router = APIRouter(tags=["runs"], route_class=InTurn)
SHOWN_EXAMPLES, MOST_SETTINGS, MOST_CHARACTERS = 10, 20, 20_000
SPREAD = 2.0
"""A sweep is proposed from nothing to so many times the number."""


@router.get("/runs/{run}/steps/{step}/what-if")
def what_if_page(
    here: Here,
    run: str,
    step: str,
    settings: Annotated[str, Query(alias="set", max_length=MOST_CHARACTERS, description="knob=value, one a line, as they would be.")] = "",
    sweep: Annotated[str, Query(max_length=200, description="knob=a..b[:n], the range of a knob to draw.")] = "",
) -> Response:
    """Tell which documents a step would drop or keep with other knobs; nothing is measured again, nothing is written."""
    record = here.store.run(run)
    given = [line.strip() for line in settings.splitlines() if line.strip()][:MOST_SETTINGS]
    found: dict[str, Any] | None = None
    drawn: dict[str, Any] | None = None
    problem: StarloomError | None = None
    numbers = adjustable(here.store, record.id, step)
    try:
        found, drawn = ask_run(
            here.store, record.id, step, given, parse_range(sweep.strip()) if sweep.strip() else None, limit=SHOWN_EXAMPLES
        )
    except StarloomError as error:
        if here.form != "html":
            raise
        problem = error
    data = {**(found or {}), "sweep": drawn}
    words = [word for each in given for word in ("--set", f"{step}.{each}")]
    return here.answer(
        "what_if.html",
        data,
        title=f"What if, {step}",
        crumbs=[*crumbs_of_run(here, record.id), Crumb(step, here.links.step(record.id, step)), Crumb("what if")],
        tables=_tables(here, record.id, found, drawn),
        command=here.command("what-if", "RECIPE", *words, "--run", record.id) if words else None,
        code=200 if problem is None else 400,
        step=step,
        run=record.id,
        knobs="\n".join(given),
        sweep=sweep,
        found=found if given else None,
        drawn=drawn,
        curve=_curve(drawn) if drawn else None,
        problem=problem,
        numbers=numbers,
        proposals=[f"{path}=0..{value * SPREAD:g}" if value else f"{path}=0..1" for path, value in numbers.items()],
    )


def _curve(drawn: dict[str, Any]) -> Any:
    lines = {
        label: [(float(point["value"]), 100 * point[name]) for point in drawn["points"]]
        for label, name in (("% of documents kept", "documents_share"), ("% of text kept", "bytes_share"))
    }
    return curves.curves(lines, across=drawn["knob"].rpartition(".")[2], up="kept")


def _tables(here: Here, run: str, found: dict[str, Any] | None, drawn: dict[str, Any] | None) -> list[Table]:
    languages = (
        Column("language", "language"),
        Column("newly_dropped_documents", "newly dropped", "number"),
        Column("newly_dropped_bytes", "text", "bytes"),
        Column("newly_kept_documents", "newly kept", "number"),
        Column("newly_kept_bytes", "text", "bytes"),
    )
    examples = (
        Column("fate", "fate"),
        *repo_and_path(here.links, run),
        Column("language", "language"),
        Column("rule", "dropped by", "code"),
        Column("value", "value", "amount"),
        Column("threshold", "threshold", "amount"),
        Column("doc_id", "document", "id", lambda row: here.links.document(row["doc_id"], run)),
    )
    points = (
        Column("value", "value", "amount"),
        Column("documents", "documents kept", "number"),
        Column("bytes", "text kept", "bytes"),
        Column("newly_dropped", "newly dropped", "number"),
        Column("newly_kept", "newly kept", "number"),
    )
    reruns = (Column("step", "step", href=lambda row: here.links.step(run, row["step"])), Column("seconds", "took", "seconds"))
    told = found or {"languages": [], "examples": {}, "reruns": []}
    listed = [{"fate": fate.replace("_", " "), **row} for fate, rows in told["examples"].items() for row in rows]
    return [
        Table("languages", languages, told["languages"]),
        Table("examples", examples, listed),
        Table("points", points, drawn["points"] if drawn else []),
        Table("reruns", reruns, told["reruns"]),
    ]
