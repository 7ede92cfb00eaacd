"""Recipes: a YAML file that names stages and their knobs, read with the line of everything in it.

name: demo
seed: 42
stages:
  - ingest: {sources: [{kind: python-environment}]}
  - license_filter                       # all knobs at their defaults
  - near_dedup: {threshold: 0.7}
    as: second_pass                      # a second use of a stage has a name of its own
    from: redact_pii                     # inputs come from here rather than from the nearest step above
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from lineage.errors import ConfigError, did_you_mean
from tasks._stage import load_stage, stage_names

if TYPE_CHECKING:
    from pathlib import Path

    from tasks._stage import Config, Stage

Location = tuple[str | int, ...]
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class RecipeStep:
    """One line of a recipe: a stage, its validated knobs, and where its inputs come from."""

    name: str
    stage: Stage
    config: Config
    sources: dict[str, str] = field(default_factory=dict)
    """Parameter (or * for all) → step to take it from."""


@dataclass(frozen=True)
class Recipe:
    """A validated recipe."""

    name: str
    path: Path
    steps: tuple[RecipeStep, ...]
    store: str | None = None


class _Document:
    """A YAML document as plain values, and the line of each by its location."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the recipe {path} cannot be read: {error}", hint="name a YAML file, e.g. conf/demo.yaml") from error
        self.lines: dict[Location, int] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value: Any = None if root is None else self._plain(root, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = mark.line + 1 if mark else 1
            shown = text.splitlines()[line - 1].strip() if text.splitlines()[line - 1 :] else ""
            raise ConfigError(f"{path}, line {line}: {error.problem} in {shown!r}", hint="mend the YAML of that line") from error

    def _plain(self, node: yaml.Node, where: Location) -> Any:
        self.lines[where] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(child, (*where, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, child in node.value:
                key = key_node.value
                if key in found:
                    raise ConfigError(
                        f"{self.path}, line {key_node.start_mark.line + 1}: {key!r} is given twice", hint="keep one of the two"
                    )
                found[key] = self._plain(child, (*where, key))
                self.lines[(*where, key)] = key_node.start_mark.line + 1
            return found
        loader = yaml.SafeLoader("")
        return loader.construct_object(node, deep=True)

    def line(self, where: Location) -> int:
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def error(self, where: Location, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"{self.path}, line {self.line(where)}: {problem}", hint=hint)


def load(path: Path, settings: list[str] | None = None) -> Recipe:
    """Read a recipe and settle it.

    Args:
        path: the YAML file.
        settings: `step.knob=value` overrides; values are YAML.

    Raises:
        ConfigError: naming the file, the line, the stage or knob, and the nearest known one.
    """
    document = _Document(path)
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("stages"), list) or not value["stages"]:
        raise document.error((), "a recipe is a mapping with a list of `stages`", "see conf/demo.yaml")
    known = ["name", "seed", "store", "stages"]
    for key in value:
        if key not in known:
            raise document.error((key,), f"a recipe has no {key!r}", did_you_mean(key, known))
    uses = [_use(document, i, item) for i, item in enumerate(value["stages"])]
    _unique(document, uses)
    overrides = _overrides(settings or [], [use.name for use in uses])
    steps = tuple(_settled(document, use, value.get("seed"), overrides.get(use.name, [])) for use in uses)
    return Recipe(str(value.get("name", path.stem)), path, steps, value.get("store"))


@dataclass(frozen=True)
class _Use:
    where: Location
    stage: str
    name: str
    knobs: dict[str, Any]
    sources: dict[str, str]


def _use(document: _Document, position: int, item: Any) -> _Use:
    where: Location = ("stages", position)
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, dict):
        raise document.error(where, f"{item!r} is not a stage", "write the stage's name, or `name: {knob: value}`")
    stages = [key for key in item if key not in ("as", "from")]
    if len(stages) != 1:
        raise document.error(where, f"one stage a line, found {', '.join(stages) or 'none'}", "begin each stage with its own dash")
    (stage,) = stages
    if stage not in stage_names():
        raise document.error((*where, stage), f"there is no stage {stage!r}", did_you_mean(stage, stage_names()))
    knobs = item[stage] or {}
    if not isinstance(knobs, dict):
        raise document.error((*where, stage), f"the knobs of {stage} are a mapping, not {knobs!r}", f"write `{stage}: {{knob: value}}`")
    source = item.get("from", {})
    return _Use((*where, stage), stage, item.get("as", stage), dict(knobs), {"*": source} if isinstance(source, str) else dict(source))


def _unique(document: _Document, uses: list[_Use]) -> None:
    seen: set[str] = set()
    for use in uses:
        if use.name in seen:
            raise document.error(use.where, f"two steps are called {use.name!r}", "give the second use a name with `as:`")
        seen.add(use.name)


def _overrides(settings: list[str], steps: list[str]) -> dict[str, list[tuple[list[str], Any]]]:
    found: dict[str, list[tuple[list[str], Any]]] = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        step, _, knob = target.partition(".")
        if not equals or not knob:
            raise ConfigError(f"--set {setting}: not of the form step.knob=value", hint="e.g. --set near_dedup.threshold=0.8")
        if step not in steps:
            raise ConfigError(f"--set {setting}: the recipe has no step {step!r}", hint=did_you_mean(step, steps))
        try:
            found.setdefault(step, []).append((knob.split("."), yaml.safe_load(text)))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting}: {text!r} is not a YAML value", hint="quote text that holds : or #") from error
    return found


def _settled(document: _Document, use: _Use, seed: Any, overrides: list[tuple[list[str], Any]]) -> RecipeStep:
    stage = load_stage(use.stage)
    knobs = use.knobs
    for path, value in overrides:
        knobs = _with(knobs, path, value)
    if seed is not None and "seed" in stage.config.model_fields:
        knobs = {"seed": seed, **knobs}
    try:
        config = stage.config.model_validate(knobs, context={"folder": str(document.path.parent)})
    except ValidationError as error:
        raise _knob_error(document, use, stage, error) from error
    return RecipeStep(use.name, stage, config, use.sources)


def _with(knobs: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {**knobs, head: value}
    inner = knobs.get(head) or {}
    if isinstance(inner, list) and rest[0].isdigit() and int(rest[0]) < len(inner):
        position = int(rest[0])
        changed = _with(inner[position], rest[1:], value) if rest[1:] else value
        return {**knobs, head: [*inner[:position], changed, *inner[position + 1 :]]}
    return {**knobs, head: _with(inner if isinstance(inner, dict) else {}, rest, value)}


def _knob_error(document: _Document, use: _Use, stage: Stage, error: ValidationError) -> ConfigError:
    problems, hint = [], f"`starloom stage {stage.name} --help` lists the knobs of {stage.name}"
    for found in error.errors()[:SHOWN_ERRORS]:
        knob = ".".join(str(item) for item in found["loc"]) or stage.name
        if found["type"] == "extra_forbidden":
            hint = did_you_mean(str(found["loc"][-1]), sorted(_known_knobs(stage, found["loc"])))
            problems.append(f"line {document.line((*use.where, *found['loc']))}: {stage.name} has no knob {knob!r}")
        else:
            reason = found["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(found["input"], dict) else f" {found['input']!r}"
            problems.append(f"line {document.line((*use.where, *found['loc']))}: {stage.name}.{knob}{shown}: {reason}")
    left = error.error_count() - SHOWN_ERRORS
    return ConfigError(f"{document.path}, " + "; ".join(problems) + (f"; and {left} more" if left > 0 else ""), hint=hint)


def _known_knobs(stage: Stage, where: tuple[int | str, ...]) -> set[str]:
    """Knobs that could stand where an unknown one was found: those of the stage, or of any config nested in it."""
    if len(where) == 1:
        return set(stage.config.model_fields)
    schema = stage.config.model_json_schema().get("$defs", {})
    return {name for nested in schema.values() for name in nested.get("properties", {})}
