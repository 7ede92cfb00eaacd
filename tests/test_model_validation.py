"""Held-out sequences read for validation: which, in which groups, shared by processes, and how their losses add up."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, trainers

from starloom.model.data import HELDOUT
from starloom.model.spans import documents_of
from starloom.model.validation import FILLER, NO_GROUP, UNKNOWN, ValidationSet, add_up, choose_rows, means
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES
from starloom.tasks.kernels.tokens.byte_level import untrained
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from starloom.tasks.pack_fim import PackFim
from starloom.tasks.schemas import Spans, Tokenizer, Tokens
from tests.packing import pack_parts
from tests.sizes import examples

LANGUAGES = ["Python", "C", None, "Rust"]
LENGTH = 32


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> tuple[list[Path], list[Path]]:
    """Three parts of Packed and Spans as the stage makes them; contexts of two files, the middle part empty."""
    folder = tmp_path_factory.mktemp("packs")
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model.train_from_iterator([], trainers.BpeTrainer(special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False))
    model.save(str(folder / "tokenizer.json"))
    tokenizer, runtime = Tokenizer.of(folder), Runtime.alone(folder / "scratch")
    knobs = PackFim(sequence_length=LENGTH, heldout_fraction=0.5, epochs=2)
    paths: tuple[list[Path], list[Path]] = [], []
    tables = []
    for part in range(3):
        rows = [
            {"doc_id": hashlib.md5(f"{part} {i}".encode()).hexdigest(), "source": "s", "repo": f"r{i // 2}", "language": LANGUAGES[i % 4],
             "kind": "code", "context": hashlib.md5(f"{part} {i // 2}".encode()).hexdigest(), "metadata": model.encode("m").ids,
             "tokens": model.encode(f"{part} {i} " + "x" * (i * 7 % 50)).ids}
            for i in range(0 if part == 1 else 40)
        ]  # fmt: skip
        tables.append(pa.Table.from_pylist(rows, schema=Tokens.SCHEMA))
    for part, made in enumerate(pack_parts(Tokens.of_parts(tables), tokenizer, knobs, runtime)):
        for output, kind, found in zip(made, ("packed", "spans"), paths, strict=True):
            found.append(folder / f"{kind}-{part}.parquet")
            pq.write_table(output.read(), found[-1], row_group_size=5)
    return paths


def heldout_rows(packed: list[Path]) -> list[tuple[int, int]]:
    splits = [pq.read_table(path)["split"].to_pylist() for path in packed]
    return [(part, row) for part, column in enumerate(splits) for row, split in enumerate(column) if split == HELDOUT]


def language_of_tokens(spans: Path, row: int) -> list[str | None]:
    """The group of each token of a sequence, by a plain loop."""
    groups: list[str | None] = [None] * LENGTH
    for span in pq.read_table(spans).to_pylist():
        if span["sequence"] == row and span["role"] in DOCUMENT_ROLES:
            for at in range(span["token_start"], span["token_end"]):
                groups[at] = span["language"] or UNKNOWN
    return groups


@pytest.mark.parametrize("max_sequences", [1, 7, 10_000])
def test_sequences_and_groups_are_those_of_the_files(packs, max_sequences):
    packed, spans = packs
    everything = heldout_rows(packed)
    count = min(len(everything), max_sequences)
    assert len(everything) > 20, "or this shows nothing"
    heldout = ValidationSet.open(packed, spans, max_sequences)
    assert heldout.origin.tolist() == [list(everything[i * len(everything) // count]) for i in range(count)]
    tables = [pq.read_table(path) for path in packed]
    assert heldout.tokens.tolist() == [tables[part]["tokens"][row].as_py() for part, row in heldout.origin]
    starts = [
        heldout.starts.positions[begin:end].tolist() for begin, end in zip(heldout.starts.offsets, heldout.starts.offsets[1:], strict=False)
    ]
    assert starts == [tables[part]["starts"][row].as_py()[1:] for part, row in heldout.origin.tolist()]
    named = [[None if group == NO_GROUP else heldout.names[group] for group in row] for row in heldout.groups]
    assert named == [language_of_tokens(spans[part], row) for part, row in heldout.origin]
    if max_sequences > 7:
        assert heldout.names == ("C", "Python", "Rust", UNKNOWN)
        assert NO_GROUP in heldout.groups


def test_without_spans_there_are_no_groups(packs):
    heldout = ValidationSet.open(packs[0], [], 5)
    assert heldout.names == ()
    assert (heldout.groups == NO_GROUP).all()
    assert len(heldout.tokens) == 5


@pytest.mark.parametrize(("batch_sequences", "world"), [(1, 1), (4, 1), (100, 1), (2, 3), (100, 3), (1, 40)])
def test_processes_share_the_sequences_in_equally_many_batches(packs, batch_sequences, world):
    heldout = ValidationSet.open(packs[0], packs[1], 20)
    shares = [list(heldout.batches(batch_sequences, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    seen = []
    for batch, groups in (each for share in shares for each in share):
        assert groups.shape == batch.tokens_BT.shape
        assert len(groups) <= batch_sequences
        assert (batch.tokens_BT == heldout.tokens[batch.sequences]).all()
        assert (groups[:, -1] == FILLER).all()
        assert batch.offsets_N[[0, -1]].tolist() == [0, groups.size]
        if not (groups == FILLER).all():
            assert (groups[:, :-1] == heldout.groups[batch.sequences, 1:]).all()
            seen += batch.sequences.tolist()
    assert sorted(seen) == list(range(20))


def test_no_heldout_sequence_is_no_batch(packs):
    heldout = ValidationSet.open(packs[0][1:2], packs[1][1:2], 20)
    assert list(heldout.batches(4)) == []
    assert heldout.names == ()
    assert means(add_up(np.empty((0, 3)), np.empty((0, 3), bool), np.empty((0, 3), np.int32), 0), ()) == []


def test_spans_of_other_data_are_refused(packs, tmp_path):
    packed, spans = packs
    with pytest.raises(ValueError, match="2 part files of Spans do not belong to 3 of Packed"):
        ValidationSet.open(packed, spans[:2], 20)
    with pytest.raises(ValueError, match=r"spans-1\.parquet: its spans do not cover the 32 tokens of row \d+ of Packed"):
        ValidationSet.open(packed, [spans[1], spans[0], spans[2]], 20)
    table = pq.read_table(spans[0])
    for name, wrong in {"longer": table["token_end"].to_numpy() * 2, "gap": np.minimum(table["token_end"].to_numpy(), 5)}.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table.set_column(table.column_names.index("token_end"), "token_end", pa.array(wrong)), path)
        with pytest.raises(ValueError, match=rf"{name}\.parquet: its spans do not cover"):
            ValidationSet.open(packed[:1], [path], 10_000)
    old = tmp_path / "old.parquet"
    pq.write_table(table.drop_columns(["language"]), old)
    with pytest.raises(ValueError, match=r"old\.parquet has no column language"):
        ValidationSet.open(packed[:1], [old], 20)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20, width=32), st.booleans(), st.integers(FILLER, 2)), max_size=60), st.integers(0, 60))
def test_losses_add_up_by_group_whatever_the_batches(rows, border):
    names = ("a", "b", "c")
    expected: list[Any] = []
    for name, group in [(None, None), *((name, group) for group, name in enumerate(names))]:
        mine = [loss for loss, is_target, of in rows if is_target and of != FILLER and group in (None, of)]
        if mine:
            expected.append((name, pytest.approx(sum(mine) / len(mine)), len(mine)))

    def totals(some):
        losses, is_target, groups = ([row[column] for row in some] for column in range(3))
        return add_up(np.array([losses], np.float32), np.array([is_target], bool), np.array([groups], np.int32), len(names))

    found = totals(rows)
    assert means(found, names) == expected
    np.testing.assert_allclose(totals(rows[:border]) + totals(rows[border:]), found)


def test_the_documents_of_sequences_are_named_in_order(packs):
    packed, spans = packs
    tables = [pq.read_table(path).to_pylist() for path in spans]
    suspects = [(2, 3), (0, 9), (2, 0), (0, 8)]
    expected = []
    for part, row in suspects:
        mine = [span for span in tables[part] if span["sequence"] == row]
        expected += [span["doc_id"] for span in sorted(mine, key=lambda span: span["token_start"]) if span["doc_id"]]
    expected = list(dict.fromkeys(expected))
    assert len(expected) > 5
    assert documents_of(spans, np.array(suspects, np.int32)) == expected[:5]
    assert documents_of(spans, np.array(suspects), limit=100) == expected
    assert documents_of([], np.array(suspects)) == []
    padded = next(
        (part, row) for part, row in heldout_rows(packed)[::-1] if None in [s["doc_id"] for s in tables[part] if s["sequence"] == row]
    )
    assert None not in documents_of(spans, np.array([padded]))


def test_as_many_are_chosen_as_there_are(packs):
    assert choose_rows(packs[0], 10_000).tolist() == [list(row) for row in heldout_rows(packs[0])]
    assert choose_rows(packs[0][1:2], 5).shape == (0, 2)
    assert set(Spans.SCHEMA.names) >= {"sequence", "token_start", "token_end", "byte_start", "language", "doc_id"}
