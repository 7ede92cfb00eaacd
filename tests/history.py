"""A store with a history to ask questions of: real stages over planted repositories, and a training that saw their sequences."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pyarrow as pa

from starloom.lineage.records import Action, Artifact, Components, StepState
from starloom.lineage.store import FORMAT, Store
from tests.corpus import function, make_repositories, run_recipe, write_recipe

if TYPE_CHECKING:
    from pathlib import Path

EMAIL = "jane.roe@acme-industries.com"
STAGES = """\
- license_filter
- quality_filter: {rules: [{signal: max_line_length, max: 2000}]}
- exact_dedup
- near_dedup
- redact_pii
- train_tokenizer: {vocab_size: 400}
- encode: {metadata_rate: 0.5}
- pack_fim: {sequence_length: 64, heldout_fraction: 0.3}
"""


def plant(root: Path) -> Path:
    """Six MIT repositories, and in some of them one thing that a stage must catch."""
    make_repositories(root)
    original = (root / "repo0" / "src" / "module0.py").read_text()
    (root / "repo1" / "src" / "copied.py").write_text(original)
    (root / "repo2" / "src" / "resembling.py").write_text(original + "\n# one more line\n")
    (root / "repo3" / "src" / "copyleft.py").write_text("# SPDX-License-Identifier: GPL-3.0-only\n" + function("copyleft", 777))
    (root / "repo4" / "src" / "author.py").write_text(f'AUTHOR = "{EMAIL}"\n' + function("author", 888))
    (root / "repo4" / "src" / "blob.py").write_bytes(b"x = 1\0")
    (root / "repo5" / "src" / "minified.py").write_text(f"x = {'y + ' * 1000}y\n")
    return root


def make_history(folder: Path) -> Path:
    """A store with two runs: `strict`, which trained, and `lenient`, whose near_dedup.threshold is 1."""
    plant(folder / "repositories")
    recipe = write_recipe(folder / "recipe.yaml", folder / "repositories", STAGES)
    store = Store.open(str(folder / "store"))
    strict = run_recipe(recipe, folder / "store")
    add_training(store, strict.id, folder / "weights")
    store.tag("strict", strict.id)
    store.tag("lenient", run_recipe(recipe, folder / "store", "near_dedup.threshold=1.0").id)
    return folder / "store"


def add_training(store: Store, run_id: str, weights: Path, *, passes: int = 2, batch: int = 4) -> None:
    """Append the step that a trainer would: every sequence for training seen `passes` times, in some order."""
    run = store.run(run_id)
    packed = run.step("pack_fim").outputs["Packed"]["artifact"]
    rng, order = random.Random(0), []
    for _ in range(passes):
        rows = [
            (part, row)
            for part, described in enumerate(store.artifact(packed).parts)
            for row, split in enumerate(_splits(store, described))
            if split == "train"
        ]
        rng.shuffle(rows)
        order += rows
    table = pa.table(
        {
            "step": pa.array([i // batch for i in range(len(order))], pa.int64()),
            "part": pa.array([part for part, _ in order], pa.int32()),
            "row": pa.array([row for _, row in order], pa.int32()),
        }
    )
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights " * 100)
    made = {
        "Checkpoint": store.put_artifact(Artifact("Checkpoint", store.put_files(weights))),
        "Batches": store.put_artifact(Artifact("Batches", (store.put_table("Batches", table, 65_536),))),
    }
    components = Components("train_model", {}, {"passes": passes}, {}, {"packed": [p.hash for p in store.artifact(packed).parts]}, FORMAT)
    store.commit("train_model", Action(components.key, components.to_json(), made))
    inputs = {"packed": {"type": "Packed", "artifact": packed, "verdicts": None}}
    outputs = {kind: {"artifact": name, "counts": store.artifact(name).counts} for kind, name in made.items()}
    run.steps.append(StepState("train_model", "train_model", components.key, components.to_json(), inputs, outputs, status="done"))
    run.result = run.outcome()
    store.write_run(run)


def _splits(store: Store, part):
    from starloom.lineage import parquet
    from starloom.lineage.store import object_name

    return parquet.read_table(store.storage.local(object_name("Packed", part.hash)), ["split"]).column("split").to_pylist()
