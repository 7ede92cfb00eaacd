"""Description of one item of a store: a run, a step, an artifact, a document, a cluster or all licence conflicts of a run.

What is asked for is taken, in this order, as: the word `conflicts`; RUN/STEP; a run (its id, tag, or a beginning or end
of the id); the beginning of an artifact's hash (six digits or more); the beginning of a doc_id (eight or more).
`cluster:`, `doc:`, `artifact:` and `run:` make it unambiguous.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starloom.lineage.errors import InputError, did_you_mean
from starloom.lineage.leases import status
from starloom.queries.export import find
from starloom.queries.fates import funnel
from starloom.queries.rows import Rows
from starloom.queries.scores import scores_of
from starloom.queries.showing_clusters import conflicts, finders, show_cluster, show_conflicts
from starloom.queries.tracing import trace

if TYPE_CHECKING:
    from starloom.lineage.records import Run, StepState
    from starloom.lineage.store import Store

KINDS = ("run", "step", "artifact", "doc", "cluster")
SHOWN_ROWS = 5
_LONG_VALUE = 200


def show(store: Store, name: str, *, run_id: str | None = None, num_rows: int | None = None) -> dict[str, Any]:
    """Return the document that describes `name`; its `kind` says what that is.

    Args:
        store: to query.
        name: of a thing.
        run_id: of a document, a cluster or conflicts: as this run saw them; None for the newest that is done.
        num_rows: of an artifact: first rows (None: five); of a step or run: licence conflicts (None: all); of a cluster:
            members whose texts are compared (None: twenty).

    Raises:
        InputError: if it names nothing.
    """
    head, colon, rest = name.partition(":")
    kind, wanted = (head, rest) if colon and head in KINDS else (_guess(store, name), name)
    if kind == "run":
        return show_run(store, store.run(wanted))
    if kind == "step":
        return show_step(store, wanted, num_rows)
    if kind == "artifact":
        return show_artifact(store, wanted, SHOWN_ROWS if num_rows is None else num_rows)
    if kind == "cluster":
        return show_cluster(store, wanted, run_id, num_rows)
    return show_conflicts(store, run_id, num_rows) if kind == "conflicts" else show_document(store, wanted, run_id)


def _guess(store: Store, name: str) -> str:
    run_ids, tags = store.run_ids(), store.tags()
    if name == "conflicts":
        return name
    if "/" in name:
        return "step"
    if name == "latest" or name in tags or any(known.startswith(name) or known.endswith(name) for known in run_ids):
        return "run"
    if find(store, name):
        return "artifact"
    if re.fullmatch(r"[0-9a-f]{8,32}", name):
        return "doc"
    hint = did_you_mean(name, [*run_ids, *tags]) if run_ids else "run a recipe first"
    raise InputError(f"{store.url} holds no run, artifact or document {name!r}", hint=hint)


def show_run(store: Store, run: Run) -> dict[str, Any]:
    """Describe a run: its steps, what they kept, and the folders to browse."""
    return {
        "kind": "run",
        "run": run.id,
        "store": store.url,
        "tags": [tag for tag, run_id in store.tags().items() if run_id == run.id],
        "status": status(store, run),
        **{name: getattr(run, name) for name in ("recipe", "started", "finished", "result", "command", "made", "error")},
        "folder": f"{store.url}/runs/{run.id}",
        "steps": [_step(step) for step in run.steps],
        "license_conflicts": {step.name: step.notes.get("clusters_with_license_conflict") for step in finders(run)},
        "warnings": {step.name: step.notes["warnings"] for step in run.steps if "warnings" in step.notes},
        "funnel": funnel(run),
    }


def _step(step: StepState) -> dict[str, Any]:
    names = ("name", "stage", "status", "seconds", "num_actions", "num_cached", "outputs")
    return {name: getattr(step, name) for name in names}


def show_step(store: Store, name: str, limit: int | None = None) -> dict[str, Any]:
    """Return the whole record of RUN/STEP; of deduplication also licence conflicts, at most `limit`; of evaluation scores."""
    run_id, _, wanted = name.partition("/")
    run = store.run(run_id)
    step = run.step(wanted)
    if step is None:
        raise InputError(f"run {run.id} has no step {wanted!r}", hint=did_you_mean(wanted, [step.name for step in run.steps]))
    told = {name: getattr(step, name) for name in ("key", "config", "components", "inputs", "notes", "shown")}
    if "Scores" in step.outputs:
        told["scores"] = scores_of(Rows(store), step)
    if step in finders(run):
        told["license_conflicts"] = conflicts(Rows(store), run, step, limit)
    return {"kind": "step", "run": run.id, "store": store.url, **_step(step), **told, "folder": f"{store.url}/runs/{run.id}/{step.name}"}


def show_artifact(store: Store, prefix: str, num_rows: int = SHOWN_ROWS) -> dict[str, Any]:
    """Return type, counts, parts and the first rows of an artifact, and the steps of runs that made it.

    Raises:
        InputError: if no artifact has that prefix, or several have.
    """
    described = describe_artifact(store, prefix, num_rows)
    makers = [
        f"{run_id}/{step.name}"
        for run_id in store.run_ids()
        for step in store.run(run_id).steps
        if any(out["artifact"] == described["artifact"] for out in step.outputs.values())
    ]
    return {**described, "made_by": makers}


def describe_artifact(store: Store, prefix: str, num_rows: int = SHOWN_ROWS) -> dict[str, Any]:
    """Return type, counts, parts and the first rows of an artifact; no run is read.

    Raises:
        InputError: if no artifact has that prefix, or several have.
    """
    found = find(store, prefix)
    if len(found) != 1:
        problem = f"{len(found)} artifacts begin with {prefix!r}" if found else f"{store.url} holds no artifact {prefix!r}"
        raise InputError(
            problem,
            hint=", ".join(found[:5]) or f"give the first six digits of its hash or more; `starloom show RUN{store.named}` lists them",
        )
    rows = Rows(store)
    artifact = rows.artifact(found[0])
    first: list[dict[str, Any]] = []
    for number, part in enumerate(artifact.parts):
        if part.name is None and part.num_rows and len(first) < num_rows:
            first += [_clipped(row) for row in rows.take(found[0], number, range(min(num_rows - len(first), part.num_rows))).to_pylist()]
    return {
        "kind": "artifact",
        "artifact": found[0],
        "type": artifact.type,
        "store": store.url,
        "counts": artifact.counts,
        "parts": [part.to_json() for part in artifact.parts],
        "rows": first,
    }


def _clipped(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with long texts and lists cut and marked as cut."""
    return {name: _clip(value) for name, value in row.items()}


def _clip(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONG_VALUE:
        return f"{value[:_LONG_VALUE]}… ({len(value):,} characters)"
    if isinstance(value, list) and len(value) > _LONG_VALUE // 10:
        return f"{value[: _LONG_VALUE // 10]}… ({len(value):,} values)"
    return value


def show_document(store: Store, doc_id: str, run_id: str | None) -> dict[str, Any]:
    """Describe a document: its identity, its fate, and its text as the last step that kept it read it."""
    found = trace(store, f"doc:{doc_id}", run_id=run_id)
    told = {name: found[name] for name in ("run", "store", "document", "fate")}
    return {"kind": "document", **told, **text_of_document(store, store.run(found["run"]), found)}


def text_of_document(store: Store, run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """Return the text of a traced document as the last step that wrote it left it, and which step that is.

    Args:
        store: to query.
        run: that was traced.
        found: the trace of the document.
    """
    last = [event for event in found["events"] if event["event"] in ("read", "rewritten")][-1]
    step = run.step(last["step"])
    assert step is not None, "a trace names steps of its run"
    (row,) = Rows(store).take(step.outputs["Docs"]["artifact"], last["part"], [last["row"]], ["content"]).to_pylist()
    return {"text_of": step.name, "text": row["content"]}
