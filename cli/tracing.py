"""`starloom trace`: what happened to a document, repository, sequence or checkpoint, and why."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from starloom.cli.output import print_json, table
from starloom.cli.places import add_store_argument, again, open_store
from starloom.cli.show import score_lines
from starloom.cli.terminal import coloured
from starloom.cli.wording import many
from starloom.queries.formats import count, short, size
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

DEFAULT_LIMIT = 10
SHOWN_SPANS = 6
SHOWN_CHARS = 60
SHOWN_ID = 12
NUM_TABLE_HEADER_LINES = 2
ROLE_COLOURS = {
    "prefix": "green",
    "middle": "yellow",
    "suffix": "cyan",
    "metadata": "blue",
    "sentinel": "magenta",
    "eod": "red",
    "pad": "dim",
}
"""Of a span; plain text has none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `starloom trace`."""
    text = (
        "a checkpoint (`checkpoint`, or the first digits of its hash), a sequence (PART:ROW), the first 8 digits or more of a doc_id, "
        "a repository, or a path (whole or its end, with or without the repository before it); tried in this order. "
        "a prefix checkpoint: seq: doc: repo: or path: makes it unambiguous"
    )
    parser.add_argument("what", metavar="WHAT", help=text)
    parser.add_argument("--run", metavar="RUN", help="the run to ask (default: the newest that is done)")
    parser.add_argument("--step", type=int, metavar="N", help="of a checkpoint: only what training had seen by step N")
    parser.add_argument("--limit", type=int, metavar="N", help=f"lines of a list (default: {DEFAULT_LIMIT}; with --json all)")
    add_store_argument(parser)


def main(arguments: argparse.Namespace) -> int:
    """Print the trace."""
    from starloom.queries.tracing import trace

    limit = arguments.limit if arguments.limit is not None or arguments.json else DEFAULT_LIMIT
    found = trace(open_store(arguments), arguments.what, run_id=arguments.run, until_step=arguments.step, limit=limit)
    if arguments.json:
        print_json(found)
        return 0
    text, following = TEXTS[found["kind"]](found, limit)
    run = f" --run {arguments.run}" if arguments.run and following != "runs" else ""
    print(f"{text}\n\nnext: {again(arguments, following + run)}")
    return 0


# Documents


def _document(found: dict[str, Any], limit: int | None) -> tuple[str, str]:
    from starloom.cli.show import document_heading

    left = found["fate"].get("not_packed")
    lines = [*document_heading(found["document"], found["fate"])]
    lines += [f"  but in no sequence of {left['step']}: {left['rule']}, {left['detail']}"] if left else []
    lines += [f"  in run {found['run']}", ""]
    for event in found["events"]:
        told = _EVENTS[event["event"]](event, limit)
        lines.append(f"  {event['step']:<24} {told[0]}")
        lines += [f"  {'':<24}   {line}" for line in told[1:]]
    return "\n".join(lines), _after_document(found)


def _after_document(found: dict[str, Any]) -> str:
    for event in reversed(found["events"]):
        if event["event"] == "clustered":
            return f"show cluster:{event['step']}/{event['cluster_id'][:SHOWN_ID]}"
    for event in found["events"]:
        if event["event"] == "packed":
            return f"trace seq:{event['sequences'][0]['sequence']}"
    return f"show doc:{found['document']['doc_id'][:SHOWN_ID]}"


def _judged(event: dict[str, Any], _limit: int | None) -> list[str]:
    is_conflict = event["rule"] == "license-conflict"  # which no similarity decided, and whose cluster may be named by the document
    value = "" if event["value"] is None or is_conflict else f" {event['value']:.4g}"
    limit = "" if event["threshold"] is None or is_conflict else f" against {event['threshold']:.4g}"
    survivor, of = event.get("survivor"), "in the cluster of" if is_conflict else "of"
    detail = f"{of} {survivor['repo']}/{survivor['path']} ({survivor['doc_id'][:SHOWN_ID]})" if survivor else event["detail"]
    why = f": {event['rule']}{value}{limit}" if event["rule"] else ""
    return [f"{event['event']}{why}{f', {detail}' if detail else ''}"]


def _clustered(event: dict[str, Any], _limit: int | None) -> list[str]:
    from starloom.cli.clusters import classes_text

    place = "the survivor" if event["is_survivor"] else "a member"
    told = f"{place} of cluster {event['cluster_id'][:SHOWN_ID]}: {many(event['num_members'], 'document')}"
    licence = f"licence {event['license_class'] or 'not judged'}"
    if event["has_license_conflict"]:
        licence += f", in conflict: the cluster's are {classes_text(event['license_classes'])}"
    return [f"{told}, Jaccard {event['jaccard']:.3f}, {event['reason']}", licence]


def _measured(event: dict[str, Any], _limit: int | None) -> list[str]:
    return [
        "measured "
        + ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in event["signals"].items())
    ]


def _rewritten(event: dict[str, Any], limit: int | None) -> list[str]:
    spans = event["redactions"]
    if not spans:
        return ["scanned, nothing replaced"]
    lines = [f"{many(len(spans), 'span')} replaced, {size(event['bytes_before'])} → {size(event['bytes'])}"]
    lines += [
        f"{s['entity']} at bytes {s['start']:,}-{s['end']:,} by {s['detector']}, now {s['new_start']:,}-{s['new_end']:,}"
        for s in spans[:limit]
    ]
    return lines + _more(len(spans), limit)


def _packed(event: dict[str, Any], limit: int | None) -> list[str]:
    sequences = event["sequences"]
    splits = ", ".join(sorted({str(s["split"]) for s in sequences}))
    several = f", {many(event['num_copies'], 'copy', 'copies')}, each counted" if event["num_copies"] > 1 else ""
    lines = [f"in {many(len(sequences), 'sequence')} ({splits}): {many(event['tokens'], 'token')} of its text{several}"]
    for sequence in sequences[:limit]:
        spans = [span for span in sequence["spans"] if span["role"] in DOCUMENT_ROLES]
        told = [_packed_span(span, has_copies=event["num_copies"] > 1) for span in spans[:SHOWN_SPANS]]
        lines.append(f"seq:{sequence['sequence']:<8} {'; '.join(told)}{' …' if len(spans) > SHOWN_SPANS else ''}")
    return lines + _more(len(sequences), limit)


def _packed_span(span: dict[str, Any], *, has_copies: bool) -> str:
    place = f"tokens {span['token_start']:,}-{span['token_end']:,} = bytes {span['byte_start']:,}-{span['byte_end']:,}"
    return f"copy {span['copy']}, {span['role']} {place}" if has_copies else f"{span['role']} {place}"


def _trained(event: dict[str, Any], limit: int | None) -> list[str]:
    if not event["seen"]:
        return [f"not seen by checkpoint {short(event['checkpoint'])}"]
    steps = sorted({seen["step"] for seen in event["seen"]})
    shown = ", ".join(map(str, steps[:limit])) + (" …" if limit is not None and len(steps) > limit else "")
    return [f"seen by checkpoint {short(event['checkpoint'])} at {many(len(steps), 'step')}: {shown}"]


def _more(number: int, limit: int | None) -> list[str]:
    return [f"… and {count(number - limit)} more: --limit N, or --json for all"] if limit is not None and number > limit else []


_EVENTS: dict[str, Callable[[dict[str, Any], int | None], list[str]]] = {
    "read": lambda event, _limit: [f"read, {size(event['bytes'])}, row {event['row']:,} of part {event['part']}"],
    "measured": _measured,
    "clustered": _clustered,
    "kept": _judged,
    "dropped": _judged,
    "rewritten": _rewritten,
    "encoded": lambda event, _limit: [f"{count(event['tokens'])} tokens, {count(event['metadata_tokens'])} of metadata before them"],
    "packed": _packed,
    "not packed": lambda event, _limit: [f"in no sequence: {event['rule']}, {event['detail']}"],
    "trained": _trained,
}


def _documents(found: dict[str, Any], limit: int | None) -> tuple[str, str]:
    rows = [
        [d["doc_id"][:SHOWN_ID], f"{d['repo']}/{d['path']}", f"dropped at {d['dropped']}" if d["dropped"] else "kept"]
        for d in found["documents"]
    ]
    heading = f"this names {many(found['num_documents'], 'document')} of run {found['run']}, {count(found['num_kept'])} of them kept"
    lines = [heading, "", table(["doc_id", "document", ""], rows), *_more(found["num_documents"], limit)]
    return "\n".join(lines), f"trace {shlex.quote(rows[0][1])}"


def _skipped(found: dict[str, Any], limit: int | None) -> tuple[str, str]:
    lines = [f"{many(found['num_skipped'], 'file')} of this name did not become documents of run {found['run']}", ""]
    for file in found["skipped"]:
        why = _judged({"event": "skipped", **file}, limit)[0]
        lines.append(f"  {file['repo']}/{file['path']} ({size(file['size'])}): {file['step']} {why}")
    return "\n".join([*lines, *_more(found["num_skipped"], limit)]), f"trace {shlex.quote('repo:' + found['skipped'][0]['repo'])}"


# Repositories


def _repository(found: dict[str, Any], limit: int | None) -> tuple[str, str]:
    who = found["repository"]
    languages = ", ".join(f"{name} {count(number)}" for name, number in list(who["languages"].items())[:SHOWN_SPANS])
    lines = [
        f"{who['repo']} at {who['revision'] or 'no revision'} from {who['source']}, declared licence {who['declared_license'] or '-'}",
        f"  {many(found['num_documents'], 'document')}, {size(who['bytes'])} ({languages})",
        f"  {count(found['num_kept'])} kept to the end of run {found['run']}",
    ]
    if found["skipped"]["num_files"]:
        lines.append(f"  did not become documents: {many(found['skipped']['num_files'], 'file')}: {_rules(found['skipped']['rules'])}")
    lines += [
        "",
        table(
            ["step", "documents left", "dropped", "by rule"],
            [[s["step"], count(s["documents"]), count(s["dropped"]), _rules(s["rules"])] for s in found["steps"]],
        ),
    ]
    for packing in found["training"]:
        lines += [
            "",
            (
                f"  {packing['step']}: {many(packing['tokens'], 'token')} of {many(packing['documents'], 'document')} "
                f"in {many(packing['sequences'], 'sequence')}, every copy counted"
            ),
        ]
        if packing["not_packed"]:
            lines.append(f"  {packing['step']}: {many(packing['not_packed'], 'document')} in no sequence: trace one of them for the reason")
        for seen in packing["checkpoints"]:
            first = "" if seen["first_step"] is None else f", the first at step {count(seen['first_step'])}"
            lines.append(f"  {seen['step']}: checkpoint {short(seen['checkpoint'])} saw {count(seen['sequences_seen'])} of them{first}")
    dropped = found["num_documents"] - found["num_kept"]
    lines += [""] if dropped else []
    lines += [f"  {d['path']}: {d['step']} {_judged({'event': 'dropped', **d}, limit)[0]}" for d in found["dropped"]]
    path = f"{who['repo']}/{found['dropped'][0]['path']}" if found["dropped"] else "checkpoint"
    return "\n".join([*lines, *_more(dropped, limit)]), f"trace {shlex.quote(path)}"


def _rules(rules: dict[str, int]) -> str:
    return ", ".join(f"{rule} {count(number)}" for rule, number in sorted(rules.items(), key=lambda rule: -rule[1]))


# Training


def _beginning(began: dict[str, Any] | None) -> list[str]:
    """Describe the checkpoint made elsewhere that the first training continued from."""
    if began is None:
        return []
    return [f"  continued from {began['named'] or short(began['artifact'])}, made elsewhere: its training data is unknown here"]


def _checkpoint(found: dict[str, Any], limit: int | None) -> tuple[str, str]:
    at = found["checkpoint"]
    times = "once" if found["num_passes"] == 1 else f"{count(found['num_passes'])} times"
    until = (
        f"last step {count(at['last_step'])}" if at["until_step"] is None else f"only what it had seen by step {count(at['until_step'])}"
    )
    lines = [
        f"checkpoint {at['artifact']}",
        f"  of {at['step']} in run {found['run']}; {until}",
        *[
            f"  continued from {short(each['artifact'])} of {each['step']}, {many(each['num_steps'], 'step')}: "
            "what that saw is counted here too"
            for each in reversed(at["trainings"][:-1])
        ],
        *_beginning(at["began_with"]),
        (
            f"  saw {many(found['num_documents'], 'document')}, {many(found['tokens'], 'token')} of their text{_copies(found)}, "
            f"{count(found['tokens_seen'])} with repeats"
        ),
        f"  in {count(found['num_sequences'])} of {many(found['num_sequences_packed'], 'packed sequence')}, none more than {times}",
    ]
    lines += ["", *score_lines(found["scores"])] if found["scores"] else []
    for name, title in (("licenses", "licence"), ("languages", "language"), ("repositories", "repository")):
        rows = [[total["name"], count(total["documents"]), count(total["tokens"])] for total in found[name][:limit]]
        lines += ["", table([title, "documents", "tokens"], rows), *_more(len(found[name]), limit)]
    rows = [
        [
            f"{d['repo']}/{d['path']}",
            count(d["tokens"]),
            count(d["copies"]),
            *(
                count(d[f"{which}_step"]) + (f" of {d[f'{which}_training']}" if len(at["trainings"]) > 1 else "")
                for which in ("first", "last")
            ),
            d["doc_id"][:SHOWN_ID],
        ]
        for d in found["documents"]
    ]
    lines += ["", table(["document", "tokens", "copies", "first step", "last step", "doc_id"], rows), *_more(found["num_documents"], limit)]
    return "\n".join(lines), f"trace {rows[0][-1]}" if rows else "runs"


def _copies(found: dict[str, Any]) -> str:
    """Explain the counts, where packing took documents more than once."""
    return f" in {count(found['num_copies'])} copies, each counted" if found["num_copies"] > found["num_documents"] else ""


def _sequence(found: dict[str, Any], _limit: int | None) -> tuple[str, str]:
    who = found["sequence"]
    name = f"{who['part']}:{who['row']}"
    seen = [f"{s['train']} step {count(s['step'])} (checkpoint {short(s['checkpoint'])})" for s in found["seen"]]
    holds = f"{many(who['num_documents'], 'document')} in {many(who['num_contexts'], 'context')}"
    lines = [f"sequence {name} of {found['run']}/{who['step']}: {count(who['num_tokens'])} tokens ({who['token_type']}), {who['split']}"]
    lines += [f"  holds     {holds}; attention may stop where a context begins"]
    lines += [f"  seen at   {', '.join(seen[:DEFAULT_LIMIT]) or 'no step'}{' …' if len(seen) > DEFAULT_LIMIT else ''}", ""]
    lines += _spans(found["spans"], who["starts"])
    document = next((span["doc_id"] for span in found["spans"] if span["doc_id"]), None)
    return "\n".join(lines), f"trace {document[:SHOWN_ID]}" if document else "trace checkpoint"


def _spans(spans: list[dict[str, Any]], starts: list[int]) -> list[str]:
    """Yield a line for each span, in the colour of its role, and one before each context."""
    rows = [
        [f"{s['token_start']}-{s['token_end']}", "" if s["document"] is None else s["document"], s["role"], _origin(s), _piece(s["text"])]
        for s in spans
    ]
    lines = table(["tokens", "document", "role", "from", "text"], rows).splitlines()
    told = lines[:NUM_TABLE_HEADER_LINES]
    for span, line in zip(spans, lines[NUM_TABLE_HEADER_LINES:], strict=True):
        if span["token_start"] in starts and span["context"] is not None:
            told.append(coloured(f"── context {span['context']}, from token {span['token_start']}", "bold"))
        told.append(coloured(line, ROLE_COLOURS[span["role"]]) if span["role"] in ROLE_COLOURS else line)
    return told


def _origin(span: dict[str, Any]) -> str:
    if span["repo"] is None:
        return ""
    place = "" if span["byte_start"] is None else f", bytes {span['byte_start']:,}-{span['byte_end']:,}"
    return f"{span['repo']}/{span['path']}{place}"


def _piece(text: str | None) -> str:
    return "" if text is None else repr(text[:SHOWN_CHARS]) + ("…" if len(text) > SHOWN_CHARS else "")


TEXTS: dict[str, Callable[[dict[str, Any], int | None], tuple[str, str]]] = {
    "document": _document,
    "documents": _documents,
    "skipped": _skipped,
    "repository": _repository,
    "checkpoint": _checkpoint,
    "sequence": _sequence,
}
"""Kind of an answer → its text and the next command."""
