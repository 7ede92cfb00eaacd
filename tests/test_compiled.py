"""Machine code kept by the contents of its source."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

from starloom.tasks import kernels
from starloom.tasks.kernels import compiled
from tests.corpus import write_recipe
from tests.test_end_to_end import plant
from tests.test_golden import BEFORE_TRAINING

KERNEL = """
from starloom.tasks.kernels.compiled import njit

@njit(cache=True, nogil=True)
def add(x, y):
    return x + y
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(folder: Path, source: str):
    folder.mkdir()
    (folder / "adding.py").write_text(source)
    spec = importlib.util.spec_from_file_location("adding", folder / "adding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.add


def test_a_second_checkout_compiles_nothing(tmp_path, cache):
    first = load(tmp_path / "one", KERNEL)
    assert first(1, 2) == 3
    assert sum(first.stats.cache_misses.values()) == 1
    second = load(tmp_path / "two", KERNEL)
    assert second(3, 4) == 7
    assert (sum(second.stats.cache_hits.values()), sum(second.stats.cache_misses.values())) == (1, 0)


def test_another_source_is_compiled(tmp_path, cache):
    assert load(tmp_path / "one", KERNEL)(1, 2) == 3
    other = load(tmp_path / "two", KERNEL.replace("x + y", "x - y"))
    assert other(1, 2) == -1
    assert sum(other.stats.cache_misses.values()) == 1


def test_what_was_long_not_used_goes_when_something_is_compiled(tmp_path, cache):
    assert load(tmp_path / "one", KERNEL)(1, 2) == 3
    (old,) = cache.iterdir()
    os.utime(old, (0, time.time() - compiled.UNUSED_SECONDS - 60))
    assert load(tmp_path / "two", KERNEL.replace("x + y", "x * y"))(2, 3) == 6
    assert not old.exists()
    assert len(list(cache.iterdir())) == 1


def test_where_nothing_can_be_written_it_is_kept_beside_the_source(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(tmp_path / "one", KERNEL)(1, 2) == 3
    assert list((tmp_path / "one" / "__pycache__").glob("*.nbc"))


def test_every_kernel_is_kept_by_contents():
    root = Path(kernels.__path__[0])
    found = {path.name: path.read_text() for path in root.rglob("*.py") if path.name != "compiled.py"}
    assert sum("@njit" in text for text in found.values()) > 10
    assert [name for name, text in found.items() if re.search(r"^from numba import .*\bnjit\b", text, re.MULTILINE)] == []


@pytest.mark.long
def test_compile_leaves_nothing_for_a_run_to_compile(tmp_path):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "starloom.cli", "compile", "--json"]
    told = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout) for _ in range(2)]
    assert told[0]["functions"] > 100
    assert told[1]["functions"] == 0
    recipe = write_recipe(tmp_path / "r.yaml", plant(tmp_path / "repositories"), BEFORE_TRAINING)
    code = [path.name for path in (tmp_path / "cache").rglob("*.nbc")]
    command = [sys.executable, "-m", "starloom.cli", "run", str(recipe), "--store", str(tmp_path / "s"), "--no-prefect", "--workers", "1"]
    subprocess.run(command, check=True, capture_output=True, env=env)
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*.nbc")) == sorted(code)
