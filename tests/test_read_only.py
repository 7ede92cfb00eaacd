"""What only looks writes nothing: a plan makes no store, and a store on a read-only disk can be asked everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from starloom.cli import main
from starloom.lineage.store import Store
from tests.corpus import make_repositories, run_recipe, write_recipe

STAGES = """- exact_dedup
- train_tokenizer: {vocab_size: 300}
- encode
- pack_fim: {sequence_length: 64, heldout_fraction: 0.2}
"""
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
PROGRAM = """
import contextlib, io, json, sys
from starloom.cli import main
told = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def contents(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read-only")
    repositories = make_repositories(folder / "repositories", num_repos=4, files=1)
    recipe = write_recipe(folder / "r.yaml", repositories, STAGES)
    return recipe, folder / "store", run_recipe(recipe, folder / "store")


def read_only(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each command while nothing below `folder` can be written."""
    isolated = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", str(folder)]
    probe = subprocess.run([*isolated, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no mount can be made read-only here: {probe.stderr.strip()}")
    words = [*isolated, sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return [tuple(told) for told in json.loads(done.stdout)]


@pytest.mark.slow
def test_a_plan_makes_no_store_and_changes_none(made, tmp_path, capsys):
    recipe, store, _ = made
    assert main(["plan", str(recipe), "--store", str(tmp_path / "new" / "store")]) == 0
    assert list(tmp_path.iterdir()) == []
    before = contents(store)
    for more in ([], ["--set", "pack_fim.seed=5"], ["--json"]):
        assert main(["plan", str(recipe), "--store", str(store), *more]) == 0
    assert contents(store) == before
    capsys.readouterr()


def test_a_dry_collection_changes_nothing(made, capsys):
    _, store, _ = made
    (store / "tmp" / "work" / ("a" * 64)).mkdir(parents=True, exist_ok=True)
    before = contents(store)
    assert main(["gc", "--dry-run", "--older-than", "0", "--store", str(store)]) == 0
    assert "1 leftover" in capsys.readouterr().out
    assert contents(store) == before


def test_caches_of_a_first_plan_are_kept_by_its_run(made):
    _, store, _ = made
    assert {"sources", "code"} >= {path.stem for path in (store / "index").iterdir()} >= {"sources"}


@pytest.mark.slow
def test_a_store_on_a_read_only_disk_can_be_asked_everything(made):
    recipe, store, run = made
    tokenizer = run.step("train_tokenizer").outputs["Tokenizer"]["artifact"]
    asked = [["plan", str(recipe)], ["run", str(recipe)], ["gc", "--dry-run", "--older-than", "0"], ["verify"], ["runs"]]
    asked += [["show", "latest"], ["show", "latest/pack_fim"], ["show", tokenizer], ["trace", "repo1"], ["trace", "seq:0:0"]]
    for words, (code, out, err) in zip(asked, read_only(store, *[[*words, "--store", str(store)] for words in asked]), strict=True):
        assert (code, err) == (0, ""), words
        assert out, words


@pytest.mark.slow
def test_what_would_write_there_is_refused_in_words(made):
    recipe, store, run = made
    asked = [["run", str(recipe), "--no-prefect", "--set", "pack_fim.seed=5"], ["run", str(recipe), "--until", "encode"], ["gc"]]
    asked += [["runs", "--tag", "v1", run.id]]
    for words, (code, _, err) in zip(asked, read_only(store, *[[*words, "--store", str(store)] for words in asked]), strict=True):
        assert code in (1, 2), words
        assert f"the store {store} cannot be written: Read-only file system" in err, words
        assert "Traceback" not in err, words


@pytest.mark.slow
def test_a_store_that_cannot_be_made_is_refused_in_words(made):
    recipe, store, _ = made
    ((code, _, err), (planned, *_)) = read_only(store, *[[verb, str(recipe), "--store", str(store / "other")] for verb in ("run", "plan")])
    assert (code, planned) == (1, 0)
    assert f"the store {store / 'other'} cannot be written: Read-only file system" in err


def test_hints_name_the_store(made, tmp_path, capsys):
    import shutil

    store = tmp_path / "my store"
    shutil.copytree(made[1], store, symlinks=True)
    opened = Store.open(str(store))
    run = opened.run("latest")
    artifact = opened.artifact(run.step("pack_fim").outputs["Packed"]["artifact"])
    path = opened.storage.local(f"objects/packed/{artifact.parts[0].hash[:2]}/{artifact.parts[0].hash}.parquet")
    path.write_bytes(b"PAR1" + b"\0" * 50)
    named = f"verify --repair --store '{store}'"
    for words in (["trace", "seq:0:0"], ["show", run.step("pack_fim").outputs["Packed"]["artifact"]], ["verify"]):
        assert main([*words, "--store", str(store)]) == 1
        told = capsys.readouterr()
        assert named in told.out + told.err, words
    assert main(["verify", "--repair", "--store", str(store)]) == 1
    assert f"starloom run RECIPE --store '{store}'" in capsys.readouterr().out
