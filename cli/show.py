"""`starloom show`: describe one run, step, artifact, document or cluster of a store."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from starloom.cli.clusters import TOLD_NOTES, cluster_text, conflicts_text, step_lines
from starloom.cli.output import print_json, table
from starloom.cli.places import add_store_argument, again, open_store
from starloom.cli.terminal import coloured, printable
from starloom.queries.formats import count, short, size

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_ROWS = 5
SHOWN_LINES = 40
SHOWN_RULES = 5
SHOWN_PARTS = 12
SHOWN_WIDTH = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom show`."""
    text = (
        "a run (id, tag, latest), RUN/STEP, or the first digits of an artifact's hash or a doc_id; cluster:ID for a cluster, as the last "
        "step that found it has it (cluster:STEP/ID: as that step has); `conflicts` for all clusters of a run whose licences differ"
    )
    parser.add_argument("what", metavar="ID", help=text)
    asked = "of a document, cluster or conflicts: as this run saw them (default: the newest that is done)"
    parser.add_argument("--run", metavar="RUN", help=asked)
    rows = (
        f"rows of an artifact (default: {DEFAULT_ROWS}), licence conflicts of a step or run (default: {DEFAULT_ROWS}; with --json all), "
        f"texts of a cluster to compare with the survivor's (default: {DEFAULT_ROWS}; with --json 20)"
    )
    parser.add_argument("--rows", type=_number, metavar="N", help=rows)
    add_store_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print what the name stands for."""
    from starloom.queries.showing import show

    num_rows = DEFAULT_ROWS if arguments.rows is None and not arguments.json else arguments.rows
    shown = show(open_store(arguments), arguments.what, run_id=arguments.run, num_rows=num_rows)
    if arguments.json:
        print_json(shown)
        return 0
    text, following = _TEXTS[shown["kind"]](shown, arguments)
    print(f"{text}\n\nnext: {again(arguments, following)}")
    return 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def _run(run: dict[str, Any], arguments: argparse.Namespace) -> tuple[str, str]:
    tags = f", tagged {', '.join(run['tags'])}" if run["tags"] else ""
    lines = [
        f"run {run['run']}: recipe {run['recipe']}, {run['status']}{tags}",
        f"  started   {run['started']}, finished {run['finished'] or '-'}",
    ]
    lines += [f"  result    {short(run['result'])}", f"  command   starloom {shlex.join(run['command'])}", f"  look at   {run['folder']}/"]
    lines += [f"  error     {run['error']}"] if run["error"] else []
    steps = []
    for step in run["steps"]:
        made = ", ".join(f"{kind} {short(out['artifact'])}{_rows(out['counts'])}" for kind, out in step["outputs"].items())
        steps.append([step["name"], step["status"], f"{step['num_cached']} of {step['num_actions']}", f"{step['seconds']:.1f} s", made])
    lines += ["", table(["step", "status", "cached", "took", "made"], steps)]
    conflicts = {step: number for step, number in run["license_conflicts"].items() if number}
    if conflicts:
        told = ", ".join(f"{step} {count(number)}" for step, number in conflicts.items())
        lines += ["", f"licence conflicts, in clusters: {told}: {again(arguments, 'show conflicts --run ' + run['run'])}"]
    for step, told in run["warnings"].items():
        lines += ["", *_warnings(told, step)]
    if run["funnel"]:
        lines += ["", funnel_table(run["funnel"])]
    dropping = next((row["step"] for row in run["funnel"] if row["dropped"]), None)
    following = f"show {run['run']}/{dropping or run['steps'][-1]['name']}" if run["steps"] else "runs"
    return "\n".join(lines), following


def _rows(counts: dict[str, Any]) -> str:
    return f" ({count(counts['rows'])} rows)" if counts.get("rows") else f" ({size(counts.get('bytes'))})"


def funnel_table(funnel: list[dict[str, Any]]) -> str:
    """Format what each step kept, and by which rules it dropped the rest."""
    rows = []
    for row in funnel:
        rules = list(row["rules"].items())
        told = ", ".join(f"{rule} {count(number)}" for rule, number in rules[:SHOWN_RULES]) + (" …" if len(rules) > SHOWN_RULES else "")
        rows.append([row["step"], count(row["documents"]), size(row["bytes"]), count(row["dropped"]), told])
    return table(["step", "documents left", "text", "dropped", "by rule"], rows)


def _step(step: dict[str, Any], arguments: argparse.Namespace) -> tuple[str, str]:
    lines = [f"{step['run']}/{step['name']}: stage {step['stage']}, {step['status']}, {step['seconds']:.1f} s"]
    lines += [
        f"  key       {step['key']}",
        f"  actions   {step['num_actions']}, of them {step['num_cached']} taken from the store",
        f"  look at   {step['folder']}/",
    ]
    lines += ["", "config", *_listed(step["config"]), "", "reads"]
    lines += [f"  {name:<20} {ref['type']} {short(ref['artifact'])}{_through(ref)}" for name, ref in step["inputs"].items()] or [
        "  the sources"
    ]
    lines += ["", "wrote"]
    for kind, out in step["outputs"].items():
        lines += [f"  {kind} {out['artifact']}", *("  " + line for line in _listed(out["counts"]))]
    lines += [
        "",
        "code",
        *_listed(step["components"]["code"]),
        *(["", "libraries", *_listed(step["components"]["libraries"])] if step["components"]["libraries"] else []),
    ]
    untold = step["notes"]
    made = step["outputs"].get("Checkpoint") or next(iter(step["outputs"].values()), None)
    following = f"show {short(made['artifact'])}" if made else f"show {step['run']}"
    if "license_conflicts" in step:
        found, cluster = step_lines(step, arguments)
        lines, following = lines + found, cluster or following
        untold = {name: value for name, value in untold.items() if name not in TOLD_NOTES}
    lines += ["", *score_lines(step["scores"])] if "scores" in step else []
    counts, told = untold.get("counts", {}), untold.get("warnings", [])
    untold = {name: value for name, value in untold.items() if name not in ("counts", "warnings")}
    lines += ["", *_warnings(told, step["name"])] if told else []
    lines += ["", "notes", *_listed(untold)] if untold else []
    lines += ["", "to look at, in the folder above", *[f"  {name}" for name in step["shown"]]] if step["shown"] else []
    lines += ["", "counts", *[f"  {name:<28} {count(number)}" for name, number in counts.items()]] if counts else []
    return "\n".join(lines), following


def score_lines(scores: list[dict[str, Any]]) -> list[str]:
    """Format scores with their intervals."""
    rows = [
        [each["benchmark"], each["metric"], each["language"] or "", *(with_interval(each)), count(each["count"]), each["method"]]
        for each in scores
    ]
    return [table(["benchmark", "metric", "language", "score", "95 %", "of", "method"], rows)] if rows else ["no scores"]


def with_interval(score: dict[str, Any], side: str = "") -> tuple[str, str]:
    """Format a score, and its interval if it has one; `side` of a comparison: before or after."""
    names = (side, f"{side}_low", f"{side}_high") if side else ("value", "low", "high")
    value, low, high = (score[name] for name in names)
    return ("-" if value is None else f"{value:.4g}", "" if low is None else f"{low:.3f} to {high:.3f}")


def _warnings(told: list[str], step: str) -> list[str]:
    return [coloured(f"{step} warns", "yellow"), *(f"  {printable(text)}" for text in told)]


def _through(ref: dict[str, Any]) -> str:
    return f" filtered by verdicts {short(ref['verdicts'])}" if ref["verdicts"] else ""


def _listed(values: dict[str, Any]) -> list[str]:
    return [f"  {name:<20} {_cut(value)}" for name, value in values.items()]


def _cut(value: Any) -> str:
    """Shorten a value to one line that fits a screen."""
    text = "-" if value is None else str(value)
    text = repr(text) if "\n" in text else text
    return text if len(text) <= SHOWN_WIDTH else f"{text[:SHOWN_WIDTH]}…"


def _artifact(artifact: dict[str, Any], _arguments: argparse.Namespace) -> tuple[str, str]:
    lines = [f"{artifact['type']} {artifact['artifact']}", f"  made by   {', '.join(artifact['made_by'][-3:]) or 'no remaining run'}"]
    lines += _listed(artifact["counts"])
    parts = [
        [part.get("name", number), short(part["hash"]), count(part["num_rows"]), size(part["num_bytes"])]
        for number, part in enumerate(artifact["parts"])
    ]
    lines += ["", table(["part", "hash", "rows", "size"], parts[:SHOWN_PARTS])]
    lines += [f"… and {count(len(parts) - SHOWN_PARTS)} more"] if len(parts) > SHOWN_PARTS else []
    for row in artifact["rows"]:
        lines += ["", *(f"  {name:<18} {_cut(value)}" for name, value in row.items())]
    return "\n".join(lines), f"export {short(artifact['artifact'])} {artifact['type'].lower()}-{short(artifact['artifact'])}"


def document_heading(document: dict[str, Any], fate: dict[str, Any]) -> list[str]:
    """Format the identity and the fate of a document, in a few lines."""
    version = f" at {document['revision']}" if document["revision"] else ""
    end = "kept to the end" if fate["kept"] else f"dropped at {fate['step']}: {fate['rule']}"
    return [
        f"{document['repo']}/{document['path']}",
        f"  {document['doc_id']}  {document['swhid']}",
        f"  {document['source']}{version}, {document['language'] or 'no language'}, {size(document['size'])}",
        f"  declared licence {document['declared_license'] or '-'}",
        f"  {end}",
    ]


def _document(shown: dict[str, Any], _arguments: argparse.Namespace) -> tuple[str, str]:
    lines = document_heading(shown["document"], shown["fate"])
    text = shown["text"].splitlines()
    lines += ["", f"its text as {shown['text_of']} left it:", "", *(f"  {printable(line)}" for line in text[:SHOWN_LINES])]
    lines += [f"  … {count(len(text) - SHOWN_LINES)} more lines"] if len(text) > SHOWN_LINES else []
    return "\n".join(lines), f"trace {shown['document']['doc_id'][:12]}"


_TEXTS: dict[str, Callable[[dict[str, Any], argparse.Namespace], tuple[str, str]]] = {
    "run": _run,
    "step": _step,
    "artifact": _artifact,
    "document": _document,
    "cluster": cluster_text,
    "conflicts": conflicts_text,
}
