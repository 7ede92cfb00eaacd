"""Stages of a run: what one read, wrote, kept and dropped, and samples of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console import charts
from starloom.console.listing import line_of, line_starts, listing
from starloom.console.pages.documents import offence_marks
from starloom.console.pages.runs import crumbs_of_run, output_rows
from starloom.console.pages.scores import drawn_scores, scores_table
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.tables import Column, Table, facts, repo_and_path
from starloom.console.turns import InTurn
from starloom.queries.sampling import rules, sample, values
from starloom.queries.sampling_redactions import HOW, redacted_types, sample_redactions
from starloom.queries.showing import show_step

if TYPE_CHECKING:
    from starloom.lineage.records import StepState

router = APIRouter(tags=["runs"], route_class=InTurn)
SAMPLE_SIZE, LARGEST_SAMPLE = 6, 50
SAMPLE_LINES = 30
LINES_BEFORE = 6
"""Lines shown before the place that a rule is about."""
SHOWN_CONFLICTS = 50
PICTURES = (".png", ".svg")


@router.get("/runs/{run}/steps/{step}")
def one_step(here: Here, run: str, step: str) -> Response:
    """Describe a stage of a run: knobs, inputs, outputs, code, counts, and what it kept and dropped by which rule."""
    record = here.store.run(run)
    found = show_step(here.store, f"{record.id}/{step}", here.limit(None, SHOWN_CONFLICTS))
    judges, redacts = "Verdicts" in found["outputs"], _redacts(record.step(step))
    by_rule, measured = _judged(here, record.id, step) if judges or redacts else ([], [])
    data = {**found, "rules": by_rule, "values": measured} if judges or redacts else found
    return here.answer(
        "step.html",
        data,
        title=f"{step} of {record.id}",
        crumbs=[*crumbs_of_run(here, record.id), Crumb(step)],
        tables=_tables(here, record.id, data, redacts=redacts),
        command=here.command("show", f"{record.id}/{step}"),
        histograms=[(each, charts.histogram(_bins(each), each["thresholds"], each["rule"])) for each in measured if each["counts"]],
        judges=judges or redacts,
        redacts=redacts,
        dots_of=drawn_scores(found.get("scores", [])),
        previous_and_next=_neighbours([each.name for each in record.steps], step),
    )


def _redacts(step: StepState | None) -> bool:
    """Return whether a step rewrites documents and judges none."""
    return step is not None and "Redactions" in step.outputs and "Verdicts" not in step.outputs


def _judged(here: Page, run: str, step: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rules and values of a step, which follow from what it read and wrote."""
    state = here.store.run(run).step(step)
    assert state is not None, "the page has found it"
    if _redacts(state):
        kinds = here.catalogue.remember(
            ("redacted", state.outputs["Redactions"]["artifact"]), lambda: redacted_types(here.store, run, step)
        )
        return kinds, []
    read = tuple((ref["artifact"], ref.get("verdicts")) for ref in state.inputs.values())
    question = ("judged", state.outputs["Verdicts"]["artifact"], read)
    return here.catalogue.remember(question, lambda: (rules(here.store, run, step), values(here.store, run, step)))


def _bins(told: dict[str, Any]) -> charts.Bins:
    return charts.Bins(told["low"], told["high"], told["counts"], told["is_logarithmic"])


def _neighbours(names: list[str], name: str) -> tuple[str | None, str | None]:
    at = names.index(name)
    return names[at - 1] if at else None, names[at + 1] if at + 1 < len(names) else None


def _tables(here: Page, run: str, found: dict[str, Any], *, redacts: bool) -> list[Table]:
    links = here.links
    inputs = (
        Column("name", "name"),
        Column("type", "type"),
        Column("artifact", "artifact", "id", lambda row: links.artifact(row["artifact"])),
        Column("verdicts", "through verdicts", "id", lambda row: links.artifact(row["verdicts"])),
    )
    outputs = (
        Column("type", "type"),
        Column("artifact", "artifact", "id", lambda row: links.artifact(row["artifact"])),
        Column("rows", "rows", "number"),
        Column("parts", "parts", "number"),
        Column("bytes", "size", "bytes"),
    )
    notes = {name: value for name, value in found["notes"].items() if name not in ("warnings", "counts")}
    tables = [
        Table("outputs", outputs, output_rows(found["name"], found["outputs"])),
        Table("inputs", inputs, [{"name": name, **ref} for name, ref in found["inputs"].items()]),
        facts("knobs", found["config"]),
        facts("code", found["components"]["code"]),
        facts("libraries", found["components"]["libraries"]),
        facts("notes", notes),
        facts("counts", _counts(found)),
    ]
    if "rules" in found:
        columns = (
            Column("verdict", "verdict", "status"),
            Column("rule", "rule", "code", lambda row: links.sample(run, found["name"], rule=row["rule"], kept=int(row["kept"]))),
            Column("documents", "documents", "number"),
            Column("sample", "sample", "text", lambda row: links.sample(run, found["name"], rule=row["rule"], kept=int(row["kept"]))),
        )
        rows = [
            {**row, "verdict": "redacted" if redacts else "kept" if row["kept"] else "dropped", "sample": "browse a sample"}
            for row in found["rules"]
        ]
        tables.insert(0, Table("rules", columns, rows))
    if "scores" in found:
        tables.insert(0, scores_table([{**each, "step": found["name"]} for each in found["scores"]]))
    if "license_conflicts" in found:
        tables.append(conflicts_table(here, run, found["name"], found["license_conflicts"]))
    return tables


def _counts(found: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of what a step wrote, by type where it wrote several."""
    told = found["notes"].get("counts", {})
    for kind, out in found["outputs"].items():
        named = {name: number for name, number in out["counts"].items() if isinstance(number, (int, float))}
        told = {**told, **({f"{kind} {name}": number for name, number in named.items()} if len(found["outputs"]) > 1 else named)}
    return {name: f"{number:,}" if isinstance(number, (int, float)) else number for name, number in told.items()}


def conflicts_table(here: Page, run: str, step: str, found: dict[str, Any], name: str = "license_conflicts") -> Table:
    """Return the table of the licence conflicts that a step found."""
    columns = (
        Column("cluster_id", "cluster", "id", lambda row: here.links.cluster(row["cluster_id"], run, step)),
        Column("outcome", "outcome"),
        Column("num_members", "documents", "number"),
        Column("license_classes", "licence classes", "counts"),
        Column("survivor", "survivor", "code", lambda row: here.links.document(row["doc_id"], run) if row["doc_id"] else None),
        Column("survivor_license", "its licence"),
    )
    rows = []
    for each in found["conflicts"]:
        stays = each["survivor"] or {"repo": None, "path": None, "doc_id": None, "license_class": None}
        told = {"survivor": f"{stays['repo']}/{stays['path']}" if each["survivor"] else None, "doc_id": stays["doc_id"]}
        rows.append({**each, **told, "survivor_license": stays["license_class"]})
    return Table(name, columns, rows, found["num_conflicts"])


# Samples


@router.get("/runs/{run}/steps/{step}/sample")
def sample_page(
    here: Here,
    run: str,
    step: str,
    rule: Annotated[str | None, Query(description="Only documents with this rule.")] = None,
    kept: Annotated[Literal["0", "1"], Query(description="1 for kept documents, 0 for dropped ones.")] = "0",
    n: Annotated[int, Query(ge=1, le=LARGEST_SAMPLE, description="How many.")] = SAMPLE_SIZE,
    seed: Annotated[int, Query(ge=0, le=2**31, description="Of the draw: the same seed, the same documents.")] = 0,
) -> Response:
    """Show random documents that a stage kept or dropped, the place that the rule is about marked."""
    record = here.store.run(run)
    wanted = rule or None
    redacts = _redacts(record.step(step))
    if redacts:
        found = sample_redactions(here.store, record.id, step, rule=wanted, number=n, seed=seed)
    else:
        found = sample(here.store, record.id, step, kept=kept == "1", rule=wanted, number=n, seed=seed)
    columns = (
        *repo_and_path(here.links, record.id),
        Column("language", "language"),
        Column("size", "size", "bytes"),
        Column("rule", "rule", "code"),
        Column("value", "value", "amount"),
        Column("threshold", "threshold", "amount"),
        Column("detail", "detail", "code"),
        Column("doc_id", "document", "id", lambda row: here.links.document(row["doc_id"], record.id)),
    )
    return here.answer(
        "sample.html",
        found,
        title=f"Sample of {step}",
        crumbs=[*crumbs_of_run(here, record.id), Crumb(step, here.links.step(record.id, step)), Crumb("sample")],
        tables=[Table("sample", columns, found["documents"])],
        command=here.command("export", f"{record.id}/{step}/{'Redactions' if redacts else 'Verdicts'}", "OUT"),
        redacts=redacts,
        documents=[(each, _excerpt(each)) for each in found["documents"]] if here.form == "html" else [],
        rules=_judged(here, record.id, step)[0] if here.form == "html" else [],
        another=here.with_query(seed=seed + 1),
        n=n,
        seed=seed,
        sizes=(3, SAMPLE_SIZE, 12, 25, LARGEST_SAMPLE),
    )


def _excerpt(document: dict[str, Any]) -> Any:
    """Return lines of a document: those around the place that its verdict is about, or the first ones."""
    told = document["offence"]
    marks = [replace(mark, kind="redaction") for mark in offence_marks(told)] if told and told["how"] == HOW else offence_marks(told)
    first = 1
    if marks:
        first = max(1, line_of(line_starts(document["content"]), min(mark.start for mark in marks)) - LINES_BEFORE)
    return listing(document["content"], document["path"], document["language"], marks=marks, first=first, num_lines=SAMPLE_LINES, width=240)
