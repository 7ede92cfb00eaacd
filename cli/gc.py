"""`starloom gc`: remove what no run or tag reaches."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from starloom.cli.output import print_json
from starloom.cli.places import add_store_argument, again, open_store
from starloom.cli.wording import many
from starloom.queries.formats import size

if TYPE_CHECKING:
    from starloom.lineage.collect import Collection

UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
DEFAULT_AGE = "1d"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom gc`."""
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.add_argument("--keep-last", type=_at_least_none, metavar="N", help="also remove runs, except the last N and the tagged ones")
    text = f"keep files younger than this, so that a killed run can resume: seconds, or 30m, 12h, 1d, 2w (default: {DEFAULT_AGE})"
    parser.add_argument("--older-than", type=seconds, default=DEFAULT_AGE, metavar="AGE", help=text)
    add_store_argument(parser)


def seconds(text: str) -> float:
    """Parse a duration such as 90, 30m, 12h, 1d or 2w into seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: give seconds, or a number with s, m, h, d or w")
    return float(found[1]) * UNIT_SECONDS[found[2]]


def _at_least_none(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs: give 0 or more")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Collect garbage: remove what no run reaches."""
    from dataclasses import asdict

    from starloom.lineage.collect import collect

    store = open_store(arguments)
    found = collect(store, keep_last=arguments.keep_last, older_than_seconds=arguments.older_than, dry_run=arguments.dry_run)
    if arguments.json:
        print_json({"store": store.url, "dry_run": arguments.dry_run, **asdict(found)})
        return 0
    print(as_text(found, dry_run=arguments.dry_run))
    print(f"\nnext: {again(arguments, 'gc' + _repeated(arguments) if arguments.dry_run else 'verify')}")
    return 0


def _repeated(arguments: argparse.Namespace) -> str:
    keep = "" if arguments.keep_last is None else f" --keep-last {arguments.keep_last}"
    return keep + ("" if arguments.older_than == seconds(DEFAULT_AGE) else f" --older-than {arguments.older_than:g}")


NOUNS = {"runs": "run", "actions": "action record", "artifacts": "manifest", "objects": "object", "tmp": "leftover"}


def as_text(found: Collection, *, dry_run: bool) -> str:
    """Format as text what was removed and what was kept."""
    lines = [f"{'would remove' if dry_run else 'removed'} {_listed(found.num_removed)}: {size(found.num_bytes)}"]
    lines += [f"{'would keep' if dry_run else 'kept'} {_listed(found.num_kept)}", *(f"  gone: {run}" for run in found.removed_runs)]
    if found.num_young:
        young = f"{many(found.num_young, 'recent file')} that no run reaches ({size(found.num_young_bytes)})"
        lines.append(f"  {young} kept as well, so that a killed run can resume; --older-than 0 removes them")
    return "\n".join(lines)


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(many(number, NOUNS[kind]) for kind, number in numbers.items() if number) or "nothing"
