"""Copies of a document in packed sequences: to which of them each span belongs, or why there is none."""

from __future__ import annotations

from bisect import bisect_right
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lineage.tracing_training import TEXT_ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Ranges = list[tuple[int, int]]


def copy_numbers(spans: Sequence[dict[str, Any]], starts: Mapping[int, Sequence[int]]) -> list[int | None]:
    """Tell the copies of one document apart, from 1; None for all where none of its bytes is there to tell them by.

    No copy holds a byte twice, and what of the document stands in one context of one sequence is of one copy; so each
    such stretch is given to the first copy that holds none of its bytes yet. With documents laid end to end that is the
    copy that packing took, as far as any of its bytes are there. Of a document longer than a sequence that best fit
    scattered, a stretch may be told as another copy's, and rarely (5 in 2,193) as that of one copy more than there are.

    Args:
        spans: of the document, in the order of sequences and tokens.
        starts: of each sequence, where its contexts begin.
    """

    def context(span: dict[str, Any]) -> tuple[int, int]:
        return span["sequence"], bisect_right(starts[span["sequence"]], span["token_start"])

    stretches = [list(group) for _, group in groupby(spans, context)]
    found = _assigned([[(s["byte_start"], s["byte_end"]) for s in stretch if s["role"] in TEXT_ROLES] for stretch in stretches])
    roles = [[span["role"] for span in stretch] for stretch in stretches]
    ended = [True, *(told[-1] == "eod" for told in roles)]  # where the stretch before ended its copy
    numbers = _with_textless(found, [is_new or "metadata" in told for is_new, told in zip(ended, roles, strict=False)])
    return [number for stretch, number in zip(stretches, numbers, strict=True) for _ in stretch]


def _assigned(stretches: Sequence[Ranges]) -> list[int | None]:
    """The copy of each stretch; None where it holds no bytes."""
    size = max((end for ranges in stretches for _, end in ranges), default=0)
    numbers: list[int | None] = []
    unfinished: dict[int, Ranges] = {}  # which may take more; a complete copy cannot
    latest = 0
    for ranges in stretches:
        if not ranges:
            numbers.append(None)
            continue
        number = next((n for n, held in unfinished.items() if not _overlap(held, ranges)), latest + 1)
        latest = max(latest, number)
        held = unfinished.setdefault(number, [])
        held += ranges
        if sum(end - start for start, end in held) >= size:
            del unfinished[number]
        numbers.append(number)
    return numbers


def _overlap(some: Ranges, others: Ranges) -> bool:
    return any(start < end_ and start_ < end for start, end in some for start_, end_ in others)


def _with_textless(numbers: Sequence[int | None], are_first: Sequence[bool]) -> list[int | None]:
    """Give a stretch without text that is the first of a copy to the copy of the text after it, and others to that before."""
    told: list[int | None] = []
    for at, number in enumerate(numbers):
        before = told[-1] if told else None
        after = next((later for later in numbers[at:] if later is not None), before)
        told.append(number or (after if are_first[at] else before or after))
    return told


def why_not_packed(config: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Why a document that was encoded is in no sequence, as the reason of a verdict is told.

    Args:
        config: knobs of pack_fim.
        document: its source and language.
    """
    mixture = config.get("mixture") or {}
    by = mixture.get("by", "language")
    epochs, weight = config.get("epochs", 1), mixture.get("weights", {}).get(document[by], 1)
    times = epochs * weight
    if times < 1:
        detail = f"not taken: {by} {document[by]} has weight {weight:g}, which is {times:.4g} copies over {epochs} epoch(s)"
        return {"rule": "mixture", "value": times, "threshold": None, "detail": detail}
    return {"rule": "no-room", "value": None, "threshold": None, "detail": "cut off its sequence by fill-in-the-middle after packing"}
