"""Copies of the project, for tests that change its source."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_house(to: Path) -> Path:
    """The packages under `to`, as a checkout has them; with compiled kernels, which a copy may use."""
    for link in sorted((ROOT / "starloom").iterdir()):
        if link.is_symlink():
            shutil.copytree(ROOT / link.name, to / link.name)
    shutil.copytree(ROOT / "starloom", to / "starloom", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return to
