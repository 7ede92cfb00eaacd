"""The first hour of a stranger: a clone in an empty folder, and how long each command of the README takes there.

    python -m starloom.bench.first_hour [--work FOLDER] [--json]

Nothing is shared with this checkout but pip's cache of downloaded packages: kernels are compiled anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
TAIL = 2_000


@dataclass(frozen=True)
class Step:
    """A command, and the seconds that it may take."""

    name: str
    command: str
    bar_seconds: float | None


STEPS = (
    Step("install", "make install", None),
    Step("demo", "make demo", 75),
    Step("demo again", "make demo", 0.5),
    Step("check", "make check", 45),
    Step("test", "make test", 300),
)


@dataclass(frozen=True)
class Taken:
    """The time that a command took."""

    name: str
    seconds: float
    processor_seconds: float
    bar_seconds: float | None


def measure(work: Path) -> list[Taken]:
    """Clone the checkout's last commit and run each command in turn; every line is printed as soon as it is known.

    Raises:
        SystemExit: if a command fails, with the end of what it said.
    """
    clone = work / "starloom"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)  # noqa: S603, S607 - our words
    env = {name: value for name, value in os.environ.items() if not name.startswith(("STARLOOM_", "PREFECT_"))}
    env |= {"NUMBA_CACHE_DIR": str(work / "kernels"), "PREFECT_HOME": str(work / "prefect")}
    taken = []
    for step in STEPS:
        begun, before = time.monotonic(), os.times()
        done = subprocess.run(step.command.split(), cwd=clone, env=env, capture_output=True, text=True, check=False)  # noqa: S603 - our words
        seconds, after = time.monotonic() - begun, os.times()
        if done.returncode:
            raise SystemExit(f"{step.command} failed:\n{done.stdout[-TAIL:]}{done.stderr[-TAIL:]}")
        used = after.children_user + after.children_system - before.children_user - before.children_system
        taken.append(Taken(step.name, round(seconds, 2), round(used, 2), step.bar_seconds))
        print(line_of(taken[-1]), file=sys.stderr, flush=True)
    return taken


def line_of(taken: Taken) -> str:
    """Return one line for people: the seconds against the bar."""
    bar = "" if taken.bar_seconds is None else f"of {taken.bar_seconds:g} s"
    verdict = "" if taken.bar_seconds is None or taken.seconds <= taken.bar_seconds else "  over"
    return f"{taken.name:<12} {taken.seconds:>8.2f} s {bar:<10} {taken.processor_seconds:>8.1f} s of processors{verdict}"


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m starloom.bench.first_hour", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="an empty folder to work in (default: a temporary one, removed at the end)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="starloom-first-hour-"))
    try:
        taken = measure(work)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        print(json.dumps([asdict(one) for one in taken], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
