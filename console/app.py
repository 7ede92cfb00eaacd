"""The application: routers, errors, static files and the guard before all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from starloom.console.pages import (
    artifacts,
    checkpoints,
    clusters,
    comparing,
    documents,
    entrance,
    finding,
    interface,
    recipes,
    repositories,
    runs,
    sequences,
    steps,
    triggered,
    watching,
    what_if,
)
from starloom.console.recipes import Recipes
from starloom.console.rendering import RESPONSES, Page, json_response, make_templates
from starloom.console.security import Guard, Keeper, guarded
from starloom.console.stores import Stores
from starloom.flows.prefect_api import PrefectApi
from starloom.lineage.errors import ConfigError, CorruptError, InputError, MissingError, StarloomError, StoreError

if TYPE_CHECKING:
    from starloom.console.settings import Settings

STATIC = Path(__file__).parent / "static"
ROUTERS = tuple(
    module.router
    for module in (
        entrance,
        runs,
        steps,
        documents,
        sequences,
        checkpoints,
        clusters,
        repositories,
        artifacts,
        finding,
        interface,
        recipes,
        triggered,
        watching,
        comparing,
        what_if,
    )
)
NAVIGATION = (("Recipes", "/recipes"), ("Runs", "/runs"), ("Find", "/find"))
"""Label and address of each entry of the header; those without a page are left out."""
STATUS: tuple[tuple[type[StarloomError], int], ...] = (
    (InputError, 404),
    (ConfigError, 400),
    (MissingError, 404),
    (CorruptError, 500),
    (StoreError, 503),
)
"""Error → status of the answer; the first that fits."""
NOT_FOUND, UNAUTHORIZED, SERVER_ERROR = 404, 401, 500


def create_app(settings: Settings) -> FastAPI:
    """Return the console's application. Nothing is read or started before its first request."""
    app = FastAPI(
        title="Starloom console",
        summary="Every page in data: add ?format=json, or ?format=csv or parquet and a table's name.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # FastAPI's own route would be outside of the guard
        dependencies=[Depends(guarded)],
        responses=RESPONSES,
    )
    app.state.settings = settings
    app.state.keeper = Keeper(settings)
    app.state.stores = Stores(settings)
    app.state.recipes = Recipes(settings)
    app.state.prefect = PrefectApi(settings.prefect_url, settings.prefect_auth) if settings.prefect_url else None
    app.state.templates = make_templates()
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    routed = {getattr(route, "path", None) for router in ROUTERS for route in router.routes}
    app.state.navigation = [(label, path) for label, path in NAVIGATION if path in routed]
    app.add_exception_handler(StarloomError, _told)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _misasked)
    app.add_middleware(Guard, settings=settings, failed=_failed)
    return app


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarloomError)
    status = next((status for kind, status in STATUS if isinstance(error, kind)), SERVER_ERROR)
    return _problem(request, status, error.message, error.hint, type(error).__name__)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == UNAUTHORIZED and _wants_html(request) and "authorization" not in request.headers:
        return RedirectResponse(f"/login{_return_address(request)}", 303)
    hint = "follow a link of the header, or find what you look for" if error.status_code == NOT_FOUND else None
    message = f"there is no page {request.url.path}" if error.detail == "Not Found" else str(error.detail)
    return _problem(request, error.status_code, message, hint, "HTTPException", dict(error.headers or {}))


def _misasked(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()[:5])
    return _problem(request, 400, f"the address cannot be understood: {told}", "correct it, or go back", "ConfigError")


def _failed(request: Request, error: Exception) -> Response:
    hint = "the console's log has the details; please report it with them"
    return _problem(request, SERVER_ERROR, "something went wrong in the console", hint, type(error).__name__)


def _problem(request: Request, status: int, message: str, hint: str | None, kind: str, headers: dict[str, str] | None = None) -> Response:
    """Answer an error as `starloom --json` tells it, or as a page."""
    told: dict[str, Any] = {"error": message, "hint": hint, "kind": kind}
    if _wants_html(request):
        response = Page(request, "html", None, None).html(
            "error.html",
            status,
            title="Not found" if status == NOT_FOUND else "Error",
            crumbs=(),
            command=None,
            tables={},
            status=status,
            **told,
        )
    else:
        response = json_response(told, status)
    response.headers.update(headers or {})
    return response


def _wants_html(request: Request) -> bool:
    wanted = request.query_params.get("format", "html")
    return wanted not in ("json", "csv", "parquet") and "authorization" not in request.headers


def _return_address(request: Request) -> str:
    from urllib.parse import urlencode

    query = f"?{request.url.query}" if request.url.query else ""
    return "?" + urlencode({"next": request.url.path + query}) if request.method == "GET" and request.url.path != "/" else ""
