"""One Prefect server for all tests that need one: its database takes longer to make than most of them."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIGRATED: list[Path] = []
"""A folder of this session, for the database of its first server: each other one begins with a copy, as migrations take 3 s of a core."""
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
}


@dataclass
class PrefectServer:
    """A server, and the folder with its database, which an ephemeral server may use as well."""

    home: Path
    url: str

    @property
    def environment(self) -> dict[str, str]:
        """For a child that is to use the server."""
        return {**os.environ, "PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.url}

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.home / "prefect.db")) as database:
            return database.execute(query, values).fetchall()


@contextlib.contextmanager
def serving(home: Path, port: int | None = None) -> Iterator[PrefectServer]:
    """A server on a free port, until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", port or 0))
        port = free.getsockname()[1]
    take_database(home)
    env = {**os.environ, **SETTINGS, "PREFECT_HOME": str(home), "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    server = PrefectServer(home, f"http://127.0.0.1:{port}/api")
    try:
        _wait_until_healthy(server, process)
        keep_database(home)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def take_database(home: Path) -> None:
    """Give a server that has none yet a database that is migrated, if there is one."""
    if MIGRATED and (MIGRATED[0] / "prefect.db").exists() and not (home / "prefect.db").exists():
        home.mkdir(parents=True, exist_ok=True)
        _copy(MIGRATED[0] / "prefect.db", home / "prefect.db")


def keep_database(home: Path) -> None:
    """Keep the database of a server that has just started, for `take_database` of all processes of this session."""
    if MIGRATED and not (MIGRATED[0] / "prefect.db").exists():
        made = MIGRATED[0] / f"{os.getpid()}.db"
        _copy(home / "prefect.db", made)
        made.replace(MIGRATED[0] / "prefect.db")


def _copy(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(target)) as other:
        one.backup(other)


def _wait_until_healthy(server: PrefectServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(f"{server.url}/health", timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError((server.home / "server.log").read_text())
