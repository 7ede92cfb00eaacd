"""Walking a plan: binding each step to what the steps above it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.tasks.frame.step import Bound, Ref, Standing, outputs, snapshots, standing
from starloom.tasks.schemas import Record, Repositories, StepRecord

if TYPE_CHECKING:
    from starloom.flows.plan import Plan, Step
    from starloom.lineage.records import Action
    from starloom.lineage.store import Store


class Walk:
    """What is known of a plan so far: the artifacts that its steps wrote."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self.refs: dict[str, dict[str, Ref]] = {}
        self.written: dict[str, dict[str, dict[str, Any]]] = {}
        """Step → type → {"artifact": hash, "counts": {...}}."""
        self._repositories: dict[str, Any] = {}

    def waits_on(self, step: Step) -> list[str]:
        """Steps that must be done before this one, and are not."""
        needed = list(step.wiring.values())
        if Record in step.stage.inputs.values():
            needed += [above.name for above in self._above(step)]
        return [name for name in dict.fromkeys(needed) if name not in self.refs]

    def bind(self, step: Step) -> Bound:
        """The step with everything that it reads. All that it waits on must be done."""
        refs = {name: self.refs[producer][step.stage.inputs[name].__name__] for name, producer in step.wiring.items()}
        repositories: Any = ()
        if Repositories in step.stage.inputs.values():
            if step.name not in self._repositories:
                self._repositories[step.name] = snapshots(step.config, self.store)
            repositories = self._repositories[step.name]
        record = self.record(step) if Record in step.stage.inputs.values() else None
        return Bound(step.name, step.stage, step.config, refs, repositories, record)

    def standing(self, bound: Bound) -> Standing:
        """Which of its actions are done."""
        return standing(bound, self.store)

    def settle(self, bound: Bound, action: Action) -> dict[str, dict[str, Any]]:
        """Note what a finished step wrote; returns type → artifact and counts."""
        written = {kind: {"artifact": name, "counts": self.store.artifact(name).counts} for kind, name in action.outputs.items()}
        self.written[bound.name] = written
        self.refs[bound.name] = outputs(bound, action)
        return written

    def record(self, step: Step) -> Record:
        """The account of the steps above, without clocks or paths."""
        done = [StepRecord(above.name, above.stage.label, above.config.identity(), self.written[above.name]) for above in self._above(step)]
        return Record(self.plan.recipe.name, tuple(done))

    def _above(self, step: Step) -> tuple[Step, ...]:
        names = [other.name for other in self.plan.steps]
        return self.plan.steps[: names.index(step.name)]
