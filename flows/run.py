"""Requests made into plans, and plans carried out: without any server when there is nothing to do."""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.flows.explain import Outlook, forced_steps, last_states, outlook
from starloom.flows.plan import Plan, make_plan
from starloom.flows.recipe import load
from starloom.flows.session import Session, Watcher, close_run, record_cached
from starloom.lineage.errors import StoreError
from starloom.lineage.leases import running
from starloom.lineage.store import Store
from starloom.tasks.frame.child import longest_grace_seconds
from starloom.tasks.frame.workers import Workers, stopped_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starloom.flows.recipe import Recipe
    from starloom.flows.resolver import Resolver
    from starloom.lineage.records import Run, StepState
    from starloom.tasks.frame.step import ResolvedStep

GRACE_SECONDS = 3.2
"""Grace period between a stop request and killing what is left: a run ends within five seconds."""
DEFAULT_STORE = ".starloom"


@dataclass(frozen=True)
class Request:
    """The arguments of a run."""

    recipe: str
    settings: tuple[str, ...] = ()
    store: str | None = None
    start: str | None = None
    until: str | None = None
    force: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A resolved request: nothing has run, nothing was written."""

    plan: Plan
    store: Store
    forced: set[str]
    outlook: list[Outlook]
    resolver: Resolver
    resolved: list[ResolvedStep]
    """The steps that could be resolved without running anything: all of them if everything is cached."""
    previous: Run | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the outlook as a document."""
        names = ("step", "status", "reasons", "seconds", "told")
        steps = [
            {**{name: getattr(look, name) for name in names}, "actions": look.num_actions, "cached": look.num_cached}
            for look in self.outlook
        ]
        return {"recipe": self.plan.recipe.name, "store": self.store.url, "steps": steps}

    @property
    def is_cached(self) -> bool:
        """True if there is nothing to run."""
        return all(look.status == "cached" for look in self.outlook)


def prepare(request: Request) -> Prepared:
    """Read the recipe, wire it, open the store, and find what is cached.

    Raises:
        ConfigError: for an invalid recipe, knob, step or store name, or a step to run that cannot run here.
    """
    path = Path(request.recipe)
    recipe = load(path, list(request.settings))
    plan = make_plan(recipe, until=request.until)
    forced = forced_steps(plan, list(request.force), request.start)
    store = Store.look(request.store or store_of(recipe))
    previous, before = last_states(store, recipe.name, [step.name for step in plan.steps])
    looks, resolver, resolved = outlook(plan, store, forced, before)
    for step, look in zip(plan.steps, looks, strict=True):
        if look.status != "cached":
            step.config.check_here(step.name)
    return Prepared(plan, store, forced, looks, resolver, resolved, previous)


def store_of(recipe: Recipe) -> str:
    """Return the store of a recipe: a folder beside it, or the one that it names."""
    store = recipe.store or DEFAULT_STORE
    return store if "://" in store else str(Path(recipe.path.parent, store))


def take_cached(prepared: Prepared, command: list[str] | None = None, flow_run: str | None = None) -> tuple[Run, bool]:
    """Return the run of a plan with nothing to run: the last one if it was the same, else a new record; and whether it is new.

    Args:
        prepared: the plan.
        command: the words to record; by default those of this process.
        flow_run: the orchestrator's run that this is, if one is.

    Raises:
        StoreError: if there is a new record and the store cannot be written.
    """
    with contextlib.suppress(StoreError):  # only caches: whoever cannot write them does without
        prepared.store.make()
    run = record_cached(prepared.resolver, prepared.resolved)
    run.command, run.flow_run = command or run.command, flow_run
    previous = prepared.previous
    if previous is not None and previous.status == "done" and _keys(previous) == _keys(run):
        return previous, False
    close_run(run, prepared.store, "done")
    return run, True


def _keys(run: Run) -> dict[str, str]:
    return {step.name: step.key for step in run.steps}


def in_order(session: Session) -> None:
    """Walk the plan step by step."""
    for step in session.plan.steps:
        session.run_step(step, lambda *_: None)


def execute(prepared: Prepared, watcher: Watcher, *, workers: int, carry: Callable[[Session], None] = in_order) -> Run:
    """Run a plan in a thread, so that this one can be interrupted: step by step, or as `carry` walks it.

    Raises:
        StoreError: if the store cannot be made or written.
        Cancelled: after Ctrl-C or SIGTERM; workers and children are gone, finished parts are kept.
        StarloomError: the error of a step.
    """
    prepared.store.make()
    if not prepared.store.storage.shared:
        workers = 0
    with Workers(workers) as pool:
        session = Session(prepared.plan, prepared.store, pool, watcher, prepared.forced)
        run = session.run
        failure: list[BaseException] = []

        def run_steps() -> None:
            try:
                with running(prepared.store, run.id):
                    prepared.store.write_run(run)
                    carry(session)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
                failure.append(error)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(run_steps,), name="starloom-flow", daemon=True)
        with _signals(pool):
            thread.start()
            _wait(thread, pool, session)
            error = session.failure or (failure[0] if failure else None)
            status = "done" if error is None else "cancelled" if pool.is_cancelled() else "failed"
            session.close(status, str(error) if error else None)
            if status == "cancelled":  # under our handlers still: who asks twice must not break off the tidying
                pool.close(kill=True)
                end_children(at_exit=False)  # Prefect's server would take its time
    if error is not None:
        raise error
    return run


def _wait(thread: threading.Thread, pool: Workers, session: Session) -> None:
    asked = None
    while thread.is_alive():
        thread.join(0.1)
        if pool.is_cancelled():
            asked = asked or time.monotonic()
            if time.monotonic() - asked > max(GRACE_SECONDS, longest_grace_seconds() + 1):
                stopped = stopped_error()
                session.close("cancelled", str(stopped))
                print(f"starloom: {stopped}", file=sys.stderr, flush=True)  # nobody else can any more
                pool.close(kill=True)
                end_children(at_exit=True)
                os._exit(1)


def end_children(*, at_exit: bool) -> None:
    """Kill every process below this one that has not stopped by now.

    Multiprocessing's resource tracker goes by itself, and without it an ordinary exit would start another and complain.
    """
    from multiprocessing import resource_tracker

    import psutil

    tracker = None if at_exit else resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]  # noqa: SLF001 - it has no name
    children = [child for child in psutil.Process().children(recursive=True) if child.pid != tracker]
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=0.5)


@contextlib.contextmanager
def _signals(pool: Workers) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask the run to stop while the context is open."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        pool.cancel()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class NoWatcher:
    """A watcher that ignores all events."""

    def started(self, step: str, num_actions: int, num_cached: int) -> None:
        """Do nothing."""

    def progressed(self, step: str, done: int, total: int, unit: str, metrics: dict[str, Any]) -> None:
        """Do nothing."""

    def finished(self, state: StepState) -> None:
        """Do nothing."""
