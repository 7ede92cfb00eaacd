"""What-if on an environment: how long the questions take that `starloom what-if` answers from what a run stored.

    python -m starloom.bench.what_if [--mb N] [--scratch FOLDER] [--json]

The corpus is the Python packages of this environment, all of them by default: some 33,000 files. The run itself is not timed, the answers
are: wall and processor seconds in a process of their own, the best of three; beside them the same change carried out as a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = """\
name: what-if
seed: 1
stages:
- ingest: {sources: [{kind: python-environment%s}]}
- quality_filter
- near_dedup: {words: unicode}
"""
LIMIT = "quality_filter.thresholds.avg_line_length.max"
QUESTIONS: dict[str, list[str]] = {
    "a threshold": ["what-if", "--set", f"{LIMIT}=60"],
    "other published rules": ["what-if", "--set", "quality_filter.rules=starcoder2"],
    "a sweep in 21 values": ["what-if", "--sweep", f"{LIMIT}=20..200"],
    "near_dedup's threshold": ["what-if", "--set", "near_dedup.threshold=0.8"],
    "the same threshold, as a run of that step": ["run", "--until", "quality_filter", "--set", f"{LIMIT}=60"],
}
ROUNDS = 3


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m starloom.bench.what_if", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=float, help="megabytes of text at most; default: all")
    parser.add_argument("--scratch", type=Path, help="an existing folder with two bytes free for each of text; default: the system's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        report = measure(Path(folder), options.mb)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    print(f"{report['documents']:,} documents, {report['bytes'] / 1e6:,.0f} MB of text")
    for line in report["questions"]:
        print(f"{line['question']:<44} {line['seconds']:6.2f} s  {line['processor_seconds']:6.2f} processor seconds")
    return 0


def measure(folder: Path, megabytes: float | None) -> dict[str, Any]:
    """Run the recipe in a folder, and time each question.

    Raises:
        CalledProcessError: if a command fails.
    """
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE % ("" if megabytes is None else f", sample_bytes: {int(megabytes * 1_000_000)}"))
    _call(["run", str(recipe)])
    told = json.loads(_call(["what-if", str(recipe), "--json", "--set", f"{LIMIT}=60"])[2])
    lines = []
    for question, (verb, *words) in QUESTIONS.items():
        rounds = [_call([verb, str(recipe), *words])[:2] for _ in range(1 if verb == "run" else ROUNDS)]
        seconds, processor = min(rounds)
        lines.append({"question": question, "seconds": round(seconds, 2), "processor_seconds": round(processor, 2)})
    return {**told["seen"], "questions": lines}


def _call(words: list[str]) -> tuple[float, float, str]:
    """Return wall seconds, processor seconds and the output of a command."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "starloom.cli", *words], check=True, capture_output=True, text=True)  # noqa: S603 - our words
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used, done.stdout


if __name__ == "__main__":
    sys.exit(main())
