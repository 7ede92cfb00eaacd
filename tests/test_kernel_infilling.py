"""Cutting out a line, fitting both sides, and comparing answers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.programs.infilling import MAX_LINE_CHARS, cut_line, fit, is_exact_match

TEXTS = st.text(st.sampled_from("ab \t\r\n\u2028é"), max_size=40)
DRAWS = st.integers(0, 2**64 - 1).map(np.uint64)


@given(TEXTS, DRAWS)
def test_the_three_are_the_document(text, draw):
    infill = cut_line(text, draw)
    lines = text.split("\n")
    if infill is None:
        assert not any(line.strip() for line in lines[1:-1])
        return
    assert infill.prefix + infill.line + infill.suffix == text
    assert infill.line == lines[infill.line_number - 1] + "\n"
    assert infill.line.strip()
    assert infill.prefix.endswith("\n")
    assert 1 < infill.line_number < len(lines)


def test_every_line_that_may_be_chosen_is_chosen():
    draws = np.linspace(0, 2**64 - 2**12, 100).astype(np.uint64)
    text = "first\na\n\nb\n   \n" + "x" * (MAX_LINE_CHARS + 1) + "\nc\nlast"
    assert {cut_line(text, draw).line_number for draw in draws} == {2, 4, 7}


def test_the_first_and_the_last_line_are_never_chosen():
    assert cut_line("only\ntwo", np.uint64(0)) is None
    assert cut_line("", np.uint64(0)) is None


@given(st.lists(st.integers(0, 9), max_size=20), st.lists(st.integers(10, 19), max_size=20), st.integers(0, 50))
def test_fit_wastes_no_room_and_keeps_what_is_near(prefix, suffix, room_tokens):
    left, right = fit(prefix, suffix, room_tokens)
    assert prefix[len(prefix) - len(left) :] == left
    assert suffix[: len(right)] == right
    assert len(left) + len(right) == min(room_tokens, len(prefix) + len(suffix))
    if len(left) < len(prefix) and len(right) < len(suffix):
        assert abs(len(left) - len(right)) <= 1
    if len(left) < len(prefix):
        assert len(left) >= room_tokens // 2


def test_exact_match_ignores_white_space_around_only():
    assert is_exact_match("  return x", "return x\n")
    assert not is_exact_match("return  x", "return x")
    assert not is_exact_match("", "return x")
