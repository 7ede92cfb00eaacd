"""Inputs that a stage can do without: wired where something above writes them, None where not.

On a copy of the project with two such stages: one works part by part, one sees the whole, both have a first half.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starloom.lineage.store import Store
from tests.checkouts import copy_house
from tests.corpus import make_repositories, write_recipe
from tests.test_code_changes import Checkout

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

STAGE = '''"""Count the licences that are known.

Reads   Docs      doc_id
        Licenses  doc_id
Writes  Scores    value = rows of Licenses, -1 where there are none; counted in the first half
        Verdicts  value = the same, counted in the second
"""

from __future__ import annotations

from starloom.tasks.frame.stage import Config, Runtime, prepare, stage
from starloom.tasks.schemas import Docs, Licenses, Scores, Verdicts


class Count(Config):
    """No knobs."""


@prepare()
def counted(docs: Docs, licenses: Licenses | None, cfg: Count, runtime: Runtime) -> Scores:
    import pyarrow as pa

    row = {"benchmark": "licences", "metric": "rows", "value": -1 if licenses is None else licenses.num_rows, "count": docs.num_rows}
    return Scores.of(pa.Table.from_pylist([row], schema=Scores.SCHEMA))


@stage(over="OVER", prepare=counted)
def NAME(docs: Docs, licenses: Licenses | None, scores: Scores, cfg: Count, runtime: Runtime) -> Verdicts:
    rows = -1 if licenses is None else licenses.num_rows
    return Verdicts.join([part.verdicts([True] * part.num_rows, value=rows) for part in docs.parts])
'''
STEPS = "- count_parts: {}\n  from: {docs: ingest}\n- count_whole: {}\n  from: {docs: ingest}\n"
COUNTERS = ("count_parts.counted", "count_parts", "count_whole.counted", "count_whole")


@pytest.fixture
def checkout(tmp_path):
    copy_house(tmp_path / "checkout")
    for name, over in (("count_parts", "parts"), ("count_whole", "whole")):
        (tmp_path / "checkout" / "tasks" / f"{name}.py").write_text(STAGE.replace("NAME", name).replace("OVER", over))
    make_repositories(tmp_path / "repositories")
    return Checkout(tmp_path / "checkout", tmp_path / "r.yaml", tmp_path / "s")


def recipe(checkout: Checkout, stages: str, deny: str = "") -> None:
    write_recipe(checkout.recipe, checkout.recipe.parent / "repositories", stages.replace("DENY", deny))


def last_inputs(checkout: Checkout) -> dict[str, set[str]]:
    """Step of the last run → names of its inputs, as both its record and its key hold them."""
    run = Store.open(str(checkout.store)).run("latest")
    for step in run.steps:
        assert set(step.inputs) | {"repositories"} == set(step.components["inputs"]) | {"repositories"}
    return {step.name: set(step.inputs) for step in run.steps}


def values(checkout: Checkout) -> dict[str, list[float]]:
    """Step → what it counted in each part."""
    from starloom.tasks.frame.step import Ref
    from starloom.tasks.frame.work import opened_ref

    store = Store.open(str(checkout.store))
    outputs = {name: store.run("latest").step(name).outputs for name in COUNTERS}
    made = [(name, kind, out["artifact"]) for name, of_step in outputs.items() for kind, out in of_step.items()]
    views: dict[str, Any] = {name: opened_ref(store, Ref(kind, artifact)) for name, kind, artifact in made}
    return {name: [part.read(["value"]).column("value")[0].as_py() for part in view.parts] for name, view in views.items()}


def test_an_optional_input_is_wired_where_it_is_written_and_only_then_in_the_key(checkout):
    recipe(checkout, STEPS)
    assert checkout.ran() == {"ingest", *COUNTERS}
    assert not any("licenses" in found for found in last_inputs(checkout).values())
    assert all(set(found) == {-1} for found in values(checkout).values())

    recipe(checkout, "- license_filter\n" + STEPS)
    checkout.call("run", "--no-prefect", "--workers", "1", "--until", "license_filter")
    assert checkout.reasons() == {name: ["input: licenses was not read before"] for name in ("count_parts.counted", "count_whole.counted")}
    assert checkout.ran() == set(COUNTERS)
    assert all("licenses" in last_inputs(checkout)[name] for name in COUNTERS)
    found = values(checkout)
    assert sum(found["count_parts"]) == 24  # in each part those of the part
    assert found["count_parts"] == found["count_parts.counted"] == found["count_whole.counted"]
    assert set(found["count_whole"]) == {24}

    recipe(checkout, STEPS)
    assert checkout.reasons() == {}  # as it was before the filter came


def test_an_optional_input_counts_by_its_contents_and_can_be_taken_from_a_named_step(checkout):
    two = "- license_filter\n- license_filter: {deny: [DENY]}\n  as: strict\n  from: ingest\n" + STEPS
    recipe(checkout, two, "GPL-3.0-only")
    checkout.ran()
    recipe(checkout, two, "AGPL-3.0-only")
    assert checkout.ran() == {"strict"}  # which found what it had found
    recipe(checkout, two, "MIT")
    assert checkout.ran() == {"strict", *COUNTERS}  # the nearest is read
    recipe(checkout, two.replace("{docs: ingest}", "{docs: ingest, licenses: license_filter}"), "MIT")
    assert checkout.reasons() == {}  # what the first filter found is what both had found

    recipe(checkout, "- quality_filter\n" + STEPS.replace("{docs: ingest}", "{docs: ingest, licenses: quality_filter}"))
    assert "takes licenses (Licenses) from quality_filter, which does not write it" in told(checkout, "plan", str(checkout.recipe))


def told(checkout: Checkout, *words: str) -> str:
    command = [sys.executable, "-m", "starloom.cli", *words]
    done = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=False, timeout=120)
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("name", ["count_parts", "count_whole"])
def test_a_stage_alone_needs_no_optional_input_and_says_so(checkout, tmp_path, name):
    pq.write_table(pa.table({"content": ["x = 1", "y = 2"]}), tmp_path / "in.parquet")
    assert alone(checkout, tmp_path, name, "without") == {-1}
    told(checkout, "stage", "license_filter", str(tmp_path / "in.parquet"), str(tmp_path / "judged"))
    assert alone(checkout, tmp_path, name, "with", "--licenses", str(tmp_path / "judged" / "licenses.parquet")) == {2}
    said = told(checkout, "stage", name, "--help")
    assert "[--licenses LICENSES]" in said
    assert "detector; may be left out" in said
    assert f"{name} Docs, Licenses (optional) Verdicts" in told(checkout, "stages")


def alone(checkout: Checkout, folder: Path, name: str, out: str, *words: str) -> set[float]:
    assert "written to" in told(checkout, "stage", name, str(folder / "in.parquet"), str(folder / out), *words)
    return set(pq.read_table(folder / out / "verdicts.parquet").column("value").to_pylist())
