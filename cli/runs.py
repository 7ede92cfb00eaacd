"""`starloom runs`: list the runs of a store, and tag the ones to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json, table
from starloom.cli.places import add_store_argument, again, open_store
from starloom.queries.formats import count

if TYPE_CHECKING:
    import argparse

    from starloom.lineage.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom runs`."""
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--tag", nargs=2, metavar=("NAME", "RUN"), help="tag a run; a tagged run is never removed by gc")
    words.add_argument("--untag", metavar="NAME", help="remove a tag; the run stays until gc removes it")
    add_store_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Change a tag, or list the runs."""
    store = open_store(arguments)
    if arguments.tag:
        name, run_id = arguments.tag
        store.tag(name, run_id)
        return _said(
            arguments, store, {"tag": name, "run": store.tags()[name]}, f"{store.tags()[name]} is now tagged {name}", f"show {name}"
        )
    if arguments.untag:
        run_id = store.tags().get(arguments.untag)
        store.untag(arguments.untag)
        return _said(
            arguments, store, {"untagged": arguments.untag, "run": run_id}, f"{run_id} is no longer tagged {arguments.untag}", "runs"
        )
    from starloom.queries.listing import describe

    tags = store.tags()
    runs = [describe(store, store.run(run_id), tags) for run_id in store.run_ids()]
    if arguments.json:
        print_json({"store": store.url, "runs": runs})
        return 0
    print(as_text(runs) if runs else f"no runs in {store.url}")
    print(f"\nnext: {_next(arguments, runs)}")
    return 0


def _said(arguments: argparse.Namespace, store: Store, document: dict[str, Any], text: str, following: str) -> int:
    if arguments.json:
        print_json({"store": store.url, **document})
    else:
        print(f"{text}\n\nnext: {again(arguments, following)}")
    return 0


def as_text(runs: list[dict[str, Any]]) -> str:
    """Format the runs as text, oldest first."""
    rows = []
    for run in runs:
        steps = f"{run['steps_cached']} cached, {run['steps'] - run['steps_cached']} run"
        started = run["started"][:19].replace("T", " ")
        rows.append(
            [
                run["run"],
                run["recipe"],
                run["status"],
                started,
                f"{run['seconds']:.1f} s",
                steps,
                count(run["documents"]),
                ", ".join(run["tags"]),
            ]
        )
    return table(["run", "recipe", "status", "started (UTC)", "work", "steps", "documents", "tags"], rows)


def _next(arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> str:
    if not runs:
        return "starloom run RECIPE"
    if len(runs) > 1:
        return again(arguments, f"diff {runs[-2]['run']} {runs[-1]['run']}")
    return again(arguments, f"show {runs[-1]['run']}")
