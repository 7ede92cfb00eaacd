"""The services of docker-compose.yml as processes of this machine: what no Docker engine is needed for.

Commands, environment, health checks, dependencies, volumes and stop signals are read from the file (and ENV from the Dockerfile), and only
places are exchanged: host names become 127.0.0.1, the containers' ports free ones, volumes folders, the image's programs those of .venv.
PostgreSQL is Debian's, made as the official image makes it. A "container" is a process with all its descendants; killing it kills them all.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from starloom.tasks.kernels.compiled import cache_folder
from tests.compose_file import ROOT, ComposeFile, image_environment

PROGRAMS = {
    "python": [sys.executable],
    "prefect": [sys.executable, "-m", "prefect"],
    "starloom": [sys.executable, "-m", "starloom.cli"],
    "dask": [sys.executable, "-m", "dask"],
}
PORTS = (5432, 4200, 4300, 8333, 9333, 8080, 8888, 8786, 8788)
"""Those that the containers listen on."""
MARK = "STARLOOM_TEST_CONTAINER"
"""In the environment of all processes of a container, with the name of its log."""
IMAGE_FOLDERS = {"/opt/starloom": str(ROOT / "deploy")}


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL of this machine, if there is one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return folders[-1] if folders else None


def why_not_postgres() -> str | None:
    """Why PostgreSQL cannot be started here, or None."""
    if postgres_programs() is None:
        return "there is no PostgreSQL in /usr/lib/postgresql; apt-get install postgresql"
    if os.getuid() != 0:
        return None
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return "PostgreSQL does not run as root and there is no user postgres; apt-get install postgresql"
    return None if shutil.which("setpriv") else "setpriv is missing; apt-get install util-linux"


def as_postgres(words: list[str]) -> list[str]:
    """The command as a user that PostgreSQL accepts: itself, or postgres where we are root."""
    if os.getuid() != 0:
        return words
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]


def why_not_names() -> str | None:
    """Why containers cannot have host names of their own here, or None."""
    if shutil.which("unshare") and not subprocess.run([*named("box"), "true"], capture_output=True, check=False).returncode:
        return None
    return "host names of their own need root and unshare: workers of one machine would take each other's place"


def named(host: str) -> list[str]:
    """Words before a command that give it a host name of its own, as a container has; none where that needs rights that we lack."""
    if os.getuid() != 0 or not shutil.which("unshare"):
        return []
    return ["unshare", "--uts", "--", "sh", "-c", 'hostname "$0" && exec "$@"', host]


@dataclass
class Container:
    """A service that runs, or ran."""

    service: str
    process: subprocess.Popen[bytes]
    log: Path

    def family(self) -> list[psutil.Process]:
        """The process and all that it started, whoever their parent is by now."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            found = {process.pid: process for process in [first, *first.children(recursive=True)]}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.log):
                    found[process.pid] = process
        return list(found.values())

    def kill(self) -> None:
        """End all of it at once, as `docker kill` does."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)

    def stop(self, how: signal.Signals, grace_seconds: float) -> bool:
        """Ask it to end, as `docker stop` does; return whether it did so in time and left nothing behind."""
        family = self.family()
        self.process.send_signal(how)
        _, alive = psutil.wait_procs(family, grace_seconds)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)
        return not alive

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@dataclass
class Stack:
    """The services, brought up in the order that the file asks for. A context manager: nothing outlives it."""

    file: ComposeFile
    profiles: tuple[str, ...] = ()
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="starloom-compose-")))
    containers: list[Container] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))

    def __enter__(self) -> Self:
        self.folder.chmod(0o755)  # PostgreSQL is another user
        return self

    def __exit__(self, *_: object) -> None:
        for container in reversed(self.containers):
            container.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is asked of it

    def up(self, *services: str) -> None:
        """Start services and what they depend on, each when its condition holds; those that run are left alone."""
        for service in services:
            self._up(service, set())

    def start(self, service: str) -> Container:
        """Start one container of a service now, whatever it depends on."""
        told = self.file.services[service]
        number = 1 + sum(container.service == service for container in self.containers)
        log = self.folder / f"{service}-{number}.log"
        words = self._postgres(service) if told["image"].startswith("postgres:") else self.command(service)
        with log.open("wb") as file:
            process = subprocess.Popen(
                named(f"{service}-{number}") + words,
                env=self.environment(service) | {MARK: str(log)},
                cwd=self._workplace(service),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        container = Container(service, process, log)
        self.containers.append(container)
        return container

    def run(self, service: str) -> str:
        """Run a one-shot service to its end; return what it printed."""
        container = self.start(service)
        if container.process.wait(300):
            raise RuntimeError(f"{service} ended with {container.process.returncode}:\n{container.tail()}")
        return container.log.read_text()

    def is_healthy(self, service: str) -> bool:
        """Carry the service's health check out once, in its newest container."""
        kind, *words = self.file.services[service]["healthcheck"]["test"]
        assert kind == "CMD", "health checks here need no shell"
        number = sum(container.service == service for container in self.containers)
        words = named(f"{service}-{number}") + self._placed(service, words)
        done = subprocess.run(words, env=self.environment(service), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done.returncode == 0

    def wait_until_healthy(self, service: str) -> None:
        """Wait as long as the file allows, and no longer than the process lives."""
        check = self.file.services[service]["healthcheck"]
        allowed = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
        container = [container for container in self.containers if container.service == service][-1]
        deadline = time.monotonic() + allowed
        while not self.is_healthy(service):
            if container.process.poll() is not None:
                raise RuntimeError(f"{service} ended with {container.process.returncode}:\n{container.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{service} is not healthy after {allowed:.0f} s:\n{container.tail()}")
            time.sleep(0.2)

    def stop(self, container: Container) -> bool:
        """Stop a container as the file says; return whether it ended in time, leaving nothing behind."""
        told = self.file.services[container.service]
        how = signal.Signals[told.get("stop_signal", "SIGTERM")]
        return container.stop(how, seconds(told["stop_grace_period"]))

    def url(self, port: int) -> str:
        """Where what listens on a container's port is found here."""
        return f"http://127.0.0.1:{self.ports[port]}"

    # How it is done

    def _up(self, service: str, path: set[str]) -> None:
        assert service not in path, f"{service} depends on itself"
        if any(container.service == service for container in self.containers):
            return
        for other, condition in self.file.dependencies(service).items():
            if not self._is_active(other):
                assert condition.get("required") is False, f"{service} needs {other}, which its profile leaves out"
                continue
            self._up(other, path | {service})
            if condition["condition"] == "service_healthy":
                self.wait_until_healthy(other)
        if self.file.is_one_shot(service):
            self.run(service)
        else:
            self.start(service)

    def _is_active(self, service: str) -> bool:
        profiles = self.file.services[service].get("profiles", [])
        return not profiles or bool(set(profiles) & set(self.profiles))

    def command(self, service: str) -> list[str]:
        """What is started for a service here."""
        return self._placed(service, self.file.command(service))

    def environment(self, service: str) -> dict[str, str]:
        """Nothing of ours but the path: the image's variables and the service's."""
        told = self.file.environment(service)
        hosts = {name: "127.0.0.1" for name, value in told.items() if name.endswith("_HOST") and value in self.file.services}
        own = {name: self._moved(service, value) for name, value in told.items()} | hosts
        image = {} if "build" not in self.file.services[service] else image_environment()
        moved = {name: self._moved(service, value) for name, value in image.items()}
        base = {"PATH": os.environ["PATH"], "HOME": str(self._place("home", service)), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        return base | moved | own

    def _placed(self, service: str, words: list[str]) -> list[str]:
        first, *rest = [self._moved(service, word) for word in words]
        return [*PROGRAMS.get(first, [first]), *rest]

    def _moved(self, service: str, text: str) -> str:
        """Exchange the places in a text: host names of URLs, ports and folders."""
        names = "|".join(sorted(map(re.escape, self.file.services), key=len, reverse=True))
        text = re.sub(rf"(?<=//)({names})(?=:)", "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"(?<![\d.])\d+(?![\d.])", lambda found: str(self.ports.get(int(found[0]), found[0])), text)
        folders = self._folders(service)
        inside = "|".join(sorted(map(re.escape, folders), key=len, reverse=True))
        return re.sub(rf"(?<![\w./-])({inside})(?![\w-])", lambda found: folders[found[0]], text)

    def _folders(self, service: str) -> dict[str, str]:
        """From each folder inside to the one here. The cache begins as in the image: with compiled kernels."""
        places = {inside: str(self._mounted(told)) for inside, told in self.file.volumes(service).items()}
        for inside in ("/tmp", "/scratch", "/var/cache/starloom"):
            places.setdefault(inside, str(self._place("own", service + inside.replace("/", "-"))))
        return places | IMAGE_FOLDERS

    def _mounted(self, told: str) -> Path:
        if told.startswith((".", "/")):
            return (ROOT / told).resolve()
        place = self._place("volumes", told)
        if told == "cache" and not (place / "starloom").exists():
            (place / "starloom").mkdir()
            (place / "starloom" / "kernels").symlink_to(cache_folder(), target_is_directory=True)
        return place

    def _workplace(self, service: str) -> Path:
        recipes = self._folders(service).get("/recipes")
        return Path(recipes) if recipes else self.folder

    def _place(self, kind: str, name: str) -> Path:
        place = self.folder / kind / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _postgres(self, service: str) -> list[str]:
        """Make the database as the official image does from POSTGRES_*, and return the command of the server."""
        told, programs = self.file.environment(service), postgres_programs()
        data, socket_folder = Path(self._folders(service)["/var/lib/postgresql/data"]), self._place("own", "postgres-socket")
        for folder in (data, socket_folder):
            if os.getuid() == 0:
                shutil.chown(folder, "postgres", "postgres")
        server = as_postgres([str(programs / "postgres"), "-D", str(data), "-k", str(socket_folder), "-p", str(self.ports[5432])])
        if not (data / "PG_VERSION").exists():
            password = self.folder / "password"
            password.write_text(told["POSTGRES_PASSWORD"])
            password.chmod(0o644)
            made = [str(programs / "initdb"), "-D", str(data), "-U", told["POSTGRES_USER"], f"--pwfile={password}", "--no-sync"]
            _quietly(as_postgres([*made, *told["POSTGRES_INITDB_ARGS"].split()]))
            password.unlink()
            create = f"CREATE DATABASE {told['POSTGRES_DB']}"
            single = [str(programs / "postgres"), "--single", "-D", str(data), "postgres"]
            _quietly(as_postgres(single), create.encode())
        return [*server, "-c", "listen_addresses=127.0.0.1"]


def _quietly(words: list[str], told: bytes = b"") -> None:
    done = subprocess.run(words, input=told, capture_output=True, check=False, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{words} failed:\n{done.stdout.decode()}{done.stderr.decode()}")


def free_ports(number: int) -> list[int]:
    """Ports of this machine on which nothing listens, nor 10,000 above them, where SeaweedFS does too."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < number:
            port = random.randrange(20_000, 32_000)  # below those that the system gives to clients
            with contextlib.suppress(OSError):
                for one in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", one))
                found.append(port)
    return found


def seconds(told: Any) -> float:
    """`1m30s` as 90."""
    units = {"h": 3600, "m": 60, "s": 1}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", str(told))))
