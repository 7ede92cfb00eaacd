"""The benches of near-deduplication: the truth is the truth, peers in other environments are asked properly."""

from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.bench import _peer, near_dedup, near_dedup_quality
from starloom.bench._measure import Timing
from starloom.bench._peer import Environment
from starloom.bench._similarity import shingle_sets, similar_pairs
from starloom.bench._tool import Corpus, Dropped, Tool, environment_corpus
from starloom.tasks.kernels.duplicates.minhash import shingles
from starloom.tasks.schemas import Docs

pytestmark = pytest.mark.slow

LONG = " ".join(f"word{i}" for i in range(200))
TEXTS = [
    LONG,
    LONG + " more",
    "something else",
    LONG.replace("word7 ", "other "),
    "something else again",
    " ".join(f"rest{i}" for i in range(90)),
]


def corpus_of(texts: list[str]) -> Corpus:
    rows = environment_corpus(200_000).table.slice(0, len(texts)).to_pylist()
    assert len(rows) == len(texts)
    return Corpus(
        pa.Table.from_pylist(
            [{**row, "content": text, "size": len(text)} for row, text in zip(rows, texts, strict=True)], schema=Docs.SCHEMA
        )
    )


# The truth


@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=12), max_size=12), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.75, 1.0]))
def test_similar_pairs_are_those_of_all_pairs(sets, threshold):
    pairs, similarity = similar_pairs([np.array(sorted(values), np.int64) for values in sets], threshold)
    expected = {}
    for i, left in enumerate(sets):
        for j in range(i + 1, len(sets)):
            jaccard = len(left & sets[j]) / len(left | sets[j])
            if jaccard >= threshold:
                expected[i, j] = jaccard
    assert dict(zip(map(tuple, pairs.tolist()), similarity.tolist(), strict=True)) == expected
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(expected)


def test_similar_pairs_of_more_pairs_than_the_first_buffer():
    pairs, similarity = similar_pairs([np.arange(5)] * 60, 0.7)
    assert len(pairs) == 60 * 59 // 2
    assert (similarity == 1).all()


def test_shingle_sets_are_of_distinct_shingles():
    (values,) = shingle_sets(["a b a b a b a b"], lambda text: shingles(text, 2))
    assert len(values) == 2


def timings_of(corpus: Corpus, **dropped: list[int]) -> list[Timing]:
    ids = corpus.table.column("doc_id").to_pylist()
    return [Timing(Tool(name, repr), [1.0], dropped=Dropped(tuple(ids[i] for i in rows))) for name, rows in dropped.items()]


def test_judge_counts_wrong_drops_and_missed_pairs():
    corpus = corpus_of(TEXTS)
    told = near_dedup_quality.judge(corpus, timings_of(corpus, right=[1, 3], nothing=[], wrong=[1, 3, 5], half=[0]))
    truth = told["truth"]["ascii"]
    assert (truth["pairs"], truth["files_with_partner"], truth["files_dropped"]) == (3, 3, 2)
    assert 0 <= truth["pairs_expected_without_collision"] < 0.1
    found = {name: tuple(told["judged"][name]["ascii"].values()) for name in ("right", "nothing", "wrong", "half")}
    assert found == {"right": (0, 0), "nothing": (0, 3), "wrong": (1, 0), "half": (0, 1)}


def test_each_peer_is_held_against_words_like_its_own():
    own = {tool.name: near_dedup_quality.words_of(tool.name) for tool in near_dedup.TOOLS}
    assert {name for name, words in own.items() if words == "unicode"} == {"text-dedup"}
    assert {name.split(",")[0] for name, words in own.items() if words == "plain"} == {"datatrove", "data-prep-kit"}


def test_plain_words_forget_case_punctuation_and_numbers():
    assert near_dedup_quality._shingles("Foo_bar(3.14, X9)", "plain") == ["foo bar 0 x0"]
    assert near_dedup_quality._shingles("...", "plain") == [""]


def test_lines_tell_every_tool():
    corpus = corpus_of(TEXTS)
    timings = [*timings_of(corpus, some=[1]), Timing(Tool("gone", repr), problem="not installed: so and so")]
    report = {"bench": "x", "title": "t", "documents": 6, "bytes": 10**6, "load_average": 0.0, **near_dedup_quality.judge(corpus, timings)}
    report["tools"] = [{"name": t.tool.name, "is_ours": False, "seconds": t.seconds, "dropped": 1, "problem": t.problem} for t in timings]
    *_, some, gone = near_dedup_quality.lines(report).splitlines()
    assert some.split() == ["some", "1.0", "1", "0", "1", "0", "1", "ascii"]
    assert gone.split(maxsplit=1) == ["gone", "not installed: so and so"]


# What tools are given, and what ours does with it


def test_part_files_hold_the_corpus(tmp_path):
    corpus = environment_corpus(300_000)
    parts = near_dedup.part_files(corpus, tmp_path)
    assert 1 < len(parts.docs) <= near_dedup.NUM_PARTS
    assert pa.concat_tables([pq.read_table(name) for name in parts.docs]).equals(corpus.table)
    texts = pq.read_table(parts.texts)
    assert texts.column("int_id_column").to_pylist() == list(range(corpus.table.num_rows))
    assert texts.column("id").equals(corpus.table.column("doc_id").cast(texts.schema.field("id").type))
    assert texts.column("text").to_pylist() == corpus.texts


@pytest.fixture
def workers():
    yield
    near_dedup._workers().close()
    near_dedup._workers.cache_clear()


@pytest.mark.usefixtures("workers")
def test_ours_and_datasketch_drop_the_planted_copies_only(tmp_path):
    corpus = corpus_of(TEXTS)
    ids = corpus.table.column("doc_id").to_pylist()
    parts = near_dedup.part_files(corpus, tmp_path)
    for verify in ("none", "estimated", "exact"):
        dropped = near_dedup._ours(parts, verify).doc_ids
        assert len(dropped) == 2
        assert set(dropped) < {ids[0], ids[1], ids[3]}
    assert near_dedup._datasketch(parts).doc_ids == (ids[1], ids[3])
    pytest.importorskip("xxhash", reason="the extra `bench` is not installed")
    assert near_dedup._datasketch(parts, xxhash=True).doc_ids == (ids[1], ids[3])


def test_shingles_for_peers_are_ours():
    for text in [*TEXTS, "", "a", "a\n\nb c-d é f"]:
        assert {shingle.encode() for shingle in near_dedup.shingle_list(text)} == set(shingles(text, near_dedup.NGRAM))


# Peers in environments of their own


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment as if built, with our interpreter and a driver of the test's."""
    monkeypatch.setenv("STARLOOM_BENCH_VENVS", str(tmp_path / "venvs"))
    monkeypatch.setattr(_peer, "HERE", tmp_path)
    shutil.copy(_peer.__file__.replace("_peer.py", "_peer_serve.py"), tmp_path)
    made = Environment("some-peer", ("one==1", "two==2"))
    (made.folder / "bin").mkdir(parents=True)
    (made.folder / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "_peer_some_peer.py").write_text(
        "import os\nprint('loaded')\n"
        "def run(**asked):\n"
        "    os.system('echo noise')\n"
        "    if 'status' in asked: os._exit(asked['status'])\n"
        "    return [os.getpid(), asked['texts'].upper()]\n"
    )
    yield made
    for process, _ in [_peer._started(made)] if _peer._started.cache_info().currsize else []:
        process.stdin.close()
        process.stdout.close()
        process.wait()
    _peer._started.cache_clear()


def test_a_peer_stays_and_answers_each_time(environment):
    pid, text = environment.ask(texts="a")
    assert text == "A"
    assert pid != os.getpid()
    assert environment.ask(texts="é\n") == [pid, "É\n"]


def test_a_peer_that_fails_says_why_and_stays(environment):
    pid, _ = environment.ask(texts="a")
    with pytest.raises(RuntimeError, match="KeyError: 'texts'"):
        environment.ask(other=1)
    assert environment.ask(texts="b") == [pid, "B"]


def test_a_peer_that_dies_is_told(environment):
    with pytest.raises(RuntimeError, match=r"ended with status 7 .*log\.txt"):
        environment.ask(status=7)
    assert "noise" in (environment.folder / "log.txt").read_text()


def test_an_environment_is_built_only_with_just_its_requirements(environment):
    assert not environment.is_built()
    (environment.folder / _peer.MARK).write_text("\n".join(environment.requirements))
    assert environment.is_built()
    assert not Environment("some-peer", ("one==2",)).is_built()


def test_every_environment_has_a_driver_with_pinned_requirements():
    environments = {tool.environment for tool in near_dedup.TOOLS if tool.environment is not None}
    assert len(environments) == 3
    for environment in environments:
        assert (_peer.HERE / f"_peer_{environment.name.replace('-', '_')}.py").exists()
        assert "==" in environment.requirements[0]
