"""`starloom plan`: what a run would do, and why."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from starloom.cli.output import print_json, table
from starloom.cli.places import about
from starloom.queries.formats import count

if TYPE_CHECKING:
    import argparse

    from starloom.flows.run import Prepared, Request

MARKS = {"cached": "cached", "run": "will run", "waits": "may run"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom plan`."""
    add_recipe_arguments(parser)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a recipe, its overrides, and the steps to run."""
    parser.add_argument("recipe", metavar="RECIPE", help="the recipe, a YAML file such as conf/demo.yaml")
    text = "override a knob for this run, or the recipe's name, seed or store (repeatable)"
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KNOB=VALUE", help=text)
    parser.add_argument("--from", dest="start", metavar="STEP", help="rerun this step and all below it, even if they are cached")
    parser.add_argument("--until", metavar="STEP", help="stop after this step")
    parser.add_argument("--force", action="append", default=[], metavar="STEP", help="rerun this step, even if it is cached (repeatable)")
    parser.add_argument("--store", metavar="URL", help="the store: a folder or URL (default: .starloom beside the recipe)")


def request(arguments: argparse.Namespace) -> Request:
    """Build the request from the arguments."""
    from starloom.flows.run import Request

    return Request(arguments.recipe, tuple(arguments.set), arguments.store, arguments.start, arguments.until, tuple(arguments.force))


def main(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    from starloom.flows.run import prepare

    prepared = prepare(request(arguments))
    if arguments.json:
        print_json(prepared.to_json())
    else:
        print(as_text(prepared))
        print(f"\nnext: {_next(arguments, prepared)}")
    return 0


def _next(arguments: argparse.Namespace, prepared: Prepared) -> str:
    if prepared.is_cached:
        return f"nothing to run; {about(prepared.store, 'show latest')}"
    return recipe_command("run", arguments)


def recipe_command(verb: str, arguments: argparse.Namespace, *more: str) -> str:
    """Return the command that asks `verb` of the same recipe with the same overrides, followed by `more`."""
    words = ["starloom", verb, arguments.recipe]
    words += [word for setting in arguments.set for word in ("--set", setting)]
    words += [word for step in arguments.force for word in ("--force", step)]
    named = {"--from": arguments.start, "--until": arguments.until, "--store": arguments.store}
    words += [word for flag, value in named.items() if value is not None for word in (flag, value)]
    return shlex.join([*words, *more])


def as_text(prepared: Prepared) -> str:
    """Format the plan as text."""
    rows = []
    for look in prepared.outlook:
        parts = "" if look.num_actions is None else f"{count(look.num_cached)} of {count(look.num_actions)}"
        seconds = "" if look.seconds is None or look.status == "cached" else f"{look.seconds:.1f} s"
        rows.append([look.step, MARKS[look.status], parts, seconds, "; ".join(look.reasons)])
    told = [f"{look.step}: {look.told}" for look in prepared.outlook if look.told]
    return "\n".join([table(["step", "", "cached", "last time", "why"], rows), *(["", *told] if told else [])])
