"""Rows found by the index of a column, against plain loops."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.lineage.records import Artifact
from starloom.lineage.store import Store
from starloom.queries import places as module
from starloom.queries import rows as rows_module
from starloom.queries.places import FOLDER, KEYS, candidates, hashes_of
from starloom.queries.rows import Rows
from tests.sizes import examples

DIGITS = st.text(st.sampled_from("0f"), min_size=1, max_size=4)
IDS = st.builds(lambda head, middle, tail: head.ljust(16, middle) + tail.rjust(16, middle), DIGITS, st.sampled_from("0a"), DIGITS)
TEXTS = st.text(st.sampled_from("a/é"), max_size=12) | st.builds(lambda text, times: text * times, st.text(max_size=3), st.integers(0, 200))


def stored(folder, parts, columns=("doc_id",)) -> tuple[Rows, str]:
    store = Store.open(str(folder))
    tables = [
        pa.table({**{name: pa.array(values, pa.string()) for name in columns}, "n": pa.array(range(len(values)), pa.int64())})
        for values in parts
    ]
    name = store.put_artifact(Artifact("Docs", tuple(store.put_table("Docs", table, 3) for table in tables)))
    return Rows(store), name


def listed(found) -> list[tuple[int, int]]:
    return [(part, int(row)) for part, at in found for row in at]


@settings(max_examples=examples(60))
@given(st.lists(st.lists(IDS, max_size=5), max_size=4), st.data())
def test_documents_are_found_by_any_beginning(tmp_path_factory, parts, data):
    rows, name = stored(tmp_path_factory.mktemp("s"), parts)
    every = [(part, row, doc_id) for part, ids in enumerate(parts) for row, doc_id in enumerate(ids)]
    prefix = data.draw(st.sampled_from([each[2] for each in every] or ["0" * 32]))[: data.draw(st.integers(1, 32))]
    assert listed(rows.beginning(name, "doc_id", prefix)) == [(part, row) for part, row, doc_id in every if doc_id.startswith(prefix)]
    wanted = [each[2] for each in every[:2]]
    found = rows.of_documents(name, pa.array(wanted, pa.string()), ["doc_id", "n"]).to_pylist()
    assert [(row["part"], row["row"]) for row in found] == [(part, row) for part, row, doc_id in every if doc_id in wanted]


@settings(max_examples=examples(60))
@given(st.lists(st.lists(TEXTS | st.none(), max_size=8), min_size=1, max_size=3), TEXTS)
def test_any_value_is_found_where_it_stands_and_nowhere_else(tmp_path_factory, parts, other):
    rows, name = stored(tmp_path_factory.mktemp("s"), parts, ("repo",))
    for wanted in {other, *(value for values in parts for value in values if value is not None)}:
        expected = [(part, row) for part, values in enumerate(parts) for row, value in enumerate(values) if value == wanted]
        assert listed(rows.equal(name, "repo", wanted)) == expected


@settings(max_examples=examples(60))
@given(st.lists(TEXTS, max_size=12), st.integers(1, 4))
def test_hashes_do_not_depend_on_what_stands_beside(texts, chunk):
    whole = pa.array(texts, pa.string())
    pieces = pa.chunked_array([whole.slice(at, chunk) for at in range(0, len(texts), chunk)], pa.string())
    for key in KEYS:
        alone = [int(hashes_of(key, pa.array([text]))[0]) for text in texts]
        assert hashes_of(key, whole).tolist() == hashes_of(key, pieces).tolist() == alone
    for one, other in zip(texts, reversed(texts), strict=True):
        if one.rpartition("/")[2] == other.rpartition("/")[2]:
            assert hashes_of("name", pa.array([one])) == hashes_of("name", pa.array([other]))


def test_rows_of_one_hash_are_told_apart_by_their_values(tmp_path, monkeypatch):
    monkeypatch.setattr("starloom.queries.rows.hashes_of", lambda _key, values: np.zeros(len(values), np.uint32))
    monkeypatch.setattr(module, "hashes_of", lambda _key, values: np.zeros(len(values), np.uint32))
    rows, name = stored(tmp_path, [["a" * 32, "b" * 32, "a" * 32], ["c" * 32]])
    assert [row["n"] for row in rows.of_document(name, "a" * 32, ["n"], None)] == [0, 2]
    assert listed(rows.beginning(name, "doc_id", "b" * 9)) == [(0, 1)]
    assert rows.of_documents(name, pa.array(["c" * 32, "d" * 32]), ["doc_id", "n"])["part"].to_pylist() == [1]


def test_an_index_is_read_from_its_file_and_made_again_if_that_is_gone_or_damaged(tmp_path, monkeypatch):
    rows, name = stored(tmp_path, [["0" * 32, "1" * 32]])
    monkeypatch.setattr(module, "_kept", OrderedDict())
    rows.of_document(name, "1" * 32, ["n"], None)
    (file,) = (tmp_path / "tmp" / FOLDER).rglob("*.npy")
    wanted = hashes_of("doc_id", pa.array(["1" * 32]))
    for damage in (lambda: None, file.unlink, lambda: file.write_bytes(b"no index"), lambda: np.save(file, np.zeros(3))):
        damage()
        monkeypatch.setattr(module, "_kept", OrderedDict())
        assert candidates(rows, name, 0, "doc_id", wanted).tolist() == [1]
    assert np.load(file).dtype == np.uint32


def test_a_store_that_cannot_be_written_is_asked_all_the_same(tmp_path, monkeypatch):
    rows, name = stored(tmp_path, [["0" * 32, "1" * 32]])
    monkeypatch.setattr(module, "_write", lambda _file, _made: False)
    assert [row["n"] for row in rows.of_document(name, "1" * 32, ["n"], None)] == [1]
    assert not (tmp_path / "tmp" / FOLDER).exists()


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 30)
    monkeypatch.setattr(module, "_kept", OrderedDict())
    monkeypatch.setattr(rows_module, "KEPT_FOOTERS_BYTES", 1)
    monkeypatch.setattr(rows_module, "_footers", OrderedDict())
    for number in range(4):
        rows, name = stored(tmp_path / f"{number}", [[f"{number}" * 32] * 5])
        assert len(rows.of_document(name, f"{number}" * 32, ["n"], None)) == 5
    assert len(module._kept) == 2
    assert len(rows_module._footers) == 1


@pytest.mark.parametrize("strange", ["x" * 32, "A" * 32, "0" * 31, "", None])
def test_names_that_are_no_doc_ids_do_no_harm(tmp_path, strange):
    rows, name = stored(tmp_path, [["0" * 32, strange], ["1" * 32]])
    assert [row["row"] for row in rows.of_document(name, "0" * 32, ["n"], None)] == [0]
    assert [row["row"] for row in rows.of_document(name, "1" * 32, ["n"], None)] == [0]


@settings(max_examples=examples(40))
@given(st.lists(st.integers(0, 5) | st.none(), max_size=20), st.integers(0, 5))
def test_rows_of_a_number_are_those_that_a_scan_finds(tmp_path_factory, numbers, wanted):
    store = Store.open(str(tmp_path_factory.mktemp("s")))
    lists = pa.array([[{"a": 1, "b": 9}]] * len(numbers), pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64())])))
    table = pa.table({"many": lists, "sequence": pa.array(numbers, pa.int64()), "n": pa.array(range(len(numbers)), pa.int64())})
    name = store.put_artifact(Artifact("Spans", (store.put_table("Spans", table, 3),)))
    found = Rows(store).where(name, 0, "sequence", wanted, ["sequence", "n"])
    assert found.column("n").to_pylist() == [at for at, number in enumerate(numbers) if number == wanted]
