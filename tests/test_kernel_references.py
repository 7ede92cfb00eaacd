"""Licence texts that are contained in a text, against sets of its word 3-grams."""

from __future__ import annotations

import random

import numpy as np
import pytest
from identify.vendor.licenses import LICENSES

from starloom.tasks.kernels.licenses.references import MIN_CONTAINMENT, covering_references, license_words

TEXTS = {spdx_id: text for spdx_id, text in LICENSES if spdx_id in ("MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unlicense")}


def grams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


@pytest.mark.parametrize("spdx_id", TEXTS)
def test_a_copy_is_its_licence_whatever_its_lines_case_and_owner(spdx_id):
    words = TEXTS[spdx_id].split(" ")
    again = "\r\n  ".join(words).upper() + "\nCopyright (c) 1999 somebody else\n"
    found, covered = covering_references(license_words(again))
    assert found[0].spdx_id == spdx_id
    assert covered.mean() > 0.85  # the line of an owner may be cut in two


@pytest.mark.parametrize("spdx_id", TEXTS)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.85, 0.95])
def test_it_is_found_exactly_where_enough_of_its_3_grams_are_left(spdx_id, share):
    words = license_words(TEXTS[spdx_id])
    generator = random.Random(int(share * 100))
    start = generator.randrange(int(len(words) * (1 - share)) + 1)
    left = words[start : start + int(len(words) * share)]
    contained = len(grams(left) & grams(words)) / len(grams(words))
    assert (spdx_id in [each.spdx_id for each in covering_references(left)[0]]) == (contained >= MIN_CONTAINMENT)


def test_of_two_that_are_both_in_it_the_one_that_explains_more_stands_alone():
    assert [each.spdx_id for each in covering_references(license_words(TEXTS["BSD-3-Clause"]))[0]] == ["BSD-3-Clause"]
    assert [each.spdx_id for each in covering_references(license_words(TEXTS["BSD-2-Clause"]))[0]] == ["BSD-2-Clause"]


def test_a_file_may_hold_several_and_words_between_them_are_not_covered():
    between = ["nobody", "else", "said", "that"] * 5
    first, second = license_words(TEXTS["MIT"]), license_words(TEXTS["Zlib"])
    found, covered = covering_references([*first, *between, *second])
    assert sorted(each.spdx_id for each in found) == ["MIT", "Zlib"]
    middle = covered[len(first) + 2 : len(first) + len(between) - 2]
    assert not middle.any()


@pytest.mark.parametrize("words", [[], ["mit"], ["mit", "license"], ["not", "one", "of", "them"] * 99])
def test_in_what_holds_none_none_is_found(words):
    found, covered = covering_references(words)
    assert found == []
    assert covered.tolist() == [False] * len(words)
    assert covered.dtype == np.bool_
