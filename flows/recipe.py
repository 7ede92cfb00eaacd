"""Recipes: a YAML file that names stages and their knobs, parsed with line numbers for error messages.

name: demo
seed: 42
stages:
  - ingest: {sources: [{kind: python-environment}]}
  - license_filter                       # all knobs at their defaults
  - near_dedup: {threshold: 0.7}
    as: second_pass                      # a second use of a stage has a name of its own
    from: redact_pii                     # inputs come from here rather than from the nearest step above
  - train_model: {preset: small}
    from: {initial: null}                # and an input that may be absent from nowhere

Name, seed and store may be left out: the file's name, the stages' own seeds, `.starloom` beside the recipe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from starloom.lineage.errors import ConfigError, did_you_mean
from starloom.tasks.frame.stage import load_stage, stage_names

if TYPE_CHECKING:
    from pathlib import Path

    from starloom.tasks.frame.stage import Config, Stage

Location = tuple[str | int, ...]
SHOWN_ERRORS = 5
DEEPEST = 50
"""Levels of a document; only an alias inside its own anchor goes deeper."""
OWN = ("name", "seed", "store")
"""Keys of a recipe beside its stages."""
MERGE = "tag:yaml.org,2002:merge"
"""YAML's tag of the key `<<`."""
NAMES = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""Of steps: a name becomes a folder in the store and the first word of `--set name.knob=value`."""


@dataclass(frozen=True)
class RecipeStep:
    """One line of a recipe: a stage, its validated knobs, and the sources of its inputs."""

    name: str
    stage: Stage
    config: Config
    sources: dict[str, str | None] = field(default_factory=dict)
    """Parameter (or * for all) → step to take it from; None for an optional input that is to be absent."""


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
            self.value: Any = None if root is None else self._plain(root, (), 0)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = mark.line + 1 if mark else 1
            shown = text.splitlines()[line - 1].strip() if text.splitlines()[line - 1 :] else ""
            raise ConfigError(f"{path}, line {line}: {error.problem} in {shown!r}", hint="fix the YAML of that line") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: nested too deeply to be read", hint="a recipe is a few levels deep") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError(f"{path}, line {line}: {error.reason} (#x{ord(text[error.position]):04x})", hint="remove it") from error

    def _plain(self, node: yaml.Node, where: Location, depth: int) -> Any:
        line = self.lines[where] = node.start_mark.line + 1
        if depth > DEEPEST:
            raise ConfigError(
                f"{self.path}, line {line}: nested more than {DEEPEST} levels deep", hint="an alias (*) may not contain itself"
            )
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(child, (*where, i), depth + 1) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where, depth)
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except ValueError as error:
            raise ConfigError(f"{self.path}, line {line}: {node.value!r}: {error}", hint="quote it if it is a string") from error

    def _mapping(self, node: yaml.MappingNode, where: Location, depth: int) -> dict[str, Any]:
        """Merge what `<<` names under the mapping's own keys; of several merged mappings, the first that has a key wins."""
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, child in node.value:
            if key_node.tag == MERGE:
                for value in self._merged(child, where, depth):
                    merged = {**value, **merged}
        for key_node, child in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"{self.path}, line {line}: a key must be a string", hint="quote it")
            if key in found:
                raise ConfigError(f"{self.path}, line {line}: {key!r} is given twice", hint="keep one of the two")
            if key_node.tag != MERGE:
                found[key] = self._plain(child, (*where, key), depth + 1)
                self.lines[(*where, key)] = line
        self.lines[where] = node.start_mark.line + 1
        return {**merged, **found}

    def _merged(self, node: yaml.Node, where: Location, depth: int) -> list[dict[str, Any]]:
        """Return the mappings that stand after `<<`; errors inside them name their own lines."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for inner in nodes:
            if not isinstance(inner, yaml.MappingNode):
                line = inner.start_mark.line + 1
                raise ConfigError(
                    f"{self.path}, line {line}: `<<` merges mappings, and this is not a mapping", hint="name an anchor: `<<: *knobs`"
                )
        return [self._plain(inner, where, depth + 1) for inner in reversed(nodes)][::-1]

    def line(self, where: Location) -> int:
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def error(self, where: Location, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"{self.path}, line {self.line(where)}: {problem}", hint=hint)


def load(path: Path, settings: list[str] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the YAML file.
        settings: `step.knob=value` overrides, or `name=`, `seed=`, `store=` of the recipe itself; values are YAML.

    Raises:
        ConfigError: naming the file, the line, the stage or knob, and the nearest known one.
    """
    document = _Document(path)
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("stages"), list) or not value["stages"]:
        raise document.error((), "a recipe is a mapping with a list of `stages`", "see conf/demo.yaml")
    known = [*OWN, "stages"]
    for key in value:
        if key not in known:
            raise document.error((key,), f"a recipe has no {key!r}", did_you_mean(key, known))
    uses = [_use(document, i, item) for i, item in enumerate(value["stages"])]
    _unique(document, uses)
    own, overrides = _overrides(settings or [], [use.name for use in uses])
    value = {**value, **own}
    for key in OWN:
        _check_own(document, key, value, is_set=key in own)
    steps = tuple(_settled(document, use, value.get("seed"), overrides.get(use.name, [])) for use in uses)
    return Recipe(value.get("name", path.stem), path, steps, value.get("store"))


def _check_own(document: _Document, key: str, value: dict[str, Any], *, is_set: bool) -> None:
    """Refuse a name or store that is not a string, and a seed that is not a number."""
    given, is_number = value.get(key), key == "seed"
    is_right = type(given) is int if is_number else isinstance(given, str) and given != ""
    if key in value and not is_right and not (is_number and given is None):
        problem = f"`{key}` must be a {'whole number' if is_number else 'string'}, not {given!r}"
        hint = "give one such as 42" if is_number else "quote it"
        raise ConfigError(f"--set {key}: {problem}", hint=hint) if is_set else document.error((key,), problem, hint)


@dataclass(frozen=True)
class _Use:
    where: Location
    stage: str
    name: str
    knobs: dict[str, Any]
    sources: dict[str, str | None]


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
        raise document.error((*where, stage), f"the knobs of {stage} must be a mapping, not {knobs!r}", f"write `{stage}: {{knob: value}}`")
    name = item.get("as", stage)
    if not isinstance(name, str) or re.fullmatch(NAMES, name) is None:
        raise document.error((*where, "as"), f"{name!r} is not a valid step name", "use letters, digits, underscores and hyphens")
    return _Use((*where, stage), stage, name, dict(knobs), _sources(document, where, stage, item.get("from", {})))


def _sources(document: _Document, where: Location, stage: str, given: Any) -> dict[str, str | None]:
    """Parse `from:` into parameter (or * for all) → step."""
    sources = {"*": given} if isinstance(given, str) else given
    if not isinstance(sources, dict) or not all(isinstance(step, str) or step is None for step in sources.values()):
        raise document.error((*where, "from"), f"`from` must name a step or map inputs to steps, not {given!r}", "e.g. `from: redact_pii`")
    whole = load_stage(stage)
    known = list(dict.fromkeys([*whole.inputs, *(whole.prepare.inputs if whole.prepare else ())]))
    optional = whole.optional | (whole.prepare.optional if whole.prepare else frozenset())
    for name, step in sources.items():
        if name not in [*known, "*"]:
            raise document.error((*where, "from", name), f"{stage} has no input {name!r}", did_you_mean(name, known))
        if step is None and name not in optional:
            raise document.error((*where, "from", name), f"{stage} requires the input {name}", "name the step to take it from")
    return sources


def _unique(document: _Document, uses: list[_Use]) -> None:
    seen: set[str] = set()
    for use in uses:
        if use.name in seen:
            raise document.error(
                use.where,
                f"two steps have the name {use.name!r}",
                "give the second use a name with `as:`, beside the stage and not among its knobs",
            )
        seen.add(use.name)


def _overrides(settings: list[str], steps: list[str]) -> tuple[dict[str, Any], dict[str, list[tuple[list[str], Any]]]]:
    """Split overrides into those of the recipe itself and those of each step."""
    own: dict[str, Any] = {}
    found: dict[str, list[tuple[list[str], Any]]] = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        step, _, knob = target.partition(".")
        if not equals or not (all(knob.split(".")) or target in OWN):
            raise ConfigError(
                f"--set {setting}: not of the form step.knob=value; of the recipe's own, {', '.join(OWN)} can be set",
                hint="e.g. --set near_dedup.threshold=0.8, or --set seed=7",
            )
        if target not in OWN and step not in steps:
            raise ConfigError(f"--set {setting}: the recipe has no step {step!r}", hint=did_you_mean(step, steps))
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--set {setting}: {text!r} is not a YAML value", hint="quote text that holds : or #") from error
        if target in OWN:
            own[target] = value
        else:
            found.setdefault(step, []).append((knob.split("."), value))
    return own, found


def _settled(document: _Document, use: _Use, seed: Any, overrides: list[tuple[list[str], Any]]) -> RecipeStep:
    stage = load_stage(use.stage)
    knobs = use.knobs
    for path, value in overrides:
        knobs = with_value(knobs, path, value, f"--set {use.name}.{'.'.join(path)}")
    if seed is not None and "seed" in stage.config.model_fields:
        knobs = {"seed": seed, **knobs}
    try:
        config = stage.config.model_validate(knobs, context={"folder": str(document.path.parent)})
    except ValidationError as error:
        settings = [".".join([use.name, *path]) for path, _ in overrides]
        raise _knob_error(document, use, stage, knobs, settings, error) from error
    return RecipeStep(use.name, stage, config, use.sources)


def with_value(knobs: Any, path: list[str], value: Any, setting: str) -> Any:
    """Return `knobs` with the value at `path` replaced; digits index lists.

    Raises:
        ConfigError: beginning with the words of `setting`, if a list has no such item.
    """
    if not path:
        return value
    head, *rest = path
    if isinstance(knobs, list):
        if not head.isdigit() or int(head) >= len(knobs):
            raise ConfigError(f"{setting}: the list has {len(knobs)} items, counted from 0, and no item {head!r}", hint="name one of them")
        position = int(head)
        return [*knobs[:position], with_value(knobs[position], rest, value, setting), *knobs[position + 1 :]]
    inner = knobs if isinstance(knobs, dict) else {}
    return {**inner, head: with_value(inner.get(head), rest, value, setting)}


def _knob_error(
    document: _Document, use: _Use, stage: Stage, knobs: dict[str, Any], settings: list[str], error: ValidationError
) -> ConfigError:
    problems, hint = [], f"`starloom stage {stage.name} --help` lists the knobs of {stage.name}"
    for found in error.errors()[:SHOWN_ERRORS]:
        where = typed(knobs, found["loc"], found["type"])
        knob = ".".join(str(item) for item in where)
        named = ".".join([use.name, *map(str, where)])
        place = next((f"--set {s}" for s in settings if f"{named}.".startswith(f"{s}.")), None)
        place = place or f"{document.path}, line {document.line((*use.where, *where))}"
        if found["type"] == "extra_forbidden":
            hint = did_you_mean(str(found["loc"][-1]), sorted(_known_knobs(stage, found["loc"])))
            problems.append(f"{place}: {stage.name} has no knob {knob!r}")
        else:
            reason = found["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(found["input"], dict) else f" {found['input']!r}"
            problems.append(f"{place}: {named if where else stage.name}{shown}: {reason}")
    left = error.error_count() - SHOWN_ERRORS
    return ConfigError("; ".join(problems) + (f"; and {left} more" if left > 0 else ""), hint=hint)


def typed(knobs: Any, where: tuple[int | str, ...], problem: str) -> tuple[int | str, ...]:
    """Return an error location as the user typed it: pydantic also names the union member that it chose."""
    found: list[int | str] = []
    for depth, item in enumerate(where):
        is_there = (isinstance(knobs, dict) and item in knobs) or (isinstance(knobs, list) and isinstance(item, int) and item < len(knobs))
        is_absent = depth == len(where) - 1 and problem == "missing"
        if is_there or is_absent:
            found.append(item)
        knobs = knobs[item] if is_there else knobs
    return tuple(found)


def _known_knobs(stage: Stage, where: tuple[int | str, ...]) -> set[str]:
    """Return the knobs that could stand where an unknown one was found: those of the stage, or of a config nested in it."""
    if len(where) == 1:
        return set(stage.config.model_fields)
    schema = stage.config.model_json_schema().get("$defs", {})
    return {name for nested in schema.values() for name in nested.get("properties", {})}
