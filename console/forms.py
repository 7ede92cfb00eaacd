"""Forms of a recipe's knobs: fields from the schema that Prefect's form has too, and what was filled in as parameters."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import yaml

from starloom.flows.forms import EMPTIED, FORCE, RESERVED
from starloom.lineage.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["choice", "flag", "number", "text", "value"]
MAX_CHARACTERS = 20_000
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Field:
    """A knob as a form shows it."""

    name: str
    """`step.knob`, or a parameter of the run."""
    label: str
    sentence: str
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    """Whether it may be empty: null."""
    limits: str = ""

    def text(self, value: Any) -> str:
        """Return a value as it stands in the field."""
        if value is None:
            return ""
        if self.kind == "value":
            return json.dumps(value, ensure_ascii=False)
        return ("true" if value else "false") if isinstance(value, bool) else str(value)

    def parse(self, text: str) -> Any:
        """Return the value of what was filled in.

        Raises:
            ConfigError: it is no value of this kind.
        """
        if not text.strip() and self.is_optional:
            return None
        if self.kind in ("choice", "text"):
            return text
        value = self._value(text)
        if self.kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{self.name}: {text!r} is not a number", hint="e.g. 0.7")
        return value

    def _value(self, text: str) -> Any:
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"{self.name}: {len(text):,} characters are too many for a form", hint="write it into the recipe")
        with contextlib.suppress(ValueError, RecursionError):
            return _plain(json.loads(text))  # what a field shows is JSON, of which YAML takes all but a few characters
        try:
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
                raise ValueError("an alias (*) has no place in a form")  # noqa: TRY301 - one answer for all that is no value
            value = _plain(yaml.safe_load(text))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            told = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
            raise ConfigError(f"{self.name}: {_short(text)!r} is not a YAML value: {told}", hint="quote text that holds : or #") from error
        if self.kind == "number" and isinstance(value, str):  # YAML reads 1e-4 as text
            with contextlib.suppress(ValueError):
                return _plain(float(value))
        return value


def _plain(value: Any) -> Any:
    """Return a value of JSON's kinds as it is.

    Raises:
        ValueError: it is, or holds, something else: a date, binary, a number that is not finite, a key that is not text.
    """
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not text")
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{value!r} is neither text nor a number")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


@dataclass(frozen=True, slots=True)
class Group:
    """The knobs of a step, or of the run."""

    name: str
    sentence: str
    fields: tuple[Field, ...]


def groups_of(schema: Mapping[str, Any]) -> list[Group]:
    """Return the groups of a recipe's parameters: one for each step, the run's own last."""
    found, own = [], []
    for name, one in schema["properties"].items():
        if name == EMPTIED:
            continue  # a field that is emptied here is sent as null
        if name in RESERVED:
            own.append(_field(name, name, one))
        else:
            fields = tuple(_field(f"{name}.{knob}", knob, each) for knob, each in one["properties"].items())
            found.append(Group(name, one["description"], fields))
    return [*found, Group("run", "What to run, and with how many workers.", tuple(own))]


def parameters_of(groups: list[Group], form: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what was changed in a form, as the parameters of a run; fields that are absent, or as the recipe has them, are left out.

    Raises:
        ConfigError: a field holds no value of its kind, or there is no such field.
    """
    fields = {field.name: field for group in groups for field in group.fields}
    found: dict[str, Any] = {}
    for name, texts in form.items():
        field = fields.get(name)
        if field is None:
            raise ConfigError(f"the form has no field {name!r}", hint="load the page again: the recipe may have changed")
        if name == FORCE:
            chosen = [text for text in texts if text]
            found |= {FORCE: chosen} if chosen else {}
            continue
        text = texts[-1]
        if text == field.text(field.default):
            continue
        value = field.parse(text)
        if value == field.default:
            continue
        step, _, knob = name.partition(".")
        if knob:
            found.setdefault(step, {})[knob] = value
        else:
            found[name] = value
    return found


def query_of(groups: list[Group], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a form that stand for these parameters: what an address of the filled-in form holds."""
    found: dict[str, Any] = {}
    fields = {field.name: field for group in groups for field in group.fields}
    for name, value in parameters.items():
        if name in RESERVED:
            found[name] = value if name == FORCE else fields[name].text(value)
        else:
            found |= {f"{name}.{knob}": fields[f"{name}.{knob}"].text(one) for knob, one in value.items() if f"{name}.{knob}" in fields}
    return found


def _field(name: str, label: str, schema: Mapping[str, Any]) -> Field:
    kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    is_optional = len(kinds) < len(schema.get("anyOf", [schema]))
    only = kinds[0] if len(kinds) == 1 else {}
    kind, choices = _kind(only)
    return Field(
        name,
        label,
        schema.get("description", ""),
        kind,
        schema.get("default"),
        choices,
        is_optional,
        _limits(only),
    )


def _kind(schema: Mapping[str, Any]) -> tuple[Kind, tuple[str, ...]]:
    names = [str(one) for one in schema.get("enum", [])] or ([str(schema["const"])] if "const" in schema else [])
    if names and schema.get("type", "string") == "string":
        return "choice", tuple(names)
    plain: dict[str, Kind] = {"boolean": "flag", "integer": "number", "number": "number", "string": "text"}
    kind = plain.get(schema.get("type", ""), "value")
    return (kind, ("true", "false")) if kind == "flag" else (kind, ())


def _limits(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join(f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema)
