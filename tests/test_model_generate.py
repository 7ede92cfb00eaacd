"""Continuing prompts: greedily like a loop without cache, by draws of the right share, to the right end; and the evaluator's files."""

# ruff: noqa: N806  # shapes as suffixes, as in model/

# ruff: noqa: N803  # shapes as suffixes, as in model/

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from starloom.model.architecture import Architecture
from starloom.model.config import EvaluationJob, EvaluationTasks, Heldout, Prompt
from starloom.model.evaluate import evaluate
from starloom.model.evaluate import main as main_of_evaluate
from starloom.model.formats import save_network
from starloom.model.generate import Continuation, complete, main
from starloom.model.network import GPT, targets_of
from starloom.model.prompting import asked, open_tokenizer
from starloom.model.sampling import choose, draw, in_nucleus, uniform
from tests.sizes import examples

SPECIAL = ["<|endoftext|>", "<fim_pad>", "<fim_middle>", "<fim_prefix>", "<fim_suffix>", "<file_sep>"]
EOD, PAD, MIDDLE, PREFIX, SUFFIX, FILE_SEP = range(len(SPECIAL))
BYTES = len(SPECIAL)
"""Id of the first token that is a byte."""
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def of_bytes(special) -> Tokenizer:
    """One token for each byte, after special ones."""
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(special + ALPHABET)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return of_bytes(SPECIAL)


SHAPE: dict[str, Any] = {"vocab_size": BYTES + len(ALPHABET), "context_tokens": 48}
SHAPE |= {"num_layers": 2, "num_heads": 2, "width": 32, "initializer_range": 0.4}
FAMILIES = {
    "gpt_bigcode": Architecture(**SHAPE),
    "starcoder2": Architecture(**SHAPE, family="starcoder2", num_key_value_heads=2, tied_head=False),
    "a sliding window": Architecture(**SHAPE, family="starcoder2", sliding_window=7),
}
ONE = FAMILIES["gpt_bigcode"]


@pytest.fixture(scope="module", params=FAMILIES)
def network(request) -> GPT:
    torch.set_num_threads(1)
    network = GPT(FAMILIES[request.param])
    network.init_weights(3)
    return network.eval()


def continuation(tokens, **knobs) -> Continuation:
    prompt = Prompt(**{"task_id": "t", "prompt_tokens": tokens, "max_new_tokens": 12} | knobs)
    return Continuation(prompt, asked(prompt, of_bytes(SPECIAL), ONE))


def run(network, tokenizer, rows, eod=None):
    complete(network, rows, tokenizer, eod)
    return rows


@torch.no_grad()
def without_cache(network, tokens, count):
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(network.logits(network.hidden(torch.tensor([tokens]))[0, -1]).argmax()))
    return tokens[-count:]


PROMPTS = [[40, 41, 42], [77], list(range(30, 60)), [9, 200, 3, 8, 91, 17]]


def test_greedy_batches_equal_a_loop_without_cache(network, tokenizer):
    rows = run(network, tokenizer, [continuation(tokens, max_new_tokens=8 + at) for at, tokens in enumerate(PROMPTS)])
    for at, (row, tokens) in enumerate(zip(rows, PROMPTS, strict=True)):
        assert row.new_tokens == without_cache(network, tokens, 8 + at)
        assert row.finish == "length"
        assert row.text == tokenizer.decode(row.new_tokens, skip_special_tokens=False)


def test_the_end_of_document_ends_it_and_is_left_out(network, tokenizer):
    expected = without_cache(network, PROMPTS[0], 12)
    end = next(token for at, token in enumerate(expected) if at and token not in expected[:at])
    (row,) = run(network, tokenizer, [continuation(PROMPTS[0])], eod=end)
    assert row.finish == "eod"
    assert row.new_tokens == expected[: expected.index(end)]


def test_it_ends_before_the_first_stop_string(network, tokenizer):
    text = tokenizer.decode(without_cache(network, PROMPTS[1], 12), skip_special_tokens=False)
    late, early = text[7:9], text[3:5]
    (row,) = run(network, tokenizer, [continuation(PROMPTS[1], stop=[late, early, "never there"])])
    assert row.finish == "stop"
    assert row.text == text[: min(text.find(late), text.find(early))]


PIECES = [b"a", b"\n", b"def ", "é".encode(), "é".encode()[:1], "é".encode()[1:], "漢".encode()[:2], "漢".encode()[2:],
          b"\xf0\x9f", b"\x98\x80", b"\xff", "\ufffd".encode(), b"x\xe6", b"\x80y"]  # fmt: skip
LETTERS = ["a", "\n", "d", "ef", " ", "é", "漢", "😀", "x", "\ufffd", "y"]


class Bytes:
    """Tokens that are any bytes, whole characters or not."""

    def decode(self, ids, *, skip_special_tokens=True):
        assert not skip_special_tokens
        return b"".join(PIECES[token] for token in ids).decode(errors="replace")


@settings(max_examples=examples(500), deadline=None)
@given(
    st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=40),
    st.lists(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=4), max_size=3),
)
def test_text_and_end_are_those_of_decoding_everything_at_every_token(tokens, stops):
    stops = ["".join(stop) for stop in stops]
    row = continuation([9], stop=stops, max_new_tokens=30)
    for count, token in enumerate(tokens, start=1):
        row.take(token, Bytes(), None)
        text = Bytes().decode(tokens[:count], skip_special_tokens=False)
        found = [text.find(stop) for stop in stops if stop in text]
        assert row.text == (text[: min(found)] if found else text)
        assert row.finish == ("stop" if found else "length" if count == 30 else "")
        if row.finish:
            break


def test_bytes_decode_by_the_tokenizer_as_by_python(tokenizer):
    order = tokenizer.get_vocab()
    of_byte = [order[letter] for letter in bytes_to_letters()]
    for piece in ["é漢😀a".encode(), b"\xf0\x9fa\xff\x98", b"\xe6\xe6\x80\xf0\x9f\x98"]:
        assert tokenizer.decode([of_byte[byte] for byte in piece]) == piece.decode(errors="replace")


def bytes_to_letters():
    """GPT-2's letter of each byte: itself where it is printable, the next free one from 256 on where not."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    free = iter(range(256, 512))
    return [chr(byte if byte in printable else next(free)) for byte in range(256)]


def test_a_prompt_asked_twice_goes_on_twice(network, tokenizer):
    counts, prompts = [6, 3, 11, 8, 2], [PROMPTS[2], PROMPTS[0], PROMPTS[2], PROMPTS[1], PROMPTS[0]]
    rows = run(network, tokenizer, [continuation(tokens, max_new_tokens=n) for tokens, n in zip(prompts, counts, strict=True)])
    assert [row.new_tokens for row in rows] == [without_cache(network, tokens, n) for tokens, n in zip(prompts, counts, strict=True)]


def test_a_row_that_ends_early_leaves_the_others_as_they_are(network, tokenizer):
    expected = [without_cache(network, tokens, 14) for tokens in PROMPTS]
    counts = [5, 14, 1, 9]
    rows = run(network, tokenizer, [continuation(tokens, max_new_tokens=n) for tokens, n in zip(PROMPTS, counts, strict=True)])
    assert [row.new_tokens for row in rows] == [tokens[:n] for tokens, n in zip(expected, counts, strict=True)]


def test_a_draw_belongs_to_its_prompt_and_not_to_its_neighbours(network, tokenizer):
    knobs = {"temperature": 0.9, "top_p": 0.95}
    rows = [continuation(PROMPTS[0], sample=sample, seed=seed, **knobs) for sample in range(3) for seed in range(2)]
    together = [row.new_tokens for row in run(network, tokenizer, rows)]
    alone = [run(network, tokenizer, [continuation(PROMPTS[0], sample=row.prompt.sample, seed=row.prompt.seed, **knobs)]) for row in rows]
    assert together == [row.new_tokens for (row,) in alone]
    assert len({tuple(tokens) for tokens in together}) == 6


def one_by_one(logits_V, temperature, top_p, number):
    """The nucleus by sorting everything."""
    probability_V = (logits_V.double() / temperature).softmax(-1)
    sorted_V, tokens_V = probability_V.sort(descending=True, stable=True)
    probability_V[tokens_V[sorted_V.cumsum(-1) - sorted_V >= top_p]] = 0.0
    cumulative_V = probability_V.cumsum(-1)
    return int((cumulative_V <= number * cumulative_V[-1]).sum())


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(1, 2000), st.integers(1, 5), st.sampled_from([0.3, 3.0, 20.0]), st.booleans(), st.randoms(use_true_random=False))
def test_the_next_tokens_of_a_batch_are_those_of_each_row_alone(size, rows, scale, has_ties, random):
    logits_BV = scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(random.randrange(1 << 30)))
    if has_ties:
        logits_BV = logits_BV.round()
    temperatures = [random.choice([0.0, 0.2, 0.9, 1.5]) for _ in range(rows)]
    top_ps = [random.choice([0.001, 0.3, 0.9, 0.95, 1.0]) for _ in range(rows)]
    numbers = [(random.randrange(1 << 20) + 0.5) / (1 << 20) for _ in range(rows)]
    expected = [
        one_by_one(logits_V, temperature, top_p, number) if temperature else int(logits_V.argmax())
        for logits_V, temperature, top_p, number in zip(logits_BV, temperatures, top_ps, numbers, strict=True)
    ]
    assert choose(logits_BV, temperatures, top_ps, numbers) == expected


def test_of_equally_likely_tokens_the_first_are_in_the_nucleus():
    assert in_nucleus(np.full(8, 0.125), 0.3).tolist() == [True] * 3 + [False] * 5
    assert in_nucleus(np.array([0.2, 0.4, 0.2, 0.2]), 0.5).tolist() == [True, True, False, False]
    assert in_nucleus(np.array([0.25, 0.5, 0.25]), 0.5).tolist() == [False, True, False]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.8), (0.5, 1.0), (2.0, 0.6)])
def test_draws_have_the_share_of_the_nucleus(temperature, top_p):
    share = np.array([0.1, 0.4, 0.3, 0.2])
    sharpened = share ** (1 / temperature) / (share ** (1 / temperature)).sum()
    order = np.argsort(-sharpened)
    size = int(np.searchsorted(np.cumsum(sharpened[order]), top_p - 1e-12)) + 1
    expected = np.zeros(4)
    expected[order[:size]] = sharpened[order[:size]] / sharpened[order[:size]].sum()
    count = 4000
    logits_RV = torch.tensor(np.log(share)).expand(count, 4)
    drawn = draw(logits_RV, [temperature] * count, [top_p] * count, [uniform(0, "t", at, 0) for at in range(count)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / count, expected, atol=4 * math.sqrt(0.25 / count))
    assert {token for token in range(4) if expected[token] == 0}.isdisjoint(drawn)


def test_random_numbers_are_spread_over_the_unit_interval():
    numbers = [continuation([1], seed=seed, sample=sample).uniform for seed in range(40) for sample in range(50)]
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert len(set(numbers)) == 2000
    assert counts.min() > 150
    assert counts.max() < 250


def test_a_prompt_too_long_keeps_its_end():
    row = continuation(list(range(60)), max_new_tokens=10)
    assert row.asked.tokens == list(range(22, 60))
    assert row.asked.num_cut_tokens == 22


@pytest.mark.parametrize(
    ("tokens", "knobs", "named"), [([], {}, "no tokens"), ([1], {"max_new_tokens": 48}, "max_new_tokens 48 alone fills the context")]
)
def test_an_impossible_prompt_is_refused_by_its_task(tokens, knobs, named):
    with pytest.raises(ValueError, match=f"task 't': .*{named}"):
        continuation(tokens, **knobs)


def middle(tokenizer, **knobs):
    usual: dict[str, Any] = {"task_id": "t", "prefix": "ab", "suffix": "cde", "max_new_tokens": 12}
    return asked(Prompt(**usual | knobs), tokenizer, ONE)


def letters(text):
    return [BYTES + ALPHABET.index({" ": "Ġ"}.get(letter, letter)) for letter in text]


def test_both_sides_of_a_gap_stand_between_sentinels(tokenizer):
    assert middle(tokenizer).tokens == [PREFIX, *letters("ab"), SUFFIX, *letters("cde"), MIDDLE]
    assert middle(tokenizer, fim="spm").tokens == [PREFIX, SUFFIX, *letters("cde"), MIDDLE, *letters("ab")]
    assert middle(tokenizer, prefix="", suffix="").tokens == [PREFIX, SUFFIX, MIDDLE]
    assert middle(tokenizer, prefix="<fim_middle>").tokens == [PREFIX, *letters("<fim_middle>"), SUFFIX, *letters("cde"), MIDDLE]


@settings(max_examples=examples(200), deadline=None)
@given(st.text("abc", max_size=60), st.text("xyz", max_size=60), st.integers(1, 45), st.sampled_from(["psm", "spm"]))
def test_what_is_nearest_to_the_gap_is_kept(prefix, suffix, max_new_tokens, fim):
    tokenizer = of_bytes(SPECIAL)
    question = middle(tokenizer, prefix=prefix, suffix=suffix, max_new_tokens=max_new_tokens, fim=fim)
    text = tokenizer.decode(question.tokens, skip_special_tokens=True)
    kept_prefix, kept_suffix = (("".join(letter for letter in text if letter in side)) for side in ("abc", "xyz"))
    room = 48 - max_new_tokens - 3
    assert prefix.endswith(kept_prefix)
    assert suffix.startswith(kept_suffix)
    assert len(kept_prefix) + len(kept_suffix) == min(room, len(prefix) + len(suffix))
    assert len(kept_prefix) >= min(len(prefix), room // 2)
    assert len(kept_suffix) >= min(len(suffix), room // 2)
    assert question.num_cut_tokens == len(prefix) + len(suffix) - len(kept_prefix) - len(kept_suffix)


@pytest.mark.parametrize("sentinel", [PREFIX, SUFFIX, MIDDLE, FILE_SEP, PAD])
def test_a_middle_ends_at_a_sentinel_and_a_continuation_does_not(tokenizer, sentinel):
    prompts = [Prompt(task_id="t", prefix="a", suffix="b"), Prompt(task_id="t", prompt="a")]
    gap, plain = (Continuation(prompt, asked(prompt, tokenizer, Architecture(**SHAPE | {"context_tokens": 200}))) for prompt in prompts)
    for row in (gap, plain):
        row.take(letters("x")[0], tokenizer, EOD)
        row.take(sentinel, tokenizer, EOD)
    assert (gap.text, gap.finish) == ("x", "stop")
    assert (plain.text, plain.finish) == ("x" + SPECIAL[sentinel], "")


def test_a_tokenizer_without_sentinels_cannot_ask_for_a_middle():
    with pytest.raises(ValueError, match="task 't': the tokenizer has no <fim_suffix>; fill-in-the-middle is not possible"):
        middle(of_bytes(["<|endoftext|>", "<fim_prefix>", "<fim_middle>"]))


def test_sentinels_need_room():
    with pytest.raises(ValueError, match="task 't': no room for the sentinels beside max_new_tokens 46"):
        middle(of_bytes(SPECIAL), max_new_tokens=46)


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({}, "exactly one of"),
        ({"prompt": "x", "prompt_tokens": [1]}, "exactly one of"),
        ({"prompt": "x", "prefix": "y", "suffix": "z"}, "exactly one of"),
        ({"prefix": "x"}, "give both `prefix` and `suffix`"),
        ({"prompt": "x", "suffix": "y"}, "give both `prefix` and `suffix`"),
        ({"prompt": "x", "stop": ["a", ""]}, "an empty stop string"),
    ],
)
def test_what_is_no_question_is_refused(knobs, named):
    with pytest.raises(ValueError, match=f"task 't': .*{named}"):
        Prompt(task_id="t", **knobs)


@pytest.fixture
def folder(tmp_path, network, tokenizer):
    save_network(tmp_path, network.architecture, network.named_parameters())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_command_prints_what_the_network_adds(folder, network, tokenizer, capsys):
    assert main([str(folder), "--prompt", "ab", "--max-new-tokens", "9"]) == 0
    expected = tokenizer.decode(without_cache(network, letters("ab"), 9), skip_special_tokens=False)
    assert capsys.readouterr().out == expected + "\n"


def test_the_command_fills_a_gap_and_tells_it_as_json(folder, network, tokenizer, capsys):
    elsewhere = folder / "elsewhere.json"
    (folder / "tokenizer.json").rename(elsewhere)
    gap = ["--prefix", "ab", "--suffix", "c", "--spm", "--temperature", "0.9", "--top-p", "0.8", "--seed", "3", "--max-new-tokens", "9"]
    assert main([str(folder), *gap, "--tokenizer", str(elsewhere), "--json"]) == 0
    prompt = Prompt(task_id="prompt", prefix="ab", suffix="c", fim="spm", temperature=0.9, top_p=0.8, seed=3, max_new_tokens=9)
    row = Continuation(prompt, asked(prompt, tokenizer, network.architecture))
    complete(network, [row], tokenizer, EOD)
    assert json.loads(capsys.readouterr().out) == row.as_record()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "give --prompt, or --prefix and --suffix"),
        (["--prompt", "x", "--top-p", "2"], "less than or equal to 1"),
        (["--prompt", "x", "--tokenizer", "nowhere.json"], "nowhere.json is not there"),
        (["--prompt", "x", "--tokenizer", "config.json"], "config.json is not a tokenizer.json"),
        (["--prompt", "x", "--max-new-tokens", "99"], "max_new_tokens 99 alone fills"),
    ],
)
def test_the_command_says_what_it_cannot_do(folder, options, named, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main([str(folder), *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert named in said
    assert said.count("\n") == 1


def test_a_tokenizer_reads_text_as_text(folder):
    assert open_tokenizer(folder / "tokenizer.json").encode("<file_sep>").ids == letters("<file_sep>")


def test_a_tokenizer_that_draws_lots_is_refused(folder, tmp_path):
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"] = {"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"encodes at random \(model.dropout 0.5\)"):
        open_tokenizer(tmp_path / "tokenizer.json")


@pytest.fixture
def job(tmp_path, network, tokenizer) -> EvaluationJob:
    save_network(tmp_path / "checkpoint", network.architecture, network.named_parameters())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    generator = np.random.default_rng(0)
    packed = []
    for part in range(3):
        tokens = generator.integers(BYTES, 200, (10, 16))
        tokens[4, 9:] = PAD
        split = ["heldout" if row % 4 == 0 else "train" for row in range(10)] if part != 1 else ["train"] * 10
        packed.append(tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"split": split, "tokens": pa.array(list(tokens), pa.list_(pa.uint16()))}), packed[-1])
    return EvaluationJob(
        checkpoint=tmp_path / "checkpoint", tokenizer=tmp_path / "tokenizer.json", packed=packed, out=tmp_path / "out",
        tasks=EvaluationTasks(heldout=Heldout(batch_sequences=2)), pad_token=PAD, eod_token=EOD, threads=1,
    )  # fmt: skip


def test_heldout_losses_belong_to_the_token_predicted(job, network):
    evaluate(job)
    table = pq.read_table(job.out / "heldout_losses.parquet")
    assert list(zip(table["part"].to_pylist(), table["row"].to_pylist(), strict=True)) == [(0, 0), (0, 4), (0, 8), (2, 0), (2, 4), (2, 8)]
    for part, row, losses in zip(*(table[name].to_pylist() for name in ("part", "row", "losses")), strict=True):
        tokens = torch.tensor(pq.read_table(job.packed[part])["tokens"][row].as_py())
        with torch.no_grad():
            log_probability = network.logits(network.hidden(tokens[None]))[0].log_softmax(-1)
        expected = [None] + [float(-log_probability[at - 1, tokens[at]]) if tokens[at] != PAD else None for at in range(1, 16)]
        assert [loss is None for loss in losses] == [loss is None for loss in expected]
        assert [loss for loss in losses if loss is not None] == pytest.approx([loss for loss in expected if loss is not None], rel=1e-4)
        total = float(network(tokens[None], targets_of(tokens[None], PAD)).detach())
        assert sum(loss for loss in losses if loss is not None) == pytest.approx(total, rel=1e-4)


def test_fewer_heldout_sequences_are_spread_over_all(job):
    evaluate(job.model_copy(update={"tasks": job.tasks.model_validate({"heldout": {"max_sequences": 3}})}))
    table = pq.read_table(job.out / "heldout_losses.parquet")
    assert list(zip(table["part"].to_pylist(), table["row"].to_pylist(), strict=True)) == [(0, 0), (0, 8), (2, 4)]


def test_documents_that_never_see_each_other_are_measured_alone(job, network, tmp_path):
    tokens, starts = np.random.default_rng(1).integers(BYTES, 200, (3, 16)), [[0, 5, 12], [3], []]
    columns = {
        "split": ["heldout"] * 3,
        "tokens": pa.array(list(tokens), pa.list_(pa.uint16())),
        "starts": pa.array(starts, pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(columns), tmp_path / "parted.parquet")
    tasks = job.tasks.model_validate({"heldout": {"batch_sequences": 2, "attend_across_documents": False}})
    evaluate(job.model_copy(update={"packed": [tmp_path / "parted.parquet"], "tasks": tasks}))
    measured = pq.read_table(job.out / "heldout_losses.parquet")["losses"].to_pylist()
    for row, inner, losses in zip(tokens, starts, measured, strict=True):
        for document in np.split(np.arange(16), inner):
            if len(document):
                alone = torch.tensor(row[document])[None]
                expected = network.token_losses(alone, targets_of(alone, PAD))[0, :-1].tolist()
                assert losses[document[0]] is None
                assert losses[document[0] + 1 : document[-1] + 1] == pytest.approx(expected, rel=1e-4)


def test_no_heldout_sequence_is_an_empty_table(job):
    evaluate(job.model_copy(update={"packed": job.packed[1:2]}))
    assert pq.read_table(job.out / "heldout_losses.parquet").num_rows == 0


PROMPT_LINES = [
    {"task_id": "text", "prompt": "def <fim_middle>", "max_new_tokens": 6},
    {"task_id": "ids", "prompt_tokens": [MIDDLE, 70, 71], "max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9},
    {"task_id": "ids", "sample": 1, "prompt_tokens": [MIDDLE, 70, 71], "max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9},
]


@pytest.mark.slow
def test_completions_come_in_order_and_are_the_same_every_time(job, network, tokenizer, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in PROMPT_LINES))
    tasks = job.tasks.model_validate({"completions": {"prompts": prompts, "batch_prompts": 2}})
    job = job.model_copy(update={"tasks": tasks})
    evaluate(job)
    first = (job.out / "completions.jsonl").read_bytes()
    (tmp_path / "config.json").write_text(job.model_dump_json())
    if network.architecture == ONE:  # in a process of its own, which imports torch for 3 s
        argv = [sys.executable, "-m", "starloom.model.evaluate", str(tmp_path / "config.json")]
        said = subprocess.run(argv, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout
    else:
        capsys.readouterr()
        assert main_of_evaluate([str(tmp_path / "config.json")]) == 0
        said = capsys.readouterr().out
    assert [json.loads(line)["done"] for line in said.splitlines()] == [2, 3]
    assert (job.out / "completions.jsonl").read_bytes() == first
    records = [json.loads(line) for line in first.splitlines()]
    assert [(record["task_id"], record["sample"]) for record in records] == [("text", 0), ("ids", 0), ("ids", 1)]
    spelt = letters("def <fim_middle>")  # letter by letter: not the special token
    assert records[0]["completion"] == tokenizer.decode(without_cache(network, spelt, 6), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"task_id": "x"}', r"prompts\.jsonl, line 1: .*exactly one of"),
        ("not json", r"prompts\.jsonl, line 1"),
        ('{"task_id": "x", "prompt_tokens": [999], "max_new_tokens": 8}', "token 999 of the prompt is outside"),
    ],
)
def test_a_bad_prompt_is_refused_by_its_line(job, tmp_path, line, named):
    (tmp_path / "prompts.jsonl").write_text(line + "\n")
    tasks = job.tasks.model_validate({"completions": {"prompts": tmp_path / "prompts.jsonl"}})
    with pytest.raises(ValueError, match=f"(?s){named}"):
        evaluate(job.model_copy(update={"tasks": tasks}))


def test_sequences_longer_than_the_context_are_refused(job, tmp_path):
    long = tmp_path / "long.parquet"
    pq.write_table(pa.table({"split": ["heldout"], "tokens": pa.array([list(range(60))], pa.list_(pa.uint16()))}), long)
    with pytest.raises(ValueError, match="sequences of 60 tokens do not fit"):
        evaluate(job.model_copy(update={"packed": [long]}))
