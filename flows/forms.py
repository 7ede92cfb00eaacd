"""The knobs of a recipe as a form: a JSON schema of its steps, and what was filled in as the request of a run.

Prefect's page and the console show the same schema, made from the config classes: type, limits, choices and sentence of a knob are
written there once. The defaults are those of the recipe, not those of the class.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from starloom.flows.run import Request
from starloom.lineage.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starloom.flows.plan import Plan
    from starloom.flows.recipe import RecipeStep
    from starloom.tasks.frame.stage import Config

FROM, UNTIL, FORCE, WORKERS, EXECUTOR, EMPTIED = "from", "until", "force", "workers", "executor", "emptied"
RESERVED = (FROM, UNTIL, FORCE, WORKERS, EXECUTOR, EMPTIED)
"""Parameters beside the steps of a recipe."""
NONE, AS_IN_RECIPE = "none", "recipe"
"""What a knob stands for that may be none, and that a group leaves out. Prefect's forms send every field but those that were emptied, and
this parameter with them, so that for them it is none; who calls the API names the knobs that change, and leaves this one out too."""
EXECUTORS = ("local",)
NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def schema_of(plan: Plan) -> dict[str, Any]:
    """Return the JSON schema of a recipe's parameters, as Prefect has them: a property for each step, and those of the run.

    Raises:
        ConfigError: if a step has the name of a parameter of the run.
    """
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for step in plan.recipe.steps:
        if step.name in RESERVED:
            raise ConfigError(
                f"the step {step.name!r} has the name of a parameter of the run ({', '.join(RESERVED)})",
                hint="name it with `as:` in the recipe",
            )
        properties[step.name] = _group(step, definitions)
    names = [step.name for step in plan.steps]
    properties |= {
        FROM: _choice("Rerun this step and all below it, even if they are cached.", names),
        UNTIL: _choice("Stop after this step.", names),
        FORCE: {
            "type": "array",
            "items": {"type": "string", "enum": names},
            "uniqueItems": True,
            "default": [],
            "description": "Steps to rerun even if they are cached.",
        },
        WORKERS: {"type": "integer", "minimum": 1, "default": os.cpu_count() or 1, "description": "Worker processes of the run."},
        EXECUTOR: {"type": "string", "enum": list(EXECUTORS), "default": "local", "description": "Where parts are worked on."},
        EMPTIED: {
            "type": "string",
            "enum": [NONE, AS_IN_RECIPE],
            "default": NONE,
            "description": "What an emptied field stands for, where the knob may be none: none, or the recipe's value.",
        },
    }
    for position, (name, one) in enumerate(properties.items()):
        one |= {"title": one.get("title", name), "position": position}
    return {
        "title": "Parameters",
        "type": "object",
        "properties": properties,
        "definitions": definitions,
        "additionalProperties": False,
    }


def request_of(plan: Plan, parameters: Mapping[str, Any], store: str | None) -> tuple[Request, int]:
    """Return the request that filled-in parameters stand for, and its number of workers. Knobs left as the recipe has them set nothing.

    Raises:
        ConfigError: for a parameter that the recipe does not have, or a number of workers or an executor that cannot be.
    """
    steps = {step.name: step for step in plan.recipe.steps}
    settings: list[str] = []
    emptied = _chosen(parameters, EMPTIED, (NONE, AS_IN_RECIPE), AS_IN_RECIPE)
    for name, value in parameters.items():
        if name in RESERVED:
            continue
        if name not in steps:
            raise ConfigError(f"the recipe {plan.recipe.name} has no step {name!r}", hint=did_you_mean(name, [*steps, *RESERVED]))
        if not isinstance(value, dict):
            raise ConfigError(f"{name} must be a mapping of knobs, not {value!r}", hint=f'e.g. {{"{name}": {{"knob": "value"}}}}')
        left = dict.fromkeys(_optional(type(steps[name].config)) - set(value)) if emptied == NONE else {}
        settings += _changed(steps[name], {**value, **left})
    request = Request(
        recipe=str(plan.recipe.path),
        settings=tuple(settings),
        store=store,
        start=_step(parameters, FROM),
        until=_step(parameters, UNTIL),
        force=_steps(parameters),
    )
    return request, _workers(parameters)


def _workers(parameters: Mapping[str, Any]) -> int:
    number = parameters.get(WORKERS, os.cpu_count() or 1)
    if type(number) is not int or number < 1:
        raise ConfigError(f"workers is {number!r}, and a run needs a whole number of at least one", hint="leave it out for one per core")
    _chosen(parameters, EXECUTOR, EXECUTORS, "local")
    return number


def _step(parameters: Mapping[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{name} must be the name of a step, not {value!r}", hint="leave it out for none")
    return value or None


def _steps(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    value = parameters.get(FORCE)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise ConfigError(f"{FORCE} must be a list of steps, not {value!r}", hint='e.g. {"force": ["encode"]}')
    return tuple(value or ())


def _chosen(parameters: Mapping[str, Any], name: str, choices: tuple[str, ...], usual: str) -> str:
    value = parameters.get(name, usual)
    if value not in choices:
        raise ConfigError(f"there is no {name} {value!r}", hint=did_you_mean(str(value), list(choices)))
    return str(value)


def knobs_of(step: RecipeStep) -> dict[str, Any]:
    """Return the knobs of a step that a form may show, as plain values: secrets are in none."""
    return step.config.model_dump(mode="json", exclude=_secrets(type(step.config)))


def _changed(step: RecipeStep, knobs: Mapping[str, Any]) -> list[str]:
    before = knobs_of(step)
    changed = {knob: value for knob, value in knobs.items() if knob not in before or before[knob] != value}
    return [f"{step.name}.{knob}={_yaml(f'{step.name}.{knob}', value)}" for knob, value in changed.items()]


def _yaml(name: str, value: Any) -> str:
    """Return a value as YAML in one line: JSON, with the characters escaped that YAML refuses or reads as ends of lines."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be written down: {error}", hint="give a number, text, list or mapping of some size") from error
    return NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _group(step: RecipeStep, definitions: dict[str, Any]) -> dict[str, Any]:
    kind = type(step.config)
    schema = kind.model_json_schema()
    prefix = f"{step.name}."
    definitions |= {prefix + name: _moved(one, prefix) for name, one in schema.pop("$defs", {}).items()}
    values, hidden = knobs_of(step), _secrets(kind)
    properties = {}
    for position, (name, one) in enumerate(schema["properties"].items()):
        if name not in hidden:
            properties[name] = _moved(one, prefix) | {"default": values[name], "title": name, "position": position}
    sentence = step.stage.document.strip().split("\n", 1)[0]
    return {
        "type": "object",
        "title": step.name,
        "description": sentence,
        "properties": properties,
        "additionalProperties": False,
        "default": {},
    }


def _moved(schema: Any, prefix: str) -> Any:
    """Return a schema whose references point to where Prefect keeps definitions, those of each step under its name."""
    if isinstance(schema, list):
        return [_moved(one, prefix) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _moved(one, prefix) for name, one in schema.items()}
    if isinstance(found.get("$ref"), str):
        found["$ref"] = "#/definitions/" + prefix + found["$ref"].rpartition("/")[2]
    if "mapping" in found and "propertyName" in found:
        found["mapping"] = {value: "#/definitions/" + prefix + place.rpartition("/")[2] for value, place in found["mapping"].items()}
    return found


def _choice(sentence: str, names: list[str]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "enum": names}, {"type": "null"}], "default": None, "description": sentence}


def _optional(kind: type[Config]) -> set[str]:
    """Return the knobs that may be none, but for secrets, of which no form has any."""
    shown = kind.model_json_schema()["properties"]
    return {name for name, one in shown.items() if {"type": "null"} in one.get("anyOf", [])} - _secrets(kind)


def _secrets(kind: type[Config]) -> set[str]:
    return {name for name, field in kind.model_fields.items() if "SecretStr" in str(field.annotation)}
