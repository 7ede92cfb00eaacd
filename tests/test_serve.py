"""`starloom serve` and `starloom deploy`: what is triggered is carried out, what is stopped is gone, what was lost says so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any
from uuid import UUID

import psutil
import pytest

from starloom.cli import main
from starloom.flows.forms import RESERVED
from starloom.flows.prefect_api import PrefectApi
from starloom.flows.serving import MENDED_SERVERS, Serving, Supervisor
from starloom.flows.triggered import _stopped
from starloom.lineage.errors import Cancelled, ConfigError, StarloomError
from starloom.lineage.leases import status
from starloom.lineage.store import Store
from tests.corpus import make_repositories, write_recipe
from tests.serving import PATIENCE_SECONDS, free_port, serving

pytestmark = pytest.mark.slow

STAGES = """
- license_filter
- exact_dedup
- train_tokenizer: {vocab_size: 400}
- encode
- pack_fim: {sequence_length: 64, heldout_fraction: 0.3}
- train_model: {num_layers: 1, width: 16, num_heads: 2, context_tokens: 64, num_steps: 4, batch_sequences: 4, threads: 1, warmup_steps: 1}
"""
LEFT: list[tuple[str, Any]] = []
"""Flow runs of `training` and their runs."""
LONG = {"num_steps": 1_000_000, "checkpoint_every_steps": 100_000}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return folder, write_recipe(folder / "r.yaml", make_repositories(folder / "repositories"), STAGES), folder / "s"


@pytest.fixture(scope="module")
def served(place):
    folder, recipe, store = place
    with serving(folder / "home", recipe, store) as one:
        yield one


def run_of(store, flow_run):
    opened = Store.open(str(store))
    return next(run for run in map(opened.run, reversed(opened.run_ids())) if run.flow_run == flow_run)


def test_both_pages_answer_and_each_recipe_is_a_deployment_with_its_knobs(served):
    for url in (served.console, served.prefect):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
    assert served.deployments == ["starloom/test"]
    (one,) = served.api.deployments()
    assert list(one["parameter_openapi_schema"]["properties"])[-len(RESERVED) :] == list(RESERVED)
    assert one["parameter_openapi_schema"]["properties"]["train_model"]["properties"]["num_steps"]["default"] == 4


def test_a_triggered_run_is_the_run_of_the_command_and_links_lead_both_ways(served, place, capsys):
    _, recipe, store = place
    flow_run = served.start("test", pack_fim={"fim_rate": 0.9}, workers=1)
    found = served.wait_until(flow_run)
    assert found["state_type"] == "COMPLETED", served.api.logs(flow_run)
    run = run_of(store, flow_run)
    assert (run.status, found["state"]["message"]) == ("done", f"run {run.id} in {store}")
    assert run.command == ["run", str(recipe), "--set", "pack_fim.fim_rate=0.9", "--store", str(store)]
    assert run.step("pack_fim").config["fim_rate"] == 0.9
    assert main([*run.command, "--no-prefect", "--json"]) == 0
    assert {step["status"] for step in json.loads(capsys.readouterr().out)["steps"]} <= {"done", "cached"}
    artifacts = served.api.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
    (link,) = [one["data"] for one in artifacts if one["key"] == "console"]
    assert f"{served.console}/runs/{run.id}" in link
    again = served.wait_until(served.start("test", pack_fim={"fim_rate": 0.9}))
    assert again["state_name"] == "Cached"
    assert run.id in again["state"]["message"]


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"pack_fim": {"fim_rate": 2}}, "2 is greater than the maximum of 1"),
        ({"pack_fim": {"fim_rat": 0.5}}, "'fim_rat' was unexpected"),
        ({"from": "nowhere"}, "'nowhere' is not one of"),
    ],
)
def test_a_wrong_value_is_refused_before_there_is_a_run(served, parameters, problem):
    before = len(served.api.flow_runs())
    with pytest.raises(ConfigError, match=problem):
        served.start("test", **parameters)
    assert len(served.api.flow_runs()) == before


def test_prefects_own_command_triggers_it(served):
    env = {**os.environ, "PREFECT_API_URL": f"{served.prefect}/api"}
    words = ["deployment", "run", "starloom/test", "-p", "until=license_filter", "-p", 'license_filter={"allow_classes": ["permissive"]}']
    told = subprocess.run([sys.executable, "-m", "prefect", *words], env=env, capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode == 0, told.stdout + told.stderr
    found = served.wait_until(served.api.flow_runs(limit=1)[0]["id"])
    assert (found["state_type"], found["parameters"]["until"]) == ("COMPLETED", "license_filter")


def test_a_run_that_cannot_go_on_fails_with_its_reason(served):
    found = served.wait_until(served.start("test", train_model={"context_tokens": 32}))
    assert found["state_type"] == "FAILED"
    assert "packed sequences have 64 tokens" in found["state"]["message"]


def trainers(served):
    """The processes below it that train."""
    found = []
    for child in served.below():
        with contextlib.suppress(psutil.Error):  # gone, or going
            found += [child] if "starloom.model.train" in child.cmdline() else []
    return found


def begin_long(served, store, rate):
    """Trigger a training that would take hours, and wait until it trains; returns its flow run and its run."""
    flow_run = served.start("test", train_model={**LONG, "learning_rate": rate, "min_learning_rate": rate / 10})
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if trainers(served):
            opened = Store.open(str(store))
            run = opened.run(opened.run_ids()[-1])
            if run.flow_run == flow_run:
                return flow_run, run
        time.sleep(0.2)
    raise AssertionError(served.api.logs(flow_run))


@pytest.fixture
def training(served, place):
    """A flow run that trains, and its run: one for all tests that leave it alone."""
    for flow_run, run in LEFT:
        if served.api.flow_run(flow_run)["state_type"] == "RUNNING":
            return flow_run, run
    LEFT.append(begin_long(served, place[2], 3e-3 - len(LEFT) / 1e4))
    return LEFT[-1]


def test_another_serve_on_the_same_server_leaves_the_runs_of_the_first_alone(served, place, tmp_path, training):
    flow_run, _ = training
    with serving(tmp_path / "home", place[1], place[2], PREFECT_API_URL=f"{served.prefect}/api") as other:
        assert other.interrupted == []
        assert served.api.flow_run(flow_run)["state_type"] == "RUNNING"
    assert served.api.flow_run(flow_run)["state_type"] == "RUNNING"


def test_one_that_waits_is_cancelled_at_once(served, training):
    waiting = served.start("test", until="ingest")
    time.sleep(2)
    assert served.api.flow_run(waiting)["state_type"] == "SCHEDULED", "one run at once"
    served.api.cancel(waiting)
    assert served.api.flow_run(waiting)["state_type"] == "CANCELLED"
    assert served.api.flow_run(training[0])["state_type"] == "RUNNING"


def test_a_cancelled_run_ends_with_its_trainer_and_the_next_one_begins(served, place, training):
    flow_run, run = training
    served.api.cancel(flow_run)
    found = served.wait_until(flow_run)
    assert found["state_type"] == "CANCELLED", found["state"]["message"]
    assert Store.open(str(place[2])).run(run.id).status == "cancelled"
    assert trainers(served) == []
    assert served.wait_until(served.start("test", until="ingest"))["state_type"] == "COMPLETED", "its place is free"


def test_a_run_that_was_settled_by_its_worker_before_it_tidied_up_stays_cancelled(served, monkeypatch):
    flow_run = served.start("test", until="ingest")
    served.api.set_state(flow_run, "CANCELLED", "by the worker", force=True)
    monkeypatch.setenv("PREFECT_API_URL", f"{served.prefect}/api")
    assert _stopped(UUID(flow_run), Cancelled("stopped")).is_cancelled()


def test_a_retry_right_after_the_end_is_carried_out_and_the_worker_lives(served):
    flow_run = served.start("test", until="ingest")
    served.wait_until(flow_run)
    served.api.retry(flow_run)
    served.wait_until(flow_run, "RUNNING")
    assert served.wait_until(flow_run)["state_type"] == "COMPLETED"
    assert served.process.poll() is None


def test_a_worker_that_is_killed_is_started_again_and_its_run_says_so(served, place):
    flow_run, run = begin_long(served, place[2], 2.7e-3)
    (worker,) = [child for child in psutil.Process(served.process.pid).children() if "worker" in child.cmdline()]
    worker.kill()
    assert served.wait_until(flow_run, "CRASHED")["state_type"] == "CRASHED"
    assert served.wait_until(served.start("test", until="ingest"))["state_type"] == "COMPLETED"
    assert trainers(served) == []
    opened = Store.open(str(place[2]))
    assert status(opened, opened.run(run.id)) in ("cancelled", "killed")


def test_a_prefect_server_that_is_killed_is_started_again_and_runs_go_on(served, place):
    """On the same address, with its database: a run under way goes on, and can still be cancelled; the next one begins."""
    finished = served.start("test", until="ingest")
    served.wait_until(finished)
    flow_run, run = begin_long(served, place[2], 2.8e-3)
    (training,) = trainers(served)
    (server,) = [child for child in psutil.Process(served.process.pid).children() if "server" in child.cmdline()]
    server.kill()
    server.wait(10)
    served.api.wait_until_up(PATIENCE_SECONDS)
    assert served.process.poll() is None
    assert served.api.flow_run(finished)["state_type"] == "COMPLETED", "the database is kept"
    assert served.api.flow_run(flow_run)["state_type"] == "RUNNING"
    assert training.is_running()
    assert status(Store.open(str(place[2])), Store.open(str(place[2])).run(run.id)) == "running"
    served.api.cancel(flow_run)
    assert served.wait_until(flow_run)["state_type"] == "CANCELLED"
    assert trainers(served) == []
    assert Store.open(str(place[2])).run(run.id).status == "cancelled"
    assert served.wait_until(served.start("test", until="ingest"))["state_type"] == "COMPLETED"


def test_a_prefect_server_that_ends_again_and_again_ends_it_all_with_its_reason(monkeypatch, tmp_path, capsys):
    begun = []

    def start(self):
        begun.append(self.services.get("server"))
        words = "import os; print('no such database'); os._exit(3)"
        self._start("server", [sys.executable, "-c", words], {})

    monkeypatch.setattr(Supervisor, "_start_server", start)
    supervisor = Supervisor(Serving(plans=[], parts=("server",)), tmp_path)
    supervisor.api = PrefectApi(f"http://127.0.0.1:{free_port()}/api")
    supervisor._start_server()
    supervisor.services["server"].process.wait(10)
    with pytest.raises(StarloomError, match=r"the server ended by itself \(3\).*\nno such database"):
        supervisor.watch()
    assert len(begun) == 1 + MENDED_SERVERS
    assert capsys.readouterr().err.count("Prefect's server ended (3) and is started again") == MENDED_SERVERS


def test_ctrl_c_ends_everything_and_a_kill_leaves_no_orphan_and_no_run_that_runs_for_ever(tmp_path, place):
    _, recipe, store = place
    home, port = tmp_path / "home", free_port()
    with serving(home, recipe, store, prefect_port=port) as first:
        flow_run, run = begin_long(first, store, 1e-3)
        assert first.end(signal.SIGINT) < 5
        assert status(Store.open(str(store)), Store.open(str(store)).run(run.id)) == "cancelled"
    with serving(home, recipe, store, prefect_port=port) as second:
        assert second.api.flow_run(flow_run)["state_type"] == "CRASHED"
        killed, run = begin_long(second, store, 1.5e-3)
        below = second.below()
        second.process.kill()
        second.process.wait()
        _, alive = psutil.wait_procs(below, timeout=5)
        assert alive == []
    assert status(Store.open(str(store)), Store.open(str(store)).run(run.id)) == "killed"
    with serving(home, recipe, store, prefect_port=port) as third:
        assert third.interrupted == [killed]
        found = third.api.flow_run(killed)
        assert found["state_type"] == "CRASHED"
        assert "a retry goes on from there" in found["state"]["message"]
        third.api.retry(killed)
        assert third.wait_until(killed, "RUNNING")["state_type"] == "RUNNING"
        third.api.cancel(killed)
        assert third.wait_until(killed)["state_type"] == "CANCELLED"


def test_a_port_that_is_taken_and_a_recipe_that_is_wrong_are_refused_before_anything_starts(tmp_path, place, capsys, monkeypatch):
    _, recipe, _ = place
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        assert main(["serve", str(recipe), "--port", str(port), "--logs", str(tmp_path / "logs")]) == 2
        assert f"port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("stages: [ingset]\n")
    assert main(["serve", str(wrong)]) == 2
    assert "did you mean ingest" in capsys.readouterr().err.replace("'", "")
    twice = tmp_path / "twice.yaml"
    twice.write_text(recipe.read_text())
    assert main(["serve", str(recipe), str(twice)]) == 2
    assert "are both named 'test'" in capsys.readouterr().err
    assert main(["serve", str(recipe), "--host", "0.0.0.0", "--port", str(free_port()), "--logs", str(tmp_path / "none")]) == 2
    assert "would let everybody in who reaches 0.0.0.0" in capsys.readouterr().err
    for secret, told in (("STARLOOM_VIEWER_PASSWORD", "would let everybody in"), ("STARLOOM_OPERATOR_PASSWORD", "letters beyond ASCII")):
        monkeypatch.setenv(secret, "wörd")
        assert main(["serve", str(recipe), "--host", "0.0.0.0", "--port", str(free_port()), "--logs", str(tmp_path / "none")]) == 2
        assert told in capsys.readouterr().err
        monkeypatch.delenv(secret)
    assert main(["serve", str(recipe), "--only", "server", "--host", "0.0.0.0", "--logs", str(tmp_path / "none")]) == 2
    assert "Prefect's server would let everybody in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_with_a_password_prefect_asks_for_it_too(tmp_path, place, monkeypatch, capsys):
    _, recipe, store = place
    with serving(tmp_path / "home", recipe, store, STARLOOM_OPERATOR_PASSWORD="a long one") as one:
        with pytest.raises(StarloomError, match="refuses us \\(401\\)"):
            one.api.is_up()
        monkeypatch.setenv("PREFECT_API_URL", one.api.url)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "operator:wrong")
        assert main(["deploy", str(recipe)]) == 1
        assert "refuses us (401)\n  → set PREFECT_API_AUTH_STRING=user:password" in capsys.readouterr().err
        with contextlib.closing(PrefectApi(one.api.url, "operator:a long one")) as api:
            assert [each["name"] for each in api.deployments()] == ["test"]
            one.api = api
            assert one.wait_until(one.start("test", until="ingest"))["state_type"] == "COMPLETED"
        with urllib.request.urlopen(f"{one.console}/runs", timeout=10) as answer:
            assert answer.url == f"{one.console}/login?next=%2Fruns"


def test_deploying_alone_needs_a_server(place, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["deploy", str(place[1])]) == 2
    assert "PREFECT_API_URL names no Prefect server" in capsys.readouterr().err


def test_deploying_again_replaces_and_keeps_the_schedule(served, place, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", f"{served.prefect}/api")
    before = served.api.deployment("test")
    schedule = {"schedule": {"interval": 3600 * 24 * 365}, "active": False}
    served.api.call("POST", f"/deployments/{before['id']}/schedules", [schedule])
    assert main(["deploy", str(place[1]), "--store", str(place[2]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deployments"] == [{"name": "starloom/test", "id": before["id"]}]
    assert len(served.api.deployment("test")["schedules"]) == 1


def redeploy(served, place, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"{served.prefect}/api")
    assert main(["deploy", str(place[1]), "--store", str(place[2]), "--json"]) == 0


def wait_until_gone(served, store, run):
    """Wait until nothing trains and the store's run is cancelled; returns its status."""
    deadline = time.monotonic() + 20
    opened = Store.open(str(store))
    while (trainers(served) or status(opened, opened.run(run.id)) != "cancelled") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert trainers(served) == []
    return status(opened, opened.run(run.id))


@pytest.mark.parametrize("what", ["flow_runs", "deployments"])
def test_a_run_that_is_deleted_under_way_stops_frees_its_place_and_the_worker_lives(served, place, monkeypatch, what, capsys):
    flow_run, run = begin_long(served, place[2], {"flow_runs": 2.1e-3, "deployments": 2.2e-3}[what])
    worker = [child.pid for child in psutil.Process(served.process.pid).children() if "worker" in child.cmdline()]
    (carrying,) = [child for child in served.below() if "starloom.flows.carry" in child.cmdline()]
    served.api.call("DELETE", f"/{what}/{flow_run if what == 'flow_runs' else served.api.deployment('test')['id']}")
    if what == "deployments":
        served.api.cancel(flow_run)
        with contextlib.suppress(psutil.NoSuchProcess):  # who is asked again while it tidies up has been cancelled, not crashed
            while served.api.flow_run(flow_run)["state_type"] == "CANCELLING":
                carrying.send_signal(signal.SIGTERM)
        found = served.wait_until(flow_run)
        assert found["state_type"] == "CANCELLED", found["state"]["message"]
        redeploy(served, place, monkeypatch)
    assert wait_until_gone(served, place[2], run) == "cancelled"
    assert served.wait_until(served.start("test", until="ingest"))["state_type"] == "COMPLETED", "its place is free"
    assert worker == [child.pid for child in psutil.Process(served.process.pid).children() if "worker" in child.cmdline()]


def test_a_recipe_that_was_removed_since_is_told_by_its_run_and_the_worker_goes_on(served, place, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PREFECT_API_URL", f"{served.prefect}/api")
    folder = tmp_path / "gone"
    folder.mkdir()
    (folder / "other.yaml").write_text(place[1].read_text().replace("name: test", "name: other"))
    assert main(["deploy", str(folder / "other.yaml"), "--store", str(place[2])]) == 0
    (folder / "other.yaml").unlink()
    removed = served.wait_until(served.start("other"))
    folder.rmdir()
    without_folder = served.wait_until(served.start("other"))
    assert [run["state_type"] for run in (removed, without_folder)] == ["FAILED", "CRASHED"]
    assert "other.yaml cannot be read" in removed["state"]["message"]
    assert served.wait_until(served.start("test", until="ingest"))["state_type"] == "COMPLETED", "the worker goes on"


def test_a_step_that_is_renamed_is_told_by_a_schedule_that_sets_its_knobs(served, place, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PREFECT_API_URL", f"{served.prefect}/api")
    recipe = tmp_path / "scheduled.yaml"
    text = place[1].read_text().replace("name: test", "name: scheduled")
    recipe.write_text(text)
    assert main(["deploy", str(recipe), "--store", str(place[2])]) == 0
    deployment = served.api.deployment("scheduled")["id"]
    soon = {"interval": 3600, "anchor_date": "2026-01-01T00:00:00Z"}
    schedule: dict[str, Any] = {"schedule": soon, "active": False, "parameters": {"license_filter": {"allow_classes": ["permissive"]}}}
    served.api.call("POST", f"/deployments/{deployment}/schedules", [schedule])
    recipe.write_text(text.replace("- license_filter", "- license_filter: {}\n  as: licences"))
    assert main(["deploy", str(recipe), "--store", str(place[2])]) == 0
    with pytest.raises(ConfigError, match="'license_filter' was unexpected"):
        served.start("scheduled", **schedule["parameters"])
    assert len(served.api.deployment("scheduled")["schedules"]) == 1


def test_a_pool_whose_workers_start_no_processes_is_refused(served, place, monkeypatch, capsys):
    monkeypatch.setenv("PREFECT_API_URL", f"{served.prefect}/api")
    served.api.call("POST", "/work_pools/", {"name": "boxes", "type": "docker"})
    assert main(["deploy", str(place[1]), "--pool", "boxes"]) == 2
    assert "the work pool 'boxes' has the type 'docker', and runs need `process`" in capsys.readouterr().err


def test_the_process_of_a_run_says_what_it_needs():
    told = subprocess.run([sys.executable, "-m", "starloom.flows.carry"], capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 2
    assert "PREFECT__FLOW_RUN_ID names no run" in told.stderr
