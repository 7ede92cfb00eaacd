"""The bench frame: a corpus that is the same every time, a process for each tool, figures that are figures."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starloom.bench import __main__ as command
from starloom.bench import _measure
from starloom.bench._tool import Corpus, Dropped, Tool, environment_corpus, read_corpus
from starloom.lineage.errors import InputError
from starloom.tasks.schemas import Docs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return environment_corpus(300_000)


@pytest.fixture
def bench_module(tmp_path, monkeypatch):
    """Installs a module of this name, for this process and the workers that it spawns."""

    def install(body: str) -> ModuleType:
        (tmp_path / "bench_under_test.py").write_text("import os\nfrom starloom.bench._tool import Tool\n" + textwrap.dedent(body))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "bench_under_test", raising=False)
        return __import__("bench_under_test")

    return install


def saved(corpus: Corpus, folder: Path) -> Path:
    path = folder / "docs.parquet"
    pq.write_table(corpus.table, path)
    return path


def test_corpus_of_the_environment_is_the_same_every_time(corpus):
    again = environment_corpus(300_000)
    assert corpus.table.equals(again.table)
    assert corpus.num_bytes >= 300_000
    assert corpus.num_bytes == sum(len(text.encode()) for text in corpus.texts)


def test_corpus_has_the_columns_of_docs_and_unique_ids(corpus):
    assert corpus.table.schema == Docs.SCHEMA
    ids = corpus.table.column("doc_id").to_pylist()
    assert len(set(ids)) == len(ids)
    assert len(set(corpus.table.column("repo").to_pylist())) > 5


def test_read_corpus_keeps_to_the_limit(corpus, tmp_path):
    path = saved(corpus, tmp_path)
    few = read_corpus(path, 100_000)
    assert 0 < few.num_bytes <= 100_000
    assert few.table.equals(corpus.table.slice(0, few.table.num_rows))
    assert read_corpus(path).table.equals(corpus.table)
    assert read_corpus(path, 1).table.num_rows == 1


@pytest.mark.parametrize("table", [pa.table({"text": ["x"]}), Docs.SCHEMA.empty_table(), None])
def test_read_corpus_refuses_what_is_no_corpus(table, tmp_path):
    path = tmp_path / "x.parquet"
    if table is None:
        path.write_bytes(b"no parquet")
    else:
        pq.write_table(table, path)
    with pytest.raises(InputError, match=r"x\.parquet"):
        read_corpus(path)


def test_each_tool_has_its_own_process_and_its_own_peak(corpus, tmp_path, bench_module):
    module = bench_module("""
        PIDS = []
        def small(corpus):
            assert corpus.texts
        def large(corpus):
            return len(bytes(b"x" * 200_000_000))
        TITLE = "two"
        TOOLS = (Tool("large", large), Tool("small", small, is_ours=True))
    """)
    large, small = _measure.measure(module, saved(corpus, tmp_path))
    assert large.problem is None
    assert small.problem is None
    assert len(large.seconds) == len(small.seconds) == _measure.ROUNDS
    assert large.peak_bytes > small.peak_bytes + 150_000_000


def test_processes_that_a_tool_starts_count_to_its_peak(corpus, tmp_path, bench_module):
    module = bench_module("""
        import subprocess, sys
        def started(corpus):
            subprocess.run([sys.executable, "-c", "import time; x = b'x' * 200_000_000; time.sleep(1)"], check=True)
        TITLE = "children"
        ROUNDS = 1
        TOOLS = (Tool("started", started), Tool("alone", lambda corpus: None, is_ours=True))
    """)
    started, alone = _measure.measure(module, saved(corpus, tmp_path))
    assert len(started.seconds) == 1
    assert started.peak_bytes > alone.peak_bytes + 150_000_000


def test_a_tool_is_given_what_it_prepared_and_tells_what_it_dropped(corpus, tmp_path, bench_module):
    module = bench_module("""
        from starloom.bench._tool import Dropped
        def prepare(corpus, folder):
            (folder / "ids").write_text("\\n".join(corpus.table.column("doc_id").to_pylist()))
            return folder / "ids"
        TITLE = "prepared"
        TOOLS = (Tool("ours", lambda file: Dropped(tuple(file.read_text().split())), is_ours=True, prepare=prepare),)
    """)
    (timing,) = _measure.measure(module, saved(corpus, tmp_path))
    assert timing.problem is None
    assert timing.dropped == Dropped(tuple(corpus.table.column("doc_id").to_pylist()))
    report = command._report("x", module, corpus, [timing])
    assert report["tools"][0]["dropped"] == corpus.table.num_rows
    assert command._lines(report).endswith(f"{corpus.table.num_rows} dropped")


def test_a_tool_without_its_environment_says_how_to_get_it(corpus, tmp_path, bench_module, monkeypatch):
    monkeypatch.setenv("STARLOOM_BENCH_VENVS", str(tmp_path))
    module = bench_module("""
        from starloom.bench._peer import Environment
        TITLE = "elsewhere"
        TOOLS = (Tool("peer", repr, environment=Environment("nowhere", ("nothing==1",))), Tool("ours", repr, is_ours=True))
    """)
    peer, ours = _measure.measure(module, saved(corpus, tmp_path))
    assert peer.problem == "not installed: python -m starloom.bench bench_under_test --install"
    assert ours.problem is None


def test_a_tool_that_fails_costs_only_its_own_line(corpus, tmp_path, bench_module):
    module = bench_module("""
        def raises(corpus):
            raise ValueError("no such luck")
        def dies(corpus):
            os._exit(7)
        def second_time(corpus, seen=[]):
            seen.append(1)
            if len(seen) == 3:
                raise RuntimeError("third call")
        TITLE = "failures"
        TOOLS = (
            Tool("raises", raises),
            Tool("dies", dies),
            Tool("late", second_time),
            Tool("missing", raises, requires=("starloom-no-such-distribution",)),
            Tool("good", lambda corpus: corpus.num_bytes, is_ours=True),
        )
    """)
    timings = {t.tool.name: t for t in _measure.measure(module, saved(corpus, tmp_path))}
    assert timings["raises"].problem == "failed: ValueError: no such luck"
    assert timings["dies"].problem == "failed: its process ended with status 7"
    assert timings["late"].problem == "failed: RuntimeError: third call"
    assert timings["missing"].problem == _measure.INSTALL
    assert timings["good"].problem is None
    assert timings["late"].megabytes_per_second(10**6) is None


def test_report_gives_ratios_to_ours(corpus):
    ours, slow = _measure.Timing(Tool("ours", repr, is_ours=True), [2.0, 1.0], 10**6), _measure.Timing(Tool("slow", repr), [4.0], 2 * 10**6)
    report = command._report("x", cast("ModuleType", SimpleNamespace(TITLE="t")), corpus, [slow, ours])
    assert [tool["ratio_to_ours"] for tool in report["tools"]] == [0.25, 1.0]
    assert report["tools"][1]["mb_per_second"] == pytest.approx(corpus.num_bytes / 1e6)
    lines = command._lines(report).splitlines()
    assert "0.250 of ours" in lines[2]
    assert lines[3].startswith("* ours")


def test_every_bench_declares_a_title_and_tools_with_one_of_ours():
    for name in command._names():
        module = command._load(name)
        assert module.TITLE
        assert "\n" not in module.TITLE
        names = [tool.name for tool in module.TOOLS]
        assert len(set(names)) == len(names)
        assert any(tool.is_ours for tool in module.TOOLS), f"{name} compares nothing of ours"


def test_command_refuses_an_unknown_bench(capsys):
    assert command.main(["no_such_bench"]) == 2
    assert "no_such_bench" in capsys.readouterr().err


def test_command_prints_one_json_object(corpus, tmp_path, bench_module, monkeypatch, capsys):
    module = bench_module("""
        TITLE = "Count bytes"
        TOOLS = (Tool("ours", lambda corpus: print(corpus.num_bytes), is_ours=True),)
    """)
    monkeypatch.setattr(command, "_load", lambda _: module)
    assert command.main(["count_bytes", "--corpus", str(saved(corpus, tmp_path)), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == corpus.num_bytes
    assert report["tools"][0]["mb_per_second"] > 0


def test_command_lists_the_benches():
    done = subprocess.run([sys.executable, "-m", "starloom.bench", "--list"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*command._names(), *command.COMMANDS]
