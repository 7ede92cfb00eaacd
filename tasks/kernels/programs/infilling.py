"""Single-line infilling: a line of a document is taken out, and a model is asked for it.

As in SantaCoder's fill-in-the-middle benchmark (Allal et al. 2023, arXiv 2301.03988, §5.2; bigcode-evaluation-harness,
bigcode_eval/tasks/santacoder_fim.py): prompts in the order prefix, suffix, middle; an answer is right if it equals the line, both
stripped of white space around them.
Guarantee: prefix + line + suffix is the document. Cost: one pass over the document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

MAX_LINE_CHARS = 120
"""A longer line would measure the bound on new tokens rather than the model."""


class Infill(NamedTuple):
    """A document cut around one line."""

    prefix: str
    line: str
    """With its line feed."""
    suffix: str
    line_number: int
    """Counted from 1."""


def cut_line(text: str, draw: np.uint64) -> Infill | None:
    """Cut out a line that is not blank, not overlong, and neither the first nor the last; None if there is none.

    Args:
        text: the document.
        draw: a number uniform over 64 bits, which chooses among the lines.
    """
    lines = text.split("\n")
    choices = [i for i in range(1, len(lines) - 1) if lines[i].strip() and len(lines[i]) <= MAX_LINE_CHARS]
    if not choices:
        return None
    chosen = choices[(int(draw) * len(choices)) >> 64]
    before, line, after = lines[:chosen], lines[chosen], lines[chosen + 1 :]
    return Infill("".join(f"{part}\n" for part in before), f"{line}\n", "\n".join(after), chosen + 1)


def fit(prefix: list[int], suffix: list[int], room_tokens: int) -> tuple[list[int], list[int]]:
    """Return what fits of both sides: the end of the prefix and the beginning of the suffix, as even as can be."""
    num_suffix = min(len(suffix), max(room_tokens // 2, room_tokens - len(prefix)))
    num_prefix = min(len(prefix), room_tokens - num_suffix)
    return prefix[len(prefix) - num_prefix :], suffix[:num_suffix]


def is_exact_match(answer: str, line: str) -> bool:
    """Return whether the answer is the line, ignoring surrounding white space."""
    return answer.strip() == line.strip()
