"""All that is known of one document: its fate, its text, the evidence for its licence, and its clusters with the differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.queries.rows import Rows
from starloom.queries.showing import text_of_document
from starloom.queries.showing_clusters import show_cluster
from starloom.queries.tracing import trace

if TYPE_CHECKING:
    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

COMPARED = 5
"""Members of a cluster whose texts are compared."""


def view_document(store: Store, doc_id: str, run_id: str | None) -> dict[str, Any]:
    """Return the trace of a document with its text and everything that stands beside it.

    Args:
        store: to query.
        doc_id: or the beginning of one, eight digits or more.
        run_id: as this run saw it; None for the newest that is done.

    Raises:
        InputError: if the run read no such document, or several.
    """
    found = trace(store, f"doc:{doc_id}", run_id=run_id)
    rows, run = Rows(store), store.run(found["run"])
    clusters = [
        show_cluster(store, f"{event['step']}/{event['cluster_id']}", run.id, COMPARED)
        for event in found["events"]
        if event["event"] == "clustered"
    ]
    return {**found, **text_of_document(store, run, found), "licenses": _licenses(rows, run, found), "clusters": clusters}


def _licenses(rows: Rows, run: Run, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the licence class and its evidence, as each step that judged licences wrote them."""
    part = next(event["part"] for event in found["events"] if event["event"] == "read")
    told = []
    for step in run.steps:
        if "Licenses" in step.outputs:
            artifact = step.outputs["Licenses"]["artifact"]
            own = rows.of_document(artifact, found["document"]["doc_id"], ["license_class", "evidence"], part)
            told += [{"step": step.name, "license_class": row["license_class"], "evidence": row["evidence"]} for row in own]
    return told
