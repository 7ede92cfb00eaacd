"""`starloom serve`: Prefect's server, deployments of recipes, a worker and the console, by one command."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.cli.deploy import add_pool_argument
from starloom.cli.output import print_json

if TYPE_CHECKING:
    from starloom.flows.serving import Supervisor

HERE = ("conf/*.yaml", "*.yaml")
"""Where recipes are looked for if none is named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom serve`."""
    parser.add_argument("recipes", nargs="*", type=Path, metavar="RECIPE", help=f"recipes to trigger (default: {HERE[0]}, else {HERE[1]})")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but a loopback one demands a password (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=_port, default=4300, metavar="N", help="port of the console (default: 4300)")
    parser.add_argument("--prefect-port", type=_port, default=4200, metavar="N", help="port of Prefect's server (default: 4200)")
    parser.add_argument("--limit", type=_positive, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--retries", type=_count, default=0, metavar="N", help="begin a run whose worker was lost again, at most N times (default: 0)"
    )
    add_pool_argument(parser)
    parser.add_argument("--store", metavar="URL", help="the store of all recipes (default: that of each)")
    parser.add_argument(
        "--only", choices=("server", "worker", "console"), help="one of the three, with PREFECT_API_URL set for the last two"
    )
    parser.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="where their output goes; - for standard error (default: ~/.cache/starloom/serve)"
    )


def _port(text: str) -> int:
    return _within(text, 1, 65_535)


def _positive(text: str) -> int:
    return _within(text, 1, 1_000)


def _count(text: str) -> int:
    return _within(text, 0, 1_000)


def _within(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from starloom.console.settings import is_loopback, operator_secret, settings_of
    from starloom.flows.deploying import plans_of
    from starloom.flows.serving import PARTS, Serving, Supervisor, protect, reachable, run_until_stopped

    started = time.monotonic()
    recipes = arguments.recipes or _recipes_here()
    parts = PARTS if arguments.only is None else (arguments.only,)
    console_url = os.environ.get("STARLOOM_CONSOLE_URL") or f"http://{reachable(arguments.host)}:{arguments.port}"
    if "console" in parts:
        settings_of(recipes, arguments.store, arguments.host, arguments.port)  # refused before anything is started
    if "server" in parts:
        protect(operator_secret(), arguments.host, is_open=not is_loopback(arguments.host))
    serving = Serving(
        plans=plans_of(recipes),
        parts=parts,
        host=arguments.host,
        port=arguments.port,
        prefect_port=arguments.prefect_port,
        limit=arguments.limit,
        pool=arguments.pool,
        store=arguments.store,
        retries=arguments.retries,
        console_url=console_url,
        console_command=_console_command(arguments, recipes),
    )
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "starloom", "serve")
    logs = None if arguments.logs == Path("-") else arguments.logs or usual
    run_until_stopped(Supervisor(serving, logs), lambda supervisor: _tell(supervisor, console_url, time.monotonic() - started, arguments))
    return 0


def _recipes_here() -> list[Path]:
    from starloom.lineage.errors import ConfigError

    for pattern in HERE:
        found = sorted(Path().glob(pattern))
        if found:
            return found
    raise ConfigError(f"there is no recipe here ({' or '.join(HERE)})", hint="name one: starloom serve RECIPE")


def _console_command(arguments: argparse.Namespace, recipes: list[Path]) -> list[str]:
    words = ["--host", arguments.host, "--port", str(arguments.port), *(["--store", arguments.store] if arguments.store else [])]
    return [sys.executable, "-m", "starloom.console", *words, *map(str, recipes)]


def _tell(supervisor: Supervisor, console_url: str, seconds: float, arguments: argparse.Namespace) -> None:
    prefect = supervisor.api.url.removesuffix("/api")
    deployments = [f"starloom/{one.name}" for one in supervisor.deployed]
    if arguments.json:
        print_json(
            {
                "console": console_url,
                "prefect": prefect,
                "deployments": deployments,
                "interrupted": [run["id"] for run in supervisor.interrupted],
            }
        )
        return
    lines = [
        f"ready in {seconds:.1f} s; Ctrl-C ends all of it",
        f"  console   {console_url}",
        f"  Prefect   {prefect}",
        f"  recipes   {', '.join(deployments)}",
    ]
    left = "was interrupted, and is now marked so: retry it in the console, and it goes on from what is in the store"
    lines += [f"  {run['name']} {left}" for run in supervisor.interrupted]
    print("\n".join(lines), flush=True)
