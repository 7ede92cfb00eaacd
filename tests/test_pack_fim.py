"""Packing: every byte of every document found again through the spans, and no fate that depends on the cut of the corpus."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers, trainers
from tokenizers import Tokenizer as Model

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES
from starloom.tasks.kernels.tokens.byte_level import token_bytes, untrained
from starloom.tasks.kernels.tokens.pre_tokens import GPT4_PATTERN
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from starloom.tasks.pack_fim import PackFim
from starloom.tasks.schemas import Packed, Spans, Tokenizer, Tokens
from tests.packing import pack, pack_parts
from tests.sizes import examples

EOD, PREFIX, MIDDLE, SUFFIX, PAD = range(5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


@pytest.fixture(scope="module")
def model(tokenizer):
    loaded = Model.from_file(str(tokenizer.path / "tokenizer.json"))
    loaded.encode_special_tokens = True
    return loaded


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime.alone(tmp_path_factory.mktemp("scratch"))


def _tokens(model, texts, *, metadata="", kind="code", repos=5):
    rows = [
        {"doc_id": hashlib.md5(f"{i}".encode()).hexdigest(), "source": "s", "repo": f"r{i % repos}",
         "language": "Python", "kind": kind, "context": hashlib.md5(f"{i}".encode()).hexdigest(),
         "metadata": model.encode(metadata).ids, "tokens": model.encode(text).ids}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=Tokens.SCHEMA)


def _pack(table, tokenizer, runtime, **knobs):
    packed, spans = pack(Tokens.of(table), tokenizer, PackFim(**{"sequence_length": 16, "heldout_fraction": 0.2, **knobs}), runtime)
    return packed.read(), spans.read()


@pytest.mark.parametrize("column", ["tokens", "metadata"])
def test_tokens_of_another_tokenizer_are_refused_with_the_id_that_shows_it(column, model, tokenizer, runtime):
    table = _tokens(model, ["a = 1", "b"])
    foreign = table.set_column(table.column_names.index(column), column, pa.array([[1], [2, 70_000]], pa.list_(pa.uint32())))
    with pytest.raises(InputError, match=f"{column} hold the id 70000, but its ids are below 600"):
        _pack(foreign, tokenizer, runtime)


def _documents(packed, spans, table, model):
    """Check the law span by span, and return for each document (text, split, [(role, tokens, bytes)] in order)."""
    offsets, data = token_bytes(model)
    rows, splits = packed.column("tokens").to_pylist(), packed.column("split").to_pylist()
    assert packed.column("sequence").to_pylist() == list(range(len(rows)))
    found: dict[str, Any] = {doc_id: {"text": {}, "split": set(), "runs": []} for doc_id in table.column("doc_id").to_pylist()}
    at = (0, 0)
    for span in spans.to_pylist():
        sequence, start, end = span["sequence"], span["token_start"], span["token_end"]
        assert (sequence, start) == (at if at[1] < len(rows[at[0]]) else (at[0] + 1, 0)), "spans cover every token, once and in order"
        assert start < end <= len(rows[sequence])
        at = (sequence, end)
        ids = rows[sequence][start:end]
        spelled = b"".join(data[offsets[i] : offsets[i + 1]].tobytes() for i in ids)
        if span["role"] == "pad":
            assert set(ids) == {PAD}
            assert span["doc_id"] is span["byte_start"] is span["byte_end"] is None
            assert start > 0, "never a whole sequence of padding"
            assert end == len(rows[sequence])
            assert sequence + 1 == len(rows) or splits[sequence] != splits[sequence + 1], "only the last sequence of a split is padded"
            continue
        document = found[span["doc_id"]]
        document["split"].add(splits[sequence])
        document["runs"].append((span["role"], ids, (span["byte_start"], span["byte_end"])))
        if span["role"] in DOCUMENT_ROLES:
            assert span["byte_end"] - span["byte_start"] == len(spelled)
            document["text"].update(zip(range(span["byte_start"], span["byte_end"]), spelled, strict=True))
        else:
            assert span["byte_start"] is span["byte_end"] is None
    assert not rows or at == (len(rows) - 1, len(rows[-1]))
    for doc_id, ids in zip(table.column("doc_id").to_pylist(), table.column("tokens").to_pylist(), strict=True):
        document = found[doc_id]
        size = sum(int(offsets[i + 1] - offsets[i]) for i in ids)
        assert sorted(document["text"]) == list(range(size)), "every byte is there"
        assert sum(b - a for role, _, (a, b) in document["runs"] if role in DOCUMENT_ROLES) == size, "and once"
        document["text"] = bytes(byte for _, byte in sorted(document["text"].items())).decode()
        (document["split"],) = document["split"]
    return found


def _joined(runs):
    """Runs with those that a border of sequences split put together again."""
    out = []
    for role, ids, (start, end) in runs:
        if out and out[-1][0] == role and out[-1][2][1] == start:
            out[-1] = (role, out[-1][1] + ids, (out[-1][2][0], end))
        else:
            out.append((role, ids, (start, end)))
    return out


texts = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(["", "a", "é", "👩‍👩‍👧", "a\u0301", "\x00\r\n", "<fim_middle>", "def f(self):\n    return 1\n" * 4]),
    ),
    max_size=8,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(200))
@given(texts=texts, length=st.integers(1, 20), rate=st.sampled_from([0, 0.5, 1]), metadata=st.sampled_from(["", "o/r"]))
def test_every_document_is_rebuilt_through_its_spans(tokenizer, model, runtime, texts, length, rate, metadata):
    table = _tokens(model, texts, metadata=metadata)
    packed, spans = _pack(table, tokenizer, runtime, sequence_length=length, fim_rate=rate)
    assert packed.schema.field("tokens").type == pa.list_(pa.uint16())
    assert set(pc.list_value_length(packed.column("tokens")).to_pylist()) <= {length}
    documents = _documents(packed, spans, table, model)
    assert [document["text"] for document in documents.values()] == texts
    for document in documents.values():
        roles = [role for role, *_ in _joined(document["runs"])]
        assert roles.count("metadata") == bool(metadata)
        assert roles[-1] == "eod"
        assert document["runs"][-1][1] == [EOD]
        is_fim = "sentinel" in roles
        assert is_fim == (rate == 1 and document["split"] == "train" and document["text"] != "") or rate == 0.5
        assert ("text" in roles) == (not is_fim and document["text"] != "")


def _with(name, model):
    """The tokenizer with another split, or with a token that is found in text."""
    changed = Model.from_str(model.to_str())
    changed.encode_special_tokens = True
    if name == "gpt2":
        changed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt4":
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        changed.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated"), bytes_only])
    if name == "added":
        changed.add_tokens(["return 'n", "(self"])
    return changed


@pytest.mark.parametrize("spm_rate", [0, 1])
@pytest.mark.parametrize("name", ["starcoder", "gpt2", "gpt4", "added"])
def test_fill_in_the_middle_is_what_the_plain_method_gives(model, runtime, tmp_path, name, spm_rate):
    model = _with(name, model)
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.of(tmp_path)
    texts = [f"def area_{i}(self):\n    return 'naïve {i} 👩‍👩‍👧' * {i}\n" * (i % 5) + "x" for i in range(60)]
    table = _tokens(model, texts, metadata="o/r")
    packed, spans = _pack(table, tokenizer, runtime, fim_rate=1, spm_rate=spm_rate, heldout_fraction=0)
    cut_at = set()
    for text, document in zip(texts, _documents(packed, spans, table, model).values(), strict=True):
        runs = _joined(document["runs"])
        piece = {role: (text.encode()[start:end].decode(), ids) for role, ids, (start, end) in runs if start is not None}
        for spelled, ids in piece.values():
            assert ids == model.encode(spelled).ids
        order = ("suffix", "prefix", "middle") if spm_rate else ("prefix", "suffix", "middle")
        opened_by = (
            {"prefix": [PREFIX], "suffix": [SUFFIX], "middle": [MIDDLE]}
            if not spm_rate
            else {"suffix": [PREFIX, SUFFIX], "prefix": [MIDDLE], "middle": []}
        )
        expected = [*model.encode("o/r").ids, *(i for role in order for i in (*opened_by[role], *piece.get(role, ("", []))[1])), EOD]
        assert [i for _, ids, _ in runs for i in ids] == expected
        assert "".join(piece.get(role, ("", []))[0] for role in ("prefix", "middle", "suffix")) == text
        cut_at.add(len(piece.get("prefix", ("",))[0]) / len(text))
    assert len(cut_at) > 40, "cuts differ from document to document"


def test_a_tiny_example_written_out(runtime, tmp_path):
    """Two heldout documents and one cut in three, suffix first, in a vocabulary of bytes: every row of both tables."""
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=275, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([], trainer)
    model.save(str(tmp_path / "tokenizer.json"))
    table = _tokens(model, ["ab", "x=é;1", "f"], repos=3)
    packed, spans = _pack(table, Tokenizer.of(tmp_path), runtime, sequence_length=6, fim_rate=0.6, heldout_fraction=0.5, seed=13)
    assert [(row["split"], *map(model.id_to_token, row["tokens"])) for row in packed.to_pylist()] == [
        ("train", "<fim_prefix>", "<fim_suffix>", "1", "<fim_middle>", "x", "="),
        ("train", "Ã", "©", ";", "<|endoftext|>", "<fim_pad>", "<fim_pad>"),
        ("heldout", "a", "b", "<|endoftext|>", "f", "<|endoftext|>", "<fim_pad>"),
    ]
    ab, x, f = table.column("doc_id").to_pylist()
    assert [tuple(row[name] for name in Spans.SCHEMA.names) for row in spans.to_pylist()] == [
        (0, 0, 2, x, 0, None, None, "sentinel", "Python"),
        (0, 2, 3, x, 0, 5, 6, "suffix", "Python"),
        (0, 3, 4, x, 0, None, None, "sentinel", "Python"),
        (0, 4, 5, x, 0, 0, 1, "prefix", "Python"),
        (0, 5, 6, x, 0, 1, 2, "middle", "Python"),
        (1, 0, 3, x, 0, 2, 5, "middle", "Python"),
        (1, 3, 4, x, 0, None, None, "eod", "Python"),
        (1, 4, 6, None, None, None, None, "pad", None),
        (2, 0, 2, ab, 0, 0, 2, "text", "Python"),
        (2, 2, 3, ab, 0, None, None, "eod", "Python"),
        (2, 3, 4, f, 0, 0, 1, "text", "Python"),
        (2, 4, 5, f, 0, None, None, "eod", "Python"),
        (2, 5, 6, None, None, None, None, "pad", None),
    ]


def _fates(table, tokenizer, model, runtime, **knobs):
    packed, spans = _pack(table, tokenizer, runtime, **knobs)
    return _fates_of(_documents(packed, spans, table, model))


def _fates_of(documents):
    return {doc_id: (document["split"], _joined(document["runs"])) for doc_id, document in documents.items()}


def test_the_cut_of_the_corpus_changes_no_documents_fate(tokenizer, model, runtime):
    texts = [f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 4) for i in range(80)]
    table = _tokens(model, texts, metadata="o/r", repos=20)
    whole = _fates(table, tokenizer, model, runtime)
    assert {split for split, _ in whole.values()} == {"train", "heldout"}
    slices = [table.slice(start, 16) for start in range(0, 80, 16)]
    made = pack_parts(Tokens.of_parts(slices), tokenizer, PackFim(sequence_length=16, heldout_fraction=0.2), runtime)
    parts = {}
    for part, (packed, spans) in zip(slices, made, strict=True):
        parts |= _fates_of(_documents(packed.read(), spans.read(), part, model))
    assert parts == whole
    assert _fates(table.take(list(range(79, -1, -1))), tokenizer, model, runtime) == whole
    assert _fates(table, tokenizer, model, runtime, seed=1) != whole
    longer = _fates(table, tokenizer, model, runtime, sequence_length=512)
    assert longer == whole, "nor does the length of a sequence"


def test_a_repository_is_in_one_split_and_heldout_files_are_left_whole(tokenizer, model, runtime):
    table = _tokens(model, ["x = 1\n"] * 400, repos=40)
    fates = _fates(table, tokenizer, model, runtime, fim_rate=1, heldout_fraction=0.3)
    repos = dict(zip(table.column("doc_id").to_pylist(), table.column("repo").to_pylist(), strict=True))
    heldout = {repos[doc_id] for doc_id, (split, _) in fates.items() if split == "heldout"}
    assert heldout.isdisjoint({repos[doc_id] for doc_id, (split, _) in fates.items() if split == "train"})
    assert 4 <= len(heldout) <= 20
    for split, runs in fates.values():
        assert ("sentinel" in {role for role, *_ in runs}) == (split == "train")


def test_rates_are_kept(tokenizer, model, runtime):
    table = _tokens(model, ["some text"] * 4000, repos=4000)
    packed, spans = _pack(table, tokenizer, runtime, heldout_fraction=0.1)
    counts = {
        role: len(set(spans.filter(pc.equal(spans.column("role"), role)).column("doc_id").to_pylist())) for role in ("text", "sentinel")
    }
    fates = _fates(table, tokenizer, model, runtime, heldout_fraction=0.1)
    heldout = sum(split == "heldout" for split, _ in fates.values())
    spm = sum(runs[0][1][:2] == [PREFIX, SUFFIX] and runs[1][0] != "middle" for _, runs in fates.values())
    assert abs(heldout - 400) < 80, "four standard deviations, here and below"
    assert abs(counts["sentinel"] - 1800) < 130
    assert counts["text"] == 4000 - counts["sentinel"]
    assert abs(spm - counts["sentinel"] / 2) < 200, "an empty prefix of PSM looks the same; it is rare"
    assert packed.num_rows > 0


def test_only_the_named_kinds_are_written_for_fill_in_the_middle(tokenizer, model, runtime):
    table = _tokens(model, ["some text"] * 50, kind="documentation")
    assert "sentinel" not in _pack(table, tokenizer, runtime, fim_rate=1)[1].column("role").to_pylist()
    assert "sentinel" in _pack(table, tokenizer, runtime, fim_rate=1, fim_kinds=("documentation",))[1].column("role").to_pylist()


def test_no_documents(tokenizer, model, runtime):
    packed, spans = _pack(_tokens(model, []), tokenizer, runtime)
    assert (packed.num_rows, spans.num_rows) == (0, 0)
    assert packed.schema.field("tokens").type == pa.list_(pa.uint16())
    assert spans.schema.equals(Spans.SCHEMA)
    assert packed.schema.names == Packed.SCHEMA.names


@pytest.mark.slow
def test_a_large_vocabulary_takes_wider_tokens(tokenizer, model, runtime, tmp_path):
    model = Model.from_file(str(tokenizer.path / "tokenizer.json"))
    model.add_tokens([f"added{i}" for i in range(65_536 - 600)])
    model.save(str(tmp_path / "tokenizer.json"))
    assert model.get_vocab_size() == 65_536
    table = _tokens(model, ["x added64000 y"])
    assert _pack(table, Tokenizer.of(tmp_path), runtime)[0].schema.field("tokens").type == pa.list_(pa.uint16())
    model.add_tokens(["one more"])
    model.save(str(tmp_path / "tokenizer.json"))
    assert _pack(table, Tokenizer.of(tmp_path), runtime)[0].schema.field("tokens").type == pa.list_(pa.uint32())


def test_a_tokenizer_without_sentinels_is_refused(model, runtime, tmp_path):
    bare = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare.train_from_iterator(["x"], trainers.BpeTrainer(special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False))
    bare.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="<fim_pad>"):
        _pack(_tokens(bare, ["x"]), Tokenizer.of(tmp_path), runtime)


@pytest.mark.slow
def test_real_files_are_rebuilt(tokenizer, model, runtime):
    files = sorted(Path(pa.__file__).parent.glob("*.py"))[:30] + sorted(Path(__file__).parents[1].glob("t*/*.py"))
    texts = [path.read_bytes().decode() for path in files]
    table = _tokens(model, texts)
    packed, spans = _pack(table, tokenizer, runtime, sequence_length=256, fim_rate=1)
    assert [document["text"] for document in _documents(packed, spans, table, model).values()] == texts
