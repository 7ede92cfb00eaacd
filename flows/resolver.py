"""Resolution of a plan from its top: each step once its inputs exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.tasks.frame.step import Inputs, Ref, ResolvedStep, find_repositories, offered, resolve
from starloom.tasks.schemas import Record, Repositories, StepRecord

if TYPE_CHECKING:
    from starloom.flows.plan import Plan, Step
    from starloom.lineage.records import Action
    from starloom.lineage.store import Store


class Resolver:
    """The state of a plan so far: the artifacts that its steps wrote."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self.outputs: dict[str, dict[str, dict[str, Any]]] = {}
        """Of finished steps: step → type → {"artifact": hash, "counts": {...}}."""
        self._offered: dict[str, dict[str, Ref]] = {}
        self._repositories: dict[str, Any] = {}

    def waits_on(self, step: Step) -> list[str]:
        """Return the steps that must be done before this one and are not."""
        needed = list(step.wiring.values())
        if Record in step.stage.inputs.values():
            needed += [above.name for above in self._above(step)]
        return [name for name in dict.fromkeys(needed) if name not in self.outputs]

    def resolve(self, step: Step) -> ResolvedStep:
        """Return the step with its inputs and keys. All steps that it waits on must be done."""
        refs = {name: self._offered[producer][step.stage.inputs[name].__name__] for name, producer in step.wiring.items()}
        kinds = step.stage.inputs.values()
        inputs = Inputs(
            refs, self._repositories_of(step) if Repositories in kinds else (), self._record_above(step) if Record in kinds else None
        )
        return resolve(step.name, step.stage, step.config, inputs, self.store)

    def settle(self, step: ResolvedStep, action: Action) -> None:
        """Record the outputs of a finished step."""
        self.outputs[step.name] = {
            kind: {"artifact": name, "counts": self.store.artifact(name).counts} for kind, name in action.outputs.items()
        }
        self._offered[step.name] = offered(step, action)

    def _repositories_of(self, step: Step) -> Any:
        """Find the repositories once, so that plan and run see the same."""
        if step.name not in self._repositories:
            self._repositories[step.name] = find_repositories(step.config, self.store)
        return self._repositories[step.name]

    def _record_above(self, step: Step) -> Record:
        """Return the record of the steps above, without clocks or paths."""
        above = self._above(step)
        return Record(
            self.plan.recipe.name,
            tuple(StepRecord(one.name, one.stage.label, one.config.identity(), self.outputs[one.name]) for one in above),
        )

    def _above(self, step: Step) -> tuple[Step, ...]:
        names = [other.name for other in self.plan.steps]
        return self.plan.steps[: names.index(step.name)]
