"""What `starloom serve` and `starloom deploy` need and that is not there yet: they wait, not for ever, and say for what; or refuse."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time

import pytest

from starloom.cli import deploy as deploying
from starloom.cli import main
from starloom.flows import serving as supervising
from starloom.flows.prefect_api import PrefectApi
from tests import prefect_server as servers
from tests.compose_file import ComposeFile, filled
from tests.compose_harness import Stack, why_not_postgres
from tests.serving import free_port, serving

LATE_SECONDS = 3


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"name: waited\nstages:\n- ingest: {{sources: [{{kind: directory, name: local, path: {tmp_path}}}]}}\n")
    return path


@contextlib.contextmanager
def answering(code, body, content="application/json"):
    """A server that gives every request this answer, and the number of requests so far."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(code)
            self.send_header("Content-Type", content)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_never_comes_is_given_up_with_what_to_do(recipe, monkeypatch, capsys):
    url = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(deploying, "WAIT_SECONDS", 1.3)
    assert main(["deploy", str(recipe)]) == 1
    waiting, error, hint = capsys.readouterr().err.splitlines()
    assert waiting == f"starloom: waiting for the Prefect server at {url}, at most 1.3 s"
    assert error == f"starloom: the Prefect server at {url} does not answer, after 1.3 s"
    assert "start it, or correct PREFECT_API_URL" in hint


@pytest.mark.parametrize(
    ("code", "body", "problem"),
    [
        (401, b'{"exception_message": "Unauthorized"}', "refuses us (401)"),
        (200, b"<html>Prefect's pages</html>", "is no API of Prefect's"),
        (200, b'{"version": 3}', "is no API of Prefect's"),
        (404, b"", "is no API of Prefect's"),
    ],
)
@pytest.mark.parametrize("words", [["deploy"], ["serve", "--only", "worker"]])
def test_what_will_never_answer_is_refused_at_once(recipe, monkeypatch, capsys, tmp_path, words, code, body, problem):
    with answering(code, body) as (url, asked):
        monkeypatch.setenv("PREFECT_API_URL", url)
        logs = ["--logs", str(tmp_path / "logs")] if words[0] == "serve" else []
        assert main([*words, str(recipe), *logs]) != 0
    error = capsys.readouterr().err
    assert problem in error
    assert "→" in error
    assert len(asked) == 1


@pytest.mark.parametrize("url", ["foo", "127.0.0.1:4200/api", "ftp://127.0.0.1/api", "http://", "http://[::1/api", "http://a:port/api"])
def test_what_is_no_address_is_refused(recipe, monkeypatch, capsys, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert main(["deploy", str(recipe)]) == 2
    assert f"PREFECT_API_URL is {url!r}, which is no address" in capsys.readouterr().err


def test_a_server_whose_database_is_gone_is_waited_for_by_that_name():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_version = self.path.endswith("version")
            self.send_response(200 if is_version else 503)
            self.end_headers()
            self.wfile.write(json.dumps("3.8.8" if is_version else {"message": "Database is not available"}).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with contextlib.closing(PrefectApi(f"http://127.0.0.1:{server.server_address[1]}")) as api:
            assert api.trouble() == f"the database of the Prefect server at {api.url}"
        server.shutdown()


@pytest.mark.slow
def test_a_server_that_comes_later_is_waited_for(recipe, monkeypatch, capsys, tmp_path):
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    found = []
    late = threading.Thread(target=lambda: found.append(main(["deploy", str(recipe), "--json"])))
    late.start()
    time.sleep(1.5)  # so that it has asked in vain
    (tmp_path / "home").mkdir()
    with servers.serving(tmp_path / "home", port):
        late.join(60)
    assert found == [0]
    told = capsys.readouterr()
    assert f"starloom: waiting for the Prefect server at http://127.0.0.1:{port}/api" in told.err
    assert json.loads(told.out)["deployments"][0]["name"] == "starloom/waited"


@pytest.fixture
def stack():
    if reason := why_not_postgres():
        pytest.skip(reason)
    with Stack(ComposeFile.read(filled())) as up:
        yield up


@pytest.mark.long
@pytest.mark.slow
def test_a_database_that_comes_later_is_waited_for(recipe, tmp_path, stack):
    settings = {name: value for name, value in stack.environment("prefect-server").items() if name.startswith("PREFECT_SERVER_DATABASE_")}
    settings.pop("PREFECT_SERVER_DATABASE_MIGRATE_ON_START")
    told = tmp_path / "home" / "serve.err"
    waits = "starloom: waiting for the database of Prefect's server, PREFECT_SERVER_DATABASE_HOST=127.0.0.1, at most 60 s"

    def start_later():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (told.exists() and waits in told.read_text()):
            time.sleep(0.1)
        time.sleep(LATE_SECONDS)
        stack.start("postgres")

    late = threading.Thread(target=start_later)
    late.start()
    try:
        with serving(tmp_path / "home", recipe, tmp_path / "s", **settings) as served:
            assert served.deployments == ["starloom/waited"]
    finally:
        late.join()
    assert waits in told.read_text()


@pytest.mark.slow
def test_a_database_that_never_comes_is_given_up_with_what_to_do(recipe, tmp_path, monkeypatch, capsys):
    for name in ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    place = f"127.0.0.1:{free_port()}/prefect"
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://prefect:s3cret@{place}")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setattr(supervising, "DATABASE_SECONDS", 0.1)
    words = ["--port", str(free_port()), "--prefect-port", str(free_port()), "--logs", str(tmp_path / "logs")]
    assert main(["serve", str(recipe), *words]) == 1
    error = capsys.readouterr().err
    assert f"the database of Prefect's server, PREFECT_SERVER_DATABASE_CONNECTION_URL={place}, does not answer, after 0.1 s" in error
    assert f"what the server printed is in {tmp_path / 'logs' / 'server.log'}" in error
    assert "s3cret" not in error


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_of_the_compose_file_that_starts_before_all_else_works_when_that_is_there(stack):
    worker = stack.start("worker")
    time.sleep(LATE_SECONDS)
    stack.up("prefect-server")
    stack.wait_until_healthy("prefect-server")
    stack.wait_until_healthy("worker")
    assert "starloom: waiting for the Prefect server at" in worker.log.read_text()
