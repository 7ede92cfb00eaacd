"""One run of everything on a corpus with known faults, each traced to the stage that caught it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starloom.cli import main
from starloom.lineage.store import Store
from starloom.queries.rows import Rows
from tests.corpus import MIT, function, hashes, make_repositories, run_recipe, write_recipe

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[1] / "conf" / "benchmarks" / "starloom_tiny.jsonl"
EMAIL, KEY = "margaret.hamilton@apollo-guidance.org", "AKIAQYLPMN5HHHFPZAM2"
STAGES = f"""
- license_filter: {{allow_classes: [permissive, no-license, unknown-license, non-permissive]}}
- quality_filter
- exact_dedup
- near_dedup
- license_gate
- redact_pii
- decontaminate: {{benchmarks: [{{name: tiny, path: {BENCHMARK}}}]}}
- train_tokenizer: {{vocab_size: 400}}
- measure_tokenizer
- encode
- pack_fim: {{sequence_length: 64, heldout_fraction: 0.3}}
- train_model: {{num_layers: 1, width: 16, num_heads: 2, context_tokens: 64, num_steps: 6, batch_sequences: 4, threads: 1, warmup_steps: 1}}
- evaluate:
    benchmarks: [{{name: tiny, path: {BENCHMARK}}}]
    threads: 1
    max_sequences: 8
    max_infills: 2
    infill_max_new_tokens: 8
    num_samples: 1
    k: [1]
    max_new_tokens: 8
- release
"""


def plant(root: Path) -> Path:
    make_repositories(root)
    gpl = root / "copyleft"
    gpl.mkdir()
    (gpl / "mine.py").write_text("# SPDX-License-Identifier: GPL-3.0-only\n" + function("copyleft", 1))
    twin = root / "twin"
    twin.mkdir()
    (twin / "LICENSE").write_text(MIT)
    (twin / "again.py").write_text((root / "repo0" / "src" / "module0.py").read_text() + "# one line more\n")
    (root / "repo1" / "src" / "secret.py").write_text(f"author = '{EMAIL}'\naws_key = '{KEY}'\n" + function("secret", 2))
    problem = json.loads(BENCHMARK.read_text().splitlines()[0])
    (root / "repo2" / "src" / "leak.py").write_text(function("leak", 3) + problem["prompt"] + problem["canonical_solution"])
    (root / "repo3" / "src" / "table.py").write_text("x = '" + "ab" * 800 + "'\n")
    (root / "repo4" / "src" / "blob.py").write_bytes(b"\0\1\2")
    return root


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end")
    recipe = write_recipe(folder / "r.yaml", plant(folder / "repositories"), STAGES)
    return run_recipe(recipe, folder / "s"), folder


def trace(capsys, folder: Path, what: str, *words: str) -> dict[str, Any]:
    assert main(["trace", what, "--store", str(folder / "s"), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("what", "step", "rule"),
    [
        ("copyleft/mine.py", "license_gate", "non-permissive"),
        ("repo0/LICENSE", "license_filter", "license-text"),
        ("repo3/src/table.py", "quality_filter", "max-line-length"),
        ("repo2/src/leak.py", "decontaminate", "benchmark-leak"),
    ],
)
def test_what_was_dropped_is_traced_to_the_stage_and_rule_that_dropped_it(done, capsys, what, step, rule):
    _, folder = done
    fate = trace(capsys, folder, f"path:{what}")["fate"]
    assert (fate["kept"], fate["step"], fate["rule"]) == (False, step, rule)


def test_of_two_near_duplicates_one_is_dropped_and_names_the_other(done, capsys):
    _, folder = done
    told = [trace(capsys, folder, f"path:{path}") for path in ("twin/again.py", "repo0/src/module0.py")]
    dropped = [t for t in told if not t["fate"]["kept"]]
    kept = [t for t in told if t["fate"]["kept"]]
    assert len(dropped) == len(kept) == 1
    assert (dropped[0]["fate"]["step"], dropped[0]["fate"]["rule"]) == ("near_dedup", "near-duplicate")
    assert kept[0]["document"]["doc_id"] in json.dumps(dropped[0])


def test_what_was_redacted_is_told_without_the_secret_and_is_in_no_file_of_the_store_but_the_ingested_text(done, capsys):
    run, folder = done
    told = trace(capsys, folder, "path:repo1/src/secret.py")
    assert told["fate"]["kept"]
    (rewritten,) = [event for event in told["events"] if event["event"] == "rewritten"]
    assert {span["entity"] for span in rewritten["redactions"]} == {"EMAIL", "KEY"}
    text = json.dumps(told)
    assert EMAIL not in text
    assert KEY not in text
    store = Store.open(str(folder / "s"))
    for step in run.steps:
        for kind, out in step.outputs.items():
            artifact = store.artifact(out["artifact"])
            if step.name == "ingest" or not artifact.parts:
                continue
            from starloom.tasks.frame.step import Ref
            from starloom.tasks.frame.work import opened_ref

            view = opened_ref(store, Ref(kind, out["artifact"]))
            if hasattr(view, "read"):
                assert EMAIL not in str(view.read().to_pylist()), (step.name, kind)
                assert KEY not in str(view.read().to_pylist()), (step.name, kind)
    for record in [*(folder / "s" / "actions").rglob("*.json"), *(folder / "s" / "runs").rglob("run.json")]:
        assert EMAIL not in record.read_text()


def test_a_file_that_never_became_a_document_is_traced_too(done, capsys):
    _, folder = done
    told = json.dumps(trace(capsys, folder, "path:repo4/src/blob.py"))
    assert "binary" in told


def test_a_kept_document_leads_to_its_sequences_and_to_the_steps_that_saw_it(done, capsys):
    _, folder = done
    told = trace(capsys, folder, "path:repo5/src/module1.py")
    events = {event["event"]: event for event in told["events"]}
    assert events["packed"]["sequences"]
    checkpoint = trace(capsys, folder, "checkpoint")
    assert checkpoint["kind"] == "checkpoint"


def test_a_step_says_what_became_of_every_token_of_all_its_parts(done, capsys):
    run, folder = done
    store = Store.open(str(folder / "s"))
    encoded, packer = run.step("encode").outputs["Tokens"]["artifact"], run.step("pack_fim")
    tables = [table for _, table in Rows(store).tables(encoded, ["tokens", "metadata"])]
    counts = packer.notes["counts"]
    assert len(tables) > 1
    assert counts["tokens_in"] == sum(len(ids) for table in tables for column in table.columns for ids in column.to_pylist())
    sequences = sum(table.num_rows for _, table in Rows(store).tables(packer.outputs["Packed"]["artifact"], ["sequence"]))
    assert counts["tokens_packed"] + counts["pad_tokens"] == sequences * packer.config["sequence_length"]
    assert main(["show", f"{run.id}/pack_fim", "--store", str(folder / "s")]) == 0
    assert f"tokens_in {counts['tokens_in']:>10,}".split() in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_release_holds_what_it_says(done):
    run, folder = done
    release = folder / "s" / "runs" / run.id / "release"
    names = {path.name for path in release.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json", "README.md", "DATA_CARD.md", "MANIFEST.json", "loss_curve.png"} <= names
    manifest = json.loads((release / "MANIFEST.json").read_text())
    assert run.step("train_model").outputs["Checkpoint"]["artifact"] in json.dumps(manifest)


def test_the_same_again_elsewhere_makes_the_same_down_to_the_release(done, tmp_path):
    run, _ = done
    recipe = write_recipe(tmp_path / "r.yaml", plant(tmp_path / "other"), STAGES)
    again = run_recipe(recipe, tmp_path / "s", workers=1)
    assert hashes(again) == hashes(run)
