"""Scores with intervals: of a step, of a checkpoint, and of two runs on the same questions; from hand-made completions."""

from __future__ import annotations

import copy
import shutil

import pyarrow as pa
import pytest
from scipy import stats

from starloom.cli import main
from starloom.lineage.records import Artifact
from starloom.lineage.store import Store
from starloom.queries.compare import compare
from starloom.queries.scores import NO_OUTCOMES
from starloom.queries.showing import show
from starloom.tasks.kernels.programs.pass_at_k import pass_at_k
from starloom.tasks.schemas import Completions, Scores
from tests.console_client import client_of, parse

pytestmark = pytest.mark.slow
NUM_SAMPLES = 4
RIGHT = {"strict": {"a": 0, "b": 2, "c": 4, "d": 1}, "lenient": {"a": 3, "b": 2, "c": 4, "e": 4}}
"""Run → problem → samples that passed."""
LINES = {"strict": "1100000011", "lenient": "1111110011"}
"""Run → whether each line was infilled exactly."""


def completions(run):
    rows = [
        {"benchmark": "own", "task_id": task, "sample": sample, "language": "Python", "reference": task, "passed": sample < right}
        for task, right in RIGHT[run].items()
        for sample in range(NUM_SAMPLES)
    ]
    rows += [
        {"benchmark": "infilling", "task_id": f"doc#L{n}", "sample": 0, "language": "Go", "reference": "x", "passed": right == "1"}
        for n, right in enumerate(LINES[run])
    ]
    return [{**row, "prompt": "p", "completion": "c", "outcome": "passed"} for row in rows]


def scores(run):
    told: list[tuple[str, str, str | None, list[float]]] = [
        ("own", f"pass@{k}", None, [pass_at_k(NUM_SAMPLES, right, k) for right in RIGHT[run].values()]) for k in (1, 3)
    ]
    lines = [float(each) for each in LINES[run]]
    told += [("infilling", "exact-match", language, lines) for language in (None, "Go")]
    rows = [
        {"benchmark": name, "metric": metric, "language": language, "value": sum(v) / len(v), "count": len(v)}
        for name, metric, language, v in told
    ]
    return [*rows, {"benchmark": "heldout", "metric": "loss", "language": None, "value": 2.5, "count": 70}]


@pytest.fixture(scope="module")
def store(history, tmp_path_factory):
    """The runs of the history, each with an evaluation of its own."""
    folder = tmp_path_factory.mktemp("scored") / "s"
    shutil.copytree(history / "store", folder)
    opened = Store.open(str(folder))
    for run_id in ("strict", "lenient"):
        run, checkpoint = opened.run(run_id), opened.run("strict").step("train_model").outputs["Checkpoint"]["artifact"]
        step = run.steps[-1]
        outputs = {}
        for kind, rows in ((Completions, completions(run_id)), (Scores, scores(run_id))):
            table = pa.Table.from_pylist(rows, kind.SCHEMA)
            outputs[kind.__name__] = {
                "artifact": opened.put_artifact(Artifact(kind.__name__, (opened.put_table(kind.__name__, table, 1024),))),
                "counts": {},
            }
        if run_id == "strict":
            step = copy.deepcopy(step)
            run.steps.append(step)
        step.name, step.outputs = "evaluate", outputs
        step.inputs = {"checkpoint": {"type": "Checkpoint", "artifact": checkpoint, "verdicts": None}}
        opened.write_run(run)
    return opened


def scored(rows, metric, language=None):
    return next(row for row in rows if (row["metric"], row["language"]) == (metric, language))


def test_a_step_tells_each_score_with_its_interval(store):
    told = show(store, f"{store.run('strict').id}/evaluate")["scores"]
    exact = stats.binomtest(4, 10).proportion_ci(0.95, "exact")
    for language in (None, "Go"):
        line = scored(told, "exact-match", language)
        assert (line["value"], line["count"], line["method"]) == (0.4, 10, "Clopper-Pearson")
        assert (line["low"], line["high"]) == pytest.approx((exact.low, exact.high))
    passed = scored(told, "pass@1")
    assert passed["value"] == pytest.approx((0 + 2 + 4 + 1) / 16)
    assert passed["low"] < passed["value"] < passed["high"]
    assert passed["method"] == "bootstrap over questions"
    loss = scored(told, "loss")
    assert (loss["low"], loss["high"], loss["method"]) == (None, None, NO_OUTCOMES)


def test_two_runs_are_held_against_each_other_on_the_questions_that_both_were_asked(store):
    told = compare(store, "strict", "lenient")["scores"]
    passed = scored(told, "pass@1")
    assert (passed["num_common"], passed["num_better"], passed["num_worse"]) == (3, 1, 0), "problem d and e were asked of one only"
    assert passed["difference"] == pytest.approx(0.25)
    assert passed["test"] == "paired bootstrap over questions"
    line = scored(told, "exact-match")
    assert (line["num_better"], line["num_worse"], line["test"]) == (4, 0, "McNemar, exact")
    assert line["p_value"] == pytest.approx(stats.binomtest(4, 4).pvalue)
    assert line["differs"] is False
    assert (scored(told, "loss")["differs"], scored(told, "loss")["test"]) == (None, NO_OUTCOMES)
    assert not [row for row in compare(store, "strict", "strict")["scores"] if row["differs"]]


def test_pages_and_commands_tell_them_too(store, capsys):
    client, strict, lenient = client_of(store.url), store.run("strict").id, store.run("lenient").id
    checkpoint = store.run("strict").step("train_model").outputs["Checkpoint"]["artifact"]
    pages = [f"/runs/{strict}/steps/evaluate", f"/checkpoints/{checkpoint}?run={strict}", f"/compare?run={strict}&run={lenient}"]
    for page in pages:
        seen = parse(client.get(page).text)
        dots = [attributes for name, attributes in seen.elements if name == "circle" and attributes["class"].startswith("dot ")]
        assert len(dots) == (4 if "compare" not in page else 8)
        joint = "&" if "?" in page else "?"
        rows = client.get(f"{page}{joint}format=csv&table=scores").text.splitlines()
        assert {"low", "high", "value"} <= set(rows[0].split(","))
        assert len(rows) == 1 + (5 if "compare" not in page else 10)
    found = client.get(f"{pages[2]}&format=csv&table=differences").text
    assert "no difference shown" in found
    assert "cannot be said" in found
    assert client.get(f"{pages[1]}&format=json").json()["scores"][0]["step"] == "evaluate"
    assert main(["show", f"{strict}/evaluate", "--store", store.url]) == 0
    assert "0.122 to 0.738" in capsys.readouterr().out
    assert main(["trace", f"checkpoint:{checkpoint}", "--run", strict, "--store", store.url]) == 0
    assert "0.122 to 0.738" in capsys.readouterr().out
    assert main(["diff", strict, lenient, "--store", store.url]) == 0
    assert "no difference shown (p = 0.12, McNemar, exact, 10 questions)" in capsys.readouterr().out
