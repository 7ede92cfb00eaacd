"""Places that the rules of quality_filter are about."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.queries.offending_places import _FINDERS, MOST_PLACES, offending_places
from starloom.tasks.kernels.text.encoded_data import encoded_data
from starloom.tasks.kernels.text.text_signals import text_signals

TEXTS = st.text("aé \n\r\x0b\u2028.9", max_size=40) | st.lists(
    st.sampled_from(["é = 1\n", "x\n", "\n", "A" * 70, "0x41,"]), max_size=12
).map("".join)
RULES = [*_FINDERS, "top-2gram-fraction", "duplicate-5gram-fraction", "comment-fraction", "no such rule"]


@given(TEXTS, st.sampled_from(RULES))
def test_a_place_lies_in_the_text_and_its_line_and_bytes_are_those_of_its_characters(text, rule):
    places = offending_places(text, rule)
    assert len(places) <= MOST_PLACES
    for place in places:
        part = text[place.start : place.end]
        assert text.encode()[place.byte_start : place.byte_end].decode() == part
        before = sum(len(line) for line in text.splitlines(keepends=True)[: place.line - 1])
        assert before <= place.start <= len(text)


@given(TEXTS)
def test_what_is_marked_is_what_was_measured(text):
    measured = text_signals(pa.chunked_array([[text]])) | encoded_data(pa.chunked_array([[text]]))
    for rule in ("max-line-length", "max-base64-length", "max-hex-length"):
        longest = max((place.end - place.start for place in offending_places(text, rule)), default=0)
        assert longest == measured[rule.replace("-", "_")][0]
    assert bool(offending_places(text, "duplicate-line-fraction")) == (measured["duplicate_line_fraction"][0] > 0)


@pytest.mark.parametrize(
    ("text", "rule", "told"),
    [
        ("a\nbb é\n", "max-line-length", [("bb é", 2, "4 characters in this line")]),
        ("a\nb\nc", "num-lines", [("c", 3, "line 3, the last")]),
        ("\n<?xml version='1'?>\n", "has-xml-declaration", [("<?xml version='1'?>", 2, "XML declaration")]),
        ("#\n# AUTO-generated\n", "is-generated", [("AUTO-generated", 2, "written by a program, it says")]),
        ("1\n2\n3\n4\n5\nauto-generated", "is-generated", []),
        ("a\n==== ==\nb", "alnum-fraction", [("\n==== ==\n", 1, "9 characters of neither letters nor digits")]),
        (" x\ny\n x \n", "duplicate-line-fraction", [("x", 1, "stands here 2 times"), ("x", 3, "stands here 2 times")]),
        ("one two, One Two", "top-2gram-fraction", [("one two", 1, "these 2 words stand here 2 times")]),
        ("x = '" + "\\u0041" * 9 + "'", "max-unicode-escape-length", [("\\u0041" * 9, 1, "54 characters of Unicode escapes")]),
        ("", "max-line-length", []),
        ("a", "visible-fraction", []),
    ],
)
def test_places_of_each_rule(text, rule, told):
    assert [(text[place.start : place.end], place.line, place.label) for place in offending_places(text, rule)] == told
