"""A step as a Prefect task: the one place where stages and the orchestrator meet.

Prefect shows and orders; the store decides what runs. So its own cache and result persistence are off, and a step whose
actions are all done ends in a completed state that is called Cached.
"""

from __future__ import annotations

import base64
import contextvars
import time
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from prefect import Task

    from starloom.lineage.records import StepState

UPDATE_SECONDS = 3.0
"""Least time between two writes of a progress artifact: each is a request to the server."""


def as_task(name: str, act: Callable[[Callable[[int, int, str], None]], StepState]) -> Task[Any, Any]:
    """Return a Prefect task that runs one step by calling `act` with a progress callback."""

    @task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    def step() -> Any:
        state = act(_Progress(name))
        if state.status == "cached":
            return Completed(name="Cached", message=f"all {state.num_actions} actions were cached")
        return Completed(message=f"{state.num_actions - state.num_cached} of {state.num_actions} actions run in {state.seconds:.1f} s")

    return step


def show_table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    """Show a table beside the flow run."""
    create_table_artifact(key=key, table=rows, description=description)


def show_curve(key: str, rows: list[dict[str, Any]], picture: bytes | None, description: str) -> None:
    """Show the training curves beside the flow run: a picture embedded in the page, and its numbers."""
    groups = sorted({group for row in rows for group in row["held_out"]}, key=lambda group: (group != "all", group))
    heads = ["step", "tokens", "loss", "learning rate", "gradient norm", *(f"held out: {group}" for group in groups)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    for row in rows:
        cells = [f"{row['step']:,}", f"{row['tokens']:,}", f"{row['loss']:.4f}", f"{row['learning_rate']:.2e}", f"{row['grad_norm']:.3f}"]
        cells += [f"{row['held_out'][group]:.4f}" if group in row["held_out"] else "" for group in groups]
        lines.append(f"| {' | '.join(cells)} |")
    image = [f"![{description}](data:image/png;base64,{base64.b64encode(picture).decode()})", ""] if picture else []
    create_markdown_artifact(key=key, markdown="\n".join([*image, *lines]), description=description)


class _Progress:
    """A Prefect progress artifact, made when there is something to show and not renewed too often."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._artifact: UUID | None = None
        self._last = time.monotonic()
        self._context = contextvars.copy_context()  # a library may call back from a thread of its own, where no task run is known

    def __call__(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if not total or (now - self._last < UPDATE_SECONDS and not (done == total and self._artifact)):
            return
        self._last = now
        self._context.copy().run(self._write, 100.0 * done / total, text)

    def _write(self, percent: float, text: str) -> None:
        if self._artifact is None:
            key = f"{self._name}-progress".replace("_", "-").replace(".", "-")
            self._artifact = create_progress_artifact(percent, key=key, description=text)  # type: ignore[assignment]
        else:
            update_progress_artifact(self._artifact, percent, description=text)
