"""Runs that were triggered: waiting for a worker until they are in the store; cancelling and retrying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from starloom.console.pages.recipes import api_of
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.security import Operator
from starloom.flows.prefect_api import ALIVE
from starloom.lineage.errors import InputError

if TYPE_CHECKING:
    from starloom.lineage.records import Run

router = APIRouter(tags=["triggered"])
RECENT = 50
"""Newest runs among which the one of a flow run is looked for: it has just begun."""


@router.get("/triggered/{flow_run}")
def triggered(here: Here, flow_run: str) -> Response:
    """Show a run that was triggered until it is in the store; then lead to its page there."""
    found = api_of(here).flow_run(flow_run)
    run = run_of(here, found)
    if run is not None and here.form == "html":
        return RedirectResponse(here.links.run(run), 303)
    state = found["state"] or {}
    data = {
        "flow_run": found["id"],
        "name": found["name"],
        "state": found["state_name"],
        "message": state.get("message"),
        "parameters": found["parameters"],
        "run": run,
        "is_over": found["state_type"] not in ALIVE,
    }
    return here.answer(
        "triggered.html",
        data,
        title=f"{found['name']} is {str(found['state_name']).lower()}",
        crumbs=[Crumb("Runs", here.links.to("runs")), Crumb(found["name"])],
        command=None,
        prefect=prefect_page(here, found["id"]),
    )


@router.post("/triggered/{flow_run}/cancel")
def cancel(here: Here, flow_run: str, _: Operator) -> Response:
    """Ask a run to end."""
    api_of(here).cancel(flow_run)
    return RedirectResponse(here.links.to("triggered", flow_run), 303)


@router.post("/triggered/{flow_run}/retry")
def retry(here: Here, flow_run: str, _: Operator) -> Response:
    """Begin a run that has ended again: it goes on from what is in the store."""
    api = api_of(here)
    if api.flow_run(flow_run)["state_type"] in ALIVE:
        raise InputError("the run has not ended", hint="cancel it first")
    api.retry(flow_run)
    return RedirectResponse(here.links.to("triggered", flow_run), 303)


def run_of(here: Page, flow_run: dict[str, Any]) -> str | None:
    """Return the run of the store that a flow run carries out, or carried out: the newest attempt; None while there is none."""
    if flow_run["state_type"] in ("SCHEDULED", "PENDING"):
        return None
    begun = flow_run["state"]["timestamp"][:19] if flow_run["state_type"] == "RUNNING" else ""  # a retry has runs of earlier attempts
    for run_id in reversed(here.store.run_ids()[-RECENT:]):
        run = here.store.run(run_id)
        if run.flow_run == flow_run["id"] and run.started[:19] >= begun:
            return run_id
    told = (flow_run["state"] or {}).get("message") or ""
    named = told.rpartition(" ")[2]  # of a run with nothing to do the state names the record that stands for it
    return named if flow_run["state_name"] == "Cached" and named in here.store.run_ids() else None


def prefect_page(here: Page, flow_run: str) -> str | None:
    """Return the address of a flow run in Prefect's pages."""
    return f"{here.settings.prefect_ui.rstrip('/')}/runs/flow-run/{flow_run}" if here.settings.prefect_ui else None


def attempt_of(here: Page, run: Run) -> str | None:
    """Return the flow run that may be cancelled or retried for a run of the store, if this console can do that."""
    can = here.request.app.state.prefect is not None and here.session.role == "operator"
    return run.flow_run if can else None
