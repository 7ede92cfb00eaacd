"""Checkpoints: whose text one saw, by licence, language, repository and step."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console import charts
from starloom.console.pages.documents import RunName
from starloom.console.pages.scores import drawn_scores, scores_table
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Table, repo_and_path, totals
from starloom.console.turns import InTurn
from starloom.queries.questions import newest
from starloom.queries.tracing import trace

router = APIRouter(tags=["checkpoints"], route_class=InTurn)
_HASH = re.compile(r"[0-9a-f]{64}")
SHOWN_DOCUMENTS = 50
SHOWN_TOTALS = 12
GROUPS = (("licenses", "licence"), ("languages", "language"), ("repositories", "repository"), ("steps", "steps"))


@router.get("/checkpoints/{name}")
def one_checkpoint(
    here: Here,
    name: str,
    run: RunName = None,
    step: Annotated[int | None, Query(ge=0, le=2**53, description="Only what training had seen by this step.")] = None,
    limit: Annotated[int | None, Query(ge=0, le=1_000_000, description="At most so many documents.")] = None,
) -> Response:
    """Show the documents that a checkpoint saw, and their shares. It is named by its hash or the step that made it."""
    if run is None and _HASH.fullmatch(name):  # the newest run that made it, without reading every run
        run = next((maker["run"] for maker in reversed(here.catalogue.makers(name))), None)
    run = newest(here.store).id if run is None else run
    found = _seen(here, name, run, step, here.limit(limit, SHOWN_DOCUMENTS))
    at, links, of_run = found["checkpoint"], here.links, found["run"]
    scores = found["scores"]
    return here.answer(
        "checkpoint.html",
        found,
        title=f"Checkpoint {at['artifact'][:12]}",
        crumbs=[Crumb(of_run, links.run(of_run)), Crumb(at["step"], links.step(of_run, at["step"])), Crumb("checkpoint")],
        tables=[*_tables(here, found), scores_table(scores)],
        dots_of=drawn_scores(scores),
        command=here.command("trace", f"checkpoint:{at['artifact']}", "--run", of_run, *(() if step is None else ("--step", str(step)))),
        groups=[(key, label, charts.bars(found[key][: SHOWN_TOTALS if key != "steps" else None])) for key, label in GROUPS],
        until=step,
    )


def _seen(here: Page, name: str, run: str | None, step: int | None, limit: int | None) -> dict[str, Any]:
    """Return what a checkpoint saw: of a finished run as it was found before."""

    def ask() -> dict[str, Any]:
        return trace(here.store, f"checkpoint:{name}", run_id=run, until_step=step, limit=limit)

    record = None if run is None or here.form != "html" else here.store.run(run)
    if record is None or record.finished is None:
        return ask()
    return here.catalogue.remember(("checkpoint", name, record.id, step, limit), ask)


def _tables(here: Page, found: dict[str, Any]) -> list[Table]:
    links, run, is_page = here.links, found["run"], here.form == "html"

    def repository(row: dict[str, Any]) -> str:
        return links.repository(row["name"], run)

    several = len(found["checkpoint"]["trainings"]) > 1
    columns = (
        *repo_and_path(links, run),
        Column("language", "language"),
        Column("license", "licence", "code"),
        Column("tokens", "tokens", "number"),
        Column("tokens_seen", "with repeats", "number"),
        Column("sequences", "sequences", "number"),
        Column("copies", "copies", "number"),
        Column("first_step", "first step", "number"),
        Column("last_step", "last step", "number"),
        *((Column("first_training", "first of"), Column("last_training", "last of")) if several else ()),
        Column("swhid", "SWHID", "code"),
        Column("doc_id", "document", "id", lambda row: links.document(row["doc_id"], run)),
    )
    return [
        Table("documents", columns, found["documents"], found["num_documents"]),
        *(
            totals(
                key,
                label,
                found[key][: SHOWN_TOTALS if is_page and key != "steps" else None],
                len(found[key]),
                repository if key == "repositories" else None,
            )
            for key, label in GROUPS
        ),
    ]
