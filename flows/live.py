"""What a run under way has done so far, in the store for whoever looks at it: `runs/<id>/progress.json`."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starloom.flows.session import Watcher
    from starloom.lineage.records import StepState
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
