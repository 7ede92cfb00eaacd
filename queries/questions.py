"""A query of a run: the name that is asked for, and places in the run's artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starloom.lineage.records import Run, StepState
    from starloom.lineage.store import Store
    from starloom.queries.rows import Rows


@dataclass(frozen=True)
class Question:
    """The name that is asked about, and the run."""

    rows: Rows
    run: Run
    what: str
    kind: str | None
    """checkpoint, sequence, document, repository, path; None to guess it from the name."""
    until_step: int | None = None
    """Of a checkpoint: only what training had seen by this step."""
    limit: int | None = None
    """At most so many of each list; None for all."""
    is_brief: bool = False
    """Whether the names of what is found are enough."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a document: its row in the text of the step that read it."""

    step: StepState
    artifact: str
    part: int
    row: int
    doc_id: str
    repo: str
    path: str


def newest(store: Store) -> Run:
    """Return the newest run that is done, else the newest.

    Raises:
        InputError: if there is none.
    """
    for run_id in store.last_run_ids():
        run = store.run(run_id)
        if run.status == "done":
            return run
    return store.run("latest")
