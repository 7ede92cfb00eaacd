"""Git repositories as sources."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from starloom.tasks.frame.stage import Config, RuntimeOnly
from starloom.tasks.sources.paths import LocalPath


def _placed(value: str, info: ValidationInfo) -> str:
    """Return a path relative to the recipe's folder as an absolute one, and an address as it is."""
    is_address = "://" in value or re.match(r"([\w.-]+@)?[\w.-]+:", value) is not None
    return value if is_address else str(Path((info.context or {}).get("folder", "."), value).expanduser().absolute())


Location = Annotated[str, AfterValidator(_placed)]
"""A path or an address, with an optional @REVISION."""


def _day(value: Any) -> Any:
    """Return a date that YAML parsed as the text that it was."""
    return value.isoformat() if isinstance(value, datetime.date) else value


def _checked_day(value: str) -> str:
    if parse_date(value) is None:
        raise ValueError(f"{value!r} is no date: write 2024-01-31, or 2024-01-31T12:00:00+00:00")
    return value


def parse_date(value: str) -> datetime.datetime | None:
    """Return the instant that a date or time names, a date the end of its day, without a zone UTC; None for anything else."""
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError:
        return None
    if len(value) <= len("2024-01-31"):
        found += datetime.timedelta(days=1) - datetime.timedelta(seconds=1)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def default_mirrors() -> str:
    """Return the folder of mirrors: below XDG_CACHE_HOME, or ~/.cache."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "starloom", "git")


class Git(Config):
    """Git repositories at a revision, read without a checkout."""

    kind: Literal["git"]
    """Each repository is read at one commit: its files, author's date and address; submodules, links and LFS pointers are recorded."""
    name: str = Field(default="git", min_length=1)
    """Value of the column `source`."""
    repositories: RuntimeOnly[list[Location]] = Field(default=[])
    """Paths (a clone, a bare repository or mirror, a folder of these) and URLs, each with an optional @REVISION."""
    list_file: RuntimeOnly[LocalPath | None] = None
    """A file with more of them, one a line; paths in it are relative to its folder."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of those that name none; by default HEAD."""
    date: Annotated[str | None, BeforeValidator(_day), AfterValidator(lambda value: value and _checked_day(value))] = None
    """Take the last commit of the revision at this date (2024-01-31: the end of that day, UTC)."""
    mirrors: RuntimeOnly[LocalPath | None] = None
    """Folder for bare mirrors of the URLs; by default ~/.cache/starloom/git."""

    @model_validator(mode="after")
    def _names_some(self) -> Git:
        if not self.repositories and self.list_file is None:
            raise ValueError("a git source names no repository: give `repositories`, or a file of them as `list_file`")
        return self
