"""Pre-tokens: cut where `tokenizers` cuts, for every code point and for hostile text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from starloom.tasks.kernels.tokens.pre_tokens import DIGIT, GPT4_PATTERN, LETTER, NUMBER, SPACE, character_classes, start_bits
from tests.sizes import examples

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
REFERENCES = {
    "gpt2": GPT2,
    "starcoder": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]),
    "gpt4": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}
CODE_POINTS = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]

# ruff: noqa: RUF001 - characters that look alike and are not
# fmt: off
ATOMS = [
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'Re", "'LL", "'ſ", "’s", "'", "''", "'r", "'l", " ", "  ",
    "   ", "\t", "\n", "\r\n", "\r", "\n\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\u2028", "\xa0", "\u180e", "\u200b",
    "\u3000", "a", "b", "word", "Z", "é", "ß", "中", "한", "ª", "1", "23", "4567", "٣", "²", "Ⅷ", "½", "𝟘", "௰",
    "\U00011de0", "e\u0301", "\u0301", "\u200d", "👩‍👩‍👧", "\0", "!", "(", "...", "==", "_", "#", "\ufeff", "😀",
    "𐐀", "\U000e0100", "\ufffd", "ﬆ", "K", "ŉ", "\u202e", "<|endoftext|>", "\U0010ffff", " " * 63, "a" * 61, "9" * 64,
    "é" * 31, "\u3000" * 21,
]
# fmt: on
TEXTS = st.lists(st.one_of(st.sampled_from(ATOMS), st.characters(exclude_categories=["Cs"])), max_size=40).map("".join)


def arrays(texts) -> tuple[np.ndarray, np.ndarray]:
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded], dtype=np.int64)])
    return offsets, np.frombuffer(b"".join(encoded), np.uint8)


def expected(split, texts):
    """Starts by `tokenizers`, whose byte-level pieces have one character a byte."""
    starts, lists, at = [], [0], 0
    for text in texts:
        for piece, _ in REFERENCES[split].pre_tokenize_str(text):
            starts.append(at)
            at += len(piece)
        lists.append(len(starts))
    return starts, lists


def pre_token_starts(offsets, data, split):
    """Where the bits are set: positions in data, and where those of each text begin among them."""
    bits = np.unpackbits(start_bits(offsets, data, split).view(np.uint8), bitorder="little")
    starts = np.flatnonzero(bits[: data.size])
    return starts, np.searchsorted(starts, offsets)


def check(split, texts):
    starts, lists = pre_token_starts(*arrays(texts), split)
    assert (starts.tolist(), lists.tolist()) == expected(split, texts)


@pytest.mark.parametrize("split", REFERENCES)
@settings(deadline=None, max_examples=examples(300))
@given(texts=st.lists(TEXTS, max_size=6))
def test_texts_are_cut_as_tokenizers_cuts_them(split, texts):
    check(split, texts)


@pytest.mark.slow
@pytest.mark.parametrize("split", REFERENCES)
@pytest.mark.parametrize("frame", ["a {}b", "1{}{}2", " {}  {}\n", "'{}e'l{}", "({}!{}{}\r\n{}"])
def test_each_kind_of_code_point_is_cut_as_tokenizers_cuts_it(split, frame):
    """In frames that tell the classes apart, all in one text; with "'" before, for letters that fold to ASCII."""
    check(split, ["\n.".join(frame.replace("{}", character) for character in CODE_POINTS[:0x2200] + CODE_POINTS[0x2200::499])])


@pytest.mark.slow
def test_classes_are_those_of_tokenizers_for_every_code_point():
    classes = character_classes()
    text = "".join(CODE_POINTS)
    for mark, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        kept = pre_tokenizers.Split(Regex(f"{pattern}+"), "removed").pre_tokenize_str(text)
        assert "".join(piece for piece, _ in kept) == "".join(c for c in CODE_POINTS if not classes[ord(c)] & mark)
    separated = "".join(f"\0{character}" for character in CODE_POINTS)
    digits = {piece for piece, _ in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(separated) if len(piece) == 1}
    assert digits - {"\0"} == {c for c in CODE_POINTS if classes[ord(c)] & DIGIT}


@pytest.mark.parametrize("split", REFERENCES)
@pytest.mark.parametrize("unit", ["'s", " ", "\u3000", "a", "7", "\r\n", "! ", "é'll", " \n"])
def test_every_phase_of_a_block_of_sixty_four_bytes(split, unit):
    check(split, ["x" * pad + unit * 70 + end for pad in range(66) for end in ("", "a", "8", "!", " ", "'s")])


@pytest.mark.parametrize("split", REFERENCES)
def test_borders_of_texts_are_never_looked_across(split):
    check(
        split,
        [text for pad in range(60, 68) for text in ("", "x" * pad, "'", "s", "'r", "e", " ", "a", "", "  ", "1", "\n", " ", "!", "é")],
    )


@pytest.mark.parametrize("split", REFERENCES)
@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
def test_bytes_that_are_no_text_are_cut_without_loss(split, data, cut):
    offsets = np.array([0, min(cut, len(data)), len(data)], np.int64)
    starts, lists = pre_token_starts(offsets, np.frombuffer(data, np.uint8), split)
    assert (np.diff(starts) > 0).all()
    assert {*starts.tolist(), len(data)} >= {*offsets.tolist()}
    assert lists.tolist() == np.searchsorted(starts, offsets).tolist()


def test_no_texts_and_empty_ones():
    assert [array.tolist() for array in pre_token_starts(*arrays([]), "starcoder")] == [[], [0]]
    assert [array.tolist() for array in pre_token_starts(*arrays(["", ""]), "starcoder")] == [[], [0, 0, 0]]
    assert start_bits(*arrays(["ab"]), "gpt2")[0] == 0b101, "where the last text ends is marked too"
