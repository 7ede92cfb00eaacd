"""A training on the page of its run: loss by language, what the model writes, and the log of a step that fails."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from starloom.console.trainings import DRAWN_LANGUAGES, Training
from starloom.flows import live
from starloom.flows.live import Live, plain_lines, progress, watched
from starloom.flows.run import NoWatcher, Request, execute, prepare
from starloom.lineage.errors import StageError
from starloom.lineage.records import StepState
from starloom.lineage.store import Store
from tests.console_client import client_of, parse
from tests.corpus import make_repositories, run_recipe, write_recipe

pytestmark = pytest.mark.slow

EVIL = "</code></pre><script>alert(1)</script>"
LANGUAGES = [f"Language{number:02}" for number in range(12)]


def heldout(step: int) -> dict[str, Any]:
    losses = {"all": 5 - step / 100, **{name: 6 - number / 10 - step / 100 for number, name in enumerate(LANGUAGES)}}
    return {"step": step, "losses": losses, "tokens": {"all": 7800, **{name: 100 * (number + 1) for number, name in enumerate(LANGUAGES)}}}


def sample(words: str, **changed) -> dict[str, Any]:
    usual = {
        "task": "continue",
        "language": "Python",
        "doc_id": "ab" * 16,
        "prefix": "def add(a, b):\n    ",
        "suffix": "",
        "finish": "length",
    }
    return {**usual, "original": "return a + b\n", "written": words, **changed}


def samples(step: int) -> dict[str, Any]:
    filled = sample(f"{EVIL}{step}", task="fill in", language="HTML", prefix="<p>\n", suffix="\n</p>\n", original="text")
    return {"step": step, "samples": [sample(f"return {step}\n"), filled]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    recipe = write_recipe(folder / "r.yaml", make_repositories(folder / "repositories"), "- license_filter\n- exact_dedup\n")
    return folder, recipe, run_recipe(recipe, folder / "s", until="license_filter")


@pytest.fixture
def failed(place, tmp_path, monkeypatch):
    """A client, and a run whose training failed after it was measured at three steps."""
    folder, _, run = place
    monkeypatch.setattr(live, "WRITE_SECONDS", 0)
    store = Store.open(str(folder / "s"))
    run.status, run.error = "failed", "the trainer failed after step 300; its last lines:\nboom\n  → fix the error"
    run.plan = [*run.plan[:1], {"name": "train_model", "reads": ["ingest"]}]
    state = StepState("train_model", "train_model", "0" * 64, run.steps[0].components, {})
    state.status = "failed"
    run.steps = [*run.steps[:1], state]
    store.write_run(run)
    watcher = Live(NoWatcher(), store, run.id)
    watcher.started("train_model", 1, 0)
    for step in (100, 200, 300):
        watcher.progressed("train_model", step, 400, "steps", {"loss": 5 - step / 100, "heldout_loss": 5 - step / 100})
        watcher.appended("train_model", "heldout", heldout(step))
        watcher.appended("train_model", "samples", samples(step))
    watcher.appended("train_model", "log", {"text": f"\x1b[31mTraceback\x1b[0m: {EVIL}\n10%\r100%\n"})
    watcher.finished(state)
    watcher.close()
    return client_of(folder / "s"), run


def test_a_failed_training_is_shown_as_far_as_it_came(failed):
    client, run = failed
    page = client.get(f"/runs/{run.id}")
    assert page.status_code == 200
    seen = parse(page.text)
    assert "script" not in {name for name, attributes in seen.elements if "src" not in attributes}, "what a model writes is text"
    drawn = re.findall(r"<title>(Language\d\d)</title>", page.text)
    assert drawn == LANGUAGES[:1:-1], "ten lines, of the languages with most held-out tokens"
    rows = client.get(f"/runs/{run.id}?format=csv&table=heldout_train_model").text.splitlines()
    assert rows[0] == "language,tokens,first,last,change"
    assert [row.split(",")[0] for row in rows[1:]] == LANGUAGES[::-1]
    assert [float(cell) for cell in rows[1].split(",")[1:]] == pytest.approx([1200, 3.9, 1.9, -2])
    assert f"{EVIL}300" in seen.text
    assert page.text.count('<mark class="written"') > 8
    assert list(re.findall(r"<h4>(?:the document|step \d+)", page.text)) == [
        "<h4>the document", "<h4>step 300", "<h4>step 200", "<h4>step 100",
    ] * 2  # fmt: skip
    assert f"/documents/{'ab' * 16}" in page.text
    everything = client.get(f"/runs/{run.id}?format=parquet&table=samples_train_model")
    assert everything.status_code == 200


def test_the_log_of_a_failed_step_is_open_plain_and_escaped(failed):
    client, run = failed
    seen = parse(client.get(f"/runs/{run.id}").text)
    (log,) = [attributes for name, attributes in seen.elements if name == "details" and attributes.get("class") == "log"]
    assert "open" in log
    assert f"Traceback: {EVIL} 100% " in seen.text
    assert "10% 100%" not in seen.text
    assert "the trainer failed after step 300 " in seen.text
    assert "boom" not in seen.text, "what is in the log is not said twice"
    assert "→ fix the error" in seen.text
    rows = {row["name"]: row for row in client.get(f"/runs/{run.id}/now?format=json").json()["steps"]}
    assert rows["train_model"]["log"] == [f"Traceback: {EVIL}", "100%"]
    assert (rows["train_model"]["status"], rows["train_model"]["done"], rows["ingest"]["log"]) == ("failed", 300, [])


def test_samples_are_sent_once_and_again_when_there_are_new_ones(failed):
    client, run = failed
    with client.stream("GET", f"/runs/{run.id}/events") as answer:
        events = [line for line in answer.iter_lines() if line]
    assert [line for line in events if line.startswith("event: ")] == ["event: samples", "event: now", "event: end"]
    html = json.loads(next(line for line in events if line.startswith("data: ")).removeprefix("data: "))
    assert "step 300" in parse(html).text


# Why a step failed, wherever it ran


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_traceback_of_a_fault_reaches_the_page_from_a_worker_too(place, tmp_path, workers, capfd):
    _, recipe, _ = place
    prepared = prepare(Request(str(recipe), (), str(tmp_path / "s"), until="license_filter"))
    (stage,) = [step for step in prepared.plan.steps if step.name == "license_filter"]
    stage.config.__dict__["allow_classes"] = 7  # what no recipe can say: a fault in the stage
    with pytest.raises(StageError, match="license_filter failed on part"):
        execute(prepared, NoWatcher(), workers=workers)
    store = Store.open(str(tmp_path / "s"))
    run = store.run("latest")
    (row,) = [row for row in watched(store, run) if row["name"] == "license_filter"]
    assert row["status"] == "failed"
    assert row["log"][0] == "Traceback (most recent call last):"
    assert any("tasks/license_filter.py" in line for line in row["log"])
    assert row["log"][-1].startswith("license_filter failed on part")
    page = parse(client_of(tmp_path / "s").get(f"/runs/{run.id}").text)
    assert "Traceback (most recent call last):" in page.text
    assert "Traceback" in capfd.readouterr().err


def test_a_run_that_succeeds_leaves_no_log(place, tmp_path):
    _, recipe, _ = place
    run = run_recipe(recipe, tmp_path / "s", until="license_filter")
    assert progress(Store.open(str(tmp_path / "s")), run.id) is None


@pytest.mark.parametrize(
    ("printed", "left"),
    [
        ("plain", ["plain"]),
        ("\x1b[1;31mred\x1b[0m and \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", ["red and link"]),
        ("\x1b]0;title\x07x", ["x"]),
        ("1%\r2%\r3%\r\n\nnext\r\n", ["3%", "next"]),
        ("bell\x07 null\x00 c1\x9b31m", ["bell null c131m"]),
        ("\x1b]never ends", []),
        ("\tindented", ["\tindented"]),
    ],
)
def test_a_log_is_what_a_terminal_would_leave(printed, left):
    assert plain_lines(printed) == left


def test_a_log_and_a_series_are_bounded(tmp_path, monkeypatch):
    store = Store.open(str(tmp_path / "s"))
    watcher = Live(NoWatcher(), store, "one")
    for number in range(1000):
        watcher.appended("s", "log", {"text": f"{number} " + "x" * 10_000})
        watcher.appended("s", "heldout", heldout(number))
    monkeypatch.setattr(live, "WRITE_SECONDS", 0)
    watcher.progressed("s", 1, 2, "steps", {})
    told = progress(store, "one")["steps"]["s"]
    assert [line.split()[0] for line in told["log"]] == [str(number) for number in range(968, 1000)]
    assert max(map(len, told["log"])) == live.LOG_WIDTH
    assert sum(map(len, told["log"])) == live.LOG_CHARACTERS
    watcher.appended("s", "log", {"text": "x\n" * 500})
    watcher.progressed("s", 1, 2, "steps", {})
    assert progress(store, "one")["steps"]["s"]["log"] == ["x"] * live.LOG_LINES
    kept = [entry["step"] for entry in told["series"]["heldout"]]
    assert len(json.dumps(told["series"]["heldout"])) <= live.SERIES_BYTES
    assert kept == sorted(kept)
    assert (kept[-1], len(kept) > 20, kept[0] < 100) == (999, True, True)


def test_languages_that_come_late_have_lines_too():
    late = {"step": 2, "losses": {"all": 1.0, "Zig": 2.0}, "tokens": {"all": 9, "Zig": 5}}
    training = Training("t", [], [heldout(1), late], [])
    assert training.languages[-1] == "Zig"
    assert training.of_language("Zig") == [(2, 2.0)]
    assert len(training.lines_by_language) == DRAWN_LANGUAGES
