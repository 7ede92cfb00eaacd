"""Worker processes: spawned, never forked; the part of a lost one is retried; none outlives the run."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Self

from starloom.lineage.errors import Cancelled, StageError
from starloom.tasks.frame.reaper import ensure_reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RETRIES = 2
"""Times that a pool is rebuilt after losing a worker (out of memory, killed) before the run gives up."""
POLL_SECONDS = 0.2
SETTINGS_OF_LIBRARIES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
    "MIMALLOC_PURGE_DELAY": "10000",
}
"""One thread per worker: the pool is the parallelism. And Arrow keeps what it freed for ten seconds (milliseconds here): the next part
takes as much again, and the system would have to clear every page anew."""

NEW_OBJECTS_BEFORE_GC = 100_000
"""In a worker: tables go by their reference counts, and walking over all that it imported after every 700 rows of Python is a twentieth of
its work."""


class Workers:
    """A pool that maps functions over items. With `workers=0` it works in this process (for stores no other process sees)."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(kill=self._stop.is_set())

    def cancel(self) -> None:
        """Ask all users of this pool to stop."""
        self._stop.set()

    def is_cancelled(self) -> bool:
        """Return whether `cancel` was called."""
        return self._stop.is_set()

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], on_done: Callable[[int, Any], None] | None = None) -> list[Any]:
        """Return `[function(item) for item in items]`, in order; calls `on_done(position, result)` as each is finished.

        Raises:
            Cancelled: if `cancel` was called.
            StageError: if workers keep dying.
        """
        results: dict[int, Any] = {}
        if self.workers == 0:
            for position, item in enumerate(items):
                self._raise_if_cancelled()
                results[position] = function(item)
                if on_done is not None:
                    on_done(position, results[position])
        for _ in range(RETRIES + 1):
            if len(results) == len(items):
                return [results[position] for position in range(len(items))]
            self._collect(function, items, results, on_done)
        lost = [position for position in range(len(items)) if position not in results]
        if lost:
            raise StageError(
                f"a worker died {RETRIES + 1} times (killed, or out of memory) on parts {lost[:5]}",
                hint="use fewer workers (--workers 1) or smaller parts (ingest.part_bytes); finished parts are kept",
            )
        return [results[position] for position in range(len(items))]

    def _collect(
        self, function: Callable[[Any], Any], items: Sequence[Any], results: dict[int, Any], on_done: Callable[[int, Any], None] | None
    ) -> None:
        """Add missing results; returns early, with those it got, when a worker is lost."""
        pool = self._opened()
        pending: dict[Future[Any], int] = {}
        try:
            pending = {pool.submit(function, item): i for i, item in enumerate(items) if i not in results}
            while pending:
                done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                self._raise_if_cancelled()
                for future in done:
                    position = pending.pop(future)
                    results[position] = future.result()
                    if on_done is not None:
                        on_done(position, results[position])
        except BrokenProcessPool:
            self._raise_if_cancelled()
            self._end(pool, kill=True)
        except BaseException:
            if not self._stop.is_set():  # a pool that is being ended cancels its futures itself, and complains where others did
                for future in pending:
                    future.cancel()
            raise

    def _opened(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                ensure_reaper()
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_settle_in)
            return self._pool

    def close(self, *, kill: bool = False) -> None:
        """End the workers; `kill` does not wait for their current items."""
        if self._pool is not None:
            self._end(self._pool, kill=kill)

    def _end(self, pool: ProcessPoolExecutor, *, kill: bool) -> None:
        """End a pool; forget it only if it is the one in use, for two steps may meet one broken pool and the first has replaced it."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
        processes = list((pool._processes or {}).values())  # noqa: SLF001 - the executor offers no way to end a busy worker before 3.14
        pool.shutdown(wait=not kill, cancel_futures=True)
        if kill:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()

    def _raise_if_cancelled(self) -> None:
        if self._stop.is_set():
            raise stopped_error()


def stopped_error() -> Cancelled:
    """Return the error of a run that was asked to stop."""
    return Cancelled("the run was asked to stop", hint="run the same command again: finished parts are kept")


def _settle_in() -> None:
    """Prepare a worker before its heavy imports: one thread a library, no hurry to free memory, Ctrl-C left to the parent, exit with it."""
    os.environ.update(SETTINGS_OF_LIBRARIES)
    gc.set_threshold(NEW_OBJECTS_BEFORE_GC)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Wait on the pipe that multiprocessing gave this worker, and only its parent holds: it goes even where a reaper was killed too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
