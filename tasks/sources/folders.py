"""Folders as sources."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from starloom.tasks.frame.stage import Config, RuntimeOnly
from starloom.tasks.kernels.sources.folders import Holds
from starloom.tasks.sources.paths import LocalPath


class Directory(Config):
    """A folder of repositories."""

    kind: Literal["directory"]
    """Each child folder is a repository, at its git commit if it is a work tree; or the folder itself is."""
    name: str = Field(default="directory", min_length=1)
    """Value of the column `source`."""
    path: RuntimeOnly[LocalPath]
    """The folder, relative to the recipe's. A store of Starloom in it is left out."""
    holds: Holds = "auto"
    """Its child folders are the `repositories`, or it is itself the `repository`; auto looks for .git, build files
    (pyproject.toml, package.json …), or files with no repository below, and says so."""
