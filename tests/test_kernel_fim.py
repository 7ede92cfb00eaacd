"""Fill-in-the-middle against the plain method (cut the text, encode three pieces), and the draws behind it."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers, trainers

from starloom.tasks.kernels.packing.fim import Sentinels, Stretches, arrange, cut
from starloom.tasks.kernels.packing.roles import MIDDLE, PREFIX, SENTINEL, SUFFIX
from starloom.tasks.kernels.packing.sequences import NOWHERE
from starloom.tasks.kernels.text.draws import draw, happens
from starloom.tasks.kernels.tokens.byte_level import Ragged, encode_texts, first_misspelt, heads, token_bytes, untrained
from starloom.tasks.kernels.tokens.byte_pairs import not_covered
from starloom.tasks.kernels.tokens.pre_tokens import GPT4_PATTERN
from starloom.tasks.kernels.tokens.special_tokens import STARCODER, STARCODER2, star_bucket
from tests.sizes import examples

CODE = "def area(self, r=1.5):\n    '''It's 3.14 * r²'''\n\n    return self.pi*r ** 2  # don't\r\n\tif x >= 10:\n" * 3
PROSE = "the 'll 're don't I've we'll naïve café déjà vu Straße, Ωmega aΩ; a\u0301b²½ x²y\n\n\n        return x\n" * 3


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
GPT4 = [pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
SPLITS = {"starcoder": untrained().pre_tokenizer, "gpt2": GPT2, "gpt4": pre_tokenizers.Sequence(GPT4)}


@pytest.fixture(scope="module", params=SPLITS)
def model(request):
    tokenizer = untrained()
    tokenizer.pre_tokenizer = SPLITS[request.param]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CODE, PROSE], trainer)
    tokenizer.encode_special_tokens = True
    assert not_covered(tokenizer) is None
    return tokenizer


# Text that looks like code, with what the patterns treat specially, and any Unicode between.
hostile = st.sampled_from(
    ["\n\n", "\t", "'s", "'ll", "'LL", "'\u017f", "'", ".x", "10", "12345", "²", "½", " ", "  ", "\r\n", "é", "ß", "中文", "👩‍👩‍👧",
     "🇨🇭", "\u202e", "\u00a0", "\u2003", "\x00", "\x85", "ﬁ", "İ", "Ω", "<fim_middle>", "<|endoftext|>", "\ufeff", "a\u0301"]
)  # fmt: skip
known = st.builds(lambda start, size: (CODE + PROSE)[start : start + size], st.integers(0, 600), st.integers(1, 25))
texts = st.lists(st.one_of(known, hostile, st.text(max_size=4)), max_size=16).map("".join)
draws64 = st.integers(0, 2**12 - 1).map(lambda place: place << 52)  # even over the places of a text, which large integers are not


def _plain_cuts(text, draw_1, draw_2):
    places = len(text) + 1
    low, high = sorted(((d >> 32) * places) >> 32 for d in (draw_1, draw_2))
    return text[:low], text[low:high], text[high:]


def _expanded(pieces, pool):
    """What the pieces of one document say, as (role, token ids) runs with empty ones left out."""
    runs = []
    for role, start, stop in zip(pieces.role.tolist(), pieces.start.tolist(), pieces.stop.tolist(), strict=True):
        ids = pool[start:stop].tolist()
        if ids and runs and runs[-1][0] == role:
            runs[-1][1].extend(ids)
        elif ids:
            runs.append((role, ids))
    return runs


def _cut_one(model, tokens, draws, *, has_joints):
    return cut(
        tokens.values, Stretches.whole(tokens, np.array([0])), token_bytes(model), np.array([draws], np.uint64), has_joints=has_joints
    )


def _rearranged(model, documents, draws, is_spm, *, has_joints):
    tokens = encode_texts(model, pa.array(documents, pa.string()))
    docs = np.arange(len(documents))
    stretches, draws = Stretches.whole(tokens, docs), np.array(draws, np.uint64).reshape(-1, 2)
    cuts = cut(tokens.values, stretches, token_bytes(model), draws, has_joints=has_joints)
    encoded = encode_texts(model, cuts.snippets)
    at = len(tokens.values) + len(encoded.values)
    pool = np.concatenate([tokens.values, encoded.values, np.array([1, 2, 3], np.uint32)])
    pieces = arrange(
        docs, np.zeros(len(docs), np.int64), cuts, encoded, len(tokens.values), np.array(is_spm, bool), Sentinels(at, at + 1, at + 2, eod=0)
    )
    return pool, pieces


@settings(max_examples=examples(400), deadline=None)
@given(text=texts, draw_1=draws64, draw_2=draws64, is_spm=st.booleans(), has_joints=st.booleans())
def test_the_same_tokens_as_encoding_three_pieces(model, text, draw_1, draw_2, is_spm, has_joints):
    prefix, middle, suffix = (model.encode(piece).ids for piece in _plain_cuts(text, draw_1, draw_2))
    expected = [(SENTINEL, [1, 3]), (SUFFIX, suffix), (SENTINEL, [2]), (PREFIX, prefix), (MIDDLE, middle)]
    if not is_spm:
        expected = [(SENTINEL, [1]), (PREFIX, prefix), (SENTINEL, [3]), (SUFFIX, suffix), (SENTINEL, [2]), (MIDDLE, middle)]
    merged = []
    for role, ids in ((role, list(ids)) for role, ids in expected if ids):
        if merged and merged[-1][0] == role:  # an empty prefix leaves two sentinels side by side
            merged[-1][1].extend(ids)
        else:
            merged.append((role, ids))
    pool, pieces = _rearranged(model, [text], [draw_1, draw_2], [is_spm], has_joints=has_joints)
    assert _expanded(pieces, pool) == merged


@settings(max_examples=examples(400), deadline=None)
@given(text=texts, ends=st.tuples(st.floats(0, 1), st.floats(0, 1)), draw_1=draws64, draw_2=draws64)
def test_a_piece_of_a_document_gives_what_its_own_text_gives(model, text, ends, draw_1, draw_2):
    """The tokens at a border inside a document are not those of the piece: `hello` cut in `he` and `llo`."""
    tokens, spelled = encode_texts(model, pa.array([text])), token_bytes(model)
    places = np.append(0, np.cumsum(spelled.lengths[tokens.values]))
    whole = [i for i, byte in enumerate(places.tolist()) if len(text.encode()[:byte].decode(errors="ignore").encode()) == byte]
    first, last = sorted(whole[int(end * (len(whole) - 1))] for end in ends)
    piece = text.encode()[places[first] : places[last]].decode()
    borders = (np.array([first]), np.array([last]), np.array([first == 0]), np.array([last == len(tokens.values)]))
    cuts = cut(tokens.values, Stretches(*borders), spelled, np.array([[draw_1, draw_2]], np.uint64), has_joints=True)
    snippets = [encode_texts(model, pa.array([text])).values.tolist() for text in cuts.snippets.to_pylist()]
    for part, expected in enumerate(_plain_cuts(piece, draw_1, draw_2)):
        kept = tokens.values[slice(*cuts.kept_tokens[0, part])].tolist()
        assert [*snippets[2 * part], *kept, *snippets[2 * part + 1]] == model.encode(expected).ids


@settings(deadline=None)
@given(documents=st.lists(texts, max_size=4), draws=st.lists(draws64, min_size=8, max_size=8))
def test_documents_do_not_disturb_each_other_and_bytes_add_up(model, documents, draws):
    draws = draws[: 2 * len(documents)]
    pool, pieces = _rearranged(model, documents, draws, [True] * len(documents), has_joints=True)
    lengths = token_bytes(model).lengths
    for doc, text in enumerate(documents):
        alone_pool, alone = _rearranged(model, [text], draws[2 * doc : 2 * doc + 2], [True], has_joints=True)
        mine = slice(18 * doc, 18 * doc + 18)
        together = [pool[a:b].tolist() for a, b in zip(pieces.start[mine], pieces.stop[mine], strict=True)]
        assert together == [alone_pool[a:b].tolist() for a, b in zip(alone.start, alone.stop, strict=True)]
        ranges = sorted(
            (int(byte), int(byte) + int(lengths[ids].sum()))
            for byte, ids in zip(pieces.byte_start[mine], together, strict=True)
            if byte != NOWHERE and ids
        )
        assert [start for start, _ in ranges] == [0, *(end for _, end in ranges)][: len(ranges)]
        assert (ranges[-1][1] if ranges else 0) == len(text.encode())


@pytest.mark.parametrize(("text", "first", "last"), [("'self x = self", "'", None), ("x = self\n\nself", None, "\n\n")])
def test_the_borders_of_a_piece_are_encoded_as_its_own_text(text, first, last):
    """A quote binds the first letter after it, and a line the last line feed before it; a piece without them does not know."""
    tokenizer = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["self\n\n"] * 9, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False))
    tokens, spelled = encode_texts(tokenizer, pa.array([text])), token_bytes(tokenizer)
    places = np.append(0, np.cumsum(spelled.lengths[tokens.values])).tolist()
    begin, end = len(first or ""), text.index(last) + len(last) if last else len(text)
    piece = Stretches(np.array([places.index(begin)]), np.array([places.index(end)]), np.array([not first]), np.array([not last]))
    own = tokens.values[piece.first[0] : piece.last[0]].tolist()
    assert own != tokenizer.encode(text[begin:end]).ids, "else this shows nothing"
    draws = np.array([[0, 2**64 - 1]], np.uint64)  # all of it is the middle
    cuts = cut(tokens.values, piece, spelled, draws, has_joints=True)
    before, after = (tokenizer.encode(snippet).ids for snippet in cuts.snippets.to_pylist()[2:4])
    kept = tokens.values[slice(*cuts.kept_tokens[0, 1])].tolist()
    assert kept
    assert [*before, *kept, *after] == tokenizer.encode(text[begin:end]).ids


@pytest.mark.parametrize("text", ["", "a", "é", "👩‍👩‍👧", "a\u0301", "ab"])
def test_every_pair_of_cuts_of_a_short_text(model, text):
    """Each place gets its turn, both ends and equal cuts included; no character is ever split."""
    places = len(text) + 1
    seen = set()
    for i in range(places):
        for j in range(places):
            draws = [((i << 32) // places + 1) << 32, ((j << 32) // places + 1) << 32]
            assert _plain_cuts(text, *draws)[0] == text[: min(i, j)]
            tokens = encode_texts(model, pa.array([text]))
            cuts = _cut_one(model, tokens, draws, has_joints=True)
            borders = cuts.bytes[0, :, 0].tolist()
            assert borders == [0, len(text[: min(i, j)].encode()), len(text[: max(i, j)].encode())]
            seen.add(tuple(borders))
    assert len(seen) == places * (places + 1) // 2


def test_only_a_few_bytes_beside_the_cuts_are_encoded_again(model):
    document = CODE * 1000
    tokens = encode_texts(model, pa.array([document]))
    draws = [2**62, 2**63]
    snippets = _cut_one(model, tokens, draws, has_joints=True).snippets
    assert sum(len(text) for text in snippets.to_pylist()) < 200
    everything = _cut_one(model, tokens, draws, has_joints=False).snippets
    assert "".join(everything.to_pylist()) == document


def test_a_joint_inside_a_token_is_refused(model):
    """Tokens of another tokenizer would give wrong pieces, not slower ones."""
    spelled = token_bytes(model)._replace(offsets=np.array([0, 3, 6]), data=np.frombuffer(b"a.ba.b", np.uint8))
    straddling = Ragged(np.array([0, 1], np.uint32), np.array([0, 2]))
    with pytest.raises(ValueError, match="never joins"):
        cut(straddling.values, Stretches.whole(straddling, np.array([0])), spelled, np.array([[2**63, 2**63]], np.uint64), has_joints=True)


@settings(deadline=None)
@given(text=texts, after=texts, place=st.integers(0, 10**6))
def test_tokens_spell_their_text(model, text, after, place):
    tokens, spelled = encode_texts(model, pa.array([text, after])), token_bytes(model)
    first, data = len(text.encode()), np.frombuffer((text + after).encode(), np.uint8)
    offsets = np.array([0, first, len(data)])
    assert first_misspelt(tokens, spelled, heads(spelled), offsets, data) == -1
    if len(data):
        other = data.copy()
        other[place % len(data)] ^= 0x41
        assert first_misspelt(tokens, spelled, heads(spelled), offsets, other) == int(place % len(data) >= first)
        shorter = np.array([0, max(first - 1, 0), len(data)])
        assert first_misspelt(tokens, spelled, heads(spelled), shorter, data) == (0 if first else -1)
    assert first_misspelt(tokens, spelled, heads(spelled), offsets + np.array([0, 0, 1]), np.append(data, np.uint8(65))) == 1


@settings(deadline=None)
@given(names=st.lists(st.text(), max_size=8), seed=st.integers(0, 2**63), shift=st.integers(0, 7))
def test_draws_depend_on_the_name_not_on_its_place(names, seed, shift):
    order = names[shift:] + names[:shift]
    drawn = dict(zip(order, draw(pa.array(order, pa.string()), seed, "p", 3).tolist(), strict=True))
    assert [drawn[name] for name in names] == draw(pa.array(names, pa.string()), seed, "p", 3).tolist()


def test_draws_are_even_and_differ_by_seed_and_purpose():
    names = pa.array([f"{i:032x}" for i in range(20_000)])
    one = draw(names, 0, "one", 2)
    for column in one.T:
        counts = np.bincount((column >> np.uint64(60)).astype(int), minlength=16)
        assert ((counts - 1250) ** 2 / 1250).sum() < 45, "chi-square over 15 degrees of freedom, p = 0.0001"
    for other in (draw(names, 1, "one")[:, 0], draw(names, 0, "two")[:, 0], one[:, 1]):
        assert abs(np.corrcoef(one[:, 0].astype(float), other.astype(float))[0, 1]) < 0.03
    assert draw(pa.array(["x"]), 0, "golden").tolist() == draw(pa.array(["x"]), 0, "golden", 2)[:, :1].tolist()


def test_chances_at_the_ends():
    draws = np.array([0, 2**63, 2**64 - 1], np.uint64)
    assert happens(draws, 0).tolist() == [False] * 3
    assert happens(draws, 1).tolist() == [True] * 3
    assert happens(draws, 0.5).tolist() == [True, False, False]


def test_special_tokens_are_starcoders():
    assert (len(STARCODER), len(STARCODER2)) == (19, 38)
    assert len(set(STARCODER)) == 19
    assert len(set(STARCODER2)) == 38
    assert STARCODER.index("<reponame>") == 18
    assert STARCODER2.index("<pr>") == 18
    assert STARCODER[:5] == STARCODER2[:5]


@pytest.mark.parametrize(
    ("stars", "bucket"),
    [
        (None, "0"),
        (0, "0"),
        (1, "1-10"),
        (10, "1-10"),
        (11, "10-100"),
        (100, "10-100"),
        (101, "100-1000"),
        (1000, "100-1000"),
        (1001, "1000+"),
    ],
)
def test_star_buckets(stars, bucket):
    assert star_bucket(stars) == bucket
