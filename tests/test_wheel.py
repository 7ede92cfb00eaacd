"""What a wheel holds: one import name, and everything that a run reads."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.checkouts import ROOT, copy_house
from tests.corpus import write_recipe

pytestmark = pytest.mark.slow

STAGES = """
- license_filter
- decontaminate
- train_tokenizer: {vocab_size: 400}
- encode
- pack_fim: {sequence_length: 128}
- train_model: {preset: tiny}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    copy = copy_house(tmp_path_factory.mktemp("source"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(copy / "dist"), str(copy)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return next((copy / "dist").glob("*.whl"))


def test_a_wheel_takes_one_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"starloom"}
    recipes = {f"starloom/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.*") if ".starloom" not in path.parts}
    assert recipes <= set(names)
    shown = [path for folder in ("templates", "static") for path in (ROOT / "console" / folder).iterdir()]
    assert {f"starloom/console/{path.relative_to(ROOT / 'console').as_posix()}" for path in shown} <= set(names)


def test_a_wheel_runs_a_recipe_from_another_folder(wheel, tmp_path, repositories):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    libraries = next((tmp_path / "env" / "lib").glob("python*/site-packages")) / "libraries.pth"
    libraries.write_text("\n".join(site.getsitepackages()) + "\n")  # a path in a .pth file: the editable install there is not followed
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)

    def starloom(*words: str) -> str:
        told = subprocess.run(
            [python.with_name("starloom"), *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    where = subprocess.run(
        [python, "-c", "import starloom; print(starloom.__file__)"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(where.stdout.strip()).is_relative_to(tmp_path / "env")
    recipe = write_recipe(tmp_path / "r.yaml", repositories, STAGES)
    assert json.loads(starloom("plan", str(recipe), "--json"))["steps"][-1]["step"] == "train_model"  # which reads conf/model/tiny.yaml
    done = json.loads(starloom("run", str(recipe), "--json", "--no-prefect", "--workers", "1", "--until", "decontaminate"))
    assert {step["status"] for step in done["steps"]} == {"done"}
