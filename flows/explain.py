"""The plan explained: each step is cached, will run (with the component that changed) or waits on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from starloom.flows.plan import below
from starloom.flows.resolver import Resolver

if TYPE_CHECKING:
    from starloom.flows.plan import Plan
    from starloom.lineage.records import Components, Run, StepState
    from starloom.lineage.store import Store
    from starloom.tasks.frame.step import ResolvedStep

SHOWN_REASONS = 4
SHOWN_PARTS = 8
SHOWN_LENGTH = 60
GONE = ("its result is no longer in the store",)
ENDED = {"running": "killed", "pending": "killed"}
"""The final status of a step that wrote nothing, by the status in its record."""


@dataclass(frozen=True)
class Outlook:
    """The state of one step before a run: what would be done, and why."""

    step: str
    status: Literal["cached", "run", "waits"]
    reasons: tuple[str, ...]
    num_actions: int | None
    num_cached: int | None
    seconds: float | None
    """Total time of the last execution; None if unknown."""
    told: str | None = None
    """The step's message about its result, if that exists; else about its sources."""


def outlook(plan: Plan, store: Store, forced: set[str], before: dict[str, StepState]) -> tuple[list[Outlook], Resolver, list[ResolvedStep]]:
    """Return the outlook of every step, in order, and the steps that could be resolved without running anything."""
    resolver, found, resolved = Resolver(plan, store), [], []
    for step in plan.steps:
        last = before.get(step.name)
        seconds = _took(store, last)
        waits = resolver.waits_on(step)
        if waits:
            is_forced = step.name in forced
            why = "forced" if is_forced else f"runs if the output of {' or '.join(waits[:3])} changes"
            found.append(Outlook(step.name, "run" if is_forced else "waits", (why,), None, None, seconds))
            continue
        resolved.append(resolver.resolve(step))
        now = resolved[-1]
        if step.name in forced:
            found.append(Outlook(step.name, "run", ("forced",), now.num_actions, 0, seconds))
        elif now.done is not None:
            resolver.settle(now, now.done)
            found.append(Outlook(step.name, "cached", (), now.num_actions, now.num_actions, 0.0, now.done.notes.get("told")))
        else:
            why_not = _why_not_done(now, last)
            told = "; ".join(dict.fromkeys(each.note for part in now.inputs.repositories for each in part if each.note)) or None
            found.append(Outlook(step.name, "run", why_not, now.num_actions, now.num_cached, _left(seconds, now), told))
    return found, resolver, resolved


def _why_not_done(step: ResolvedStep, last: StepState | None) -> tuple[str, ...]:
    why = reasons(step.components, last.components if last else None)
    if why == GONE and last is not None and not last.outputs:
        return (f"{ENDED.get(last.status, last.status)} last time",)
    return why


def forced_steps(plan: Plan, force: list[str], start: str | None) -> set[str]:
    """Return the steps to rerun although their results exist: each of `force`, and with `start` that step and all below it."""
    found = set()
    for name in force:
        found |= {plan.step(name).name} | {step.name for step in plan.steps if step.half_of == name}
    return found | (below(plan, start) if start else set())


def _took(store: Store, last: StepState | None) -> float | None:
    """Return the seconds that a step took when it was last done in full; from its action's record where the last run used the cache."""
    if last is None:
        return None
    if last.status == "done" and not last.num_cached:
        return last.seconds
    action = store.action(last.stage, last.key)
    return None if action is None else action.seconds


def reasons(now: Components, before: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the components in which an action differs from that of the last run; at most a few."""
    if before is None:
        return ("never run with this store",)
    found = [*_code(now.code, before["code"]), *_config(now.config, before["config"], "config")]
    found += [
        f"library: {n} {before['libraries'].get(n, 'none')} → {v}" for n, v in now.libraries.items() if before["libraries"].get(n) != v
    ]
    found += _inputs(now.inputs, before["inputs"])
    if now.format != before["format"]:
        found.append(f"store format {before['format']} → {now.format}")
    shown = tuple(found[:SHOWN_REASONS])
    if len(found) > SHOWN_REASONS:
        shown += (f"and {len(found) - SHOWN_REASONS} more changes",)
    return shown or GONE


def _code(now: dict[str, str], before: dict[str, str]) -> list[str]:
    return [f"code: {file}" for file in sorted(now.keys() | before.keys()) if now.get(file) != before.get(file)]


def _config(now: Any, before: Any, name: str) -> list[str]:
    if isinstance(now, dict) and isinstance(before, dict):
        return [line for key in sorted(now.keys() | before.keys()) for line in _config(now.get(key), before.get(key), f"{name}.{key}")]
    return [] if now == before else [f"{name} {_short(before)} → {_short(now)}"]


def _inputs(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    found = [f"input: {name} is no longer read" for name in before if name not in now]
    for name, content in now.items():
        old = before.get(name)
        if content == old:
            continue
        if name not in before:
            found.append(f"input: {name} was not read before")
        elif isinstance(content, list) and isinstance(old, list) and len(content) == len(old):
            changed = [str(i) for i, (a, b) in enumerate(zip(content, old, strict=True)) if a != b]
            shown = ", ".join(changed[:SHOWN_PARTS]) + (" …" if len(changed) > SHOWN_PARTS else "")
            found.append(f"input: part{'s' if len(changed) > 1 else ''} {shown} of {name}")
        elif isinstance(content, list) and isinstance(old, list):
            found.append(f"input: {name} has {len(content)} parts, had {len(old)} ({len(set(content) - set(old))} new)")
        else:
            found.append(f"input: {name}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"


def _left(seconds: float | None, step: ResolvedStep) -> float | None:
    return None if seconds is None else round(seconds * (1 - step.num_cached / step.num_actions), 1)


def last_states(store: Store, recipe: str, steps: list[str]) -> tuple[Run | None, dict[str, StepState]]:
    """Return the newest run of a recipe in a store, and the newest record of each step."""
    newest: Run | None = None
    found: dict[str, StepState] = {}
    for run_id in reversed(store.run_ids()):
        run = store.run(run_id)
        if run.recipe != recipe:
            continue
        newest = newest or run
        found = {**{state.name: state for state in run.steps}, **found}
        if all(step in found for step in steps):
            break
    return newest, found
