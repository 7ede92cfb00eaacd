"""evaluate on a tiny corpus through the real stages and the real model process, against plain loops."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from starloom.bench._tool import environment_corpus
from starloom.lineage.errors import InputError
from starloom.lineage.views import PartSource, Stored
from starloom.model.architecture import Architecture
from starloom.model.formats import load_network, save_network
from starloom.model.network import GPT
from starloom.tasks.encode import Encode, encode
from starloom.tasks.evaluate import Benchmark, Evaluate, evaluate
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.byte_level import load, token_bytes
from starloom.tasks.pack_fim import PackFim
from starloom.tasks.schemas import Checkpoint, Docs, Packed, Spans, Tokens
from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer
from tests.packing import pack_parts

pytestmark = pytest.mark.slow

CONTEXT_TOKENS, VOCAB = 128, 512
PROBLEMS = [
    {"task_id": "t/empty", "prompt": "def one():\n    return 1\n", "entry_point": "one", "test": "def check(f):\n    assert f() == 1\n"},
    {"task_id": "t/missing", "prompt": "def two():\n", "entry_point": "two", "test": "def check(f):\n    assert f() == 2\n"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def corpus(folder):
    """Docs of three parts, a tokenizer, and what the stages make of them."""
    table = environment_corpus(400_000).table
    parts = [table.slice(start, 25) for start in range(0, 75, 25)]
    docs = Docs.of_parts(parts)
    runtime = Runtime.alone(folder / "stages")
    tokenizer, _ = train_tokenizer.function(docs, TrainTokenizer(vocab_size=VOCAB, sample_bytes=200_000), runtime)
    knobs = PackFim(sequence_length=CONTEXT_TOKENS, heldout_fraction=0.3)
    tokens = Tokens.of_parts([encode.function(part, tokenizer, Encode(), runtime).read() for part in docs.parts])
    packs = pack_parts(tokens, tokenizer, knobs, runtime)
    files = [folder / f"packed-{number}.parquet" for number in range(len(packs))]
    for file, (packed, _) in zip(files, packs, strict=True):
        pq.write_table(packed.read(), file)
    # One part stays in memory, as where a stage is run by itself; the others are files, as in a store.
    stored = [PartSource(Stored(None, str(file))) for file in files[:-1]]
    packed = Packed([*stored, PartSource(packs[-1][0].read())])
    return docs, tokenizer, packed, Spans.of_parts([spans.read() for _, spans in packs])


@pytest.fixture(scope="module")
def benchmark(folder):
    path = folder / "problems.jsonl"
    path.write_text("\n".join(json.dumps({"canonical_solution": "    return 2\n", **problem}) for problem in PROBLEMS))
    return Benchmark(name="own", path=str(path))


def saved_network(folder, *, is_zero):
    architecture = Architecture(vocab_size=VOCAB, context_tokens=CONTEXT_TOKENS, num_layers=1, num_heads=2, width=16)
    network = GPT(architecture)
    network.init_weights(1)
    weights = network.named_parameters()
    save_network(folder, architecture, ((name, torch.zeros_like(value) if is_zero else value) for name, value in weights))
    return Checkpoint.of(folder)


KNOBS: dict[str, Any] = {
    "max_sequences": 40, "max_infills": 3, "infill_max_new_tokens": 8, "max_new_tokens": 8, "num_samples": 2, "k": (1, 2), "threads": 1
}  # fmt: skip


def run(checkpoint, corpus, scratch, benchmarks, **knobs):
    docs, tokenizer, packed, spans = corpus
    config = Evaluate(**{**KNOBS, "benchmarks": benchmarks, **knobs})
    completions, scores = evaluate.function(checkpoint, tokenizer, packed, spans, docs, config, Runtime.alone(scratch))
    return completions.read(), scores.read()


@pytest.fixture(scope="module")
def uniform(folder, corpus, benchmark):
    """What a network of zeros gets: every token as likely as any, the likeliest of them the end of the document."""
    return run(saved_network(folder / "zero", is_zero=True), corpus, folder / "scratch-zero", [benchmark], temperature=0.0, seed=1)


@pytest.fixture(scope="module")
def checkpoint(folder):
    return saved_network(folder / "random", is_zero=False)


@pytest.fixture(scope="module")
def random(folder, corpus, benchmark, checkpoint):
    return run(checkpoint, corpus, folder / "scratch-random", [benchmark])


def score(scores, benchmark, metric, language=None):
    rows = [row for row in scores.to_pylist() if (row["benchmark"], row["metric"], row["language"]) == (benchmark, metric, language)]
    (row,) = rows
    return row


def heldout_tokens(corpus, max_sequences):
    """(part, row, position, language, token) of every document token of the measured sequences, by plain loops."""
    docs, _, packed, spans = corpus
    languages = dict(zip(*docs.read(["doc_id", "language"]).to_pydict().values(), strict=True))
    splits = [view.read(["split"])["split"].to_pylist() for view in packed.parts]
    everything = [(part, row) for part, column in enumerate(splits) for row, split in enumerate(column) if split == "heldout"]
    count = min(len(everything), max_sequences)
    chosen = {everything[i * len(everything) // count] for i in range(count)}
    tokens = [view.read(["tokens"])["tokens"].to_pylist() for view in packed.parts]
    for part, view in enumerate(spans.parts):
        for span in view.read().to_pylist():
            if (part, span["sequence"]) in chosen and span["role"] == "text":
                for position in range(max(1, span["token_start"]), span["token_end"]):
                    yield part, span["sequence"], position, languages[span["doc_id"]], tokens[part][span["sequence"]][position]


def test_the_corpus_tests_something(corpus):
    packed, spans = corpus[2:]
    splits = pc.value_counts(packed.read(["split"])["split"]).to_pylist()
    assert {row["values"] for row in splits} == {"train", "heldout"}
    assert len({language for *_, language, _ in heldout_tokens(corpus, 40)}) > 1
    assert spans.num_rows > 40


def test_a_uniform_network_has_the_loss_of_a_uniform_guess(uniform, corpus):
    _, scores = uniform
    lengths = token_bytes(load(corpus[1].path)).lengths
    counts, num_bytes = defaultdict(int), defaultdict(int)
    for *_, language, token in heldout_tokens(corpus, 40):
        for name in (None, language):
            counts[name] += 1
            num_bytes[name] += int(lengths[token])
    assert {row["language"] for row in scores.to_pylist() if row["benchmark"] == "heldout"} == set(counts)
    for language, count in counts.items():
        loss, perplexity = score(scores, "heldout", "loss", language), score(scores, "heldout", "perplexity", language)
        bits = score(scores, "heldout", "bits-per-byte", language)
        assert loss["count"] == perplexity["count"] == count
        assert loss["value"] == pytest.approx(math.log(VOCAB), rel=1e-6)
        assert perplexity["value"] == pytest.approx(VOCAB, rel=1e-5)
        assert bits["count"] == num_bytes[language]
        assert bits["value"] == pytest.approx(math.log2(VOCAB) * count / num_bytes[language], rel=1e-6)


def test_losses_are_those_of_the_network(random, corpus, checkpoint):
    _, scores = random
    network = load_network(checkpoint.path, torch.device("cpu"))
    losses, cache = defaultdict(list), {}
    for part, row, position, language, token in heldout_tokens(corpus, 40):
        if (part, row) not in cache:
            tokens = torch.tensor([corpus[2].parts[part].read(["tokens"])["tokens"][row].as_py()])
            with torch.no_grad():
                cache[part, row] = network.logits(network.hidden(tokens))[0].log_softmax(-1)
        for name in (None, language):
            losses[name].append(-float(cache[part, row][position - 1, token]))
    for language, values in losses.items():
        assert score(scores, "heldout", "loss", language)["value"] == pytest.approx(np.mean(values), rel=1e-5)


def test_pass_at_k_of_answers_that_are_empty(uniform):
    completions, scores = uniform
    rows = {row["task_id"]: row for row in completions.to_pylist() if row["benchmark"] == "own"}
    assert rows["t/empty"]["completion"] == ""
    assert (rows["t/empty"]["passed"], rows["t/empty"]["outcome"]) == (True, "passed")
    assert rows["t/missing"]["passed"] is False
    assert rows["t/missing"]["outcome"].startswith("syntax-error")
    assert rows["t/missing"]["reference"] == "    return 2\n"
    assert len([row for row in completions.to_pylist() if row["benchmark"] == "own"]) == 4
    for metric in ("pass@1", "pass@2"):
        assert score(scores, "own", metric) == {"benchmark": "own", "metric": metric, "language": None, "value": 0.5, "count": 2}


def test_infilling_asks_for_real_lines_of_heldout_documents(random, corpus):
    completions, scores = random
    docs, _, packed, spans = corpus
    texts = dict(zip(*docs.read(["doc_id", "content"]).to_pydict().values(), strict=True))
    trained = set()
    for packed_part, spans_part in zip(packed.parts, spans.parts, strict=True):
        splits = packed_part.read(["split"])["split"].to_pylist()
        trained |= {span["doc_id"] for span in spans_part.read().to_pylist() if splits[span["sequence"]] == "train"}
    rows = [row for row in completions.to_pylist() if row["benchmark"] == "infilling"]
    assert rows
    for row in rows:
        doc_id, _, number = row["task_id"].partition("#L")
        assert doc_id not in trained
        line = texts[doc_id].split("\n")[int(number) - 1]
        assert row["reference"] == line + "\n"
        assert line.strip()
        assert row["prompt"].startswith("<fim_prefix>")
        assert row["prompt"].endswith("<fim_middle>")
        before, after = row["prompt"].removeprefix("<fim_prefix>").removesuffix("<fim_middle>").split("<fim_suffix>")
        whole_before, whole_after = texts[doc_id].split("\n")[: int(number) - 1], texts[doc_id].split("\n")[int(number) :]
        assert "\n".join([*whole_before, ""]).endswith(before.lstrip("\ufffd"))
        assert "\n".join(whole_after).startswith(after.rstrip("\ufffd"))
        assert row["passed"] == (row["completion"].strip() == line.strip())
        assert row["outcome"] == ("exact-match" if row["passed"] else "mismatch")
    assert max(sum(other["language"] == row["language"] for other in rows) for row in rows) <= 3
    assert score(scores, "infilling", "exact-match")["count"] == len(rows)
    assert {row["language"] for row in rows} == {r["language"] for r in scores.to_pylist() if r["benchmark"] == "infilling"} - {None}


def test_again_gives_the_same_and_another_seed_other_lines(random, uniform, corpus, benchmark, checkpoint, tmp_path):
    completions, scores = run(checkpoint, corpus, tmp_path, [benchmark])
    assert completions.equals(random[0])
    assert scores.equals(random[1])
    assert uniform[0]["task_id"].to_pylist() != completions["task_id"].to_pylist()


def test_nothing_asked_is_nothing_scored(corpus, checkpoint, tmp_path):
    completions, scores = run(checkpoint, corpus, tmp_path, [], max_sequences=0, max_infills=0)
    assert len(completions) == len(scores) == 0


def test_no_heldout_sequence_is_no_loss_and_prompts_cut_to_the_context_are_counted(corpus, checkpoint, tmp_path):
    docs, tokenizer, packed, spans = corpus
    long = {
        **PROBLEMS[0],
        "canonical_solution": "",
        "task_id": "t/long",
        "prompt": "# " + "0 " * 4 * CONTEXT_TOKENS + PROBLEMS[0]["prompt"],
    }
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps({"canonical_solution": "", **one}) for one in (*PROBLEMS, long)))
    benchmark = Benchmark(name="own", path=str(tmp_path / "problems.jsonl"))
    runtime = Runtime.alone(tmp_path / "scratch")
    table = packed.parts[0].read()
    train = Packed.of(table.set_column(1, "split", pa.repeat("train", len(table))))
    config = Evaluate(**{**KNOBS, "benchmarks": [benchmark]})
    _, scores = evaluate.function(checkpoint, tokenizer, train, spans.parts[0], docs, config, runtime)
    assert set(scores.read()["benchmark"].to_pylist()) == {"own"}
    assert (runtime.notes["prompts"], runtime.notes["cut_prompts"]) == (2 * len(PROBLEMS) + 2, 2)


@pytest.mark.parametrize("knob", ["max_new_tokens", "infill_max_new_tokens"])
def test_refuses_an_answer_longer_than_the_context(knob, corpus, checkpoint, benchmark, tmp_path):
    with pytest.raises(InputError, match=rf"evaluate\.{knob} is 128.*context of 128"):
        run(checkpoint, corpus, tmp_path, [benchmark], **{knob: 128})


def test_refuses_a_benchmark_in_another_format(corpus, checkpoint, tmp_path):
    (tmp_path / "wrong.jsonl").write_text('{"task_id": "x"}')
    with pytest.raises(InputError, match=r"benchmark wrong cannot be used.*line 1: 'prompt' is missing"):
        run(checkpoint, corpus, tmp_path, [Benchmark(name="wrong", path=str(tmp_path / "wrong.jsonl"))])


@pytest.mark.parametrize("knobs", [{"k": (1, 3)}, {"k": (0,)}, {"k": ()}, {"num_samples": 0}])
def test_refuses_k_above_the_samples(knobs, benchmark):
    with pytest.raises(ValidationError, match=r"k|num_samples"):
        Evaluate(**{**KNOBS, "benchmarks": [benchmark], **knobs})


def test_refuses_benchmarks_of_one_name(benchmark):
    with pytest.raises(ValidationError, match="names of their own"):
        Evaluate(**{**KNOBS, "benchmarks": [benchmark, benchmark]})


def test_the_default_benchmark_is_the_projects_own():
    (benchmark,) = Evaluate().benchmarks
    assert benchmark.name == "starloom_tiny"
    assert set(Evaluate().identity()["benchmarks"][0]["path"]) == {"sha256"}
