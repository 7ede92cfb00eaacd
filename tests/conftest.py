"""Fixtures and settings of all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.corpus import make_repositories

if TYPE_CHECKING:
    from pathlib import Path

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """Six MIT repositories of four modules each."""
    return make_repositories(tmp_path / "repositories")
