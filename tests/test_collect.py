"""`gc` removes what nothing reaches, keeps every run whole, and gives way to whoever is at work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.lineage.audit import verify
from starloom.lineage.collect import collect
from starloom.lineage.errors import CorruptError, StoreError
from starloom.lineage.leases import process_lives, running
from starloom.lineage.records import Action, Artifact, Components, Run, StepState
from starloom.lineage.store import FORMAT, Store, action_name, object_name
from tests.corpus import hashes, run_recipe
from tests.history import make_history
from tests.sizes import examples

ROOTS = ("objects", "artifacts", "actions", "runs", "tags")


def names(store):
    return {name for root in ROOTS for name in store.storage.names(root)}


def grow_old(store, seconds=200_000):
    then = time.time() - seconds
    for path in (Path(store.url), *Path(store.url).rglob("*")):
        os.utime(path, (then, then), follow_symlinks=False)


# A store of small made-up runs that share parts as real ones do

CONTENTS = st.integers(0, 5)
STEP = st.tuples(st.booleans(), st.lists(CONTENTS, min_size=1, max_size=3))
"""(part by part?, content of each part)"""
RUNS = st.lists(st.lists(STEP, min_size=1, max_size=3), min_size=1, max_size=4)


def put_part(store, content):
    return store.put_table("Docs", pa.table({"content": [f"text {content}"]}), 1024)


def commit(store, stage, parts, *, by_part):
    """Record a step as a session does; returns its state and every name that it stands on."""
    used = {object_name("Docs", part.hash) for part in parts}
    keys = []
    for part in parts if by_part else ():
        made = Components(stage, {}, {}, {}, {"docs": part.hash}, FORMAT)
        store.commit(stage, Action(made.key, made.to_json(), {"Docs": part.to_json()}))
        keys.append(made.key)
    made = Components(stage, {}, {}, {}, {"docs": [part.hash for part in parts], "by_part": str(by_part)}, FORMAT)
    artifact = store.put_artifact(Artifact("Docs", tuple(parts)))
    store.commit(stage, Action(made.key, made.to_json(), {"Docs": artifact}, tuple(keys)))
    used |= {f"artifacts/{artifact}.json", *(action_name(stage, key) for key in (*keys, made.key))}
    state = StepState(stage, stage, made.key, made.to_json(), {}, {"Docs": {"artifact": artifact, "counts": {}}}, status="done")
    return state, used


def make_run(store, number, steps):
    run = Run(f"run-{number}", "made-up", "done", "2026-01-01")
    used = {f"runs/{run.id}/run.json", f"runs/{run.id}/step0/part-00000.parquet"}
    for i, (by_part, contents) in enumerate(steps):
        state, more = commit(store, f"stage{i}", [put_part(store, content) for content in contents], by_part=by_part)
        state.name = f"step{i}"
        run.steps.append(state)
        used |= more
    first = store.artifact(run.steps[0].outputs["Docs"]["artifact"]).parts[0]
    store.storage.link(f"runs/{run.id}/step0/part-00000.parquet", object_name("Docs", first.hash))
    run.result = run.outcome()
    store.write_run(run)
    return run.id, used


@pytest.mark.slow
@settings(max_examples=examples(25))
@given(RUNS, st.sets(st.integers(0, 3)), st.none() | st.integers(0, 4), st.booleans())
def test_whatever_is_collected_every_run_that_stays_is_whole_and_nothing_else_is_left(
    tmp_path_factory, runs, tagged, keep_last, with_leftovers
):
    store = Store.open(str(tmp_path_factory.mktemp("s")))
    made = [make_run(store, number, steps) for number, steps in enumerate(runs)]
    tags = {f"tag{number}": made[number][0] for number in tagged if number < len(made)}
    for tag, run_id in tags.items():
        store.tag(tag, run_id)
    if with_leftovers:
        commit(store, "stage9", [put_part(store, 100), put_part(store, 0)], by_part=True)
        put_part(store, 101)
        store.put_artifact(Artifact("Docs", (put_part(store, 102), put_part(store, 1))))
    before = names(store)
    kept = [(i, used) for at, (i, used) in enumerate(made) if keep_last is None or at >= len(made) - keep_last or i in tags.values()]
    expected = {f"tags/{tag}.json" for tag in tags}.union(*(used for _, used in kept))

    would = collect(store, keep_last=keep_last, older_than_seconds=0, dry_run=True)
    assert names(store) == before, "a dry run removes nothing"
    did = collect(store, keep_last=keep_last, older_than_seconds=0)
    assert asdict(would) == asdict(did)
    assert names(store) == expected
    assert store.run_ids() == [run_id for run_id, _ in kept]
    assert verify(store).mismatches == ()
    assert (did.num_bytes > 0) == any(name.startswith(("objects", "artifacts", "actions")) for name in before - expected)
    assert sum(did.num_removed[kind] for kind in ("objects", "artifacts", "actions")) == len(
        [name for name in before - expected if name.startswith(("objects", "artifacts", "actions"))]
    )


def test_what_a_killed_run_finished_is_kept_until_it_is_old(tmp_path):
    store = Store.open(str(tmp_path))
    parts = [put_part(store, 1), put_part(store, 2)]
    commit(store, "stage0", parts, by_part=True)
    store.forget("stage0", Components("stage0", {}, {}, {}, {"docs": [p.hash for p in parts], "by_part": "True"}, FORMAT).key)
    finished = {name for name in names(store) if name.startswith(("actions", "objects"))}
    found = collect(store)
    assert finished <= names(store)
    assert found.num_young == len(finished)
    assert verify(store).mismatches == ()
    grow_old(store)
    found = collect(store)
    assert names(store) == set()
    assert found.num_young == 0


def test_what_only_a_removed_run_reached_goes_with_it_however_young(tmp_path):
    store = Store.open(str(tmp_path))
    make_run(store, 1, [(True, [1, 2])])
    _, used = make_run(store, 2, [(True, [2, 3])])
    found = collect(store, keep_last=1)
    assert found.removed_runs == ["run-1"]
    assert names(store) == used


def test_what_a_killed_run_finished_keeps_what_it_shares_with_a_removed_run(tmp_path):
    store = Store.open(str(tmp_path))
    make_run(store, 1, [(True, [1, 2])])
    _, used = commit(store, "stage9", [put_part(store, 1)], by_part=True)
    collect(store, keep_last=0)
    assert names(store) == used
    assert verify(store).mismatches == ()


def test_a_store_elsewhere_is_collected_too():
    store = Store.open(f"memory://{uuid.uuid4().hex}")
    make_run(store, 1, [(True, [1, 2])])
    _, used = make_run(store, 2, [(False, [2, 3])])
    store.storage.local(object_name("Docs", put_part(store, 1).hash))  # a copy on this disk
    collect(store, keep_last=1, older_than_seconds=0)
    assert names(store) == {name for name in used if "/step0/" not in name}
    assert verify(store).mismatches == ()
    assert not (store.storage.scratch / "fetched" / object_name("Docs", put_part(store, 1).hash)).exists()


# Never a thing in use


def test_a_collection_gives_way_to_a_run_and_removes_nothing(tmp_path):
    store = Store.open(str(tmp_path))
    put_part(store, 1)
    before = names(store)
    with running(store, "r"), pytest.raises(StoreError, match=r"(?s)is in use by leases/run-r.json.*wait until it is done"):
        collect(store, older_than_seconds=0)
    assert names(store) == before
    collect(store, older_than_seconds=0)
    assert names(store) == set()
    assert list(store.storage.names("leases")) == []


def test_the_lease_of_a_killed_process_stops_nobody(tmp_path):
    store = Store.open(str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    import platform

    store.storage.write("leases/run-dead.json", json.dumps({"host": platform.node(), "pid": ended.pid}).encode())
    put_part(store, 1)
    collect(store, older_than_seconds=0)
    assert names(store) == set()
    assert list(store.storage.names("leases")) == []


def test_a_folder_of_work_is_left_to_a_live_process_and_removed_after_a_dead_one(tmp_path):
    store = Store.open(str(tmp_path))
    with store.work("a" * 64) as folder, store.work("a" * 64) as beside:
        assert folder != beside
        (folder / "state").write_text("half")
        collect(store, older_than_seconds=0)
        assert (folder / "state").exists()
        assert beside.exists()
    program = "import os, sys\nfrom starloom.lineage.store import Store\n"
    program += "with Store.open(sys.argv[1]).work('b' * 64) as f:\n (f / 'x').write_text('half')\n os._exit(9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
    left = store.storage.scratch / "work" / ("b" * 64)
    assert (left / "x").exists()
    collect(store)
    assert (left / "x").exists(), "young: the next run resumes from it"
    collect(store, older_than_seconds=0, dry_run=True)
    assert (left / "x").exists()
    assert collect(store, older_than_seconds=0).num_removed["tmp"] == 1
    assert list(left.parent.iterdir()) == []


def test_leftovers_of_crashed_writes_go_when_they_are_old(tmp_path):
    store = Store.open(str(tmp_path))
    with store.storage.making(".parquet") as aside:
        aside.write_bytes(b"half a part")
        shutil.copy(aside, aside.with_name("left.parquet"))
    collect(store)
    assert (store.storage.scratch / "left.parquet").exists()
    grow_old(store)
    found = collect(store)
    assert (found.num_removed["tmp"], found.num_bytes) == (1, 11)
    assert not (store.storage.scratch / "left.parquet").exists()


@pytest.mark.parametrize("where", ["run", "action", "artifact", "tag"])
def test_where_a_record_cannot_be_read_nothing_is_removed(tmp_path, where):
    store = Store.open(str(tmp_path))
    run_id, used = make_run(store, 1, [(True, [1])])
    store.tag("t", run_id)
    put_part(store, 9)
    name = {
        "run": f"runs/{run_id}/run.json",
        "action": next(n for n in used if n.startswith("actions")),
        "artifact": next(n for n in used if n.startswith("artifacts")),
        "tag": "tags/t.json",
    }[where]
    for damage in (b"not json", b"{}", b'{"type": "Docs", "parts": []}'):
        store.storage.write(name, damage)
        before = names(store)
        with pytest.raises(CorruptError, match=r"(?s)starloom verify --repair"):
            collect(store, older_than_seconds=0)
        assert names(store) == before


# On real runs


@pytest.mark.slow
def test_after_a_collection_the_next_run_has_nothing_to_do(tmp_path):
    make_history(tmp_path)
    store = Store.open(str(tmp_path / "store"))
    whole = names(store)
    assert collect(store, older_than_seconds=0).num_removed["objects"] == 0
    assert names(store) == whole
    strict, lenient = store.run("strict"), store.run("lenient")
    store.untag("strict")
    found = collect(store, keep_last=1)
    assert found.removed_runs == [strict.id]
    assert found.num_removed["objects"] > 0
    assert not list(store.storage.names(f"runs/{strict.id}"))
    assert verify(store).mismatches == ()
    assert run_recipe(tmp_path / "recipe.yaml", store.url, "near_dedup.threshold=1.0").id == lenient.id
    again = run_recipe(tmp_path / "recipe.yaml", store.url)
    assert hashes(again) == {n: out for n, out in hashes(strict).items() if n != "train_model"}


def test_a_process_that_is_dead_and_not_yet_waited_for_does_not_live():
    ended = psutil.Popen([sys.executable, "-c", ""])
    while ended.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not process_lives(ended.pid)
    assert process_lives(os.getpid())
    ended.wait()
