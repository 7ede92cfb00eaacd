"""A step resolved against the store: its inputs, their keys, and which of its actions are cached."""

from __future__ import annotations

import functools
import importlib.metadata
import unicodedata
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from starloom.lineage import code, keys
from starloom.lineage.errors import ConfigError, StageError
from starloom.lineage.records import Components
from starloom.lineage.store import FORMAT
from starloom.lineage.views import Tabular
from starloom.tasks.schemas import ARTIFACTS, Record, Repositories

if TYPE_CHECKING:
    from starloom.lineage.records import Action
    from starloom.lineage.store import Store
    from starloom.tasks.frame.stage import Config, Stage
    from starloom.tasks.kernels.sources.units import Unit


@dataclass(frozen=True, slots=True)
class Ref:
    """A small frozen reference to an artifact: all that crosses a task's border."""

    type: str
    artifact: str
    verdicts: str | None = None
    """Of Docs: the verdicts that say which of the text's rows are still in."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a step."""

    refs: dict[str, Ref] = field(default_factory=dict)
    """Parameter → artifact; without those optional inputs that nothing above writes."""
    repositories: tuple[tuple[Unit, ...], ...] = ()
    """Of a stage that reads sources: the repositories of each part."""
    record: Record | None = None
    """Of a stage that reads the record of the steps above."""


@dataclass(frozen=True)
class ResolvedStep:
    """A step of which all but the results is known: its inputs, the keys that follow, and which of its actions are done."""

    name: str
    stage: Stage
    config: Config
    inputs: Inputs
    components: Components
    done: Action | None
    """Of the whole step, if it is done."""
    part_components: tuple[Components, ...] = ()
    parts: tuple[Action | None, ...] = ()
    """Of a part-wise step that is not done: the action of each part, if that is."""

    @property
    def num_actions(self) -> int:
        """Actions of the step."""
        return max(1, len(self.part_components)) if self.done is None else max(1, len(self.done.actions))

    @property
    def num_cached(self) -> int:
        """Actions that need not run."""
        return self.num_actions if self.done is not None else sum(action is not None for action in self.parts)


def resolve(name: str, stage: Stage, config: Config, inputs: Inputs, store: Store) -> ResolvedStep:
    """Find the keys of a step, and which of its actions are done. Reads one record when all are.

    Raises:
        StageError: if inputs of a part-wise stage are cut differently.
        ConfigError: if a library that the stage needs is not installed.
    """
    by_part, whole = _digests_of_inputs(name, stage, inputs, store)
    digests = _code(stage, store)
    components = _components(stage, config, digests, {**by_part, **whole})
    done = store.action(stage.label, components.key)
    if done is not None or stage.over == "whole":
        return ResolvedStep(name, stage, config, inputs, components, done)
    num_parts = len(next(iter(by_part.values()), []))
    each = tuple(
        _components(stage, config, digests, {**{parameter: parts[i] for parameter, parts in by_part.items()}, **whole})
        for i in range(num_parts)
    )
    parts = tuple(store.action(stage.label, components.key) for components in each)
    return ResolvedStep(name, stage, config, inputs, components, None, each, parts)


def _digests_of_inputs(name: str, stage: Stage, inputs: Inputs, store: Store) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the digests of a step's inputs: parameter → a digest for each part, and parameter → digest for what has no parts.

    Refs stay the same while their contents may not, and the other way round.
    """
    by_part: dict[str, list[str]] = {}
    whole: dict[str, str] = {}
    for parameter, kind in stage.inputs.items():
        if kind is Repositories:
            by_part[parameter] = [keys.digest([snapshot.digest for snapshot in part]) for part in inputs.repositories]
        elif kind is Record:
            whole[parameter] = keys.digest(asdict(inputs.record)) if inputs.record else ""
        elif parameter in stage.optional and parameter not in inputs.refs:
            continue  # what is absent is no part of a key
        elif issubclass(kind, Tabular):
            by_part[parameter] = _part_digests(inputs.refs[parameter], store)
        else:
            whole[parameter] = inputs.refs[parameter].artifact
    if stage.over == "parts" and len({len(digests) for digests in by_part.values()}) > 1:
        raise StageError(
            f"{name} reads inputs cut into different parts: " + ", ".join(f"{name} has {len(d)}" for name, d in by_part.items()),
            hint="use `from:` to take inputs that descend from one corpus",
        )
    return by_part, whole


def _part_digests(ref: Ref, store: Store) -> list[str]:
    parts = store.artifact(ref.artifact).parts
    if ref.verdicts is None:
        return [part.hash for part in parts]
    masks = [part.mask for part in store.artifact(ref.verdicts).parts]
    return [part.hash if mask is None else keys.digest([part.hash, mask]) for part, mask in zip(parts, masks, strict=True)]


def _components(stage: Stage, config: Config, digests: dict[str, str], inputs: dict[str, Any]) -> Components:
    return Components(
        stage=stage.label,
        code=digests,
        config=config.identity(),
        libraries={name: _version(name) for name in (*stage.libraries, *config.libraries())},
        inputs=inputs,
        format=FORMAT,
    )


_digests: dict[tuple[str, str], dict[str, str]] = {}
"""Of stages, for as long as this process lives: it runs the code that it started with."""


def _code(stage: Stage, store: Store) -> dict[str, str]:
    named = (stage.module, stage.name)
    if named not in _digests:
        reader = _reader(store)
        _digests[named] = code.digests(*named, runs=stage.runs, reader=reader)
        if reader.grew:
            store.put_index("code", dict(reader.memory))
            reader.grew = False
    return _digests[named]


_readers: dict[str, code.Reader] = {}
"""By the URL of the store that remembers what was read."""


def _reader(store: Store) -> code.Reader:
    if store.url not in _readers:
        _readers[store.url] = code.Reader(store.index("code"))
    return _readers[store.url]


@functools.cache
def _version(distribution: str) -> str:
    if distribution == "unicodedata":  # Python's own tables of characters: another Python may have others
        return unicodedata.unidata_version
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"{distribution} is not installed, and a stage of the recipe needs it", hint=_install_hint(distribution)
        ) from error


def _install_hint(distribution: str) -> str:
    extras = {"[train]": {"torch", "accelerate", "safetensors"}, "[languages]": {"magika", "onnxruntime"}}
    extra = next((extra for extra, names in extras.items() if distribution in names), "")
    return f"pip install 'starloom{extra}'"


def offered(step: ResolvedStep, action: Action) -> dict[str, Ref]:
    """Return a finished step's outputs for the steps below it, by type: its artifacts, and after verdicts the Docs that they keep."""
    refs = {kind: Ref(kind, artifact) for kind, artifact in action.outputs.items()}
    if "Verdicts" in refs:
        docs = next(step.inputs.refs[name] for name, kind in step.stage.inputs.items() if kind is ARTIFACTS["Docs"])
        refs["Docs"] = Ref("Docs", docs.artifact, refs["Verdicts"].artifact)
    return refs


def find_repositories(config: Config, store: Store) -> tuple[tuple[Unit, ...], ...]:
    """Return the repositories that `ingest` would read now, cut into parts. Files whose stat is unchanged are not read again."""
    from starloom.tasks.ingest import Ingest, partition, snapshot

    assert isinstance(config, Ingest)
    cache = store.index("sources")
    found = snapshot(config.sources, config.seed, cache)
    store.put_index("sources", cache)
    return tuple(tuple(part) for part in partition(found, config.part_bytes))
