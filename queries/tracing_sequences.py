"""Trace of one packed sequence: its spans, their documents and bytes, their attention contexts, and the training steps that saw it."""

from __future__ import annotations

import functools
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.errors import InputError
from starloom.lineage.store import object_name
from starloom.queries.fates import input_of, output_of
from starloom.queries.tracing_training import packers, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

    from starloom.lineage.records import Run, StepState
    from starloom.queries.questions import Question
    from starloom.queries.rows import Rows

TOKENIZER_FILE = "tokenizer.json"


def trace_sequence(question: Question, part: int, row: int) -> dict[str, Any]:
    """Return the spans of a packed sequence, with the source documents and bytes, and the steps at which it was seen."""
    rows, run = question.rows, question.run
    packer = _packer(run)
    packed = packer.outputs["Packed"]["artifact"]
    parts = rows.artifact(packed).parts
    if part >= len(parts) or row >= parts[part].num_rows:
        last = f"its {len(parts)} parts hold {', '.join(str(p.num_rows) for p in parts[:8])}{' …' if len(parts) > 8 else ''} sequences"  # noqa: PLR2004 - a line's worth
        raise InputError(f"run {run.id} has no sequence {part}:{row}", hint=f"{last}; both numbers count from 0")
    taken = rows.take(packed, part, [row], ["split", "tokens", "starts"])
    (sequence,) = taken.to_pylist()
    placed = packer.outputs["Spans"]["artifact"]
    own = rows.where(placed, part, "sequence", row, rows.columns(placed, part))
    spans = own.drop_columns(["sequence"]).sort_by("token_start").to_pylist()
    _number(spans, sequence["starts"])
    _name(rows, text_of(run, packer), part, spans)
    _spell(rows, packer, sequence["tokens"], spans)
    return {
        "sequence": {
            "part": part,
            "row": row,
            "split": sequence["split"],
            "num_tokens": len(sequence["tokens"]),
            "token_type": str(taken.schema.field("tokens").type.value_type),
            "starts": sequence["starts"],
            "num_contexts": len({span["context"] for span in spans} - {None}),
            "num_documents": len({span["document"] for span in spans} - {None}),
            "step": packer.name,
        },
        "spans": spans,
        "seen": [seen for step in run.steps for seen in _sightings(rows, step, packed, part, row)],
    }


def _packer(run: Run) -> StepState:
    found = next(iter(reversed(packers(run))), None)
    if found is None:
        raise InputError(f"run {run.id} packed no sequences", hint="name a run of pack_fim, with --run")
    return found


def _number(spans: list[dict[str, Any]], starts: Sequence[int]) -> None:
    """Add to the spans of a sequence, in order: `context` and `document`, counted from 1; padding is of none.

    A copy of a document is another document here.
    """
    number, before = 0, None
    for span in spans:
        if span["doc_id"] is None:
            span["context"], span["document"] = None, None
            continue
        number += (span["doc_id"], span["copy"]) != before
        before = span["doc_id"], span["copy"]
        span["context"], span["document"] = bisect_right(starts, span["token_start"]), number


def _name(rows: Rows, text: str, part: int, spans: list[dict[str, Any]]) -> None:
    """Add repo, path, and the bytes themselves as text, to spans of one part."""
    ids = pa.array(sorted({span["doc_id"] for span in spans if span["doc_id"]}), pa.string())
    parts = None if part >= len(rows.artifact(text).parts) else [part]
    found = {row["doc_id"]: row for row in rows.of_documents(text, ids, ["doc_id", "repo", "path", "content"], parts).to_pylist()}
    contents = {doc_id: document["content"].encode() for doc_id, document in found.items()}
    for span in spans:
        document = found.get(span["doc_id"], {})
        span["repo"], span["path"] = document.get("repo"), document.get("path")
        has_bytes = span["byte_start"] is not None and span["doc_id"] in contents
        piece = contents[span["doc_id"]][span["byte_start"] : span["byte_end"]] if has_bytes else None
        span["text"] = None if piece is None else piece.decode("utf-8", "replace")


def _spell(rows: Rows, packer: StepState, tokens: Sequence[int], spans: list[dict[str, Any]]) -> None:
    """Add the text of the template's tokens, which are no bytes of a document, as the tokenizer spells them."""
    model = tokenizer_of(rows, packer)
    if model is None:
        return
    for span in spans:
        if span["text"] is None:
            span["text"] = model.decode(tokens[span["token_start"] : span["token_end"]], skip_special_tokens=False)


def tokenizer_of(rows: Rows, packer: StepState) -> Tokenizer | None:
    """Return the tokenizer whose tokens a step packed; None if it read none."""
    ref = input_of(packer, "Tokenizer")
    file = next((part for part in rows.artifact(ref["artifact"]).parts if part.name == TOKENIZER_FILE), None) if ref else None
    if file is None:
        return None
    return _tokenizer(str(rows.store.storage.local(object_name("files", file.hash))))


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str) -> Tokenizer:
    """Return the tokenizer of a file that never changes."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)


def _sightings(rows: Rows, step: StepState, packed: str, part: int, row: int) -> list[dict[str, Any]]:
    read, batches = input_of(step, "Packed"), output_of(step, "Batches")
    if batches is None or read is None or read["artifact"] != packed:
        return []
    table = pa.concat_tables([table for _, table in rows.tables(batches, ["step", "part", "row"])])
    hit = pc.and_(pc.equal(table.column("part"), part), pc.equal(table.column("row"), row))
    return [
        {"train": step.name, "checkpoint": output_of(step, "Checkpoint"), "step": at} for at in table.filter(hit).column("step").to_pylist()
    ]
