"""What a touched source file makes run again, on a copy of the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkouts import copy_house
from tests.corpus import make_repositories, write_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STAGES = "- license_filter\n- quality_filter\n- exact_dedup\n- near_dedup\n- redact_pii\n"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the project, a recipe, and a way to run it there: the steps that ran, or what the plan said."""
    copy_house(tmp_path / "checkout")
    recipe = write_recipe(tmp_path / "r.yaml", make_repositories(tmp_path / "repositories"), STAGES)
    return Checkout(tmp_path / "checkout", recipe, tmp_path / "s")


class Checkout:
    def __init__(self, root: Path, recipe: Path, store: Path):
        self.root, self.recipe, self.store = root, recipe, store

    def call(self, verb: str, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "starloom.cli", verb, str(self.recipe), "--store", str(self.store), "--json", *words]
        told = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False, timeout=180)
        assert told.returncode == 0, told.stdout + told.stderr
        return json.loads(told.stdout)

    def ran(self) -> set[str]:
        return {step["step"] for step in self.call("run", "--no-prefect", "--workers", "1")["steps"] if step["status"] != "cached"}

    def reasons(self) -> dict[str, list[str]]:
        return {step["step"]: step["reasons"] for step in self.call("plan")["steps"] if step["status"] == "run"}

    def edit(self, name: str, before: str, after: str) -> None:
        file = self.root / name
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))


def test_comments_constants_and_early_cutoff(checkout):
    everything = checkout.ran()
    assert len(everything) == 9
    for stage in ("exact_dedup", "near_dedup", "redact_pii"):
        file = checkout.root / "tasks" / f"{stage}.py"
        file.write_text("# touched\n" + file.read_text().replace('"""', '"""Said otherwise. ', 1) + "\n# and here\n")
    checkout.edit(
        "tasks/schemas/__init__.py", "class Clusters(Tabular):", "class Unheard(Tabular):\n    pass\n\n\nclass Clusters(Tabular):"
    )
    assert checkout.reasons() == {}  # comments, docstrings and new neighbours are nothing

    checkout.edit("tasks/exact_dedup.py", 'judged(part, "exact-duplicate"', 'judged(part, "exact-" + "duplicate"')
    assert checkout.reasons() == {"exact_dedup": ["code: tasks/exact_dedup.py"]}
    assert checkout.ran() == {"exact_dedup"}  # it made the same bytes, so nothing after it ran

    checkout.edit("tasks/kernels/duplicates/minhash.py", "import numpy as np", "import numpy as np\n\nassert np")
    assert checkout.reasons()["near_dedup.signatures"] == ["code: tasks/kernels/duplicates/minhash.py"]
    assert "near_dedup.signatures" in checkout.ran()
    assert checkout.reasons() == {}


def test_a_changed_constant_that_changes_bytes_reruns_what_reads_them(checkout):
    checkout.ran()
    checkout.edit("tasks/near_dedup.py", '"near-duplicate"', '"nearly-duplicate"')
    assert set(checkout.reasons()) == {"near_dedup"}
