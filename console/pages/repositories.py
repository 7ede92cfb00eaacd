"""Repositories: what became of the files of one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console import charts
from starloom.console.pages.documents import RunName
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Table
from starloom.console.turns import InTurn
from starloom.queries.tracing import trace

router = APIRouter(tags=["repositories"], route_class=InTurn)
SHOWN_DROPS = 100


@router.get("/repositories/{name:path}")
def one_repository(
    here: Here,
    name: str,
    run: RunName = None,
    limit: Annotated[int | None, Query(ge=0, le=1_000_000, description="At most so many dropped documents.")] = None,
) -> Response:
    """Show how many documents of a repository each step kept, which it dropped, and which checkpoints saw the rest."""
    found = trace(here.store, f"repo:{name}", run_id=run, limit=here.limit(limit, SHOWN_DROPS))
    of_run = found["run"]
    return here.answer(
        "repository.html",
        found,
        title=name,
        crumbs=[Crumb(of_run, here.links.run(of_run)), Crumb(name)],
        tables=_tables(here, found),
        command=here.command("trace", f"repo:{name}", "--run", of_run),
        funnel=charts.funnel(found["steps"]),
        languages=charts.bars(
            [{"name": language, "documents": number} for language, number in found["repository"]["languages"].items()][:12], "documents"
        ),
    )


def _tables(here: Page, found: dict[str, Any]) -> list[Table]:
    links, run = here.links, found["run"]
    steps = (
        Column("step", "step", href=lambda row: links.step(run, row["step"])),
        Column("documents", "documents left", "number"),
        Column("dropped", "dropped", "number"),
        Column("rules", "by rule", "counts"),
    )
    drops = (
        Column("path", "path", "code", lambda row: links.document(row["doc_id"], run)),
        Column("step", "step", href=lambda row: links.step(run, row["step"])),
        Column("rule", "rule", "code"),
        Column("value", "value", "amount"),
        Column("threshold", "threshold", "amount"),
        Column("detail", "detail", "code"),
        Column("doc_id", "document", "id", lambda row: links.document(row["doc_id"], run)),
    )
    training = (
        Column("step", "packed by", href=lambda row: links.step(run, row["step"])),
        Column("documents", "documents", "number"),
        Column("tokens", "tokens", "number"),
        Column("sequences", "sequences", "number"),
        Column("not_packed", "in no sequence", "number"),
        Column("train", "trained by", href=lambda row: links.step(run, row["train"]) if row["train"] else None),
        Column("checkpoint", "checkpoint", "id", lambda row: links.checkpoint(row["checkpoint"], run)),
        Column("sequences_seen", "sequences seen", "number"),
        Column("first_step", "first step", "number"),
    )
    unseen = {"train": None, "checkpoint": None, "sequences_seen": None, "first_step": None}
    trained = [
        {**packing, **({**seen, "train": seen["step"], "step": packing["step"]} if seen else unseen)}
        for packing in found["training"]
        for seen in packing["checkpoints"] or [None]
    ]
    skipped = (Column("rule", "rule", "code"), Column("files", "files", "number"))
    return [
        Table("steps", steps, found["steps"]),
        Table("dropped", drops, found["dropped"], found["num_documents"] - found["num_kept"]),
        Table("training", training, trained),
        Table("skipped", skipped, [{"rule": rule, "files": number} for rule, number in found["skipped"]["rules"].items()]),
    ]
