"""A run under way, as it goes on: its graph with what flows through it, its curves, what its model writes; sent when that changes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from starloom.console.pages.triggered import attempt_of, prefect_page
from starloom.console.rendering import Here, Page
from starloom.console.trainings import trainings
from starloom.flows.live import watched
from starloom.lineage.leases import status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starloom.lineage.records import Run

router = APIRouter(tags=["runs"])
LOOK_SECONDS = 1.0
KEEP_ALIVE_LOOKS = 15


@router.get("/runs/{run}/now")
def now(here: Here, run: str) -> Response:
    """Show how a run stands now: the part of its page that changes."""
    record = here.store.run(run)
    steps = watched(here.store, record)
    data = {"run": record.id, "status": status(here.store, record), "steps": steps}
    return here.answer(
        "now.html", data, title=record.id, **live_view(here, record, steps), tables=[], command=here.command("show", record.id)
    )


@router.get("/runs/{run}/events")
async def events(request: Request, here: Here, run: str) -> Response:
    """Send the parts of a run's page that change (server-sent events: `now` and `samples` with HTML, `end` with the status)."""
    record = await asyncio.to_thread(here.store.run, run)
    return StreamingResponse(_events(request, here, record.id), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(request: Request, here: Page, run_id: str) -> AsyncIterator[str]:
    sent: dict[str, str] = {}
    looks = 0
    while not await request.is_disconnected():
        parts, how = await asyncio.to_thread(_changed, here, run_id, sent)
        for name, html in parts.items():
            yield f"event: {name}\ndata: {json.dumps(html)}\n\n"
        if not parts and looks % KEEP_ALIVE_LOOKS == 0:
            yield ": still here\n\n"
        if how != "running":
            yield f"event: end\ndata: {json.dumps(how)}\n\n"
            return
        looks += 1
        await asyncio.sleep(LOOK_SECONDS)


def _changed(here: Page, run_id: str, sent: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return those parts of a run's page that are others than were `sent`, which is brought up to date; and the status of the run."""
    record = here.store.run(run_id)
    how = status(here.store, record)
    steps = watched(here.store, record)
    view = live_view(here, record, steps)
    data = {"run": record.id, "status": how, "steps": steps}
    digests = {"samples": _digest([training.samples for training in view["trainings"] if training.samples])}
    pages = {}
    if digests["samples"] != sent.get("samples", _digest([])):  # the colouring of code costs more than to compare it
        pages["samples"] = _rendered(here, "samples", data, view)
    pages["now"] = _rendered(here, "now", data, view)
    digests["now"] = _digest(pages["now"])
    changed = {name: html for name, html in pages.items() if digests[name] != sent.get(name)}
    sent.update(digests)
    return changed, how


def _rendered(here: Page, part: str, data: dict[str, Any], view: dict[str, Any]) -> str:
    return bytes(here.html(f"{part}.html", data=data, title="", tables={}, **view).body).decode()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def live_view(here: Page, run: Run, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the changing part of a run's page shows."""
    return {
        "steps": steps,
        "trainings": trainings(here.store, run, steps),
        "flow_run": attempt_of(here, run),
        "prefect": prefect_page(here, run.flow_run) if run.flow_run else None,
        "is_running": status(here.store, run) == "running",
    }
