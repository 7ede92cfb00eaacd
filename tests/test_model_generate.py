"""Continuing prompts: greedily like a loop without cache, by draws of the right share, to the right end; and the evaluator's files."""

# ruff: noqa: N806  # shapes as suffixes, as in model/

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from model.checkpoint import save_network
from model.config import Architecture, EvaluationJob, Prompt
from model.evaluate import evaluate
from model.generate import Continuation, begin, complete, draw, uniform
from model.network import GPT, targets_of

EOD, PAD, FIM = 0, 1, 2
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token for each byte, after three special ones."""
    special = ["<|endoftext|>", "<fim_pad>", "<fim_middle>"]
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(special + ALPHABET)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


@pytest.fixture(scope="module")
def network() -> GPT:
    torch.set_num_threads(1)
    network = GPT(Architecture(vocab_size=3 + len(ALPHABET), context_tokens=48, num_layers=2, num_heads=2, width=32, initializer_range=0.4))
    network.init_weights(3)
    return network.eval()


def continuation(tokens, **knobs) -> Continuation:
    knobs = {"task_id": "t", "prompt_tokens": tokens, "max_new_tokens": 12} | knobs
    return begin(Prompt(**knobs), tokens, 48)


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


def test_a_draw_belongs_to_its_prompt_and_not_to_its_neighbours(network, tokenizer):
    knobs = {"temperature": 0.9, "top_p": 0.95}
    rows = [continuation(PROMPTS[0], sample=sample, seed=seed, **knobs) for sample in range(3) for seed in range(2)]
    together = [row.new_tokens for row in run(network, tokenizer, rows)]
    alone = [run(network, tokenizer, [continuation(PROMPTS[0], sample=row.prompt.sample, seed=row.prompt.seed, **knobs)]) for row in rows]
    assert together == [row.new_tokens for (row,) in alone]
    assert len({tuple(tokens) for tokens in together}) == 6


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.8), (0.5, 1.0), (2.0, 0.6)])
def test_draws_have_the_share_of_the_nucleus(temperature, top_p):
    share = np.array([0.1, 0.4, 0.3, 0.2])
    sharpened = share ** (1 / temperature) / (share ** (1 / temperature)).sum()
    order = np.argsort(-sharpened)
    size = int(np.searchsorted(np.cumsum(sharpened[order]), top_p - 1e-12)) + 1
    expected = np.zeros(4)
    expected[order[:size]] = sharpened[order[:size]] / sharpened[order[:size]].sum()
    logits_V = torch.tensor(np.log(share))
    count = 4000
    drawn = [draw(logits_V, continuation([1], sample=at, temperature=temperature, top_p=top_p)) for at in range(count)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / count, expected, atol=4 * math.sqrt(0.25 / count))
    assert {token for token in range(4) if expected[token] == 0}.isdisjoint(drawn)


def test_random_numbers_are_spread_over_the_unit_interval():
    numbers = [uniform(continuation([1], seed=seed, sample=sample)) for seed in range(40) for sample in range(50)]
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert len(set(numbers)) == 2000
    assert counts.min() > 150
    assert counts.max() < 250


def test_a_prompt_too_long_keeps_its_end():
    row = continuation(list(range(60)), max_new_tokens=10)
    assert row.prompt_tokens == list(range(22, 60))
    assert row.num_cut_tokens == 22


@pytest.mark.parametrize(
    ("tokens", "knobs", "named"), [([], {}, "no tokens"), ([1], {"max_new_tokens": 48}, "max_new_tokens 48 alone fills the context")]
)
def test_an_impossible_prompt_is_refused_by_its_task(tokens, knobs, named):
    with pytest.raises(ValueError, match=f"task 't': .*{named}"):
        continuation(tokens, **knobs)


@pytest.fixture
def job(tmp_path, network, tokenizer) -> EvaluationJob:
    save_network(tmp_path / "checkpoint", network.architecture, network.state_dict())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    generator = np.random.default_rng(0)
    packed = []
    for part in range(3):
        tokens = generator.integers(3, 200, (10, 16))
        tokens[4, 9:] = PAD
        split = ["heldout" if row % 4 == 0 else "train" for row in range(10)] if part != 1 else ["train"] * 10
        packed.append(tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"split": split, "tokens": pa.array(list(tokens), pa.list_(pa.uint16()))}), packed[-1])
    return EvaluationJob(
        checkpoint=tmp_path / "checkpoint", tokenizer=tmp_path / "tokenizer.json", packed=packed, out=tmp_path / "out",
        tasks={"heldout": {"batch_sequences": 2}}, pad_token=PAD, eod_token=EOD, threads=1,
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


def test_no_heldout_sequence_is_an_empty_table(job):
    evaluate(job.model_copy(update={"packed": job.packed[1:2]}))
    assert pq.read_table(job.out / "heldout_losses.parquet").num_rows == 0


PROMPT_LINES = [
    {"task_id": "text", "prompt": "def <fim_middle>", "max_new_tokens": 6},
    {"task_id": "ids", "prompt_tokens": [FIM, 70, 71], "max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9},
    {"task_id": "ids", "sample": 1, "prompt_tokens": [FIM, 70, 71], "max_new_tokens": 6, "temperature": 0.8, "top_p": 0.9},
]


def test_completions_come_in_order_and_are_the_same_every_time(job, network, tokenizer, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in PROMPT_LINES))
    tasks = job.tasks.model_validate({"completions": {"prompts": prompts, "batch_prompts": 2}})
    job = job.model_copy(update={"tasks": tasks})
    evaluate(job)
    first = (job.out / "completions.jsonl").read_bytes()
    (tmp_path / "config.json").write_text(job.model_dump_json())
    argv = [sys.executable, "-m", "model.evaluate", str(tmp_path / "config.json")]
    said = subprocess.run(argv, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout
    assert [json.loads(line)["done"] for line in said.splitlines()] == [2, 3]
    assert (job.out / "completions.jsonl").read_bytes() == first
    records = [json.loads(line) for line in first.splitlines()]
    assert [(record["task_id"], record["sample"]) for record in records] == [("text", 0), ("ids", 0), ("ids", 1)]
    spelt = [3 + ALPHABET.index({" ": "Ġ"}.get(letter, letter)) for letter in "def <fim_middle>"]  # letter by letter: not the special token
    assert records[0]["completion"] == tokenizer.decode(without_cache(network, spelt, 6), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"task_id": "x"}', r"prompts\.jsonl, line 1: .*exactly one of"),
        ("not json", r"prompts\.jsonl, line 1"),
        ('{"task_id": "x", "prompt_tokens": [999]}', "token 999 of the prompt is outside"),
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
    with pytest.raises(ValueError, match=r"long\.parquet: sequences of 60 tokens do not fit"):
        evaluate(job.model_copy(update={"packed": [long]}))
