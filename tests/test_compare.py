"""What `diff` says, against the fates of all documents compared one by one."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pytest

from starloom.lineage.errors import InputError
from starloom.lineage.records import Artifact
from starloom.lineage.store import Store
from starloom.queries.compare import compare
from starloom.queries.fates import dropped, is_linear
from starloom.queries.rows import Rows
from tests.corpus import function, run_recipe, write_recipe
from tests.history import make_history

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three runs: `strict`, `lenient`, and `changed`, over other files."""
    folder = tmp_path_factory.mktemp("history")
    store = Store.open(str(make_history(folder)))
    root = folder / "repositories"
    shutil.rmtree(root / "repo5")
    (root / "repo0" / "src" / "module1.py").write_text(function("rewritten", 501))
    (root / "repo2" / "src" / "added.py").write_text(function("added", 502))
    (root / "repo1" / "src" / "module2.py").write_bytes(b"\0")
    (root / "repo3" / "src" / "module3.py").write_text(f"y = {'z + ' * 1000}z\n")
    store.tag("changed", run_recipe(folder / "recipe.yaml", folder / "store").id)
    return store


def fates(store, run):
    """doc_id → fate, and doc_id → (repo, path)."""
    reader, record = Rows(store), store.run(run)
    docs = [
        row
        for _, t in reader.tables(record.step("ingest").outputs["Docs"]["artifact"], ["doc_id", "repo", "path"])
        for row in t.to_pylist()
    ]
    found = {row["doc_id"]: "kept" for row in docs}
    for step in record.steps:
        for _, table in reader.tables(step.outputs["Verdicts"]["artifact"], None) if "Verdicts" in step.outputs else ():
            for row in table.to_pylist():
                if row["keep"] is False and found[row["doc_id"]] == "kept":
                    found[row["doc_id"]] = f"{step.name} {row['rule']}"
    return found, {row["doc_id"]: (row["repo"], row["path"]) for row in docs}


PAIRS = [("strict", "lenient"), ("lenient", "strict"), ("strict", "changed"), ("changed", "lenient"), ("strict", "strict")]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_documents_that_changed_fate_are_exactly_those_whose_fates_differ(store, before, after):
    (old, old_names), (new, new_names) = fates(store, before), fates(store, after)
    expected = {
        doc_id: (old.get(doc_id, "not there"), new.get(doc_id, "not there"))
        for doc_id in old.keys() | new.keys()
        if old.get(doc_id) != new.get(doc_id)
    }
    found = compare(store, before, after)["documents"]
    assert {d["doc_id"]: (d["before"]["fate"], d["after"]["fate"]) for d in found["list"]} == expected
    assert found["num_changed"] == len(expected)
    assert {(c["before"], c["after"]): c["documents"] for c in found["changes"]} == {
        change: list(expected.values()).count(change) for change in expected.values()
    }
    names = {**old_names, **new_names}
    assert all((d["repo"], d["path"]) == names[d["doc_id"]] for d in found["list"])
    assert (before == after) == (not expected)


def test_a_threshold_is_the_only_setting_that_differs_and_its_document_is_named(store):
    found = compare(store, "strict", "lenient")
    assert [(s["step"], s["name"], s["before"], s["after"]) for s in found["settings"] if s["what"] == "config"] == [
        ("near_dedup", "threshold", 0.7, 1.0)
    ]
    assert [s for s in found["settings"] if s["what"] in ("code", "libraries")] == []
    (document,) = found["documents"]["list"]
    assert document["before"]["rule"] == "near-duplicate"
    assert document["after"] == {"fate": "kept"}
    assert document["before"]["value"] >= document["before"]["threshold"] == 0.7
    assert document["before"]["survivor"]["path"] in ("src/module0.py", "src/copied.py", "src/resembling.py")
    assert not found["same_result"]
    assert compare(store, "strict", "strict")["same_result"]


def test_a_step_of_one_run_only_is_a_setting(store):
    (line,) = [s for s in compare(store, "strict", "lenient")["settings"] if s["what"] == "step"]
    assert (line["name"], line["before"], line["after"]) == ("train_model", "train_model", None)


def test_a_file_that_became_unreadable_is_told_with_the_reason(store):
    found = {(d["repo"], d["path"]): d for d in compare(store, "strict", "changed")["documents"]["list"]}
    assert found["repo1", "src/module2.py"]["after"] == {"fate": "not there", "rule": "skipped: binary"}
    assert found["repo5", "src/module0.py"]["after"] == {"fate": "not there"}
    assert found["repo2", "src/added.py"]["before"] == {"fate": "not there"}


def test_new_content_under_an_old_name_is_counted(store):
    assert compare(store, "strict", "changed")["documents"]["num_with_new_content"] == 2  # module1 of repo0, module3 of repo3
    assert compare(store, "strict", "lenient")["documents"]["num_with_new_content"] == 0


def test_the_list_is_limited_and_the_counts_are_not(store):
    whole, cut = (compare(store, "strict", "changed", limit)["documents"] for limit in (None, 2))
    assert cut["list"] == whole["list"][:2]
    assert (cut["num_changed"], cut["changes"]) == (whole["num_changed"], whole["changes"])


def test_the_funnel_has_both_sides(store):
    rows = {row["step"]: row for row in compare(store, "strict", "lenient")["funnel"]}
    assert rows["near_dedup"]["after"]["documents"] == rows["near_dedup"]["before"]["documents"] + 1
    assert rows["ingest"]["before"] == rows["ingest"]["after"]


def test_scores_stand_side_by_side(tmp_path, store):
    shutil.copytree(store.url, tmp_path / "s")
    copy = Store.open(str(tmp_path / "s"))
    for run_id, value in (("strict", 2.5), ("lenient", 2.25)):
        run = copy.run(run_id)
        table = pa.table({"benchmark": ["held-out"], "metric": ["loss"], "language": pa.array(["Python"]), "value": [value], "count": [7]})
        name = copy.put_artifact(Artifact("Scores", (copy.put_table("Scores", table, 1024),)))
        run.steps[-1].outputs["Scores"] = {"artifact": name, "counts": {}}
        run.steps[-1].name = "evaluate"
        copy.write_run(run)
    (score,) = compare(copy, "strict", "lenient")["scores"]
    assert (score["benchmark"], score["metric"], score["language"], score["before"], score["after"]) == (
        "held-out",
        "loss",
        "Python",
        2.5,
        2.25,
    )


def test_where_a_recipe_branches_the_first_drop_is_the_fate(tmp_path, repositories):
    header = "# SPDX-License-Identifier: GPL-3.0-only\n"
    (repositories / "repo0" / "src" / "both.py").write_text(f"{header}x = {'y + ' * 1000}y\n")
    branch = "- license_filter\n- quality_filter: {rules: [{signal: max_line_length, max: LIMIT}]}\n  from: ingest\n"
    recipe = write_recipe(tmp_path / "r.yaml", repositories, branch.replace("LIMIT", "2000"))
    other = write_recipe(tmp_path / "o.yaml", repositories, branch.replace("LIMIT", "9000"))
    runs = [run_recipe(path, tmp_path / "s") for path in (recipe, other)]
    store = Store.open(str(tmp_path / "s"))
    assert not is_linear(runs[0])
    drops = dropped(Rows(store), runs[0]).to_pylist()
    assert len({drop["doc_id"] for drop in drops}) == len(drops)
    names = {doc_id: path for doc_id, (_, path) in fates(store, runs[0].id)[1].items()}
    assert [drop["step"] for drop in drops if names[drop["doc_id"]] == "src/both.py"] == ["license_filter"]
    assert compare(store, runs[0].id, runs[1].id)["documents"]["num_changed"] == 0


def test_runs_that_are_not_there_are_refused(store):
    with pytest.raises(InputError, match="there is no run 'nobody'"):
        compare(store, "strict", "nobody")
