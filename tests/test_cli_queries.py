"""The verbs that ask a store, as a person types them: text, `--json`, exit codes, and the command that each proposes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from starloom.cli import main
from starloom.lineage.store import Store, object_name
from starloom.queries.rows import Rows
from tests.history import EMAIL

pytestmark = pytest.mark.slow


@pytest.fixture
def place(history, tmp_path, monkeypatch):
    """A folder with the store where it is looked for."""
    shutil.copytree(history / "store", tmp_path / "conf" / ".starloom", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(place):
    return Store.open(str(place / "conf" / ".starloom"))


@pytest.fixture
def say(place, capsys):
    """Type words; gives (exit code, standard output, standard error)."""

    def typed(words):
        code = main(shlex.split(words))
        told = capsys.readouterr()
        return code, told.out, told.err

    return typed


def doc_id(store, path):
    rows = Rows(store)
    for _, table in rows.tables(store.run("strict").step("ingest").outputs["Docs"]["artifact"], ["doc_id", "repo", "path"]):
        for row in table.to_pylist():
            if f"{row['repo']}/{row['path']}" == path:
                return row["doc_id"]
    raise AssertionError(path)


def questions(store):
    """One of every kind of question."""
    run = store.run("strict")
    survivor = next(
        row for _, t in Rows(store).tables(run.step("near_dedup").outputs["Clusters"]["artifact"], None) for row in t.to_pylist()
    )
    return {
        "runs": "runs",
        "run": "show strict",
        "step": "show strict/near_dedup",
        "first step": "show latest/ingest",
        "artifact": f"show {run.step('ingest').outputs['Docs']['artifact'][:10]}",
        "files": f"show {run.step('train_tokenizer').outputs['Tokenizer']['artifact'][:10]}",
        "document": f"show {doc_id(store, 'repo4/src/author.py')[:12]}",
        "cluster": f"show cluster:{survivor['cluster_id'][:12]} --run strict",
        "cluster of a step": f"show cluster:near_dedup/{survivor['cluster_id'][:12]} --run strict",
        "conflicts": "show conflicts --run strict",
        "diff": "diff strict lenient",
        "no diff": "diff strict strict",
        "kept": "trace repo4/src/author.py --run strict",
        "dropped": "trace minified.py",
        "duplicate": f"trace {next(iter(duplicates(store)))} --run strict",
        "several": "trace src/module0.py --limit 3",
        "skipped": "trace blob.py",
        "repository": "trace repo4 --run strict",
        "checkpoint": "trace checkpoint",
        "checkpoint by step": "trace checkpoint --step 1 --limit 2",
        "sequence": "trace seq:0:0",
        "verify": "verify",
        "gc": "gc --dry-run --older-than 12h",
    }


def duplicates(store):
    for _, table in Rows(store).tables(store.run("strict").step("near_dedup").outputs["Verdicts"]["artifact"], ["doc_id", "keep"]):
        yield from (row["doc_id"] for row in table.to_pylist() if row["keep"] is False)


def test_every_question_is_answered_in_text_and_in_json_and_proposes_a_command_that_works(store, say):
    for name, words in questions(store).items():
        code, text, errors = say(words)
        assert (code, errors) == (0, ""), name
        *_, blank, last = text.splitlines()
        assert (blank, last[:15]) == ("", "next: starloom "), name
        assert "None" not in text, name
        code, document, _ = say(f"{words} --json")
        assert code == 0
        assert isinstance(json.loads(document), dict), name
        following = last.removeprefix("next: starloom ")
        if "RECIPE" not in following:
            assert say(following)[0] == 0, f"{name} proposes {following}"
        assert EMAIL not in text + document, "a redacted address is nowhere told"


def test_the_text_names_what_matters(store, say):
    assert "dropped at quality_filter: max-line-length" in say("trace minified.py")[1]
    assert "GPL-3.0-only" in say("trace copyleft.py")[1]
    (twin,) = duplicates(store)
    _, text, _ = say(f"trace {twin} --run strict")
    assert "near-duplicate" in text
    assert "against 0.7, of repo" in text
    assert "licence permissive\n" in text
    assert "EMAIL at bytes 10-38 by presidio" in say("trace author.py")[1]
    assert "binary" in say("trace blob.py")[1]
    _, text, _ = say("show strict/near_dedup")
    assert "25 bands of 10 rows" in text
    assert "1 duplicate in 1 cluster\n" in text
    assert "documents_that_collide" not in text, "what is said in words is not said again"
    _, text, _ = say("diff strict lenient")
    assert "threshold" in text
    assert "1 document changed fate" in text
    assert "near_dedup: near-duplicate" in text
    _, text, _ = say("runs")
    assert "strict" in text
    assert "lenient" in text
    assert "MIT (LICENSE, line 1)" in say("trace checkpoint")[1]


def test_json_is_complete_where_text_is_cut(say):
    short, whole = say("trace src/module0.py --limit 2")[1], json.loads(say("trace src/module0.py --json")[1])
    assert "… and 4 more" in short
    assert len(whole["documents"]) == whole["num_documents"] == 6


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("trace nothing.py", 1, "has nothing named 'nothing.py'"),
        ("trace repoo4", 1, "did you mean 'repo4'"),
        ("trace repo4 --run nobody", 1, "there is no run 'nobody'"),
        ("show nothing-of-the-kind", 1, "holds no run, artifact or document"),
        ("show strict/near_dedupp", 1, "did you mean 'near_dedup'"),
        ("show artifact:000000", 1, "holds no artifact"),
        ("diff strict nobody", 1, "there is no run 'nobody'"),
        ("export strict/ingest/Verdict out", 1, "wrote no Verdict"),
        ("export 000000 out", 1, "no artifact"),
        ("runs --untag nobody", 1, "there is no tag 'nobody'"),
        ("runs --tag latest strict", 1, "cannot be a tag"),
        ("runs --tag a/b strict", 1, "cannot be a tag"),
        ("runs --store nowhere", 1, "there is no store at"),
    ],
)
def test_what_cannot_be_done_is_an_error_with_a_remedy_and_as_json_too(say, words, code, told):
    found, out, errors = say(words)
    assert (found, out) == (code, "")
    assert told in errors
    assert "→" in errors
    found, out, _ = say(f"{words} --json")
    assert found == code
    assert json.loads(out).keys() == {"error", "hint", "kind"}


@pytest.mark.parametrize(
    "words", ["gc --older-than soon", "gc --keep-last -1", "trace", "export strict/ingest", "runs --tag a", "export a b --format xml"]
)
def test_misuse_is_exit_code_two(say, words, capsys):
    with pytest.raises(SystemExit) as caught:
        say(words)
    assert caught.value.code == 2
    assert "usage: starloom" in capsys.readouterr().err


# Where the store is


def test_the_store_is_looked_for_here_and_then_beside_the_recipes(place, say, monkeypatch):
    assert json.loads(say("runs --json")[1])["store"] == str(place / "conf" / ".starloom")
    shutil.copytree("conf/.starloom", ".starloom", symlinks=True)
    assert json.loads(say("runs --json")[1])["store"] == str(place / ".starloom")
    assert json.loads(say("runs --json --store conf/.starloom")[1])["store"] == str(place / "conf" / ".starloom")
    monkeypatch.chdir(place / "conf" / ".starloom" / "objects")
    code, _, errors = say("runs")
    assert code == 1
    assert "there is no store here" in errors
    assert not Path(".starloom").exists()


def test_a_named_store_is_named_again_in_what_is_proposed(say):
    assert say("runs --store conf/.starloom")[1].splitlines()[-1].endswith(" --store conf/.starloom")


# Tags


def test_a_tag_names_a_run_until_it_is_taken_away(store, say):
    run_id = store.run("strict").id
    assert say(f"runs --tag v1.0 {run_id[-4:]}")[0] == 0
    assert json.loads(say("show v1.0 --json")[1])["run"] == run_id
    assert say("runs --tag v1.0 lenient")[0] == 0
    assert store.run("v1.0").id == store.run("lenient").id
    assert json.loads(say("runs --untag v1.0 --json")[1])["untagged"] == "v1.0"
    assert say("show v1.0")[0] == 1
    assert {tag for run in json.loads(say("runs --json")[1])["runs"] for tag in run["tags"]} == {"strict", "lenient"}


# Export


def test_a_filter_s_documents_are_exported_as_it_left_them(store, say):
    kept = [
        d
        for d in (
            r
            for _, t in Rows(store).tables(store.run("strict").step("near_dedup").outputs["Verdicts"]["artifact"], None)
            for r in t.to_pylist()
        )
        if d["keep"]
    ]
    made = json.loads(say("export strict/near_dedup out --json")[1])
    assert (made["rows"], made["type"]) == (len(kept), "Docs")
    parts = [pq.read_table(path) for path in sorted(Path("out").iterdir())]
    assert [row for part in parts for row in part.column("doc_id").to_pylist()] == [row["doc_id"] for row in kept]
    assert "content" in parts[0].column_names
    lines = say("export strict/near_dedup lines --format jsonl")
    assert lines[0] == 0
    rows = [json.loads(line) for path in sorted(Path("lines").iterdir()) for line in path.read_text().splitlines()]
    assert [(row["doc_id"], row["content"]) for row in rows] == [
        pair for part in parts for pair in zip(part.column("doc_id").to_pylist(), part.column("content").to_pylist(), strict=True)
    ]


def test_an_artifact_is_exported_byte_for_byte_and_files_under_their_names(store, say):
    artifact = store.run("strict").step("pack_fim").outputs["Spans"]["artifact"]
    assert say(f"export {artifact[:12]} spans")[0] == 0
    for number, part in enumerate(store.artifact(artifact).parts):
        assert Path("spans", f"part-{number:05}.parquet").read_bytes() == store.storage.local(object_name("Spans", part.hash)).read_bytes()
    assert say("export strict/train_tokenizer/tokenizer tok")[0] == 0
    assert json.loads(Path("tok/tokenizer.json").read_text())["model"]["type"] == "BPE"


def test_an_export_never_overwrites_and_leaves_nothing_half_written(store, say):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    code, _, errors = say("export strict/ingest out")
    assert code == 1
    assert "out is not empty" in errors
    assert os.listdir("out") == ["mine.txt"]
    damaged = store.artifact(store.run("strict").step("near_dedup").outputs["Verdicts"]["artifact"]).parts[-1]
    path = Path(store.url, object_name("Verdicts", damaged.hash))
    path.write_bytes(path.read_bytes()[:-20])
    before = sorted(os.listdir())
    code, _, errors = say("export strict/near_dedup fresh")
    assert code == 1
    assert "verify --repair" in errors
    assert sorted(os.listdir()) == before
    Path("empty").mkdir()
    assert say("export strict/ingest empty")[0] == 0
    assert os.listdir("empty")


# Verify and gc


def test_verify_names_the_lie_and_repair_says_what_to_do(store, say):
    assert "is sound" in say("verify")[1]
    part = store.artifact(store.run("strict").step("ingest").outputs["Docs"]["artifact"]).parts[0]
    path = Path(store.url, object_name("Docs", part.hash))
    path.write_bytes(path.read_bytes() + b"x")
    code, text, _ = say("verify")
    assert code == 1
    assert part.hash in text
    assert "1 mismatch" in text
    assert text.splitlines()[-1] == "next: starloom verify --repair"
    code, document, _ = say("verify --json")
    assert (code, json.loads(document)["sound"], len(json.loads(document)["mismatches"])) == (1, False, 1)
    code, text, _ = say("verify --repair")
    assert code == 1
    assert "removed 1 damaged file and 2 records" in text
    assert not path.exists()


def test_gc_says_what_it_freed(store, say):
    store.untag("strict")
    store.untag("lenient")
    assert "removed nothing" in say("gc")[1]
    _, text, _ = say("gc --keep-last 1 --dry-run")
    assert "would remove 1 run" in text
    assert len(store.run_ids()) == 2
    following = text.splitlines()[-1].removeprefix("next: starloom ")
    code, text, _ = say(following)
    assert code == 0
    assert "removed 1 run" in text
    assert len(store.run_ids()) == 1
    assert say("verify")[0] == 0
