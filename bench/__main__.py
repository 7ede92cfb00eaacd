"""The command `python -m starloom.bench`: tools side by side, one line each.

    python -m starloom.bench NAME [--corpus FILE.parquet] [--mb N] [--json]
    python -m starloom.bench NAME --install
    python -m starloom.bench --list

Speed is bytes of content ÷ the best of three rounds; see `starloom.bench._measure` for how it is taken. A bench may work
on more than 20 MB (`MEGABYTES`), in fewer rounds (`ROUNDS`), judge what its tools decided (`judge`), and tell it in
lines of its own (`lines`): `starloom.bench.near_dedup_quality` does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

import starloom.bench as package
from starloom.bench._measure import NOT_INSTALLED, Timing, measure, rounds
from starloom.bench._tool import BYTES_PER_MB, Corpus, environment_corpus, read_corpus
from starloom.lineage.errors import ConfigError, StarloomError, did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

DEFAULT_MB = 20.0
COMMANDS = {
    "what_if": "how long what-if questions take on an environment",
    "first_hour": "how long install, demo and tests take in a fresh clone",
    "console": "pages, memory and plan of the console on a store with a million documents",
}
"""Benches that are commands of their own."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status is 0 (all ran or are merely not installed), 1 (a tool failed), 2 (misused)."""
    options = _parser().parse_args(argv)
    try:
        if options.list or options.name is None:
            return _list()
        module = _load(options.name)
        if options.install:
            return _install(module)
        with tempfile.TemporaryDirectory(prefix="starloom-bench-") as folder:
            megabytes = options.mb or getattr(module, "MEGABYTES", DEFAULT_MB)
            corpus, path = _corpus(options.corpus, megabytes, Path(folder))
            timings = measure(module, path)
    except StarloomError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report = _report(options.name, module, corpus, timings)
    print(json.dumps(report, indent=2) if options.json else getattr(module, "lines", _lines)(report))
    return 1 if any(t.problem and not t.problem.startswith(NOT_INSTALLED) for t in timings) else 0


def _names() -> list[str]:
    found = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and not m.name.startswith("_")}
    return sorted(found - set(COMMANDS))


def _load(name: str) -> ModuleType:
    if name not in _names():
        raise ConfigError(f"there is no bench {name!r}", hint=did_you_mean(name, _names()))
    return importlib.import_module(f"starloom.bench.{name}")


def _list() -> int:
    for name in _names():
        print(f"{name:<20} {_load(name).TITLE}")
    for name, title in COMMANDS.items():
        print(f"{name:<20} {title}; python -m starloom.bench.{name}")
    return 0


def _install(module: ModuleType) -> int:
    """Build the environments of a bench's peers that are not there."""
    for environment in dict.fromkeys(tool.environment for tool in module.TOOLS if tool.environment is not None):
        if not environment.is_built():
            print(f"{environment.name}: {', '.join(environment.requirements)} in {environment.folder}")
            environment.build()
    return 0


def _corpus(given: Path | None, megabytes: float, folder: Path) -> tuple[Corpus, Path]:
    """Return the corpus, and a file of exactly its rows for the tools' processes."""
    max_bytes = int(megabytes * BYTES_PER_MB)
    corpus = environment_corpus(max_bytes) if given is None else read_corpus(given, max_bytes)
    path = folder / "corpus.parquet"
    pq.write_table(corpus.table, path, compression="none")
    return corpus, path


def _report(name: str, module: ModuleType, corpus: Corpus, timings: list[Timing]) -> dict[str, Any]:
    speeds = [timing.megabytes_per_second(corpus.num_bytes) for timing in timings]
    ours = next((speed for timing, speed in zip(timings, speeds, strict=True) if timing.tool.is_ours), None)
    judged: dict[str, Any] = module.judge(corpus, timings) if hasattr(module, "judge") else {}
    return {
        "bench": name,
        "title": module.TITLE,
        "documents": corpus.table.num_rows,
        "bytes": corpus.num_bytes,
        "rounds": rounds(module),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "tools": [
            {
                "name": timing.tool.name,
                "is_ours": timing.tool.is_ours,
                "mb_per_second": speed,
                "ratio_to_ours": speed / ours if speed and ours else None,
                "peak_bytes": timing.peak_bytes or None,
                "seconds": timing.seconds,
                "dropped": len(timing.dropped.doc_ids) if timing.dropped else None,
                "problem": timing.problem,
            }
            for timing, speed in zip(timings, speeds, strict=True)
        ],
        **judged,
    }


def _lines(report: dict[str, Any]) -> str:
    megabytes = report["bytes"] / BYTES_PER_MB
    head = (
        f"{report['bench']}: {report['title']}\n{report['documents']:,} documents, {megabytes:.1f} MB, best of {report['rounds']}, "
        f"{report['cores']} cores, load {report['load_average']}"
    )
    return "\n".join([head, *[_line(tool) for tool in report["tools"]]])


def _line(tool: dict[str, Any]) -> str:
    name = f"{'*' if tool['is_ours'] else ' '} {tool['name']:<32}"
    if tool["problem"]:
        return f"{name} {tool['problem']}"
    ratio = "     ours" if tool["is_ours"] else f"{tool['ratio_to_ours']:9.3f} of ours" if tool["ratio_to_ours"] else ""
    dropped = "" if tool["dropped"] is None else f"{tool['dropped']:8,} dropped"
    return f"{name} {tool['mb_per_second']:10.2f} MB/s {tool['peak_bytes'] / BYTES_PER_MB:8.0f} MB peak {ratio:<17} {dropped}".rstrip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m starloom.bench", description="Time a stage or kernel side by side with its peers.")
    parser.add_argument("name", nargs="?", help="a bench; without one, they are listed")
    parser.add_argument("--list", action="store_true", help="list the benches")
    parser.add_argument("--install", action="store_true", help="build the environments of peers that cannot be installed beside us")
    parser.add_argument("--corpus", type=Path, metavar="FILE.parquet", help="columns of Docs; default: the sources of this environment")
    parser.add_argument("--mb", type=_positive, metavar="N", help=f"megabytes of content at most (default {DEFAULT_MB:g}, or the bench's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of megabytes")
    return value


if __name__ == "__main__":
    sys.exit(main())
