"""Protection of the console: host names, headers, sessions, roles, and requests forged by other sites.

Each response carries a Content-Security-Policy that lets no inline script or style, and nothing of another site, take effect. A request
that changes something needs the role of operator, a token of its own session, and the browser's word that it came from our pages; one
with a bearer token needs no session's token, since no browser adds it unasked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, HTTPException, Request
from markupsafe import Markup
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response

from starloom.console.tries import Tries

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from starloom.console.settings import Settings

Role = Literal["viewer", "operator"]
COOKIE = "starloom_session"
CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CHANGING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
PUBLIC_PATHS = frozenset({"/login", "/healthz"})
ANY_ROLE_PATHS = frozenset({"/logout"})
"""What a viewer may change: that they are logged in."""
MAX_FORM_BYTES = 1_000_000
KEPT_ENDED = 100_000
"""Sessions that were logged out and whose cookies would not be over yet."""
TOO_MANY = "too many wrong passwords or tokens: wait a minute, then try again"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's session: its role (None before login), and the secret that its forms are bound to."""

    role: Role | None
    nonce: str
    expires: float
    is_bearer: bool = False
    """Whether a token in the request's header made it, not a cookie."""


class Keeper:
    """A keeper of sessions: makes and reads signed cookies, checks passwords and tokens."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cookie_name = f"{COOKIE}_{settings.port}"
        """Browsers send a cookie to every port of a host: two consoles on one machine must not take each other's."""
        self._key = _key(settings) if settings.secret else secrets.token_bytes(32)
        self._tries = Tries()
        self._ended: dict[str, float] = {}
        """Nonce of a session that was logged out → when it would have been over."""
        self._lock = threading.Lock()

    def new_session(self, role: Role | None) -> Session:
        """Return a session that begins now."""
        return Session(role, secrets.token_urlsafe(16), time.time() + self.settings.session_hours * 3600)

    def cookie(self, session: Session) -> str:
        """Return the signed text of a session."""
        body = json.dumps([session.role, session.nonce, session.expires]).encode()
        return f"{base64.urlsafe_b64encode(body).decode()}.{self._sign('session', body)}"

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it is not ours, or is over."""
        encoded, _, signature = cookie.partition(".")
        try:
            body = base64.urlsafe_b64decode(encoded.encode())
        except ValueError:
            return None
        if not hmac.compare_digest(signature.encode(), self._sign("session", body).encode()):
            return None
        role, nonce, expires = json.loads(body)
        return Session(role, nonce, expires) if expires > time.time() and nonce not in self._ended else None

    def end(self, session: Session) -> None:
        """End a session: its cookie, wherever a copy of it is, opens nothing from now on, as long as this console runs."""
        now = time.time()
        with self._lock:
            if len(self._ended) >= KEPT_ENDED:
                self._ended = {nonce: expires for nonce, expires in self._ended.items() if expires > now}
            self._ended[session.nonce] = session.expires

    def csrf_token(self, session: Session) -> str:
        """Return the token that the forms of a session carry."""
        return self._sign("csrf", session.nonce.encode())

    def role_of(self, word: str, kind: Literal["password", "token"]) -> Role | None:
        """Return the role that a password or token gives. Takes equally long whichever it is."""
        given = hashlib.sha256(word.encode()).digest()
        found: Role | None = None
        roles: tuple[Role, ...] = ("viewer", "operator")
        for role in roles:
            wanted = getattr(self.settings, f"{role}_{kind}")
            matches = hmac.compare_digest(given, hashlib.sha256((wanted or "").encode()).digest())
            found = role if matches and wanted else found
        return found

    def try_word(self, word: str, kind: Literal["password", "token"], client: str) -> Role | None:
        """Return the role that a password or token gives to whoever gave it from an address.

        Raises:
            HTTPException: 429 after ten wrong ones in a minute from there.
        """
        mark = self._tries.begin(client)
        if mark is None:
            raise HTTPException(429, TOO_MANY, {"Retry-After": "60"})
        role = self.role_of(word, kind)
        if role is not None:
            self._tries.was_right(client, mark)
        return role

    def _sign(self, purpose: str, body: bytes) -> str:
        return hmac.new(self._key, purpose.encode() + b":" + body, hashlib.sha256).hexdigest()


def _key(settings: Settings) -> bytes:
    """Return the key of signatures. It holds the passwords too, so that a change of one ends all sessions."""
    words = [settings.secret, *(getattr(settings, f"{role}_{what}") for role in ("viewer", "operator") for what in ("password", "token"))]
    return hashlib.sha256(json.dumps(words).encode()).digest()


class Guard:
    """A guard before the application: refuses unknown host names, and adds the headers of safety to each response.

    It answers failures too: what the framework would answer for them goes out beyond the guard, without the headers.
    """

    def __init__(self, app: ASGIApp, settings: Settings, failed: Callable[[Request, Exception], Response]) -> None:
        self.app = app
        self.settings = settings
        self.failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # the console has none, and no page may open one elsewhere
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return

        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        name = host_name(Headers(scope=scope).get("host", ""))
        if name is None or not self.settings.serves(name):
            refusal = PlainTextResponse(
                "This console does not answer under that host name.\nStart it with the name among its allowed hosts, or use its address.\n",
                400,
            )
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if not has_begun:
                await self.failed(Request(scope), error)(scope, receive, send_with_headers)
            raise  # for the server's log


def host_name(header: str) -> str | None:
    """Return the name or address in a Host header, without the port; None if it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    is_plain = not parts.path and not parts.query and not parts.fragment and "@" not in header and "\\" not in header
    return parts.hostname if is_plain else None


# Who asks


def session_of(request: Request) -> Session:
    """Return the session of a request; a new one, for the answer to set, if it has none. Asked twice, it answers the same."""
    known: Session | None = getattr(request.state, "session", None)
    if known is None:
        known = _find_session(request)
        request.state.session = known
    return known


def _find_session(request: Request) -> Session:
    keeper: Keeper = request.app.state.keeper
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        role = keeper.try_word(token.strip(), "token", client_of(request))
        if role is None:
            raise HTTPException(401, "the bearer token is not one of this console", {"WWW-Authenticate": "Bearer"})
        return Session(role, "", 0, is_bearer=True)
    found = keeper.read(request.cookies.get(keeper.cookie_name, ""))
    if found is not None and (found.role is not None or request.app.state.settings.needs_login):
        return found
    request.state.is_new_session = True
    return keeper.new_session(None if request.app.state.settings.needs_login else "operator")


def client_of(request: Request) -> str:
    """Return the address that asks: what it says of itself in headers counts for nothing, but from a proxy that the settings name."""
    return request.client.host if request.client else ""


def csrf_field(request: Request) -> Markup:
    """Return the hidden field that every form which changes something must hold."""
    token = request.app.state.keeper.csrf_token(session_of(request))
    return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, token)


async def form_of(request: Request) -> dict[str, list[str]]:
    """Return the fields of an urlencoded form: name → values.

    Raises:
        HTTPException: 413 for more than a megabyte, 400 for what is not such a form.
    """
    body = bytearray()
    if hasattr(request.state, "form"):
        return dict(request.state.form)
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, f"the form is larger than {MAX_FORM_BYTES:,} bytes")
    fields: dict[str, list[str]] = {}
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/x-www-form-urlencoded":
        try:
            for name, value in parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10_000):
                fields.setdefault(name, []).append(value)
        except ValueError as error:
            raise HTTPException(400, f"the form cannot be read: {error}") from error
    request._body = bytes(body)  # noqa: SLF001 - so that request.json() and request.body() find what was streamed
    request.state.form = fields
    return fields


async def guarded(request: Request) -> None:
    """Check a request before its page runs: role, origin, session token. Every route has it, by `create_app`.

    Raises:
        HTTPException: 401 where nobody is logged in, 403 where the role or the origin does not suffice.
    """
    session = session_of(request)
    if request.method in CHANGING_METHODS:
        _check_origin(request, session)
        if not session.is_bearer:
            await _check_token(request, session)
    if request.url.path in PUBLIC_PATHS:
        return
    if session.role is None:
        raise HTTPException(401, "log in to see this page")
    if request.method not in SAFE_METHODS and session.role != "operator" and request.url.path not in ANY_ROLE_PATHS:
        raise HTTPException(403, "this needs the role of operator; you are a viewer")


def _check_origin(request: Request, session: Session) -> None:
    """Refuse a change that another site's page asks for.

    Sec-Fetch-Site is the browser's own word, which no page can set; over plain HTTP to another machine it is missing, and Origin is there.
    A browser sends one of them with every form, so that a session without either is no browser of ours.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        allowed = site == "same-origin"
    elif origin is not None:
        allowed = origin == f"{request.url.scheme}://{request.headers.get('host', '')}"
    else:
        allowed = session.is_bearer
    if not allowed:
        raise HTTPException(403, "this request did not come from a page of this console")


async def _check_token(request: Request, session: Session) -> None:
    given = request.headers.get(CSRF_HEADER) or next(iter((await form_of(request)).get(CSRF_FIELD, [])), "")
    wanted = request.app.state.keeper.csrf_token(session)
    if not hmac.compare_digest(given.encode(), wanted.encode()):
        raise HTTPException(403, "the form is not of this session: load the page again, then send it")


async def viewer(request: Request) -> Session:
    """Return the session of somebody who may look.

    Raises:
        HTTPException: 401 where nobody is logged in.
    """
    session = session_of(request)
    if session.role is None:
        raise HTTPException(401, "log in to see this page")
    return session


async def operator(request: Request) -> Session:
    """Return the session of somebody who may change things, whose request is not forged.

    Raises:
        HTTPException: 401 where nobody is logged in, 403 where the role is another or the request came from elsewhere.
    """
    session = await viewer(request)
    await guarded(request)
    if session.role != "operator":
        raise HTTPException(403, "this needs the role of operator; you are a viewer")
    return session


Viewer = Annotated[Session, Depends(viewer)]
Operator = Annotated[Session, Depends(operator)]
Form = Annotated[dict[str, list[str]], Depends(form_of)]


def set_session(request: Request, response: Any, session: Session) -> None:
    """Put a session's cookie into a response."""
    keeper: Keeper = request.app.state.keeper
    response.set_cookie(
        keeper.cookie_name,
        keeper.cookie(session),
        max_age=int(request.app.state.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
