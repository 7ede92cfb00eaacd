"""Execution of a plan, step by step, against the store: finished work is reused, the rest is run, all of it is recorded."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Protocol

from starloom.flows.live import Live
from starloom.flows.resolver import Resolver
from starloom.lineage.errors import Cancelled, StarloomError, StoreError
from starloom.lineage.records import Run, StepState
from starloom.lineage.store import object_name
from starloom.tasks.frame.work import do_parts, do_whole, made_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from starloom.flows.plan import Plan, Step
    from starloom.lineage.records import Action
    from starloom.lineage.store import Store
    from starloom.tasks.frame.step import ResolvedStep
    from starloom.tasks.frame.workers import Workers


class Watcher(Protocol):
    """An observer of a run: a terminal, a log, nobody."""

    def started(self, step: str, num_actions: int, num_cached: int) -> None:
        """Report that a step begins."""

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        """Report the progress of a step."""

    def finished(self, state: StepState) -> None:
        """Report that a step is done, cached, failed or cancelled."""


class Session:
    """One run of one plan: each step resolved, executed if it must be, and recorded."""

    def __init__(self, plan: Plan, store: Store, workers: Workers, watcher: Watcher, forced: set[str]) -> None:
        self.plan = plan
        self.store = store
        self.run = new_run(plan)
        self.resolver = Resolver(plan, store)
        self.failure: BaseException | None = None
        """The error of the first step that failed."""
        self._workers = workers
        self._watcher = Live(watcher, store, self.run.id)
        self._forced = forced
        self._lock = threading.Lock()

    def run_step(self, step: Step, show: Callable[[int, int, str], None]) -> StepState:
        """Run one step. All steps that it reads must be done."""
        with self._lock:
            resolved = self.resolver.resolve(step)
            if step.name in self._forced:
                resolved = self._forget(step, resolved)
            state = state_of(resolved)
            self.run.steps.append(state)
        started = time.perf_counter()
        try:
            action = resolved.done or self._execute(resolved, show)
        except BaseException as error:
            state.status = "cancelled" if isinstance(error, Cancelled) else "failed"
            self.failure = self.failure or error
            if state.status == "failed":
                self._watcher.appended(step.name, "log", {"text": log_of(error)})
            raise
        else:
            with self._lock:
                self.resolver.settle(resolved, action)
                state.finish(action, self.resolver.outputs[step.name], "done" if resolved.done is None else "cached")
        finally:
            state.seconds = round(time.perf_counter() - started, 3)
            self._record(state)
        return state

    def close(self, status: str, error: str | None = None) -> None:
        """Record the end of the run."""
        with self._lock:
            close_run(self.run, self.store, status, error)
        self._watcher.close()

    def _forget(self, step: Step, resolved: ResolvedStep) -> ResolvedStep:
        """Remove the results of a step, so that it is run again."""
        self.store.forget(step.stage.label, resolved.components.key)
        for key in resolved.done.actions if resolved.done else [action.key for action in resolved.parts if action]:
            self.store.forget(step.stage.label, key)
        return self.resolver.resolve(step)

    def _execute(self, step: ResolvedStep, show: Callable[[int, int, str], None]) -> Action:
        self._watcher.started(step.name, step.num_actions, step.num_cached)

        def on_progress(done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
            self._watcher.progressed(step.name, done, total, unit, metrics)
            show(done, total, f"{done} of {total} {unit} " + " ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

        if step.stage.over == "parts":
            return do_parts(step, self.store, self._workers, lambda done, total: on_progress(done, total, "parts", {}))
        live = f"runs/{self.run.id}/{step.name}/live"
        storage = self.store.storage

        def on_begin(scratch: Path) -> None:
            """Link the step's folder, so that it can be browsed while the step runs and after it failed: curves grow there."""
            storage.link(live, scratch.relative_to(storage.scratch.parent).as_posix())

        def on_append(series: str, entry: dict[str, Any]) -> None:
            self._watcher.appended(step.name, series, entry)

        action = do_whole(step, self.store, self._workers, on_progress, on_append, on_begin)
        storage.delete(live)
        return action

    def _record(self, state: StepState) -> None:
        with self._lock:
            self.store.write_run(self.run)
        self._watcher.finished(state)


def log_of(error: BaseException) -> str:
    """Return what an error adds to the log of its step: of a fault of ours the traceback, and its sentence, unless that repeats lines."""
    if isinstance(error, StarloomError):
        return error.log + ("" if "\n" in error.message else error.message)
    return "".join(traceback.format_exception(error))


def new_run(plan: Plan) -> Run:
    """Return the record of a run that begins now."""
    now = datetime.datetime.now(datetime.UTC)
    name = "".join(c if c.isalnum() else "-" for c in plan.recipe.name.lower()).strip("-") or "run"
    return Run(
        id=f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}-{name}-{secrets.token_hex(2)}",  # ids sort as runs began
        recipe=plan.recipe.name,
        status="running",
        started=now.isoformat(timespec="seconds"),
        command=sys.argv[1:],
        plan=[{"name": step.name, "reads": sorted(set(step.wiring.values()))} for step in plan.steps],
        made=made_by(),
    )


def state_of(step: ResolvedStep) -> StepState:
    """Return the record of a step that begins now."""
    inputs = {name: {"type": ref.type, "artifact": ref.artifact, "verdicts": ref.verdicts} for name, ref in step.inputs.refs.items()}
    state = StepState(step.name, step.stage.label, step.components.key, step.components.to_json(), inputs)
    state.config = step.config.model_dump(mode="json")
    state.status, state.num_actions, state.num_cached = "running", step.num_actions, step.num_cached
    return state


def record_cached(resolver: Resolver, steps: Iterable[ResolvedStep]) -> Run:
    """Record the run of a plan of which everything is cached."""
    run = new_run(resolver.plan)
    for step in steps:
        assert step.done is not None
        state = state_of(step)
        state.finish(step.done, resolver.outputs[step.name], "cached")
        run.steps.append(state)
    run.result = run.outcome()
    return run


def close_run(run: Run, store: Store, status: str, error: str | None = None) -> None:
    """Record the end of a run, and link its results for browsing."""
    run.status, run.error = status, error
    run.finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run.result = run.outcome() if status == "done" else None
    store.write_run(run)
    hidden = () if status == "done" else (OSError, StoreError)  # no alias may hide why a run failed
    with contextlib.suppress(*hidden):
        for state in run.steps:
            _link_results(run, state, store)


def _link_results(run: Run, state: StepState, store: Store) -> None:
    """Link runs/<id>/<step>/part-00000.parquet, or the files of a file artifact, and the files that the step shows."""
    for kind, written in state.outputs.items():
        folder = f"runs/{run.id}/{state.name}"
        if len(state.outputs) > 1:
            folder += f"/{kind.lower()}"
        for i, part in enumerate(store.artifact(written["artifact"]).parts):
            target = object_name("files" if part.name else kind, part.hash)
            store.storage.link(f"{folder}/{part.name or f'part-{i:05}.parquet'}", target)
    for name, digest in state.shown.items():
        store.storage.link(f"runs/{run.id}/{state.name}/{name}", object_name("files", digest))
