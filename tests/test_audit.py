"""`verify` finds every planted mismatch and names it; `--repair` lets the next run make things again."""

from __future__ import annotations

import json
import random
import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from starloom.lineage.audit import MISSING, repair, verify
from starloom.lineage.records import Action, Artifact, Components
from starloom.lineage.store import FORMAT, Store, action_name, object_name
from tests.corpus import hashes, run_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def store(history, tmp_path):
    shutil.copytree(history / "store", tmp_path / "store", symlinks=True)
    return Store.open(str(tmp_path / "store"))


def mismatches(store):
    return {mismatch.name: mismatch.problem for mismatch in verify(store).mismatches}


def flip(path: Path, seed: int = 0) -> None:
    """One bit, somewhere."""
    rng, data = random.Random(seed), bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def edit(store, name, change) -> None:
    """Change a JSON document in place."""
    document = json.loads(store.storage.read(name))
    change(document)
    store.storage.write(name, json.dumps(document).encode())


def test_a_sound_store_is_found_sound_and_everything_was_hashed(store):
    calls = []
    report = verify(store, lambda done, total: calls.append((done, total)))
    assert report.mismatches == ()
    assert report.num_objects == len(list(store.storage.names("objects")))
    assert report.num_bytes == sum(store.storage.num_bytes(name) for name in store.storage.names("objects"))
    assert calls[-1] == (report.num_bytes, report.num_bytes)
    assert (report.num_runs, report.num_artifacts) == (2, len(list(store.storage.names("artifacts"))))


def test_one_flipped_bit_in_any_object_or_manifest_is_found_and_named(store):
    names = [name for name in (*store.storage.names("objects"), *store.storage.names("artifacts")) if store.storage.num_bytes(name)]
    rng = random.Random(7)
    kinds = {name.split("/")[1] if name.startswith("objects") else "artifacts" for name in names}
    chosen = [next(name for name in rng.sample(names, len(names)) if kind in name) for kind in sorted(kinds)] + rng.sample(names, 15)
    assert len(kinds) >= 12, "every type of artifact is to be hit"
    for seed, name in enumerate(dict.fromkeys(chosen)):
        path = Path(store.url, name)
        sound = path.read_bytes()
        flip(path, seed)
        assert list(mismatches(store)) == [name], name
        path.write_bytes(sound)
    assert mismatches(store) == {}


def test_a_lie_says_which_steps_it_touches(store):
    run = store.run("strict")
    part = store.artifact(run.step("near_dedup").outputs["Verdicts"]["artifact"]).parts[0]
    flip(Path(store.url, object_name("Verdicts", part.hash)))
    (mismatch,) = verify(store).mismatches
    assert {user.partition("/")[2] for user in mismatch.used_by} >= {"near_dedup", "redact_pii"}
    assert all(user.startswith(run.id) for user in mismatch.used_by)


def a_part_action(store, stage="license_filter"):
    run = store.run("strict")
    return action_name(stage, store.action(stage, run.step(stage).key).actions[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["components"]["config"].update(allow=["GPL-3.0-only"]),
        lambda d: d["components"]["code"].popitem(),
        lambda d: d["components"].update(format=99),
        lambda d: d["components"].update(surprise=1),
        lambda d: d.update(key="0" * 64),
        lambda d: d["outputs"]["Verdicts"].update(hash="0" * 64),
        lambda d: d["outputs"]["Verdicts"]["counts"].update(kept=12345),
        lambda d: d["outputs"].update(Docs=d["outputs"].pop("Verdicts")),
        lambda d: d.pop("components"),
        lambda d: d.update(outputs=[]),
    ],
)
def test_an_edited_record_of_an_action_is_found_and_named(store, change):
    name = a_part_action(store)
    edit(store, name, change)
    assert list(mismatches(store)) == [name]


def test_a_record_under_another_name_is_found(store):
    name = a_part_action(store)
    other = name.replace("license_filter", "quality_filter")
    store.storage.write(other, store.storage.read(name))
    assert list(mismatches(store)) == [other]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["steps"][3]["components"]["config"].update(threshold=0.1),
        lambda d: d["steps"][0]["outputs"]["Docs"].update(artifact=d["steps"][2]["outputs"]["Verdicts"]["artifact"]),
        lambda d: d.update(result="0" * 64),
        lambda d: d.update(id="another"),
        lambda d: d.pop("steps"),
    ],
)
def test_an_edited_run_is_found_and_named(store, change):
    name = f"runs/{store.run('strict').id}/run.json"
    edit(store, name, change)
    assert list(mismatches(store)) == [name]


@pytest.mark.parametrize("prefix", ["objects", "artifacts"])
def test_what_is_missing_is_named_once(store, prefix):
    run = store.run("strict")
    artifact = run.step("redact_pii").outputs["Docs"]["artifact"]
    gone = f"artifacts/{artifact}.json" if prefix == "artifacts" else object_name("Docs", store.artifact(artifact).parts[0].hash)
    store.storage.delete(gone)
    assert mismatches(store) == {gone: MISSING}


def test_a_missing_part_record_and_garbage_are_named(store):
    name = a_part_action(store)
    store.storage.delete(name)
    (mismatch,) = verify(store).mismatches
    assert mismatch.name.startswith("actions/license_filter/")
    assert mismatch.problem == f"claims {name}, which is missing"
    store.storage.write("tags/strict.json", b"not json")
    store.storage.write("artifacts/ff.json", b"\xff\xfe")
    assert {"tags/strict.json", "artifacts/ff.json"} < mismatches(store).keys()


def test_a_record_that_claims_what_was_never_there_is_named(store):
    components = Components("exact_dedup", {}, {}, {}, {}, FORMAT)
    store.commit("exact_dedup", Action(components.key, components.to_json(), {"Verdicts": "0" * 64}))
    assert list(mismatches(store)) == [action_name("exact_dedup", components.key)]


def test_a_store_elsewhere_is_verified_by_its_own_bytes_and_not_by_a_local_copy():
    store = Store.open(f"memory://{uuid.uuid4().hex}")
    part = store.put_table("Docs", pa.table({"content": ["some text"]}), 1024)
    store.put_artifact(Artifact("Docs", (part,)))
    name = object_name("Docs", part.hash)
    store.storage.local(name)  # fetched, and kept
    assert mismatches(store) == {}
    store.storage.write(name, store.storage.read(name)[:-1] + b"?")
    assert list(mismatches(store)) == [name]


# Repair


def makers(store, run, part_hash):
    """Step → how many of its actions made a part of that hash."""
    found = {}
    for step in run.steps:
        hits = [p.hash for out in step.outputs.values() for p in store.artifact(out["artifact"]).parts].count(part_hash)
        if hits:
            found[step.name] = min(hits, step.num_actions)
    return found


@pytest.mark.parametrize(
    ("step", "kind"), [("ingest", "Docs"), ("near_dedup", "Verdicts"), ("train_tokenizer", "Tokenizer"), ("pack_fim", "Spans")]
)
def test_after_a_repair_the_next_run_makes_it_again_and_the_store_is_sound(history, store, step, kind):
    run = store.run("lenient")
    part = store.artifact(run.step(step).outputs[kind]["artifact"]).parts[-1]
    flip(Path(store.url, object_name("files" if part.name else kind, part.hash)), seed=3)
    report = verify(store)
    done = repair(store, report)
    assert [mismatch.name for mismatch in report.mismatches] == [name for name in done.removed if name.startswith("objects/")]
    assert run.id in done.runs
    assert all(mismatch.problem == MISSING for mismatch in verify(store).mismatches), "only what has to be made again is left to tell"
    again = run_recipe(history / "recipe.yaml", store.url, "near_dedup.threshold=1.0")
    assert {s.name: s.num_actions - s.num_cached for s in again.steps if s.num_cached < s.num_actions} == makers(store, run, part.hash)
    assert hashes(again) == hashes(run)
    assert mismatches(store) == {}


def test_a_repair_drops_the_records_of_part_and_step(store):
    name = a_part_action(store)
    edit(store, name, lambda d: d["outputs"]["Verdicts"].update(hash="0" * 64))
    done = repair(store, verify(store))
    step = action_name("license_filter", store.run("strict").step("license_filter").key)
    assert set(done.removed) == {name, step}
    assert mismatches(store) == {}


def test_a_damaged_run_or_tag_is_set_aside_and_not_lost(store):
    run_id = store.run("strict").id
    edit(store, f"runs/{run_id}/run.json", lambda d: d.update(result="0" * 64))
    store.storage.write("tags/other.json", b"{}")
    kept = store.storage.read(f"runs/{run_id}/run.json")
    done = repair(store, verify(store))
    assert set(done.set_aside) == {f"runs/{run_id}/run.json", "tags/other.json"}
    assert store.storage.read(f"damaged/runs/{run_id}/run.json") == kept
    assert run_id not in store.run_ids()
    assert mismatches(store) == {}


def test_a_manifest_that_lies_is_made_again(history, store):
    run = store.run("lenient")
    name = f"artifacts/{run.step('exact_dedup').outputs['Verdicts']['artifact']}.json"
    edit(store, name, lambda d: d["parts"].pop())
    repair(store, verify(store))
    again = run_recipe(history / "recipe.yaml", store.url, "near_dedup.threshold=1.0")
    assert hashes(again) == hashes(run)
    assert mismatches(store) == {}
