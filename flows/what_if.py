"""What-if questions as they are put: a recipe, settings of one of its steps, and the newest run whose results are stored."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from starloom.flows.recipe import SHOWN_ERRORS, load, typed, with_value
from starloom.flows.run import store_of
from starloom.lineage.errors import ConfigError, InputError, StoreError, did_you_mean
from starloom.lineage.store import Store
from starloom.queries.what_if import EXAMPLES, judge_of, knobs_of, sweep, what_if
from starloom.tasks.frame.stage import load_stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from starloom.flows.recipe import Recipe
    from starloom.lineage.records import Run
    from starloom.tasks.frame.stage import Config

POINTS, MOST_POINTS = 21, 201
_RANGE = re.compile(r"(?P<knob>[^=]+)=(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?::(?P<points>[^:]+))?")


@dataclass(frozen=True)
class Range:
    """A knob, and the values that it goes through."""

    knob: str
    values: tuple[float, ...]


def parse_range(text: str) -> Range:
    """Parse `step.knob=a..b[:n]`: n values from a to b, equally far apart; whole numbers if both ends are.

    Raises:
        ConfigError: it is not of that form.
    """
    found = _RANGE.fullmatch(text)
    try:
        ends = [float(found[name]) for name in ("low", "high")] if found else []
        points = int(found["points"] or POINTS) if found else 0
    except ValueError:
        ends, points = [], 0
    if found is None or not ends or not all(map(math.isfinite, ends)) or not 2 <= points <= MOST_POINTS:  # noqa: PLR2004 - two ends
        raise ConfigError(
            f"--sweep {text}: not of the form step.knob=a..b[:n], with n from 2 to {MOST_POINTS}",
            hint="e.g. --sweep quality_filter.thresholds.avg_line_length.max=20..200:10",
        )
    values = [ends[0] + (ends[1] - ends[0]) * at / (points - 1) for at in range(points)]
    if all(float(found[name]).is_integer() and "." not in found[name] for name in ("low", "high")):
        return Range(found["knob"], tuple(dict.fromkeys(round(value) for value in values)))
    return Range(found["knob"], tuple(dict.fromkeys(round(value, 12) for value in values)))


def ask_what_if(recipe: Path, settings: Sequence[str], store: str | None, run_id: str | None, *, limit: int = EXAMPLES) -> dict[str, Any]:
    """Return how documents would fare with these settings; see `starloom.queries.what_if.what_if`.

    Args:
        recipe: its file.
        settings: `step.knob=value`, all of one step.
        store: URL; None for the recipe's.
        run_id: of the run to ask about; None for the newest of the recipe that is done.
        limit: examples of each kind.

    Raises:
        ConfigError: no settings, or of several steps, or invalid ones.
        InputError: the recipe was not run yet, or the step cannot be answered.
    """
    read, place, run, step = _opened(recipe, settings, store, run_id)
    return what_if(place, run, step, _config(read, step), limit=limit)


def ask_sweep(recipe: Path, across: Range, settings: Sequence[str], store: str | None, run_id: str | None) -> dict[str, Any]:
    """Return what a step would keep as a knob goes through a range; see `starloom.queries.what_if.sweep`.

    Raises:
        ConfigError: a value that the knob does not take, or settings of another step.
        InputError: as `ask_what_if`.
    """
    configs, place, run, step = [], None, "", ""
    for value in across.values:
        setting = [*settings, f"{across.knob}={value}"]
        if place is None:
            read, place, run, step = _opened(recipe, setting, store, run_id)
        else:
            read = load(recipe, setting)
        configs.append((value, _config(read, step)))
    assert place is not None, "a range has values"
    return {"knob": across.knob, **sweep(place, run, step, configs)}


def ask_run(
    store: Store, run_id: str, step: str, settings: Sequence[str], across: Range | None, *, limit: int = EXAMPLES
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the answer to settings of a step as it was in a run, and the sweep that was asked for beside it; no recipe is read.

    Args:
        store: to query.
        run_id: of the run.
        step: of the run; settings and range are of its knobs, without its name.
        settings: `knob=value`, with which the sweep is made too.
        across: the range of a knob.
        limit: examples of each kind.

    Raises:
        ConfigError: a setting that is none, or a value that the knob does not take.
        InputError: as `ask_what_if`.
    """
    run = store.run(run_id)
    found = what_if(store, run.id, step, _configured(run, step, settings), limit=limit)
    if across is None:
        return found, None
    configs = [(value, _configured(run, step, [*settings, f"{across.knob}={value}"])) for value in across.values]
    return found, {"knob": f"{step}.{across.knob}", **sweep(store, run.id, step, configs)}


def adjustable(store: Store, run_id: str, step: str) -> dict[str, float]:
    """Return the numbers among the knobs of a step that can be varied without measuring again, by their paths."""
    run = store.run(run_id)
    config = _configured(run, step, [])
    state = run.step(step)
    assert state is not None, "it has been configured"
    known = knobs_of(load_stage(state.stage))
    return {path: value for path, value in config.adjustable().items() if path.partition(".")[0] in known}


def _configured(run: Run, step: str, settings: Sequence[str]) -> Config:
    """Return the knobs of a step of a run, with other values."""
    state = judge_of(run, step)
    knobs: Any = state.config
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"{setting}: not of the form knob=value", hint="e.g. thresholds.avg_line_length.max=80")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{setting}: {text!r} is not a YAML value", hint="quote text that holds : or #") from error
        knobs = with_value(knobs, path.split("."), value, setting)
    kind = load_stage(state.stage).config
    try:
        return kind.model_validate(knobs)
    except ValidationError as error:
        raise _refused(step, list(kind.model_fields), knobs, error) from error


def _refused(step: str, known: list[str], knobs: Any, error: ValidationError) -> ConfigError:
    """Return what is wrong with knobs, by their paths; at most a few."""
    problems = []
    for found in error.errors()[:SHOWN_ERRORS]:
        where = ".".join([step, *map(str, typed(knobs, found["loc"], found["type"]))])
        problems.append(f"{where}: {found['msg'].removeprefix('Value error, ')}")
    first = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else ""
    return ConfigError("; ".join(dict.fromkeys(problems)), hint=did_you_mean(first, known))


def _opened(recipe: Path, settings: Sequence[str], store: str | None, run_id: str | None) -> tuple[Recipe, Store, str, str]:
    """Return the recipe with its settings, the store, the run and the step that the settings are about."""
    read = load(recipe, list(settings))
    steps = list(dict.fromkeys(setting.partition(".")[0] for setting in settings if "." in setting.partition("=")[0]))
    if len(steps) != 1:
        raise ConfigError(
            f"the settings are of {len(steps)} steps ({', '.join(steps)})" if steps else "nothing is set",
            hint="set knobs of one step: --set quality_filter.thresholds.avg_line_length.max=80",
        )
    place = _store(read, store)
    return read, place, run_id or _newest(place, read.name), steps[0]


def _store(recipe: Recipe, url: str | None) -> Store:
    try:
        return Store.open(url or store_of(recipe), create=False)
    except StoreError as error:
        raise InputError(f"the recipe {recipe.name} was not run yet: {error.message}", hint=_first(recipe)) from error


def _newest(store: Store, recipe: str) -> str:
    for run_id in store.last_run_ids():
        run = store.run(run_id)
        if run.recipe == recipe and run.status == "done":
            return run_id
    raise InputError(f"{store.url} holds no run of the recipe {recipe} that is done", hint="run it first: starloom run RECIPE")


def _first(recipe: Recipe) -> str:
    return f"run it first: starloom run {recipe.path}"


def _config(recipe: Recipe, step: str) -> Config:
    return next(line.config for line in recipe.steps if line.name == step)
