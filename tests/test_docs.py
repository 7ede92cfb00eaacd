"""What the documents say holds: commands exist, recipes load, the example of a new stage works, links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from starloom.cli import VERBS
from starloom.flows.plan import make_plan
from starloom.flows.recipe import load
from starloom.tasks.frame.stage import stage_names
from tests.checkouts import copy_house

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_and_target_that_a_page_names_exists(page):
    text = page.read_text()
    assert set(re.findall(r"(?:^|`|\$ )starloom ([a-z][a-z-]*)", text, re.MULTILINE)) <= set(VERBS)
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|\$ )make ([a-z]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("recipe", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_wired(recipe):
    assert make_plan(load(recipe)).steps


@pytest.mark.parametrize("preset", sorted((ROOT / "conf" / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_is_a_mapping(preset):
    assert set(yaml.safe_load(preset.read_text())) >= {"architecture"}


def test_the_demo_uses_every_stage_but_the_one_that_takes_what_others_trained():
    assert {line.stage.name for line in load(ROOT / "conf" / "demo.yaml").steps} == set(stage_names()) - {"import_checkpoint"}


def test_the_example_of_a_new_stage_is_a_stage(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    copy_house(tmp_path)
    (tmp_path / "tasks" / "my_filter.py").write_text(source)
    script = (
        "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'content': ['short', 'long enough to stay']}), 'in.parquet')"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "starloom.cli", "stage", "my_filter", "in.parquet", "out", "--min-chars", "6", "--json"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout)["files"]["verdicts.parquet"]["rules"] == {"too-short": 1}


def test_the_lock_pins_what_the_project_asks_for():
    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    assert pins["torch"] == "2.13.0"
    assert tuple(map(int, pins["fastapi"].split(".")[:2])) < (0, 155)
    assert all(version for version in pins.values())
