"""A run that was triggered by a deployment: its parameters as a request, carried out inside Prefect's flow run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.flows.deploying import CONSOLE, RECIPE, STORE
from starloom.flows.forms import request_of
from starloom.flows.plan import make_plan
from starloom.flows.prefect_api import PrefectApi
from starloom.flows.prefect_flow import FLOW, MAX_TASKS, submit_steps
from starloom.flows.recipe import load
from starloom.flows.run import NoWatcher, execute, prepare, take_cached
from starloom.lineage.errors import Cancelled, ConfigError, InputError, StarloomError
from starloom.tasks.frame.reaper import ensure_reaper

if TYPE_CHECKING:
    from uuid import UUID

    from starloom.flows.run import Request
    from starloom.flows.session import Session

WANTED_SECONDS = 1.0
"""How often a run asks whether it is still wanted."""


def carry_out(flow_run_id: UUID) -> int:
    """Carry out a flow run of Prefect's; returns 0 if it ended well, or as somebody wished.

    Raises:
        ConfigError: the deployment names no recipe.
    """
    from prefect import flow
    from prefect.engine import handle_engine_signals
    from prefect.exceptions import ObjectNotFound
    from prefect.flow_engine import load_flow_run, run_flow_sync
    from prefect.task_runners import ThreadPoolTaskRunner

    ensure_reaper()
    with handle_engine_signals(flow_run_id):
        try:
            flow_run = load_flow_run(flow_run_id)

            @flow(name=FLOW, task_runner=ThreadPoolTaskRunner(MAX_TASKS), persist_result=False, validate_parameters=False)  # type: ignore[arg-type]
            def starloom(parameters: dict[str, Any]) -> Any:
                return _run(flow_run_id, parameters)

            state = run_flow_sync(starloom, flow_run=flow_run, parameters={"parameters": flow_run.parameters}, return_type="state")
            _end_if_unwanted(flow_run_id)
        except ObjectNotFound:
            print(f"starloom: the flow run {flow_run_id} was deleted; what it finished is in the store", file=sys.stderr, flush=True)
            return 0
    return 0 if state is not None and (state.is_completed() or state.is_cancelled()) else 1


def _end_if_unwanted(flow_run_id: UUID) -> None:
    """Settle a run that was cancelled before it began: Prefect's engine leaves it as it found it, cancelling."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled as CancelledState

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is not None and state.is_cancelling():
            client.set_flow_run_state(flow_run_id, CancelledState(message="cancelled before it began"), force=True)


def _end_when_unwanted(flow_run_id: UUID) -> None:
    """End this process as Ctrl-C would, once its run is to be cancelled or was deleted.

    The worker does not tell: of a run that was deleted it hears nothing, and of one whose deployment was deleted not how to end it.
    """
    with contextlib.closing(PrefectApi.from_environment()) as api:
        while not _is_unwanted(api, flow_run_id):
            threading.Event().wait(WANTED_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_unwanted(api: PrefectApi, flow_run_id: UUID) -> bool:
    try:
        return bool(api.flow_run(str(flow_run_id))["state_type"] == "CANCELLING")
    except InputError:  # it was deleted
        return True
    except StarloomError:  # the server may be restarting
        return False


def _run(flow_run_id: UUID, parameters: dict[str, Any]) -> Any:
    from prefect.states import Completed

    if RECIPE not in os.environ:
        raise ConfigError(f"{RECIPE} names no recipe", hint="register the deployment with `starloom deploy` or `starloom serve`")
    plan = make_plan(load(Path(os.environ[RECIPE])))
    request, workers = request_of(plan, parameters, os.environ.get(STORE))
    prepared = prepare(request)
    command = command_of(request)
    if prepared.is_cached:
        run, _ = take_cached(prepared, command=command, flow_run=str(flow_run_id))
        _link(run.id)
        return Completed(name="Cached", message=f"nothing to run: all {len(prepared.plan.steps)} steps are cached; run {run.id}")

    def carry(session: Session) -> None:
        session.run.command = command
        threading.Thread(target=_end_when_unwanted, args=(flow_run_id,), name="starloom-wanted", daemon=True).start()
        _link(session.run.id)
        submit_steps(session)

    try:
        run = execute(prepared, NoWatcher(), workers=workers, carry=carry)
    except Cancelled as stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker and this process both ask: Prefect calls the later one a crash
        return _stopped(flow_run_id, stopped)
    return Completed(message=f"run {run.id} in {prepared.store.url}")


def command_of(request: Request) -> list[str]:
    """Return the words of the `starloom` command that does the same."""
    words = ["run", request.recipe, *(word for setting in request.settings for word in ("--set", setting))]
    words += [word for step in request.force for word in ("--force", step)]
    for flag, value in (("--from", request.start), ("--until", request.until), ("--store", request.store)):
        words += [flag, value] if value is not None else []
    return words


def _stopped(flow_run_id: UUID, stopped: Cancelled) -> Any:
    """Return the state of a run that was stopped: cancelled if somebody asked for that, else crashed with its worker."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled as CancelledState
    from prefect.states import Crashed

    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run_id).state
    except ObjectNotFound:
        return CancelledState(message="deleted")  # which nobody will read
    if state is not None and (state.is_cancelling() or state.is_cancelled()):  # the worker may have settled it before us
        return CancelledState(message=stopped.message)
    return Crashed(message="stopped with its worker; what it finished is in the store, and a retry goes on from there")


def _link(run_id: str) -> None:
    """Show where the console has this run."""
    console = os.environ.get(CONSOLE)
    if console:
        from prefect.artifacts import create_link_artifact

        create_link_artifact(f"{console.rstrip('/')}/runs/{run_id}", link_text=f"run {run_id} in the console", key="console")
