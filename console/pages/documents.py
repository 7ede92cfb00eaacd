"""Documents: text, evidence, verdicts, redactions, clusters, sequences and the checkpoints that saw it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console.listing import SHOWN_LINES, Mark, line_of, line_starts, listing
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Row, Table, repo_and_path
from starloom.console.turns import InTurn
from starloom.queries.texts import characters_of
from starloom.queries.viewing import view_document

router = APIRouter(tags=["documents"], route_class=InTurn)
RunName = Annotated[str | None, Query(description="As this run saw it: an id, a tag or `latest`; by default the newest run that is done.")]
SHOWN_SEQUENCES = 30
LINES_BEFORE = 20
SHOWN_STEPS = 30


@router.get("/documents/{doc_id}")
def one_document(
    here: Here,
    doc_id: str,
    run: RunName = None,
    line: Annotated[int | None, Query(ge=1, le=2**40, description="First line of the text to show.")] = None,
    start: Annotated[int | None, Query(ge=0, le=2**40, description="First of the bytes to mark.")] = None,
    end: Annotated[int | None, Query(ge=0, le=2**40, description="Byte after the last one to mark.")] = None,
) -> Response:
    """Show a document: its text, every verdict on it, and everything that came of it."""
    found = view_document(here.store, doc_id, run)
    who, links = found["document"], here.links
    events = [_told(event) for event in found["events"]]
    marked = marks(found)
    if start is not None and end is not None and start < end:
        at = characters_of(found["text"], [start, end])
        marked.insert(0, Mark(at[start], at[end], "bytes", f"bytes {start:,}-{end:,}"))
    return here.answer(
        "document.html",
        found,
        title=f"{who['repo']}/{who['path']}",
        crumbs=[
            Crumb(found["run"], links.run(found["run"])),
            Crumb(who["repo"], links.repository(who["repo"], found["run"])),
            Crumb(who["path"]),
        ],
        tables=_tables(here, found),
        command=here.command("trace", f"doc:{who['doc_id']}", "--run", found["run"]),
        listing=listing(found["text"], who["path"], who["language"], marks=marked, first=line or _first_line(found["text"], marked)),
        events=events,
        has_difference=not found["fate"]["kept"] and _is_compared(found),
        signals=next((event["signals"] for event in found["events"] if event["event"] == "measured"), None),
        size_now=len(found["text"].encode()),
    )


def _first_line(text: str, marked: list[Mark]) -> int:
    """Return the line to begin with: the first, unless what is pointed at is beyond what one page shows."""
    pointed = next((mark.start for mark in marked if mark.kind != "redaction"), 0)
    at = line_of(line_starts(text), pointed)
    return 1 if at < SHOWN_LINES else at - LINES_BEFORE


def _told(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with the kind of dot that it has on the page."""
    return {
        **event,
        "dot": event["event"] if event["event"] in ("kept", "dropped") else "dropped" if event["event"] == "not packed" else "",
    }


def _is_compared(found: dict[str, Any]) -> bool:
    """Return whether the step that dropped a document has it beside another."""
    clusters = [cluster for cluster in found["clusters"] if cluster["step"] == found["fate"]["step"]]
    return any(
        member["aligned"] is not None and member["doc_id"] == found["document"]["doc_id"] for c in clusters for member in c["members"]
    )


def marks(found: dict[str, Any]) -> list[Mark]:
    """Return the places of a document's text to mark: redactions where they stand, and what it was dropped for."""
    text, marked = found["text"], []
    last = next((event for event in reversed(found["events"]) if event["event"] == "rewritten"), None)
    if last is not None and last["step"] == found["text_of"] and last["redactions"]:
        at = characters_of(text, sorted({each for span in last["redactions"] for each in (span["new_start"], span["new_end"])}))
        marked += [
            Mark(at[span["new_start"]], at[span["new_end"]], "redaction", f"{span['entity']} redacted by {span['detector']}")
            for span in last["redactions"]
        ]
    return marked + offence_marks(found["offence"])


def offence_marks(told: dict[str, Any] | None) -> list[Mark]:
    """Return the marks of the places that a verdict is about."""
    return [] if told is None else [Mark(place["start"], place["end"], "offence", place["label"]) for place in told["places"]]


def _tables(here: Page, found: dict[str, Any]) -> list[Table]:
    links, run, doc_id = here.links, found["run"], found["document"]["doc_id"]

    def step_page(row: Row) -> str:
        return links.step(run, row["step"])

    verdicts = (
        Column("step", "step", href=step_page),
        Column("event", "verdict", "status"),
        Column("rule", "rule", "code", lambda row: links.sample(run, row["step"], rule=row["rule"], kept=int(row["event"] == "kept"))),
        Column("value", "value", "amount"),
        Column("threshold", "threshold", "amount"),
        Column("detail", "detail", "code", lambda row: links.document(row["survivor"], run) if row["survivor"] else None),
    )
    judged = [
        {
            **{name: event[name] for name in ("step", "event", "rule", "value", "threshold")},
            "detail": _detail(event),
            "survivor": event["survivor"]["doc_id"] if event.get("survivor") else None,
        }
        for event in found["events"]
        if event["event"] in ("kept", "dropped")
    ]
    redactions = (
        Column("step", "step", href=step_page),
        Column("entity", "type"),
        Column("detector", "detector"),
        Column("start", "byte before", "number"),
        Column("end", "to", "number"),
        Column("new_start", "byte now", "number", lambda row: links.document(doc_id, run, start=row["new_start"], end=row["new_end"])),
        Column("new_end", "to", "number"),
    )
    licenses = (Column("step", "step", href=step_page), Column("license_class", "class"), Column("evidence", "evidence", "code"))
    sequences = (
        Column("sequence", "sequence", "code", lambda row: links.sequence(row["sequence"], run)),
        Column("step", "packed by", href=step_page),
        Column("split", "split"),
        Column("copies", "copies", "number"),
        Column("tokens", "tokens", "number"),
        Column("roles", "roles"),
    )
    seen = (
        Column("checkpoint", "checkpoint", "id", lambda row: links.checkpoint(row["checkpoint"], run)),
        Column("train", "trained by", href=lambda row: links.step(run, row["train"])),
        Column("step", "step", "number"),
        Column("sequence", "sequence", "code", lambda row: links.sequence(row["sequence"], run)),
    )
    spans = [{"step": event["step"], **span} for event in found["events"] for span in event.get("redactions", ())]
    packed = [_packed(event["step"], each) for event in found["events"] if event["event"] == "packed" for each in event["sequences"]]
    sightings = [
        {"checkpoint": event["checkpoint"], "train": event["step"], **each}
        for event in found["events"]
        if event["event"] == "trained"
        for each in event["seen"]
    ]
    is_page = here.form == "html"
    return [
        Table("verdicts", verdicts, judged),
        Table("licenses", licenses, found["licenses"]),
        Table("redactions", redactions, spans),
        Table("sequences", sequences, packed[: SHOWN_SEQUENCES if is_page else None], len(packed)),
        Table("seen", seen, sightings[: SHOWN_STEPS if is_page else None], len(sightings)),
        Table("clusters", member_columns(here, run), [row for cluster in found["clusters"] for row in member_rows(cluster)]),
    ]


def _detail(event: dict[str, Any]) -> str | None:
    """Return the words of a verdict; of a duplicate the name of its survivor, not only its number."""
    survivor = event.get("survivor")
    return f"{survivor['repo']}/{survivor['path']}" if survivor else event["detail"]


def _packed(step: str, sequence: dict[str, Any]) -> Row:
    roles: dict[str, int] = {}
    for span in sequence["spans"]:
        roles[span["role"]] = roles.get(span["role"], 0) + span["token_end"] - span["token_start"]
    told = {"sequence": sequence["sequence"], "step": step, "split": sequence["split"], "copies": len(sequence["copies"])}
    return {**told, "tokens": sum(roles.values()), "roles": ", ".join(f"{role} {number}" for role, number in roles.items())}


def member_columns(here: Page, run: str) -> tuple[Column, ...]:
    """Return the columns of the members of a cluster."""
    return (
        Column("fate", "fate", "status"),
        *repo_and_path(here.links, run),
        Column("jaccard", "Jaccard", "amount"),
        Column("license_class", "licence"),
        Column("license_evidence", "evidence", "code"),
        Column("reason", "reason"),
        Column("doc_id", "document", "id", lambda row: here.links.document(row["doc_id"], run)),
    )


def member_rows(cluster: dict[str, Any]) -> list[Row]:
    """Return a row for each member of a cluster."""
    return [{**member, "fate": "kept" if member["is_survivor"] else "dropped"} for member in cluster["members"]]
