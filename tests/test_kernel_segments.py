"""What permuting inside a packed sequence may not do: leave a gap, lose a token uncounted, or cut a character."""

import numpy as np
import pytest

from starloom.tasks.kernels.packing.fim import NUM_PIECES
from starloom.tasks.kernels.packing.roles import EOD, PREFIX, TEXT
from starloom.tasks.kernels.packing.segments import permute, texts_of
from starloom.tasks.kernels.packing.sequences import NOWHERE, Pieces, lay_out
from starloom.tasks.kernels.tokens.byte_level import TokenBytes

BYTES = [b"#", b"a", b"b", b"\xc3", b"\xa9", b"\xa9b", b"a\xf0\x9f", b"\x99\x82"]
SPELLED = TokenBytes(np.cumsum([0, *map(len, BYTES)]), np.frombuffer(b"".join(BYTES), np.uint8))


def _laid(documents, length):
    """Documents of tokens, an end of text after each, laid end to end."""
    rows, pool = [], []
    for doc, ids in enumerate(documents):
        rows += [(doc, TEXT, 0, len(pool), len(pool) + len(ids)), (doc, EOD, NOWHERE, len(pool) + len(ids), len(pool) + len(ids) + 1)]
        pool += [*ids, 0]
    pieces = Pieces(*np.array([row for row in rows if row[3] < row[4]], np.int64).T)
    return lay_out(np.array(pool, np.uint32), pieces, SPELLED.lengths, length, 0, np.uint16)


def _arranged(layout, texts, sizes):
    """Pieces of so many tokens for each text, the first tokens of all sequences again and again."""
    rows = [(span, PREFIX, 0, 0, size if not i else 0) for span, size in zip(texts.span, sizes, strict=True) for i in range(NUM_PIECES)]
    assert max(sizes) <= layout.tokens.size
    return Pieces(*np.array(rows, np.int64).reshape(-1, 5).T)


@pytest.mark.parametrize(
    ("sizes", "is_permuted", "num_dropped"),
    [
        ((3, 2), [False, False], 0),
        ((4, 2), [True, False], 0),
        ((4, 3), [True, True], 0),
        ((6, 3), [True, True], 2),
        ((6, 7), [True, True], 6),
    ],
)
def test_a_text_that_would_get_shorter_stays_and_what_has_no_room_is_counted(sizes, is_permuted, num_dropped):
    """Texts of four tokens and three, each with its end, in a sequence of nine; another sequence follows."""
    layout = _laid([[1, 2, 1, 2], [1, 1, 1], [2] * 8], 9)
    texts = texts_of(layout, np.arange(3), None, SPELLED)
    texts = texts.chosen(texts.doc < 2)
    permuted = permute(layout, texts, _arranged(layout, texts, sizes))
    assert permuted.is_permuted.tolist() == is_permuted
    assert permuted.num_dropped == num_dropped
    assert (permuted.pieces.stop - permuted.pieces.start).sum() == 18, "full sequences stay full"


@pytest.mark.parametrize(
    ("ids", "whole"),
    [
        ([1, 3, 5, 3, 4, 6, 7], [[1, 3, 5], [3, 4], []]),  # a, é in two tokens of which the second has a b, é, a🙂 in two
        ([1, 2, 3, 5, 1, 2], [[1, 2], [1, 2]]),
    ],
)
def test_texts_are_whole_characters_numbered_by_document(ids, whole):
    layout = _laid([ids], 3)
    texts = texts_of(layout, np.zeros(1, np.int64), None, SPELLED)
    laid = layout.tokens.reshape(-1)
    assert [laid[a:b].tolist() for a, b in zip(texts.stretches.first, texts.stretches.last, strict=True)] == whole
    assert texts.number.tolist() == texts.segment_number.tolist() == list(range(len(whole)))
    assert texts.stretches.is_start.tolist() == [True, *[False] * (len(whole) - 1)]
    assert texts.stretches.is_end.tolist() == [*[False] * (len(whole) - 1), True]
    spelled = b"".join(BYTES[i] for i in ids)
    for tokens, start, end in zip(whole, texts.byte_start, texts.byte_end, strict=True):
        assert spelled[start:end] == b"".join(BYTES[i] for i in tokens)
