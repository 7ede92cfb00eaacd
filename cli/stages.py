"""`starloom stages`: list the stages with their inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json, table

if TYPE_CHECKING:
    import argparse

    from starloom.tasks.frame.stage import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments: the verb has none."""


def main(arguments: argparse.Namespace) -> int:
    """Print the stages."""
    from starloom.tasks.frame.stage import registry

    stages = registry()
    if arguments.json:
        print_json({name: describe(stage) for name, stage in stages.items()})
        return 0
    rows = []
    for name, stage in stages.items():
        told = describe(stage)
        reads = [kind + " (optional)" * (parameter in told["optional"]) for parameter, kind in told["reads"].items()]
        rows.append([name, ", ".join(reads), ", ".join(told["writes"]), told["about"]])
    print(table(["stage", "reads", "writes", ""], rows))
    print("\nnext: starloom stage NAME --help")
    return 0


def describe(stage: Stage) -> dict[str, Any]:
    """Describe a stage as JSON: its summary, inputs, outputs and knobs."""
    own = {name: kind.__name__ for name, kind in stage.inputs.items() if not stage.prepare or kind not in stage.prepare.outputs}
    knobs = stage.config.model_json_schema().get("properties", {})
    return {
        "about": stage.document.partition("\n")[0],
        "over": stage.over,
        "reads": own,
        "optional": [name for name in own if name in stage.optional],
        "writes": [kind.__name__ for kind in stage.outputs],
        "libraries": list(stage.libraries),
        "knobs": {name: {"about": knob.get("description", ""), "default": knob.get("default")} for name, knob in knobs.items()},
    }
