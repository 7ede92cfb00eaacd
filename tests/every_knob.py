"""Two recipes of every stage there is: one with each knob as its class has it, one with each knob at another value that it may have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starloom.flows.plan import Plan, Step
from starloom.flows.recipe import load
from starloom.tasks.frame.stage import load_stage, stage_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TEXT = 'ä "b" # c'


def recipe_of(path: Path, settings: tuple[str, ...] = ()) -> Plan:
    """A plan of a recipe whose steps need not fit each other: what forms are made from."""
    recipe = load(path, list(settings))
    return Plan(recipe, tuple(Step(step.name, step.stage, step.config) for step in recipe.steps))


def write_usual(folder: Path) -> Path:
    """All stages, with nothing given but what must be."""
    given = _given(folder) | {"train_model": {"num_steps": 9, "batch_sequences": 16, "learning_rate": 0.004}}
    return _written(folder / "usual.yaml", {name: _needed(name, given.get(name, {})) for name in stage_names()})


def write_varied(folder: Path) -> Path:
    """All stages, with another value for each knob: a list where there was a word, a mapping where there was nothing."""
    given = _given(folder)
    return _written(folder / "varied.yaml", {name: _varied(name, given.get(name, {})) for name in stage_names()})


def _given(folder: Path) -> dict[str, dict[str, Any]]:
    """Values that no schema tells: files, ids, and knobs that need each other."""
    questions, rules = folder / "questions.jsonl", [{"signal": "num_chars", "min": 10, "max": None, "languages": ["Python"]}]
    (folder / "checkpoint").mkdir(exist_ok=True)
    for made in (questions, folder / "tokenizer.json", *(folder / "checkpoint" / name for name in ("config.json", "model.safetensors"))):
        made.touch()
    benchmarks = [{"name": TEXT, "path": str(questions)}]
    tokenizer = str(folder / "tokenizer.json")
    return {
        "decontaminate": {"benchmarks": [{**benchmarks[0], "format": "fields", "fields": ["a", "b"], "id_field": "id"}]},
        "evaluate": {"benchmarks": benchmarks},
        "import_checkpoint": {"checkpoint": str(folder / "checkpoint")},
        "ingest": {
            "sources": [
                {"kind": "python-environment", "name": "a", "prefix": None, "sample_bytes": 7, "exclude": ["x"]},
                {"kind": "directory", "name": "b", "path": str(folder), "holds": "repository"},
            ],
            "languages": ["Python"],
        },
        "license_filter": {"allow_classes": ["no-license", "permissive"], "allow": ["MPL-2.0"], "deny": ["MIT", "0BSD"]},
        "license_gate": {"allow_classes": ["unknown-license"]},
        "measure_tokenizer": {"compare_with": tokenizer},
        "near_dedup": {"bands": 3, "rows": 2, "clusters": "survivors", "keep": "best", "survivor": [{"source": ["a", "b"]}, "stars asc"]},
        "quality_filter": {
            "rules": rules,
            "rule_sets": ["santacoder_comments"],
            "more_rules": rules,
            "thresholds": {"num_chars:1": {"min": 20, "max": None}},
        },
        "train_model": {
            "num_steps": 7,
            "batch_sequences": 8,
            "learning_rate": 0.002,
            "min_learning_rate": 1e-05,
            "family": "starcoder2",
            "num_layers": 3,
            "width": 64,
            "num_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 5000.5,
            "sliding_window": 64,
            "checkpoint_every_steps": 2,
            "keep_every_steps": 4,
            "num_machines": 2,
            "machine_rank": 1,
            "main_process_ip": "10.0.0.1",
            "main_process_port": 29500,
            "preset": "small",
        },
        "train_tokenizer": {"existing": tokenizer},
    }


def _needed(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {knob: given[knob] for knob, field in load_stage(name).config.model_fields.items() if field.is_required()}


def _varied(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    schema = load_stage(name).config.model_json_schema()
    definitions = schema.get("$defs", {})
    shown = {knob: one for knob, one in schema["properties"].items() if knob != "hash_key"}
    return {knob: given[knob] if knob in given else another(one, definitions, one.get("default")) for knob, one in shown.items()}


def another(schema: Mapping[str, Any], definitions: Mapping[str, Any], value: Any) -> Any:
    """Return a value that a schema allows and that is another than `value`, if there is one."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    kinds = [one for one in schema.get("anyOf", schema.get("oneOf", [])) if one.get("type") != "null"]
    if kinds:
        return another(kinds[-1], definitions, value)
    if "const" in schema or "enum" in schema:
        return next((one for one in schema.get("enum", []) if one != value), schema.get("const", value))
    kind = schema.get("type")
    if kind in ("array", "object"):
        return _filled(schema, definitions, value)
    if kind in ("integer", "number"):
        return _number(schema, value, 1 if kind == "integer" else 0.125)
    return not value if kind == "boolean" else TEXT


def _filled(schema: Mapping[str, Any], definitions: Mapping[str, Any], value: Any) -> Any:
    if "prefixItems" in schema:
        return [another(one, definitions, each) for one, each in zip(schema["prefixItems"], value, strict=True)]
    if "items" in schema:
        return [another(schema["items"], definitions, None)]
    if "properties" in schema:
        inner = value or {}
        return {name: another(one, definitions, inner.get(name, one.get("default"))) for name, one in schema["properties"].items()}
    return {"Jupyter Notebook": another(schema["additionalProperties"], definitions, None)}


def _number(schema: Mapping[str, Any], value: Any, unit: float) -> Any:
    least = schema.get("minimum", schema["exclusiveMinimum"] + unit if "exclusiveMinimum" in schema else unit)
    most = schema.get("maximum", schema.get("exclusiveMaximum", float("inf")) - unit)
    kind = type(unit)
    return next(kind(one) for one in ((value or least) + unit, (value or least) / 2, least) if least <= one <= most and one != value)


def _written(path: Path, stages: dict[str, dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"name": path.stem, "stages": [{name: knobs} for name, knobs in stages.items()]}))
    return path
