"""Deployments: a recipe as something that is started from Prefect's page, from the console, by a schedule or by an automation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starloom.flows.forms import schema_of
from starloom.flows.plan import Plan, make_plan
from starloom.flows.recipe import load
from starloom.lineage.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from starloom.flows.prefect_api import PrefectApi

RECIPE, STORE, CONSOLE = "STARLOOM_RECIPE", "STARLOOM_STORE", "STARLOOM_CONSOLE_URL"
"""Variables of the process that carries a run out."""
NOT_IN_NAMES = "/%&<>?#\\"
"""Characters that Prefect refuses in names, or that end a path."""


@dataclass(frozen=True)
class Deployed:
    """A recipe that a server knows."""

    name: str
    recipe: str
    deployment_id: str
    schema: dict[str, Any]


def plans_of(recipes: list[Path]) -> list[Plan]:
    """Read recipes, all of them before anything is registered.

    Raises:
        ConfigError: one is invalid, or two have one name.
    """
    plans = [make_plan(load(path.absolute())) for path in recipes]
    seen: dict[str, Path] = {}
    for plan in plans:
        name = plan.recipe.name
        if set(name) & set(NOT_IN_NAMES) or name in (".", "..") or not name.isprintable():
            raise ConfigError(
                f"a deployment cannot be named {name!r}, as {plan.recipe.path} is: no {' '.join(NOT_IN_NAMES)}", hint="change its `name:`"
            )
        if name in seen:
            raise ConfigError(f"{seen[name]} and {plan.recipe.path} are both named {name!r}", hint="give one another `name:`")
        seen[name] = plan.recipe.path
    return plans


def deploy(api: PrefectApi, plans: list[Plan], *, pool: str, store: str | None = None, console: str | None = None) -> list[Deployed]:
    """Register one deployment a recipe; one that exists is replaced, its schedules stay.

    Raises:
        StarloomError: the server is not there or refuses.
    """
    schemas = [schema_of(plan) for plan in plans]
    api.ensure_pool(pool)
    found = []
    for plan, schema in zip(plans, schemas, strict=True):
        recipe = str(plan.recipe.path)
        env = {RECIPE: recipe} | ({STORE: store} if store else {}) | ({CONSOLE: console} if console else {})
        deployment_id = api.deploy(
            name=plan.recipe.name,
            description=_description(plan),
            parameter_openapi_schema=schema,
            parameters={},
            work_pool_name=pool,
            job_variables={"command": f"{sys.executable} -m starloom.flows.carry", "env": env, "working_dir": str(plan.recipe.path.parent)},
            entrypoint="starloom.flows.carry:flow",
        )
        found.append(Deployed(plan.recipe.name, recipe, deployment_id, schema))
    return found


def _description(plan: Plan) -> str:
    steps = " → ".join(step.name for step in plan.recipe.steps)
    left = "What is left as it stands here is taken from the recipe; finished work is taken from the store."
    return f"The recipe `{plan.recipe.path}`.\n\n{steps}\n\n{left}"
