"""A run under way, as it goes on: its graph with what flows through it, its curves, sent to the browser whenever they change."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from starloom.console.pages.triggered import attempt_of, prefect_page
from starloom.console.rendering import Here, Page
from starloom.flows.live import watched
from starloom.lineage.leases import status
from starloom.queries.curves import loss_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

router = APIRouter(tags=["runs"])
LOOK_SECONDS = 1.0
KEEP_ALIVE_LOOKS = 15
POINTS = 200


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
    """Send the changing part of a run's page whenever it changes (server-sent events: `now` with HTML, `end` with the status)."""
    record = await asyncio.to_thread(here.store.run, run)
    return StreamingResponse(_events(request, here, record.id), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(request: Request, here: Page, run_id: str) -> AsyncIterator[str]:
    before, looks = "", 0
    while not await request.is_disconnected():
        html, how = await asyncio.to_thread(_now, here, run_id)
        digest = hashlib.sha256(html.encode()).hexdigest()
        if digest != before:
            yield f"event: now\ndata: {json.dumps(html)}\n\n"
        elif looks % KEEP_ALIVE_LOOKS == 0:
            yield ": still here\n\n"
        if how != "running":
            yield f"event: end\ndata: {json.dumps(how)}\n\n"
            return
        before, looks = digest, looks + 1
        await asyncio.sleep(LOOK_SECONDS)


def _now(here: Page, run_id: str) -> tuple[str, str]:
    record = here.store.run(run_id)
    how = status(here.store, record)
    steps = watched(here.store, record)
    data = {"run": record.id, "status": how, "steps": steps}
    response = here.html("now.html", data=data, title="", tables={}, **live_view(here, record, steps))
    return bytes(response.body).decode(), how


def live_view(here: Page, run: Run, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the changing part of a run's page shows."""
    return {
        "steps": steps,
        "courses": courses(here.store, run, steps),
        "flow_run": attempt_of(here, run),
        "prefect": prefect_page(here, run.flow_run) if run.flow_run else None,
        "is_running": status(here.store, run) == "running",
    }


def courses(store: Store, run: Run, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the loss of each training of a run, under way or done: name, and lines of (step, loss) by what was measured."""
    found = []
    for row in steps:
        record = run.step(row["name"])
        if row["curve"]:
            lines = {
                "training": [(done, metrics["loss"]) for done, metrics in row["curve"] if metrics.get("loss") is not None],
                "held out": _distinct([(done, metrics["heldout_loss"]) for done, metrics in row["curve"] if "heldout_loss" in metrics]),
            }
        elif record is not None and "Losses" in record.outputs:
            lines = lines_of(store, run, record.name)
        else:
            continue
        found.append({"name": row["name"], "lines": {name: points for name, points in lines.items() if points}})
    return [course for course in found if course["lines"]]


def lines_of(store: Store, run: Run, step: str) -> dict[str, list[tuple[int, float]]]:
    """Return the losses of a finished training: of its batches, and held out, of all text and by language."""
    record = run.step(step)
    assert record is not None
    rows = loss_rows(store, record, POINTS)
    lines = {"training": [(row["step"], row["loss"]) for row in rows]}
    for row in rows:
        for language, loss in row["held_out"].items():
            name = "held out" if language == "all" else f"held out, {language}"
            lines.setdefault(name, []).append((row["step"], loss))
    return lines


def _distinct(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the first point of each value in turn: a held-out loss is told with every step until the next."""
    return [point for number, point in enumerate(points) if number == 0 or point[1] != points[number - 1][1]]
