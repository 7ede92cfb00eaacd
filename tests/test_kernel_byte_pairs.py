"""Byte-level BPE: ids equal those of `tokenizers` for any text and any vocabulary that the kernel takes."""

import itertools
import json
import pickle
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from starloom.tasks.kernels.tokens import byte_pairs
from starloom.tasks.kernels.tokens.byte_level import token_bytes, untrained
from starloom.tasks.kernels.tokens.byte_pairs import Encoder, _Cache, not_covered
from starloom.tasks.kernels.tokens.pre_tokens import GPT4_PATTERN
from starloom.tasks.kernels.tokens.special_tokens import STARCODER, STARCODER2
from tests.sizes import examples

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SPLITS = {
    "starcoder": untrained().pre_tokenizer,
    "gpt2": GPT2,
    "gpt4": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}
# fmt: off
ATOMS = [
    "def ", "return", "self", ".", "(", "):\n", "    ", " " * 16, " " * 40, "\t", "\n", "\r\n", "'s", "'ll", "''", '"',
    "0", "1", "2024", "٣", "²", "½", "e\u0301", "中文字", "中" * 9, "é", "👩‍👩‍👧", "\0", "\0" * 9, "a\0", "a\0\0",
    "\ufeff", "\u2028", "<|endoftext|>", "<fim_prefix>", "<file_sep>", "aaaa", "a" * 15, "a" * 16, "a" * 17, "ab" * 40,
    "=" * 79, "abcdefghijklmnop", "x" * 255, "x" * 256, "x" * 257, "xy" * 300, "z" * 1100,
]
# fmt: on
TEXTS = st.lists(st.one_of(st.sampled_from(ATOMS), st.characters(exclude_categories=["Cs"])), max_size=30).map("".join)
SAMPLE = "".join(ATOMS) * 3 + "def area(self):\n    return self.pi * 2 # aaaaaaa ababab 中文字中文\n" * 5


def train(split, vocab_size, specials, texts=(SAMPLE,)):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = SPLITS[split]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def arrays(texts):
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded], dtype=np.int64)])
    return offsets, np.frombuffer(b"".join(encoded), np.uint8)


def ids(encoder, texts):
    found = encoder.encode(*arrays(texts))
    assert (found.values.dtype, found.offsets.dtype) == (np.uint32, np.int64)
    return lists(found)


def lists(found):
    return [found.values[start:stop].tolist() for start, stop in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def expected(tokenizer, texts):
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


@pytest.fixture(scope="module", params=[(s, n) for s in SPLITS for n in (256, 300, 700)], ids=str)
def pair(request):
    split, extra = request.param
    tokenizer = train(split, extra + len(STARCODER2), STARCODER2 if extra == 300 else STARCODER)
    assert not_covered(tokenizer) is None
    return tokenizer, Encoder.of(tokenizer)


@settings(deadline=None, max_examples=examples(150))
@given(texts=st.lists(TEXTS, max_size=6))
def test_ids_are_those_of_tokenizers(pair, texts):
    tokenizer, encoder = pair
    assert ids(encoder, texts) == expected(tokenizer, texts)
    assert ids(encoder, texts) == expected(tokenizer, texts), "now that all is known"


@settings(deadline=None, max_examples=examples(60))
@given(
    sample=st.lists(TEXTS, min_size=1, max_size=4),
    size=st.integers(275, 600),
    texts=st.lists(TEXTS, max_size=4),
    split=st.sampled_from(sorted(SPLITS)),
)
def test_vocabularies_learnt_from_anything(sample, size, texts, split):
    tokenizer = train(split, size, STARCODER, sample)
    assert ids(Encoder.of(tokenizer), texts + sample) == expected(tokenizer, texts + sample)


@settings(deadline=None, max_examples=examples(60))
@given(data=st.data(), texts=st.lists(st.text("abc ", max_size=40), max_size=6))
def test_merges_in_any_order_even_where_two_make_the_same_token(data, texts):
    """No trainer orders merges so; a token may be made by a merge that ranks before its parts."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    parts = data.draw(st.lists(st.text("abc", min_size=2, max_size=4), unique=True, max_size=12))
    words = {*"abc", *parts}
    merges = [(word[:cut], word[cut:]) for word in parts for cut in range(1, len(word)) if word[:cut] in words and word[cut:] in words]
    merges = data.draw(st.permutations(merges))
    vocabulary = {token: i for i, token in enumerate([*sorted(alphabet), *parts])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = GPT2
    texts = [*texts, *(text.replace(" ", "") * 100 for text in texts)]
    assert ids(Encoder.of(tokenizer), texts) == expected(tokenizer, texts)


@pytest.fixture(scope="module")
def starcoder():
    tokenizer = train("starcoder", 2000, STARCODER, [Path(byte_pairs.__file__).read_text()])
    return tokenizer, Encoder.of(tokenizer)


def test_files_of_the_standard_library(starcoder):
    tokenizer, encoder = starcoder
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::4]
    texts = [file.read_text(errors="replace") for file in files]
    assert sum(map(len, texts)) > 1_000_000
    assert ids(encoder, texts) == expected(tokenizer, texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["x" * 1_000_000, "xy" * 500_000, " " * 1_000_000, "é" * 300_000, "9" * 300_000, "=-" * 300_000, "x1 " * 300_000]
)
def test_one_long_line(starcoder, line):
    tokenizer, encoder = starcoder
    assert ids(encoder, ["a", line, "b"]) == expected(tokenizer, ["a", line, "b"])


@settings(deadline=None, max_examples=examples(150))
@given(texts=st.lists(st.one_of(st.binary(max_size=90), TEXTS.map(str.encode)), max_size=4), behind=st.binary(min_size=80, max_size=80))
def test_any_bytes_are_spelt_and_what_lies_behind_them_does_not_count(starcoder, texts, behind):
    tokenizer, encoder = starcoder
    spelled, data = token_bytes(tokenizer), b"".join(texts)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)]).astype(np.int64)
    found = [encoder.encode(offsets, np.frombuffer(data + more, np.uint8)[: len(data)]) for more in (behind, bytes(80), b"\xf4\x7f" * 40)]
    assert all((other.values.tolist(), other.offsets.tolist()) == (found[0].values.tolist(), found[0].offsets.tolist()) for other in found)
    told = [b"".join(spelled.data[spelled.offsets[i] : spelled.offsets[i + 1]].tobytes() for i in ids) for ids in lists(found[0])]
    assert told == texts


def merge_plainly(word, tokenizer):
    """The definition of `pre_token_ids`: merge the adjacent pair of the least rank, the leftmost of them, until none merges."""
    model = json.loads(tokenizer.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    ((spelt, _),) = GPT2.pre_tokenize_str(word)  # one pre-token, its bytes spelt by characters
    symbols = list(spelt)
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
        if not pairs:
            return [model["vocab"][symbol] for symbol in symbols]
        _, at = min(pairs)
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]


def test_ids_are_those_of_merging_plainly_whether_new_or_cached_in_either_table_or_too_long():
    tokenizer = train("gpt2", 500, [])
    words = ["a" * n for n in (1, 2, 14, 15, 16, 30, 31, 253, 254, 255, 600)]
    words += ["return", "area", "abcdefghijklmnop", "xyxyx" * 3, "中文字" * 9, "é" * 127, "xy" * 127, "xyz" * 90]
    encoder = Encoder.of(tokenizer)
    for _ in range(2):  # merged, then looked up
        assert ids(encoder, words) == [merge_plainly(word, tokenizer) for word in words]


def test_slots_of_a_group_differ_in_two_bits_of_their_addresses():
    for _ in range(20):
        assert _Cache.empty(buckets=8, slots=8, text_bytes=300, num_ids=256).wide.ctypes.data % 256 == 0


def test_a_full_cache_changes_nothing(starcoder):
    tokenizer, encoder = starcoder
    small = Encoder(encoder.split, encoder.model, _Cache.empty(buckets=8, slots=8, text_bytes=300, num_ids=256))
    texts = [Path(byte_pairs.__file__).read_text(), *(f"{i:x}" + "long_name" * (i % 40) for i in range(3000))]
    for _ in range(2):
        assert ids(small, texts) == expected(tokenizer, texts)


def test_an_encoder_travels_without_its_cache_and_serves_threads(starcoder):
    tokenizer, encoder = starcoder
    texts = [f"def f{i}(): return 'x{i}'\n" * 50 for i in range(200)]
    ids(encoder, texts)
    assert len(pickle.dumps(encoder)) < 2_000_000
    copy = pickle.loads(pickle.dumps(encoder))
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda part: ids(copy, texts[part::8]) == expected(tokenizer, texts[part::8]), range(8)):
            assert found


def _with(**changes):
    def change(tokenizer):
        for name, value in changes.items():
            setattr(tokenizer, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_with(normalizer=normalizers.NFC()), "normalises text"),
        (_with(pre_tokenizer=None), "pre-tokeniser"),
        (_with(pre_tokenizer=pre_tokenizers.Whitespace()), "pre-tokeniser"),
        (_with(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "pre-tokeniser"),
        (_with(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)), "pre-tokeniser"),
        (_with(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), GPT2])), "pre-tokeniser"),
        (_with(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), GPT2])), "pre-tokeniser"),
        (lambda tokenizer: tokenizer.add_tokens([AddedToken("self", special=False)]), "'self'"),
        (lambda tokenizer: tokenizer.enable_truncation(5), "truncates"),
        (lambda tokenizer: tokenizer.enable_padding(), "pads"),
        (lambda tokenizer: setattr(tokenizer.model, "dropout", 0.1), "dropout"),
        (lambda tokenizer: setattr(tokenizer.model, "continuing_subword_prefix", "##"), "continuing_subword_prefix"),
        (lambda tokenizer: setattr(tokenizer.model, "end_of_word_suffix", "</w>"), "end_of_word_suffix"),
        (lambda tokenizer: setattr(tokenizer.model, "ignore_merges", True), "ignore_merges"),
        (_with(model=models.WordLevel({"a": 0}, unk_token="a")), "WordLevel"),
        (_with(model=models.BPE({"a": 0}, [])), "lacks 255 of the 256 bytes"),
    ],
)
def test_what_is_not_covered_is_said_and_refused(change, reason):
    tokenizer = train("starcoder", 280, STARCODER)
    assert not_covered(tokenizer) is None
    change(tokenizer)
    assert reason in (not_covered(tokenizer) or "")
    with pytest.raises(ValueError, match="not covered"):
        Encoder.of(tokenizer)


def test_what_changes_no_id_is_covered():
    tokenizer = train("gpt4", 300, STARCODER)
    split = pre_tokenizers.Split(Regex(GPT4_PATTERN), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )
    tokenizer.add_special_tokens([AddedToken("<extra>", lstrip=True, rstrip=True, special=True)])
    tokenizer.encode_special_tokens = True
    texts = ["a <extra> b", SAMPLE]
    assert ids(Encoder.of(tokenizer), texts) == expected(tokenizer, texts)


def test_no_texts_and_empty_ones(starcoder):
    assert ids(starcoder[1], []) == []
    assert ids(starcoder[1], ["", ""]) == [[], []]
