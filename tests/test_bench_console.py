"""The bench of the console: a large store grown from a small one, and figures beside their bars."""

from __future__ import annotations

import json
import random

import pytest

from starloom.bench.console import __main__ as command
from starloom.bench.console.clients import ask_for, load, pages
from starloom.bench.console.growing import grow
from starloom.lineage.errors import StarloomError
from starloom.lineage.store import Store
from starloom.queries.fates import funnel
from starloom.queries.rows import Rows
from tests.console_client import client_of


@pytest.fixture(scope="module")
def small(history):
    return Store.open(str(history / "store"), create=False)


@pytest.fixture(scope="module")
def large(small, tmp_path_factory):
    store = Store.open(str(tmp_path_factory.mktemp("large")))
    num_documents = small.artifact(docs_of(small)).counts["rows"]
    grow(small, store, 12 * num_documents, 3)
    return store


def docs_of(store) -> str:
    return next(step.outputs["Docs"]["artifact"] for step in store.run("latest").steps if "Docs" in step.outputs)


@pytest.mark.slow
def test_a_grown_store_holds_each_document_often_under_names_of_their_own(small, large):
    assert len(large.run_ids()) == 3
    before, after = funnel(small.run("latest")), funnel(large.run("latest"))
    assert [row["documents"] for row in after] == [row["documents"] * 12 for row in before]
    rows, name = Rows(large), docs_of(large)
    ids = [doc_id for part in range(2) for doc_id in rows.table(name, part, ["doc_id"]).column(0).to_pylist()]
    assert len(rows.artifact(name).parts) == 2
    assert len(set(ids)) == len(ids) == rows.artifact(name).counts["rows"]


@pytest.mark.slow
def test_growing_again_gives_the_same_bytes(small, large, tmp_path):
    again = Store.open(str(tmp_path))
    grow(small, again, 12 * small.artifact(docs_of(small)).counts["rows"], 1)
    assert set(again.storage.names("objects")) == set(large.storage.names("objects"))


@pytest.mark.slow
def test_every_page_that_clients_ask_for_is_one(large):
    client = client_of(large.url)
    asks = pages(large)
    assert {"run", "document", "repository", "find", "step", "sample"} <= asks.keys()
    for ask in asks.values():
        assert client.get(ask(random.Random(1))).status_code in (200, 303)


@pytest.mark.slow
def test_the_console_is_served_and_asked(large, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    asks = pages(large)
    with command._served(tmp_path / "work", command.RECIPE, large.url) as (process, port), command._Memory(process) as memory:
        taken = load(port, asks, 2, 4)
        with pytest.raises(StarloomError, match="answered 404"):
            ask_for(port, "/runs/none")
    assert sum(map(len, taken.values())) == 8
    assert memory.peak_bytes > 10_000_000


def test_figures_stand_beside_their_bars():
    report = {
        "documents": 10, "runs": 1, "clients": 8, "cores": 2, "load_average": 0.1, "bar_seconds": 0.3,
        "pages": {"run": {**command._told([0.1] * 20 + [0.5] * 2), "first": 0.1}},
        "memory": {"peak_bytes": 6e8, "private_bytes": 1e8, "bar_bytes": 5e8},
        "plan": {"live_seconds": 1.0, "command_seconds": 2.0, "ratio": 0.5, "bar": 1.5},
    }  # fmt: skip
    told = command.lines(json.loads(json.dumps(report))).splitlines()
    assert [line.endswith("over") for line in told] == [False, False, True, True, False]
