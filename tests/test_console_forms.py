"""Fields of a form: what stands in them is what the recipe has, and what is filled in is what was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.console.forms import Field, groups_of, parameters_of, query_of
from starloom.flows.forms import EMPTIED, RESERVED, request_of, schema_of
from starloom.flows.plan import make_plan
from starloom.flows.recipe import load
from starloom.lineage.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def plan(request):
    return make_plan(load(request.param))


def test_a_form_that_is_sent_as_it_stands_changes_nothing(plan):
    groups = groups_of(schema_of(plan))
    assert [group.name for group in groups] == [*(step.name for step in plan.recipe.steps), "run"]
    form = {field.name: [field.text(field.default)] for group in groups for field in group.fields if field.name != "force"}
    assert parameters_of(groups, form) == {}
    assert parameters_of(groups, {}) == {}


def test_every_knob_is_a_field_with_its_sentence(plan):
    fields = {field.name: field for group in groups_of(schema_of(plan)) for field in group.fields}
    for step in plan.recipe.steps:
        for knob, one in type(step.config).model_fields.items():
            if knob != "hash_key":
                assert fields[f"{step.name}.{knob}"].sentence == one.description
    assert set(RESERVED) - {EMPTIED} <= fields.keys(), "here a field that is emptied is sent as null"
    assert EMPTIED not in fields


CHANGED = {
    "near_dedup.threshold": ("0.85", 0.85),
    "near_dedup.words": ("ascii", "ascii"),
    "near_dedup.survivor": ('["stars desc", {"source": ["a: b", "c#d"]}]', ["stars desc", {"source": ["a: b", "c#d"]}]),
    "near_dedup.drop_from": ("[]", None),
    "pack_fim.fim_rate": ("1e-7", 1e-7),
    "train_model.attend_across_documents": ("false", False),
    "train_model.lora": ("{rank: 8}", {"rank": 8}),
    "ingest.sources": ("[{kind: directory, path: 'ä \"b\"', name: x}]", [{"kind": "directory", "path": 'ä "b"', "name": "x"}]),
    "until": ("encode", "encode"),
    "workers": ("7", 7),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_is_filled_in_is_what_was_meant(name):
    groups = groups_of(schema_of(make_plan(load(CONF / "demo.yaml"))))
    text, value = CHANGED[name]
    step, _, knob = name.partition(".")
    expected = {} if value is None else {step: {knob: value}} if knob else {name: value}
    found = parameters_of(groups, {name: [text]})
    assert found == expected
    again = parameters_of(groups, {field: [text] if isinstance(text, str) else text for field, text in query_of(groups, found).items()})
    assert again == found, "the address of a form gives the form back"


def test_steps_to_rerun_are_a_list():
    groups = groups_of(schema_of(make_plan(load(CONF / "demo.yaml"))))
    assert parameters_of(groups, {"force": ["encode", "pack_fim"]}) == {"force": ["encode", "pack_fim"]}
    assert query_of(groups, {"force": ["encode", "pack_fim"]}) == {"force": ["encode", "pack_fim"]}


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"near_dedup.threshold": ["high"]}, "near_dedup.threshold: 'high' is not a number"),
        ({"near_dedup.survivor": ["[a"]}, "near_dedup.survivor: '[a' is not a YAML value"),
        ({"near_dedup.threshold": ["yes"]}, "near_dedup.threshold: 'yes' is not a number"),
        ({"near_dedup.threshold": ["2020-01-01"]}, "is neither text nor a number"),
        ({"near_dedup.threshold": [".inf"]}, "is neither text nor a number"),
        ({"workers": ["[1]"]}, "workers: '[1]' is not a number"),
        ({"ingest.sources": ["&a [*a]"]}, "an alias (*) has no place in a form"),
        ({"ingest.sources": ["!!binary aGk="]}, "is neither text nor a number"),
        ({"ingest.sources": ["{1: 2}"]}, "a key is not text"),
        ({"ingest.sources": ["[" * 3000]}, "is not a YAML value"),
        ({"ingest.sources": ["a" * 30_000]}, "30,000 characters are too many for a form"),
        ({"near_dedup.treshold": ["0.8"]}, "the form has no field 'near_dedup.treshold'"),
    ],
)
def test_what_is_no_value_is_refused_by_its_field(form, problem):
    groups = groups_of(schema_of(make_plan(load(CONF / "demo.yaml"))))
    with pytest.raises(ConfigError) as told:
        parameters_of(groups, form)
    assert problem in told.value.message


@given(JSON)
def test_any_value_stands_in_its_field_and_is_read_back(value):
    field = Field("a.b", "b", "", "value", None, is_optional=True)
    assert field.parse(field.text(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63))
def test_any_number_stands_in_its_field_and_is_read_back(value):
    field = Field("a.b", "b", "", "number", 0)
    assert field.parse(field.text(value)) == value


@given(st.dictionaries(st.sampled_from(["threshold", "ngram"]), st.floats(0.01, 1) | st.integers(1, 256), min_size=1))
def test_the_settings_of_a_run_are_its_parameters_again(knobs):
    plan = make_plan(load(CONF / "demo.yaml"))
    request, _ = request_of(plan, {"near_dedup": knobs}, None)
    told = {setting.partition("=")[0]: json.loads(setting.partition("=")[2]) for setting in request.settings}
    before = {"near_dedup.threshold": 0.7, "near_dedup.ngram": 5}
    assert {**before, **told} == {**before, **{f"near_dedup.{name}": value for name, value in knobs.items()}}
