"""All that a page shows of one document or packed sequence: a trace, with the texts that stand beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from starloom.queries.offences import Case, offence
from starloom.queries.rows import Rows
from starloom.queries.showing import text_of_document
from starloom.queries.showing_clusters import show_cluster
from starloom.queries.tracing import trace
from starloom.queries.tracing_sequences import tokenizer_of
from starloom.tasks.kernels.tokens.byte_level import byte_of_character

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

COMPARED = 5
"""Members of a cluster whose texts are compared."""


def view_document(store: Store, doc_id: str, run_id: str | None) -> dict[str, Any]:
    """Return the trace of a document with its text and everything that stands beside it.

    Args:
        store: to query.
        doc_id: or the beginning of one, eight digits or more.
        run_id: as this run saw it; None for the newest that is done.

    Raises:
        InputError: if the run read no such document, or several.
    """
    found = trace(store, f"doc:{doc_id}", run_id=run_id)
    rows, run = Rows(store), store.run(found["run"])
    clusters = [
        show_cluster(store, f"{event['step']}/{event['cluster_id']}", run.id, COMPARED, found["document"]["doc_id"])
        for event in found["events"]
        if event["event"] == "clustered"
    ]
    text = text_of_document(store, run, found)
    more = {"licenses": _licenses(rows, run, found), "clusters": clusters, "offence": _offence(run, found["fate"], text["text"])}
    return {**found, **text, **more}


def _offence(run: Run, fate: dict[str, Any], text: str) -> dict[str, Any] | None:
    """Return the places that the verdict is about which dropped a document."""
    step = None if fate["kept"] else run.step(fate["step"])
    return None if step is None else offence(Case(text, fate["rule"], fate["value"], fate["detail"], step.config))


def _licenses(rows: Rows, run: Run, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the licence class and its evidence, as each step that judged licences wrote them."""
    part = next(event["part"] for event in found["events"] if event["event"] == "read")
    told = []
    for step in run.steps:
        if "Licenses" in step.outputs:
            artifact = step.outputs["Licenses"]["artifact"]
            own = rows.of_document(artifact, found["document"]["doc_id"], ["license_class", "evidence"], part)
            told += [{"step": step.name, "license_class": row["license_class"], "evidence": row["evidence"]} for row in own]
    return told


def view_sequence(store: Store, name: str, run_id: str | None) -> dict[str, Any]:
    """Return the trace of a packed sequence, each span with its `tokens`: number, text, and the bytes of the document.

    Of a tokenizer that is not byte-level the tokens of a span have no bytes of their own.

    Args:
        store: to query.
        name: of the sequence, PART:ROW.
        run_id: of the run that packed it; None for the newest that is done.

    Raises:
        InputError: if the run packed no such sequence.
    """
    found = trace(store, f"seq:{name}", run_id=run_id)
    rows, run, who = Rows(store), store.run(found["run"]), found["sequence"]
    packer = run.step(who["step"])
    assert packer is not None, "a trace names steps of its run"
    (ids,) = rows.take(packer.outputs["Packed"]["artifact"], who["part"], [who["row"]], ["tokens"]).column("tokens").to_pylist()
    tokenizer = tokenizer_of(rows, packer)
    for span in found["spans"]:
        own = ids[span["token_start"] : span["token_end"]]
        span["tokens"] = [] if tokenizer is None or span["role"] == "pad" else _spelt(tokenizer, own, span)
    return found


def _spelt(tokenizer: Tokenizer, ids: list[int], span: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tokens of a span, each with its text, and its bytes of the document if they add up to the span's.

    A special token's text is its name. A token that ends within a character has the rest as hexadecimal: `is_partial`.
    """
    alphabet, special = byte_of_character(), _special(tokenizer)
    names = [tokenizer.id_to_token(number) or "" for number in ids]
    spelt = [None if number in special else _bytes_of(name, alphabet) for number, name in zip(ids, names, strict=True)]
    sizes = [0 if word is None else len(word) for word in spelt]
    has_bytes = span["byte_start"] is not None
    is_exact = has_bytes and None not in spelt and sum(sizes) == span["byte_end"] - span["byte_start"]
    ends = np.cumsum([0, *sizes]) + (span["byte_start"] if is_exact else 0)
    return [
        {
            "id": number,
            **_text_of(tokenizer, number, name, None if has_bytes and not is_exact else word, is_special=number in special),
            "byte_start": int(start) if is_exact else None,
            "byte_end": int(end) if is_exact else None,
        }
        for number, name, word, start, end in zip(ids, names, spelt, ends[:-1], ends[1:], strict=True)
    ]


def _special(tokenizer: Tokenizer) -> set[int]:
    return {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def _bytes_of(name: str, alphabet: dict[str, int]) -> bytes | None:
    """Return the bytes that a token of a byte-level tokenizer stands for; None if it is none of its."""
    try:
        return bytes(alphabet[character] for character in name)
    except KeyError:
        return None


def _text_of(tokenizer: Tokenizer, number: int, name: str, word: bytes | None, *, is_special: bool) -> dict[str, Any]:
    if is_special:
        return {"text": name, "is_special": True, "is_partial": False}
    if word is None:
        return {"text": tokenizer.decode([number]), "is_special": False, "is_partial": False}
    text = word.decode("utf-8", "backslashreplace")
    return {"text": text, "is_special": False, "is_partial": text.encode() != word}
