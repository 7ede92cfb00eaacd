"""What a run would do, and why: for each step cached, will run (with the component that changed) or waits on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from starloom.flows.plan import below
from starloom.flows.walk import Walk

if TYPE_CHECKING:
    from starloom.flows.plan import Plan
    from starloom.lineage.records import Components, Run, StepState
    from starloom.lineage.store import Store
    from starloom.tasks.frame.step import Standing

SHOWN_REASONS = 4
SHOWN_PARTS = 8
SHOWN_LENGTH = 60
GONE = ("its result is no longer in the store",)
ENDED = {"running": "killed", "pending": "killed"}
"""Of a step that wrote nothing: what became of it, where its record does not know."""


@dataclass(frozen=True)
class Outlook:
    """What would become of one step."""

    step: str
    status: Literal["cached", "run", "waits"]
    reasons: tuple[str, ...]
    num_actions: int | None
    num_cached: int | None
    seconds: float | None
    """What it took last time, in all; None if unknown."""
    told: str | None = None
    """What the step has to say of its result, if that is there; else of its sources."""


def outlook(plan: Plan, store: Store, forced: set[str], before: dict[str, StepState]) -> tuple[list[Outlook], Walk]:
    """The outlook of every step, in order, and the walk as far as it could go without running anything."""
    walk, found = Walk(plan, store), []
    for step in plan.steps:
        last = before.get(step.name)
        seconds = _took(store, last)
        waits = walk.waits_on(step)
        if waits and step.name in forced:
            found.append(Outlook(step.name, "run", ("forced",), None, None, seconds))
            continue
        if waits:
            found.append(Outlook(step.name, "waits", (f"runs if the output of {' or '.join(waits[:3])} changes",), None, None, seconds))
            continue
        bound = walk.bind(step)
        stands = walk.standing(bound)
        if step.name in forced:
            found.append(Outlook(step.name, "run", ("forced",), stands.num_actions, 0, seconds))
        elif stands.step is not None:
            walk.settle(bound, stands.step)
            found.append(Outlook(step.name, "cached", (), stands.num_actions, stands.num_actions, 0.0, stands.step.notes.get("told")))
        else:
            why = reasons(stands.components, last.components if last else None)
            if why == GONE and last is not None and not last.outputs:
                why = (f"{ENDED.get(last.status, last.status)} last time",)
            told = "; ".join(dict.fromkeys(each.note for part in bound.repositories for each in part if each.note)) or None
            found.append(Outlook(step.name, "run", why, stands.num_actions, stands.num_cached, _left(seconds, stands), told))
    return found, walk


def forced_steps(plan: Plan, force: list[str], start: str | None) -> set[str]:
    """Steps to redo although their results are there: each of `force`, and with `start` that step and all below it."""
    found = set()
    for name in force:
        found |= {plan.step(name).name} | {step.name for step in plan.steps if step.half_of == name}
    return found | (below(plan, start) if start else set())


def _took(store: Store, last: StepState | None) -> float | None:
    """Seconds of a step when all of it was last done; the record of its action knows them where the last run took some from the store."""
    if last is None:
        return None
    if last.status == "done" and not last.num_cached:
        return last.seconds
    action = store.action(last.stage, last.key)
    return None if action is None else action.seconds


def reasons(now: Components, before: dict[str, Any] | None) -> tuple[str, ...]:
    """The components in which an action differs from the one of the last run; at most a few."""
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


def _left(seconds: float | None, stands: Standing) -> float | None:
    return None if seconds is None else round(seconds * (1 - stands.num_cached / stands.num_actions), 1)


def last_states(store: Store, recipe: str, steps: list[str]) -> tuple[Run | None, dict[str, StepState]]:
    """The newest run of a recipe in a store, and of each step the newest record."""
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
