"""What-if against the run that it stands for: the same documents kept, nothing written, and refusals that say what to do."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from starloom.cli import main
from starloom.cli.what_if import sparkline
from starloom.flows.what_if import Range, ask_sweep, ask_what_if, parse_range
from starloom.lineage.errors import ConfigError, InputError
from starloom.lineage.store import Store
from starloom.queries.rows import Rows
from tests.corpus import run_recipe, write_recipe
from tests.history import plant

pytestmark = pytest.mark.slow

STAGES = """\
- license_filter: {allow_classes: [permissive, no-license, unknown-license, non-permissive]}
- quality_filter: {rules: starcoder}
- near_dedup
- license_gate
- redact_pii
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("what-if")
    plant(folder / "repositories")
    for number, width in enumerate([5, 20, 28, 60]):
        (folder / "repositories" / "repo0" / "src" / f"wide{number}.py").write_text(f"x{number} = '" + "ab " * width + "'\n")
    (folder / "repositories" / "repo0" / "page.md").write_text("# words\n\n" + "some more of them " * 20 + "\n")
    made = write_recipe(folder / "recipe.yaml", folder / "repositories", STAGES)
    run_recipe(made, folder / ".starloom")
    return made


def kept(store: Store, run, step: str) -> dict[str, int]:
    """doc_id → size of what a step kept."""
    state, rows, found = run.step(step), Rows(store), {}
    docs = state.inputs["docs"]["artifact"]
    for part, table in rows.tables(state.outputs["Verdicts"]["artifact"], ["doc_id", "keep"]):
        sizes = rows.table(docs, part, ["size"]).column("size").to_pylist()
        found |= {row["doc_id"]: size for row, size in zip(table.to_pylist(), sizes, strict=True) if row["keep"]}
    return found


@pytest.mark.parametrize(
    "setting",
    [
        "quality_filter.thresholds.avg_line_length.max=66",
        "quality_filter.rules=[]",
        "quality_filter.rules=starcoder2",
        "quality_filter.more_rules=[{signal: duplicate_line_fraction, max: 0.0}, {signal: num_chars, min: 1500, languages: [Python]}]",
        "near_dedup.threshold=1.0",
        "license_filter.allow_classes=[permissive]",
        "license_gate.allow_classes=[non-permissive]",
    ],
)
def test_the_answer_is_what_a_run_with_it_would_keep(recipe, tmp_path, setting):
    step = setting.partition(".")[0]
    found = ask_what_if(recipe, [setting], None, None, limit=1000)
    store = Store.open(str(recipe.parent / ".starloom"))
    before = kept(store, store.run(found["run"]), step)
    after = kept(Store.open(str(tmp_path / "s")), run_recipe(recipe, tmp_path / "s", setting), step)
    for name, documents in {
        "now": before,
        "then": after,
        "newly_dropped": {name: size for name, size in before.items() if name not in after},
        "newly_kept": {name: size for name, size in after.items() if name not in before},
    }.items():
        assert found[name] == {"documents": len(documents), "bytes": sum(documents.values())}
        if name in found["examples"]:
            assert {row["doc_id"] for row in found["examples"][name]} == set(documents)
            assert sum(line[f"{name}_documents"] for line in found["languages"]) == len(documents)
    assert found["newly_dropped"]["documents"] + found["newly_kept"]["documents"] > 0


def test_an_example_tells_why_it_is_dropped_newly_or_until_now(recipe):
    strict = ask_what_if(recipe, ["quality_filter.thresholds.avg_line_length.max=66"], None, None)
    told = {(row["path"], row["rule"], row["value"], row["threshold"]) for row in strict["examples"]["newly_dropped"]}
    assert told == {("src/wide1.py", "avg-line-length", 67, 66), ("src/wide2.py", "avg-line-length", 91, 66)}
    lenient = ask_what_if(recipe, ["quality_filter.rules=[]"], None, None)
    assert {row["rule"] for row in lenient["examples"]["newly_kept"]} == {"avg-line-length", "max-line-length"}
    assert lenient["differs"] == [{"knob": "rules", "before": "starcoder", "after": []}]
    assert [line["step"] for line in lenient["reruns"]] == ["near_dedup.signatures", "near_dedup", "license_gate", "redact_pii"]
    assert 0 < lenient["changed_parts"] <= lenient["parts"]


def test_nothing_changes_where_the_knobs_change_nothing(recipe):
    found = ask_what_if(recipe, ["quality_filter.thresholds.avg_line_length.max=100"], None, None)
    assert (found["changed_parts"], found["reruns"], found["languages"]) == (0, [], [])
    assert found["now"] == found["then"]


def test_a_sweep_is_an_answer_for_each_value(recipe):
    across = parse_range("quality_filter.thresholds.avg_line_length.max=20..260:5")
    found = ask_sweep(recipe, across, [], None, None)
    assert [point["value"] for point in found["points"]] == [20, 80, 140, 200, 260]
    for point in found["points"]:
        one = ask_what_if(recipe, [f"{across.knob}={point['value']}"], None, None)
        assert {unit: point[unit] for unit in ("documents", "bytes")} == one["then"]
        assert point["documents_share"] == one["then"]["documents"] / one["seen"]["documents"]
        assert (point["newly_dropped"], point["newly_kept"]) == (one["newly_dropped"]["documents"], one["newly_kept"]["documents"])
    assert [point["documents"] for point in found["points"]] == sorted(point["documents"] for point in found["points"])


def test_nothing_is_written(recipe):
    def files():
        return sorted((str(path), path.stat().st_mtime_ns) for path in (recipe.parent / ".starloom").rglob("*"))

    before = files()
    for setting in ("quality_filter.rules=[]", "near_dedup.threshold=0.9", "license_gate.allow_classes=[no-license]"):
        ask_what_if(recipe, [setting], None, None)
    assert files() == before


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ([], "nothing is set", "--set quality_filter"),
        (["quality_filter.rules=[]", "near_dedup.threshold=0.9"], "of 2 steps", "of one step"),
        (["quality_filter.rule=[]"], "no knob 'rule'", "did you mean 'rules'"),
        (
            ["quality_filter.measure=[comments]"],
            "measure says what is measured",
            "can be answered: rules, rule_sets, more_rules, thresholds",
        ),
        (["near_dedup.ngram=7"], "near_dedup.ngram says what is measured", "threshold"),
        (["redact_pii.style=starcoder"], "judged no documents in its step 'redact_pii'", "known: license_filter"),
    ],
)
def test_what_cannot_be_answered_says_what_can(recipe, settings, message, hint):
    with pytest.raises((ConfigError, InputError), match=message) as refused:
        ask_what_if(recipe, settings, None, None)
    assert hint in f"{refused.value.hint} {refused.value}"


def test_a_recipe_that_was_not_run_is_to_be_run_first(recipe, tmp_path):
    other = write_recipe(tmp_path / "other.yaml", tmp_path / "repositories", STAGES)
    with pytest.raises(InputError, match="was not run yet") as refused:
        ask_what_if(other, ["quality_filter.rules=[]"], None, None)
    assert refused.value.hint == f"run it first: starloom run {other}"
    other.write_text(other.read_text().replace("name: test", "name: another"))
    with pytest.raises(InputError, match="holds no run of the recipe another that is done"):
        ask_what_if(other, ["quality_filter.rules=[]"], str(recipe.parent / ".starloom"), None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1..3", (1, 2, 3)),
        ("a.b=0..1:5", (0, 1)),
        ("a.b=0.0..1:5", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("a.b=5..1:3", (5, 3, 1)),
        ("a.b.c=-1.5..1.5:2", (-1.5, 1.5)),
    ],
)
def test_a_range_is_parsed(text, values):
    assert parse_range(text) == Range(text.partition("=")[0], values)


@pytest.mark.parametrize(
    "text", ["a.b", "a.b=1", "a.b=1..x", "a.b=1..2:1", "a.b=1..2:x", "a.b=1..2:9999", "=1..2", "a.b=1..inf", "a.b=1..nan"]
)
def test_a_range_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match="not of the form"):
        parse_range(text)


def test_the_command_prints_json_draws_and_proposes(recipe, capsys, tmp_path):
    assert main(["what-if", str(recipe), "--set", "quality_filter.rules=[]"]) == 0
    told = capsys.readouterr().out
    assert "newly kept" in told
    assert f"next: starloom run {recipe} --set 'quality_filter.rules=[]'" in told
    assert main(["what-if", str(recipe), "--json", "--set", "quality_filter.rules=[]"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "what-if"
    words = ["what-if", str(recipe), "--sweep", "quality_filter.thresholds.avg_line_length.max=20..260:5", "--svg", str(tmp_path / "s.svg")]
    assert main(words) == 0
    assert "█" in capsys.readouterr().out
    drawn = ElementTree.parse(tmp_path / "s.svg").getroot()
    assert len([line for line in drawn if line.tag.endswith("polyline") and len(line.get("points").split()) == 5]) == 2
    assert main(["what-if", str(recipe), "--svg", "x.svg", "--set", "quality_filter.rules=[]"]) == 2
    assert "add --sweep" in capsys.readouterr().err


def test_a_sparkline_goes_from_the_least_to_the_greatest():
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([3, 3]) == "▁▁"
