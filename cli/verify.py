"""`starloom verify`: hash everything and report every mismatch: a wrong hash, a missing or an unreadable file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json
from starloom.cli.places import add_store_argument, again, open_store
from starloom.cli.wording import many
from starloom.queries.formats import count, size

if TYPE_CHECKING:
    import argparse

    from starloom.lineage.audit import Mismatch, Repair, Report

MAX_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom verify`."""
    parser.add_argument(
        "--repair", action="store_true", help="remove damaged files and every record that names them, so that the next run makes them again"
    )
    add_store_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Verify, and repair if asked. Returns 1 if there is any mismatch."""
    from starloom.cli.progress import bar
    from starloom.lineage.audit import repair, verify

    store = open_store(arguments)
    with bar("hashing", "bytes", quiet=arguments.json) as on_progress:
        report = verify(store, on_progress)
    done = repair(store, report) if arguments.repair and report.mismatches else None
    if arguments.json:
        print_json(as_document(store.url, report, done))
    else:
        print(as_text(store.url, report, done))
        print(f"\nnext: {_next(arguments, report, done)}")
    return 1 if report.mismatches else 0


def as_document(url: str, report: Report, done: Repair | None) -> dict[str, Any]:
    """Return the report as a JSON document."""
    from dataclasses import asdict

    return {"store": url, "sound": not report.mismatches, **asdict(report), "repair": None if done is None else asdict(done)}


def as_text(url: str, report: Report, done: Repair | None) -> str:
    """Format the report as text."""
    numbers = {"run": report.num_runs, "action record": report.num_actions, "manifest": report.num_artifacts, "object": report.num_objects}
    checked = ", ".join(many(number, noun) for noun, number in numbers.items())
    if not report.mismatches:
        return f"{url} is sound: {checked}, {size(report.num_bytes)}, all hashes match"
    lines = [f"{url}: {many(len(report.mismatches), 'mismatch', 'mismatches')} ({checked}, {size(report.num_bytes)})"]
    lines += [f"  {_told(mismatch)}" for mismatch in report.mismatches[:MAX_SHOWN]]
    lines += [f"  … and {count(len(report.mismatches) - MAX_SHOWN)} more: --json for all"] if len(report.mismatches) > MAX_SHOWN else []
    if done is not None:
        records = sum(name.startswith("actions/") for name in done.removed)
        lines += ["", f"removed {many(len(done.removed) - records, 'damaged file')} and {many(records, 'record')} that named them"]
        lines += [f"set aside under {url}/damaged/: {', '.join(done.set_aside)}"] if done.set_aside else []
        lines += [f"{run} has missing outputs until its recipe is run again" for run in done.runs[-MAX_SHOWN:]]
    return "\n".join(lines)


def _told(mismatch: Mismatch) -> str:
    users = f" (in {', '.join(mismatch.used_by[:2])})" if mismatch.used_by else ""
    return f"{mismatch.name} {mismatch.problem}{users}"


def _next(arguments: argparse.Namespace, report: Report, done: Repair | None) -> str:
    if not report.mismatches:
        return again(arguments, "gc --dry-run")
    return (
        again(arguments, "verify --repair")
        if done is None
        else f"{again(arguments, 'run RECIPE')}, which makes the missing outputs again; then {again(arguments, 'verify')}"
    )
