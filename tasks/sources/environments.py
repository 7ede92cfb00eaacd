"""Python environments as sources."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from starloom.tasks.frame.stage import Config, RuntimeOnly
from starloom.tasks.sources.paths import LocalPath


class PythonEnvironment(Config):
    """The distributions installed in a Python environment, each one a repository."""

    kind: Literal["python-environment"]
    """Each installed distribution is a repository: name, version, declared licence, files."""
    name: str = Field(default="python-environment", min_length=1)
    """Value of the column `source`."""
    prefix: RuntimeOnly[LocalPath | None] = None
    """Its site-packages folder; by default that of the interpreter that runs."""
    sample_bytes: int | None = Field(default=None, gt=0)
    """Sample distributions in a seeded order, up to this many bytes of known languages; by default all."""
    exclude: list[str] = Field(default=[])
    """Distributions to leave out."""
