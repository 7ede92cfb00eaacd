"""Leases: which processes use the store now, so that garbage collection removes nothing in use.

A run holds a lease while it works; a collection holds one too. Each writes its own first and looks for the other's after,
so at least one of the two sees the other: the collection gives way, the run waits.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starloom.lineage.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

BEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
"""A lease that was not renewed for so long belongs to a process that died on another host."""
LONGEST_COLLECTION_SECONDS = 600.0


@contextmanager
def running(store: Store, run_id: str) -> Iterator[None]:
    """Hold the lease of a run; waits for a garbage collection in progress.

    Raises:
        StoreError: if a collection takes longer than ten minutes.
    """
    with _held(store, f"leases/run-{run_id}.json"):
        deadline = time.monotonic() + LONGEST_COLLECTION_SECONDS
        while _live(store, "gc"):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"`starloom gc` has held the store {store.url} for ten minutes", hint="check whether it still runs; then try again"
                )
            time.sleep(0.2)
        yield


@contextmanager
def collecting(store: Store) -> Iterator[None]:
    """Hold the lease of a garbage collection.

    Raises:
        StoreError: if a run or another collection is under way.
    """
    mine = f"leases/gc-{platform.node()}-{os.getpid()}.json"
    with _held(store, mine), free(store, mine):
        yield


@contextmanager
def free(store: Store, mine: str = "") -> Iterator[None]:
    """Check that nobody but the holder of `mine` uses the store as this begins; nothing is written.

    Raises:
        StoreError: if a run or another collection is under way.
    """
    others = [*_live(store, "run"), *(name for name in _live(store, "gc") if name != mine)]
    if others:
        raise StoreError(f"the store {store.url} is in use by {', '.join(others[:5])}", hint="wait until it is done, then collect")
    yield


def status(store: Store, run: Run) -> str:
    """Return the recorded status of a run, but `killed` where the record says `running` and no process holds its lease."""
    name = f"leases/run-{run.id}.json"
    return "killed" if run.status == "running" and name not in _live(store, "run") else run.status


def abandoned(store: Store) -> list[str]:
    """Return the names of the leases whose holders died, of runs and collections alike."""
    return [name for name in store.storage.names("leases") if not _holder_lives(store, name)]


@contextmanager
def _held(store: Store, name: str) -> Iterator[None]:
    content = json.dumps({"host": platform.node(), "pid": os.getpid()}).encode()
    released = threading.Event()

    def beat() -> None:
        while not released.wait(BEAT_SECONDS):
            store.storage.write(name, content)

    store.storage.write(name, content)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        store.storage.delete(name)


def _live(store: Store, kind: str) -> list[str]:
    """Return the names of the leases of a kind whose holders are alive."""
    return [name for name in store.storage.names("leases") if name.startswith(f"leases/{kind}-") and _holder_lives(store, name)]


def _holder_lives(store: Store, name: str) -> bool:
    try:
        holder, age = json.loads(store.storage.read(name)), store.storage.age_seconds(name, time.time())
    except FileNotFoundError:  # released between listing and reading
        return False
    if age > STALE_SECONDS:
        return False
    return holder["host"] != platform.node() or process_lives(holder["pid"])


def process_lives(pid: int) -> bool:
    """Return whether a process of this host is alive; a zombie is not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
