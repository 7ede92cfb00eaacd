"""Artifacts: what one holds, who made it, who read it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Form, Row, Table
from starloom.console.turns import InTurn
from starloom.lineage.views import Tabular
from starloom.queries.showing import describe_artifact
from starloom.tasks.schemas import ARTIFACTS

router = APIRouter(tags=["artifacts"], route_class=InTurn)
SHOWN_ROWS, MOST_ROWS = 10, 1000
SHOWN_USES = 20
SHOWN_PARTS = 50


@router.get("/artifacts/{name}")
def one_artifact(
    here: Here,
    name: str,
    rows: Annotated[int, Query(ge=0, le=MOST_ROWS, description="First rows to show.")] = SHOWN_ROWS,
) -> Response:
    """Show an artifact by its hash, or six digits or more of it: counts, schema, parts, first rows, makers and users."""
    found = describe_artifact(here.store, name, rows)
    whole = found["artifact"]
    makers, users = (here.catalogue.makers(whole)[::-1], here.catalogue.users(whole)[::-1])
    data = {
        **found,
        "made_by": [f"{row['run']}/{row['step']}" for row in makers],
        "used_by": [f"{row['run']}/{row['step']}" for row in users],
    }
    tables = _tables(here, found, makers, users)
    return here.answer(
        "artifact.html",
        data,
        title=f"{found['type']} {whole[:12]}",
        crumbs=[Crumb("Runs", here.links.to("runs")), *_maker_crumbs(here, makers), Crumb(found["type"])],
        tables=tables,
        command=here.command("show", f"artifact:{whole}"),
        about=(ARTIFACTS[found["type"]].__doc__ or "").partition("\n\n")[0] if found["type"] in ARTIFACTS else None,
    )


def _maker_crumbs(here: Page, makers: list[Row]) -> list[Crumb]:
    if not makers:
        return []
    run, step = makers[0]["run"], makers[0]["step"]
    return [Crumb(run, here.links.run(run)), Crumb(step, here.links.step(run, step))]


def _tables(here: Page, found: dict[str, Any], makers: list[Row], users: list[Row]) -> list[Table]:
    links, shown = here.links, here.limit(None, SHOWN_USES)
    uses = (
        Column("run", "run", "code", lambda row: links.run(row["run"])),
        Column("step", "step", href=lambda row: links.step(row["run"], row["step"])),
    )
    refs = (
        Column("through", "through"),
        Column("type", "type"),
        Column("artifact", "artifact", "id", lambda row: links.artifact(row["artifact"])),
    )
    parts = (
        Column("part", "part", "text"),
        Column("hash", "hash", "code"),
        Column("num_rows", "rows", "number"),
        Column("num_bytes", "size", "bytes"),
        Column("counts", "counts", "counts"),
    )
    numbered = [
        {**part, "part": part.get("name", str(number)), "counts": {k: v for k, v in part.get("counts", {}).items() if isinstance(v, int)}}
        for number, part in enumerate(found["parts"])
    ]
    upstream, downstream = _neighbours(here, makers, users)
    return [
        Table("rows", _columns(here, found["rows"], makers), found["rows"]),
        Table("parts", parts, numbered[: here.limit(None, SHOWN_PARTS)], len(numbered)),
        Table(
            "schema", (Column("name", "column", "code"), Column("type", "type", "code"), Column("nullable", "may be null")), _schema(found)
        ),
        Table("made_by", uses, makers[:shown], len(makers)),
        Table("used_by", uses, users[:shown], len(users)),
        Table("upstream", refs, upstream),
        Table("downstream", refs, downstream),
    ]


def _neighbours(here: Page, makers: list[Row], users: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return what the newest maker read, and what the newest run that used it made from it."""
    upstream, downstream = [], []
    if makers:
        step = here.store.run(makers[0]["run"]).step(makers[0]["step"])
        for name, ref in step.inputs.items() if step else ():
            upstream += [{"through": name, "type": kind, "artifact": hash_} for kind, hash_ in _refs(ref)]
    for user in users:
        if user["run"] == users[0]["run"] and (step := here.store.run(user["run"]).step(user["step"])) is not None:
            downstream += [{"through": step.name, "type": kind, "artifact": out["artifact"]} for kind, out in step.outputs.items()]
    return upstream, downstream


def _refs(ref: dict[str, Any]) -> list[tuple[str, str]]:
    return [(kind, name) for kind, name in ((ref["type"], ref["artifact"]), ("Verdicts", ref.get("verdicts"))) if name]


def _schema(found: dict[str, Any]) -> list[Row]:
    kind = ARTIFACTS.get(found["type"])
    if kind is None or not issubclass(kind, Tabular):
        return []
    return [{"name": field.name, "type": str(field.type), "nullable": "yes" if field.nullable else "no"} for field in kind.SCHEMA]


def _columns(here: Page, rows: list[Row], makers: list[Row]) -> list[Column]:
    """Return the columns of an artifact's first rows, in the form that their values have."""
    run = makers[0]["run"] if makers else None
    columns = []
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows if row[name] is not None]
        form: Form = "code"
        if values and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            form = "amount"
        if name == "doc_id":
            columns.append(Column(name, name, "id", lambda row: here.links.document(row["doc_id"], run)))
        else:
            columns.append(Column(name, name, form))
    return columns
