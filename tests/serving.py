"""`starloom serve` as its users start it, on free ports, with a database and a store of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from starloom.flows.prefect_api import ALIVE, PrefectApi
from tests.prefect_server import keep_database, take_database

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 120
ROOT = Path(__file__).parents[1]


@dataclass
class Served:
    """A `starloom serve` that is ready."""

    process: subprocess.Popen[str]
    console: str
    prefect: str
    deployments: list[str]
    interrupted: list[str]
    api: PrefectApi

    def start(self, recipe: str, **parameters: Any) -> str:
        """Trigger a run; returns Prefect's id of it."""
        return str(self.api.start(self.api.deployment(recipe)["id"], parameters)["id"])

    def wait_until(self, flow_run: str, *states: str) -> dict[str, Any]:
        """Wait until a run is in one of these states, or has ended in another."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = self.api.flow_run(flow_run)
            if found["state_type"] in states or found["state_type"] not in ALIVE:
                return found
            time.sleep(0.25)  # each question costs the server as much as a step does
        raise TimeoutError(f"{flow_run} is {found['state_name']}")

    def below(self) -> list[psutil.Process]:
        """All processes that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGINT) -> float:
        """Send a signal and wait until it and all below it are gone; returns the seconds that took."""
        below = self.below()
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_SECONDS)
        gone, alive = psutil.wait_procs(below, timeout=PATIENCE_SECONDS)
        del gone
        assert alive == []
        return time.monotonic() - started


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(home: Path, recipe: Path, store: Path, *words: str, prefect_port: int | None = None, **env: str) -> Iterator[Served]:
    """`starloom serve` until the end of the block. `home` keeps Prefect's database, so that a second one finds what the first left."""
    ports = {"--port": free_port(), "--prefect-port": prefect_port or free_port()}
    command = [sys.executable, "-m", "starloom.cli", "serve", str(recipe), "--store", str(store), "--logs", str(home / "logs"), "--json"]
    command += [*(str(word) for pair in ports.items() for word in pair), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )  # runs begin in the recipe's folder: ours all the same
    environment |= {"PYTHONPATH": path, "PREFECT_HOME": str(home / "prefect"), "PREFECT_LOGGING_LEVEL": "INFO", **env}
    home.mkdir(parents=True, exist_ok=True)
    take_database(home / "prefect")
    with (home / "serve.err").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        served = _ready(process, home)
        if (home / "prefect" / "prefect.db").exists():  # none where another's server is used
            keep_database(home / "prefect")
        with contextlib.closing(served.api):
            yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        process.stdout.close()


def _ready(process: subprocess.Popen[str], home: Path) -> Served:
    lines: list[str] = []
    while not lines or lines[-1] != "}\n":
        line = process.stdout.readline()
        if not line:
            raise RuntimeError((home / "serve.err").read_text())
        lines.append(line)
    told = json.loads("".join(lines))
    if "console" not in told:
        process.wait(PATIENCE_SECONDS)
        raise RuntimeError((home / "serve.err").read_text())
    return Served(process, told["console"], told["prefect"], told["deployments"], told["interrupted"], PrefectApi(f"{told['prefect']}/api"))
