"""Packing with every knob: nothing lost unaccounted, contexts of several files, fill-in-the-middle after packing told plainly."""

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Model
from tokenizers import pre_tokenizers, trainers

from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES
from starloom.tasks.kernels.packing.taking import further
from starloom.tasks.kernels.text.draws import draw, happens
from starloom.tasks.kernels.tokens.byte_level import token_bytes, untrained
from starloom.tasks.kernels.tokens.special_tokens import STARCODER2
from starloom.tasks.pack_fim import Mixture, PackFim
from starloom.tasks.schemas import Tokenizer, Tokens
from tests.packing import pack
from tests.sizes import examples

EOD, PREFIX, MIDDLE, SUFFIX, PAD, REPO_NAME, FILE_SEP = range(7)
LANGUAGES = ("Python", "C", "JSON", None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=list(STARCODER2), initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([Path(__file__).read_text(encoding="utf-8") + "naïve 中文 日本語 " * 40], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    model.save(str(folder / "tokenizer.json"))
    return Tokenizer.of(folder)


@pytest.fixture(scope="module")
def model(tokenizer):
    loaded = Model.from_file(str(tokenizer.path / "tokenizer.json"))
    loaded.encode_special_tokens = True
    return loaded


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime.alone(tmp_path_factory.mktemp("scratch"))


def _tokens(model, repositories, *, is_v2=True, is_named=True):
    """Documents of repositories, each a list of texts: with StarCoder2's template one context each, else each file alone."""
    rows = []
    for r, texts in enumerate(repositories):
        for i, text in enumerate(texts):
            doc_id = hashlib.md5(f"{r} {i}".encode()).hexdigest()
            name = [REPO_NAME, *model.encode(f"o/r{r}").ids] if is_named and not i else []
            path = model.encode(f"f{i}.py\n").ids if is_named else []
            rows.append(
                {"doc_id": doc_id, "source": f"s{r % 2}", "repo": f"o/r{r}", "language": LANGUAGES[(r + i) % 4], "kind": "code",
                 "context": f"s/o/r{r}" if is_v2 else doc_id, "metadata": [*name, FILE_SEP, *path] if is_v2 else [],
                 "tokens": model.encode(text).ids}
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=Tokens.SCHEMA)


def _pack(table, tokenizer, runtime, **knobs):
    cfg = PackFim(**{"sequence_length": 16, "heldout_fraction": 0.2, **knobs})
    runtime.counts.clear()
    packed, spans = pack(Tokens.of(table), tokenizer, cfg, runtime)
    return packed.read().to_pylist(), spans.read().to_pylist(), dict(runtime.counts)


snippet = st.sampled_from(
    ["def f(self):\n    return 1\n", "naïve ", "中文日本語", "👩‍👩‍👧", "\x00\r\n", "<file_sep>", "x = 10", "", "é", "   "]
)
repositories = st.lists(st.lists(st.lists(snippet, max_size=6).map("".join), min_size=1, max_size=4), max_size=5)
knobs = st.fixed_dictionaries(
    {
        "sequence_length": st.sampled_from([1, 2, 5, 16, 40]),
        "packing": st.sampled_from(["concatenate", "best_fit"]),
        "fim_level": st.sampled_from(["document", "context"]),
        "fim_rate": st.sampled_from([0, 0.5, 1]),
        "fragment_fim_rate": st.sampled_from([0.5, 1]),
        "epochs": st.integers(1, 3),
        "mixture": st.sampled_from([{}, {"by": "language", "weights": {"Python": 0.5, "C": 2.25, "JSON": 0}}]),
    }
)


@settings(max_examples=examples(200))
@given(repositories=repositories, knobs=knobs, is_v2=st.booleans(), is_named=st.booleans())
@pytest.mark.slow
def test_every_token_is_packed_or_counted_as_dropped(tokenizer, model, runtime, repositories, knobs, is_v2, is_named):
    table = _tokens(model, repositories, is_v2=is_v2, is_named=is_named)
    packed, spans, notes = _pack(table, tokenizer, runtime, **knobs)
    length = knobs["sequence_length"]
    rows = {row["doc_id"]: row for row in table.to_pylist()}
    assert all(len(row["tokens"]) == length for row in packed)
    by_role = Counter()
    covered = {doc_id: Counter() for doc_id in rows}
    offsets, data = token_bytes(model)
    texts = {doc_id: b"".join(data[offsets[i] : offsets[i + 1]].tobytes() for i in row["tokens"]) for doc_id, row in rows.items()}
    for span in spans:
        ids = packed[span["sequence"]]["tokens"][span["token_start"] : span["token_end"]]
        by_role[span["role"]] += len(ids)
        if span["role"] in DOCUMENT_ROLES:
            spelled = b"".join(data[offsets[i] : offsets[i + 1]].tobytes() for i in ids)
            assert texts[span["doc_id"]][span["byte_start"] : span["byte_end"]] == spelled
            covered[span["doc_id"]].update(range(span["byte_start"], span["byte_end"]))
    # What is in the sequences is what was noted, counted anew from the tables.
    assert notes["pad_tokens"] == by_role["pad"] == sum(row["tokens"].count(PAD) for row in packed)
    assert notes["tokens_packed"] == sum(by_role.values()) - by_role["pad"]
    assert notes["tokens_in"] == sum(len(row["tokens"]) + len(row["metadata"]) for row in rows.values())
    given_tokens = notes["tokens_in"] + notes["tokens_repeated"] + notes["tokens_of_template"] + notes["tokens_of_resplitting"]
    assert given_tokens == notes["tokens_packed"] + notes["tokens_dropped_by_mixture"] + notes["tokens_dropped_for_room"]
    # Every byte once in each copy, unless it was cut off.
    copies = dict.fromkeys(rows, 0)
    for doc_id, row in rows.items():
        counts = {covered[doc_id][byte] for byte in range(len(texts[doc_id]))}
        weight = dict(knobs["mixture"].get("weights", {})).get(row["language"], 1) * knobs["epochs"]
        copies[doc_id] = max(counts, default=0)
        assert copies[doc_id] <= max(1, np.ceil(weight)), "once if held out"
        if not notes["tokens_dropped_for_room"]:
            assert len(counts) <= 1
            assert not counts or copies[doc_id] >= np.floor(weight) or copies[doc_id] == 1
    if not notes["tokens_dropped_for_room"]:
        assert by_role["eod"] == notes["contexts"]
        assert notes["tokens_of_template"] == by_role["eod"] + by_role["sentinel"]
        assert by_role["sentinel"] == 3 * notes["fim_texts"]
    # Padding ends the last sequence of a split.
    for row, after in itertools.pairwise([*packed, {"split": None}]):
        assert PAD not in row["tokens"] or row["split"] != after["split"]


@pytest.mark.slow
@settings(max_examples=examples(100))
@given(repositories=repositories, knobs=knobs, is_v2=st.booleans())
def test_copies_are_numbered_as_they_are_taken(tokenizer, model, runtime, repositories, knobs, is_v2):
    table = _tokens(model, repositories, is_v2=is_v2)
    languages = dict(zip(table["doc_id"].to_pylist(), table["language"].to_pylist(), strict=True))
    sizes = {row["doc_id"]: len(model.decode(row["tokens"], skip_special_tokens=False).encode()) for row in table.to_pylist()}
    _, plain, _ = _pack(table, tokenizer, runtime, **{**knobs, "fim_rate": 0})
    _, spans, _ = _pack(table, tokenizer, runtime, **knobs)
    for span in (*plain, *spans):
        assert span["language"] == languages.get(span["doc_id"])
        assert (span["copy"] is None) == (span["role"] == "pad")
    whole, order = {}, {}
    for span in plain:
        if span["role"] == "text":
            whole.setdefault((span["doc_id"], span["copy"]), []).append((span["byte_start"], span["byte_end"]))
            order.setdefault(span["doc_id"], []).append(span["copy"])
    for (doc_id, _), ranges in whole.items():
        ranges.sort()
        assert [start for start, _ in ranges] + [sizes[doc_id]] == [0, *(end for _, end in ranges)], "every byte once in each copy"
    for copies in order.values():
        assert set(copies) == set(range(max(copies) + 1))
        assert copies == sorted(copies) or knobs["packing"] == "best_fit", "laid in the order of taking"
    if knobs["fim_level"] == "context":  # which moves nothing to another sequence, though it may cut a copy off
        assert {(s["sequence"], s["doc_id"], s["copy"]) for s in spans} <= {(s["sequence"], s["doc_id"], s["copy"]) for s in plain}
    held = Counter(
        (s["doc_id"], s["copy"], byte) for s in spans if s["role"] in DOCUMENT_ROLES for byte in range(s["byte_start"], s["byte_end"])
    )
    assert set(held.values()) <= {1}
    assert {(doc_id, copy) for doc_id, copy, _ in held} <= whole.keys()


def _borders(row, spans, contexts):
    """Where another context begins, told from the spans."""
    found, before, ended = [], None, False
    for span in spans:
        context = contexts.get(span["doc_id"])
        if not found or context != before or ended:
            found.append(span["token_start"])
        before, ended = context, span["role"] == "eod"
    return found


@settings(max_examples=examples(100))
@given(repositories=repositories, knobs=knobs.map(lambda knobs: {**knobs, "epochs": 1, "mixture": {}}), is_v2=st.booleans())
def test_starts_are_where_another_context_begins(tokenizer, model, runtime, repositories, knobs, is_v2):
    table = _tokens(model, repositories, is_v2=is_v2)
    packed, spans, _ = _pack(table, tokenizer, runtime, **knobs)
    contexts = dict(zip(table["doc_id"].to_pylist(), table["context"].to_pylist(), strict=True))
    for row in packed:
        assert row["starts"] == _borders(row, [s for s in spans if s["sequence"] == row["sequence"]], contexts)


def _permuted(model, ids, draws, spm_rate=0.5):
    """The plain method: decode, cut by characters, encode three pieces."""
    text = model.decode(ids, skip_special_tokens=False)
    low, high = sorted(((int(d) >> 32) * (len(text) + 1)) >> 32 for d in draws[2:])
    prefix, middle, suffix = (model.encode(piece).ids for piece in (text[:low], text[low:high], text[high:]))
    if happens(draws[1:2], spm_rate)[0]:
        return [PREFIX, SUFFIX, *suffix, MIDDLE, *prefix, *middle]
    return [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle]


def _draws(name, purpose, num, piece=0):
    return further(draw(pa.array([name]), 0, f"{purpose}, epoch 0", num), np.array([piece]))[0]


def _characters(model, ids):
    """(part of a character, whole characters, part of a character), as runs of tokens."""
    offsets, data = token_bytes(model)
    spelled = [data[offsets[i] : offsets[i + 1]].tobytes() for i in ids]
    begin, end = 0, len(ids)
    while begin < end and spelled[begin][0] & 0xC0 == 0x80:
        begin += 1
    while end > begin:
        try:
            b"".join(spelled[begin:end]).decode()
        except UnicodeDecodeError:
            end -= 1
        else:
            break
    return ids[:begin], ids[begin:end], ids[end:]


def _numbers(spans, contexts):
    """Which piece of its document and which segment of its context each text is, in the order of reading."""
    pieces, segments, texts = Counter(), {}, {}
    order = {doc_id: place for place, doc_id in enumerate(contexts)}
    for span in sorted((s for s in spans if s["role"] == "text"), key=lambda s: (order[s["doc_id"]], s["byte_start"])):
        mine = segments.setdefault(contexts[span["doc_id"]], {})
        number = mine.setdefault(span["sequence"], len(mine))
        texts[span["sequence"], span["token_start"]] = (pieces[span["doc_id"]], number)
        pieces[span["doc_id"]] += 1
    return texts


def _after_packing(model, packed, spans, contexts, rate, fragment_rate):
    """Megatron-LM's way, sequence by sequence: the tokens that each should have."""
    numbers, expected = _numbers(spans, contexts), []
    for row in packed:
        out, mine = [], [s for s in spans if s["sequence"] == row["sequence"]]
        separated = {contexts.get(s["doc_id"]) for s in mine if FILE_SEP in row["tokens"][s["token_start"] : s["token_end"]]}
        for span in mine:
            ids, doc_id = row["tokens"][span["token_start"] : span["token_end"]], span["doc_id"]
            if span["role"] == "text" and row["split"] == "train":
                piece, segment = numbers[row["sequence"], span["token_start"]]
                draws = _draws(doc_id, "fim", 4, piece)
                is_fim = happens(draws[:1], rate)[0]
                if contexts[doc_id] in separated:
                    context_draws = _draws(contexts[doc_id], "fim of context", 1, segment)
                    is_fim = happens(context_draws, rate)[0] and happens(draws[:1], fragment_rate)[0]
                before, whole, after = _characters(model, ids)
                permuted = _permuted(model, whole, draws)
                ids = [*before, *permuted, *after] if is_fim and whole and len(permuted) >= len(whole) else ids
            out += ids if span["role"] != "pad" else []
        expected.append((out + [PAD] * len(row["tokens"]))[: len(row["tokens"])])
    return expected


@settings(max_examples=examples(100))
@given(
    repositories=repositories,
    length=st.sampled_from([5, 16, 40]),
    packing=st.sampled_from(["concatenate", "best_fit"]),
    rates=st.sampled_from([(1, 1), (0.7, 0.7)]),
    is_v2=st.booleans(),
)
@pytest.mark.slow
def test_after_packing_each_segment_is_permuted_as_megatron_does(tokenizer, model, runtime, repositories, length, packing, rates, is_v2):
    table = _tokens(model, [[text * 3 for text in texts] for texts in repositories], is_v2=is_v2)
    same = {"sequence_length": length, "packing": packing, "fim_level": "context"}
    plain, spans, _ = _pack(table, tokenizer, runtime, **same, fim_rate=0)
    packed, *_ = _pack(table, tokenizer, runtime, **same, fim_rate=rates[0], fragment_fim_rate=rates[1])
    contexts = dict(zip(table["doc_id"].to_pylist(), table["context"].to_pylist(), strict=True))
    split = {span["doc_id"]: plain[span["sequence"]]["split"] for span in spans if span["doc_id"]}
    trained = {contexts[doc_id] for doc_id, name in split.items() if name == "train"}
    contexts |= {i: f"{contexts[i]}/heldout" for i, name in split.items() if name == "heldout" and contexts[i] in trained}
    assert [row["tokens"] for row in packed] == _after_packing(model, plain, spans, contexts, *rates)


def test_files_of_a_context_are_permuted_each_by_itself_between_their_separators(tokenizer, model, runtime):
    texts = [[f"def f{i}(x):\n    return x\n" for i in range(3)], ["y = 1\n"], ["", "z = 2\n"]]
    table = _tokens(model, texts)
    packed, *_ = _pack(table, tokenizer, runtime, sequence_length=1000, heldout_fraction=0, fim_rate=1, fragment_fim_rate=1, seed=0)
    stream = [i for i in packed[0]["tokens"] if i != PAD]
    expected = {}
    for row in table.to_pylist():
        text = _permuted(model, row["tokens"], _draws(row["doc_id"], "fim", 4)) if row["tokens"] else []
        expected[row["context"]] = [*expected.get(row["context"], []), *row["metadata"], *text]
    contexts = [[*group, EOD] for is_end, group in itertools.groupby(stream, lambda i: i == EOD) if not is_end]
    assert sorted(contexts) == sorted([*ids, EOD] for ids in expected.values())
    assert stream.count(FILE_SEP) == 6, "none is lost, not even before an empty file"
    assert stream.count(EOD) == 3


def test_a_context_is_drawn_first_and_then_its_files(tokenizer, model, runtime):
    table = _tokens(model, [["some text", "and more"]] * 2000)
    _, spans, notes = _pack(table, tokenizer, runtime, sequence_length=4000, heldout_fraction=0, fim_rate=0.5, fragment_fim_rate=0.4)
    contexts = dict(zip(table["doc_id"].to_pylist(), table["context"].to_pylist(), strict=True))
    permuted = {span["doc_id"] for span in spans if span["role"] == "sentinel"}
    per_context = Counter(Counter(contexts[doc_id] for doc_id in permuted).values())
    assert notes["fim_texts"] == len(permuted)
    assert abs(len(permuted) - 800) < 140, "4000 files, 0.5 of the contexts, 0.4 of their files; four standard deviations here and below"
    assert abs(per_context[2] - 160) < 50, "both: 0.5 · 0.4² of 2000, where independent files would give 80"


def test_the_name_of_a_repository_stays_whichever_of_its_files_are_taken(tokenizer, model, runtime):
    table = _tokens(model, [["a = 1\n", "b = 2\n", "c = 3\n", "d = 4\n"]])  # Python, C, JSON, none
    mixture = {"by": "language", "weights": {"Python": 0, "C": 2}}
    packed, spans, notes = _pack(table, tokenizer, runtime, sequence_length=200, heldout_fraction=0, fim_rate=0, mixture=mixture)
    first, second = packed[0]["starts"][1:3]
    name = [REPO_NAME, *model.encode("o/r0").ids]
    files = {i: [FILE_SEP, *model.encode(f"f{i}.py\n").ids, *model.encode(f"{'abcd'[i]} = {i + 1}\n").ids] for i in range(4)}
    assert packed[0]["tokens"][:first] == [*name, *files[1], *files[2], *files[3], EOD]
    assert packed[0]["tokens"][first:second] == [*name, *files[1], EOD]
    assert spans[0]["doc_id"] == table["doc_id"][1].as_py(), "named by the first file that is there"
    assert notes["documents_dropped_by_mixture"] == 1
    assert notes["tokens_dropped_by_mixture"] == len(files[0])
    assert notes["tokens_repeated"] == len(name) + len(files[1])


def _taken(table, tokenizer, runtime, **knobs):
    """How often each document's text stands in the sequences, told by its end of text."""
    _, spans, _ = _pack(table, tokenizer, runtime, **knobs)
    return Counter(span["doc_id"] for span in spans if span["role"] == "eod")


@pytest.mark.parametrize("by", ["language", "source"])
def test_documents_are_taken_by_weight(tokenizer, model, runtime, by):
    table = _tokens(model, [[f"text {r}"] for r in range(1200)], is_v2=False)
    weights = {"Python": 0.25, "C": 2.5, "JSON": 0} if by == "language" else {"s0": 0.25, "s1": 2.5}
    same = {"heldout_fraction": 0, "fim_rate": 0}
    counts = _taken(table, tokenizer, runtime, **same, mixture={"by": by, "weights": weights})
    names = dict(zip(table["doc_id"].to_pylist(), table[by].to_pylist(), strict=True))
    for name, weight in [*weights.items(), *([(None, 1)] if by == "language" else [])]:
        mine = [counts[doc_id] for doc_id in names if names[doc_id] == name]
        assert set(mine) == {int(np.floor(weight)), int(np.ceil(weight))}
        assert abs(np.mean(mine) - weight) < 4 * 0.5 / np.sqrt(len(mine))
    more = _taken(
        table, tokenizer, runtime, **same, mixture={"by": by, "weights": {name: weight + 0.3 for name, weight in weights.items()}}
    )
    assert all(more[doc_id] >= counts[doc_id] for doc_id in names), "more weight takes no copy away"
    assert set(_taken(table, tokenizer, runtime, **same, epochs=3).values()) == {3}


def test_each_epoch_has_its_own_order_and_cuts(tokenizer, model, runtime):
    table = _tokens(model, [[f"def f{r}(x):\n    return x\n" * 3] for r in range(200)], is_v2=False)
    same = {"sequence_length": 50, "heldout_fraction": 0.1}
    packed, spans, _ = _pack(table, tokenizer, runtime, **same, epochs=3)
    ends = [span["doc_id"] for span in spans if span["role"] == "eod" and packed[span["sequence"]]["split"] == "train"]
    num = len(ends) // 3
    orders = [ends[:num], ends[num : 2 * num], ends[2 * num :]]
    assert set(orders[0]) == set(orders[1]) == set(orders[2])
    assert orders[0] != orders[1] != orders[2]
    assert all(a != b for a, b in itertools.pairwise(ends))
    fates = {doc_id: [] for doc_id in ends}
    for is_end, group in itertools.groupby((s for s in spans if s["doc_id"] in fates), lambda span: span["role"] == "eod"):
        if not is_end:
            told = list(group)
            fates[told[0]["doc_id"]].append(
                tuple((s["role"], s["byte_start"], s["byte_end"]) for s in told if s["role"] in DOCUMENT_ROLES[1:])
            )
    is_fim = np.array([[bool(fate) for fate in told] for told in fates.values()])
    assert abs(np.corrcoef(is_fim.T)[0, 1]) < 0.3
    twice = [told for told in fates.values() if sum(map(bool, told)) > 1]
    assert sum(len({fate for fate in told if fate}) == sum(map(bool, told)) for told in twice) > 0.9 * len(twice)
    once, spans_once, _ = _pack(table, tokenizer, runtime, **same)
    both = list(zip(packed, once, strict=False))[: len([row for row in once if row["split"] == "train"]) - 1]
    assert all(a["tokens"] == b["tokens"] for a, b in both), "the first epoch is as if there were no other"
    assert {s["doc_id"] for s in spans_once} == {s["doc_id"] for s in spans}


def test_best_fit_splits_few_documents_and_keeps_what_each_of_them_is(tokenizer, model, runtime):
    rng = np.random.default_rng(1)
    table = _tokens(model, [["x = 1\n" * int(size)] for size in rng.lognormal(2, 1, 400)], is_v2=False)
    split, fates = {}, {}
    for packing in ("concatenate", "best_fit"):
        _, spans, _ = _pack(table, tokenizer, runtime, sequence_length=256, packing=packing)
        in_sequences = Counter(doc_id for doc_id, _ in {(s["doc_id"], s["sequence"]) for s in spans if s["doc_id"]})
        sizes = Counter()
        for span in spans:
            sizes[span["doc_id"]] += span["token_end"] - span["token_start"]
        split[packing] = sum(in_sequences[doc_id] > 1 for doc_id, size in sizes.items() if size <= 256)
        fates[packing] = {(s["doc_id"], s["role"]) for s in spans if s["role"] != "pad"}
    assert split["best_fit"] < split["concatenate"] / 10
    assert fates["best_fit"] == fates["concatenate"]


@pytest.mark.parametrize("fim_level", ["document", "context"])
def test_heldout_is_by_repository_whatever_the_knobs_so_no_cluster_straddles_the_splits(tokenizer, model, runtime, fim_level):
    """After near_dedup a cluster is one document; that one, its copies and its context are on one side; held-out ones are taken once."""
    table = _tokens(model, [[f"text {r} {i}" for i in range(3)] for r in range(60)])
    mixture = {"by": "language", "weights": {"Python": 3, "C": 0}}
    many = {"epochs": 2, "mixture": mixture, "packing": "best_fit", "fim_level": fim_level, "fim_rate": 1, "fragment_fim_rate": 1}
    found = {}
    for name, knobs in (("plain", {"fim_rate": 0}), ("many", many)):
        packed, spans, _ = _pack(table, tokenizer, runtime, heldout_fraction=0.3, **knobs)
        repos = dict(zip(table["doc_id"].to_pylist(), table["repo"].to_pylist(), strict=True))
        sides = {(repos[s["doc_id"]], packed[s["sequence"]]["split"]) for s in spans if s["doc_id"]}
        assert len({repo for repo, _ in sides}) == len(sides)
        found[name] = {repo for repo, split in sides if split == "heldout"}
        texts = [s for s in spans if packed[s["sequence"]]["split"] == "heldout" and s["role"] not in {"metadata", "eod", "pad"}]
        assert {s["role"] for s in texts} == {"text"}
        assert Counter(s["doc_id"] for s in texts if s["byte_start"] == 0).most_common(1)[0][1] == 1
        assert {s["doc_id"] for s in texts} == {doc_id for doc_id, repo in repos.items() if repo in found[name]}, "whatever their weight"
    assert found["plain"] == found["many"]
    assert 8 < len(found["plain"]) < 30


def test_kinds_none_means_all(tokenizer, model, runtime):
    table = _tokens(model, [["some text"]] * 5, is_v2=False)
    table = table.set_column(4, "kind", pa.array(["documentation"] * 5))
    for kinds, num in (((), 5), (("code",), 0), (("documentation",), 5)):
        *_, notes = _pack(table, tokenizer, runtime, heldout_fraction=0, fim_rate=1, fim_kinds=kinds)
        assert notes["fim_texts"] == num


def test_a_language_that_is_none_is_refused_with_its_neighbour():
    with pytest.raises(ValueError, match=re.escape("unknown language 'Pyton': did you mean 'Python'?")):
        Mixture(weights={"Pyton": 2})
    with pytest.raises(ValueError, match="less than or equal to 100"):
        Mixture(weights={"Python": 101})
    with pytest.raises(ValueError, match="finite number"):
        Mixture(weights={"Python": float("inf")})
    assert Mixture(by="source", weights={"Pyton": 2}).weights == {"Pyton": 2}, "sources are named by the recipe"
