"""The recipes that a console offers: read when they change, planned when asked."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starloom.console.forms import Group, groups_of
from starloom.flows.forms import FORCE, UNTIL, knobs_of, request_of, schema_of
from starloom.flows.plan import Plan, make_plan
from starloom.flows.recipe import load
from starloom.flows.run import Prepared, prepare, store_of
from starloom.lineage.errors import InputError, StarloomError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starloom.console.settings import Settings


@dataclass(frozen=True)
class Known:
    """A recipe as it stands in its file now."""

    path: Path
    stamp: tuple[int, int]
    plan: Plan | None
    schema: dict[str, Any]
    groups: list[Group]
    problem: StarloomError | None = None

    known_as: str | None = None
    """The name that it had when it could last be read."""

    @property
    def name(self) -> str:
        """Its name; if it cannot be read the one that it had, or that of the file."""
        return self.plan.recipe.name if self.plan else self.known_as or self.path.stem

    def store_url(self, run_store: str | None) -> str | None:
        """Return the store of its runs; None if it cannot be read."""
        return run_store or (store_of(self.plan.recipe) if self.plan else None)

    def parameters_of_run(self, command: list[str]) -> dict[str, Any]:
        """Return what a run was given, by its recorded words, as parameters; nothing where the recipe no longer takes them."""
        given: dict[str, list[str]] = {}
        words = iter(command)
        for word in words:
            flag, is_joined, value = word.partition("=")
            if flag in ("--set", "--force", "--until"):
                given.setdefault(flag, []).append(value if is_joined else next(words, ""))
        try:
            recipe = load(self.path, given.get("--set", []))
        except StarloomError:
            return {}
        assert self.plan is not None
        before = {step.name: knobs_of(step) for step in self.plan.recipe.steps}
        found: dict[str, Any] = {}
        for step in recipe.steps:
            changed = {name: value for name, value in knobs_of(step).items() if value != before.get(step.name, {}).get(name)}
            found |= {step.name: changed} if changed else {}
        found |= {FORCE: given["--force"]} if "--force" in given else {}
        return {**found, UNTIL: given["--until"][-1]} if "--until" in given else found


class Recipes:
    """The recipes of a console, by name."""

    def __init__(self, settings: Settings) -> None:
        self._paths = settings.recipes
        self._store = settings.run_store
        self._known: dict[Path, Known] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Known]:
        """Return all recipes; one that has become invalid says why."""
        with self._lock:
            return [self._read(path) for path in self._paths]

    def get(self, name: str) -> Known:
        """Return the recipe of that name.

        Raises:
            InputError: there is none.
            StarloomError: it is invalid.
        """
        found = self.all()
        for one in found:
            if one.name == name:
                if one.problem is not None:
                    raise one.problem
                return one
        raise InputError(f"the console offers no recipe {name!r}", hint=did_you_mean(name, [one.name for one in found]))

    def prepare(self, known: Known, parameters: Mapping[str, Any]) -> Prepared:
        """Plan a run with these parameters; nothing is written.

        Raises:
            ConfigError: a knob that the recipe does not have, or a value that cannot be.
        """
        assert known.plan is not None
        request, _ = request_of(known.plan, parameters, self._store)
        return prepare(request)

    def _read(self, path: Path) -> Known:
        try:
            status = path.stat()
        except OSError:
            stamp = (0, 0)
        else:
            stamp = (status.st_mtime_ns, status.st_size)
        known = self._known.get(path)
        if known is None or known.stamp != stamp:
            before = known.name if known else None
            known = self._known[path] = dataclasses.replace(_load(path, stamp), known_as=before)
        return known


def _load(path: Path, stamp: tuple[int, int]) -> Known:
    try:
        plan = make_plan(load(path))
        schema = schema_of(plan)
    except StarloomError as error:
        return Known(path, stamp, None, {}, [], error)
    return Known(path, stamp, plan, schema, groups_of(schema))
