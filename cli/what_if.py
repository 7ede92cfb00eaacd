"""`starloom what-if`: the documents that would be dropped or kept with other knobs, from what the last run stored."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json, table
from starloom.cli.wording import many
from starloom.queries.formats import count, size

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_EXAMPLES = 5
SHOWN_LANGUAGES, SHOWN_RERUNS, SHOWN_WIDTH = 12, 6, 60
_BLOCKS = "▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom what-if`."""
    parser.add_argument("recipe", metavar="RECIPE", help="the recipe, a YAML file that was run before")
    text = "a knob as it would be (repeatable; of one step), e.g. quality_filter.thresholds.avg_line_length.max=80"
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KNOB=VALUE", help=text)
    text = "draw what would be kept as a knob goes from a to b, in n values (default: 21)"
    parser.add_argument("--sweep", metavar="STEP.KNOB=A..B[:N]", help=text)
    parser.add_argument("--svg", metavar="FILE", help="write the curve of --sweep as a picture")
    parser.add_argument("--run", metavar="RUN", help="ask about this run (default: the newest of the recipe that is done)")
    parser.add_argument("--limit", type=_number, metavar="N", help=f"examples of each kind (default: {DEFAULT_EXAMPLES}; with --json too)")
    parser.add_argument("--store", metavar="URL", help="the store: a folder or URL (default: .starloom beside the recipe)")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of examples")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Print the answer; nothing is written into the store."""
    from starloom.flows.what_if import ask_sweep, ask_what_if, parse_range
    from starloom.lineage.errors import ConfigError

    recipe = Path(arguments.recipe)
    if arguments.sweep is None:
        if arguments.svg is not None:
            raise ConfigError("--svg draws the curve of a sweep, and none was asked for", hint="add --sweep STEP.KNOB=A..B")
        limit = DEFAULT_EXAMPLES if arguments.limit is None else arguments.limit
        found = ask_what_if(recipe, arguments.set, arguments.store, arguments.run, limit=limit)
        text = as_text(found)
        following = ["run", arguments.recipe, *(word for setting in arguments.set for word in ("--set", setting))]
    else:
        found = ask_sweep(recipe, parse_range(arguments.sweep), arguments.set, arguments.store, arguments.run)
        text, best = sweep_text(found), found["points"][len(found["points"]) // 2]
        following = ["what-if", arguments.recipe, "--set", f"{found['knob']}={best['value']}"]
        if arguments.svg is not None:
            from starloom.queries.sweep_svg import draw_sweep

            Path(arguments.svg).write_text(draw_sweep(found), encoding="utf-8")
            text += f"\n\nmade {arguments.svg}"
    if arguments.json:
        print_json(found)
        return 0
    following += [] if arguments.store is None else ["--store", arguments.store]
    print(f"{text}\n\nnext: starloom {shlex.join(following)}")
    return 0


def as_text(found: dict[str, Any]) -> str:
    """Format the answer as text."""
    lines = [f"{found['step']} of {found['run']}, if"]
    lines += [f"  {line['knob']:<40} {_short(line['before'])} → {_short(line['after'])}" for line in found["differs"]]
    lines += [] if found["differs"] else ["  nothing differs from that run"]
    rows = [[name.replace("_", " "), count(found[name]["documents"]), size(found[name]["bytes"])] for name in _TOTALS]
    lines += ["", table(["", "documents", "text"], rows)]
    if found["languages"]:
        rows = [
            [
                line["language"],
                *(
                    text
                    for name in ("newly_dropped", "newly_kept")
                    for text in (count(line[f"{name}_documents"]), size(line[f"{name}_bytes"]))
                ),
            ]
            for line in found["languages"][:SHOWN_LANGUAGES]
        ]
        lines += ["", table(["language", "newly dropped", "text", "newly kept", "text"], rows)]
        left = len(found["languages"]) - SHOWN_LANGUAGES
        lines += [f"… and {many(left, 'language')} more"] if left > 0 else []
    for kind, rows in found["examples"].items():
        if rows:
            head, why = kind.replace("_", " "), "rule" if kind == "newly_dropped" else "was dropped by"
            cells = [
                [_short(f"{row['repo']}/{row['path']}"), row["rule"], _amount(row["value"]), _amount(row["threshold"])] for row in rows
            ]
            lines += ["", table([f"{head}, for example", why, "value", "threshold"], cells)]
    return "\n".join([*lines, *_reruns(found)])


_TOTALS = ("seen", "now", "then", "newly_dropped", "newly_kept")


def _reruns(found: dict[str, Any]) -> list[str]:
    """Format what a run with these knobs would do again."""
    if not found["changed_parts"]:
        return ["", "no document changes its fate: the steps below would be taken from the store"]
    steps = [f"{line['step']} ({line['seconds']:.1f} s)" if line["seconds"] is not None else line["step"] for line in found["reruns"]]
    shown = ", ".join(steps[:SHOWN_RERUNS]) + (f" and {len(steps) - SHOWN_RERUNS} more" if len(steps) > SHOWN_RERUNS else "")
    told = f"{count(found['changed_parts'])} of {many(found['parts'], 'part')} change"
    return ["", f"{told}; a run would judge again, and below it rerun {shown or 'nothing'}"]


def sweep_text(found: dict[str, Any]) -> str:
    """Format a sweep as a line of blocks and a table."""
    points = found["points"]
    shares = [point["documents_share"] for point in points]
    lines = [
        f"{found['step']} of {found['run']}: documents kept as {found['knob']} goes from {points[0]['value']:g} to {points[-1]['value']:g}",
        "",
        f"  {sparkline(shares)}  {min(shares):.2%} to {max(shares):.2%}; now {count(found['now']['documents'])} documents",
        "",
    ]
    rows = [
        [
            f"{point['value']:g}",
            count(point["documents"]),
            f"{point['documents_share']:.2%}",
            size(point["bytes"]),
            count(point["newly_dropped"]),
            count(point["newly_kept"]),
        ]
        for point in points
    ]
    return "\n".join([*lines, table([found["knob"].rpartition(".")[2], "kept", "share", "text", "newly dropped", "newly kept"], rows)])


def sparkline(values: Sequence[float]) -> str:
    """Draw numbers as blocks, the least as the lowest and the greatest as the highest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[min(int((value - low) / span * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in values)


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= SHOWN_WIDTH else f"…{text[1 - SHOWN_WIDTH :]}"
