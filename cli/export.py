"""`starloom export`: copy an artifact out of the store."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json
from starloom.cli.places import add_store_argument, open_store
from starloom.queries.formats import count, short, size

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom export`."""
    parser.add_argument(
        "artifact",
        metavar="ARTIFACT",
        help="RUN/STEP, RUN/STEP/TYPE, or the first digits of an artifact's hash; of a filter: the documents it kept",
    )
    parser.add_argument("out", metavar="OUT", help="the folder to create")
    parser.add_argument(
        "--format", choices=("parquet", "jsonl"), default="parquet", help="format of tables (default: parquet); files are copied unchanged"
    )
    add_store_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Export the artifact."""
    from starloom.cli.progress import bar
    from starloom.queries.export import export, resolve

    store = open_store(arguments)
    what = resolve(store, arguments.artifact)
    with bar("exporting", "parts", quiet=arguments.json) as on_progress:
        made = export(store, what, Path(arguments.out), arguments.format, on_progress)
    if arguments.json:
        print_json(made)
        return 0
    rows = f"{count(made['rows'])} rows, " if made["rows"] else ""
    through = f" filtered by verdicts {short(made['verdicts'])}" if made["verdicts"] else ""
    print(f"{made['type']} {short(made['artifact'])}{through}: {rows}{count(made['files'])} files, {size(made['bytes'])} in {made['out']}")
    print(f"\nnext: {_next(arguments, made)}")
    return 0


def _next(arguments: argparse.Namespace, made: dict[str, Any]) -> str:
    if made["type"] == "Docs" and made["files"] and arguments.format == "parquet":
        return f"starloom stage quality_filter {shlex.quote(f'{arguments.out}/part-00000.parquet')} OUT"
    return f"ls {shlex.quote(arguments.out)}"
