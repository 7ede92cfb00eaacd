"""`starloom stage NAME IN OUT`: run one stage on a Parquet file, without store, recipe or Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json, table
from starloom.cli.stages import describe
from starloom.cli.terminal import printable
from starloom.queries.formats import count, size

if TYPE_CHECKING:
    import argparse

    from pydantic import ValidationError

    from starloom.tasks.frame.stage import Stage

_PREFIX = "knob_"


def add_arguments(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Add the arguments of `starloom stage`; once a stage is named, also its inputs and knobs."""
    from starloom.tasks.frame.stage import load_stage

    parser.add_argument("name", metavar="NAME", help="the stage; `starloom stages` lists them")
    named = [word for word in words[words.index("stage") + 1 :] if not word.startswith("-")]
    if not named:
        parser.add_argument("input", metavar="IN", help="a Parquet file with at least a column `content`")
        parser.add_argument("out", metavar="OUT", help="a new folder for the output of the stage")
        return
    stage = load_stage(named[0])
    reads = list(describe(stage)["reads"].items())
    parser.description = stage.document
    if reads:
        parser.add_argument("input", metavar="IN", help=_help_of_input(stage, reads[0][0]))
    parser.add_argument("out", metavar="OUT", help="a new folder for the output of the stage")
    for name, kind in reads[1:]:
        if kind != "Record":
            told, is_needed = _help_of_input(stage, name), name not in stage.optional
            told = told if is_needed else f"{told}; may be left out"
            parser.add_argument(f"--{name}", metavar=kind.upper(), dest=f"input_{name}", required=is_needed, help=told)
    for name, knob in describe(stage)["knobs"].items():
        flag = f"--{name.replace('_', '-')}"
        told = f"{knob['about']} (default: {knob['default']})".replace("%", "%%")
        parser.add_argument(*dict.fromkeys([flag, f"--{name}"]), dest=_PREFIX + name, metavar="VALUE", help=told)


def main(arguments: argparse.Namespace) -> int:
    """Run the stage and print what it wrote."""
    from starloom.lineage.errors import ConfigError
    from starloom.tasks.frame.alone import run_alone
    from starloom.tasks.frame.stage import load_stage

    stage = load_stage(arguments.name)
    given = {name: Path(arguments.input) for name in list(describe(stage)["reads"])[:1]}
    given |= {name.removeprefix("input_"): Path(value) for name, value in vars(arguments).items() if name.startswith("input_") and value}
    from pydantic import ValidationError

    knobs = _knobs(arguments)
    try:
        config = stage.config.model_validate(knobs, context={"folder": "."})
    except ValidationError as error:
        raise ConfigError(_told(stage, knobs, error), hint=f"starloom stage {stage.name} --help") from error
    told, warnings = run_alone(stage, config, given, Path(arguments.out))
    if arguments.json:
        print_json({"stage": stage.name, "out": arguments.out, "files": told, "warnings": warnings})
        return 0
    rows = [[name, count(facts.get("rows")), size(facts["bytes"]), _counts(facts)] for name, facts in told.items()]
    print(table(["file", "rows", "size", ""], rows))
    print("".join(f"\nwarning: {printable(text)}" for text in warnings))
    print(f"written to {arguments.out}")
    return 0


def _knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    import yaml

    from starloom.lineage.errors import ConfigError

    knobs: dict[str, Any] = {}
    for name, text in vars(arguments).items():
        if not name.startswith(_PREFIX) or text is None:
            continue
        knob = name.removeprefix(_PREFIX)
        try:
            knobs[knob] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{knob}: {text!r} is not a YAML value", hint="quote text that holds : or #") from error
    return knobs


def _told(stage: Stage, knobs: dict[str, Any], error: ValidationError) -> str:
    from starloom.flows.recipe import typed

    first = error.errors()[0]
    knob = ".".join(map(str, [stage.name, *typed(knobs, first["loc"], first["type"])]))
    shown = "" if isinstance(first["input"], dict) else f" {first['input']!r}"
    return f"{knob}{shown}: {first['msg'].removeprefix('Value error, ')}"


def _help_of_input(stage: Stage, name: str) -> str:
    from starloom.tasks.schemas import Repositories

    kind: Any = stage.inputs[name]
    if kind is Repositories:
        return "a folder whose child folders are repositories"
    if not hasattr(kind, "SCHEMA"):
        return f"a folder: {kind.__doc__}"
    columns = ", ".join(kind.SCHEMA.names)
    return f"a Parquet file of {kind.__name__}: {columns}" + (" (only content is required)" if kind.__name__ == "Docs" else "")


def _counts(facts: dict[str, Any]) -> str:
    if "seen" not in facts:
        return ""
    rules = ", ".join(f"{rule} {count(number)}" for rule, number in facts["rules"].items())
    return f"{count(facts['kept'])} kept, {count(facts['dropped'])} dropped" + (f" ({rules})" if rules else "")
