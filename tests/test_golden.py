"""The bytes of every stage on a fixture, as a file. A change that should not change bytes must not change it.

If a hash changes and should: where a stage's code changed, its key did too and the file is renewed with UPDATE_GOLDEN=1; where
only the frame changed (how parts are read, written or keyed), raise FORMAT in lineage/store.py first.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.corpus import hashes, run_recipe, write_recipe
from tests.test_end_to_end import STAGES, plant

pytestmark = pytest.mark.slow

FILE = Path(__file__).parent / "golden" / "stage_hashes.json"
LIBRARIES = ("pyarrow", "tokenizers", "numpy", "presidio-analyzer", "detect-secrets", "identify", "license-expression")
BEFORE_TRAINING = STAGES.partition("- train_model")[0]


def test_every_stage_before_training_makes_the_same_bytes_as_ever(tmp_path):
    run = run_recipe(write_recipe(tmp_path / "r.yaml", plant(tmp_path / "repositories"), BEFORE_TRAINING), tmp_path / "s")
    found = {"versions": {name: version(name) for name in LIBRARIES}, "hashes": hashes(run)}
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    golden = json.loads(FILE.read_text())
    if golden["versions"] != found["versions"]:
        pytest.skip(f"made with {golden['versions']}, here {found['versions']}")
    assert found["hashes"] == golden["hashes"]
