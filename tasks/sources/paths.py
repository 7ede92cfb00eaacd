"""Paths in the knobs of sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo


def _from_recipe(value: str, info: ValidationInfo) -> str:
    """Return a path relative to the recipe's folder as an absolute one."""
    return str(Path((info.context or {}).get("folder", "."), value).expanduser().absolute())


LocalPath = Annotated[str, AfterValidator(_from_recipe)]
"""A path on this machine, relative to the recipe's folder. What lies there is identity, where it lies is not."""
