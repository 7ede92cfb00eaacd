"""`starloom compile`: every kernel compiled before its first use, by running the stages on a few files, in one process per chain.

Which machine code a kernel needs follows from the types that it is called with, so it is called: the source of the kernels
themselves is the corpus. What is compiled already costs only its loading.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

CHAINS = (
    """
- license_filter: {allow_classes: [permissive, no-license, unknown-license]}
- quality_filter: {measure: [comments, ngrams]}
- exact_dedup
- near_dedup: {verify: exact}
- redact_pii
- decontaminate
""",
    """
- train_tokenizer: {vocab_size: 512}
- measure_tokenizer
- encode
- pack_fim: {sequence_length: 128, heldout_fraction: 0.2}
""",
)
"""Stages of which none needs another chain's."""
VARIANTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    ((), ("near_dedup.verify=estimated",), ("near_dedup.verify=none", "near_dedup.words=unicode"), ("near_dedup.clusters=survivors",)),
    (
        (),
        ("pack_fim.packing=best_fit",),
        ("pack_fim.fim_level=context",),
        ("train_tokenizer.special_tokens=starcoder2", "encode.template=starcoder2"),
    ),
)
"""For each chain the settings under which it is run."""
RECIPE = """
name: compile-{chain}
seed: 1
stages:
- ingest:
    sources: [{{kind: directory, name: kernels, path: "{kernels}"}}, {{kind: directory, name: planted, path: "{planted}"}}]
"""
PLANTED = "aws_key = 'AKIAQYLPMN5HHHFPZAM2'\n" * 3
"""A secret key for the PII stage to find; the kernels' source has none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: the verb has none."""


def main(arguments: argparse.Namespace) -> int:
    """Compile the kernels, and print the number of functions compiled."""
    from starloom.cli.output import print_json
    from starloom.tasks.kernels.compiled import cache_folder

    begun = time.monotonic()
    functions = compile_kernels()
    seconds = time.monotonic() - begun
    if arguments.json:
        print_json({"functions": functions, "seconds": round(seconds, 1), "folder": cache_folder()})
    elif functions:
        print(f"compiled {functions} functions in {seconds:.0f} s; shared by every checkout on this machine, in {cache_folder()}")
    else:
        print(f"nothing to compile: all functions are in {cache_folder()}")
    return 0


def compile_kernels() -> int:
    """Compile what no checkout on this machine has compiled yet, in one process per chain; return the number of functions.

    Raises:
        StarloomError: if a chain fails, with its error message.
    """
    from starloom.lineage.errors import StarloomError

    before = set(_machine_code())
    with tempfile.TemporaryDirectory(prefix="starloom-compile-") as scratch:
        words = [[sys.executable, "-m", "starloom.cli.compile", str(chain), scratch] for chain in range(len(CHAINS))]
        processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for argv in words]  # noqa: S603 - our words
        told = [process.communicate()[0] for process in processes]
    for process, text in zip(processes, told, strict=True):
        if process.returncode:
            raise StarloomError(f"the kernels could not be compiled:\n{text.strip()}", hint="they are compiled at their first use instead")
    return len(set(_machine_code()) - before)


def run_chain(chain: int, scratch: Path) -> None:
    """Run the stages of a chain under each of its settings."""
    from starloom.flows.run import NoWatcher, Request, execute, prepare
    from starloom.tasks import kernels

    planted = scratch / f"planted{chain}" / "repository" / "keys.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(PLANTED)
    recipe = scratch / f"chain{chain}.yaml"
    recipe.write_text(RECIPE.format(chain=chain, kernels=next(iter(kernels.__path__)), planted=planted.parents[1]) + CHAINS[chain].lstrip())
    for settings in VARIANTS[chain]:
        prepared = prepare(Request(str(recipe), settings, str(scratch / f"store{chain}")))
        execute(prepared, NoWatcher(), workers=0)


def _machine_code() -> Iterator[str]:
    from starloom.tasks.kernels.compiled import cache_folder

    for folder, _, names in os.walk(cache_folder()):
        yield from (os.path.join(folder, name) for name in names if name.endswith(".nbc"))


if __name__ == "__main__":
    run_chain(int(sys.argv[1]), Path(sys.argv[2]))
