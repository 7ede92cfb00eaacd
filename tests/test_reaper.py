"""Runs that are killed while their children import, train, serve or run programs: all are gone at once, and the next run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from starloom.lineage.collect import collect
from starloom.lineage.store import Store
from starloom.tasks.frame.reaper import MARK, ensure_reaper
from tests.corpus import make_repositories, run_recipe, write_recipe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
GONE_SECONDS = 5.0
"""It takes a tenth of a second where the machine has nothing else to do."""
SHAPE = "num_layers: 1, width: 16, num_heads: 2, context_tokens: 64, batch_sequences: 2, threads: 1, warmup_steps: 1"
STAGES = f"""
- train_tokenizer: {{vocab_size: 400}}
- encode
- pack_fim: {{sequence_length: 64}}
- train_model: {{{SHAPE}, num_steps: 500, log_every_steps: 100000, checkpoint_every_steps: 10}}
"""
TRAINER = "-m starloom.model.train"
STATES = "s/**/states/step-*"


@pytest.fixture
def recipe(tmp_path) -> Path:
    """All but the training is done."""
    path = write_recipe(tmp_path / "r.yaml", make_repositories(tmp_path / "repositories", num_repos=2), STAGES)
    run_recipe(path, tmp_path / "s", until="pack_fim")
    return path


def start(*words: object, **env: str) -> psutil.Popen:
    argv = [sys.executable, *map(str, words)]
    return psutil.Popen(argv, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_run(recipe: Path, *words: str, **env: str) -> psutil.Popen:
    return start("-m", "starloom.cli", "run", recipe, "--store", recipe.parent / "s", "--workers", "1", *words, **env)


def until(found, what: str):
    """What it finds, as soon as it finds something."""
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.01)
    return result


def family_with(process: psutil.Popen, words: str, num: int = 1) -> list[psutil.Process]:
    """All below a process, as soon as so many of them have these words in their command."""

    def found():
        assert process.poll() is None
        family = process.children(recursive=True)
        return family if sum(words in " ".join(told(child, "cmdline") or ()) for child in family) >= num else None

    return until(found, words)


def told(process: psutil.Process, what: str):
    try:
        return getattr(process, what)()
    except (psutil.Error, OSError):  # it is gone, or another user's
        return None


def kill(process: psutil.Popen, family: list[psutil.Process]) -> None:
    """Kill -9; everybody is gone soon, and whoever was being started at that moment, who bears the mark of the others."""
    (mark,) = {environ[MARK] for child in family if MARK in (environ := told(child, "environ") or {})}
    process.kill()
    process.wait()
    deadline = time.monotonic() + GONE_SECONDS

    def alive():
        of_mark = [child for child in psutil.process_iter() if (told(child, "environ") or {}).get(MARK) == mark]
        return [child for child in {*family, *of_mark} if told(child, "status") not in (None, psutil.STATUS_ZOMBIE)]

    while left := alive():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_trainers_end_with_a_killed_run_and_the_next_goes_on_at_once(recipe):
    store = Store.open(str(recipe.parent / "s"))
    process = start_run(recipe, "--no-prefect")
    kill(process, family_with(process, TRAINER))  # which imports torch
    process = start_run(recipe, "--no-prefect")
    family = family_with(process, TRAINER)
    until(lambda: list(recipe.parent.glob(STATES)), "state")
    kill(process, family)
    assert len(list(store.storage.names("leases"))) == 2
    collect(store)
    assert list(store.storage.names("leases")) == []
    assert store.run_ids()
    last = run_recipe(recipe, recipe.parent / "s")
    assert last.status == "done"
    assert store.action("train_model", last.step("train_model").key).notes["resumed_at_step"] >= 10


def test_several_trainers_below_a_launcher_end_with_a_killed_run(recipe):
    process = start_run(recipe, "--no-prefect", "--set", "train_model.num_processes=2", "--set", "train_model.num_steps=100000")
    family = family_with(process, TRAINER, num=3)
    until(lambda: list(recipe.parent.glob(STATES)), "state")
    kill(process, family)


def test_prefects_server_ends_with_a_killed_run(tmp_path, repositories):
    recipe = write_recipe(tmp_path / "r.yaml", repositories, "- license_filter\n- exact_dedup\n")
    process = start_run(recipe, PREFECT_HOME=str(tmp_path / "prefect"))
    kill(process, family_with(process, "prefect.server"))


def test_programs_that_are_run_end_with_a_killed_run_and_do_not_see_what_marks_them(tmp_path):
    started = tmp_path / "started"
    program = (
        "import os, pathlib, subprocess, sys, time\n"
        "assert not [name for name in os.environ if 'STARLOOM' in name]\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={})\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        "time.sleep(60)"
    )
    script = (
        "import sys\n"
        "from starloom.tasks.frame.reaper import ensure_reaper\n"
        "from starloom.tasks.kernels.programs.execution import Limits, run_program\n"
        "ensure_reaper()\n"
        "run_program(sys.argv[1], Limits(wall_seconds=60))\n"
    )
    process = start("-c", script, program)
    until(started.exists, "program")
    kill(process, family_with(process, "time.sleep(60)"))


def test_a_reaper_that_was_killed_is_replaced_before_the_next_child():
    ensure_reaper()

    def reapers():
        return [process for process in psutil.process_iter() if os.environ[MARK] in (told(process, "cmdline") or ())]

    (first,) = reapers()
    ensure_reaper()
    assert reapers() == [first]
    first.kill()
    until(lambda: told(first, "status") in (None, psutil.STATUS_ZOMBIE), "end of the reaper")
    ensure_reaper()
    (second,) = [process for process in reapers() if process != first]
    assert second.ppid() != os.getpid()
