"""Recipes: what is refused, with which words."""

import re

import pytest
import yaml

from starloom.flows.plan import below, make_plan
from starloom.flows.recipe import load
from starloom.flows.run import Request, prepare
from starloom.lineage.errors import ConfigError


def recipe(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


INGEST = "- ingest: {sources: [{kind: directory, path: .}]}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages:\n- ingest\n- nearDedup\n", r"line 3: there is no stage 'nearDedup'(?s:.*)did you mean 'near_dedup'"),
        ("stages:\n- ingest\n- near_dedup: {treshold: 0.6}\n", r"line 3: near_dedup has no knob 'treshold'(?s:.*)did you mean 'threshold'"),
        ("stages:\n- ingest\n- near_dedup:\n    threshold: 1.5\n", r"line 4: near_dedup.threshold 1.5: .*less than or equal to 1"),
        ("stages:\n- ingest\n- near_dedup: {threshold: high}\n", r"line 3: near_dedup.threshold 'high': .*number"),
        ("stages:\n- ingest:\n  bad: [\n", r"line \d+: "),
        ("stages:\n  - ingest: {a: 1\n", r"line \d: "),
        ("name: x\nname: y\nstages: [ingest]\n", r"line 2: 'name' is given twice"),
        ("name: x\n", r"a recipe is a mapping with a list of `stages`"),
        ("stages: [ingest]\nstagez: []\n", r"line 2: a recipe has no 'stagez'(?s:.*)did you mean 'stages'"),
        ("stages:\n- ingest\n- exact_dedup\n- exact_dedup\n", r"line 4: two steps have the name 'exact_dedup'(?s:.*)as:"),
        ("stages:\n- ingest\n- exact_dedup: 3\n", r"line 3: the knobs of exact_dedup must be a mapping, not 3"),
        ("stages:\n- 7\n", r"line 2: 7 is not a stage"),
        ("stages:\n- ingest: {}\n  exact_dedup: {}\n", r"line 2: one stage a line, found ingest, exact_dedup"),
        ("name: [x]\nstages: [ingest]\n", r"line 1: `name` must be a string, not \['x'\]"),
        ("store: 5\nstages: [ingest]\n", r"line 1: `store` must be a string, not 5"),
        ("stages:\n- ingest: {}\n  as: [a]\n", r"line 3: \['a'\] is not a valid step name"),
        ("stages:\n- ingest: {}\n  as: ../b\n", r"line 3: '../b' is not a valid step name"),
        ("stages:\n- ingest\n- exact_dedup: {}\n  from: [q]\n", r"line 4: `from` must name a step or map inputs to steps, not \['q'\]"),
        ("stages:\n- ingest\n- exact_dedup: {}\n  from: {dcos: ingest}\n", r"line 4: exact_dedup has no input 'dcos'(?s:.*)'docs'"),
        ("stages:\n- ingest\n- exact_dedup: {}\n  from: {docs: null}\n", r"line 4: exact_dedup requires the input docs"),
        ("stages:\n- ingest\n- exact_dedup: {}\n  from: {'*': null}\n", r"line 4: exact_dedup requires the input \*"),
        ("stages:\n- ingest: &a {x: *a}\n", r"line 2: nested more than 50 levels deep"),
        ("stages:\n- ingest: {? [1, 2] : 3}\n", r"line 2: a key must be a string"),
        ("stages:\n- ingest\n- \u0001\n", r"line 3: special characters are not allowed \(#x0001\)"),
        ("stages:\n- ingest: {sources: [{kind: directory,\n  pth: .}]}\n", r"line 3: ingest has no knob 'sources.0.pth'"),
        ("stages:\n- ingest: {sources: [{kind: directory,\n  path: 5}]}\n", r"line 3: ingest.sources.0.path 5: "),
    ],
)
def test_a_bad_recipe_names_the_line_the_word_and_the_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read"):
        load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("near_dedup.threshold", "not of the form"),
        ("near_dedup=1", "not of the form"),
        ("stages=[]", "not of the form step.knob=value; of the recipe's own, name, seed, store can be set"),
        ("seed=yes", "^--set seed: `seed` must be a whole number, not True"),
        ("seed='7'", "^--set seed: `seed` must be a whole number, not '7'"),
        ("name=", "^--set name: `name` must be a string, not None"),
        ("store=5", "^--set store: `store` must be a string, not 5"),
        ("near_dedup.seed=2020-13-45", "not a YAML value"),
        ("neardedup.threshold=1", r"no step 'neardedup'(?s:.*)did you mean 'near_dedup'"),
        ("near_dedup.treshold=1", r"no knob 'treshold'(?s:.*)did you mean 'threshold'"),
        ("near_dedup.threshold=[", "not a YAML value"),
        ("near_dedup..threshold=1", "not of the form"),
        ("quality_filter.rules=5", "^--set quality_filter.rules: quality_filter.rules 5: Input should be 'starcoder' or"),
        ("near_dedup.threshold=7", "^--set near_dedup.threshold: near_dedup.threshold 7: "),
        ("ingest.sources.3.path=.", "^--set ingest.sources.3.path: the list has 1 items, counted from 0, and no item '3'"),
        ("ingest.sources.x.path=.", "and no item 'x'"),
        ("ingest.sources.0.pth=.", r"^--set ingest.sources.0.pth: ingest has no knob 'sources.0.pth'"),
        ("train_model.betas=[0.9]", r"^--set train_model.betas: train_model.betas.1 \[0.9\]: Field required"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        load(recipe(tmp_path, f"stages:\n{INGEST}- quality_filter\n- near_dedup\n- train_model\n"), [setting])


def test_settings_reach_nested_knobs_and_the_seed_every_stage_that_has_one(tmp_path):
    found = load(recipe(tmp_path, f"seed: 7\nstages:\n{INGEST}- near_dedup\n"), ["near_dedup.threshold=0.9", "ingest.sources.0.name=here"])
    ingest, near_dedup = (step.config.model_dump() for step in found.steps)
    assert (near_dedup["threshold"], near_dedup["seed"]) == (0.9, 7)
    assert ingest["sources"][0]["name"] == "here"


def test_a_step_reads_the_nearest_of_its_type_above_it(tmp_path):
    plan = make_plan(load(recipe(tmp_path, f"stages:\n{INGEST}- exact_dedup\n- near_dedup\n- redact_pii\n")))
    assert {step.name: step.wiring for step in plan.steps} == {
        "ingest": {},
        "exact_dedup": {"docs": "ingest"},
        "near_dedup.signatures": {"docs": "exact_dedup"},
        "near_dedup": {"docs": "exact_dedup", "signatures": "near_dedup.signatures"},
        "redact_pii": {"docs": "near_dedup"},
    }
    assert below(plan, "near_dedup") == {"near_dedup.signatures", "near_dedup", "redact_pii"}


def test_from_and_as_override_the_wiring(tmp_path):
    text = f"stages:\n{INGEST}- exact_dedup\n- exact_dedup: {{}}\n  as: again\n  from: ingest\n"
    plan = make_plan(load(recipe(tmp_path, text)))
    assert plan.step("again").wiring == {"docs": "ingest"}


def test_an_optional_input_can_be_left_out_though_a_step_above_writes_it(tmp_path):
    stages = INGEST + "- license_filter\n- license_gate\n- near_dedup: {}\n  from: {licenses: null}\n- exact_dedup: {}\n"
    plan = make_plan(load(recipe(tmp_path, f"stages:\n{stages}")))
    assert "licenses" not in plan.step("near_dedup").wiring
    assert plan.step("exact_dedup").wiring["licenses"] == "license_filter"


def test_until_cuts_the_plan_and_knows_its_steps(tmp_path):
    found = load(recipe(tmp_path, f"stages:\n{INGEST}- exact_dedup\n- near_dedup\n"))
    assert [step.name for step in make_plan(found, until="exact_dedup").steps] == ["ingest", "exact_dedup"]
    with pytest.raises(ConfigError, match=r"no step 'exact'(?s:.*)did you mean 'exact_dedup'"):
        make_plan(found, until="exact")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages:\n- exact_dedup\n", "exact_dedup reads Docs, and no step above it writes that"),
        (f"stages:\n{INGEST}- exact_dedup: {{}}\n  from: near\n", "takes docs from 'near', which is not a step above it"),
        (f"stages:\n{INGEST}- train_tokenizer\n- exact_dedup: {{}}\n  from: {{docs: train_tokenizer}}\n", "which does not write it"),
    ],
)
def test_wiring_that_cannot_be_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(load(recipe(tmp_path, text)))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("near_dedup: {num_perm: yes}", "near_dedup.num_perm True: Input should be a valid integer"),
        ("near_dedup: {threshold: yes}", "near_dedup.threshold True: Input should be a valid number"),
        ("near_dedup: {threshold: '0.7'}", "near_dedup.threshold '0.7': Input should be a valid number"),
        ("near_dedup: {num_perm: 256.0}", "near_dedup.num_perm 256.0: Input should be a valid integer"),
        ("near_dedup: {threshold: .nan}", "near_dedup.threshold nan: "),
        ("near_dedup: {seed: no}", "near_dedup.seed False: Input should be a valid integer"),
        ("pack_fim: {mixture: {weights: {C: yes}}}", "pack_fim.mixture.weights.C True: Input should be a valid number"),
        ("evaluate: {k: [yes]}", "evaluate.k.0 True: Input should be a valid integer"),
        ("train_model: {lora: {rank: yes}}", "train_model.lora.rank True: Input should be a valid integer"),
        ("train_model: {betas: [0.9, '0.95']}", "train_model.betas.1 '0.95': Input should be a valid number"),
        ("train_model: {attend_across_documents: 1}", "train_model.attend_across_documents 1: Input should be a valid boolean"),
        ("quality_filter: {more_rules: [{signal: num_lines, min: 9, max: 3}]}", "quality_filter.more_rules.0: the rule on num_lines"),
    ],
)
def test_a_number_is_a_number_and_a_rule_leaves_something(tmp_path, knobs, message):
    with pytest.raises(ConfigError, match=r"line \d+: " + re.escape(message)):
        load(recipe(tmp_path, f"stages:\n{INGEST}- {knobs}\n"))


def test_numbers_as_yaml_has_them(tmp_path):
    step = load(
        recipe(tmp_path, f"stages:\n{INGEST}- train_model: {{learning_rate: 1e-4, min_learning_rate: 0, warmup_steps: 0}}\n")
    ).steps[1]
    knobs = step.config.model_dump()
    assert (knobs["learning_rate"], knobs["min_learning_rate"]) == (1e-4, 0.0)


def test_merge_keys_mean_what_they_mean_in_yaml(tmp_path):
    text = f"""stages:
{INGEST}- near_dedup: &knobs {{threshold: 0.7, num_perm: 128}}
- near_dedup:
    <<: *knobs
    num_perm: 64
  as: second
- near_dedup:
    threshold: 0.9
    <<: [{{ngram: 3}}, *knobs, {{ngram: 7, seed: 9}}]
  as: third
"""
    steps = load(recipe(tmp_path, text)).steps
    documents = yaml.safe_load(text)["stages"]
    for step, document in zip(steps[1:], documents[1:], strict=True):
        given = {name: getattr(step.config, name) for name in document["near_dedup"]}
        assert given == document["near_dedup"], "as PyYAML reads it"
    second, third = (step.config.model_dump() for step in steps[2:])
    assert (second["threshold"], second["num_perm"], third["ngram"], third["seed"]) == (0.7, 64, 3, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- near_dedup:\n    <<: 5\n", "line 4: `<<` merges mappings"),
        ("- near_dedup:\n    <<: [5]\n", "line 4: `<<` merges mappings"),
        ("- near_dedup: &a {<<: *a}\n", "line 3: nested more than 50 levels deep"),
        ("- near_dedup: &a {treshold: 1}\n- near_dedup: {<<: *a}\n  as: b\n", "line 3: near_dedup has no knob 'treshold'"),
        ("- near_dedup: {seed: 2020-13-45}\n", "line 3: '2020-13-45': month must be in 1..12"),
    ],
)
def test_what_cannot_be_merged_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(recipe(tmp_path, f"stages:\n{INGEST}{text}"))


def test_the_recipes_own_keys_can_be_set(tmp_path):
    path = recipe(tmp_path, f"name: old\nseed: 1\nstages:\n{INGEST}- near_dedup\n- exact_dedup\n- train_tokenizer\n- encode: {{seed: 3}}\n")
    changed = load(path, ["seed=7", "name=new", "store=elsewhere", "near_dedup.seed=9"])
    assert (changed.name, changed.store) == ("new", "elsewhere")
    seeds = {step.name: step.config.seed for step in changed.steps if hasattr(step.config, "seed")}
    assert seeds | {"ingest": 7, "near_dedup": 9, "encode": 3} == seeds
    prepared = prepare(Request(str(path), ("store=elsewhere", "seed=7")))
    assert prepared.store.url == str(tmp_path / "elsewhere")
    assert prepare(Request(str(path), ("store=elsewhere",), store=str(tmp_path / "named"))).store.url == str(tmp_path / "named")


@pytest.mark.parametrize("seed", ["yes", "'7'", "1.5", "[1]"])
def test_a_seed_is_a_whole_number(tmp_path, seed):
    with pytest.raises(ConfigError, match="line 1: `seed` must be a whole number"):
        load(recipe(tmp_path, f"seed: {seed}\nstages:\n{INGEST}"))


TRAINING = "- train_tokenizer\n- encode\n- pack_fim: {sequence_length: 256}\n"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("- train_model: {lora: {rank: 4}}\n", "train_model.lora adapts a trained network, and no step above train_model writes"),
        ("- train_model: {preset: finetune, num_steps: 9, batch_sequences: 8}\n  as: tuned\n", "tuned.context_tokens, tuned.num_layers,"),
        ("- train_model: {context_tokens: 128}\n", "packed sequences have 256 tokens, and this network reads 2 to 128"),
        ("- train_model\n- evaluate\n", "evaluate.max_new_tokens is 256, which leaves no room for a prompt in the model's context of 256"),
        ("- train_model\n- evaluate: {infill_max_new_tokens: 255, benchmarks: []}\n  as: asked\n", "asked.infill_max_new_tokens is 255"),
    ],
)
def test_what_the_steps_above_can_never_give_is_refused_in_the_plan(tmp_path, stages, message):
    loaded = load(recipe(tmp_path, f"stages:\n{INGEST}{TRAINING}{stages}"))
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_plan(loaded)
    assert make_plan(loaded, until="pack_fim")
