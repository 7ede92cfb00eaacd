"""A plan as a Prefect flow: a task for each step, submitted as its inputs are ready, and what is shown beside the flow run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from starloom.lineage.errors import StarloomError
from starloom.queries.curves import loss_rows, picture
from starloom.queries.fates import funnel
from starloom.tasks.frame.reaper import ensure_reaper

if TYPE_CHECKING:
    from starloom.flows.session import Session

FLOW = "starloom"
"""Name of the flow: a deployment is `starloom/RECIPE`."""
MAX_TASKS = 8
"""Steps that are under way at once."""


def as_flow(session: Session) -> None:
    """Walk the plan as a Prefect flow of its own; a server is started if none is named.

    Raises:
        StarloomError: the error of a step, or Prefect does not accept the run.
    """
    settle_prefect()
    ensure_reaper()  # before Prefect starts a server
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    @flow(name=FLOW, flow_run_name=session.run.id, task_runner=ThreadPoolTaskRunner(MAX_TASKS), persist_result=False)  # type: ignore[arg-type]
    def starloom(recipe: str, steps: list[str]) -> None:
        del recipe, steps  # shown as the run's parameters
        submit_steps(session)

    try:
        starloom(str(session.plan.recipe.path), [step.name for step in session.plan.steps])
    except Exception as error:
        if session.failure is not None or session.run.steps:
            raise
        place = os.environ.get("PREFECT_API_URL", "an ephemeral server")
        raise StarloomError(
            f"Prefect did not accept the run ({place}): {type(error).__name__}: {error}",
            hint="start the server that PREFECT_API_URL names or unset it, or run without Prefect: --no-prefect",
        ) from error


def submit_steps(session: Session) -> None:
    """Walk the plan inside the flow run under way; show the funnel and the curves beside it.

    Raises:
        StarloomError: the error of the first step that failed.
    """
    from starloom.tasks.frame.prefect import as_task, show_curve, show_table

    session.run.flow_run = flow_run_id()
    futures: dict[str, Any] = {}
    for step in session.plan.steps:
        above = [futures[name] for name in session.resolver.waits_on(step) if name in futures]
        task = as_task(step.name, lambda show, step=step: session.run_step(step, show))  # type: ignore[misc]
        futures[step.name] = task.submit(wait_for=above)
    for future in futures.values():
        future.wait()
    rows = [{**row, "rules": ", ".join(f"{rule} {n}" for rule, n in row["rules"].items())} for row in funnel(session.run)]
    show_table("funnel", rows, f"What each step of {session.run.id} left of the documents")
    for state in [state for state in session.run.steps if "Losses" in state.outputs]:
        course = loss_rows(session.store, state), picture(session.store, state)
        show_curve(f"{state.name}-loss".replace("_", "-").replace(".", "-"), *course, f"Loss of {state.name} in {session.run.id}")
    if session.failure is not None:
        raise session.failure


def flow_run_id() -> str | None:
    """Return Prefect's id of the flow run under way."""
    from prefect.runtime import flow_run

    return None if flow_run.id is None else str(flow_run.id)


def settle_prefect(*, logging: str = "CRITICAL") -> None:
    """Set Prefect's settings before its first import; settings of the environment are kept."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_LOGGING_LEVEL": logging,
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)
