"""Two texts side by side: aligned lines, with the spans that changed inside a line.

Bounded whatever the texts are: equal lines at both ends cost nothing, and of what is between at most COMPARED_LINES of each are aligned
(difflib, which counts no line that fills more than a hundredth of a long text), of which SHOWN_LINES are told, each cut to
SHOWN_CHARACTERS around its first change. What was left out is said.
"""

from __future__ import annotations

import difflib
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMPARED_LINES = 2000
SHOWN_LINES = 120
SHOWN_CHARACTERS = 300
CONTEXT_LINES = 3
COMPARED_WORDS = 400
"""Of a line, beyond which it is told as changed from the first to the last difference."""
LEAST_ALIKE = 0.3
"""Below this share of common characters two lines are other lines, and no change of one is marked."""
_BEFORE = 60
"""Characters that are shown before the first change of a line that is cut."""
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")

Piece = tuple[str, bool]
"""Text of a line, and whether it changed."""


def side_by_side(old: str, new: str) -> dict[str, Any]:
    """Return how two texts differ, line by line.

    Returns:
        `rows`, each with a `kind`: `same`, `changed`, `gone` (of the old only), `come` (of the new only) or `gap` (`num_same` equal lines
        that are not shown); with `old` and `new` (None where there is none): `number` of the line from 1, `pieces` of it as [text, whether
        it changed], and `left_out`, its characters that are not shown. `num_gone` and `num_come` count the lines compared that only
        one has, changed ones among both; `num_uncompared` the lines of both that were not compared; `num_unshown` the rows that were not.
    """
    first, second = old.split("\n"), new.split("\n")  # not splitlines: texts that differ in line ends alone do differ
    head, tail = _common_ends(first, second)
    middles = first[head : len(first) - tail], second[head : len(second) - tail]
    num_uncompared = sum(max(0, len(middle) - COMPARED_LINES) for middle in middles)
    aligned = _aligned(*(middle[:COMPARED_LINES] for middle in middles))
    pairs = [
        *((number, number) for number in range(head)),
        *((None if a is None else a + head, None if b is None else b + head) for a, b in aligned),
        *((len(first) - tail + number, len(second) - tail + number) for number in range(0 if num_uncompared else tail)),
    ]
    rows = list(_folded([_row(first, second, a, b) for a, b in _near_changes(first, second, pairs)], len(pairs)))
    changed = [pair for pair in aligned if not _is_same(first, second, _moved(pair, head))]
    return {
        "rows": rows[:SHOWN_LINES],
        "num_gone": sum(a is not None for a, _ in changed),
        "num_come": sum(b is not None for _, b in changed),
        "num_uncompared": num_uncompared,
        "num_unshown": max(0, len(rows) - SHOWN_LINES),
    }


_Pair = tuple[int | None, int | None]


def _moved(pair: _Pair, by: int) -> _Pair:
    return (None if pair[0] is None else pair[0] + by, None if pair[1] is None else pair[1] + by)


def _common_ends(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Return how many lines are equal at the beginning and, of the others, at the end."""
    most, head, tail = min(len(first), len(second)), 0, 0
    while head < most and first[head] == second[head]:
        head += 1
    while tail < most - head and first[-1 - tail] == second[-1 - tail]:
        tail += 1
    return head, tail


def _aligned(first: Sequence[str], second: Sequence[str]) -> list[_Pair]:
    """Return the lines side by side: (number in the first, number in the second), None where the other has none."""
    found: list[_Pair] = []
    for kind, a, a_end, b, b_end in difflib.SequenceMatcher(None, first, second).get_opcodes():
        if kind == "equal":
            found += zip(range(a, a_end), range(b, b_end), strict=True)
            continue
        paired = 0
        while kind == "replace" and a + paired < a_end and b + paired < b_end and _are_alike(first[a + paired], second[b + paired]):
            found.append((a + paired, b + paired))
            paired += 1
        found += [(number, None) for number in range(a + paired, a_end)]
        found += [(None, number) for number in range(b + paired, b_end)]
    return found


def _are_alike(one: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, one[:COMPARED_WORDS], other[:COMPARED_WORDS], autojunk=False)
    return matcher.quick_ratio() >= LEAST_ALIKE


def _is_same(first: Sequence[str], second: Sequence[str], pair: _Pair) -> bool:
    return pair[0] is not None and pair[1] is not None and first[pair[0]] == second[pair[1]]


def _near_changes(first: Sequence[str], second: Sequence[str], pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """Yield the pairs that differ, and the equal ones near them; (None, None) before and after whatever is left out."""
    changed = [at for at, pair in enumerate(pairs) if not _is_same(first, second, pair)]
    stretches: list[tuple[int, int]] = []
    for at in changed:
        begin, end = max(0, at - CONTEXT_LINES), min(len(pairs), at + CONTEXT_LINES + 1)
        if stretches and begin <= stretches[-1][1]:
            stretches[-1] = stretches[-1][0], end
        else:
            stretches.append((begin, end))
    for number, (begin, end) in enumerate(stretches):
        if number or begin:
            yield None, None
        yield from pairs[begin:end]
    if stretches and stretches[-1][1] < len(pairs):
        yield None, None


def _folded(rows: list[dict[str, Any]], num_pairs: int) -> Iterator[dict[str, Any]]:
    """Yield rows, the gaps with how many equal lines they stand for."""
    shown = sum(row["kind"] != "gap" for row in rows)
    numbers = [row["old"]["number"] if row["old"] else None for row in rows]
    left = num_pairs - shown
    for at, row in enumerate(rows):
        if row["kind"] != "gap":
            yield row
            continue
        before = next((number for number in reversed(numbers[:at]) if number is not None), 0)
        after = next((number for number in numbers[at + 1 :] if number is not None), None)
        inside = left if after is None else after - before - 1
        left -= inside
        yield {**row, "num_same": inside}


def _row(first: Sequence[str], second: Sequence[str], a: int | None, b: int | None) -> dict[str, Any]:
    if a is None and b is None:
        return {"kind": "gap", "old": None, "new": None}
    if a is None or b is None:
        kind, sides = ("come", (None, second[b])) if a is None and b is not None else ("gone", (first[a or 0], None))
        pieces: tuple[list[Piece], list[Piece]] = ([(sides[0] or "", False)], [(sides[1] or "", False)])
    else:
        kind = "same" if first[a] == second[b] else "changed"
        pieces = changed_pieces(first[a], second[b]) if kind == "changed" else ([(first[a], False)], [(second[b], False)])
    return {"kind": kind, "old": None if a is None else _line(a, pieces[0]), "new": None if b is None else _line(b, pieces[1])}


def _line(number: int, pieces: list[Piece]) -> dict[str, Any]:
    shown, left_out = _cut(pieces)
    return {"number": number + 1, "pieces": [list(piece) for piece in shown], "left_out": left_out}


def _cut(pieces: list[Piece]) -> tuple[list[Piece], int]:
    """Return the pieces within SHOWN_CHARACTERS, from shortly before the first change on, and how many characters that leaves out."""
    total, first, at = sum(len(text) for text, _ in pieces), 0, 0
    for text, is_changed in pieces:
        if is_changed:
            first = at
            break
        at += len(text)
    begin = 0 if total <= SHOWN_CHARACTERS or first < SHOWN_CHARACTERS - _BEFORE else first - _BEFORE
    shown: list[Piece] = []
    at = 0
    for text, is_changed in pieces:
        piece = text[max(0, begin - at) : max(0, begin + SHOWN_CHARACTERS - at)]
        shown += [(piece, is_changed)] if piece else []
        at += len(text)
    return shown, total - sum(len(text) for text, _ in shown)


def changed_pieces(old: str, new: str) -> tuple[list[Piece], list[Piece]]:
    """Return two lines as pieces, those marked that differ: by words, or of a long line from the first to the last difference."""
    words = _WORDS.findall(old), _WORDS.findall(new)
    if max(map(len, words)) > COMPARED_WORDS:
        head, tail = _common_ends(old, new)  # a text is a sequence of its characters
        return _ends_marked(old, head, tail), _ends_marked(new, head, tail)
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, a, a_end, b, b_end in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, of_side, (begin, end) in zip(sides, words, ((a, a_end), (b, b_end)), strict=True):
            if begin < end:
                side.append(("".join(of_side[begin:end]), kind != "equal"))
    return sides


def _ends_marked(text: str, head: int, tail: int) -> list[Piece]:
    borders = [0, head, len(text) - tail, len(text)]
    return [(text[begin:end], number == 1) for number, (begin, end) in enumerate(pairwise(borders)) if begin < end]
