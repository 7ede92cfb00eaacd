"""The list of a store's runs: one row for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.lineage.leases import status
from starloom.queries.fates import funnel

if TYPE_CHECKING:
    from starloom.lineage.records import Run
    from starloom.lineage.store import Store


def describe(store: Store, run: Run, tags: dict[str, str]) -> dict[str, Any]:
    """Describe a run in one row."""
    left = funnel(run)
    return {
        "run": run.id,
        "recipe": run.recipe,
        "status": status(store, run),
        "started": run.started,
        "finished": run.finished,
        "seconds": round(sum(step.seconds for step in run.steps), 3),
        "steps": len(run.steps),
        "steps_cached": sum(step.status == "cached" for step in run.steps),
        "documents": left[-1]["documents"] if left else None,
        "result": run.result,
        "tags": [tag for tag, run_id in tags.items() if run_id == run.id],
    }
