"""Documents found by the digits of their doc_id, from memory, against plain loops."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.lineage.records import Artifact
from starloom.lineage.store import Store
from starloom.queries import doc_ids as module
from starloom.queries.doc_ids import KEPT_BYTES, doc_ids
from starloom.queries.rows import FEW, Rows
from tests.sizes import examples

DIGITS = st.text(st.sampled_from("0f"), min_size=1, max_size=4)
IDS = st.builds(lambda head, middle, tail: head.ljust(16, middle) + tail.rjust(16, middle), DIGITS, st.sampled_from("0a"), DIGITS)


def stored(folder, parts) -> tuple[Rows, str]:
    store = Store.open(str(folder))
    tables = [pa.table({"doc_id": pa.array(ids, pa.string()), "n": pa.array(range(len(ids)), pa.int64())}) for ids in parts]
    name = store.put_artifact(Artifact("Docs", tuple(store.put_table("Docs", table, 3) for table in tables)))
    return Rows(store), name


@settings(max_examples=examples(60))
@given(st.lists(st.lists(IDS, max_size=5), max_size=4), st.data())
def test_documents_are_found_by_any_beginning(tmp_path_factory, parts, data):
    rows, name = stored(tmp_path_factory.mktemp("s"), parts)
    every = [(part, row, doc_id) for part, ids in enumerate(parts) for row, doc_id in enumerate(ids)]
    prefix = data.draw(st.sampled_from([each[2] for each in every] or ["0" * 32]))[: data.draw(st.integers(1, 32))]
    known = doc_ids(rows, name)
    assert known.find(prefix) == [(part, row) for part, row, doc_id in every if doc_id.startswith(prefix)]
    wanted = [each[2] for each in every[:2]]
    found = rows.of_documents(name, pa.array(wanted, pa.string()), ["doc_id", "n"]).to_pylist()
    assert [(row["part"], row["row"]) for row in found] == [(part, row) for part, row, doc_id in every if doc_id in wanted]


@pytest.mark.parametrize("strange", ["x" * 32, "A" * 32, "0" * 31, "", None])
def test_names_that_are_no_doc_ids_are_found_by_reading(tmp_path, strange):
    rows, name = stored(tmp_path, [["0" * 32, strange], ["1" * 32]])
    assert doc_ids(rows, name) is None
    assert [row["row"] for row in rows.of_document(name, "0" * 32, ["n"], None)] == [0]
    assert [row["row"] for row in rows.of_document(name, "1" * 32, ["n"], None)] == [0]


def test_what_is_no_beginning_of_a_doc_id_finds_nothing(tmp_path):
    rows, name = stored(tmp_path, [["0" * 32]])
    known = doc_ids(rows, name)
    assert [known.find(prefix) for prefix in ("", "g", "0" * 33, "A")] == [[]] * 4


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 200)
    monkeypatch.setattr(module, "_kept", module.OrderedDict())
    names = [stored(tmp_path / f"{n}", [[f"{n}" * 32] * 5]) for n in range(4)]
    for rows, name in names:
        assert doc_ids(rows, name) is not None
    assert len(module._kept) == 2
    rows, large = stored(tmp_path / "large", [["0" * 32] * 13])
    assert doc_ids(rows, large) is None
    assert len(rows.of_document(large, "0" * 32, ["n"], None)) == 13
    assert KEPT_BYTES > 16 * 1_000_000, "a corpus of a million documents is kept"


def test_many_documents_are_found_in_one_reading(tmp_path):
    ids = [f"{n:032x}" for n in range(FEW * 3)]
    rows, name = stored(tmp_path, [ids[::2], ids[1::2]])
    for number in (FEW, FEW + 1):
        found = rows.of_documents(name, pa.array(ids[:number]), ["doc_id", "n"]).to_pylist()
        assert sorted(row["doc_id"] for row in found) == ids[:number]
