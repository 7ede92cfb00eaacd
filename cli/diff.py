"""`starloom diff`: two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json, table
from starloom.cli.places import add_store_argument, again, open_store
from starloom.cli.show import with_interval
from starloom.cli.wording import many
from starloom.queries.formats import count, size

if TYPE_CHECKING:
    import argparse

DEFAULT_LIMIT = 20
SHOWN_WIDTH = 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom diff`."""
    parser.add_argument("before", metavar="RUN", help="a run: its id, tag, or an unambiguous prefix or suffix of its id; latest")
    parser.add_argument("after", metavar="RUN", help="another")
    parser.add_argument("--limit", type=int, metavar="N", help=f"number of documents to list (default: {DEFAULT_LIMIT}; with --json all)")
    add_store_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the differences between two runs."""
    from starloom.queries.compare import compare

    limit = arguments.limit if arguments.limit is not None or arguments.json else DEFAULT_LIMIT
    found = compare(open_store(arguments), arguments.before, arguments.after, limit)
    if arguments.json:
        print_json(found)
        return 0
    print(as_text(found))
    listed = found["documents"]["list"]
    following = f"trace {listed[0]['doc_id'][:12]} --run {found['after']['run']}" if listed else f"show {found['after']['run']}"
    print(f"\nnext: {again(arguments, following)}")
    return 0


def as_text(found: dict[str, Any]) -> str:
    """Format the comparison as text."""
    before, after = found["before"]["run"], found["after"]["run"]
    lines = [f"before  {before}", f"after   {after}" + ("   (the same bytes)" if found["same_result"] else "")]
    if found["settings"]:
        rows = [[line["step"], _setting(line), _value(line, "before"), _value(line, "after")] for line in found["settings"]]
        lines += ["", table(["step", "setting", "before", "after"], rows)]
    else:
        lines += ["", "the settings, code and libraries are the same"]
    lines += ["", table(["step", "documents before", "after", "", "text before", "after"], [_funnel_row(row) for row in found["funnel"]])]
    return "\n".join([*lines, *_documents(found["documents"]), *_scores(found["scores"])])


def _setting(line: dict[str, Any]) -> str:
    return str(line["name"]) if line["what"] == "config" else f"{line['what']}: {line['name']}"


def _value(line: dict[str, Any], side: str) -> str:
    text = "-" if line[side] is None else str(line[side])
    return text if len(text) <= SHOWN_WIDTH else f"{text[:SHOWN_WIDTH]}…"


def _funnel_row(row: dict[str, Any]) -> list[str]:
    sides = [row["before"] or {}, row["after"] or {}]
    documents, num_bytes = ([side.get(name) for side in sides] for name in ("documents", "bytes"))
    change = "" if None in documents or documents[0] == documents[1] else f"{documents[1] - documents[0]:+,}"  # type: ignore[operator]
    return [row["step"], *map(count, documents), change, *map(size, num_bytes)]


def _documents(documents: dict[str, Any]) -> list[str]:
    lines = ["", f"{many(documents['num_changed'], 'document')} changed fate"]
    if documents["num_with_new_content"]:
        lines.append(f"new content under the same name: {many(documents['num_with_new_content'], 'document')}")
    lines += [f"  {count(change['documents']):>8}  {change['before']} → {change['after']}" for change in documents["changes"]]
    for document in documents["list"]:
        lines.append(f"\n  {document['repo']}/{document['path']}  {document['doc_id'][:12]}")
        lines += [f"    {side:<6}  {_fate(document[side])}" for side in ("before", "after")]
    left = documents["num_changed"] - len(documents["list"])
    return [*lines, f"\n  … and {count(left)} more: --limit N, or --json for all"] if left and documents["list"] else lines


def _fate(fate: dict[str, Any]) -> str:
    value = f" {fate['value']:.4g}" if fate.get("value") is not None else ""
    limit = f" against {fate['threshold']:.4g}" if fate.get("threshold") is not None else ""
    survivor = fate.get("survivor")
    detail = f", of {survivor['repo']}/{survivor['path']}" if survivor else f", {fate['detail']}" if fate.get("detail") else ""
    why = f" ({fate['rule']})" if fate["fate"] == "not there" and fate.get("rule") else ""
    what = f"dropped at {fate['step']}: {fate['rule']}" if fate.get("step") else fate["fate"]
    return f"{what}{why}{value}{limit}{detail}"


def _scores(scores: list[dict[str, Any]]) -> list[str]:
    if not scores:
        return []
    rows = []
    for score in scores:
        values = [score["before"], score["after"]]
        change = "" if None in values else f"{values[1] - values[0]:+.4g}"
        sides = [word for side in ("before", "after") for word in with_interval(score, side)]
        rows.append([score["benchmark"], score["metric"], score["language"] or "", *sides, change, verdict(score)])
    return ["", table(["benchmark", "metric", "language", "before", "95 %", "after", "95 %", "", "on the same questions"], rows)]


def verdict(score: dict[str, Any]) -> str:
    """Say whether two runs differ in a score, by which test."""
    if score["differs"] is None:
        return ""
    what = "differ" if score["differs"] else "no difference shown"
    return f"{what} (p = {score['p_value']:.2g}, {score['test']}, {many(score['num_common'], 'question')})"
