"""Recipes: their list, and a new run of one: the form of its knobs, and beside it the plan as it stands."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from starloom.console.forms import Group, parameters_of, query_of
from starloom.console.links import Links
from starloom.console.rendering import Crumb, Here, Page
from starloom.console.security import CSRF_FIELD, Form, Operator
from starloom.console.tables import Column, Row, Table
from starloom.flows.forms import FORCE, request_of
from starloom.flows.prefect_api import PrefectApi
from starloom.flows.triggered import command_of
from starloom.lineage.errors import ConfigError, StarloomError

if TYPE_CHECKING:
    from starloom.console.recipes import Known, Recipes
    from starloom.flows.run import Prepared

router = APIRouter(tags=["recipes"])
NOT_FIELDS = {CSRF_FIELD, "format", "table", "store", "like"}
"""Names of a form or address that are no knobs."""


@router.get("/recipes")
def list_recipes(here: Here) -> Response:
    """List the recipes that can be run."""
    rows = []
    for known in recipes_of(here).all():
        place = here.of_store(known.store_url(here.settings.run_store))
        last: Row = here.newest(place).get(known.name, {})
        rows.append({
            "recipe": known.name,
            "file": str(known.path),
            "steps": len(known.plan.steps) if known.plan else None,
            "last": last.get("run"),
            "status": last.get("status"),
            "problem": known.problem.message if known.problem else None,
            "store": place.store,
        })  # fmt: skip
    columns = (
        Column("recipe", "recipe", href=lambda row: None if row["problem"] else here.links.to("recipes", row["recipe"])),
        Column("file", "file", "code"),
        Column("steps", "steps", "number"),
        Column("last", "newest run", "code", lambda row: Links(row["store"]).run(row["last"])),
        Column("status", "its status", "status"),
        Column("problem", "problem"),
    )
    return here.answer(
        "recipes.html", {"recipes": rows}, title="Recipes", tables=[Table("recipes", columns, rows)], command="starloom plan RECIPE"
    )


@router.get("/recipes/{recipe}")
def new_run(request: Request, here: Here, recipe: str) -> Response:
    """Show the form of a run, with the knobs of the address filled in, and the plan."""
    known = recipes_of(here).get(recipe)
    fields = _fields(request)
    try:
        parameters = parameters_of(known.groups, fields)
        return _form(here, known, parameters, _planned(here, known, parameters), None)
    except ConfigError as error:
        if here.form != "html":
            raise
        return _form(here, known, {}, None, error, texts=_as_sent(known, fields), code=400)


@router.get("/recipes/{recipe}/plan")
def plan(request: Request, here: Here, recipe: str) -> Response:
    """Plan a run with the knobs of the address: the part of the page beside the form."""
    known = recipes_of(here).get(recipe)
    try:
        parameters = parameters_of(known.groups, _fields(request))
        prepared = _planned(here, known, parameters)
    except ConfigError as error:
        if here.form != "html":
            raise
        return here.html("plan.html", 400, plan=None, problem=error, command=None)
    document = prepared.to_json()
    return here.answer(
        "plan.html", document, title="Plan", tables=[], command=_command(known, parameters, here), plan=document, problem=None
    )


@router.post("/recipes/{recipe}/preview")
def preview(here: Here, recipe: str, form: Form, _: Operator) -> Response:
    """Lead to the address of a form as it was filled in, which shows its plan: for browsers that run no script."""
    known = recipes_of(here).get(recipe)
    parameters = parameters_of(known.groups, {name: values for name, values in form.items() if name not in NOT_FIELDS})
    return RedirectResponse(address_of(here, known, parameters), 303)


@router.post("/recipes/{recipe}/runs")
def start(here: Here, recipe: str, form: Form, _: Operator) -> Response:
    """Start a run with the knobs of the form; goes on to where it can be watched."""
    known = recipes_of(here).get(recipe)
    fields = {name: values for name, values in form.items() if name not in NOT_FIELDS}
    try:
        parameters = parameters_of(known.groups, fields)
        _planned(here, known, parameters)  # what only the whole plan shows to be wrong is refused before a run exists
        api = api_of(here)
        deployment = api.deployment(recipe)
        if deployment["parameter_openapi_schema"] != known.schema:  # the recipe was edited since it was deployed
            api.call("PATCH", f"/deployments/{deployment['id']}", {"parameter_openapi_schema": known.schema})
        made = api.start(deployment["id"], parameters)
    except ConfigError as error:
        return _form(here, known, {}, None, error, texts=_as_sent(known, fields), code=400)
    return RedirectResponse(here.of_store(known.store_url(here.settings.run_store)).to("triggered", made["id"]), 303)


def address_of(here: Page, known: Known, parameters: dict[str, Any]) -> str:
    """Return the address of a recipe's form, filled in."""
    words = urlencode(query_of(known.groups, parameters), doseq=True)
    return here.links.to("recipes", known.name) + (f"?{words}" if words else "")


def recipes_of(here: Page) -> Recipes:
    """Return the recipes of the console."""
    found: Recipes = here.request.app.state.recipes
    return found


def api_of(here: Page) -> PrefectApi:
    """Return a client of the Prefect server that carries runs out.

    Raises:
        ConfigError: the console was started without one.
    """
    api: PrefectApi | None = here.request.app.state.prefect
    if api is None:
        raise ConfigError(
            "this console has no Prefect server to start runs with", hint="start it by `starloom serve`, or set PREFECT_API_URL"
        )
    return api


def _fields(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name not in NOT_FIELDS:
            found.setdefault(name, []).append(value)
    return found


def _as_sent(known: Known, fields: dict[str, list[str]]) -> dict[str, Any]:
    """Return the fields of a form as they were filled in, without those that are as the recipe has them."""
    usual = {field.name: field.text(field.default) for group in known.groups for field in group.fields}
    found: dict[str, Any] = {name: values[-1] for name, values in fields.items() if name != FORCE and values[-1] != usual.get(name)}
    return {**found, FORCE: fields[FORCE]} if fields.get(FORCE) else found


def _planned(here: Page, known: Known, parameters: dict[str, Any]) -> Prepared:
    return recipes_of(here).prepare(known, parameters)


def _command(known: Known, parameters: dict[str, Any], here: Page) -> str:
    assert known.plan is not None
    request, _ = request_of(known.plan, parameters, here.settings.run_store)
    return shlex.join(["starloom", *command_of(request)])


def _form(
    here: Page,
    known: Known,
    parameters: dict[str, Any],
    prepared: Prepared | None,
    problem: StarloomError | None,
    *,
    texts: dict[str, Any] | None = None,
    code: int = 200,
) -> Response:
    filled = query_of(known.groups, parameters) if texts is None else texts
    document = prepared.to_json() if prepared else None
    return here.answer(
        "new_run.html",
        {"recipe": known.name, "parameters": parameters, "plan": document, "schema": known.schema},
        title=f"New run of {known.name}",
        crumbs=[Crumb("Recipes", here.links.to("recipes")), Crumb(known.name)],
        tables=[],
        command=_command(known, parameters, here),
        code=code,
        known=known,
        groups=[(group, _num_changed(group, filled)) for group in known.groups],
        filled=filled,
        plan=document,
        problem=problem,
        can_start=here.request.app.state.prefect is not None and here.session.role == "operator",
    )


def _num_changed(group: Group, filled: dict[str, Any]) -> int:
    return sum(field.name in filled for field in group.fields)
