"""docker-compose.yml as the tests read it: variables put in, anchors and merges resolved, as Docker Compose does both."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
DOCKERFILE = ROOT / "Dockerfile"
REQUIRED = ("STARLOOM_POSTGRES_PASSWORD", "STARLOOM_PREFECT_PASSWORD", "STARLOOM_OPERATOR_PASSWORD")
NAME = re.compile(r"[A-Za-z_]\w*")


class MissingVariable(Exception):
    """A variable without which nothing may start."""


def example() -> dict[str, str]:
    """The variables of .env.example, with their values there."""
    lines = [line for line in ENV_EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled(**more: str) -> dict[str, str]:
    """The variables of .env.example with passwords filled in."""
    return example() | {name: f"{name.split('_')[1].lower()}-s3cret" for name in REQUIRED} | more


@dataclass
class ComposeFile:
    """A compose file under given variables."""

    services: dict[str, dict[str, Any]]
    raw: dict[str, Any]

    @classmethod
    def read(cls, variables: dict[str, str], path: Path = COMPOSE_FILE) -> ComposeFile:
        raw = yaml.safe_load(path.read_text())
        return cls(interpolated(raw["services"], variables), raw)

    def command(self, service: str) -> list[str]:
        """What the service starts: its entry point and its command, as words."""
        told = self.services[service]
        return _words(told.get("entrypoint", [])) + _words(told.get("command", []))

    def environment(self, service: str) -> dict[str, str]:
        return {name: str(value) for name, value in (self.services[service].get("environment") or {}).items()}

    def volumes(self, service: str) -> dict[str, str]:
        """From the path inside to the name or folder that is mounted there."""
        mounts = [mount.split(":") for mount in self.services[service].get("volumes", [])]
        return {mount[1]: mount[0] for mount in mounts}

    def dependencies(self, service: str) -> dict[str, dict[str, Any]]:
        return dict(self.services[service].get("depends_on", {}))

    def is_one_shot(self, service: str) -> bool:
        """Whether others wait for its end instead of its health."""
        told = [self.dependencies(other).get(service, {}).get("condition") for other in self.services]
        return "service_completed_successfully" in told


def _words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    """Put the variables into every string of a tree."""
    if isinstance(value, dict):
        return {key: interpolated(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, variables) for inner in value]
    return put_in(value, variables) if isinstance(value, str) else value


def put_in(text: str, variables: dict[str, str]) -> str:
    """Resolve `$$`, `${NAME}`, `${NAME:-default}` (the default may hold variables again) and `${NAME:?message}`."""
    done, rest = "", text
    while "$" in rest:
        before, rest = rest.split("$", 1)
        done += before
        if rest.startswith("$"):
            done, rest = done + "$", rest[1:]
            continue
        assert rest.startswith("{"), f"write ${{NAME}} or $$ in {text!r}"
        end = _end_of_braces(rest)
        done, rest = done + _value(rest[1:end], variables), rest[end + 1 :]
    return done + rest


def _end_of_braces(text: str) -> int:
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return place
    raise AssertionError(f"a brace is never closed in {text!r}")


def _value(told: str, variables: dict[str, str]) -> str:
    name = NAME.match(told).group()
    operator, word = told[len(name) : len(name) + 2], told[len(name) + 2 :]
    if variables.get(name):
        return variables[name]
    if operator == ":?":
        raise MissingVariable(f"{name}: {word}")
    assert operator in {"", ":-"}, f"${{{told}}}: use :- or :?"
    return put_in(word, variables)


def variables_used(text: str) -> set[str]:
    """The names of all variables in a text."""
    return set(re.findall(r"(?<!\$)\$\{([A-Za-z_]\w*)", text))


def image_environment() -> dict[str, str]:
    """What the Dockerfile's ENV lines set, but for PATH."""
    joined = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ENV (.+)$", joined, re.MULTILINE)
    pairs = [pair.split("=", 1) for line in lines for pair in shlex.split(line)]
    return {name: value for name, value in pairs if name != "PATH"}
