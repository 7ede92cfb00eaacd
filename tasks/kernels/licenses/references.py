"""Reference licence texts contained in a text, by containment of word 3-grams.

Containment is the share of a reference text's n-grams that occur in the text (Broder, "On the resemblance and containment of
documents", 1997), so one file may hold several licences. The references are the texts of choosealicense.com that the
library `identify` ships.
Guarantee: a copy of a reference text is recognised as that licence, whatever its line breaks, case or copyright line.
Cost: about 5 ms for 10 kB of text.
"""

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.licenses.phrases import WORD
from starloom.tasks.kernels.licenses.policy import canonical_id

_Uint64s = NDArray[np.uint64]
_Flags = NDArray[np.bool_]

MIN_CONTAINMENT = 0.8
_NGRAM = 3
_WINDOW = 16
"""N-grams that are looked at to tell where a text begins."""

_COPYRIGHT_LINE = re.compile(r"^[^\w\n]*(?:copyright|\(c\)|©).*$", re.IGNORECASE | re.MULTILINE)


def license_words(text: str) -> list[str]:
    """Return the words of a licence text in lower case, without its copyright lines."""
    return WORD.findall(without_copyright_lines(text))


def without_copyright_lines(text: str) -> str:
    """Return a licence text in lower case, its copyright lines empty."""
    return _COPYRIGHT_LINE.sub(" ", text.lower())


@dataclass(frozen=True)
class _References:
    """The reference texts as sets of n-grams over one vocabulary."""

    vocabulary: dict[str, int]
    """Word → number from 1."""
    ids: tuple[str, ...]
    grams: _Uint64s
    """Distinct n-grams of all texts, sorted, and one last that no text has [grams]."""
    member: _Flags
    """Which text has which n-gram [ids, grams]."""


class Reference(NamedTuple):
    """A licence whose reference text lies in a text."""

    spdx_id: str
    score: float
    """Percent of the reference's word 3-grams that are there."""
    first: int
    """Number of the first word that it covers."""


def covering_references(words: list[str]) -> tuple[list[Reference], _Flags]:
    """Return the licences whose reference text lies in `words`, best first, and which words they cover."""
    known = _references()
    covered = np.zeros(len(words), bool)
    grams = _grams(np.fromiter((known.vocabulary.get(word, 0) for word in words), np.uint64, len(words)))
    places = np.searchsorted(known.grams[:-1], grams)
    places[known.grams[places] != grams] = len(known.grams) - 1
    sizes = known.member.sum(axis=1)
    matched = known.member[:, np.unique(places)].sum(axis=1)
    fitting = np.flatnonzero(matched >= MIN_CONTAINMENT * sizes)
    found = []
    # Best first: the most that is there less what is missing, so that BSD-3-Clause comes before BSD-2-Clause where both fit.
    for row in sorted(fitting, key=lambda row: (sizes[row] - 2 * matched[row], row)):
        inside = known.member[row, places]
        if len(np.unique(places[inside & ~covered[: len(places)]])) >= sizes[row] / 2:  # else a better one has it in common
            found.append(Reference(known.ids[row], round(100 * int(matched[row]) / int(sizes[row]), 1), _begin(inside)))
            for shift in range(_NGRAM):
                covered[shift : shift + len(places)] |= inside
    return found, covered


def _begin(inside: _Flags) -> int:
    """Return where a reference text begins: the first n-gram of it that most of the next ones belong to as well."""
    dense = np.convolve(inside, np.ones(_WINDOW, np.int64))[_WINDOW - 1 :] >= _WINDOW // 2
    return int(np.argmax(inside[: len(dense)] & dense)) if (inside[: len(dense)] & dense).any() else int(np.argmax(inside))


@functools.cache
def _references() -> _References:
    from identify.vendor.licenses import LICENSES

    vocabulary: dict[str, int] = {}
    each = []
    for _, text in LICENSES:
        words = license_words(text)
        numbers = (vocabulary.setdefault(word, len(vocabulary) + 1) for word in words)
        each.append(_grams(np.fromiter(numbers, np.uint64, len(words))))
    grams = np.append(np.unique(np.concatenate(each)), np.uint64(2**64 - 1))
    member = np.stack([np.isin(grams, own) for own in each])
    return _References(vocabulary, tuple(canonical_id(spdx_id) or spdx_id for spdx_id, _ in LICENSES), grams, member)


def _grams(numbers: _Uint64s) -> _Uint64s:
    """Return word 3-grams as one number each: exact, as the vocabulary has less than 2**21 words."""
    count = max(len(numbers) - _NGRAM + 1, 0)
    first, second, third = (numbers[shift : shift + count] for shift in range(_NGRAM))
    packed: _Uint64s = (first << np.uint64(42)) | (second << np.uint64(21)) | third
    return packed
