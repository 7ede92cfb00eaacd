"""A stage bound to its inputs: what it reads, the keys that follow, and which of its actions are done already."""

from __future__ import annotations

import functools
import importlib.metadata
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from starloom.lineage import code, keys
from starloom.lineage.errors import ConfigError, StageError
from starloom.lineage.records import Components
from starloom.lineage.store import FORMAT
from starloom.lineage.views import Files, Tabular
from starloom.tasks.schemas import ARTIFACTS, Record, Repositories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starloom.lineage.records import Action, Artifact
    from starloom.lineage.store import Store
    from starloom.tasks.frame.stage import Config, Stage
    from starloom.tasks.kernels.sources.repositories import RepositorySnapshot


@dataclass(frozen=True, slots=True)
class Ref:
    """A small frozen reference to an artifact: all that crosses a task's border."""

    type: str
    artifact: str
    verdicts: str | None = None
    """Of Docs: the verdicts that say which of the text's rows are still in."""


@dataclass(frozen=True)
class Bound:
    """A stage with its configuration and everything that it will read."""

    name: str
    stage: Stage
    config: Config
    refs: dict[str, Ref] = field(default_factory=dict)
    """Parameter → what it reads; without those optional inputs that nothing above writes."""
    repositories: tuple[tuple[RepositorySnapshot, ...], ...] = ()
    record: Record | None = None


@dataclass(frozen=True)
class Contents:
    """What a bound stage reads, by content. Refs stay the same while their contents may not, and the other way round."""

    by_part: dict[str, list[str]]
    """Parameter → one digest for each part."""
    whole: dict[str, str]
    """Parameter → digest, for what has no parts."""

    @property
    def num_parts(self) -> int:
        """Parts of the corpus that the stage reads."""
        return len(next(iter(self.by_part.values()), []))


@dataclass(frozen=True)
class Standing:
    """How much of a step is done already."""

    components: Components
    step: Action | None
    part_components: tuple[Components, ...] = ()
    parts: tuple[Action | None, ...] = ()
    """Of a part-wise stage, when the step as a whole is not done."""

    @property
    def is_cached(self) -> bool:
        """Whether nothing has to run."""
        return self.step is not None

    @property
    def num_actions(self) -> int:
        """Actions of the step."""
        return max(1, len(self.part_components)) if self.step is None else max(1, len(self.step.actions))

    @property
    def num_cached(self) -> int:
        """Actions that need not run."""
        return self.num_actions if self.step is not None else sum(action is not None for action in self.parts)


def contents(bound: Bound, store: Store) -> Contents:
    """The contents that a bound stage reads.

    Raises:
        StageError: if inputs of a part-wise stage are cut differently.
    """
    by_part: dict[str, list[str]] = {}
    whole: dict[str, str] = {}
    for parameter, kind in bound.stage.inputs.items():
        if kind is Repositories:
            by_part[parameter] = [keys.digest([snapshot.digest for snapshot in part]) for part in bound.repositories]
        elif kind is Record:
            whole[parameter] = keys.digest(asdict(bound.record)) if bound.record else ""
        elif parameter in bound.stage.optional and parameter not in bound.refs:
            continue  # what is absent is no part of a key
        elif issubclass(kind, Tabular):
            by_part[parameter] = _part_digests(bound.refs[parameter], store)
        else:
            whole[parameter] = bound.refs[parameter].artifact
    if bound.stage.over == "parts" and len({len(digests) for digests in by_part.values()}) > 1:
        raise StageError(
            f"{bound.name} reads inputs cut into different parts: " + ", ".join(f"{name} has {len(d)}" for name, d in by_part.items()),
            hint="use `from:` to take inputs that descend from one corpus",
        )
    return Contents(by_part, whole)


def _part_digests(ref: Ref, store: Store) -> list[str]:
    parts = store.artifact(ref.artifact).parts
    if ref.verdicts is None:
        return [part.hash for part in parts]
    masks = [part.mask for part in store.artifact(ref.verdicts).parts]
    return [part.hash if mask is None else keys.digest([part.hash, mask]) for part, mask in zip(parts, masks, strict=True)]


def standing(bound: Bound, store: Store) -> Standing:
    """Which actions of a bound stage are done. Reads one record when all are."""
    read, digests = contents(bound, store), _code(bound.stage, store)
    components = _components(bound, digests, {**read.by_part, **read.whole})
    done = store.action(bound.stage.label, components.key)
    if done is not None or bound.stage.over == "whole":
        return Standing(components, done)
    each = tuple(
        _components(bound, digests, {**{name: parts[i] for name, parts in read.by_part.items()}, **read.whole})
        for i in range(read.num_parts)
    )
    return Standing(components, None, each, tuple(store.action(bound.stage.label, c.key) for c in each))


def _components(bound: Bound, digests: dict[str, str], inputs: dict[str, Any]) -> Components:
    stage = bound.stage
    return Components(
        stage=stage.label,
        code=digests,
        config=bound.config.identity(),
        libraries={name: _version(name) for name in stage.libraries},
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
    extra = "[train]" if distribution in {"torch", "accelerate", "safetensors"} else ""
    return f"pip install 'starloom{extra}'"


def outputs(bound: Bound, action: Action) -> dict[str, Ref]:
    """What a finished step gives to the steps below it: its artifacts, and after verdicts the Docs they leave."""
    refs = {kind: Ref(kind, artifact) for kind, artifact in action.outputs.items()}
    if "Verdicts" in refs:
        docs = next(bound.refs[name] for name, kind in bound.stage.inputs.items() if kind is ARTIFACTS["Docs"])
        refs["Docs"] = Ref("Docs", docs.artifact, refs["Verdicts"].artifact)
    return refs


def gather(kind: type, parts: Sequence[Action]) -> Artifact:
    """The artifact of a part-wise step from the outputs of its actions."""
    from starloom.lineage.records import Artifact, Part

    name = kind.__name__
    assert issubclass(kind, (Tabular, Files))
    return Artifact(name, tuple(Part.from_json(action.outputs[name]) for action in parts))


def notes_of(parts: Sequence[Action]) -> dict[str, Any]:
    """What there is to say of a part-wise step: what holds for all its parts, and the sums of what they counted."""
    counts: Counter[str] = Counter()
    for action in parts:
        counts.update(action.notes.get("counts", {}))
    first = parts[0].notes if parts else {}
    notes = {
        name: value for name, value in first.items() if name not in ("part", "counts") and all(a.notes.get(name) == value for a in parts)
    }
    told = list(dict.fromkeys(action.notes["told"] for action in parts if "told" in action.notes))
    notes = {**notes, "told": "; ".join(told)} if told else notes
    return {**notes, **({"counts": dict(counts)} if counts else {})}


def snapshots(config: Config, store: Store) -> tuple[tuple[RepositorySnapshot, ...], ...]:
    """The repositories that `ingest` would read now, cut into parts. Files whose stat is unchanged are not read again."""
    from starloom.tasks.ingest import Ingest, partition, snapshot

    assert isinstance(config, Ingest)
    cache = store.index("sources")
    found = snapshot(config.sources, config.seed, cache)
    store.put_index("sources", cache)
    return tuple(tuple(part) for part in partition(found, config.part_bytes))
