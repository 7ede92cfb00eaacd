"""The console on a large store: seconds of each page with eight clients, memory, and its plan beside `starloom plan`.

    python -m starloom.bench.console [--documents N] [--runs N] [--clients N] [--work FOLDER] [--json]

The store is grown from a run of a recipe (the demo's), and kept in the work folder for the next time. Clients ask without a pause, on the
same cores as the console: eight of them are more than eight people.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from starloom.bench.console.clients import ask_for, load, pages
from starloom.bench.console.growing import grow
from starloom.flows.serving import CONSOLE_ENVIRONMENT
from starloom.lineage.errors import StarloomError
from starloom.lineage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BAR_SECONDS, MEMORY_BAR_BYTES, PLAN_BAR = 0.3, 500_000_000, 1.5
RECIPE = Path(__file__).absolute().parents[2] / "conf" / "demo.yaml"
REQUESTS_A_CLIENT = 60
PLANS = 5
START_SECONDS = 60.0
LOOK_SECONDS = 0.1
"""Between two looks at the console's memory."""


def measure(work: Path, recipe: Path, num_documents: int, num_runs: int, num_clients: int, num_requests: int) -> dict[str, Any]:
    """Make what is not there, serve it, and return every figure beside its bar.

    Raises:
        StarloomError: a run or the console failed.
    """
    small, large = work / "small", work / f"large-{num_documents}-{num_runs}"
    if not (small / "runs").exists():
        _command("run", str(recipe), "--store", str(small))
    if not large.exists():
        aside = work / "growing"
        shutil.rmtree(aside, ignore_errors=True)
        grow(Store.open(str(small), create=False), Store.open(str(aside)), num_documents, num_runs)
        aside.rename(large)
    store = Store.open(str(large), create=False)
    asks = pages(store)
    with _served(work, recipe, large) as (process, port), _Memory(process) as memory:
        first = {page: ask_for(port, ask(random.Random(0))) for page, ask in asks.items()}  # noqa: S311 - no secret
        taken = load(port, asks, num_clients, num_requests)
    with _served(work, recipe, small) as (_, port):
        live = min(ask_for(port, f"/recipes/{_name_of(recipe)}/plan") for _ in range(PLANS))
    alone = min(_command("plan", str(recipe), "--store", str(small)) for _ in range(PLANS))
    return {
        "documents": sum(part.num_rows for part in store.artifact(_docs(store)).parts),
        "runs": num_runs,
        "clients": num_clients,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "pages": {page: {**_told(seconds), "first": round(first[page], 4)} for page, seconds in taken.items()},
        "bar_seconds": PAGE_BAR_SECONDS,
        "memory": {"peak_bytes": memory.peak_bytes, "private_bytes": memory.private_bytes, "bar_bytes": MEMORY_BAR_BYTES},
        "plan": {"live_seconds": round(live, 3), "command_seconds": round(alone, 3), "ratio": round(live / alone, 2), "bar": PLAN_BAR},
    }


def _docs(store: Store) -> str:
    return next(str(step.outputs["Docs"]["artifact"]) for step in store.run("latest").steps if "Docs" in step.outputs)


def _told(seconds: list[float]) -> dict[str, Any]:
    return {"requests": len(seconds), **{f"p{at}": round(seconds[min(len(seconds) - 1, len(seconds) * at // 100)], 4) for at in (50, 95)}}


def _command(*words: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "starloom.cli", *words], capture_output=True, text=True, check=False)  # noqa: S603 - our words
    if done.returncode:
        raise StarloomError(f"starloom {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def _name_of(recipe: Path) -> str:
    from starloom.flows.recipe import load as load_recipe

    return load_recipe(recipe).name


@contextlib.contextmanager
def _served(work: Path, recipe: Path, store: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Serve a store as `starloom serve` does, until what is within is done."""
    port = _free_port()
    command = [sys.executable, "-m", "starloom.console", "--port", str(port), "--store", str(store), str(recipe)]
    secrets = ("STARLOOM_", "PREFECT_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(secrets)} | CONSOLE_ENVIRONMENT
    with (work / "console.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)  # noqa: S603 - our words
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                ask_for(port, "/healthz")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise StarloomError("the console did not start", hint=f"what it printed is in {work / 'console.log'}")
            time.sleep(LOOK_SECONDS)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class _Memory:
    """A watch of a process's memory: the most of it that was resident, and of that the most that was its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        import psutil

        self.peak_bytes = self.private_bytes = 0
        self._process = psutil.Process(process.pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            now = self._process.memory_info()
            self.peak_bytes = max(self.peak_bytes, now.rss)
            self.private_bytes = max(self.private_bytes, now.rss - getattr(now, "shared", 0))


def lines(report: dict[str, Any]) -> str:
    """Return the report for people."""
    machine = f"{report['cores']} cores, load {report['load_average']}"
    told = [
        f"{report['documents']:,} documents, {report['runs']:,} runs, {report['clients']} clients without a pause; {machine}",
        f"{'page':<12} {'n':>5} {'first':>9} {'p50':>9} {'p95':>9}   bar {report['bar_seconds'] * 1000:.0f} ms",
    ]
    for page, each in report["pages"].items():
        figures = " ".join(f"{each[name] * 1000:>6.0f} ms" for name in ("first", "p50", "p95"))
        told.append(f"{page:<12} {each['requests']:>5} {figures}{_verdict(each['p95'], report['bar_seconds'])}")
    memory, plan = report["memory"], report["plan"]
    told.append(
        f"memory: {memory['peak_bytes'] / 1e6:.0f} MB at most, {memory['private_bytes'] / 1e6:.0f} of them private; "
        f"bar {memory['bar_bytes'] / 1e6:.0f} MB{_verdict(memory['peak_bytes'], memory['bar_bytes'])}"
    )
    told.append(
        f"live plan: {plan['live_seconds']:.2f} s, `starloom plan` {plan['command_seconds']:.2f} s: "
        f"{plan['ratio']:.2f}, bar {plan['bar']}{_verdict(plan['ratio'], plan['bar'])}"
    )
    return "\n".join(told)


def _verdict(figure: float, bar: float) -> str:
    return "" if figure <= bar else "  over"


def main(argv: list[str] | None = None) -> int:
    """Measure and tell; returns 1 if something failed."""
    parser = argparse.ArgumentParser(prog="python -m starloom.bench.console", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000, metavar="N", help="at least that many (default: 1000000)")
    parser.add_argument("--runs", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="at once (default: 8)")
    parser.add_argument("--requests", type=int, default=REQUESTS_A_CLIENT, metavar="N", help=f"of each (default: {REQUESTS_A_CLIENT})")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="whose run is grown (default: the demo's)")
    parser.add_argument("--work", type=Path, default=Path(".bench-console"), help="folder of the stores, kept (default: .bench-console)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        report = measure(options.work.absolute(), options.recipe, options.documents, options.runs, options.clients, options.requests)
    except StarloomError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1) if options.json else lines(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
