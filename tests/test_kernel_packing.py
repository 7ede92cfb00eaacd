"""Packing against a plain list of (token, origin), and the law that spans cover every token once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.packing.roles import EOD, METADATA, NUM_DOCUMENT_ROLES, PAD, ROLES, TEXT
from starloom.tasks.kernels.packing.sequences import NOWHERE, Pieces, in_order, lay_out, runs

NUM_BYTES = np.array([1, 2, 3, 0, 5, 4, 7])
PAD_TOKEN = 6

piece = st.tuples(
    st.integers(0, 3),  # document
    st.integers(0, len(ROLES) - 2),
    st.integers(0, 50),  # first byte
    st.lists(st.integers(0, 5), max_size=12),
)


def _pieces(rows):
    ends = np.cumsum([len(tokens) for *_, tokens in rows], dtype=np.int64)
    pool = np.array([token for *_, tokens in rows for token in tokens], np.uint32)
    byte_start = [byte if role < NUM_DOCUMENT_ROLES else NOWHERE for _, role, byte, _ in rows]
    docs, roles = [doc for doc, *_ in rows], [role for _, role, *_ in rows]
    starts = np.concatenate([[0], ends])[:-1]
    return pool, Pieces(np.array(docs, np.int64), np.array(roles, np.int64), np.array(byte_start, np.int64), starts, ends)


def _origins(rows, length):
    """The obvious way: one (token, document, role, byte range) for each token, padded at the end."""
    out = []
    for doc, role, byte, tokens in rows:
        at = byte
        for token in tokens:
            is_document = role < NUM_DOCUMENT_ROLES
            end = at + int(NUM_BYTES[token])
            out.append((token, doc, role, at if is_document else None, end if is_document else None))
            at = end
    return out + [(PAD_TOKEN, NOWHERE, PAD, None, None)] * (-len(out) % length)


@given(st.lists(piece, max_size=12), st.integers(1, 9))
def test_every_token_is_placed_once_with_its_origin(rows, length):
    pool, pieces = _pieces(rows)
    layout = lay_out(pool, pieces, NUM_BYTES, length, PAD_TOKEN, np.uint16)
    expected = _origins(rows, length)
    assert layout.tokens.dtype == np.uint16
    assert layout.tokens.shape == (len(expected) // length, length)
    assert layout.tokens.reshape(-1).tolist() == [token for token, *_ in expected]
    covered = 0
    for sequence, start, end, doc, byte_start, byte_end, role in layout.spans.tolist():
        assert sequence * length + start == covered, "spans are ordered, disjoint and leave nothing out"
        assert 0 <= start < end <= length
        origins = expected[covered : covered + end - start]
        assert {(origin[1], origin[2]) for origin in origins} == {(doc, role)}
        assert (byte_start, byte_end) == ((NOWHERE,) * 2 if origins[0][3] is None else (origins[0][3], origins[-1][4]))
        covered += end - start
    assert covered == len(expected)


def test_pieces_that_continue_each_other_share_a_span_and_a_border_splits_it():
    pool, pieces = _pieces([(0, TEXT, 0, [0, 1]), (0, TEXT, 3, [2]), (0, TEXT, 9, [0]), (0, EOD, 0, [0])])
    layout = lay_out(pool, pieces, NUM_BYTES, 4, PAD_TOKEN, np.uint32)
    assert layout.spans.tolist() == [
        [0, 0, 3, 0, 0, 6, TEXT],
        [0, 3, 4, 0, 9, 10, TEXT],
        [1, 0, 1, 0, NOWHERE, NOWHERE, EOD],
        [1, 1, 4, NOWHERE, NOWHERE, NOWHERE, PAD],
    ]


def test_nothing_makes_no_sequence():
    pool, pieces = _pieces([])
    layout = lay_out(pool, pieces, NUM_BYTES, 4, PAD_TOKEN, np.uint16)
    assert layout.tokens.shape == (0, 4)
    assert len(layout.spans) == 0


def test_pieces_stand_by_document_then_by_group_and_empty_ones_vanish():
    docs = np.arange(3)
    metadata = runs(docs, METADATA, NOWHERE, np.array([0, 0, 2]), np.array([1, 0, 3]))
    text = runs(docs, TEXT, 0, np.array([10, 20, 30]), np.array([11, 21, 31]))
    ordered = in_order([metadata, text])
    rows = list(zip(ordered.doc.tolist(), ordered.role.tolist(), ordered.start.tolist(), strict=True))
    assert rows == [(0, METADATA, 0), (0, TEXT, 10), (1, TEXT, 20), (2, METADATA, 2), (2, TEXT, 30)]
