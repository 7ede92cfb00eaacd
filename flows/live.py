"""What a run under way has done so far, in the store for whoever looks at it: `runs/<id>/progress.json`."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from starloom.lineage import leases
from starloom.queries.fates import funnel

if TYPE_CHECKING:
    from starloom.flows.session import Watcher
    from starloom.lineage.records import Run, StepState
    from starloom.lineage.store import Store

WRITE_SECONDS = 1.0
"""Least time between two writes."""
MAX_POINTS = 400
"""Points of a step's curves; past that every other one is dropped."""


class Live:
    """A watcher that writes what it hears into the store, and passes it on."""

    def __init__(self, watcher: Watcher, store: Store, run_id: str) -> None:
        self._watcher = watcher
        self._storage, self._name = store.storage, progress_name(run_id)
        self._lock = threading.Lock()
        self._steps: dict[str, dict[str, Any]] = {}
        self._written = 0.0

    def close(self) -> None:
        """Remove what was written: the record of the run says how it ended."""
        with self._lock:
            self._written = float("inf")
            self._storage.delete(self._name)

    def started(self, step: str, num_actions: int, num_cached: int) -> None:
        """Note that a step begins."""
        with self._lock:
            self._steps[step] = {
                "done": num_cached,
                "total": num_actions,
                "unit": "parts",
                "metrics": {},
                "curve": [],
                "started": time.time(),
            }
        self._write(now=True)
        self._watcher.started(step, num_actions, num_cached)

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        """Note the progress of a step."""
        with self._lock:
            noted = self._steps.setdefault(step, {"curve": [], "started": time.time()})
            noted |= {"done": done, "total": total, "unit": unit, "metrics": metrics}
            if metrics:
                noted["curve"].append([done, metrics])
                if len(noted["curve"]) > MAX_POINTS:
                    noted["curve"] = noted["curve"][::2]
        self._write(now=done == total)
        self._watcher.progressed(step, done, total, unit, metrics)

    def finished(self, state: StepState) -> None:
        """Note that a step ended: its record says how."""
        with self._lock:
            self._steps.pop(state.name, None)
        self._write(now=True)
        self._watcher.finished(state)

    def _write(self, *, now: bool) -> None:
        with self._lock:
            since = time.monotonic() - self._written
            if since < 0 or (since < WRITE_SECONDS and not now):
                return
            self._written = time.monotonic()
            self._storage.write(self._name, json.dumps({"at": time.time(), "steps": self._steps}).encode())


def watched(store: Store, run: Run) -> list[dict[str, Any]]:
    """Return a row for each step of a run, in order: what it reads, how it stands, and how far it is if it is at work.

    Returns:
        name, status (pending where it was not reached), reads, seconds, done and total of its unit, documents that it left (None where it
        judges none), metrics now and `curve`, the course of the metrics: [step, metrics].
    """
    record = {step.name: step for step in run.steps}
    told = progress(store, run.id) or {"steps": {}, "at": 0.0}
    under_way, how = told["steps"], leases.status(store, run)
    until = time.time() if how == "running" else told["at"]
    left = {row["step"]: row["documents"] for row in funnel(run)}
    rows = []
    for one in run.plan or [{"name": step.name, "reads": _producers(run, step)} for step in run.steps]:
        name = one["name"]
        step, now = record.get(name), under_way.get(name)
        status = how if now else step.status if step else "pending"
        seconds = until - now["started"] if now else step.seconds if step else None
        done, total = (now["done"], now["total"]) if now else (step.num_actions, step.num_actions) if step and step.outputs else (0, None)
        rows.append({
            "name": name,
            "status": status,
            "reads": one["reads"],
            "seconds": seconds,
            "done": done,
            "total": total,
            "unit": now["unit"] if now else "parts",
            "documents": left.get(name),
            "metrics": now["metrics"] if now else {},
            "curve": now["curve"] if now else [],
        })  # fmt: skip
    return rows


def _producers(run: Run, step: StepState) -> list[str]:
    """Return the steps that wrote what a step read; for records without a plan."""
    read = {ref["artifact"] for ref in step.inputs.values()} | {ref.get("verdicts") for ref in step.inputs.values()}
    return [above.name for above in run.steps if any(out["artifact"] in read for out in above.outputs.values())]


def progress_name(run_id: str) -> str:
    """Return where the progress of a run stands in its store."""
    return f"runs/{run_id}/progress.json"


def progress(store: Store, run_id: str) -> dict[str, Any] | None:
    """Return what a run under way has done so far; None of a run that has not begun, or was never watched."""
    try:
        found: dict[str, Any] = json.loads(store.storage.read(progress_name(run_id)))
    except FileNotFoundError:
        return None
    return found
