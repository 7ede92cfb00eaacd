"""Encoded data is what the published expressions match."""

import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.text.encoded_data import PATTERNS, encoded_data
from tests.sizes import examples

HEX = ["41", "0x4f", "\\x7e", ",", ", ", " ", "\n", "\u3000", "é", "_", "x", "4", "0", "\\", "g", "ff,", "00 ", "\t"]
PIECES = st.lists(st.sampled_from(HEX), max_size=60).map("".join)
ESCAPES = st.lists(st.sampled_from(["\\u00e9", "\\uABCD" * 7, "\\u12g4", "\\", "u1234", "é", "\\u0041" * 9]), max_size=12).map("".join)
BASE64 = st.lists(st.sampled_from(["A" * 63, "b+/=\n", "Z" * 40, " ", "é", "9", "\r\n", "-"]), max_size=9).map("".join)
TEXTS = st.lists(st.lists(PIECES | ESCAPES | BASE64 | st.text(max_size=30), max_size=3).map("".join), max_size=4)


def plain(text: str) -> tuple[int, ...]:
    """What `re` matches."""
    matches = [[len(found.group()) for found in re.finditer(pattern, text)] for pattern in PATTERNS.values()]
    return (*(max(lengths, default=0) for lengths in matches), sum(map(sum, matches)))


def measured(texts: list[str]) -> list[tuple[int, ...]]:
    found = encoded_data(pa.chunked_array([pa.array(texts, pa.string())]))
    return [tuple(int(column[i]) for column in found.values()) for i in range(len(texts))]


@given(TEXTS)
@settings(max_examples=examples(400))
def test_the_matches_are_those_of_the_published_expressions(texts):
    assert measured(texts) == [plain(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 63,
        "A" * 64,
        ("A" * 70 + "\n") * 20,
        "0x41," * 8,
        "0x41, " * 20,  # a space after the comma ends the chain: the expression as published
        "41 42 43 44 45 46 47 48",
        "4142434445464748" * 4,
        'b"' + "\\x41" * 40 + '"',  # begins at the second, since nothing of a word stands before the first
        "a" + "\\x41" * 40,
        "\\u0041" * 7 + " " + "\\u0041" * 8,
        "\\\\u0041" * 9,
        "ab " * 7 + "ab\u3000\u2003" + "é",
        "é41 " * 9,
        "x = [" + ",".join(f"0x{n:02x}" for n in range(256)) + "]",
        " " * 500 + "10" + " " * 500,
    ],
)
def test_known_cases(text):
    assert measured([text, "x", text]) == [plain(text), plain("x"), plain(text)]
