"""The promises of the store and the plan, on a real corpus with real stages."""

from __future__ import annotations

import shutil
import uuid

import pytest

from starloom.flows.run import Request, prepare
from starloom.lineage.errors import ConfigError, InputError
from tests.corpus import function, hashes, make_repositories, run_recipe, write_recipe

pytestmark = pytest.mark.slow

FILTERS = "- license_filter\n- quality_filter\n- exact_dedup\n- near_dedup\n- redact_pii\n"


def statuses(run):
    return {step.name: (step.status, step.num_actions - step.num_cached) for step in run.steps}


@pytest.fixture
def recipe(tmp_path, repositories):
    return write_recipe(tmp_path / "r.yaml", repositories, FILTERS)


def test_a_second_run_runs_nothing_and_is_the_same_run(recipe, tmp_path):
    first = run_recipe(recipe, tmp_path / "s")
    assert first.status == "done"
    assert all(ran > 0 for _, ran in statuses(first).values())
    assert run_recipe(recipe, tmp_path / "s").id == first.id


def test_two_clones_in_two_places_make_the_same_artifacts(recipe, tmp_path, repositories):
    shutil.copytree(repositories, tmp_path / "elsewhere" / "deep" / "repositories")
    other = write_recipe(tmp_path / "other.yaml", tmp_path / "elsewhere" / "deep" / "repositories", FILTERS)
    assert hashes(run_recipe(recipe, tmp_path / "s")) == hashes(run_recipe(other, tmp_path / "t"))


def test_workers_and_order_change_no_byte(recipe, tmp_path):
    assert hashes(run_recipe(recipe, tmp_path / "s")) == hashes(run_recipe(recipe, tmp_path / "t", workers=3))


def test_a_store_in_memory_makes_the_same_artifacts(recipe, tmp_path):
    assert hashes(run_recipe(recipe, tmp_path / "s")) == hashes(run_recipe(recipe, f"memory://{uuid.uuid4().hex}", workers=2))


def test_the_part_size_changes_no_verdict(tmp_path, repositories):
    fates = []
    for size in (500, 4000, 1_000_000):
        recipe = write_recipe(tmp_path / f"{size}.yaml", repositories, FILTERS, size)
        run = run_recipe(recipe, tmp_path / f"s{size}")
        fates.append(
            {
                step.name: {k: v for k, v in step.outputs.get("Verdicts", {}).get("counts", {}).items() if k not in ("parts", "bytes")}
                for step in run.steps
            }
        )
    assert fates[0] == fates[1] == fates[2]


def test_a_threshold_reruns_the_decision_and_not_the_signatures_and_the_plan_said_so(recipe, tmp_path):
    run_recipe(recipe, tmp_path / "s")
    prepared = prepare(Request(str(recipe), ("near_dedup.threshold=0.8",), str(tmp_path / "s")))
    looks = {look.step: look for look in prepared.outlook}
    assert looks["near_dedup.signatures"].status == "cached"
    assert looks["near_dedup"].status == "run"
    assert looks["near_dedup"].reasons == ("config.threshold 0.7 → 0.8",)
    assert looks["redact_pii"].status == "waits"
    run = run_recipe(recipe, tmp_path / "s", "near_dedup.threshold=0.8")
    assert {name for name, (_, ran) in statuses(run).items() if ran} == {"near_dedup"}  # nothing changed fate, so nothing below ran


def test_a_changed_file_redoes_its_part_alone(recipe, tmp_path, repositories):
    first = run_recipe(recipe, tmp_path / "s")
    (repositories / "repo3" / "src" / "module0.py").write_text(function("changed", 999))
    second = run_recipe(recipe, tmp_path / "s")
    done = statuses(second)
    for step in ("ingest", "license_filter", "quality_filter.signals", "near_dedup.signatures", "redact_pii"):
        assert done[step][1] == 1, step
    assert first.step("ingest").num_actions > 2


def test_a_repository_dropped_late_redoes_only_what_it_touches(recipe, tmp_path, repositories):
    run_recipe(recipe, tmp_path / "s")
    (repositories / "repo2" / "LICENSE").write_text("SPDX-License-Identifier: GPL-3.0-only\n")
    run = run_recipe(recipe, tmp_path / "s")
    rules = run.step("license_filter").outputs["Verdicts"]["counts"]["rules"]
    assert rules["non-permissive"] == 4
    assert statuses(run)["redact_pii"][1] == 1


def test_a_plan_names_the_part_whose_content_changed(recipe, tmp_path, repositories):
    run_recipe(recipe, tmp_path / "s")
    (repositories / "repo1" / "src" / "module1.py").write_text("x = 1\n")
    look = prepare(Request(str(recipe), (), str(tmp_path / "s"))).outlook[0]
    assert look.status == "run"
    assert look.reasons[0].startswith("input: part ")
    assert look.num_cached == look.num_actions - 1


def test_force_and_from_redo_what_is_done_and_make_the_same(recipe, tmp_path):
    first = run_recipe(recipe, tmp_path / "s")
    forced = run_recipe(recipe, tmp_path / "s", force=("exact_dedup",))
    assert {name for name, (_, ran) in statuses(forced).items() if ran} == {"exact_dedup"}
    start = run_recipe(recipe, tmp_path / "s", start="near_dedup")
    assert {name for name, (_, ran) in statuses(start).items() if ran} == {"near_dedup.signatures", "near_dedup", "redact_pii"}
    assert hashes(first) == hashes(forced) == hashes(start)
    with pytest.raises(ConfigError, match=r"no step 'exact_dedupe'(?s:.*)exact_dedup"):
        run_recipe(recipe, tmp_path / "s", force=("exact_dedupe",))


def test_an_earlier_setting_is_taken_from_the_store_and_recorded(recipe, tmp_path):
    first = run_recipe(recipe, tmp_path / "s")
    run_recipe(recipe, tmp_path / "s", "quality_filter.rules=[]")
    back = run_recipe(recipe, tmp_path / "s")
    assert back.id != first.id
    assert back.result == first.result
    assert {status for status, _ in statuses(back).values()} == {"cached"}


def test_a_missing_source_is_named_and_nothing_is_written(tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "nowhere", FILTERS)
    with pytest.raises(InputError, match=r"nowhere"):
        run_recipe(recipe, tmp_path / "s")
    assert not (tmp_path / "s" / "objects").exists()
    assert not (tmp_path / "s" / "runs").exists()


def test_an_empty_corpus_goes_through(tmp_path):
    (tmp_path / "none").mkdir()
    run = run_recipe(write_recipe(tmp_path / "r.yaml", tmp_path / "none", FILTERS), tmp_path / "s")
    assert run.status == "done"
    assert run.step("redact_pii").outputs["Docs"]["counts"].get("rows", 0) == 0


def test_every_document_seen_is_kept_or_dropped_at_every_step(tmp_path, repositories):
    shutil.copytree(repositories / "repo0", repositories / "copy0")
    (repositories / "repo1" / "src" / "long.py").write_text("x" * 5000)
    run = run_recipe(write_recipe(tmp_path / "r.yaml", repositories, FILTERS), tmp_path / "s")
    still_in = run.step("ingest").outputs["Docs"]["counts"]["rows"]
    for step in run.steps:
        if "Verdicts" in step.outputs:
            counts = step.outputs["Verdicts"]["counts"]
            assert counts["seen"] == still_in == counts["kept"] + counts["dropped"]
            assert sum(counts["rules"].values()) == counts["dropped"]
            still_in = counts["kept"]
    assert run.step("redact_pii").outputs["Docs"]["counts"]["rows"] == still_in
    assert run.step("exact_dedup").outputs["Verdicts"]["counts"]["dropped"] == 4


def test_outputs_of_a_run_can_be_browsed(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "s")
    folder = tmp_path / "s" / "runs" / run.id
    parts = sorted((folder / "license_filter" / "verdicts").glob("part-*.parquet"))
    assert len(parts) == run.step("license_filter").num_actions
    assert all(part.resolve().is_file() for part in parts)
    assert (folder / "ingest" / "docs" / "part-00000.parquet").exists()


def test_a_repository_more_adds_only_its_part(tmp_path):
    root = make_repositories(tmp_path / "repositories", num_repos=8)
    recipe = write_recipe(tmp_path / "r.yaml", root, FILTERS, 3000)
    run_recipe(recipe, tmp_path / "s")
    make_repositories(tmp_path / "more", num_repos=1)
    (tmp_path / "more" / "repo0").rename(root / "newcomer")
    run = run_recipe(recipe, tmp_path / "s")
    assert statuses(run)["ingest"][1] <= 2  # its part, or the two that its part was cut into
