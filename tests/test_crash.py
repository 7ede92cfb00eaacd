"""Runs that are killed, interrupted or starved, as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from starloom.lineage.store import Store
from tests.corpus import hashes, make_repositories, run_recipe, write_recipe
from tests.sizes import ALL

STAGES = "- license_filter\n- quality_filter\n- exact_dedup\n- near_dedup\n- redact_pii\n"
GONE_SECONDS = 5.0
pytestmark = pytest.mark.slow


def start(recipe, store, *words, **env) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "starloom.cli", "run", str(recipe), "--store", str(store), "--workers", "2", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env})


def still_at_work(processes, timeout=1):
    """Those that still run; one that is dead and only waits for its parent to notice does not."""
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "r.yaml", make_repositories(tmp_path / "repositories", num_repos=12), STAGES, 3000)


def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_hashes(recipe, tmp_path):
    undisturbed = run_recipe(recipe, tmp_path / "calm")
    moments = random.Random(7)
    seen_before = 0
    for _ in range(6 if ALL else 3):
        process = start(recipe, tmp_path / "s", "--no-prefect")
        time.sleep(moments.uniform(0.6, 1.6))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        actions = {p.stem for p in (tmp_path / "s" / "actions").rglob("*.json")}
        assert len(actions) >= seen_before  # what was finished stays
        seen_before = len(actions)
    before = {path.stem for path in (tmp_path / "s" / "actions").rglob("*.json")}
    last = run_recipe(recipe, tmp_path / "s")
    assert hashes(last) == hashes(undisturbed)
    assert last.result == undisturbed.result
    store = Store.open(str(tmp_path / "s"))
    wanted = {key for step in last.steps for key in (store.action(step.stage, step.key).actions or (step.key,))}
    assert sum(step.num_actions - step.num_cached for step in last.steps) == len(wanted - before)  # only what was lost is redone


def test_only_the_parts_that_were_not_finished_are_redone(recipe, tmp_path):
    done = run_recipe(recipe, tmp_path / "s", until="license_filter")
    store = Store.open(str(tmp_path / "s"))
    state = done.step("license_filter")
    whole = store.action("license_filter", state.key)
    store.forget("license_filter", state.key)
    store.forget("license_filter", whole.actions[0])
    again = run_recipe(recipe, tmp_path / "s", until="license_filter")
    assert again.step("license_filter").num_actions - again.step("license_filter").num_cached == 1
    assert hashes(again) == hashes(done)


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_asked_to_stop_it_is_gone_within_five_seconds_with_all_its_processes(recipe, tmp_path, how, prefect_server):
    slow = write_recipe(tmp_path / "slow.yaml", make_repositories(tmp_path / "many", num_repos=20, files=30), STAGES, 20_000)
    process = start(slow, tmp_path / "s", PREFECT_HOME=str(prefect_server.home))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("ingest"):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert family  # workers and Prefect's server
    asked = time.monotonic()
    process.send_signal(how)
    told = process.communicate(timeout=30)[0]
    assert time.monotonic() - asked < GONE_SECONDS, lines
    assert process.returncode == 1
    assert "the run was asked to stop\n  → run the same command again" in told
    assert "Traceback" not in told
    assert still_at_work(family) == []
    run = Store.open(str(tmp_path / "s")).run("latest")
    assert run.status == "cancelled"
    again = run_recipe(slow, tmp_path / "s")
    assert again.status == "done"
    assert again.step("ingest").status == "cached"


def test_two_runs_of_one_recipe_at_once_both_end_with_the_same(recipe, tmp_path):
    processes = [start(recipe, tmp_path / "s", "--no-prefect", "--json", "--workers", "1") for _ in range(2)]
    told = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    results = {json.loads(text)["result"] for text in told}
    assert results == {run_recipe(recipe, tmp_path / "other").result}


def test_workers_do_not_outlive_a_parent_that_was_killed(recipe, tmp_path):
    process = start(recipe, tmp_path / "s", "--no-prefect")
    workers = []
    while process.poll() is None and not workers:
        with contextlib.suppress(psutil.Error):  # gone between two questions
            workers = [child for child in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert still_at_work(workers, GONE_SECONDS) == []


def test_a_lost_worker_costs_its_part_and_not_the_run(recipe, tmp_path):
    process = start(recipe, tmp_path / "s", "--no-prefect", "--json")
    killed = False
    while process.poll() is None and not killed:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # gone between two questions
                if "spawn_main" in " ".join(child.cmdline()) and child.cpu_times().user > 0.3:
                    os.kill(child.pid, signal.SIGKILL)
                    killed = True
                    break
        time.sleep(0.02)
    out, _ = process.communicate(timeout=120)
    assert killed
    assert process.returncode == 0, out
    assert json.loads(out)["status"] == "done"


def test_a_full_disk_stops_the_run_with_a_remedy_and_the_next_one_goes_on(recipe, tmp_path):
    """A limit on the size of files stands for the disk: the kernel refuses the write all the same."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY));"
        "from starloom.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "run", str(recipe), "--store", str(tmp_path / "s"), "--workers", "1", "--no-prefect"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "no space left" in told.stderr
    assert "starloom gc" in told.stderr
    assert run_recipe(recipe, tmp_path / "s").status == "done"
    assert hashes(run_recipe(recipe, tmp_path / "s")) == hashes(run_recipe(recipe, tmp_path / "other"))


def test_a_prefect_server_that_does_not_answer_is_named_with_the_way_round_it(recipe, tmp_path):
    process = start(recipe, tmp_path / "s", PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_HOME=str(tmp_path / "prefect"))
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "http://127.0.0.1:9/api" in told
    assert "--no-prefect" in told
