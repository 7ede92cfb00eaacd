"""Reachability in a store: the records, manifests and objects that runs need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starloom.lineage import keys
from starloom.lineage.errors import CorruptError, MissingError
from starloom.lineage.records import Action, Artifact, Part
from starloom.lineage.store import action_name, object_name

if TYPE_CHECKING:
    from starloom.lineage.store import Store


def artifact_name(name: str) -> str:
    """Return the name of a manifest in the store."""
    return f"artifacts/{name}.json"


def part_name(kind: str, part: Part) -> str:
    """Return the name of a part in the store; files of a file artifact share a folder, whatever its type."""
    return object_name("files" if part.name else kind, part.hash)


def objects_of(artifact: Artifact) -> list[str]:
    """Return the names of an artifact's objects."""
    return [part_name(artifact.type, part) for part in artifact.parts]


def shown_names(shown: dict[str, str]) -> set[str]:
    """Return the names of the files that an action or a step of a run shows."""
    return {object_name("files", digest) for digest in shown.values()}


def claims(action: Action) -> tuple[list[str], list[str]]:
    """Return (names of manifests, names of objects) that an action made; not the files it shows, for which no work is redone."""
    manifests = [artifact_name(out) for out in action.outputs.values() if isinstance(out, str)]
    objects = [part_name(kind, Part.from_json(out)) for kind, out in action.outputs.items() if not isinstance(out, str)]
    return manifests, objects


@dataclass
class Reach:
    """Names that are reached. What is named but not there is reached too, and reaches nothing."""

    store: Store
    names: set[str] = field(default_factory=set)

    def run(self, run_id: str) -> None:
        """Reach what a run made and read.

        Raises:
            CorruptError: if its record cannot be read.
        """
        run = self.store.run(run_id)
        self.names.add(f"runs/{run_id}/run.json")
        for step in run.steps:
            self.action(step.stage, step.key)
            self.names |= shown_names(step.shown)
            for out in step.outputs.values():
                self.artifact(out["artifact"])
            for ref in step.inputs.values():
                self.artifact(ref["artifact"])
                if ref["verdicts"]:
                    self.artifact(ref["verdicts"])

    def action(self, stage: str, key: str) -> None:
        """Reach an action, those on its parts, and what they made.

        Raises:
            CorruptError: if a record cannot be read: what it reaches is unknown.
        """
        name = action_name(stage, key)
        if name in self.names:
            return
        self.names.add(name)
        action = self.store.action(stage, key)
        if action is None:
            return
        for part in action.actions:
            self.action(stage, part)
        manifests, objects = claims(action)
        self.names |= set(objects) | shown_names(action.shown)
        for manifest in manifests:
            self.artifact(manifest.removeprefix("artifacts/").removesuffix(".json"))

    def artifact(self, name: str) -> None:
        """Reach a manifest and its objects.

        Raises:
            CorruptError: if the manifest does not match the hash in its name.
        """
        if artifact_name(name) in self.names:
            return
        self.names.add(artifact_name(name))
        try:
            artifact = self.store.artifact(name)
        except MissingError:
            return
        if keys.digest(artifact.to_json()) != name:
            raise CorruptError(
                f"{artifact_name(name)} has a hash mismatch: it is another manifest than its name",
                hint=f"run `starloom verify --repair{self.store.named}` first",
            )
        self.names |= set(objects_of(artifact))


def split_action(name: str) -> tuple[str, str]:
    """Return (stage, key) from the name of an action's record."""
    _, stage, _, file = name.split("/")
    return stage, file.removesuffix(".json")
