"""The bench of the whole pipeline: seconds that add up, and functions that are put back."""

from __future__ import annotations

import gc
import shutil
import sys
import time

import pyarrow as pa
import pytest

from starloom.bench import _peer
from starloom.bench.pipeline import __main__ as command
from starloom.bench.pipeline import peer
from starloom.bench.pipeline.clock import COUNTED, Clock
from starloom.lineage import parquet
from starloom.lineage.errors import InputError
from starloom.lineage.store import Store
from tests.corpus import function, make_repositories, run_recipe, write_recipe


@pytest.mark.slow
def test_each_step_is_told_by_what_its_seconds_went_into(tmp_path):
    report = command.time_stages(0.3, 0.2, "license_filter", tmp_path)
    assert list(report["steps"]) == ["ingest", "license_filter.statements", "license_filter"]
    assert report["bytes"] > 100_000
    for name in ("kernel", "read", "write", "hash"):
        assert report["steps"]["license_filter"][name] > 0, name
    assert list(tmp_path.iterdir()) == []
    assert "MB/s a core" in command._lines(report)


def test_a_step_that_is_not_there_is_a_problem_told(capsys, monkeypatch):
    monkeypatch.setattr(command, "SETTINGS_OF_LIBRARIES", {})
    monkeypatch.setattr(command, "NEW_OBJECTS_BEFORE_GC", gc.get_threshold()[0])
    assert command.main(["--until", "pack"]) == 2
    assert "pack_fim" in capsys.readouterr().err


def test_what_is_done_between_two_batches_is_not_reading_and_all_is_put_back(tmp_path):
    parquet.write_table(pa.table({"row": [1]}), tmp_path / "t.parquet", 8)
    before = [getattr(home, name) for _, home, name in COUNTED]
    clock = Clock()
    with clock.installed(), clock.counting("all"):
        for _ in parquet.read_batches(tmp_path / "t.parquet", None, 8):
            until = time.process_time() + 0.2
            while time.process_time() < until:
                pass
    assert clock.seconds["read"] < 0.1 < clock.seconds["all"]
    assert [getattr(home, name) for _, home, name in COUNTED] == before
    with pytest.raises(FileNotFoundError), clock.installed():
        parquet.write_table(pa.table({"row": [1]}), tmp_path / "no" / "t.parquet", 8)
    assert [getattr(home, name) for _, home, name in COUNTED] == before


# Beside a peer

DRIVER = """\
import subprocess, sys
import pyarrow.parquet as pq
BUSY = "import time\\nwhile time.process_time() < 0.1: pass"
def run(*, texts, scratch, bands, rows, workers):
    assert (bands, rows, workers) == (14, 8, 1)
    subprocess.run([sys.executable, "-S", "-c", BUSY], check=True)
    table = pq.read_table(texts)
    first = {}
    for i, text in zip(table["id"].to_pylist(), table["text"].to_pylist()):
        first.setdefault(text, i)
    return sorted(set(table["id"].to_pylist()) - set(first.values()))
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment as if built, with our interpreter and a driver that drops exact copies."""
    monkeypatch.setenv("STARLOOM_BENCH_VENVS", str(tmp_path / "venvs"))
    monkeypatch.setattr(_peer, "HERE", tmp_path)
    shutil.copy(_peer.__file__.replace("_peer.py", "_peer_serve.py"), tmp_path)
    (tmp_path / "_peer_some_peer.py").write_text(DRIVER)
    made = _peer.Environment("some-peer", ("one==1",))
    (made.folder / "bin").mkdir(parents=True)
    (made.folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')  # a link would not find pyarrow
    (made.folder / "bin" / "python").chmod(0o755)
    (made.folder / _peer.MARK).write_text("one==1")
    yield made
    process, _ = _peer._started(made)
    process.stdin.close()
    process.stdout.close()
    process.wait()
    _peer._started.cache_clear()


@pytest.mark.slow
def test_the_peer_is_given_what_near_dedup_reads_and_its_processes_are_timed(tmp_path, environment):
    texts = make_repositories(tmp_path / "repositories", num_repos=2)
    (texts / "repo1" / "src" / "copy.py").write_text((texts / "repo0" / "src" / "module0.py").read_text())
    (texts / "repo1" / "src" / "copyleft.py").write_text("# SPDX-License-Identifier: GPL-3.0-only\n" + function("copyleft", 777))
    recipe = write_recipe(tmp_path / "r.yaml", texts, "- license_filter\n- near_dedup\n", part_bytes=20_000)
    run = run_recipe(recipe, tmp_path / "s")
    peer.check([step.name for step in run.steps], environment)
    found = peer.time_peer(Store.open(str(tmp_path / "s")), run, tmp_path, environment)
    kept = [path for path in texts.rglob("*.py") if path.name != "copyleft.py"]
    assert (found["documents"], found["dropped"]) == (9, 1)
    assert found["bytes"] == sum(path.stat().st_size for path in kept)
    assert found["seconds"] > 0.05, "children count"
    steps = {name: dict.fromkeys(command.COLUMNS, 0.5) for name in peer.OURS}
    assert "2.0 times the seconds of our near_dedup (4.0 s), 1.0 times those of all of our steps (8.0 s)" in peer.lines(
        {**found, "seconds": 8.0}, steps, 8.0
    )


def test_nothing_is_timed_where_nothing_could_be_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("STARLOOM_BENCH_VENVS", str(tmp_path))
    with pytest.raises(InputError, match="the run ends before it"):
        peer.check(["ingest"])
    with pytest.raises(InputError, match=r"datatrove is not installed: no datatrove\[") as caught:
        peer.check(peer.OURS)
    assert "near_dedup --install" in caught.value.hint
