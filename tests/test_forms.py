"""A recipe's knobs as a form: the schema is what the classes say, with the recipe's values; what is filled in is what runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from starloom.flows.deploying import plans_of
from starloom.flows.forms import RESERVED, knobs_of, request_of, schema_of
from starloom.flows.plan import make_plan
from starloom.flows.recipe import load
from starloom.lineage.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
RECIPES = sorted(CONF.glob("*.yaml"))
pytestmark = pytest.mark.filterwarnings("ignore")  # jsonschema's own


def plan_of(path, *settings):
    return make_plan(load(path, list(settings)))


def problems(schema, parameters):
    from prefect.utilities.schema_tools.validation import validate

    return [error.message for error in validate(parameters, schema, raise_on_error=False)]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def plan(request):
    return plan_of(request.param)


def test_each_step_is_a_group_of_its_knobs_with_the_values_of_the_recipe(plan):
    schema = schema_of(plan)
    assert list(schema["properties"]) == [*(step.name for step in plan.recipe.steps), *RESERVED]
    for step in plan.recipe.steps:
        group = schema["properties"][step.name]
        fields = {name: field for name, field in type(step.config).model_fields.items() if name != "hash_key"}
        assert list(group["properties"]) == list(fields)
        for name, field in fields.items():
            shown = group["properties"][name]
            assert shown["default"] == knobs_of(step)[name]
            assert shown["description"] == field.description
    names = [step.name for step in plan.steps]
    assert schema["properties"]["from"]["anyOf"][0]["enum"] == schema["properties"]["force"]["items"]["enum"] == names


def test_it_is_a_schema_that_takes_its_own_defaults_and_refers_to_nothing_else(plan):
    import jsonschema  # type: ignore[import-untyped]  # ships no types

    schema = schema_of(plan)
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    filled = {
        name: {knob: one["default"] for knob, one in group["properties"].items()}
        for name, group in schema["properties"].items()
        if "properties" in group
    }
    filled |= {name: schema["properties"][name]["default"] for name in RESERVED}
    assert problems(schema, filled) == []
    assert problems(schema, {}) == []
    request, workers = request_of(plan, filled, None)
    assert (request.settings, request.start, request.until, request.force) == ((), None, None, ())
    assert workers >= 1
    assert plan_of(plan.recipe.path, *request.settings).recipe == plan.recipe
    assert set(references(schema)) <= {f"#/definitions/{name}" for name in schema["definitions"]}


def references(schema):
    if isinstance(schema, dict):
        found = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return found + [one for value in schema.values() for one in references(value)]
    return [one for value in schema for one in references(value)] if isinstance(schema, list) else []


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"near_dedup": {"threshold": "high"}}, "'high' is not of type 'number'"),
        ({"near_dedup": {"threshold": 2}}, "2 is greater than the maximum of 1"),
        ({"near_dedup": {"treshold": 0.8}}, "'treshold' was unexpected"),
        ({"near_dedup": {"words": "latin"}}, "'latin' is not one of ['ascii', 'unicode', 'runs']"),
        ({"near_dup": {}}, "'near_dup' was unexpected"),
        ({"workers": 0}, "0 is less than the minimum of 1"),
        ({"until": "the end"}, "is not valid under any of the given schemas"),
        ({"force": ["the end"]}, "is not one of"),
        ({"executor": "dusk"}, "'dusk' is not one of ['local']"),
        ({"ingest": {"sources": [{"kind": "directory"}]}}, "is not valid under any of the given schemas"),
    ],
)
def test_what_does_not_fit_is_refused_before_there_is_a_run(parameters, problem):
    (found, *_) = problems(schema_of(plan_of(CONF / "demo.yaml")), parameters)
    assert problem in found


def test_what_is_filled_in_is_what_runs():
    plan = plan_of(CONF / "demo.yaml")
    filled = {
        "near_dedup": {"threshold": 0.8, "words": "unicode", "survivor": [{"source": ["a"]}, "stars desc"]},
        "pack_fim": {"fim_rate": 1e-7},
        "ingest": {"sources": [{"kind": "directory", "path": "/somewhere", "name": "a"}]},
        "train_model": {"weight_decay": 5e-05, "lora": None},
        "from": "pack_fim",
        "until": "train_model",
        "force": ["encode"],
        "workers": 3,
    }
    request, workers = request_of(plan, filled, "elsewhere")
    again = plan_of(plan.recipe.path, *request.settings)
    assert workers == 3
    assert (request.start, request.until, request.force, request.store) == ("pack_fim", "train_model", ("encode",), "elsewhere")
    before, after = ({step.name: knobs_of(step) for step in each.recipe.steps} for each in (plan, again))
    changed = {(name, knob) for name in after for knob in after[name] if after[name][knob] != before[name][knob]}
    expected = {
        ("near_dedup", "threshold"),
        ("near_dedup", "survivor"),
        ("pack_fim", "fim_rate"),
        ("ingest", "sources"),
        ("train_model", "weight_decay"),
    }
    assert changed == expected
    assert after["pack_fim"]["fim_rate"] == 1e-7
    assert after["train_model"]["weight_decay"] == 5e-05


@pytest.mark.parametrize("text", ["x😀", "ä: # '\"", "a\x7fb\x85c\u2028d\ufeff", "two\nlines", "", "null", "1e-7", "<script>"])
def test_any_text_reaches_its_knob_as_it_is(text):
    plan = plan_of(CONF / "demo.yaml")
    sources = [{"kind": "directory", "path": "/somewhere", "name": text or "a", "holds": "auto"}]
    request, _ = request_of(plan, {"ingest": {"sources": sources}}, None)
    (step,) = [step for step in plan_of(plan.recipe.path, *request.settings).recipe.steps if step.name == "ingest"]
    assert step.config.sources[0].name == (text or "a")


@pytest.mark.parametrize("parameters", [{"workers": 0}, {"workers": True}, {"workers": "2"}, {"workers": 2.5}, {"executor": "dusk"}])
def test_workers_and_executors_that_cannot_be_are_refused_in_the_plan_too(parameters):
    with pytest.raises(ConfigError, match=r"workers is|no executor"):
        request_of(plan_of(CONF / "demo.yaml"), parameters, None)


@pytest.mark.parametrize(
    "parameters",
    [
        {"from": 3},
        {"until": ["encode"]},
        {"force": "encode"},
        {"force": 3},
        {"force": [None]},
        {"emptied": "zero"},
        {"emptied": None},
        {"emptied": []},
        {"executor": {}},
        {"workers": None},
        {"near_dedup": None},
        {"near_dedup": ["threshold"]},
    ],
)
def test_what_a_server_that_checks_nothing_would_let_through_is_refused_in_words(parameters):
    """A run that is made with `enforce_parameter_schema: false`, as Prefect's form can."""
    with pytest.raises(ConfigError) as told:
        request_of(plan_of(CONF / "demo.yaml"), parameters, None)
    assert next(iter(parameters)) in told.value.message


@pytest.mark.parametrize(
    "knobs",
    [
        {"threshold": 10**5000},
        {"threshold": 1e308},
        {"threshold": float("nan")},
        {"survivor": json.loads("[" * 900 + "]" * 900)},
        {"threshold": "x" * 10**6},
        {"treshold": 1},
        {"a=b": 1},
        {"": 1},
        {"a.b": 1},
    ],
)
def test_enormous_values_and_knobs_that_are_not_there_end_in_a_typed_error(knobs):
    plan = plan_of(CONF / "demo.yaml")
    with pytest.raises(ConfigError) as told:
        plan_of(plan.recipe.path, *request_of(plan, {"near_dedup": knobs}, None)[0].settings)
    assert len(str(told.value)) < 3000


@pytest.mark.parametrize("name", ["a/b", "test?2", "..", "a#b", "a<b", "a\nb"])
def test_a_name_that_no_deployment_can_have_is_refused(tmp_path, name):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"name": name, "stages": ["ingest"]}))
    with pytest.raises(ConfigError, match="a deployment cannot be named"):
        plans_of([recipe])


def test_a_secret_is_in_no_form():
    for path in RECIPES:
        assert "hash_key" not in json.dumps(schema_of(plan_of(path)))


def test_a_step_with_the_name_of_a_parameter_is_refused(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"stages": [{"ingest": None, "as": "from"}]}))
    with pytest.raises(ConfigError, match="the step 'from' has the name of a parameter of the run"):
        schema_of(plan_of(recipe))


def test_parameters_of_no_step_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="has no step 'near_dup'") as told:
        request_of(plan_of(CONF / "demo.yaml"), {"near_dup": {}}, None)
    assert "near_dedup" in told.value.hint
    with pytest.raises(ConfigError, match="near_dedup must be a mapping of knobs, not 3"):
        request_of(plan_of(CONF / "demo.yaml"), {"near_dedup": 3}, None)
