"""Plans: a recipe resolved into steps, wired by type, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starloom.lineage.errors import ConfigError, did_you_mean
from starloom.tasks.frame.stage import Wired
from starloom.tasks.schemas import Docs, Record, Repositories, Verdicts

if TYPE_CHECKING:
    from starloom.flows.recipe import Recipe, RecipeStep
    from starloom.tasks.frame.stage import Config, Stage

WITHOUT_PRODUCER = (Repositories, Record)
"""Inputs that no step writes: the sources themselves, and the record of the steps above."""


@dataclass(frozen=True)
class Step:
    """One step of a plan: a stage (or its first half), its knobs, and the step that provides each input."""

    name: str
    stage: Stage
    config: Config
    wiring: dict[str, str] = field(default_factory=dict)
    """Parameter → name of the step that writes it. An optional input that no step above writes is not in it."""
    half_of: str | None = None
    """Of a first half: the step that it prepares."""


@dataclass(frozen=True)
class Plan:
    """The steps of a run, each below those that it reads."""

    recipe: Recipe
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """Return the step of that name.

        Raises:
            ConfigError: if there is none.
        """
        names = [step.name for step in self.steps]
        if name not in names:
            raise ConfigError(f"the recipe has no step {name!r}", hint=did_you_mean(name, names))
        return self.steps[names.index(name)]


def make_plan(recipe: Recipe, *, until: str | None = None) -> Plan:
    """Wire the steps of a recipe.

    Raises:
        ConfigError: if a step reads what no step above it writes, names a source that none reads, or asks what those can never give.
    """
    steps: list[Step] = []
    nearest: dict[type, str] = {}
    written: dict[str, set[type]] = {}
    for line in recipe.steps:
        if line.stage.prepare is not None:
            first = line.stage.prepare
            half = Step(f"{line.name}.{first.name}", first, line.stage.prepared_config(line.config), {}, line.name)
            steps.append(_wired(half, line, nearest, written))
            _offer(steps[-1], nearest, written)
        steps.append(_wired(Step(line.name, line.stage, line.config), line, nearest, written))
        _offer(steps[-1], nearest, written)
    _check_sources(steps)
    plan = Plan(recipe, tuple(steps))
    if until is not None:
        names = [step.name for step in steps]
        plan = Plan(recipe, tuple(steps[: names.index(plan.step(until).name) + 1]))
    wired: dict[str, Wired] = {}
    for step in plan.steps:
        inputs = {parameter: wired[source] for parameter, source in step.wiring.items()}
        wired[step.name] = Wired(step.name, step.stage.label, step.config, inputs)
        step.config.check_plan(wired[step.name])
    return plan


def _check_sources(steps: list[Step]) -> None:
    """Refuse the name of a source that no step reads."""
    from starloom.tasks.ingest import Ingest

    known = [source.name for step in steps if isinstance(step.config, Ingest) for source in step.config.sources]
    for step in steps:
        for name in step.config.named_sources():
            if name not in known:
                raise ConfigError(
                    f"{step.name} names the source {name!r}, but ingest reads no source of that name", hint=did_you_mean(name, known)
                )


def below(plan: Plan, name: str) -> set[str]:
    """Return the step of that name and every step that reads, directly or not, what it writes."""
    found = {plan.step(name).name}
    found |= {step.name for step in plan.steps if step.half_of == name}
    for step in plan.steps:
        if found & set(step.wiring.values()):
            found.add(step.name)
    return found


def _wired(step: Step, line: RecipeStep, nearest: dict[type, str], written: dict[str, set[type]]) -> Step:
    wiring = {}
    for parameter, kind in step.stage.inputs.items():
        if kind in WITHOUT_PRODUCER:
            continue
        source = line.sources.get(parameter, line.sources.get("*"))
        if parameter in line.sources and source is None:
            continue  # optional, and not wanted
        if source is not None and source not in written:
            raise ConfigError(
                f"{line.name} takes {parameter} from {source!r}, which is not a step above it", hint=did_you_mean(source, list(written))
            )
        if source is not None and (kind in written[source] or parameter in line.sources):
            if kind not in written[source]:
                raise ConfigError(
                    f"{line.name} takes {parameter} ({kind.__name__}) from {source}, which does not write it", hint="name another step"
                )
            wiring[parameter] = source
        elif kind in nearest:
            wiring[parameter] = nearest[kind]
        elif parameter not in step.stage.optional:
            raise ConfigError(
                f"{line.name} reads {kind.__name__}, and no step above it writes that",
                hint=f"put a stage that writes {kind.__name__} above it; `starloom stages` lists what each writes",
            )
    return Step(step.name, step.stage, step.config, wiring, step.half_of)


def _offer(step: Step, nearest: dict[type, str], written: dict[str, set[type]]) -> None:
    kinds = set(step.stage.outputs)
    if Verdicts in kinds:
        kinds.add(Docs)  # after a filter, the documents are those that it left
    written[step.name] = kinds
    nearest.update(dict.fromkeys(kinds, step.name))
