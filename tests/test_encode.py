"""Encoding: tokens spell the content byte for byte, and metadata depends on the document alone."""

import functools
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Model
from tokenizers import normalizers, pre_tokenizers, trainers

from starloom.lineage.errors import InputError
from starloom.tasks.encode import Encode, encode
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.byte_level import token_bytes, untrained
from starloom.tasks.kernels.tokens.special_tokens import STARCODER, STARCODER2
from starloom.tasks.schemas import Docs, Tokenizer, Tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(["def area(self):\n    return self.pi * 2\n" * 3], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime.alone(tmp_path_factory.mktemp("scratch"))


def _docs(texts, kind="code", stars=None):
    rows = [
        {
            "doc_id": hashlib.md5(str(i).encode()).hexdigest(),
            "source": "s",
            "kind": kind,
            "repo": f"o/r{i % 3}",
            "path": f"src/{i}.py",
            "stars": stars,
            "swhid": "",
            "language": None if i % 2 else "Python",
            "content": text,
            "size": len(text.encode()),
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for i, text in enumerate(texts)
    ]
    return Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))


def _encode(docs, tokenizer, runtime, **knobs):
    return encode.function(docs, tokenizer, Encode(**knobs), runtime).read()


@functools.cache
def _token_bytes(path):
    return token_bytes(Model.from_file(str(path / "tokenizer.json")))


def _spelled(tokenizer, ids):
    offsets, data = _token_bytes(tokenizer.path)
    return b"".join(data[offsets[i] : offsets[i + 1]].tobytes() for i in ids)


HOSTILE = [
    "",
    "a",
    "\x00",
    "a\r\nb\rc\n",
    "\u202eabc\u202c",
    "<|endoftext|>",
    "<fim_prefix>x<reponame>",
    "e\u0301",
    "👩‍👩‍👧" * 3,
    " " * 5000,
    "\ufeff",
    "½²٣",
]


@settings(deadline=None)
@given(texts=st.lists(st.one_of(st.text(), st.sampled_from(HOSTILE)), max_size=6))
def test_the_tokens_spell_the_content(tokenizer, runtime, texts):
    docs = _docs(texts)
    tokens = _encode(docs, tokenizer, runtime)
    assert tokens.schema.equals(Tokens.SCHEMA)
    kept = ["doc_id", "source", "repo", "language", "kind"]
    assert tokens.select(kept).equals(docs.read(kept))
    assert tokens.column("context").equals(tokens.column("doc_id")), "each is a sample by itself"
    for text, ids in zip(texts, tokens.column("tokens").to_pylist(), strict=True):
        assert _spelled(tokenizer, ids) == text.encode()
        assert not ids or min(ids) >= len(STARCODER), "a special token's name in a file is text"


@pytest.mark.slow
def test_one_long_line_and_many_documents_pass_through_in_order(tokenizer, runtime):
    texts = ["x" * 1_500_000, *(f"doc {i}\n" for i in range(2000)), "é" * 700_000]
    tokens = _encode(_docs(texts), tokenizer, runtime).column("tokens")
    assert [_spelled(tokenizer, ids) for ids in tokens.to_pylist()] == [text.encode() for text in texts]


def test_metadata_is_starcoders_template(tokenizer, runtime):
    ids = _encode(_docs(["x"], stars=11), tokenizer, runtime, metadata_rate=1).column("metadata")[0].as_py()
    assert _spelled(tokenizer, ids) == b"<reponame>o/r0<filename>src/0.py<gh_stars>10-100\n"
    assert [i for i in ids if i < len(STARCODER)] == [STARCODER.index(name) for name in ("<reponame>", "<filename>", "<gh_stars>")]


def test_each_field_is_drawn_by_itself_and_a_line_feed_follows_any(tokenizer, runtime):
    tokens = _encode(_docs(["x"] * 3000), tokenizer, runtime)
    spelled = [_spelled(tokenizer, ids).decode() for ids in tokens.column("metadata").to_pylist()]
    assert all(text == "" or (text.endswith("\n") and text.count("\n") == 1) for text in spelled)
    fields = np.array([[name in text for name in ("<reponame>", "<filename>", "<gh_stars>")] for text in spelled])
    assert (np.abs(fields.mean(axis=0) - 0.2) < 0.03).all(), "four standard deviations"
    assert np.abs(np.corrcoef(fields.T)[np.triu_indices(3, 1)]).max() < 0.08
    assert len({tuple(row) for row in fields.tolist()}) == 8


def test_metadata_depends_on_the_document_not_on_its_neighbours(tokenizer, runtime):
    docs = _docs([f"text {i}" for i in range(50)]).read()
    whole = _encode(Docs.of(docs), tokenizer, runtime, metadata_rate=0.5)
    order = np.random.default_rng(0).permutation(50)
    shuffled = _encode(Docs.of(docs.take(order)), tokenizer, runtime, metadata_rate=0.5)
    assert shuffled.equals(whole.take(order))
    halves = [_encode(Docs.of(docs.slice(start, 25)), tokenizer, runtime, metadata_rate=0.5) for start in (0, 25)]
    assert pa.concat_tables(halves).equals(whole)
    assert not _encode(Docs.of(docs), tokenizer, runtime, metadata_rate=0.5, seed=1).equals(whole)


def test_other_kinds_carry_no_metadata(tokenizer, runtime):
    tokens = _encode(_docs(["x"] * 9, kind="issue"), tokenizer, runtime, metadata_rate=1)
    assert set(map(len, tokens.column("metadata").to_pylist())) == {0}


def test_a_name_that_looks_like_a_special_token_is_text(tokenizer, runtime):
    table = _docs(["x"]).read()
    table = table.set_column(table.schema.get_field_index("repo"), table.schema.field("repo"), pa.array(["<gh_stars>/é"]))
    ids = _encode(Docs.of(table), tokenizer, runtime, metadata_rate=1).column("metadata")[0].as_py()
    assert sum(i < len(STARCODER) for i in ids) == 3
    assert _spelled(tokenizer, ids).startswith("<reponame><gh_stars>/é<filename>".encode())


def test_what_was_encoded_is_counted(tokenizer, tmp_path):
    alone = Runtime.alone(tmp_path / "scratch")
    tokens = _encode(_docs(["abc", "", "é"]), tokenizer, alone, metadata_rate=1)
    assert alone.counts["documents"] == 3
    assert alone.counts["bytes"] == 5
    assert alone.counts["tokens"] == sum(map(len, tokens.column("tokens").to_pylist()))
    assert alone.counts["template_tokens"] == sum(map(len, tokens.column("metadata").to_pylist())) > 0
    assert "encoded_by" not in alone.notes


def test_a_tokenizer_that_the_kernel_does_not_cover_is_said(tokenizer, tmp_path):
    model = Model.from_file(str(tokenizer.path / "tokenizer.json"))
    model.add_tokens(["pi"])
    model.save(str(tmp_path / "tokenizer.json"))
    alone = Runtime.alone(tmp_path / "scratch")
    _encode(_docs(["x"]), Tokenizer.of(tmp_path), alone)
    assert alone.notes["encoded_by"].startswith("tokenizers, as it has added tokens that are not special")


def test_no_documents(tokenizer, runtime):
    tokens = _encode(_docs([]), tokenizer, runtime)
    assert tokens.num_rows == 0
    assert tokens.schema.equals(Tokens.SCHEMA)


def _foreign(tokenizer, folder, change):
    model = Model.from_file(str(tokenizer.path / "tokenizer.json"))
    change(model)
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


def test_a_tokenizer_that_changes_text_is_refused(tokenizer, runtime, tmp_path):
    lower = _foreign(tokenizer, tmp_path, lambda model: setattr(model, "normalizer", normalizers.Lowercase()))
    with pytest.raises(InputError, match=r"src/1\.py"):
        _encode(_docs(["fine", "Not"]), lower, runtime)


def test_a_tokenizer_without_the_template_is_refused_unless_it_is_not_wanted(tokenizer, runtime, tmp_path):
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(["x"], trainer)
    model.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="<reponame>, <filename>, <gh_stars>"):
        _encode(_docs(["x"]), Tokenizer.of(tmp_path), runtime)
    assert _encode(_docs(["x"]), Tokenizer.of(tmp_path), runtime, metadata_rate=0).num_rows == 1


def test_a_tokenizers_own_truncation_and_padding_are_ignored(tokenizer, runtime, tmp_path):
    def change(model):
        model.enable_truncation(2)
        model.enable_padding(length=50)

    cut = _foreign(tokenizer, tmp_path, change)
    texts = ["def area(self):", "x"]
    assert _encode(_docs(texts), cut, runtime).equals(_encode(_docs(texts), tokenizer, runtime))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A tokenizer with StarCoder2's special tokens."""
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(STARCODER2), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(["import os\n"], trainer)
    folder = tmp_path_factory.mktemp("second")
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


def _samples(tokenizer, tokens):
    """What is read as one sample, spelt out, by context."""
    samples = {}
    for row in tokens.to_pylist():
        samples[row["context"]] = samples.get(row["context"], b"") + _spelled(tokenizer, row["metadata"] + row["tokens"])
    return samples


@pytest.mark.parametrize("rate", [0, 1])
def test_the_second_template_reads_a_repository_as_one(second, runtime, rate):
    texts = [f"text {i}\n" for i in range(40)]
    docs = _docs(texts)
    tokens = _encode(docs, second, runtime, template="starcoder2", metadata_rate=rate)
    assert sorted(tokens.column("doc_id").to_pylist()) == sorted(docs.read().column("doc_id").to_pylist())
    rows = tokens.to_pylist()
    borders = [
        row["context"]
        for row, before in zip(rows, [None, *rows[:-1]], strict=True)
        if before is None or before["context"] != row["context"]
    ]
    assert sorted(borders) == ["s/o/r0", "s/o/r1", "s/o/r2"], "the files of a repository stand together"
    number = {hashlib.md5(str(i).encode()).hexdigest(): i for i in range(40)}
    for repository, sample in _samples(second, tokens).items():
        order = [number[row["doc_id"]] for row in rows if row["context"] == repository]
        assert order != sorted(order), "in random order"
        files = "".join(f"<file_sep>src/{i}.py\n{texts[i]}" if rate else f"<file_sep>{texts[i]}" for i in order)
        assert sample.decode() == (f"<repo_name>{repository.removeprefix('s/')}{files}" if rate else files)


def test_half_of_the_repositories_are_named_and_all_their_files_with_them(second, runtime):
    table = _docs(["x"] * 2000).read()
    repositories = pa.array([f"o/{i // 2}" for i in range(2000)])
    table = table.set_column(table.schema.get_field_index("repo"), table.schema.field("repo"), repositories)
    samples = _samples(second, _encode(Docs.of(table), second, runtime, template="starcoder2"))
    named = {sample.startswith(b"<repo_name>") for sample in samples.values()}
    assert named == {True, False}
    assert all(sample.count(b".py\n") == (2 if sample.startswith(b"<repo_name>") else 0) for sample in samples.values())
    assert abs(sum(sample.startswith(b"<repo_name>") for sample in samples.values()) / 1000 - 0.5) < 0.064, "four standard deviations"


def test_the_second_template_depends_on_the_repository_not_on_its_neighbours(second, runtime):
    docs = _docs([f"text {i}" for i in range(60)]).read()
    whole = _samples(second, _encode(Docs.of(docs), second, runtime, template="starcoder2"))
    order = np.random.default_rng(0).permutation(60)
    assert _samples(second, _encode(Docs.of(docs.take(order)), second, runtime, template="starcoder2")) == whole
    alone = docs.filter(pa.array([repo == "o/r1" for repo in docs.column("repo").to_pylist()]))
    assert _samples(second, _encode(Docs.of(alone), second, runtime, template="starcoder2")) == {"s/o/r1": whole["s/o/r1"]}
    assert _samples(second, _encode(Docs.of(docs), second, runtime, template="starcoder2", seed=1)) != whole


def test_other_kinds_are_read_alone_and_carry_nothing(second, runtime):
    tokens = _encode(_docs(["x"] * 9, kind="issue"), second, runtime, template="starcoder2", metadata_rate=1)
    assert set(map(len, tokens.column("metadata").to_pylist())) == {0}
    assert tokens.column("context").equals(tokens.column("doc_id"))


def test_without_a_template_there_is_no_metadata(tokenizer, runtime):
    tokens = _encode(_docs(["x"] * 9), tokenizer, runtime, template="none", metadata_rate=1)
    assert set(map(len, tokens.column("metadata").to_pylist())) == {0}


def test_a_tokenizer_without_the_templates_tokens_is_refused(tokenizer, runtime):
    with pytest.raises(InputError, match="<repo_name>, <file_sep>"):
        _encode(_docs(["x"]), tokenizer, runtime, template="starcoder2")
