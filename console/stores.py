"""The stores that a console shows, and what it keeps of their runs in memory.

A run that has finished does not change, so that its row of the list and its artifacts are kept; one that has not is read each time.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from starloom.lineage.store import Store
from starloom.queries.listing import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from starloom.console.settings import Settings
    from starloom.lineage.records import Run


T = TypeVar("T")
KEPT_ANSWERS = 200
"""Answers about finished runs that are kept; each is as large as a page shows of it."""


class Stores:
    """The stores of a console, each opened when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._urls = dict(settings.stores)
        self._opened: dict[str, tuple[Store, Catalogue]] = {}

    def open(self, name: str) -> Store:
        """Return the store of that name.

        Raises:
            StoreError: if it is not there, or was written by a newer version.
        """
        return self._open(name)[0]

    def catalogue(self, name: str) -> Catalogue:
        """Return what is kept of the runs of the store of that name.

        Raises:
            StoreError: if the store is not there, or was written by a newer version.
        """
        return self._open(name)[1]

    def _open(self, name: str) -> tuple[Store, Catalogue]:
        if name not in self._opened:
            store = Store.open(self._urls[name], create=False)
            self._opened.setdefault(name, (store, Catalogue(store)))
        return self._opened[name]


@dataclass(frozen=True, slots=True)
class _Kept:
    """The row of a run without its tags, and the artifacts of its steps."""

    row: dict[str, Any]
    makes: dict[str, tuple[str, ...]]
    """Artifact → steps, of everything that it wrote."""
    uses: dict[str, tuple[str, ...]]
    """Artifact → steps, of everything that it read."""
    is_final: bool


class Catalogue:
    """A catalogue of the runs of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: dict[str, _Kept] = {}
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._turns: dict[Hashable, tuple[threading.Lock, int]] = {}
        self._lock = threading.Lock()

    def remember(self, question: Hashable, ask: Callable[[], T]) -> T:
        """Return the answer to a question about what never changes, such as an artifact or a finished run's step; asked once.

        Nobody may change what this returns.
        """
        with self._turn(question):
            with self._lock:
                if question in self._answers:
                    self._answers.move_to_end(question)
                    kept: T = self._answers[question]
                    return kept
            answer = ask()
            pa.default_memory_pool().release_unused()  # such questions read much, and the next may be hours away
            with self._lock:
                self._answers[question] = answer
                if len(self._answers) > KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            return answer

    @contextlib.contextmanager
    def _turn(self, question: Hashable) -> Iterator[None]:
        """Wait until nobody else asks a question: who asks next finds the answer, instead of reading it all once more."""
        with self._lock:
            turn, waiting = self._turns.get(question, (threading.Lock(), 0))
            self._turns[question] = turn, waiting + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._turns.pop(question)
                if waiting > 1:
                    self._turns[question] = turn, waiting - 1

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each run, the oldest first, as `starloom runs --json` has it."""
        tags: dict[str, list[str]] = {}
        for tag, run_id in self.store.tags().items():
            tags.setdefault(run_id, []).append(tag)
        return [{**kept.row, "tags": tags.get(run_id, [])} for run_id, kept in self._all()]

    def makers(self, artifact: str) -> list[dict[str, str]]:
        """Return the run and step of all that wrote an artifact, the oldest first."""
        return [{"run": run_id, "step": step} for run_id, kept in self._all() for step in kept.makes.get(artifact, ())]

    def users(self, artifact: str) -> list[dict[str, str]]:
        """Return the run and step of all that read an artifact, the oldest first."""
        return [{"run": run_id, "step": step} for run_id, kept in self._all() for step in kept.uses.get(artifact, ())]

    def _all(self) -> Iterator[tuple[str, _Kept]]:
        known = self.store.run_ids()
        with self._lock:
            for gone in self._kept.keys() - set(known):
                del self._kept[gone]
            for run_id in known:
                kept = self._kept.get(run_id)
                if kept is None or not kept.is_final:
                    self._kept[run_id] = _keep(self.store, self.store.run(run_id))
            kept_now = [(run_id, self._kept[run_id]) for run_id in known]
        yield from kept_now


def _keep(store: Store, run: Run) -> _Kept:
    row = describe(store, run, {})
    makes = [(out["artifact"], step.name) for step in run.steps for out in step.outputs.values()]
    uses = {(name, step.name) for step in run.steps for ref in step.inputs.values() for name in _named(ref)}
    return _Kept(row, _steps_of(tuple(makes)), _steps_of(tuple(sorted(uses))), run.finished is not None)


@functools.lru_cache(maxsize=256)
def _steps_of(pairs: tuple[tuple[str, str], ...]) -> dict[str, tuple[str, ...]]:
    """Return artifact → steps; runs that wrote the same share it."""
    found: dict[str, tuple[str, ...]] = {}
    for artifact, step in pairs:
        found[artifact] = (*found.get(artifact, ()), step)
    return found


def _named(ref: dict[str, Any]) -> list[str]:
    return [name for name in (ref["artifact"], ref.get("verdicts")) if name]
