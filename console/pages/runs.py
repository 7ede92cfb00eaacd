"""Runs: their list, and the page of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse, Response

from starloom.console.forms import query_of
from starloom.console.links import Links
from starloom.console.pages.watching import live_view
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Row, Table, facts
from starloom.console.turns import InTurn
from starloom.flows.live import watched
from starloom.lineage.errors import InputError
from starloom.queries.showing import show_run

if TYPE_CHECKING:
    from starloom.console.recipes import Known

router = APIRouter(tags=["runs"], route_class=InTurn)
RUNS_A_PAGE = 50


@router.get("/runs")
def list_runs(
    here: Here,
    recipe: Annotated[str | None, Query(description="Only runs of this recipe.")] = None,
    status: Annotated[str | None, Query(description="Only runs in this state.")] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000, description="Which fifty, the newest first.")] = 1,
) -> Response:
    """List the runs of a store, the newest first."""
    everything = here.catalogue.rows()[::-1]
    found = [row for row in everything if recipe in (None, "", row["recipe"]) and status in (None, "", row["status"])]
    last = max(1, -(-len(found) // RUNS_A_PAGE))
    number = min(page, last)
    shown = found[(number - 1) * RUNS_A_PAGE : number * RUNS_A_PAGE] if here.form in ("html", "json") else found
    return here.answer(
        "runs.html",
        {"store": here.store.url, "runs": shown, "num_runs": len(found), "page": number, "num_pages": last},
        title="Runs",
        tables=[_runs_table(here.links, shown)],
        command=here.command("runs"),
        total=len(found),
        of_all=len(everything),
        recipes=sorted({row["recipe"] for row in everything}),
        statuses=sorted({row["status"] for row in everything}),
        recipe=recipe,
        status=status,
        number=number,
        last=last,
        page_address=lambda number: here.with_query(page=number),
    )


def _runs_table(links: Links, rows: list[Row]) -> Table:
    columns = (
        Column("run", "run", "code", lambda row: links.run(row["run"])),
        Column("recipe", "recipe"),
        Column("status", "status", "status"),
        Column("started", "started (UTC)", "moment"),
        Column("seconds", "work", "seconds"),
        Column("steps", "steps", "number"),
        Column("steps_cached", "cached", "number"),
        Column("documents", "documents", "number"),
        Column("tags", "tags"),
    )
    return Table("runs", columns, [{**row, "tags": ", ".join(row["tags"])} for row in rows])


@router.get("/runs/{run}")
def one_run(here: Here, run: str) -> Response:
    """Describe a run: its steps, what they kept, what they wrote, what they warn of."""
    try:
        record = here.store.run(run)
    except InputError:
        if (found_elsewhere := _elsewhere(here, run)) is not None:
            return found_elsewhere
        raise
    offered = _offered(here, record.recipe)
    found = show_run(here.store, record)
    view = live_view(here, record, watched(here.store, record))
    conflicts = {step: number for step, number in found["license_conflicts"].items() if number}
    return here.answer(
        "run.html",
        found,
        title=f"{found['recipe']} {found['run']}",
        crumbs=[*crumbs_of_run(here, record.id)[:-1], Crumb(record.id)],
        tables=[*run_tables(here, found), *(table for each in view["trainings"] for table in (each.table, each.samples_table))],
        command=here.command("show", record.id),
        can_rerun=offered is not None,
        rerun_with=_knobs_of(offered, record.command) if offered else [],
        error=_brief(found["error"]) if any(step["log"] for step in view["steps"]) else found["error"],
        **view,
        conflicts_text=", ".join(f"{step} {number}" for step, number in conflicts.items())
        or ("none" if found["license_conflicts"] else None),
    )


def _brief(error: str | None) -> str | None:
    """Return an error's first line and its hint; the log below has what it says between."""
    if error is None:
        return None
    first, *rest = error.splitlines()
    return "\n".join([first.removesuffix("; its last lines:"), *(line for line in rest[-1:] if line.lstrip().startswith("→"))])


def _offered(here: Page, recipe: str) -> Known | None:
    """Return the recipe of a run, if the console offers it."""
    found = (known for known in here.request.app.state.recipes.all() if known.name == recipe and known.problem is None)
    return next(found, None)


def _knobs_of(known: Known, command: list[str]) -> list[tuple[str, str]]:
    """Return the fields of a recipe's form that stand for what a run was given."""
    fields = query_of(known.groups, known.parameters_of_run(command))
    return [(name, each) for name, value in fields.items() for each in (value if isinstance(value, list) else [value])]


def _elsewhere(here: Page, run: str) -> Response | None:
    """Lead to a run of that id in another of the console's stores, where none was named."""
    for name, _ in here.settings.stores:
        if name != here.store_name and run in here.request.app.state.stores.open(name).run_ids():
            return RedirectResponse(Links(name).run(run), 303)
    return None


def crumbs_of_run(here: Page, run: str) -> list[Crumb]:
    """Return the way to the page of a run."""
    return [Crumb("Runs", here.links.to("runs")), Crumb(run, here.links.run(run))]


def run_tables(here: Page, found: dict[str, Any]) -> list[Table]:
    """Return the tables of a run's page: funnel, steps, outputs, made."""
    links, run = here.links, found["run"]

    def step_page(row: Row) -> str:
        return links.step(run, row["step"])

    funnel = (
        Column("step", "step", href=step_page),
        Column("documents", "documents left", "number"),
        Column("bytes", "text", "bytes"),
        Column("dropped", "dropped", "number"),
        Column("rules", "by rule", "counts"),
    )
    steps = (
        Column("step", "step", href=step_page),
        Column("stage", "stage"),
        Column("status", "status", "status"),
        Column("seconds", "took", "seconds"),
        Column("actions", "actions", "number"),
        Column("cached", "from the store", "number"),
    )
    outputs = (
        Column("step", "step", href=step_page),
        Column("type", "type"),
        Column("artifact", "artifact", "id", lambda row: links.artifact(row["artifact"])),
        Column("rows", "rows", "number"),
        Column("parts", "parts", "number"),
        Column("bytes", "size", "bytes"),
    )
    step_rows = [
        {
            "step": step["name"],
            "stage": step["stage"],
            "status": step["status"],
            "seconds": step["seconds"],
            "actions": step["num_actions"],
            "cached": step["num_cached"],
        }
        for step in found["steps"]
    ]
    return [
        Table("funnel", funnel, found["funnel"]),
        Table("steps", steps, step_rows),
        Table("outputs", outputs, [row for step in found["steps"] for row in output_rows(step["name"], step["outputs"])]),
        facts("made", found["made"]),
    ]


def output_rows(step: str, outputs: dict[str, dict[str, Any]]) -> list[Row]:
    """Return a row for each artifact that a step wrote."""
    counted = ("rows", "parts", "bytes")
    return [
        {"step": step, "type": kind, "artifact": out["artifact"], **{name: out["counts"].get(name) for name in counted}}
        for kind, out in outputs.items()
    ]
