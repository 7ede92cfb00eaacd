"""What Prefect is told about a run, read back from its own database."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.corpus import write_recipe

STAGES = "- license_filter\n- exact_dedup\n- near_dedup\n- redact_pii\n"


pytestmark = pytest.mark.slow


def run(recipe, store, server, *words):
    command = [sys.executable, "-m", "starloom.cli", "run", str(recipe), "--store", str(store), "--json", "--workers", "1", *words]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=server.environment, timeout=300)
    assert told.returncode == 0, told.stdout + told.stderr
    return json.loads(told.stdout)


def states(server, run_id):
    query = "select t.name, t.state_name from task_run t join flow_run f on t.flow_run_id = f.id where f.name = ?"
    tasks = dict(server.rows(query, run_id))
    ((flow,),) = server.rows("select state_name from flow_run where name = ?", run_id)
    artifacts = server.rows("select key from artifact a join flow_run f on a.flow_run_id = f.id where f.name = ?", run_id)
    return flow, tasks, [key for (key,) in artifacts]


def test_each_step_is_one_task_run_and_what_was_done_is_called_cached(tmp_path, repositories, prefect_server):
    recipe, store = write_recipe(tmp_path / "r.yaml", repositories, STAGES), tmp_path / "s"
    first = run(recipe, store, prefect_server)
    second = run(recipe, store, prefect_server, "--set", "near_dedup.threshold=0.8")
    again = run(recipe, store, prefect_server, "--set", "near_dedup.threshold=0.8")
    flow, tasks, artifacts = states(prefect_server, first["run"])
    assert flow == "Completed"
    assert set(tasks) == {step["step"] for step in first["steps"]}
    assert set(tasks.values()) == {"Completed"}
    assert "funnel" in artifacts
    _, tasks, _ = states(prefect_server, second["run"])
    assert {name for name, state in tasks.items() if state != "Cached"} == {"near_dedup"}
    assert again["run"] == second["run"]  # nothing to do: no run, no server


def test_a_corrupted_part_fails_the_flow_and_the_command_with_a_remedy_that_works(tmp_path, repositories, prefect_server):
    recipe, store = write_recipe(tmp_path / "r.yaml", repositories, STAGES), tmp_path / "s"
    run(recipe, store, prefect_server, "--no-prefect", "--until", "license_filter")
    part = next((store / "objects" / "docs").rglob("*.parquet"))
    data = bytearray(part.read_bytes())
    data[60] ^= 1  # in the first page of data; a page's checksum notices
    part.write_bytes(data)
    command = [sys.executable, "-m", "starloom.cli"]
    words = ["run", str(recipe), "--store", str(store), "--workers", "1"]
    before = set(prefect_server.rows("select name from flow_run"))
    told = subprocess.run(command + words, capture_output=True, text=True, check=False, env=prefect_server.environment, timeout=300)
    assert told.returncode == 1
    assert part.stem in told.stderr
    assert "starloom verify --repair" in told.stderr
    assert "Traceback" not in told.stderr
    ((failed,),) = set(prefect_server.rows("select name from flow_run")) - before
    assert prefect_server.rows("select state_type from flow_run where name = ?", failed) == [("FAILED",)]
    subprocess.run([*command, "verify", "--repair", "--store", str(store)], check=False, capture_output=True, timeout=120)
    assert run(recipe, store, prefect_server, "--no-prefect")["status"] == "done"
