"""Word characters and their lower case against Python's own, for every code point."""

# ruff: noqa: RUF001 - letters that look alike are the point

import re
import sys

import pytest

from starloom.tasks.kernels.text.unicode_words import lower_case, word_characters


def test_the_table_is_what_python_says_of_every_character():
    is_word = re.compile(r"\w")
    table = word_characters().tolist()
    table += [0] * (sys.maxunicode + 1 - len(table))
    expected = [ord(lower_case(chr(point))) if is_word.match(chr(point)) else 0 for point in range(sys.maxunicode + 1)]
    assert table == expected
    assert table[ord("_")] == ord("_")
    assert table[-1] == 0


def test_characters_are_lowered_one_by_one_and_to_one():
    assert lower_case("ΣΑΣ Straße ẞ ǅ İI") == "σασ straße ß ǆ İi"
    assert [chr(point) for point in range(sys.maxunicode + 1) if len(chr(point).lower()) > 1] == ["İ"]


@pytest.mark.slow
def test_lower_case_moves_no_separator():
    """So that lowering the whole text first, as upstream does, splits where lowering each word does."""
    is_word = re.compile(r"\w")
    for point in range(sys.maxunicode + 1):
        assert bool(is_word.match(chr(point))) == bool(is_word.match(lower_case(chr(point))))
