"""Records: parts, artifacts, actions and runs, each a small JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from starloom.lineage import keys


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable object, named by the SHA-256 of its bytes."""

    hash: str
    num_rows: int
    num_bytes: int
    counts: dict[str, Any] = field(default_factory=dict)
    mask: str | None = None
    """Of verdicts: digest of which rows are still in; None when all are. Two verdicts with one mask select the same text."""
    name: str | None = None
    """Of a file artifact: the file's relative name."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document, without empty fields."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Part:
        """Return the part that `to_json` wrote."""
        return cls(**document)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An ordered list of parts in one type. Its name pins every byte under it."""

    type: str
    parts: tuple[Part, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of the manifest."""
        return keys.digest(self.to_json())

    @property
    def counts(self) -> dict[str, Any]:
        """Counts summed over parts."""
        total: dict[str, Any] = {"parts": len(self.parts), "bytes": sum(p.num_bytes for p in self.parts)}
        for part in self.parts:
            _add(total, {"rows": part.num_rows, **part.counts})
        return total

    def to_json(self) -> dict[str, Any]:
        """Return the manifest."""
        return {"type": self.type, "parts": [part.to_json() for part in self.parts]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Artifact:
        """Return the artifact that `to_json` wrote."""
        return cls(document["type"], tuple(Part.from_json(part) for part in document["parts"]))


def _add(total: dict[str, Any], counts: dict[str, Any]) -> None:
    for name, value in counts.items():
        if isinstance(value, dict):
            _add(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value


@dataclass(frozen=True, slots=True)
class Components:
    """All inputs of the hash that is an action's key."""

    stage: str
    code: dict[str, str]
    """File → digest of what the stage reaches in it."""
    config: dict[str, Any]
    libraries: dict[str, str]
    inputs: dict[str, Any]
    """Parameter → digest of the contents read, or one for each part."""
    format: int

    @property
    def key(self) -> str:
        """SHA-256 of all of it."""
        return keys.digest(asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Action:
    """One stage applied to one part, or to a whole: its inputs and outputs."""

    key: str
    components: dict[str, Any]
    outputs: dict[str, Any]
    """Type → part (of a part's action), or artifact hash (of a step's action)."""
    actions: tuple[str, ...] = ()
    """Of a step: keys of the actions on its parts."""
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    """When, on which host, at which commit, by which version."""
    shown: dict[str, str] = field(default_factory=dict)
    """Name → hash of files that the run shows: not artifacts, read by no stage."""

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Action:
        """Return the action that `to_json` wrote."""
        return cls(**{**document, "actions": tuple(document["actions"])})


@dataclass(slots=True)
class StepState:
    """The current state of one step of a run."""

    name: str
    stage: str
    key: str
    components: dict[str, Any]
    inputs: dict[str, Any]
    """Parameter → {"artifact": hash, "verdicts": hash or null, "type": name}."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Type → {"artifact": hash, "counts": {...}}."""
    config: dict[str, Any] = field(default_factory=dict)
    status: str = "pending"
    """pending, running, cached, done, failed, cancelled."""
    num_actions: int = 0
    num_cached: int = 0
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    """Name → hash of files that the step shows."""

    def finish(self, action: Action, outputs: dict[str, dict[str, Any]], status: str) -> None:
        """Record the outputs of a step: done now, or cached."""
        self.status, self.outputs, self.notes, self.shown = status, outputs, action.notes, action.shown
        if status == "cached":
            self.num_cached = self.num_actions


@dataclass(slots=True)
class Run:
    """One execution of a plan."""

    id: str
    recipe: str
    status: str
    """running (also of a run that was killed: see `starloom.lineage.leases.status`), done, failed, cancelled."""
    started: str
    finished: str | None = None
    result: str | None = None
    """Digest of every step's outputs: two runs with one result made the same bytes."""
    command: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)
    steps: list[StepState] = field(default_factory=list)
    error: str | None = None
    flow_run: str | None = None
    """Id of the orchestrator's run that carried it out."""
    plan: list[dict[str, Any]] = field(default_factory=list)
    """All steps, also those that were not reached, in order: `name`, and the steps that it `reads`."""

    def step(self, name: str) -> StepState | None:
        """Return the step of that name."""
        return next((step for step in self.steps if step.name == name), None)

    def outcome(self) -> str:
        """Return the digest of every step's outputs."""
        return keys.digest({step.name: {kind: out["artifact"] for kind, out in step.outputs.items()} for step in self.steps})

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Run:
        """Return the run that `to_json` wrote."""
        return cls(**{**document, "steps": [StepState(**step) for step in document["steps"]]})
