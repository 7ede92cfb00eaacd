"""What a run under way tells whoever looks at its store."""

from __future__ import annotations

import json

import pytest

from starloom.flows import live
from starloom.flows.live import Live, progress, progress_name, watched
from starloom.flows.run import NoWatcher, Request, execute, prepare
from starloom.lineage.store import Store
from tests.corpus import make_repositories, run_recipe, write_recipe

STAGES = "- license_filter\n- exact_dedup\n"


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path / "r.yaml", make_repositories(tmp_path / "repositories"), STAGES)


def test_a_run_tells_how_far_it_is_and_leaves_nothing_behind(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(live, "WRITE_SECONDS", 0)
    seen = []

    class Looking(NoWatcher):
        def progressed(self, step, done, total, unit, metrics):
            store = Store.open(str(tmp_path / "s"))
            (run_id,) = {name.split("/")[1] for name in store.storage.names("runs")}
            run = store.run(run_id)
            seen.append((step, done, total, {row["name"]: row["status"] for row in watched(store, run)}, progress(store, run.id)))

    prepared = prepare(Request(str(recipe), (), str(tmp_path / "s")))
    run = execute(prepared, Looking(), workers=0)
    assert {step for step, *_ in seen} == {"ingest", "license_filter.statements", "license_filter", "exact_dedup"}
    for step, done, total, statuses, told in seen:
        assert told["steps"][step]["done"] == done <= total == told["steps"][step]["total"]
        assert statuses[step] == "running"
        order = list(statuses)
        assert all(statuses[name] in ("done", "running") for name in order[: order.index(step)])
        assert all(statuses[name] == "pending" for name in order[order.index(step) + 1 :])
    assert progress(prepared.store, run.id) is None
    rows = watched(prepared.store, run)
    assert [row["name"] for row in rows] == [step.name for step in prepared.plan.steps]
    assert {row["status"] for row in rows} == {"done"}
    assert {row["name"]: row["reads"] for row in rows} == {
        "ingest": [],
        "license_filter.statements": ["ingest"],
        "license_filter": ["ingest", "license_filter.statements"],
        "exact_dedup": ["license_filter"],
    }
    assert all(row["documents"] is not None for row in rows if row["name"] != "license_filter.statements")


def test_a_record_without_a_plan_is_drawn_by_what_was_read(tmp_path, recipe):
    run = run_recipe(recipe, tmp_path / "s")
    store = Store.open(str(tmp_path / "s"))
    before = [(row["name"], row["reads"]) for row in watched(store, run)]
    run.plan = []
    after = {row["name"]: set(row["reads"]) for row in watched(store, run)}
    assert all(set(reads) <= after[name] for name, reads in before)


def test_curves_keep_their_course_however_long_they_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "WRITE_SECONDS", 0)
    store = Store.open(str(tmp_path / "s"))
    watcher = Live(NoWatcher(), store, "one")
    for step in range(1, 2001):
        watcher.progressed("train_model", step, 2000, "steps", {"loss": 1 / step})
    told = json.loads(store.storage.read(progress_name("one")))["steps"]["train_model"]
    steps = [step for step, _ in told["curve"]]
    assert len(steps) <= live.MAX_POINTS
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert steps[-1] > 1900
    assert all(metrics == {"loss": 1 / step} for step, metrics in told["curve"])
    watcher.close()
    watcher.progressed("train_model", 2000, 2000, "steps", {})
    assert progress(store, "one") is None
