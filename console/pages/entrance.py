"""Entrance: the first page, logging in and out, and whether the console lives."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from starloom.console.rendering import Here, json_response
from starloom.console.security import Form, Keeper, client_of, session_of, set_session

router = APIRouter(include_in_schema=False)


@router.get("/")
def first_page() -> Response:
    """Lead to the runs."""
    return RedirectResponse("/runs", 303)


@router.get("/healthz")
def health() -> Response:
    """Answer that the console lives; nobody need be logged in."""
    return json_response({"status": "ok"})


@router.get("/login")
def login_page(here: Here, next_: Annotated[str, Query(alias="next")] = "/") -> Response:
    """Show the form that asks for a password."""
    if not here.settings.needs_login:
        return RedirectResponse(_own(next_), 303)
    return _login(here, next_, None)


@router.post("/login")
def log_in(request: Request, here: Here, form: Form) -> Response:
    """Begin the session of a viewer or operator."""
    keeper: Keeper = request.app.state.keeper
    target = form.get("next", ["/"])[0]
    role = keeper.try_word(form.get("password", [""])[0], "password", client_of(request))
    if role is None:
        return _login(here, target, "This is not the password of a viewer or an operator.", 403)
    response = RedirectResponse(_own(target), 303)
    set_session(request, response, keeper.new_session(role))
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session of this browser, and of whoever has its cookie."""
    keeper: Keeper = request.app.state.keeper
    keeper.end(session_of(request))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(keeper.cookie_name, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return response


def _login(here: Here, target: str, problem: str | None, status: int = 200) -> Response:
    return here.html("login.html", status, title="Log in", crumbs=(), tables={}, command=None, problem=problem, next=_own(target))


def _own(target: str) -> str:
    """Return an address to go to after login: one of ours, never of another site."""
    is_ours = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if is_ours else "/"
