"""The store that a verb uses: the one that is named, else the one in this folder, else the one beside the recipes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from starloom.lineage.store import Store

USUAL_PLACES = (".starloom", "conf/.starloom")
"""`starloom run conf/demo.yaml` makes the second."""


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--store`."""
    parser.add_argument(
        "--store", metavar="URL", help=f"the store: a folder or URL (default: {' or '.join(USUAL_PLACES)}, the first that exists)"
    )


def open_store(arguments: argparse.Namespace) -> Store:
    """Open the store that the arguments name, or the first of the usual places.

    Raises:
        StoreError: if there is none.
    """
    from starloom.lineage.errors import StoreError
    from starloom.lineage.store import Store

    if arguments.store is not None:
        return Store.open(arguments.store, create=False)
    for place in USUAL_PLACES:
        if Path(place, "store.json").is_file():
            return Store.open(place, create=False)
    raise StoreError(
        f"there is no store here ({' or '.join(USUAL_PLACES)})", hint="name one with --store, or make one: starloom run RECIPE"
    )


def again(arguments: argparse.Namespace, words: str) -> str:
    """Suggest a next command, about the same store."""
    return f"starloom {words}" + ("" if arguments.store is None else f" --store {shlex.quote(arguments.store)}")


def about(store: Store, words: str) -> str:
    """Suggest a next command from here, about a store that a recipe chose; it names the store unless it is found without."""
    usual = next((place for place in USUAL_PLACES if Path(place, "store.json").is_file()), None)
    found = usual is not None and Path(usual).absolute() == Path(store.url)
    return f"starloom {words}" + ("" if found else f" --store {shlex.quote(store.url)}")
