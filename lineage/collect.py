"""Garbage collection of what no run or tag reaches; never of anything in use.

Every recorded run is a root. What a killed run left is not recorded and would be used by the next one: the records of
its finished parts are roots too, until they are older than the age. With `keep_last`, older runs without a tag go first,
and what only they reached goes with them, whatever its age.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starloom.lineage.leases import abandoned, collecting, free, process_lives
from starloom.lineage.reach import Reach, split_action

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starloom.lineage.store import Store

DEFAULT_AGE_SECONDS = 86_400.0
KINDS = ("runs", "actions", "artifacts", "objects", "tmp")


@dataclass
class Collection:
    """The names that were removed, or would be."""

    removed_runs: list[str] = field(default_factory=list)
    num_removed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    num_bytes: int = 0
    num_kept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    num_young: int = 0
    """Records and objects that nothing reaches and that are kept because they are younger than the age."""
    num_young_bytes: int = 0


def collect(
    store: Store, *, keep_last: int | None = None, older_than_seconds: float = DEFAULT_AGE_SECONDS, dry_run: bool = False
) -> Collection:
    """Remove what is not reached; does not wait for other processes. A dry run writes nothing.

    Raises:
        StoreError: if a run or another collection is under way.
        CorruptError: if a record cannot be read, so that what it reaches is unknown.
    """
    with free(store) if dry_run else collecting(store):
        return _Sweep(store, older_than_seconds, dry_run=dry_run).sweep(keep_last)


class _Sweep:
    def __init__(self, store: Store, age_seconds: float, *, dry_run: bool) -> None:
        self.store = store
        self.storage = store.storage
        self.age_seconds = age_seconds
        self.dry_run = dry_run
        self.now = time.time()
        self.found = Collection()

    def sweep(self, keep_last: int | None) -> Collection:
        kept, leaving = self._runs(keep_last)
        reach, lost = Reach(self.store), Reach(self.store)
        for run_id in kept:
            reach.run(run_id)
        for run_id in leaving:
            lost.run(run_id)
        self._keep_young(reach, lost)
        for run_id in leaving:
            self._remove_run(run_id)
        for kind in ("actions", "artifacts", "objects"):  # claims before what they claim: a crash leaves nothing that claims too much
            self._sweep_names(kind, reach, lost)
        self._sweep_leftovers(set(kept))
        for entry in self._tmp(reach):
            self._remove_local(entry)
        return self.found

    def _runs(self, keep_last: int | None) -> tuple[list[str], list[str]]:
        ids, tagged = self.store.run_ids(), set(self.store.tags().values())
        newest = set(ids if keep_last is None else ids[len(ids) - min(keep_last, len(ids)) :])
        return [i for i in ids if i in newest or i in tagged], [i for i in ids if i not in newest and i not in tagged]

    def _keep_young(self, reach: Reach, lost: Reach) -> None:
        """Treat what a killed run finished as a root while it is young."""
        young = Reach(self.store)
        for name in self.storage.names("actions"):
            if name not in reach.names and name not in lost.names and not self._is_old(name):
                young.action(*split_action(name))
        for name in young.names - reach.names:
            if self.storage.exists(name):
                self._spare(name)
        reach.names |= young.names

    def _spare(self, name: str) -> None:
        self.found.num_young += 1
        self.found.num_young_bytes += self.storage.num_bytes(name)

    def _is_old(self, name: str) -> bool:
        return self.storage.age_seconds(name, self.now) >= self.age_seconds

    def _remove_run(self, run_id: str) -> None:
        self.found.removed_runs.append(run_id)
        self.found.num_removed["runs"] += 1
        record = f"runs/{run_id}/run.json"
        self._remove(record)
        for name in list(self.storage.names(f"runs/{run_id}")):
            if name != record:
                self._remove(name)

    def _sweep_names(self, kind: str, reach: Reach, lost: Reach) -> None:
        for name in list(self.storage.names(kind)):
            if name in reach.names:
                self.found.num_kept[kind] += 1
            elif name in lost.names or kind == "artifacts" or self._is_old(name):  # a manifest that no record names serves nobody
                self.found.num_removed[kind] += 1
                self.found.num_bytes += self.storage.num_bytes(name)
                self._remove(name)
            else:
                self._spare(name)

    def _sweep_leftovers(self, kept: set[str]) -> None:
        """Remove links of runs that are gone, and leases of dead processes."""
        self.found.num_kept["runs"] = len(kept)
        known = kept | set(self.found.removed_runs)
        stale = [name for name in self.storage.names("runs") if name.split("/")[1] not in known]
        for name in [*stale, *abandoned(self.store)]:
            self._remove(name)

    def _remove(self, name: str) -> None:
        if not self.dry_run:
            self.storage.delete(name)

    # What lies on the local disk: files in the making, folders of work, folders of links, copies of remote objects

    def _tmp(self, reach: Reach) -> Iterator[Path]:
        root = self.storage.scratch
        for entry in _entries(root):
            if entry.name not in ("work", "folders", "fetched") and self._is_stale(entry):
                yield entry
        for entry in _entries(root / "folders"):
            if f"artifacts/{entry.name}.json" not in reach.names:
                yield entry
        for entry in _entries(root / "work"):
            if entry.suffix != ".lock" and self._is_stale(entry):
                with _unused(entry, dry_run=self.dry_run) as is_unused:
                    if is_unused:
                        yield entry
        for entry in (root / "fetched").rglob("*"):
            name = entry.relative_to(root / "fetched").as_posix()
            if entry.is_file() and name not in reach.names and self._is_stale(entry):
                yield entry

    def _is_stale(self, entry: Path) -> bool:
        """Return whether nothing in the folder was touched for that long."""
        newest = max((path.lstat().st_mtime for path in (entry, *entry.rglob("*"))), default=self.now)
        return self.now - newest >= self.age_seconds

    def _remove_local(self, entry: Path) -> None:
        self.found.num_removed["tmp"] += 1
        self.found.num_bytes += sum(path.lstat().st_size for path in (entry, *entry.rglob("*")) if not path.is_dir())
        if self.dry_run:
            return
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@contextlib.contextmanager
def _unused(folder: Path, *, dry_run: bool) -> Iterator[bool]:
    """Hold the lock of a folder of work while it is removed; False if a live process holds it (see `Store.work`)."""
    key, _, beside = folder.name.partition("-")
    pid = beside.partition("-")[0]
    if pid.isdigit() and process_lives(int(pid)):  # it works beside the one that holds the lock
        yield False
        return
    lock = folder.with_name(f"{key}.lock")
    was_there = lock.exists()
    if dry_run and not was_there:
        yield True
        return
    with lock.open("r" if dry_run else "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        if not dry_run and (not was_there or not folder.exists()):
            lock.unlink(missing_ok=True)
