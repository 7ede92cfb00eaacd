"""Find: one box for a path, repository, id or hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import RedirectResponse, Response

from starloom.console.pages.documents import RunName
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Table
from starloom.console.turns import InTurn
from starloom.lineage.errors import InputError
from starloom.queries.finding import MOST, find_all

router = APIRouter(tags=["find"], route_class=InTurn)
LONGEST_QUERY = 2000
NOT_FOUND = 404


@router.get("/find")
def find_page(
    here: Here,
    q: Annotated[str, Query(max_length=LONGEST_QUERY, description="A path, repository, doc_id, SWHID, run, sequence or hash.")] = "",
    run: RunName = None,
) -> Response:
    """Lead to what is meant, if that is one thing; else list what it could be."""
    words, problem, hint = q.strip(), None, None
    found: list[dict[str, Any]] = []
    if words:
        try:
            found = find_all(here.store, words, run)
        except InputError as error:
            if here.form != "html":
                raise
            problem, hint = error.message, error.hint
    if len(found) == 1 and here.form == "html" and found[0]["kind"] != "skipped":
        return RedirectResponse(_address(here, found[0]), 303)
    listed = [{**each, "address": _address(here, each)} for each in found]
    columns = (Column("kind", "what"), Column("name", "name", "code", lambda row: row["address"]), Column("about", "more"))
    return here.answer(
        "find.html",
        {"q": words, "found": listed},
        title=f"Find {words}" if words else "Find",
        crumbs=[Crumb("Find")],
        tables=[Table("found", columns, [{**each, "about": _about(each)} for each in listed])],
        command=here.command("trace", words, *(("--run", run) if run else ())) if words else None,
        code=NOT_FOUND if problem else 200,
        words=words,
        is_cut=len(found) >= MOST,
        problem=problem,
        hint=hint,
    )


def _about(found: dict[str, Any]) -> str | None:
    if found["kind"] == "skipped":
        return f"did not become a document: {found['rule']}"
    if found["kind"] == "document":
        return f"dropped at {found['dropped']}" if found.get("dropped") else found.get("doc_id")
    return found.get("type") or found.get("run")


def _address(here: Page, found: dict[str, Any]) -> str:
    """Return the address of the page about a find."""
    links, run = here.links, found.get("run")
    ways: dict[str, Callable[[], str]] = {
        "run": lambda: links.run(found["run"]),
        "step": lambda: links.step(found["run"], found["step"]),
        "conflicts": lambda: links.conflicts(run),
        "document": lambda: links.document(found["doc_id"], run),
        "cluster": lambda: links.cluster(found["name"], run, found["step"]),
        "skipped": lambda: links.repository(found["repo"], run),
        "checkpoint": lambda: links.checkpoint(found["name"], run),
        "sequence": lambda: links.sequence(found["name"], run),
        "repository": lambda: links.repository(found["name"], run),
        "artifact": lambda: links.artifact(found["name"]),
    }
    return ways[found["kind"]]()
