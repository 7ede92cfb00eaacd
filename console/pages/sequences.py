"""Packed sequences: whose bytes each token is, in which role, and when training saw it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from markupsafe import Markup
from starlette.responses import Response

from starloom.console.formats import token_text
from starloom.console.pages.documents import RunName
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Table, repo_and_path
from starloom.console.turns import InTurn
from starloom.queries.viewing import view_sequence
from starloom.tasks.kernels.packing.roles import ROLES

router = APIRouter(tags=["sequences"], route_class=InTurn)
NUM_COLOURS = 6
SHOWN_STEPS = 50
SHOWN_TOKENS = 8192
"""Of a span, one by one; a longer one is shown in one piece."""


@router.get("/sequences/{name}")
def one_sequence(here: Here, name: str, run: RunName = None) -> Response:
    """Show a packed sequence, PART:ROW: its tokens by document and role, and the training steps that saw it."""
    found = view_sequence(here.store, name, run)
    links, of_run, who = here.links, found["run"], found["sequence"]
    spans = (
        Column("token_start", "from token", "number"),
        Column("token_end", "to", "number"),
        Column("role", "role"),
        Column("document", "document", "number"),
        Column("context", "context", "number"),
        *repo_and_path(links, of_run),
        Column("byte_start", "from byte", "number"),
        Column("byte_end", "to", "number"),
        Column("doc_id", "doc_id", "id", lambda row: _bytes(here, of_run, row)),
    )
    seen = (
        Column("train", "trained by", href=lambda row: links.step(of_run, row["train"])),
        Column("step", "step", "number"),
        Column("checkpoint", "checkpoint", "id", lambda row: links.checkpoint(row["checkpoint"], of_run)),
    )
    sightings = found["seen"]
    return here.answer(
        "sequence.html",
        found,
        title=f"Sequence {name}",
        crumbs=[Crumb(of_run, links.run(of_run)), Crumb(who["step"], links.step(of_run, who["step"])), Crumb(f"sequence {name}")],
        tables=[
            Table("spans", spans, found["spans"]),
            Table("seen", seen, sightings[: here.limit(None, SHOWN_STEPS)], len(sightings)),
        ],
        command=here.command("trace", f"seq:{name}", "--run", of_run),
        pieces=[_piece(here, of_run, span, who["starts"]) for span in found["spans"]],
        roles=[role for role in ROLES if any(span["role"] == role for span in found["spans"])],
        neighbours=[(label, links.sequence(f"{who['part']}:{row}", of_run)) for label, row in _around(here, found) if row is not None],
    )


def _around(here: Page, found: dict[str, Any]) -> list[tuple[str, int | None]]:
    row, step = found["sequence"]["row"], here.store.run(found["run"]).step(found["sequence"]["step"])
    assert step is not None, "a trace names steps of its run"
    num_rows = here.store.artifact(step.outputs["Packed"]["artifact"]).parts[found["sequence"]["part"]].num_rows
    return [("← the one before", row - 1 if row else None), ("the one after →", row + 1 if row + 1 < num_rows else None)]


def _bytes(here: Page, run: str, span: dict[str, Any], piece: dict[str, Any] | None = None) -> str | None:
    """Return the address of the bytes of a span, or of one token of it, in their document."""
    if not span["doc_id"]:
        return None
    place = span if piece is None or piece["byte_start"] is None else piece
    return here.links.document(span["doc_id"], run, start=place["byte_start"], end=place["byte_end"])


def _piece(here: Page, run: str, span: dict[str, Any], starts: list[int]) -> dict[str, Any]:
    """Return a span as the page shows it: its tokens, where each leads, and the classes of its colours."""
    colour = "" if span["document"] is None else f" d{(span['document'] - 1) % NUM_COLOURS}"
    source = "" if span["repo"] is None else f", {span['repo']}/{span['path']}"
    whole = {"html": token_text(span["text"] or ""), "href": _bytes(here, run, span), "title": f"{span['role']}{source}"}
    tokens = span["tokens"] if len(span["tokens"]) <= SHOWN_TOKENS else []
    return {
        "tokens": [{"html": _html(each), "href": _bytes(here, run, span, each), "title": _title(span, each)} for each in tokens] or [whole],
        "classes": f"r-{span['role']}{colour}",
        "context": span["context"] if span["context"] is not None and span["token_start"] in (0, *starts) else None,
        "num_tokens": span["token_end"] - span["token_start"],
        "is_pad": span["role"] == "pad",
    }


def _html(token: dict[str, Any]) -> Markup:
    return token_text(token["text"], is_special=token["is_special"], is_partial=token["is_partial"])


def _title(span: dict[str, Any], token: dict[str, Any]) -> str:
    place = "" if token["byte_start"] is None else f", bytes {token['byte_start']:,}-{token['byte_end']:,}"
    return f"token {token['id']}, {span['role']}" + (f" of {span['repo']}/{span['path']}{place}" if span["repo"] else "")
