"""Documents: text, evidence, verdicts, redactions, clusters, sequences and the checkpoints that saw it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console.listing import Mark, listing
from starloom.console.offences import offences
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Row, Table, repo_and_path
from starloom.queries.viewing import view_document

router = APIRouter(tags=["documents"])
RunName = Annotated[str | None, Query(description="As this run saw it: an id, a tag or `latest`; by default the newest run that is done.")]
SHOWN_SEQUENCES = 30
SHOWN_STEPS = 30


@router.get("/documents/{doc_id}")
def one_document(
    here: Here,
    doc_id: str,
    run: RunName = None,
    line: Annotated[int, Query(ge=1, le=1_000_000_000, description="First line of the text to show.")] = 1,
) -> Response:
    """Show a document: its text, every verdict on it, and everything that came of it."""
    found = view_document(here.store, doc_id, run)
    who, links = found["document"], here.links
    events = [_told(event) for event in found["events"]]
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
        listing=listing(found["text"], who["path"], who["language"], marks=marks(found), first=line),
        events=events,
        signals=next((event["signals"] for event in found["events"] if event["event"] == "measured"), None),
        size_now=len(found["text"].encode()),
        diff_lines=diff_lines,
    )


def _told(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with the kind of dot that it has on the page."""
    return {
        **event,
        "dot": event["event"] if event["event"] in ("kept", "dropped") else "dropped" if event["event"] == "not packed" else "",
    }


def marks(found: dict[str, Any]) -> list[Mark]:
    """Return the places of a document's text to mark: redactions where they stand, and what it was dropped for."""
    text, marked = found["text"], []
    last = next((event for event in reversed(found["events"]) if event["event"] == "rewritten"), None)
    if last is not None and last["step"] == found["text_of"] and last["redactions"]:
        at = _characters(text, sorted({each for span in last["redactions"] for each in (span["new_start"], span["new_end"])}))
        marked += [
            Mark(at[span["new_start"]], at[span["new_end"]], "redaction", f"{span['entity']} redacted by {span['detector']}")
            for span in last["redactions"]
        ]
    fate = found["fate"]
    if not fate["kept"]:
        marked += offences(text, fate["rule"], fate["value"], fate["detail"])
    return marked


def _characters(text: str, positions: list[int]) -> dict[int, int]:
    """Return position in UTF-8 bytes → position in characters, of ascending positions."""
    data, found, characters, reached = text.encode(), {}, 0, 0
    for position in positions:
        characters += len(data[reached:position].decode("utf-8", "ignore"))
        reached = found_at = position
        found[found_at] = characters
    return found


def diff_lines(lines: list[str]) -> list[tuple[str, str]]:
    """Return the lines of a unified diff, each with the class of its kind."""
    classes = {"+": "come", "-": "gone", "@": "gap"}
    return [(classes.get(line[:1], "") if number > 1 else "gap", line) for number, line in enumerate(lines)]


def _tables(here: Page, found: dict[str, Any]) -> list[Table]:
    links, run = here.links, found["run"]

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
        Column("new_start", "byte now", "number"),
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
        Column("fate", "", "status"),
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
