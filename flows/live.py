"""What a run under way has done so far, in the store for whoever looks at it: `runs/<id>/progress.json`.

When the run ends, what its record tells is removed from there. Of a step that failed or was stopped it tells nothing: that stays.
"""

from __future__ import annotations

import json
import re
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
SERIES_BYTES = 64_000
"""Of a series as JSON; past that every other entry is dropped, and never the newest."""
LOG_LINES, LOG_WIDTH, LOG_CHARACTERS = 200, 2000, 64_000
"""Lines of a step's log that are kept, the last ones, characters of each, and of all of them."""
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and movements of a terminal (ECMA-48, CSI)
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # its titles and links (OSC and the like), up to their end
    r"|\x1b[ -/]*[0-~]"  # other escapes
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


class Live:
    """A watcher that writes what it hears into the store, and passes it on."""

    def __init__(self, watcher: Watcher, store: Store, run_id: str) -> None:
        self._watcher = watcher
        self._storage, self._name = store.storage, progress_name(run_id)
        self._lock = threading.Lock()
        self._steps: dict[str, dict[str, Any]] = {}
        self._written = 0.0

    def close(self) -> None:
        """Remove what was written, for the record says how the run ended; but not of steps that failed or were stopped."""
        with self._lock:
            self._written = float("inf")
            self._steps = {name: noted for name, noted in self._steps.items() if noted["has_ended"]}
            if self._steps:
                self._put()
            else:
                self._storage.delete(self._name)

    def started(self, step: str, num_actions: int, num_cached: int) -> None:
        """Note that a step begins."""
        with self._lock:
            self._noted(step).update(done=num_cached, total=num_actions)
        self._write(now=True)
        self._watcher.started(step, num_actions, num_cached)

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        """Note the progress of a step."""
        with self._lock:
            noted = self._noted(step)
            noted |= {"done": done, "total": total, "unit": unit, "metrics": metrics}
            if metrics:
                noted["curve"].append([done, metrics])
                if len(noted["curve"]) > MAX_POINTS:
                    noted["curve"] = noted["curve"][::2]
        self._write(now=done == total)
        self._watcher.progressed(step, done, total, unit, metrics)

    def appended(self, step: str, series: str, entry: dict[str, Any]) -> None:
        """Note an entry of a series (see `Runtime.append`); those of `log` are texts, and the last of their lines are kept."""
        with self._lock:
            noted = self._noted(step)
            if series == "log":
                noted["log"] = _last([*noted["log"], *plain_lines(entry["text"])])
            else:
                noted["series"][series] = _fitting([*noted["series"].get(series, []), entry])
        self._write(now=False)

    def finished(self, state: StepState) -> None:
        """Note that a step ended: its record says how."""
        with self._lock:
            if state.status in ("failed", "cancelled"):
                self._noted(state.name)["has_ended"] = True
            else:
                self._steps.pop(state.name, None)
        self._write(now=True)
        self._watcher.finished(state)

    def _noted(self, step: str) -> dict[str, Any]:
        return self._steps.setdefault(step, {**_fresh(), "started": time.time()})

    def _write(self, *, now: bool) -> None:
        with self._lock:
            since = time.monotonic() - self._written
            if since < 0 or (since < WRITE_SECONDS and not now):
                return
            self._written = time.monotonic()
            self._put()

    def _put(self) -> None:
        self._storage.write(self._name, json.dumps({"at": time.time(), "steps": self._steps}).encode())


def _fresh() -> dict[str, Any]:
    return {"done": 0, "total": 0, "unit": "parts", "metrics": {}, "curve": [], "series": {}, "log": [], "has_ended": False}


def plain_lines(text: str) -> list[str]:
    """Return the lines of what a program printed, as a terminal would leave them: no colours, of an overwritten line the last state."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    plain = [_CONTROL.sub("", line).rstrip() for line in lines]
    return [line if len(line) <= LOG_WIDTH else f"{line[: LOG_WIDTH - 1]}…" for line in plain if line]


def _last(lines: list[str]) -> list[str]:
    """Return the last lines of a log, as many as are kept."""
    kept, room = lines[-LOG_LINES:], LOG_CHARACTERS
    for number in range(len(kept) - 1, -1, -1):
        room -= len(kept[number])
        if room < 0:
            return kept[number + 1 :]
    return kept


def _fitting(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop every other entry until a series fits; the first and the newest stay."""
    while len(entries) > 1 and len(json.dumps(entries)) > SERIES_BYTES:
        entries = [*entries[:-1:2], entries[-1]] if len(entries) > 2 else entries[-1:]  # noqa: PLR2004  # of two, the newest
    return entries


def watched(store: Store, run: Run) -> list[dict[str, Any]]:
    """Return a row for each step of a run, in order: what it reads, how it stands, and how far it is if it is at work.

    Returns:
        name, status (pending where it was not reached), reads, seconds, done and total of its unit, documents that it left (None where it
        judges none), metrics now, `curve`, the course of the metrics: [step, metrics], `series` by name, as `Runtime.append` was given
        them, and `log`, the last lines that it printed; these three of a step that is at work or failed.
    """
    record = {step.name: step for step in run.steps}
    told = progress(store, run.id) or {"steps": {}, "at": 0.0}
    under_way, how = told["steps"], leases.status(store, run)
    until = time.time() if how == "running" else told["at"]
    left = {row["step"]: row["documents"] for row in funnel(run)}
    rows = []
    for one in run.plan or [{"name": step.name, "reads": _producers(run, step)} for step in run.steps]:
        name = one["name"]
        step = record.get(name)
        now = {**_fresh(), **under_way[name]} if name in under_way else None
        is_at_work = now is not None and not now["has_ended"]
        status = how if is_at_work else step.status if step else "pending"
        seconds = until - now["started"] if now and is_at_work else step.seconds if step else None
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
            "metrics": now["metrics"] if now and is_at_work else {},
            "curve": now["curve"] if now else [],
            "series": now["series"] if now else {},
            "log": now["log"] if now else [],
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
