"""Print what the image installs: the requirements of pyproject.toml and of the extras named as words, one a line.

The exact versions come from requirements.lock and deploy/extras.lock, given to pip as constraints: so the image holds nothing that only
developers need, and no version that the tests have not seen.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the requirements; raise SystemExit with a message if there is no such extra."""
    with pyproject.open("rb") as file:
        told = tomllib.load(file)
    known = told["project"]["optional-dependencies"]
    if missing := [extra for extra in extras if extra not in known]:
        raise SystemExit(f"there is no extra {missing[0]!r} in {pyproject.name}; EXTRAS takes {', '.join(known)}")
    chosen = [line for extra in extras for line in known[extra]]
    return [*told["build-system"]["requires"], *told["project"]["dependencies"], *chosen]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])))
