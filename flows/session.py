"""Carrying out a plan, step by step, against the store: what is done is taken, what is not is done, all of it recorded."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starloom.flows.walk import Walk
from starloom.lineage.errors import Cancelled, StoreError
from starloom.lineage.records import Action, Part, Run, StepState
from starloom.lineage.store import object_name
from starloom.tasks.frame.step import gather, notes_of
from starloom.tasks.frame.work import PartJob, do_part, do_whole, made_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starloom.flows.plan import Plan, Step
    from starloom.lineage.store import Store
    from starloom.tasks.frame.step import Bound, Standing
    from starloom.tasks.frame.workers import Workers


class Watcher(Protocol):
    """Somebody who watches a run: a terminal, a log, nobody."""

    def started(self, step: str, num_actions: int, num_cached: int) -> None:
        """A step begins."""

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        """A step is that far."""

    def finished(self, state: StepState) -> None:
        """A step is done, cached, failed or cancelled."""


@dataclass
class Session:
    """One run of one plan."""

    plan: Plan
    store: Store
    workers: Workers
    watcher: Watcher
    forced: set[str]
    run: Run

    def __post_init__(self) -> None:
        self.walk = Walk(self.plan, self.store)
        self.failure: BaseException | None = None
        """What the first step that failed raised."""
        self._lock = threading.Lock()

    def carry_out(self, step: Step, show: Callable[[int, int, str], None]) -> StepState:
        """Do one step. All that it reads must be done."""
        with self._lock:
            bound = self.walk.bind(step)
            stands = self.walk.standing(bound)
        state = StepState(step.name, step.stage.label, stands.components.key, stands.components.to_json(), _inputs(bound))
        state.config = step.config.model_dump(mode="json")
        state.status, started = "running", time.perf_counter()
        with self._lock:
            self.run.steps.append(state)
        try:
            action = self._action(bound, stands, state, show)
        except BaseException as error:
            state.status = "cancelled" if isinstance(error, Cancelled) else "failed"
            state.seconds = round(time.perf_counter() - started, 3)
            self.failure = self.failure or error
            self._record(state)
            raise
        state.seconds = round(time.perf_counter() - started, 3)
        with self._lock:
            state.outputs = self.walk.settle(bound, action)
        self._record(state)
        return state

    def take(self, step: Step, bound: Bound, walk: Walk) -> None:
        """Record a step of which everything is done, from a walk that found it so."""
        stands = walk.standing(bound)
        assert stands.step is not None
        state = StepState(step.name, step.stage.label, stands.components.key, stands.components.to_json(), _inputs(bound))
        state.config, state.outputs = step.config.model_dump(mode="json"), walk.written[step.name]
        state.notes, state.shown = stands.step.notes, stands.step.shown
        state.status, state.num_actions, state.num_cached = "cached", stands.num_actions, stands.num_actions
        self.run.steps.append(state)

    def close(self, status: str, error: str | None = None) -> None:
        """Write the end of the run down."""
        with self._lock:
            self.run.status, self.run.error = status, error
            self.run.finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self.run.result = self.run.outcome() if status == "done" else None
            self.store.write_run(self.run)
        with (
            contextlib.nullcontext() if status == "done" else contextlib.suppress(OSError, StoreError)
        ):  # no alias may hide why a run failed
            for state in self.run.steps:
                self._view(state)

    def _action(self, bound: Bound, stands: Standing, state: StepState, show: Callable[[int, int, str], None]) -> Action:
        forced = bound.name in self.forced
        if stands.step is not None and not forced:
            state.status, state.num_actions, state.num_cached = "cached", stands.num_actions, stands.num_actions
            state.notes, state.shown = stands.step.notes, stands.step.shown
            return stands.step
        if forced:
            stands = self._forgotten(bound, stands)
        state.num_actions, state.num_cached = stands.num_actions, stands.num_cached
        self.watcher.started(bound.name, state.num_actions, state.num_cached)
        action = self._parts(bound, stands, show) if bound.stage.over == "parts" else self._whole(bound, stands, show)
        state.status, state.notes, state.shown = "done", action.notes, action.shown
        return action

    def _forgotten(self, bound: Bound, stands: Standing) -> Standing:
        label = bound.stage.label
        self.store.forget(label, stands.components.key)
        for key in stands.step.actions if stands.step else [action.key for action in stands.parts if action]:
            self.store.forget(label, key)
        return self.walk.standing(bound)

    def _parts(self, bound: Bound, stands: Standing, show: Callable[[int, int, str], None]) -> Action:
        done: list[Action | None] = list(stands.parts)
        missing = [i for i, action in enumerate(done) if action is None]
        count, total = len(done) - len(missing), len(done)

        def on_done(_: int, action: Action) -> None:
            nonlocal count
            count += 1
            self.watcher.progressed(bound.name, count, total, "parts", {})
            show(count, total, f"{count} of {total} parts")
            del action

        half = next(step.half_of for step in self.plan.steps if step.name == bound.name)
        home = bound.stage.module.rpartition(".")[2]
        jobs = [
            PartJob(
                self.store.url,
                bound.name,
                home,
                half is not None,
                bound.config,
                stands.part_components[i],
                bound.refs,
                i,
                bound.repositories[i] if bound.repositories else (),
            )
            for i in missing
        ]
        for i, action in zip(missing, self.workers.map(do_part, jobs, on_done), strict=True):
            done[i] = action
        actions = [action for action in done if action is not None]
        written = {kind.__name__: self.store.put_artifact(gather(kind, actions)) for kind in bound.stage.outputs}
        seconds = round(sum(action.seconds for action in actions), 3)
        keys = tuple(action.key for action in actions)
        shown = {f"part-{i:05}/{name}": digest for i, action in enumerate(actions) for name, digest in action.shown.items()}
        return self.store.commit(
            bound.stage.label,
            Action(stands.components.key, stands.components.to_json(), written, keys, seconds, notes_of(actions), made_by(), shown),
        )

    def _whole(self, bound: Bound, stands: Standing, show: Callable[[int, int, str], None]) -> Action:
        def on_progress(done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
            self.watcher.progressed(bound.name, done, total, unit, metrics)
            show(done, total, f"{done} of {total} {unit} " + " ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

        live = f"runs/{self.run.id}/{bound.name}/live"

        def on_begin(scratch: Path) -> None:
            """While a step is at work, and after one that failed, its folder can be browsed: curves grow there."""
            self.store.storage.link(live, scratch.relative_to(self.store.storage.scratch.parent).as_posix())

        action = do_whole(
            bound,
            stands.components,
            self.store,
            workers=max(1, self.workers.workers),
            mapper=self.workers.map,
            on_progress=on_progress,
            on_begin=on_begin,
            is_cancelled=self.workers.is_cancelled,
        )
        self.store.storage.delete(live)
        return action

    def _record(self, state: StepState) -> None:
        with self._lock:
            self.store.write_run(self.run)
        self.watcher.finished(state)

    def _view(self, state: StepState) -> None:
        """Aliases for people who browse: runs/<id>/<step>/part-00000.parquet, or the files of a file artifact; and what it shows."""
        for kind, written in state.outputs.items():
            folder = f"runs/{self.run.id}/{state.name}"
            if len(state.outputs) > 1:
                folder += f"/{kind.lower()}"
            for i, part in enumerate(self.store.artifact(written["artifact"]).parts):
                self.store.storage.link(f"{folder}/{part.name or f'part-{i:05}.parquet'}", _place(kind, part))
        for name, digest in state.shown.items():
            self.store.storage.link(f"runs/{self.run.id}/{state.name}/{name}", object_name("files", digest))


def _place(kind: str, part: Part) -> str:
    return object_name("files" if part.name else kind, part.hash)


def _inputs(bound: Bound) -> dict[str, Any]:
    return {name: {"type": ref.type, "artifact": ref.artifact, "verdicts": ref.verdicts} for name, ref in bound.refs.items()}


def new_run(plan: Plan) -> Run:
    """The record of a run that begins now."""
    now = datetime.datetime.now(datetime.UTC)
    name = "".join(c if c.isalnum() else "-" for c in plan.recipe.name.lower()).strip("-") or "run"
    return Run(
        id=f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}-{name}-{secrets.token_hex(2)}",  # ids sort as runs began
        recipe=plan.recipe.name,
        status="running",
        started=now.isoformat(timespec="seconds"),
        command=sys.argv[1:],
        made=made_by(),
    )
