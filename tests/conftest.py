"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.corpus import make_repositories
from tests.history import make_history
from tests.prefect_server import MIGRATED, PrefectServer, serving
from tests.sizes import examples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side: threads that wait for each other would take their cores
settings.register_profile("house", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that have slow tests: xdist gives each file to one worker (`--dist loadfile`), and the last one is waited for."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def migrated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where all workers keep the database of the first Prefect server: xdist gives each a folder below that of the session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect-migrated"
    folder.mkdir(exist_ok=True)
    MIGRATED.append(folder)


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of `make_history`, to be read or copied."""
    return make_history(tmp_path_factory.mktemp("history")).parent


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server for all tests of a worker."""
    with serving(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """Six MIT repositories of four modules each."""
    return make_repositories(tmp_path / "repositories")
