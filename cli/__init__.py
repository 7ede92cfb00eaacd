"""The `starloom` command. A verb's module is imported only when it is called, so that `--help` is instant."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from gc import set_threshold
from typing import NoReturn

VERBS = {
    "run": ("starloom.cli.run", "run a recipe; finished work is taken from the store"),
    "plan": ("starloom.cli.plan", "show what a run would do, and why"),
    "compile": ("starloom.cli.compile", "compile all kernels now, so that no run waits for compilation"),
    "serve": ("starloom.cli.serve", "serve the console and Prefect, and carry out the runs that are triggered there"),
    "deploy": ("starloom.cli.deploy", "register recipes with a Prefect server, so that they can be triggered"),
    "stages": ("starloom.cli.stages", "list the stages, with their inputs and outputs"),
    "stage": ("starloom.cli.stage", "run one stage on a Parquet file: no store, no recipe"),
    "runs": ("starloom.cli.runs", "list runs, and tag the ones to keep"),
    "show": ("starloom.cli.show", "show a run, a step, an artifact, a document, a cluster or licence conflicts"),
    "diff": ("starloom.cli.diff", "compare two runs: settings, counts, documents whose fate differs"),
    "what-if": ("starloom.cli.what_if", "show which documents would be dropped or kept with other knobs, from what a run stored"),
    "trace": ("starloom.cli.tracing", "show what happened to a path, repository, document, sequence or checkpoint, and why"),
    "export": ("starloom.cli.export", "export an artifact as Parquet, JSON lines or files"),
    "verify": ("starloom.cli.verify", "hash everything in the store and report every mismatch"),
    "gc": ("starloom.cli.gc", "remove what no run or tag reaches"),
}
EXIT_DONE, EXIT_FAILED, EXIT_MISUSED = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns 0 when done, 1 when failed, 2 when misused."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in VERBS:
        return _called(words)
    parser = _parser(words)
    parser.parse_args(words)
    parser.print_help()
    return EXIT_MISUSED


def _called(words: list[str]) -> int:
    from starloom.lineage.errors import Cancelled, StarloomError

    set_threshold(50_000, 20, 50)  # a start makes a million objects that stay: looking for garbage among them takes a tenth of it
    try:
        arguments = _parser(words).parse_args(words)
        return int(importlib.import_module(VERBS[arguments.verb][0]).main(arguments))
    except StarloomError as error:
        from starloom.cli.output import print_error

        print_error(error, as_json="--json" in words)
        if isinstance(error, Cancelled):
            _leave(error.exit_code)
        return error.exit_code
    except BrokenPipeError:  # somebody closed the pager: they have seen enough
        sys.stderr.close()
        return EXIT_DONE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_FAILED


def _leave(status: int) -> NoReturn:
    """End at once: whoever asked the run to stop need not wait for exit handlers that look for a server that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starloom",
        description="From source repositories to a released code LLM, every token traceable to its file.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, (module, text) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        verb.add_argument("--json", action="store_true", help="print one JSON document instead of text")
        if name == chosen:
            # the words of `stage` depend on which stage is named
            importlib.import_module(module).add_arguments(verb, *([words] if name == "stage" else []))
    return parser
