"""What a network writes while it learns: greedy, of held-out documents, the same whatever happens, and no weight moves for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch

from starloom.model.formats import load_network
from starloom.model.samples import LEAST_TOKENS, Piece, by_turns, decode_greedily, prompt_of
from starloom.model.train import Interruption
from starloom.model.watching import SAMPLES
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from tests.trainings import finish, job_of, lines_until, start, trainer_of, write_packed

pytestmark = pytest.mark.slow
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Any]:
    """Packed parts, their spans (a document a sequence, in two languages), and a tokenizer that spells 64 tokens."""
    folder = tmp_path_factory.mktemp("data")
    packed, spans = write_packed(folder), []
    names = ["sequence", "token_start", "token_end", "doc_id", "byte_start", "role", "language"]
    for part in range(3):
        spans.append(folder / f"spans-{part}.parquet")
        rows = [[row, 0, 32, f"{part:016x}{row:016x}", 0, "text", "C" if row == 9 else "Go"] for row in range(20)]
        pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), spans[-1])
    letters = [*STARCODER, *(chr(0x100 + number) for number in range(64 - len(STARCODER)))]
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    model.add_special_tokens(list(STARCODER))
    model.save(str(folder / "tokenizer.json"))
    return {"packed": packed, "spans": spans, "tokenizer": folder / "tokenizer.json"}


def knobs(**changed) -> dict[str, Any]:
    return {"num_steps": 12, "validate_every_steps": 4, "sample_tokens": 6, "checkpoint_every_steps": 5, **changed}


def test_it_writes_what_greedy_decoding_without_a_cache_writes_and_trains_to_the_same_bytes(tmp_path, data):
    trainer = trainer_of(tmp_path / "a", **data, **knobs())
    assert trainer.run(Interruption()) == 0
    table = pq.read_table(trainer.job.work / "samples.parquet")
    assert table.schema.equals(SAMPLES)
    rows = table.to_pylist()
    assert [row["step"] for row in rows] == [4] * 4 + [8] * 4 + [12] * 4
    assert [(row["task"], row["language"]) for row in rows[:4]] == [
        ("continue", "C"),
        ("fill in", "Go"),
        ("continue", "C"),
        ("fill in", "Go"),
    ]
    network, sampler = load_network(trainer.job.out, torch.device("cpu")), trainer.sampler
    for prompt, row in zip(sampler.prompts, rows[8:], strict=True):
        tokens = list(prompt.tokens)
        while len(tokens) < len(prompt.tokens) + 6:
            tokens.append(int(network.logits(network.hidden(torch.tensor([tokens])))[0, -1].argmax()))
        new = tokens[len(prompt.tokens) :]
        end = next((at for at, token in enumerate(new) if token in sampler.ends), None)
        assert row["written"] == sampler.tokenizer.decode(new[:end], skip_special_tokens=False)
        assert row["finish"] == ("length" if end is None else "end")
    for silent in ({"sample_prompts": 0}, {"tokenizer": None}):
        other = trainer_of(tmp_path / str(silent), **{**data, **knobs(**silent)})
        assert other.run(Interruption()) == 0
        assert not (other.job.work / "samples.parquet").exists()
        for path in trainer.job.out.iterdir():
            assert path.read_bytes() == (other.job.out / path.name).read_bytes(), path.name


def test_a_killed_training_has_written_the_same(tmp_path, data):
    asked = {**data, **knobs(num_steps=90, validate_every_steps=30, checkpoint_every_steps=9)}
    whole = trainer_of(tmp_path / "whole", **asked)
    assert whole.run(Interruption()) == 0
    job = job_of(tmp_path / "killed", **asked)
    process = start(job)
    lines_until(process, 50)
    process.kill()
    process.communicate()
    lines = finish(start(job))
    assert 30 < lines[0]["resumed"]["step"] < 90
    assert (job.work / "samples.parquet").read_bytes() == (whole.job.work / "samples.parquet").read_bytes()
    told = [line["samples"] for line in lines if "samples" in line]
    assert [one["step"] for one in told] == [60, 90]
    kept = pq.read_table(job.work / "samples.parquet").to_pylist()
    assert [{"step": one["step"], **sample} for one in told for sample in one["samples"]] == kept[4:]


def test_shards_write_what_one_process_writes(tmp_path, data):
    alone = trainer_of(tmp_path / "alone", **data, **knobs(num_steps=4))
    assert alone.run(Interruption()) == 0
    lines = finish(start(job_of(tmp_path / "two", **data, **knobs(num_steps=4, parallel="fsdp")), TORCHRUN))
    (told,) = [line["samples"]["samples"] for line in lines if "samples" in line]
    expected = pq.read_table(alone.job.work / "samples.parquet").drop_columns("step").to_pylist()
    assert told == expected


def test_all_end_as_soon_as_nobody_reads_on(tmp_path, data):
    trainer = trainer_of(tmp_path, **data, **knobs())
    network, asked = trainer.network.eval(), [prompt.tokens for prompt in trainer.sampler.prompts]
    whole = decode_greedily(network, asked, 6, frozenset(), lambda tokens: tokens)
    assert [len(row) for row in whole] == [6] * 4
    ends = frozenset(row[0] for row in whole)
    assert decode_greedily(network, asked, 6, ends, lambda tokens: tokens) == [row[:1] for row in whole]


def piece(language: str, number: int, tokens: int = 40) -> Piece:
    return Piece(np.arange(20, 20 + tokens, dtype=np.uint16), language, f"{language}{number}")


def test_languages_take_turns_those_with_most_tokens_first():
    mixed = [piece("C", 0), piece("Go", 0), piece("Go", 1), piece("Rust", 0, 90), piece("Go", 2)]
    assert [one.doc_id for one in by_turns(mixed)] == ["Go0", "Rust0", "C0", "Go1", "Go2"]


@pytest.mark.parametrize("num_tokens", [LEAST_TOKENS, 40, 400])
@pytest.mark.parametrize("room", [2, 9, 40, 1000])
@pytest.mark.parametrize("fills_in", [False, True])
def test_a_prompt_and_its_original_are_neighbours_in_the_document_and_fit(data, num_tokens, room, fills_in):
    tokenizer = tokenizers.Tokenizer.from_file(str(data["tokenizer"]))
    one = Piece((np.arange(num_tokens) % 40 + 20).astype(np.uint16), "C", "d")
    prompt = prompt_of(one, tokenizer, room, 12, fills_in=fills_in)
    sentinels = 3 if fills_in else 0
    assert len(prompt.tokens) <= room + sentinels
    text = tokenizer.decode(one.tokens.tolist())
    strip = lambda words: words.replace(" ", "")  # noqa: E731 - a tokenizer without a decoder puts spaces between
    assert strip(text).startswith(strip(prompt.prefix + prompt.original + prompt.suffix))
    assert strip(prompt.original)
    assert bool(prompt.suffix) is fills_in


def test_without_sentinels_everything_is_continued(tmp_path):
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={chr(0x100 + at): at for at in range(64)}, merges=[]))
    assert prompt_of(piece("C", 0), model, 100, 8, fills_in=True).task == "continue"


def test_nothing_is_written_where_nothing_held_out_is_long_enough(tmp_path, data):
    short = [tmp_path / path.name for path in data["spans"]]
    for path, source in zip(short, data["spans"], strict=True):
        table = pq.read_table(source)
        half = table.set_column(2, "token_end", pa.array([LEAST_TOKENS - 1] * 20))
        rest = half.set_column(1, "token_start", half["token_end"]).set_column(2, "token_end", table["token_end"])
        rest = rest.set_column(4, "byte_start", pa.nulls(20, pa.int64()))
        pq.write_table(pa.concat_tables([half, rest]), path)
    assert trainer_of(tmp_path / "t", **{**data, "spans": short}, **knobs()).sampler is None
