"""Bytes per token: counted on what was not learnt from where there is such text, the same however the corpus is cut."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer as Fast
from tokenizers import models, pre_tokenizers

from starloom.lineage.errors import InputError
from starloom.lineage.keys import file_digest
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.byte_level import untrained
from starloom.tasks.measure_tokenizer import MeasureTokenizer, measure_tokenizer
from starloom.tasks.schemas import Docs, TokenizerSample
from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer
from tests.sizes import examples


def docs_of(texts, languages, parts=1):
    rows = [
        {
            "doc_id": hashlib.md5(str(i).encode()).hexdigest(),
            "source": "s",
            "kind": "code",
            "repo": "r",
            "path": f"{i}.py",
            "swhid": "",
            "language": language,
            "content": text,
            "size": len(text.encode()),
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for i, (text, language) in enumerate(zip(texts, languages, strict=True))
    ]
    return Docs.of_parts([pa.Table.from_pylist(rows[i::parts], schema=Docs.SCHEMA) for i in range(parts)])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tokenizer with a few merges, and one whose tokens are single bytes."""
    folder = tmp_path_factory.mktemp("pair")
    docs = docs_of(["def f(x):\n    return x + 1  # naïve\n" * 9], ["Python"])
    merged, _ = train_tokenizer.function(docs, TrainTokenizer(vocab_size=330), Runtime.alone(folder))
    single = untrained()
    single.model = models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    single.enable_truncation(2)  # which a measurement must not suffer from
    single.save(str(folder / "bytes.json"))
    return merged, str(folder / "bytes.json")


def measured(docs, tokenizer, scratch, learnt=None, **knobs):
    rows = [{"doc_id": doc_id, "num_bytes": 1} for doc_id in learnt or ()]
    sample = None if learnt is None else TokenizerSample.of(pa.Table.from_pylist(rows, TokenizerSample.SCHEMA))
    runtime = Runtime.alone(scratch)
    return measure_tokenizer.function(docs, tokenizer, sample, MeasureTokenizer(**knobs), runtime).read().to_pylist(), runtime


def test_a_byte_each_is_one_byte_per_token(tmp_path, pair):
    merged, single = pair
    docs = docs_of(["def f(x):\n    return x\n", "é" * 10, "<|endoftext|>"], ["Python", "C", None])
    rows, runtime = measured(docs, merged, tmp_path, compare_with=single)
    assert [row["language"] for row in rows] == [None, "Python", "C", "unknown"], "all, then by text"
    assert all(row["reference_tokens"] == row["bytes"] and row["reference_bytes_per_token"] == 1.0 for row in rows), (
        "a special token's name is text"
    )
    assert rows[1]["bytes_per_token"] > 2
    assert [row["documents"] for row in rows] == [3, 1, 1, 1]
    assert runtime.notes == {name: rows[0][name] for name in ("bytes_per_token", "reference_bytes_per_token")}


def test_without_a_reference_there_are_no_figures_of_one(tmp_path, pair):
    (overall, _), _ = measured(docs_of(["x = 1"], ["Python"]), pair[0], tmp_path)
    assert overall["reference_tokens"] is overall["reference_bytes_per_token"] is None


def test_learnt_documents_are_left_out_where_there_are_others(tmp_path, pair):
    docs = docs_of(["aaaa", "bb", "cccccc", ""], ["Python", "Python", "C", "C"])
    ids = docs.read()["doc_id"].to_pylist()
    rows, _ = measured(docs, pair[0], tmp_path, learnt=[ids[0], ids[2]])
    told = {row["language"]: (row["corpus_bytes"], row["documents"], row["bytes"], row["is_heldout"]) for row in rows}
    assert told == {None: (12, 2, 8, False), "C": (6, 1, 6, False), "Python": (6, 1, 2, True)}


def test_what_the_tokenizer_saw_in_training_is_what_it_is_not_measured_on(tmp_path):
    texts = [f"value_{i} = compute_{i * i}({i})\n" * 3 for i in range(60)]
    docs = docs_of(texts, ["Python", "C"] * 30, parts=2)
    tokenizer, sample = train_tokenizer.function(docs, TrainTokenizer(vocab_size=320, sample_bytes=1500), Runtime.alone(tmp_path / "t"))
    cfg = MeasureTokenizer(language_bytes=10**9)
    rows = measure_tokenizer.function(docs, tokenizer, sample, cfg, Runtime.alone(tmp_path / "m")).read().to_pylist()
    learnt, size = set(sample.read()["doc_id"].to_pylist()), {row["doc_id"]: row["size"] for row in docs.read().to_pylist()}
    assert learnt
    assert rows[0]["bytes"] == sum(num for doc, num in size.items() if doc not in learnt)
    assert all(row["is_heldout"] for row in rows)


documents = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(["Python", "C", "Go", None]), st.booleans()), max_size=14
)


@settings(deadline=None, max_examples=examples(60))
@given(documents=documents, parts=st.integers(1, 3), language_bytes=st.integers(1, 60), seed=st.integers(0, 2))
def test_like_counting_by_hand_however_the_corpus_is_cut(tmp_path_factory, pair, documents, parts, language_bytes, seed):
    merged, single = pair
    scratch = tmp_path_factory.getbasetemp()
    texts, languages = [text for text, _, _ in documents], [language for _, language, _ in documents]
    docs = docs_of(texts, languages)
    ids = docs.read()["doc_id"].to_pylist()
    learnt = [doc for doc, (_, _, is_learnt) in zip(ids, documents, strict=True) if is_learnt]
    knobs = {"compare_with": single, "language_bytes": language_bytes, "seed": seed}
    rows, _ = measured(docs, merged, scratch, learnt, **knobs)
    assert rows == measured(docs_of(texts, languages, parts), merged, scratch, learnt, **knobs)[0]

    fast = Fast.from_file(str(merged.path / "tokenizer.json"))
    fast.encode_special_tokens = True
    groups = defaultdict(list)
    for doc, (text, language, _) in zip(ids, documents, strict=True):
        if text:
            groups[language or "unknown"].append((doc, text))
    assert {row["language"] for row in rows} == ({None, *groups} if groups else set())
    each, corpus_tokens = {row["language"]: row for row in rows}, 0.0
    for language, members in groups.items():
        row, unseen = each[language], [(doc, text) for doc, text in members if doc not in learnt]
        able = unseen or members
        assert row["is_heldout"] == bool(unseen)
        assert row["corpus_bytes"] == sum(len(text.encode()) for _, text in members)
        assert 1 <= row["documents"] <= len(able)
        available = sum(len(text.encode()) for _, text in able)
        largest = max(len(text.encode()) for _, text in able)
        assert min(available, language_bytes) <= row["bytes"] < language_bytes + largest
        if language_bytes >= available:
            assert row["tokens"] == sum(len(fast.encode(text).ids) for _, text in able)
        assert row["bytes_per_token"] == row["bytes"] / row["tokens"]
        assert row["reference_tokens"] == row["bytes"]
        corpus_tokens += row["corpus_bytes"] / row["bytes_per_token"]
    if groups:
        for name in ("corpus_bytes", "documents", "bytes", "tokens"):
            assert each[None][name] == sum(row[name] for row in rows[1:])
        assert each[None]["bytes_per_token"] == pytest.approx(each[None]["corpus_bytes"] / corpus_tokens)
        assert each[None]["is_heldout"] == all(row["is_heldout"] for row in rows[1:])


@pytest.mark.parametrize("docs", [docs_of([], []), docs_of([""], ["C"]), Docs.of_parts([])])
def test_of_no_text_there_is_nothing_to_say(tmp_path, pair, docs):
    rows, runtime = measured(docs, pair[0], tmp_path, learnt=[])
    assert rows == []
    assert runtime.notes == {}


def test_a_reference_is_known_by_its_content_and_must_be_a_tokenizer(tmp_path, pair):
    assert MeasureTokenizer(compare_with=pair[1]).identity()["compare_with"] == {"sha256": file_digest(Path(pair[1]))}
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(InputError, match=r"no\.json is not a tokenizer\.json"):
        measured(docs_of(["x"], ["C"]), pair[0], tmp_path, compare_with=str(tmp_path / "no.json"))
    with pytest.raises(ValidationError, match="no file at"):
        MeasureTokenizer(compare_with=str(tmp_path / "absent.json"))
