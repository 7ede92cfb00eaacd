import hashlib
import json
import multiprocessing
import os
import uuid

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.lineage import parquet
from starloom.lineage.errors import CorruptError, InputError, MissingError, StoreError
from starloom.lineage.records import Action, Artifact, Part, Run
from starloom.lineage.store import FORMAT, Store, object_name
from tests.sizes import examples

TABLE = pa.table({"doc_id": ["a", "b"], "content": ["x", "y\0z"]})


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store.open(str(tmp_path / "s") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_a_part_is_named_by_its_bytes(store):
    part = store.put_table("Docs", TABLE, 1024)
    file = store.storage.local(object_name("Docs", part.hash))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == part.hash
    assert parquet.read_table(file).equals(TABLE)
    assert store.put_table("Docs", TABLE, 1024) == part


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.integers(-(2**60), 2**60)), max_size=50), st.data())
def test_bytes_of_a_part_do_not_depend_on_how_the_table_was_chunked(tmp_path_factory, rows, data):
    table = pa.table({"t": pa.array([t for t, _ in rows], pa.string()), "n": pa.array([n for _, n in rows], pa.int64())})
    cut = data.draw(st.integers(0, len(rows)))
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    folder = tmp_path_factory.mktemp("p")
    parquet.write_table(table, folder / "one", 7)
    parquet.write_table(chunked, folder / "two", 7)
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()
    assert parquet.read_table(folder / "one").equals(table)
    assert pa.Table.from_batches(parquet.read_batches(folder / "one", None, 3), table.schema).equals(table)


def test_a_flipped_bit_in_a_part_is_an_error_that_names_it_and_the_remedy(tmp_path):
    store = Store.open(str(tmp_path))
    part = store.put_table("Docs", pa.table({"content": ["some text " * 50] * 100}), 1024)
    file = store.storage.local(object_name("Docs", part.hash))
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=r"(?s)" + part.hash + ".*starloom verify --repair"):
        parquet.read_table(file)


def test_a_truncated_part_is_an_error(tmp_path):
    file = tmp_path / "x.parquet"
    parquet.write_table(TABLE, file, 10)
    file.write_bytes(file.read_bytes()[:-20])
    for read in (parquet.read_table, parquet.num_rows, lambda f: list(parquet.read_batches(f, None, 10))):
        with pytest.raises(CorruptError, match="x.parquet"):
            read(file)


def test_files_come_back_under_their_names(store, tmp_path):
    folder = tmp_path / "tok"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_text("1")
    (folder / "sub" / "b").write_bytes(b"\0")
    artifact = Artifact("Tokenizer", store.put_files(folder))
    back = store.folder(artifact)
    assert (back / "a.json").read_text() == "1"
    assert (back / "sub" / "b").read_bytes() == b"\0"
    assert store.folder(artifact) == back


def test_an_artifact_is_named_by_its_manifest(store):
    artifact = Artifact("Docs", (store.put_table("Docs", TABLE, 10, {"text_bytes": 4}),))
    name = store.put_artifact(artifact)
    assert store.artifact(name) == artifact
    assert hashlib.sha256(store.storage.read(f"artifacts/{name}.json")).hexdigest() == name
    assert artifact.counts == {"parts": 1, "bytes": artifact.parts[0].num_bytes, "rows": 2, "text_bytes": 4}


def test_the_first_record_of_an_action_stands(store):
    first = Action("k" * 64, {}, {"Docs": "one"})
    assert store.commit("s", first) == first
    assert store.commit("s", Action("k" * 64, {}, {"Docs": "two"})) == first
    assert store.action("s", "k" * 64) == first
    store.forget("s", "k" * 64)
    assert store.action("s", "k" * 64) is None


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(StoreError, match=rf"format {FORMAT + 1}.*reads up to {FORMAT}(?s:.*)install"):
        Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="does not give the format"):
        Store.open(str(tmp_path))


@pytest.mark.parametrize("text", ['{"format": "x"}', '{"format": true}', '{"format": 0}', "{}", "[]", "", "\x00"])
def test_a_store_that_does_not_say_its_format_is_refused(tmp_path, text):
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match="does not give the format"):
        Store.open(str(tmp_path))


def test_a_place_that_cannot_hold_a_store_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing"):
        with pytest.raises(StoreError, match="cannot be written(?s:.*)--store"):
            Store.open(str(place))


@pytest.mark.parametrize(
    "text", ['{"ty', "[]", "{}", "null", '{"type": "Docs", "parts": [{"x": 1}], "steps": [{"x": 1}], "actions": null}']
)
def test_a_damaged_record_is_named_with_a_remedy_that_names_the_store(tmp_path, text):
    store = Store.open(str(tmp_path / "a place"))
    for name in ("artifacts/abc.json", "actions/encode/ab/abc.json", "runs/abc/run.json"):
        store.storage.write(name, text.encode())
    for read in (lambda: store.artifact("abc"), lambda: store.action("encode", "abc"), lambda: store.run("abc")):
        with pytest.raises(CorruptError, match=r"abc.* is damaged") as caught:
            read()
        assert f"`starloom verify --repair --store '{store.url}'`" in caught.value.hint


def test_a_manifest_that_is_gone_is_named_with_a_remedy(store):
    with pytest.raises(MissingError, match=r"the artifact abc is no longer in (?s:.*)verify --repair"):
        store.artifact("abc")


def test_a_missing_store_is_not_made_by_a_question(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        Store.open(str(tmp_path / "nothing"), create=False)
    assert not (tmp_path / "nothing").exists()


def test_runs_are_found_by_an_unambiguous_piece(store):
    for name in ("20260101-000000-demo-aaaa", "20260102-000000-demo-bbbb"):
        store.write_run(Run(name, "demo", "done", "now"))
    assert store.run("latest").id.endswith("bbbb")
    assert store.run("aaaa").id.startswith("20260101")
    with pytest.raises(InputError, match="could be"):
        store.run("2026")
    with pytest.raises(InputError, match="no run"):
        store.run("zzzz")


def test_a_damaged_cache_is_an_empty_one(store):
    store.put_index("sources", {"a": [1]})
    assert store.index("sources") == {"a": [1]}
    store.storage.write("index/sources.json", b"{")
    assert store.index("sources") == {}


def test_work_that_was_killed_is_found_by_the_next_and_not_by_a_neighbour(tmp_path):
    store = Store.open(str(tmp_path))

    class Killed(BaseException):
        pass

    with pytest.raises(Killed), store.work("key") as folder:
        (folder / "checkpoint").write_text("half")
        raise Killed
    with store.work("key") as again:
        assert (again / "checkpoint").read_text() == "half"
        with store.work("key") as neighbour:
            assert neighbour != again
            assert list(neighbour.iterdir()) == []
        assert (again / "checkpoint").exists()
    assert list((tmp_path / "tmp" / "work").iterdir()) == []


def _build(url, ready, go, result):
    store = Store.open(url)
    part = store.put_table("Docs", TABLE, 10)
    ready.put(1)
    go.wait()
    result.put(store.commit("s", Action("f" * 64, {"pid": os.getpid()}, {"Docs": part.to_json()})).components)


@pytest.mark.slow
def test_of_two_processes_that_build_one_action_one_result_stands_and_nobody_breaks(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, result, go = context.Queue(), context.Queue(), context.Event()
    processes = [context.Process(target=_build, args=(str(tmp_path), ready, go, result)) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.get(timeout=60)
    go.set()
    found = [result.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert found[0] == found[1] == Store.open(str(tmp_path)).action("s", "f" * 64).components


def test_counts_of_an_artifact_add_up():
    parts = tuple(Part(f"{i}", 2, 10, {"kept": 1, "rules": {"a": i}}) for i in range(3))
    assert Artifact("Verdicts", parts).counts == {"parts": 3, "bytes": 30, "rows": 6, "kept": 3, "rules": {"a": 3}}
