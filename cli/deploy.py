"""`starloom deploy`: register recipes with a Prefect server, so that they can be triggered."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.cli.output import print_json, table

if TYPE_CHECKING:
    import argparse

WAIT_SECONDS = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom deploy`."""
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="a recipe, which becomes the deployment starloom/NAME")
    add_pool_argument(parser)
    parser.add_argument("--store", metavar="URL", help="the store of all of them (default: that of each recipe)")
    parser.add_argument("--console", metavar="URL", help="the console's address, for links from Prefect's pages")


def add_pool_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--pool`."""
    parser.add_argument("--pool", default="starloom", metavar="NAME", help="the work pool, made if it is not there (default: starloom)")


def main(arguments: argparse.Namespace) -> int:
    """Register the recipes with the server that PREFECT_API_URL names; print what can be triggered."""
    from starloom.flows.deploying import deploy, plans_of
    from starloom.flows.prefect_api import PrefectApi

    plans = plans_of(arguments.recipes)
    with contextlib.closing(PrefectApi.from_environment()) as api:
        api.wait_until_up(WAIT_SECONDS)
        found = deploy(api, plans, pool=arguments.pool, store=arguments.store, console=arguments.console)
    if arguments.json:
        print_json(
            {
                "server": api.url,
                "pool": arguments.pool,
                "deployments": [{"name": f"starloom/{one.name}", "id": one.deployment_id} for one in found],
            }
        )
        return 0
    print(table(["deployment", "recipe"], [[f"starloom/{one.name}", one.recipe] for one in found]))
    print(f"\nnext: prefect deployment run 'starloom/{found[0].name}', with a worker: prefect worker start --pool {arguments.pool}")
    return 0
