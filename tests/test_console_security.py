"""Who may see and change what in the console, and what other sites' pages cannot make a browser do."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter
from starlette.testclient import TestClient

from starloom.console import app as console_app
from starloom.console import tries
from starloom.console.__main__ import server_options
from starloom.console.app import ROUTERS, create_app
from starloom.console.security import Form, Operator, Viewer, host_name
from starloom.console.settings import Settings
from starloom.lineage.errors import ConfigError
from starloom.lineage.store import Store
from tests.console_client import BASE, client_of, hidden_token

CREDENTIALS: dict[str, Any] = {"viewer_password": "see", "operator_password": "do"}
CREDENTIALS |= {"viewer_token": "see-token", "operator_token": "do-token"}
SAME = {"sec-fetch-site": "same-origin"}
PAGES = ["/", "/runs", "/runs/latest", "/runs/x/steps/y", "/runs/x/steps/y/sample", "/documents/0123456789", "/sequences/0:0"]
PAGES += [
    "/checkpoints/x",
    "/clusters/x",
    "/conflicts",
    "/repositories/a/b",
    "/artifacts/012345",
    "/find",
    "/find?q=x",
    "/api",
    "/api/openapi.json",
]


@pytest.fixture
def store(tmp_path):
    Store.open(str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def routes(monkeypatch):
    """Adds a page that changes something, as those of others do."""
    router = APIRouter()

    @router.post("/change")
    def change(form: Form, session: Operator) -> dict[str, str]:
        return {"role": session.role, "word": form.get("word", [""])[0]}

    @router.post("/unmarked")
    def unmarked() -> dict[str, str]:
        return {"done": "yes"}

    @router.get("/seen")
    def seen(session: Viewer) -> dict[str, str]:
        return {"role": session.role}

    monkeypatch.setattr(console_app, "ROUTERS", (*ROUTERS, router))


def log_in(client, password, **fields):
    token = hidden_token(client.get("/login").text)
    return client.post("/login", data={"password": password, "csrf_token": token, **fields}, headers=SAME)


# Host names


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "a@127.0.0.1", "", "[::1", "10.0.0.7"]
)
def test_a_page_is_not_given_under_a_foreign_host_name(store, host):
    answer = client_of(store).get("/runs", headers={"host": host})
    assert answer.status_code == 400
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765"])
def test_names_of_this_machine_are_served(store, host):
    assert client_of(store).get("/runs", headers={"host": host}).status_code == 200


def test_a_console_for_others_is_served_under_addresses_and_the_names_given(store):
    client = client_of(store, host="0.0.0.0", allowed_hosts=("starloom.example",), operator_password="do")
    for host, status in {"10.0.0.7:8765": 303, "starloom.example": 303, "other.example": 400}.items():
        assert client.get("/runs", headers={"host": host}).status_code == status


def test_a_host_header_is_taken_apart_as_browsers_do():
    headers = {"a.example": "a.example", "A.example:80": "a.example", "[::1]:80": "::1", "": None, "a/b": None, "a?b": None}
    headers |= {"a@b": None, "a\\b": None, "a:x": None}
    assert {header: host_name(header) for header in headers} == headers


# Headers


@pytest.mark.parametrize("page", ["/runs", "/nowhere", "/static/console.css", "/static/nowhere", "/login", "/api/openapi.json"])
def test_every_answer_carries_the_headers_of_safety(store, page):
    headers = client_of(store).get(page).headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "script-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert (headers["x-content-type-options"], headers["referrer-policy"], headers["x-frame-options"]) == ("nosniff", "no-referrer", "DENY")


# Who gets in


def test_a_console_that_others_reach_needs_a_password_or_token(store):
    with pytest.raises(ConfigError, match=r"everybody in who reaches 0\.0\.0\.0"):
        Settings(stores=(("s", str(store)),), host="0.0.0.0")
    for word in CREDENTIALS:
        assert Settings(stores=(("s", str(store)),), host="0.0.0.0", **{word: CREDENTIALS[word]}).needs_login


@pytest.mark.parametrize("words", [{"viewer_password": ""}, {"viewer_password": "x", "operator_password": "x"}, {"operator_token": ""}])
def test_settings_that_would_let_the_wrong_people_in_are_refused(store, words):
    with pytest.raises(ConfigError):
        Settings(stores=(("s", str(store)),), **words)


def test_secrets_do_not_show_in_the_settings(store):
    shown = repr(Settings(stores=(("s", str(store)),), secret="signs", **CREDENTIALS))
    assert not [word for word in (*CREDENTIALS.values(), "signs") if repr(word) in shown]


@pytest.mark.parametrize("page", PAGES)
def test_without_logging_in_nothing_is_shown(store, page):
    client = client_of(store, **CREDENTIALS)
    answer = client.get(page)
    assert answer.status_code in (303, 401)
    assert answer.headers.get("location", "/login").startswith("/login")
    as_data = client.get(page, params={"format": "json"})
    assert as_data.status_code == 401
    assert as_data.json()["error"] == "log in to see this page"


def test_every_route_of_the_application_is_guarded(store):
    for router in ROUTERS:
        for route in router.routes:
            path = route.path.replace("{name:path}", "x").replace("{", "").replace("}", "")
            for method in route.methods:
                answer = client_of(store, **CREDENTIALS).request(method, path)
                if path not in ("/login", "/healthz"):
                    assert answer.status_code in (303, 401, 403), (method, path)
                    assert answer.headers.get("location", "/login").startswith("/login")


def test_roles_see_and_do_what_is_theirs(store, routes):
    for password, role in {"see": "viewer", "do": "operator"}.items():
        client = client_of(store, **CREDENTIALS)
        answer = log_in(client, password, next="/runs?page=2")
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs?page=2")
        assert client.get("/seen").json() == {"role": role}
        page = client.get("/runs").text
        assert f">{role}</span>" in page
        answer = client.post("/change", data={"csrf_token": hidden_token(page), "word": "ü & more"}, headers=SAME)
        assert answer.status_code == (200 if role == "operator" else 403)
        if role == "operator":
            assert answer.json() == {"role": "operator", "word": "ü & more"}
        assert client.post("/unmarked", data={"csrf_token": hidden_token(page)}, headers=SAME).status_code == answer.status_code


def test_a_session_is_over_after_logging_out(store):
    client = client_of(store, **CREDENTIALS)
    log_in(client, "see")
    page = client.get("/runs")
    assert page.status_code == 200
    assert client.post("/logout", data={"csrf_token": hidden_token(page.text)}, headers=SAME).status_code == 303
    assert client.get("/runs").status_code == 303


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(store):
    client = client_of(store, **CREDENTIALS)
    cookie = log_in(client, "see").headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/"} <= {each.strip() for each in cookie.split(";")}


def test_a_cookie_that_was_changed_is_none(store, monkeypatch):
    client = client_of(store, **CREDENTIALS)
    log_in(client, "see")
    (name,) = [name for name in client.cookies if name.startswith("starloom_session")]
    good = client.cookies[name]
    body, _, signature = good.partition(".")
    for bad in ("", "x", f"{body}.", f".{signature}", f"{body[:-4]}AAAA.{signature}", f"{body}.{signature[:-1]}0", "ü.ü"):
        monkeypatch.undo()
        answer = client_of(store, **CREDENTIALS).get("/runs", headers={b"cookie": f"{name}={bad}".encode()})
        assert answer.status_code == 303


def test_a_session_ends(store, monkeypatch):
    client = client_of(store, session_hours=1, **CREDENTIALS)
    log_in(client, "see")
    assert client.get("/runs").status_code == 200
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    assert client.get("/runs").status_code == 303


def test_sessions_outlive_the_console_if_it_has_a_secret_and_end_with_a_password(store):
    words = {"secret": "signs", **CREDENTIALS}
    client = client_of(store, **words)
    log_in(client, "do")
    cookies = dict(client.cookies)
    statuses = {}
    for what, settings in {"same": words, "no secret": CREDENTIALS, "other password": {**words, "operator_password": "new"}}.items():
        again = client_of(store, **settings)
        again.cookies.update(cookies)
        statuses[what] = again.get("/runs").status_code
    assert statuses == {"same": 200, "no secret": 303, "other password": 303}


def test_a_session_of_a_console_without_login_is_none_where_login_is_needed(store):
    client = client_of(store, secret="signs")
    client.get("/runs")
    again = client_of(store, secret="signs", **CREDENTIALS)
    again.cookies.update(dict(client.cookies))
    assert again.get("/runs").status_code == 303


def test_passwords_cannot_be_guessed_in_bulk(store):
    client = client_of(store, **CREDENTIALS)
    token = hidden_token(client.get("/login").text)
    tries = [client.post("/login", data={"password": f"{n}", "csrf_token": token}, headers=SAME).status_code for n in range(12)]
    assert tries == [403] * 10 + [429] * 2
    assert client.post("/login", data={"password": "do", "csrf_token": token}, headers=SAME).status_code == 429


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb: c", ""])
def test_logging_in_leads_nowhere_else(store, target):
    assert log_in(client_of(store, **CREDENTIALS), "see", next=target).headers["location"] == "/"


def test_tokens_serve_programs(store, routes):
    for token, status in {"see-token": 403, "do-token": 200, "no-token": 401, "": 401, "see": 401, "do": 401}.items():
        client, headers = client_of(store, **CREDENTIALS), {"authorization": f"Bearer {token}"}
        assert client.get("/runs", params={"format": "json"}, headers=headers).status_code == (401 if status == 401 else 200)
        assert client.post("/change", data={"word": "x"}, headers=headers).status_code == status
        assert "set-cookie" not in client.get("/runs", headers=headers).headers
    assert client.post("/change", headers={"authorization": "Bearer do-token", "origin": "https://evil.example"}).status_code == 403


# Requests forged by other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, 200),
        ({"origin": BASE}, 200),
        ({"sec-fetch-site": "same-site", "origin": BASE}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({}, 403),
    ],
)
@pytest.mark.parametrize("settings", [{}, CREDENTIALS])
def test_a_change_needs_the_browser_s_word_for_where_it_comes_from(store, routes, settings, headers, status):
    client = client_of(store, **settings)
    if settings:
        log_in(client, "do")
    token = session_token(client)
    assert client.post("/change", data={"csrf_token": token}, headers=headers).status_code == status


def session_token(client) -> str:
    """The token that forms of the client's session carry."""
    from starlette.requests import Request

    client.get("/runs")
    keeper = client.app.state.keeper
    scope = {
        "type": "http",
        "app": client.app,
        "headers": [(b"cookie", f"{keeper.cookie_name}={client.cookies[keeper.cookie_name]}".encode())],
    }
    from starloom.console.security import session_of

    return keeper.csrf_token(session_of(Request(scope)))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_change_needs_the_token_of_its_own_session(store, routes, method):
    client, other = client_of(store), client_of(store)
    mine, theirs = session_token(client), session_token(other)
    for token, status in {mine: 200, theirs: 403, "": 403, "ü": 403}.items():
        if method == "POST":
            assert client.post("/change", data={"csrf_token": token}, headers=SAME).status_code == status
        else:  # no such route yet: what is asked of nothing changes nothing
            assert client.request(method, "/change", headers=SAME).status_code == 405
    assert client.post("/change", headers={**SAME, "x-csrf-token": mine}).status_code == 200


def test_a_console_without_login_makes_whoever_reaches_it_operator(store, routes):
    client = client_of(store)
    assert client.get("/seen").json() == {"role": "operator"}
    assert client.get("/login").headers["location"] == "/"
    assert "Log out" not in client.get("/runs").text


def test_a_form_that_is_too_large_or_broken_is_refused(store, routes):
    client = client_of(store)
    token = session_token(client)
    headers = {**SAME, "content-type": "application/x-www-form-urlencoded"}
    assert (
        client.post("/change", content=b"csrf_token=" + token.encode() + b"&word=" + b"x" * 1_000_001, headers=headers).status_code == 413
    )
    assert client.post("/change", content=b"\xff\xfe", headers=headers).status_code == 400
    assert client.post("/change", content=b"&".join([b"a=b"] * 10_001), headers=headers).status_code == 400
    assert (
        client.post("/change", content=b"--x\r\n", headers={**SAME, "content-type": "multipart/form-data; boundary=x"}).status_code == 403
    )


# Errors and paths


def test_two_consoles_on_one_machine_keep_their_sessions_apart(store):
    first, second = (create_app(Settings(stores=(("s", str(store)),), port=port)).state.keeper.cookie_name for port in (8001, 8002))
    assert first != second


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/runs/..%2f..%2f..%2fetc%2fpasswd",
        "/runs/%2e%2e",
        "/artifacts/..%2f..%2fstore",
        "/artifacts/%00",
        "/documents/..%2f..%2f..%2fetc%2fpasswd",
        "/runs/x/steps/..%2f..%2frun.json",
        "/clusters/..%2f..%2fstore.json",
        "/sequences/..%2f0:0",
    ],
)
def test_no_path_leads_out_of_the_console(store, path):
    for form in ("html", "json"):
        answer = client_of(store).get(path, params={"format": form})
        assert answer.status_code in (400, 404)
        assert "root:" not in answer.text
        assert "create_app" not in answer.text


def test_a_failure_tells_no_traceback(store, monkeypatch, routes):
    def broken(*_args):
        raise RuntimeError("s3cret at /home/somebody")

    monkeypatch.setattr("starloom.console.stores.Catalogue.rows", broken)
    client = TestClient(client_of(store).app, base_url=BASE, raise_server_exceptions=False)
    for form in ("html", "json"):
        answer = client.get("/runs", params={"format": form})
        assert answer.status_code == 500
        assert "content-security-policy" in answer.headers
        assert "s3cret" not in answer.text
        assert "Traceback" not in answer.text
        assert "RuntimeError" not in answer.text or form == "json"


def test_a_missing_store_is_told(tmp_path):
    answer = client_of(tmp_path / "nowhere").get("/runs", params={"format": "json"})
    assert answer.status_code == 503
    assert answer.json()["hint"] == "run a recipe first, or name the store with --store"


def test_the_description_is_openapi_and_needs_nothing_of_elsewhere(store):
    client = client_of(store)
    description = client.get("/api/openapi.json").json()
    assert description["openapi"].startswith("3.")
    assert {"/runs", "/runs/{run}", "/documents/{doc_id}", "/find"} <= description["paths"].keys()
    assert {each["name"] for each in description["paths"]["/runs"]["get"]["parameters"]} >= {"format", "table", "store", "page"}
    assert json.dumps(client.get("/api", params={"format": "json"}).json()) == json.dumps(description)
    assert "cdn" not in client.get("/api").text.lower()
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


# Attacks on the login


def guess(client, token, word, **headers):
    return client.post("/login", data={"password": word, "csrf_token": token}, headers={**SAME, **headers}).status_code


def test_guesses_that_come_at_once_are_no_more_than_one_after_the_other(store):
    client = client_of(store, **CREDENTIALS)
    token = hidden_token(client.get("/login").text)
    together = threading.Barrier(24)

    def one(number):
        together.wait()
        return guess(client, token, f"wrong {number}")

    with ThreadPoolExecutor(24) as pool:
        statuses = Counter(pool.map(one, range(24)))
    assert statuses == {403: 10, 429: 14}


def test_an_address_that_a_client_says_of_itself_counts_for_nothing(store):
    client = client_of(store, **CREDENTIALS)
    token = hidden_token(client.get("/login").text)
    names = ("x-forwarded-for", "x-real-ip", "forwarded", "x-client-ip", "cf-connecting-ip")
    tries = [guess(client, token, f"{n}", **dict.fromkeys(names, f"10.0.0.{n}")) for n in range(12)]
    assert tries == [403] * 10 + [429] * 2


def seen_by_server(settings, peer, header):
    """The address that the application sees behind uvicorn's own layers, as the console starts it."""
    seen = []

    async def app(scope, _receive, _send):
        seen.append((scope["client"][0], scope["scheme"]))

    config = uvicorn.Config(app, **server_options(settings))
    config.load()
    headers = [(b"x-forwarded-for", header.encode()), (b"x-forwarded-proto", b"https")]
    scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": headers, "path": "/", "asgi": {}}
    asyncio.run(config.loaded_app(scope, None, None))
    return seen[0]


@pytest.mark.parametrize(
    ("proxies", "peer", "header", "seen"),
    [
        ((), "127.0.0.1", "6.6.6.6", ("127.0.0.1", "http")),
        ((), "10.0.0.7", "127.0.0.1", ("10.0.0.7", "http")),
        (("127.0.0.1",), "127.0.0.1", "6.6.6.6", ("6.6.6.6", "https")),
        (("127.0.0.1",), "127.0.0.1", "1.1.1.1, 6.6.6.6", ("6.6.6.6", "https")),
        (("10.0.0.0/24",), "10.0.0.7", "6.6.6.6, 10.0.0.9", ("6.6.6.6", "https")),
        (("127.0.0.1",), "10.0.0.7", "6.6.6.6", ("10.0.0.7", "http")),
    ],
)
def test_only_a_proxy_that_is_named_is_believed(store, proxies, peer, header, seen, monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert seen_by_server(Settings(stores=(("s", str(store)),), trusted_proxies=proxies), peer, header) == seen


def test_a_proxy_that_is_no_address_is_refused(store):
    with pytest.raises(ConfigError, match="'proxy', which is no address"):
        Settings(stores=(("s", str(store)),), trusted_proxies=("proxy",))


def test_tokens_cannot_be_guessed_in_bulk_either(store):
    client = client_of(store, **CREDENTIALS)
    tries = [client.get("/runs", headers={"authorization": f"Bearer {n}"}).status_code for n in range(12)]
    assert tries == [401] * 10 + [429] * 2
    assert client.get("/runs", headers={"authorization": "Bearer do-token"}).status_code == 429, "the right one tells nothing either"
    assert guess(client, hidden_token(client.get("/login").text), "do") == 429, "one limit for both"


def test_right_passwords_and_tokens_do_not_count(store):
    client = client_of(store, **CREDENTIALS)
    for _ in range(15):
        assert client.get("/runs", headers={"authorization": "Bearer see-token"}).status_code == 200
        assert log_in(client_of(store, **CREDENTIALS), "see").status_code == 303


def test_wrong_ones_are_counted_by_address_and_for_a_minute(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    counted = tries.Tries()
    assert [counted.begin("10.0.0.1") is None for _ in range(11)] == [False] * 10 + [True]
    assert counted.begin("10.0.0.2") is not None
    assert [counted.begin(f"2001:db8::{n:x}") is None for n in range(1, 12)] == [False] * 10 + [True], "one customer's addresses are one"
    assert counted.begin("2001:db8:0:1::1") is not None
    assert counted.begin("::ffff:10.0.0.1") is None, "the same machine"
    clock[0] += 60.0
    assert counted.begin("10.0.0.1") is not None


def test_other_addresses_do_not_make_one_forgotten_and_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(tries, "KEPT_ADDRESSES", 50)
    counted = tries.Tries()
    for n in range(500):
        counted.begin("10.0.0.1")
        counted.begin(f"10.1.{n // 250}.{n % 250}")
    assert counted.begin("10.0.0.1") is None
    assert len(counted._wrong) <= 50


@pytest.mark.parametrize("word", ["do", "see", "d", "do-token", "", "ü", "x" * 100_000])
def test_a_comparison_takes_the_same_steps_whatever_is_given(store, monkeypatch, word):
    compared = []
    real = hmac.compare_digest

    def compare(one, other):
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keeper = create_app(Settings(stores=(("s", str(store)),), **CREDENTIALS)).state.keeper
    assert keeper.role_of(word, "password") == {"do": "operator", "see": "viewer"}.get(word)
    assert compared == [(32, 32), (32, 32)], "both roles, digests of one length"


def test_a_session_from_before_the_login_is_worth_nothing_after_it(store):
    """Whoever plants a cookie in a browser must not share the session that its user then begins."""
    attacker = client_of(store, **CREDENTIALS)
    victim = TestClient(attacker.app, base_url=BASE, follow_redirects=False)
    planted_token = hidden_token(attacker.get("/login").text)
    planted = dict(attacker.cookies)
    for name, value in planted.items():
        victim.cookies.set(name, value, domain="127.0.0.1")
    assert log_in(victim, "do").status_code == 303
    assert dict(victim.cookies) != planted
    assert victim.get("/runs").status_code == 200
    assert attacker.get("/runs").status_code == 303, "the planted cookie is nobody's"
    assert victim.post("/logout", data={"csrf_token": planted_token}, headers=SAME).status_code == 403, "nor is its token"


def test_a_copy_of_a_cookie_is_worth_nothing_after_logging_out(store):
    client = client_of(store, secret="signs", **CREDENTIALS)
    log_in(client, "do")
    thief = TestClient(client.app, base_url=BASE, follow_redirects=False)
    thief.cookies.update(dict(client.cookies))
    assert thief.get("/runs").status_code == 200
    client.post("/logout", data={"csrf_token": hidden_token(client.get("/runs").text)}, headers=SAME)
    assert thief.get("/runs").status_code == 303
    again = client_of(store, secret="signs", **CREDENTIALS)
    log_in(again, "do")
    assert again.get("/runs").status_code == 200, "others are not logged out by it"


def test_another_site_can_log_nobody_out_or_in(store):
    client = client_of(store, **CREDENTIALS)
    log_in(client, "see")
    token = hidden_token(client.get("/runs").text)
    for path in ("/logout", "/login"):
        assert client.post(path, data={"csrf_token": token, "password": "do"}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert client.get(path).status_code in (200, 303, 405)
    assert client.get("/runs").status_code == 200


@pytest.mark.parametrize(("base", "is_secure"), [("http://127.0.0.1:8765", False), ("https://127.0.0.1:8765", True)])
def test_the_cookie_s_flags_are_those_of_a_session_at_every_change(store, base, is_secure):
    client = TestClient(client_of(store, **CREDENTIALS).app, base_url=base, follow_redirects=False)
    answers = [client.get("/login"), log_in(client, "do")]
    answers.append(client.post("/logout", data={"csrf_token": hidden_token(client.get("/runs").text)}, headers=SAME))
    for answer in answers:
        flags = {each.strip().lower() for each in answer.headers["set-cookie"].split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/"} <= flags
        assert ("secure" in flags) is is_secure
        assert not [flag for flag in flags if flag.startswith("domain=")]
