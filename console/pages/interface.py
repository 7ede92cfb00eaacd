"""The interface for programs: every page in data, described without scripts of others."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from starloom.console.rendering import Crumb, Here, json_response
from starloom.console.tables import Column, Table

router = APIRouter(include_in_schema=False)


@router.get("/api/openapi.json")
def openapi(request: Request) -> Response:
    """Describe every page by OpenAPI."""
    return json_response(request.app.openapi())


@router.get("/api")
def interface(request: Request, here: Here) -> Response:
    """List the pages with their parameters, as the OpenAPI description has them."""
    description = request.app.openapi()
    rows = [
        {
            "method": method.upper(),
            "path": path,
            "what": told.get("description", "").partition("\n")[0],
            "parameters": ", ".join(
                each["name"] for each in told.get("parameters", []) if each["name"] not in ("format", "table", "store")
            ),
        }
        for path, methods in description["paths"].items()
        for method, told in methods.items()
        if isinstance(told, dict)
    ]
    columns = (
        Column("method", "method"),
        Column("path", "address", "code"),
        Column("parameters", "parameters", "code"),
        Column("what", "answers"),
    )
    data: dict[str, Any] = description
    return here.answer("api.html", data, title="API", crumbs=[Crumb("API")], tables=[Table("pages", columns, rows)])
