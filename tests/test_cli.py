"""The command: every verb by walking the table, and what it says when it is misused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starloom.cli import VERBS, main
from starloom.cli.output import table
from starloom.lineage.leases import running
from starloom.lineage.store import Store
from starloom.queries.formats import count, size
from starloom.tasks.frame.stage import registry
from starloom.tasks.schemas import Licenses
from tests.corpus import write_recipe


def call(capsys, *words: str) -> tuple[int, str, str]:
    try:
        code = main(list(words))
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_speaks_json(capsys, verb):
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0
    assert "--json" in out


def test_help_lists_every_verb(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for verb in VERBS:
        assert f" {verb} " in out


@pytest.mark.parametrize("words", [[], ["nothing"], ["run"], ["plan", "x.yaml", "--nonsense"], ["run", "missing.yaml"], ["stage"]])
def test_misuse_is_exit_code_two(capsys, words):
    code, _, _ = call(capsys, *words)
    assert code == 2


def test_help_imports_nothing_that_is_slow():
    script = (
        "import sys, contextlib, io\nfrom starloom.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n    "
        "try:\n        main(['--help'])\n    except SystemExit: pass\n"
        "slow = {'pydantic', 'numpy', 'pyarrow', 'yaml', 'rich', 'prefect', 'torch', 'numba', 'fsspec'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_a_cached_run_and_a_plan_import_no_orchestrator(tmp_path, repositories):
    recipe = write_recipe(tmp_path / "r.yaml", repositories, "- license_filter\n")
    script = (
        "import sys\nfrom starloom.cli import main\n"
        f"words = [{str(recipe)!r}, '--store', {str(tmp_path / 's')!r}]\n"
        "assert main(['run', *words, '--no-prefect', '--workers', '1']) == 0\n"
        "assert main(['run', *words]) == 0\nassert main(['plan', *words]) == 0\n"
        "slow = {'prefect', 'torch', 'numba', 'tokenizers'} & set(sys.modules)\nassert not slow, slow"
    )
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "nothing to run: all 3 steps are cached" in told.stdout


def test_an_error_is_a_sentence_and_a_remedy_not_a_traceback(capsys, tmp_path, repositories):
    recipe = write_recipe(tmp_path / "r.yaml", repositories, "- near_dedup: {treshold: 0.5}\n")
    code, out, err = call(capsys, "run", str(recipe))
    assert code == 2
    assert out == ""
    assert "no knob 'treshold'" in err
    assert "did you mean 'threshold'" in err
    code, out, _ = call(capsys, "run", str(recipe), "--json")
    assert json.loads(out)["hint"] == "did you mean 'threshold'?"


@pytest.mark.slow
def test_plan_and_run_as_json(capsys, tmp_path, repositories):
    recipe = write_recipe(tmp_path / "r.yaml", repositories, "- exact_dedup\n")
    words = [str(recipe), "--store", str(tmp_path / "s"), "--json"]
    code, out, _ = call(capsys, "plan", *words)
    assert code == 0
    assert [step["status"] for step in json.loads(out)["steps"]] == ["run", "waits"]
    code, out, _ = call(capsys, "run", *words, "--no-prefect", "--workers", "1")
    assert code == 0
    told = json.loads(out)
    assert told["status"] == "done"
    assert {step["step"] for step in told["steps"]} == {"ingest", "exact_dedup"}
    code, out, _ = call(capsys, "run", *words)
    assert json.loads(out)["run"] == told["run"]


def suggested(out: str) -> list[list[str]]:
    """The words of each command that a verb suggests, as a shell would read them."""
    lines = [line.partition("next:")[2] or line for line in out.splitlines() if "starloom " in line]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.slow
def test_what_a_run_suggests_can_be_typed_as_it_stands_from_where_it_ran(capsys, tmp_path, repositories, monkeypatch):
    (tmp_path / "my recipes").mkdir()
    recipe = write_recipe(tmp_path / "my recipes" / "r.yaml", tmp_path / "nowhere", "- near_dedup\n- redact_pii\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repositories").rename(tmp_path / "repo sitories")
    changed = ("--set", f"ingest.sources.0.path={tmp_path / 'repo sitories'}")
    for place in ((), ("--store", str(tmp_path / "a store"))):
        words = [str(recipe.relative_to(tmp_path)), *changed, *place]
        code, out, _ = call(capsys, "plan", *words, "--until", "near_dedup", "--force", "ingest")
        assert (code, suggested(out)) == (0, [["run", words[0], *changed, "--force", "ingest", "--until", "near_dedup", *place]])
        code, out, _ = call(capsys, "run", *words, "--until", "near_dedup", "--no-prefect", "--workers", "1")
        assert code == 0
        following = suggested(out)
        assert [line[0] for line in following] == ["show", "plan"]
        code, out, _ = call(capsys, "run", *words, "--until", "near_dedup")
        for line in [*following, *suggested(out)]:
            assert call(capsys, *line)[0] == 0, line


@pytest.mark.slow
def test_a_plan_knows_what_is_forced_what_failed_and_what_a_step_took(capsys, tmp_path, repositories):
    recipe = write_recipe(tmp_path / "r.yaml", repositories, "- exact_dedup\n- near_dedup\n")
    words = [str(recipe), "--store", str(tmp_path / "s")]
    call(capsys, "run", *words, "--no-prefect", "--workers", "1")
    took = {step.name: step.seconds for step in Store.open(str(tmp_path / "s")).run("latest").steps}
    call(capsys, "run", *words, "--until", "exact_dedup")  # recorded, and takes no time
    steps = {step["step"]: step for step in json.loads(call(capsys, "plan", *words, "--from", "exact_dedup", "--json")[1])["steps"]}
    assert {name: step["status"] for name, step in steps.items() if step["reasons"] == ["forced"]} == dict.fromkeys(
        ("exact_dedup", "near_dedup.signatures", "near_dedup"), "run"
    )
    assert steps["exact_dedup"]["seconds"] == pytest.approx(took["exact_dedup"], abs=0.2)
    assert steps["exact_dedup"]["seconds"] > 0


@pytest.mark.slow
def test_a_run_that_was_killed_is_called_killed_and_its_step_too(capsys, tmp_path, repositories):
    recipe = write_recipe(tmp_path / "r.yaml", repositories, "- exact_dedup\n")
    words = [str(recipe), "--store", str(tmp_path / "s")]
    call(capsys, "run", *words, "--no-prefect", "--workers", "1")
    store = Store.open(str(tmp_path / "s"))
    run = store.run("latest")
    state = run.step("exact_dedup")
    run.status, state.status, state.outputs = "running", "running", {}
    store.write_run(run)
    store.forget("exact_dedup", state.key)
    told = json.loads(call(capsys, "runs", "--store", str(tmp_path / "s"), "--json")[1])
    assert [row["status"] for row in told["runs"]] == ["killed"]
    assert json.loads(call(capsys, "show", "latest", "--store", str(tmp_path / "s"), "--json")[1])["status"] == "killed"
    assert json.loads(call(capsys, "plan", *words, "--json")[1])["steps"][1]["reasons"] == ["killed last time"]
    with running(store, run.id):
        told = json.loads(call(capsys, "runs", "--store", str(tmp_path / "s"), "--json")[1])
    assert [row["status"] for row in told["runs"]] == ["running"]


def test_stages_lists_the_registry_with_its_knobs(capsys):
    _, out, _ = call(capsys, "stages", "--json")
    told = json.loads(out)
    assert set(told) == set(registry())
    assert all(knob["about"] for stage in told.values() for knob in stage["knobs"].values())


@pytest.mark.parametrize("name", sorted(registry()))
def test_help_of_a_stage_names_each_knob_with_its_sentence_and_the_columns_it_reads(capsys, name):
    code, out, _ = call(capsys, "stage", name, "--help")
    assert code == 0
    said = " ".join(out.split())
    for knob, field in registry()[name].config.model_fields.items():
        assert f"--{knob.replace('_', '-')}" in said
        assert " ".join(field.description.split())[:30].replace(" ", "") in said.replace(" ", "")


def texts(tmp_path, **columns):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_stage_runs_alone_on_a_file_with_only_content(capsys, tmp_path):
    words = " ".join(f"word{i}" for i in range(60))
    path = texts(tmp_path, content=[words, words + " more", "something else entirely"])
    code, out, err = call(capsys, "stage", "near_dedup", str(path), str(tmp_path / "out"), "--threshold", "0.6", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["files"]["verdicts.parquet"]["dropped"] == 1
    assert pq.read_table(tmp_path / "out" / "verdicts.parquet").num_rows == 3
    code, _, err = call(capsys, "stage", "near_dedup", str(path), str(tmp_path / "out"))
    assert code == 1
    assert "is not empty" in err


def test_a_stage_alone_reads_other_inputs_and_chains(capsys, tmp_path):
    path = texts(tmp_path, content=["def f(x):\n    return x\n" * 50, ""])
    assert call(capsys, "stage", "train_tokenizer", str(path), str(tmp_path / "t"), "--vocab-size", "300")[0] == 0
    code, _, err = call(capsys, "stage", "encode", str(path), str(tmp_path / "e"), "--tokenizer", str(tmp_path / "t" / "tokenizer"))
    assert code == 0, err
    code, _, err = call(
        capsys,
        "stage",
        "pack_fim",
        str(tmp_path / "e" / "tokens.parquet"),
        str(tmp_path / "p"),
        "--tokenizer",
        str(tmp_path / "t" / "tokenizer"),
    )
    assert code == 0, err
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"packed.parquet", "spans.parquet"}


def test_licences_are_judged_first_and_dropped_later_alone_too(capsys, tmp_path):
    path = texts(tmp_path, content=["# SPDX-License-Identifier: MIT\n", "# SPDX-License-Identifier: GPL-3.0-only\n", "x = 1\n"])
    judge = ["stage", "license_filter", str(path), str(tmp_path / "judged"), "--json", "--allow-classes"]
    code, out, err = call(capsys, *judge, "[permissive, no-license, unknown-license, non-permissive]")
    assert code == 0, err
    assert json.loads(out)["files"]["verdicts.parquet"]["dropped"] == 0
    licenses = str(tmp_path / "judged" / "licenses.parquet")
    code, out, err = call(capsys, "stage", "license_gate", str(path), str(tmp_path / "out"), "--licenses", licenses, "--json")
    assert code == 0, err
    assert json.loads(out)["files"]["verdicts.parquet"]["rules"] == {"non-permissive": 2}  # the third: what its sibling says
    assert call(capsys, "stage", "license_gate", str(path), str(tmp_path / "again"))[0] == 2  # here they are needed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["near_dedupe", "in.parquet", "out"], "did you mean 'near_dedup'"),
        (["near_dedup", "in.parquet", "out", "--threshold", "7"], "near_dedup.threshold 7"),
        (["near_dedup", "in.parquet", "out", "--threshold", "["], "--threshold: '[' is not a YAML value"),
        (["quality_filter", "in.parquet", "out", "--rules", "5"], "quality_filter.rules 5: "),
        (["near_dedup", "missing.parquet", "out"], "there is nothing at"),
        (["near_dedup", "bad.parquet", "out"], "cannot be read"),
        (["near_dedup", "nocontent.parquet", "out"], "no column `content`"),
        (["encode", "in.parquet", "out", "--tokenizer", "nowhere"], "there is nothing at"),
        (["license_gate", "in.parquet", "out", "--licenses", "in.parquet"], "in.parquet does not fit the columns of Licenses: "),
        (["license_gate", "in.parquet", "out", "--licenses", "nulls.parquet"], "Licenses: row 1 of license_class is null"),
        (["exact_dedup", "numbers.parquet", "out"], "numbers.parquet does not fit the columns of Docs: content is int64, not string"),
        (["exact_dedup", "sizes.parquet", "out"], "gives a document the size 7, but its content has 1 bytes"),
        (["exact_dedup", "columns.parquet", "out"], "columns.parquet has more than one column `content`"),
        (["ingest", "in.parquet", "out"], "in.parquet is not a folder"),
        (["encode", "in.parquet", "out", "--tokenizer", "in.parquet"], "in.parquet is not a folder, as a Tokenizer must be"),
        (["encode", "in.parquet", "out", "--tokenizer", "empty"], "empty is not a valid Tokenizer: "),
        (["quality_filter", "ids.parquet", "out"], "ids.parquet has the doc_id 'ABC'; a doc_id is 32 hex digits in lower case"),
        *(
            ([stage, "twice.parquet", "out"], f"twice.parquet has 2 rows of the doc_id '{'0' * 32}'")
            for stage in ("exact_dedup", "near_dedup", "redact_pii")
        ),
        (["license_gate", "in.parquet", "out", "--licenses", "judged.parquet"], f"judged.parquet has 2 rows of the doc_id '{'0' * 32}'"),
    ],
)
def test_a_stage_alone_refuses_clearly_and_leaves_nothing(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    texts(tmp_path, content=["a", "b"])
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "nocontent.parquet")
    (tmp_path / "empty").mkdir()
    twice = ["1" * 32, "0" * 32, "0" * 32]
    judged = {name: [None, None] for name in Licenses.SCHEMA.names} | {"doc_id": ["a", "b"], "license_class": ["permissive", None]}
    for name, rows in {
        "ids": pa.table({"content": ["a", "b"], "doc_id": ["0" * 32, "ABC"]}),
        "nulls": pa.table(judged),
        "numbers": pa.table({"content": [1, 2]}),
        "twice": pa.table({"content": ["a", "b", "c"], "doc_id": twice}),
        "judged": pa.table({name: [None] * 3 for name in Licenses.SCHEMA.names} | {"doc_id": twice, "license_class": ["permissive"] * 3}),
        "sizes": pa.table({"content": ["a", "b"], "size": [1, 7]}),
        "columns": pa.table([["a"], ["b"]], ["content", "content"]),
    }.items():
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    before = {path.name for path in tmp_path.iterdir()}
    code, _, err = call(capsys, "stage", *words)
    assert code in (1, 2)
    assert message in err
    assert {p.name for p in tmp_path.iterdir()} == before


def test_rows_that_are_no_documents_are_shown_with_their_reasons(capsys, tmp_path):
    path = texts(tmp_path, content=[b"a", None, b"b\xff", None])
    code, out, err = call(capsys, "stage", "exact_dedup", str(path), str(tmp_path / "out"))
    assert code == 0, err
    assert "skipped.parquet" in out
    assert "1 kept, 3 dropped (null 2, undecodable 1)" in out


def test_a_name_with_control_characters_breaks_no_table():
    assert table(["a", "b"], [["x\ny\x1b[31m", "é"]]).splitlines()[2:] == ["x\\ny\\x1b[31m  é"]


def test_numbers_and_tables_as_people_read_them():
    assert count(1234567) == "1,234,567"
    assert [size(n) for n in (0, 999, 1000, 1_500_000)] == ["0 B", "999 B", "1.0 KB", "1.5 MB"]
    assert table(["a", "n"], [["x", 1], ["yy", 22]]).splitlines() == ["a    n", "──  ──", "x    1", "yy  22"]


def test_knobs_that_do_not_go_together_are_refused_in_words(capsys, tmp_path):
    code, _, err = call(capsys, "stage", "near_dedup", str(tmp_path / "in.parquet"), str(tmp_path / "out"), "--bands", "30")
    assert code == 2
    assert "near_dedup: bands and rows go together: give both, or neither" in err
