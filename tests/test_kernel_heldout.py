"""Losses joined to documents, against a loop over every token."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.packing.heldout import by_group, span_losses
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES, ROLES
from starloom.tasks.schemas import Spans

LENGTH = 6
TOKEN_NUM_BYTES = np.array([1, 3, 2, 0, 4])
GROUPS = {"d0": "Python", "d1": "C", "d2": "Python"}


@st.composite
def parts(draw):
    """A part: sequences cut into spans, some of them measured, some of whose tokens were predicted."""
    num_sequences = draw(st.integers(0, 4))
    spans, tokens = [], []
    for sequence in range(num_sequences):
        tokens.append(draw(st.lists(st.integers(0, 4), min_size=LENGTH, max_size=LENGTH)))
        borders = sorted({0, LENGTH, *draw(st.lists(st.integers(1, LENGTH - 1), max_size=3))})
        for start, end in pairwise(borders):
            role = draw(st.sampled_from(ROLES))
            doc_id = None if role == "pad" else draw(st.sampled_from(sorted(GROUPS)))
            spans.append({"sequence": sequence, "token_start": start, "token_end": end, "doc_id": doc_id, "role": role})
    rows = sorted(draw(st.sets(st.integers(0, num_sequences - 1)))) if num_sequences else []
    loss = st.none() | st.floats(0, 20, width=32)
    losses = [[None, *draw(st.lists(loss, min_size=LENGTH - 1, max_size=LENGTH - 1))] for _ in rows]
    return rows, losses, tokens, spans


def spans_table(spans):
    return Spans.conform(pa.Table.from_pylist([{"byte_start": None, "byte_end": None, **span} for span in spans], schema=Spans.SCHEMA))


def measured(part):
    rows, losses, tokens, spans = part
    return span_losses(
        np.array(rows, np.int64),
        pa.chunked_array([losses], pa.list_(pa.float32())),
        pa.chunked_array([[tokens[row] for row in rows]], pa.list_(pa.uint16())),
        spans_table(spans),
        TOKEN_NUM_BYTES,
    )


def plainly(all_parts):
    sums = defaultdict(lambda: [0.0, 0, 0])
    for rows, losses, tokens, spans in all_parts:
        for span in spans:
            if span["sequence"] in rows and span["role"] in DOCUMENT_ROLES:
                for at in range(span["token_start"], span["token_end"]):
                    loss = losses[rows.index(span["sequence"])][at]
                    if loss is not None:
                        for name in (None, GROUPS[span["doc_id"]]):
                            sums[name][0] += loss
                            sums[name][1] += 1
                            sums[name][2] += TOKEN_NUM_BYTES[tokens[span["sequence"]][at]]
    return sums


@given(st.lists(parts(), max_size=3))
def test_is_the_loop_over_every_token(all_parts):
    groups = by_group([measured(part) for part in all_parts], {"d0": "Python", "d2": "Python"}, "C")
    expected = plainly(all_parts)
    assert list(groups) == sorted(expected, key=lambda name: (name is not None, name))
    for name, (loss, num_tokens, num_bytes) in expected.items():
        assert groups[name].loss == pytest.approx(loss / num_tokens, abs=1e-9)
        assert groups[name].num_tokens == num_tokens
        assert groups[name].num_bytes == num_bytes
        if num_bytes:
            assert groups[name].bits_per_byte == pytest.approx(loss / math.log(2) / num_bytes, abs=1e-9)


def test_nothing_measured_is_no_group():
    assert by_group([], {}, "other") == {}


def test_refuses_losses_that_do_not_pair_with_tokens():
    with pytest.raises(ValueError, match="6 losses for 5 tokens"):
        measured(([0], [[None, *[1.0] * 5]], [[1] * 5], []))


@pytest.mark.parametrize(
    ("span", "tokens", "named"),
    [
        ({"token_start": 4, "token_end": 7}, [0] * LENGTH, "reaches over the ends"),
        ({"token_start": -1, "token_end": 3}, [0] * LENGTH, "reaches over the ends"),
        ({"token_start": 4, "token_end": 3}, [0] * LENGTH, "reaches over the ends"),
        ({"token_start": 0, "token_end": 6}, [0] * (LENGTH - 1) + [5], "the token 5, and the tokenizer has 5"),
    ],
)
def test_refuses_spans_and_tokens_of_something_else(span, tokens, named):
    with pytest.raises(ValueError, match=named):
        measured(([0], [[1.0] * LENGTH], [tokens], [{"sequence": 0, "doc_id": "d0", "role": ROLES[0], **span}]))


def test_a_span_whose_document_nobody_names_is_of_the_other_group():
    part = [0], [[1.0] * LENGTH], [[0] * LENGTH], [{"sequence": 0, "token_start": 0, "token_end": 6, "doc_id": None, "role": ROLES[0]}]
    assert by_group([measured(part)], GROUPS, "unknown")["unknown"].num_tokens == LENGTH
