"""Verification of a store: every object is hashed, every record compared with its contents, each mismatch reported.

What is checked, in this order: manifests (name against content), runs (result against outputs, keys against components),
actions (key against components and place, parts against the manifest that they make up), objects (name against bytes);
and that whatever one of them names is there.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starloom.lineage.reach import artifact_name, claims, objects_of, split_action
from starloom.lineage.records import Action, Artifact, Components, Run
from starloom.lineage.store import action_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from starloom.lineage.records import StepState
    from starloom.lineage.storage import Storage
    from starloom.lineage.store import Store

MISSING = "is missing"
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OSError)
"""What reading a damaged document raises."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A name of the store whose content does not match it: a hash mismatch, or a missing or unreadable file."""

    name: str
    problem: str
    used_by: tuple[str, ...] = ()
    """Steps that made or read it, as RUN/STEP."""


@dataclass(frozen=True)
class Report:
    """The result of a verification: counts of what was checked, and mismatches, in the order of checking."""

    num_runs: int
    num_actions: int
    num_artifacts: int
    num_objects: int
    num_bytes: int
    mismatches: tuple[Mismatch, ...]


@dataclass
class _Contents:
    """Everything in the store that could be read."""

    runs: dict[str, Run] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    """Name → bytes."""
    problems: dict[str, str] = field(default_factory=dict)
    """Name → its problem; the first one is kept."""

    def add_mismatch(self, name: str, problem: str) -> None:
        self.problems.setdefault(name, problem)


def verify(store: Store, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> Report:
    """Check the whole store.

    Args:
        store: to check.
        on_progress: called with bytes hashed and bytes in all.
    """
    found = _read(store)
    for name, artifact in list(found.artifacts.items()):
        if artifact_name(artifact.hash) != name:
            found.add_mismatch(name, f"is the manifest of {artifact.hash}")
            del found.artifacts[name]  # nothing else is compared with it
    for name, run in found.runs.items():
        _check_run(found, name, run)
    for artifact in found.artifacts.values():
        _require(found, found.objects, objects_of(artifact))
    for name, action in found.actions.items():
        _check_action(found, name, action)
        _check_parts(found, name, action)
    for name, action in found.actions.items():
        _check_claims(found, name, action)
    _check_objects(found, store.storage, on_progress)
    mismatches = tuple(Mismatch(name, problem, users) for (name, problem), users in zip(found.problems.items(), _users(found), strict=True))
    return Report(len(found.runs), len(found.actions), len(found.artifacts), len(found.objects), sum(found.objects.values()), mismatches)


def _read(store: Store) -> _Contents:
    found, storage = _Contents(), store.storage
    runs = [f"runs/{run_id}/run.json" for run_id in store.run_ids()]
    found.runs = dict(_parsed(found, storage, runs, _run))
    _ = dict(_parsed(found, storage, list(storage.names("tags")), lambda document: document["run"]))
    found.actions = dict(_parsed(found, storage, list(storage.names("actions")), _action))
    found.artifacts = dict(_parsed(found, storage, list(storage.names("artifacts")), Artifact.from_json))
    found.objects = {name: storage.num_bytes(name) for name in storage.names("objects")}
    return found


def _parsed(found: _Contents, storage: Storage, names: Sequence[str], parse: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    def read(name: str) -> Any:
        try:
            return parse(json.loads(storage.read(name)))
        except _UNREADABLE as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, document in zip(names, pool.map(read, names), strict=True):
            if isinstance(document, Exception):
                found.add_mismatch(name, f"cannot be read: {_told(document)}")
            else:
                yield name, document


def _run(document: Any) -> Run:
    run = Run.from_json(document)
    for step in run.steps:
        _named(step)  # raises unless the step names its inputs and outputs
    return run


def _action(document: Any) -> Action:
    action = Action.from_json(document)
    claims(action)  # raises unless it names its outputs
    return action


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


# Checks


def _check_run(found: _Contents, name: str, run: Run) -> None:
    if name != f"runs/{run.id}/run.json":
        found.add_mismatch(name, f"is the record of the run {run.id}")
    if run.status == "done" and run.result != run.outcome():
        found.add_mismatch(name, f"records the result {run.result}, but its outputs hash to {run.outcome()}")
    for step in run.steps:
        if (key := _key(step.components)) != step.key:
            found.add_mismatch(name, f"records the key {step.key[:12]} for {step.name}, but its components hash to {key[:12]}")
        _require(found, found.artifacts, _named(step))


def _named(step: StepState) -> list[str]:
    """Return the manifests that a step of a run names."""
    read = [ref[part] for ref in step.inputs.values() for part in ("artifact", "verdicts") if ref[part]]
    return [artifact_name(hash_) for hash_ in [*(out["artifact"] for out in step.outputs.values()), *read]]


def _require(found: _Contents, known: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            found.add_mismatch(name, MISSING)


def _check_action(found: _Contents, name: str, action: Action) -> None:
    stage, key = split_action(name)
    made = _key(action.components)
    if not key == action.key == made:
        found.add_mismatch(name, f"records the key {action.key[:12]}, but its components hash to {made[:12]}")
    elif action.components.get("stage") != stage:
        found.add_mismatch(name, f"is of the stage {action.components.get('stage')}")


def _check_parts(found: _Contents, name: str, action: Action) -> None:
    """Check that the parts of a step's manifest are those that its parts' actions made."""
    places = _parts_of(name, action)
    for kind, output in action.outputs.items():
        artifact = found.artifacts.get(artifact_name(output)) if isinstance(output, str) else None
        if artifact is None or not places or any(place not in found.actions for place in places):
            continue
        if len(places) != len(artifact.parts):
            found.add_mismatch(name, f"has {len(places)} parts; its {kind} has {len(artifact.parts)}")
            continue
        for number, (place, part) in enumerate(zip(places, artifact.parts, strict=True)):
            if found.actions[place].outputs.get(kind) != part.to_json():
                found.add_mismatch(place, f"records another {kind} than part {number} of {artifact_name(str(output))}")


def _parts_of(name: str, action: Action) -> list[str]:
    stage, _ = split_action(name)
    return [action_name(stage, key) for key in action.actions]


def _check_claims(found: _Contents, name: str, action: Action) -> None:
    """Check that an action's outputs exist. A name that a run or manifest misses as well is reported once, by itself."""
    manifests, objects = claims(action)
    missing = [claim for claim in manifests if claim not in found.artifacts]
    missing += [claim for claim in objects if claim not in found.objects]
    missing += [place for place in _parts_of(name, action) if place not in found.actions]
    for claim in missing:
        if claim not in found.problems:
            found.add_mismatch(name, f"claims {claim}, which is missing")


def _check_objects(found: _Contents, storage: Storage, on_progress: Callable[[int, int], None]) -> None:
    done, total = 0, sum(found.objects.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, digest in zip(found.objects, pool.map(lambda name: _digest(storage, name), found.objects), strict=True):
            expected = name.rpartition("/")[2].removesuffix(".parquet")
            if digest != expected:
                found.add_mismatch(name, digest if " " in digest else f"has a hash mismatch: its bytes have the SHA-256 {digest}")
            done += found.objects[name]
            on_progress(done, total)


def _digest(storage: Storage, name: str) -> str:
    try:
        return storage.digest(name)
    except OSError as error:
        return f"cannot be read: {_told(error)}"


def _key(components: dict[str, Any]) -> str:
    try:
        return Components(**components).key
    except TypeError as error:
        return f"nothing ({error})"


def _users(found: _Contents) -> Iterator[tuple[str, ...]]:
    """Return for each problem the steps that it affects."""
    users: dict[str, list[str]] = {}
    for run in found.runs.values() if found.problems else ():
        for step in run.steps:
            place = action_name(step.stage, step.key)
            action = found.actions.get(place)
            names = {place, *(_parts_of(place, action) if action else ())}
            for manifest in _named(step):
                names |= {manifest, *(objects_of(found.artifacts[manifest]) if manifest in found.artifacts else ())}
            for name in names:
                users.setdefault(name, []).append(f"{run.id}/{step.name}")
    for name in found.problems:
        yield tuple(users.get(name, []))


# Repair


@dataclass(frozen=True)
class Repair:
    """The repair of the mismatches of a report."""

    removed: tuple[str, ...]
    """Damaged objects and manifests, and the records of actions that claim them."""
    set_aside: tuple[str, ...]
    """Damaged runs and tags, moved below `damaged/`."""
    runs: tuple[str, ...]
    """Runs with missing outputs until those are made again."""


def repair(store: Store, report: Report) -> Repair:
    """Remove what is damaged and every record that claims it, so that the next run makes it again."""
    bad, storage = {mismatch.name for mismatch in report.mismatches}, store.storage
    found = _read(store)
    tainted = bad | {name for name, artifact in found.artifacts.items() if bad & set(objects_of(artifact))}
    actions = {name for name in bad if name.startswith("actions/")}
    actions |= {name for name, action in found.actions.items() if tainted & {name for names in claims(action) for name in names}}
    actions |= {name for name, action in found.actions.items() if actions & set(_parts_of(name, action))}
    reached = {manifest for run in found.runs.values() for step in run.steps for manifest in _named(step)}
    removed = sorted(actions)
    removed += sorted(name for name in bad if name.startswith("objects/"))
    removed += sorted(name for name in tainted if name.startswith("artifacts/") and (name in bad or name not in reached))
    removed = [name for name in removed if storage.exists(name)]
    for name in removed:  # records before what they name: a crash here leaves nothing that claims too much
        storage.delete(name)
    aside = sorted(name for name in bad if name.startswith(("runs/", "tags/")) and storage.exists(name))
    for name in aside:
        storage.write(f"damaged/{name}", storage.read(name))
        storage.delete(name)
    short = {user.partition("/")[0] for mismatch in report.mismatches for user in mismatch.used_by}
    return Repair(tuple(removed), tuple(aside), tuple(sorted(short)))
