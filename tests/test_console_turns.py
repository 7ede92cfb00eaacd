"""Pages that read the store take turns, and one question asked by many is asked once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from starloom.console import app, turns
from starloom.console.stores import Catalogue
from starloom.lineage.store import Store


def test_no_more_pages_read_at_once_than_have_turns():
    now, most, lock = 0, 0, threading.Lock()

    def page(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(turns._in_turn(page), range(20))) == list(range(20))
    assert most == turns.AT_ONCE


def test_pages_of_the_store_take_turns_and_those_of_prefect_do_not():
    routes = [route for router in app.ROUTERS for route in router.routes]
    waiting = {route.endpoint.__module__.rpartition(".")[2]: isinstance(route, turns.InTurn) for route in routes}
    assert {"documents", "finding", "runs", "steps"} <= {name for name, waits in waiting.items() if waits}
    assert {"recipes", "triggered", "entrance", "watching"} <= {name for name, waits in waiting.items() if not waits}


def test_one_question_of_many_is_asked_once(tmp_path):
    catalogue, asked = Catalogue(Store.open(str(tmp_path))), []

    def ask() -> int:
        asked.append(1)
        time.sleep(0.05)
        return len(asked)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: catalogue.remember("question", ask), range(8))) == [1] * 8
    assert catalogue.remember("another", ask) == 2
    assert not catalogue._turns


def test_a_question_that_fails_is_asked_again(tmp_path):
    catalogue, tries = Catalogue(Store.open(str(tmp_path))), []

    def ask() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        return 7

    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(catalogue.remember, "question", ask).exception(), OSError)
    assert catalogue.remember("question", ask) == 7


def test_runs_are_listed_from_both_ends(tmp_path):
    store = Store.open(str(tmp_path))
    assert list(store.last_run_ids()) == store.run_ids() == []
    for name in ("b", "c", "a"):
        store.storage.write(f"runs/{name}/run.json", b"{}")
    store.storage.write("runs/d/other.json", b"{}")
    assert store.run_ids() == ["a", "b", "c"]
    assert list(store.last_run_ids()) == ["c", "b", "a"]
