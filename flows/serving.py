"""`starloom serve`: Prefect's server, the deployments, the worker that carries triggered runs out, and the console, as one."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from starloom.flows.deploying import Deployed, deploy
from starloom.flows.prefect_api import ALIVE, PrefectApi
from starloom.flows.prefect_flow import settle_prefect
from starloom.lineage.errors import ConfigError, StarloomError
from starloom.tasks.frame.reaper import ensure_reaper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import psutil

    from starloom.flows.plan import Plan

SERVER_SECONDS = 120.0
"""How long a server may take to answer: a new database is made first."""
SERVER_QUIET_SECONDS = 15.0
DATABASE_SECONDS = 60.0
"""How long the database of our server may take to answer: without one, Prefect's server ends at once."""
DATABASE_RETRY_SECONDS = 1.0
NO_DATABASE = ("ConnectionRefusedError", "CannotConnectNowError", "ConnectionDoesNotExistError", "socket.gaierror", "Connect call failed")
"""Of what Prefect's server prints when it ends because its database does not answer yet."""
DATABASE_SETTINGS = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_HOST")
CONSOLE_SECONDS = 30.0
POLL_SECONDS = 0.2
SWEEP_SECONDS = 5.0
WORKER_SETTINGS = {"PREFECT_WORKER_QUERY_SECONDS": "0.5", "PREFECT_WORKER_PREFETCH_SECONDS": "0"}
"""The worker asks for runs often, so that a click is not left waiting, and takes none before its time."""
RUN_END_SECONDS = 3.4
END_SECONDS = {"worker": 0.4, "console": 0.4, "server": 0.4}
"""How long runs and then each service may take to end, in the order in which they are ended: all of it within five seconds of Ctrl-C."""
SHOWN_LINES = 15
MENDED_WORKERS = 5
MENDED_SERVERS = 5
"""How often each is started again in all: what dies more often has a reason that a person must see."""
PARTS = ("server", "worker", "console")
CONSOLE_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "16000000",
    "MALLOC_TRIM_THRESHOLD_": "32000000",
}
"""Of the console's process: one allocator for all, which keeps a little of what a page has read for the next, and gives the rest back."""


@dataclass(frozen=True)
class Serving:
    """The parts to serve, and their places."""

    plans: list[Plan]
    parts: tuple[str, ...] = PARTS
    """Of `PARTS`; without `server` the one that PREFECT_API_URL names is used."""
    host: str = "127.0.0.1"
    port: int = 4300
    """Of the console."""
    prefect_port: int = 4200
    limit: int = 1
    """Runs at once."""
    pool: str = "starloom"
    store: str | None = None
    retries: int = 0
    """How often a run whose worker was lost is begun again."""
    console_url: str | None = None
    console_command: list[str] = field(default_factory=list)


class Service:
    """A child process of `starloom serve`, whose output goes to a file, or with ours."""

    def __init__(self, name: str, command: list[str], log: Path | None, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        self._begin = log.stat().st_size if log and log.exists() else 0
        with open(log, "ab") if log else contextlib.nullcontext(sys.stderr) as out:
            self.process = _started(command, out, {**os.environ, **env})

    def check(self) -> None:
        """Check that it runs.

        Raises:
            StarloomError: it ended; with the last lines that it printed.
        """
        status = self.process.poll()
        if status is None:
            return
        how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended by itself ({status})"
        if self.log is None:
            raise StarloomError(f"the {self.name} {how}", hint="what it printed stands above")
        shown = [f"the {self.name} {how}; its last lines:", *self.lines()]
        raise StarloomError("\n".join(shown), hint=f"all that it printed is in {self.log}")

    def lines(self) -> list[str]:
        """Return the last lines that it printed; none if they went with ours."""
        return self.log.read_bytes()[self._begin :].decode(errors="replace").splitlines()[-SHOWN_LINES:] if self.log else []

    def end(self, seconds: float) -> None:
        """Ask it to end, and kill it with all below it if it does not in time."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._kill()

    def end_children(self, seconds: float, environment: dict[str, str] | None = None) -> None:
        """Ask what it has started to end, and wait: runs save their work, and tell the server how they ended.

        Args:
            seconds: to wait for.
            environment: of the children to end; by default all of them.
        """
        import psutil

        children = []
        for child in self._children(recursive=False):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if environment is None or environment.items() <= child.environ().items():
                    child.terminate()
                    children.append(child)
        psutil.wait_procs(children, timeout=seconds)

    def _children(self, *, recursive: bool) -> list[psutil.Process]:
        import psutil

        try:
            return psutil.Process(self.process.pid).children(recursive=recursive)
        except psutil.NoSuchProcess:
            return []

    def _kill(self) -> None:
        import psutil

        below = self._children(recursive=True)
        self.process.kill()
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()


def _started(command: list[str], out: IO[Any], env: dict[str, str]) -> subprocess.Popen[bytes]:
    # in a session of its own: Ctrl-C on the terminal reaches us alone, and we end all of them in order
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True)  # noqa: S603


class Supervisor:
    """All that `starloom serve` has started."""

    def __init__(self, serving: Serving, logs: Path | None) -> None:
        self.serving, self.logs = serving, logs
        self.services: dict[str, Service] = {}
        self.deployed: list[Deployed] = []
        self.interrupted: list[dict[str, Any]] = []
        """Runs that an earlier process left, marked as crashed now."""
        self.api: PrefectApi
        self._stop = threading.Event()
        self._num_mended = 0
        self._num_mended_servers = 0
        self._tries: dict[str, int] = {}
        """Flow run → how often it was begun again here; Prefect counts only those that got as far as running."""
        self._crashed_before: set[str] = set()
        """States of runs that crashed earlier: nobody's to begin again but by hand. By their ids, for clocks differ, and are set back."""

    def start(self) -> None:
        """Start everything, in order; return when all of it answers.

        Raises:
            ConfigError: a port is taken, or there is no server to use.
            StarloomError: something ended, or does not answer.
        """
        serving = self.serving
        settle_prefect(logging="INFO")
        ensure_reaper()
        if self.logs is not None:
            self.logs.mkdir(parents=True, exist_ok=True)
        if "console" in serving.parts:
            check_free(serving.host, serving.port, "--port")
        if "server" in serving.parts and not os.environ.get("PREFECT_API_URL"):
            self._start_server()
        self.api = PrefectApi.from_environment()
        self._wait_for_server()
        self.worker = f"starloom-{platform.node()}-{os.getpid()}"
        if "worker" in serving.parts:
            self._crashed_before = {run["state_id"] for run in self.api.flow_runs(["CRASHED"])} if serving.retries else set()
            self.interrupted = end_lost_runs(self.api, serving.pool, is_lost=is_gone)
        if serving.plans:
            self.deployed = deploy(self.api, serving.plans, pool=serving.pool, store=serving.store, console=serving.console_url)
        if "worker" in serving.parts:
            self._start_worker()
        if "console" in serving.parts:
            self._start("console", serving.console_command, CONSOLE_ENVIRONMENT)
            self._wait_for_console()

    def watch(self) -> None:
        """Wait until a signal asks to end, or something that is needed has ended.

        Raises:
            StarloomError: something ended.
        """
        swept = time.monotonic()
        while not self._stop.wait(POLL_SECONDS):
            self._mend_server()
            self._mend_worker()
            for service in self.services.values():
                service.check()
            if time.monotonic() - swept > SWEEP_SECONDS:
                if self.serving.retries:
                    self._sweep()
                if self._num_mended_servers and "worker" in self.services:
                    self._end_cancelled()
                swept = time.monotonic()

    @property
    def is_stopped(self) -> bool:
        """True after somebody asked to end."""
        return self._stop.is_set()

    def stop(self, *_: Any) -> None:
        """Ask `watch` to return; a handler of signals."""
        self._stop.set()

    def end(self) -> None:
        """End everything: runs first, then who shows them."""
        if "worker" in self.services:
            self.services["worker"].end_children(RUN_END_SECONDS)
        for name, seconds in END_SECONDS.items():
            if name in self.services:
                self.services.pop(name).end(seconds)
        if hasattr(self, "api"):
            self.api.close()

    def _mend_server(self) -> None:
        """Start Prefect's server again if it ended, on the same address and database, and wait until it answers. Not for ever.

        Runs under way go on meanwhile: what they tell it, they try again. The worker may give up, and is then mended in its turn.

        Raises:
            ConfigError: somebody else has its port now.
            StarloomError: it ends again and again, or does not answer.
        """
        server = self.services.get("server")
        while server is not None and server.process.poll() is not None and self._num_mended_servers < MENDED_SERVERS:
            self._num_mended_servers += 1
            print(f"starloom: Prefect's server ended ({server.process.returncode}) and is started again", file=sys.stderr, flush=True)
            self._start_server()
            server = self.services["server"]
            try:
                self._wait_for_server()
            except StarloomError:
                if self.is_stopped or server.process.poll() is None or self._num_mended_servers >= MENDED_SERVERS:
                    raise

    def _mend_worker(self) -> None:
        """Start the worker again if it ended: one run that it could not begin must not end all others. Not for ever."""
        worker = self.services.get("worker")
        if worker is None or worker.process.poll() is None or self._num_mended >= MENDED_WORKERS:
            return
        self._num_mended += 1
        print(f"starloom: the worker ended ({worker.process.returncode}) and is started again", file=sys.stderr, flush=True)
        self._sweep(lambda name: name == self.worker)
        self._start_worker()

    def _end_cancelled(self) -> None:
        """End the runs of our worker that are to be cancelled: Prefect's own (3.8) hear of it no more once they have lost their server."""
        try:
            for run in self.api.flow_runs(["CANCELLING"]):
                if run["labels"].get("prefect.worker.name") == self.worker:
                    self.services["worker"].end_children(RUN_END_SECONDS, {"PREFECT__FLOW_RUN_ID": run["id"]})
                    self.api.set_state(run["id"], "CANCELLED", "cancelled by hand", force=True)
        except StarloomError as error:
            print(f"starloom: {error.message}", file=sys.stderr, flush=True)

    def _sweep(self, is_lost: Callable[[str], bool] | None = None) -> None:
        """Mark what lost its worker, wherever that was, and begin it again as often as is allowed."""
        try:
            offline = set() if is_lost else lost_workers(self.api, self.serving.pool)
            end_lost_runs(self.api, self.serving.pool, is_lost or (lambda worker: worker in offline))
            for run in self.api.flow_runs(["CRASHED"]) if self.serving.retries else []:
                tries = max(self._tries.get(run["id"], 0), run["run_count"] - 1)
                is_ours = run["work_pool_name"] == self.serving.pool and run["state_id"] not in self._crashed_before
                if is_ours and tries < self.serving.retries:
                    self._tries[run["id"]] = tries + 1
                    self.api.retry(run["id"])
        except StarloomError as error:  # the server may be restarting; the next look will tell
            print(f"starloom: {error.message}", file=sys.stderr, flush=True)

    def _start_server(self) -> None:
        serving = self.serving
        check_free(serving.host, serving.prefect_port, "--prefect-port")
        os.environ["PREFECT_API_URL"] = f"http://{reachable(serving.host)}:{serving.prefect_port}/api"
        words = ["server", "start", "--host", serving.host, "--port", str(serving.prefect_port)]
        self._start("server", [sys.executable, "-m", "prefect", *words], {"PREFECT_UI_API_URL": os.environ["PREFECT_API_URL"]})

    def _wait_for_server(self) -> None:
        """Wait until it answers; one of ours that ended for want of its database is started again until that is there."""
        if "server" not in self.services:
            self.api.wait_until_up(SERVER_SECONDS, is_lost=self._stop.is_set)
            return
        deadline, is_told = time.monotonic() + DATABASE_SECONDS, False
        while not self._is_server_up():
            if time.monotonic() > deadline:
                log = self.services["server"].log
                raise StarloomError(
                    f"the database of Prefect's server, {_database()}, does not answer, after {DATABASE_SECONDS:g} s",
                    hint=f"start it, or correct the setting; what the server printed is {f'in {log}' if log else 'above'}",
                )
            if not is_told:
                line = f"starloom: waiting for the database of Prefect's server, {_database()}, at most {DATABASE_SECONDS:g} s"
                print(line, file=sys.stderr, flush=True)
                is_told = True
            self._stop.wait(DATABASE_RETRY_SECONDS)
            self._start_server()

    def _is_server_up(self) -> bool:
        """Wait for our server; returns False if it ended because its database does not answer.

        Raises:
            StarloomError: it ended for another reason, or does not answer.
        """
        server = self.services["server"]
        try:
            self.api.wait_until_up(SERVER_SECONDS, lambda: self._stop.is_set() or server.process.poll() is not None, SERVER_QUIET_SECONDS)
            server.check()
        except StarloomError:
            if not self._stop.is_set() and _lacks_database(server):
                return False
            server.check()
            raise
        return True

    def _start_worker(self) -> None:
        serving = self.serving
        words = ["worker", "start", "--pool", serving.pool, "--type", "process", "--limit", str(serving.limit), "--name", self.worker]
        self._start("worker", [sys.executable, "-m", "prefect", *words], WORKER_SETTINGS)

    def _wait_for_console(self) -> None:
        import httpx

        deadline = time.monotonic() + CONSOLE_SECONDS
        url = f"http://{reachable(self.serving.host)}:{self.serving.port}/healthz"
        while True:
            self.services["console"].check()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=1.0).is_success:
                    return
            if self._stop.is_set() or time.monotonic() > deadline:
                raise StarloomError(f"the console does not answer at {url}", hint=f"what it printed is in {self.logs or 'the lines above'}")
            time.sleep(POLL_SECONDS)

    def _start(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.services[name] = Service(name, command, self.logs / f"{name}.log" if self.logs else None, env)


def _lacks_database(server: Service) -> bool:
    """Return whether a server ended because its database does not answer: by its words, or, where they went with ours, by its settings."""
    if server.process.poll() is None:
        return False
    lines = server.lines()
    return any(word in line for word in NO_DATABASE for line in lines) if server.log else any(map(os.environ.get, DATABASE_SETTINGS))


def _database() -> str:
    """Return the setting that names the database, without a password."""
    for name in DATABASE_SETTINGS:
        if value := os.environ.get(name):
            return f"{name}={value.rpartition('@')[2].partition('?')[0]}"
    return "as Prefect's own settings have it"


def run_until_stopped(supervisor: Supervisor, on_ready: Callable[[Supervisor], None]) -> None:
    """Start everything, tell when it is ready, and end all of it on Ctrl-C or SIGTERM.

    Raises:
        StarloomError: something could not be started, or ended by itself.
    """
    before = {number: signal.signal(number, supervisor.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        supervisor.start()
        on_ready(supervisor)
        supervisor.watch()
    except StarloomError:
        if not supervisor.is_stopped:  # what does not answer because it was asked to end is no error
            raise
    finally:
        supervisor.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def protect(password: str | None, host: str, *, is_open: bool) -> None:
    """Have Prefect's server, and all who talk to it, demand the operator's password; one that the environment names is kept.

    Args:
        password: the operator's.
        host: where the server is to listen.
        is_open: whether others than this machine reach that.

    Raises:
        ConfigError: others would reach it, and there is no password; or Prefect cannot compare this one.
    """
    if os.environ.get("PREFECT_API_URL"):
        return  # another's server
    if password is not None and not password.isascii():
        raise ConfigError("the operator's password has letters beyond ASCII, which Prefect's server cannot compare", hint="choose another")
    if password is not None:
        os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", f"operator:{password}")
    auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if auth:
        os.environ.setdefault("PREFECT_API_AUTH_STRING", auth)
    elif is_open:
        raise ConfigError(
            f"Prefect's server would let everybody in who reaches {host}, to run what they like",
            hint="set STARLOOM_OPERATOR_PASSWORD (or _TOKEN), or listen on 127.0.0.1",
        )


def check_free(host: str, port: int, flag: str) -> None:
    """Check that nobody listens there.

    Raises:
        ConfigError: somebody does.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {host} cannot be used: {error.strerror}", hint=f"end what uses it, or choose another: {flag} N"
            ) from error


def reachable(host: str) -> str:
    """Return the host of an address to ask for what listens there, as a URL has it."""
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{named}]" if ":" in named else named


def is_gone(worker: str) -> bool:
    """Return whether a worker of an earlier `starloom serve` on this machine ended with it; those of other machines tell themselves."""
    import psutil

    node, _, pid = worker.removeprefix("starloom-").rpartition("-")
    if node != platform.node() or not pid.isdecimal():
        return False
    try:
        return "serve" not in psutil.Process(int(pid)).cmdline()
    except psutil.NoSuchProcess:
        return True


def lost_workers(api: PrefectApi, pool: str) -> set[str]:
    """Return the names of the pool's workers that no longer tell that they live."""
    return {worker["name"] for worker in api.workers(pool) if worker["status"] == "OFFLINE"}


def end_lost_runs(api: PrefectApi, pool: str, is_lost: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Mark the runs of lost workers as crashed, or cancelled where that was asked for; return them. Prefect has them running for ever."""
    found = []
    for run in api.flow_runs([kind for kind in ALIVE if kind not in ("SCHEDULED", "PAUSED")]):
        worker = run["labels"].get("prefect.worker.name")
        if run["work_pool_name"] == pool and worker is not None and is_lost(worker):
            is_unwanted = run["state_type"] == "CANCELLING"
            message = "its worker is gone; what it finished is in the store, and a retry goes on from there"
            api.set_state(run["id"], "CANCELLED" if is_unwanted else "CRASHED", message, force=True)
            found += [] if is_unwanted else [run]
    return found
