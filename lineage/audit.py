"""Verifying a store: every object hashed, every record held against what it says, each lie named.

What is checked, in this order: runs (their result against their outputs, keys against components), actions (key against
components and place, parts against the manifest that they make up), manifests (name against content) and objects (name
against bytes); and that whatever one of them names is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lineage import keys
from lineage.reach import artifact_name, claims, objects_of, split_action
from lineage.records import Action, Artifact, Components, Part, Run
from lineage.storage import LocalStorage
from lineage.store import action_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lineage.storage import Storage
    from lineage.store import Store

MISSING = "is missing"
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OSError)
"""What reading a damaged document raises."""


@dataclass(frozen=True, slots=True)
class Lie:
    """A name of the store that does not hold what it says."""

    name: str
    problem: str
    used_by: tuple[str, ...] = ()
    """Steps that made or read it, as RUN/STEP."""


@dataclass(frozen=True)
class Report:
    """What was checked and what was found, in the order of checking."""

    num_runs: int
    num_actions: int
    num_artifacts: int
    num_objects: int
    num_bytes: int
    lies: tuple[Lie, ...]


@dataclass
class _Contents:
    """Everything in the store that could be read."""

    runs: dict[str, Run] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    """Name → bytes."""
    problems: dict[str, str] = field(default_factory=dict)
    """Name → what is wrong with it; the first problem stands."""

    def lie(self, name: str, problem: str) -> None:
        self.problems.setdefault(name, problem)


def verify(store: Store, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> Report:
    """Check the whole store.

    Args:
        store: to check.
        on_progress: called with bytes hashed and bytes in all.
    """
    found = _read(store)
    for name, run in found.runs.items():
        _check_run(found, name, run)
    for name, action in found.actions.items():
        _check_action(found, name, action)
    for name, artifact in found.artifacts.items():
        _check_artifact(found, name, artifact)
    _check_objects(found, store.storage, on_progress)
    lies = tuple(Lie(name, problem, users) for (name, problem), users in zip(found.problems.items(), _users(found), strict=True))
    return Report(len(found.runs), len(found.actions), len(found.artifacts), len(found.objects), sum(found.objects.values()), lies)


def _read(store: Store) -> _Contents:
    found, storage = _Contents(), store.storage
    runs = [f"runs/{run_id}/run.json" for run_id in store.run_ids()]
    found.runs = dict(_parsed(found, storage, runs, Run.from_json))
    _ = dict(_parsed(found, storage, list(storage.names("tags")), lambda document: document["run"]))
    found.actions = dict(_parsed(found, storage, list(storage.names("actions")), Action.from_json))
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
                found.lie(name, f"cannot be read: {_told(document)}")
            else:
                yield name, document


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


# Checks


def _check_run(found: _Contents, name: str, run: Run) -> None:
    if name != f"runs/{run.id}/run.json":
        found.lie(name, f"is the record of the run {run.id}")
    if run.status == "done" and run.result != run.outcome():
        found.lie(name, f"says that its result is {run.result}; its outputs make {run.outcome()}")
    for step in run.steps:
        if (key := _key(step.components)) != step.key:
            found.lie(name, f"says that the key of {step.name} is {step.key[:12]}; its components make {key[:12]}")
        refs = [out["artifact"] for out in step.outputs.values()]
        refs += [ref[part] for ref in step.inputs.values() for part in ("artifact", "verdicts") if ref[part]]
        for ref in refs:
            _require(found, found.artifacts, artifact_name(ref))


def _check_action(found: _Contents, name: str, action: Action) -> None:
    stage, key = split_action(name)
    made = _key(action.components)
    if not key == action.key == made:
        found.lie(name, f"says that its key is {action.key[:12]}; its components make {made[:12]}")
    elif action.components.get("stage") != stage:
        found.lie(name, f"is of the stage {action.components.get('stage')}")
    manifests, objects = claims(action)
    for manifest in manifests:
        _require(found, found.artifacts, manifest)
    for part in objects:
        _require(found, found.objects, part)
    _check_parts(found, name, stage, action)


def _check_parts(found: _Contents, name: str, stage: str, action: Action) -> None:
    """Of a step: its parts' records are there, and name the parts of the manifest."""
    places = [action_name(stage, key) for key in action.actions]
    for place in places:
        _require(found, found.actions, place)
    for kind, output in action.outputs.items():
        artifact = found.artifacts.get(artifact_name(output)) if isinstance(output, str) else None
        if artifact is None or not places or any(place not in found.actions for place in places):
            continue
        if len(places) != len(artifact.parts):
            found.lie(name, f"has {len(places)} parts; its {kind} has {len(artifact.parts)}")
            continue
        for number, (place, part) in enumerate(zip(places, artifact.parts, strict=True)):
            if found.actions[place].outputs.get(kind) != part.to_json():
                found.lie(place, f"says that it made another {kind} than part {number} of {artifact_name(str(output))}")


def _check_artifact(found: _Contents, name: str, artifact: Artifact) -> None:
    if artifact_name(artifact.hash) != name:
        found.lie(name, f"is the manifest of {artifact.hash}")
        return
    for part in objects_of(artifact):
        _require(found, found.objects, part)


def _check_objects(found: _Contents, storage: Storage, on_progress: Callable[[int, int], None]) -> None:
    done, total = 0, sum(found.objects.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, digest in zip(found.objects, pool.map(lambda name: _digest(storage, name), found.objects), strict=True):
            said = name.rpartition("/")[2].removesuffix(".parquet")
            if digest != said:
                found.lie(name, digest if " " in digest else f"holds bytes whose SHA-256 is {digest}")
            done += found.objects[name]
            on_progress(done, total)


def _digest(storage: Storage, name: str) -> str:
    try:
        if isinstance(storage, LocalStorage):  # a checkpoint need not fit into memory; elsewhere a local copy proves nothing
            return keys.file_digest(storage.local(name))
        return hashlib.sha256(storage.read(name)).hexdigest()
    except OSError as error:
        return f"cannot be read: {_told(error)}"


def _key(components: dict[str, Any]) -> str:
    try:
        return Components(**components).key
    except TypeError as error:
        return f"nothing ({error})"


def _require(found: _Contents, known: dict[str, Any], name: str) -> None:
    if name not in known:
        found.lie(name, MISSING)


def _users(found: _Contents) -> Iterator[tuple[str, ...]]:
    """For each problem the steps that it touches, at most five."""
    users: dict[str, list[str]] = {}
    for run in found.runs.values() if found.problems else ():
        for step in run.steps:
            refs = [out["artifact"] for out in step.outputs.values()] + [ref["artifact"] for ref in step.inputs.values()]
            action = found.actions.get(action_name(step.stage, step.key))
            names = {action_name(step.stage, step.key), *(action_name(step.stage, key) for key in (action.actions if action else ()))}
            for manifest in map(artifact_name, refs):
                names |= {manifest, *(objects_of(found.artifacts[manifest]) if manifest in found.artifacts else ())}
            for name in names:
                users.setdefault(name, []).append(f"{run.id}/{step.name}")
    for name in found.problems:
        yield tuple(users.get(name, [])[:5])


# Repair


@dataclass(frozen=True)
class Repair:
    """What was done about the lies of a report."""

    removed: tuple[str, ...]
    """Damaged objects and manifests, and the records of actions that claim them."""
    set_aside: tuple[str, ...]
    """Runs and tags that cannot be trusted, moved below `damaged/`."""
    runs: tuple[str, ...]
    """Runs that miss something until it is made again."""


def repair(store: Store, report: Report) -> Repair:
    """Remove what is damaged and every record that claims it, so that the next run makes it again."""
    bad, storage = {lie.name for lie in report.lies}, store.storage
    found = _read(store)
    tainted = bad | {name for name, artifact in found.artifacts.items() if bad & set(objects_of(artifact))}
    actions = {name for name in bad if name.startswith("actions/")}
    actions |= {name for name, action in found.actions.items() if tainted & {name for names in claims(action) for name in names}}
    actions |= {name for name, action in found.actions.items() if actions & {action_name(split_action(name)[0], key) for key in action.actions}}
    reached = {artifact_name(out["artifact"]) for run in found.runs.values() for step in run.steps for out in step.outputs.values()}
    reached |= {artifact_name(ref[part]) for run in found.runs.values() for step in run.steps for ref in step.inputs.values() for part in ref if part != "type" and ref[part]}
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
    short = {user.partition("/")[0] for lie in report.lies for user in lie.used_by}
    return Repair(tuple(removed), tuple(aside), tuple(sorted(short)))
