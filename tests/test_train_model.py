"""The training stage: presets, what its identity is, and a training from packed parts to a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from pydantic import ValidationError

from lineage.errors import InputError
from model.config import Architecture
from tasks._stage import Runtime
from tasks.kernels.special_tokens import STARCODER
from tasks.schemas import Batches, Losses, Packed, Tokenizer
from tasks.train_model import PRESETS, TrainModel, train_model


def test_a_preset_fills_what_is_not_given():
    cfg = TrainModel(num_steps=7, width=None)
    assert (cfg.num_steps, cfg.width, cfg.context_tokens) == (7, 128, 256)
    assert TrainModel(preset="starcoderbase-15b").width == 6144


def test_the_identity_is_the_knobs_and_not_where_they_come_from(tmp_path):
    (tmp_path / "mine.yaml").write_text("# the same\n" + (PRESETS / "tiny.yaml").read_text())
    mine = TrainModel.model_validate({"preset": "mine.yaml"}, context={"folder": str(tmp_path)})
    assert mine.preset != TrainModel().preset
    assert mine.identity() == TrainModel().identity()
    assert mine.identity()["learning_rate"] == 4e-3
    assert TrainModel(learning_rate=1e-3).identity() != mine.identity()
    for runtime_only in ({"checkpoint_every_steps": 3}, {"microbatch_sequences": 2}, {"num_processes": 4}):
        assert TrainModel(**runtime_only).identity() == mine.identity()


def test_a_config_read_again_elsewhere_is_the_same(tmp_path, monkeypatch):
    shape = "architecture: {width: 32, num_heads: 2, num_layers: 1, context_tokens: 16}\n"
    (tmp_path / "mine.yaml").write_text(shape + "training: {num_steps: 2, batch_sequences: 2, learning_rate: 0.1}\n")
    mine = TrainModel.model_validate({"preset": "mine.yaml"}, context={"folder": str(tmp_path)})
    monkeypatch.chdir(PRESETS)
    assert TrainModel.model_validate(mine.model_dump()) == mine


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"num_heads": 7}, "num_heads 7"),
        ({"preset": "tyni"}, "preset 'tyni' is neither a file .* nor one of starcoderbase-15b"),
        ({"learning_rate": 1e-5}, "min_learning_rate"),
        ({"num_steps": 0}, "num_steps"),
        ({"nmu_steps": 3}, "nmu_steps"),
    ],
)
def test_a_wrong_knob_is_refused_by_name(knobs, named):
    with pytest.raises(ValidationError, match=named):
        TrainModel(**knobs)


def test_a_misspelt_knob_of_a_preset_is_refused(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("architecture: {widht: 3}\n")
    with pytest.raises(ValidationError, match="widht"):
        TrainModel(preset=str(preset))
    preset.write_text("width: 3\n")
    with pytest.raises(ValidationError, match="needs `architecture` and `training`"):
        TrainModel(preset=str(preset))


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={name: at for at, name in enumerate([*STARCODER, *"abcdefgh"])}, merges=[]))
    model.add_special_tokens(list(STARCODER))
    (tmp_path / "tokenizer").mkdir()
    model.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    return Tokenizer.of(tmp_path / "tokenizer")


def packed_of(*parts: int) -> Packed:
    generator = np.random.default_rng(1)
    return Packed.of_parts([
        pa.table({
            "sequence": np.arange(rows),
            "split": ["heldout" if row == 1 else "train" for row in range(rows)],
            "tokens": pa.array(list(generator.integers(0, 27, (rows, 16), np.uint16)), pa.list_(pa.uint16())),
            "starts": [[0]] * rows,
        })
        for rows in parts
    ])  # fmt: skip


SHAPE = {"width": 32, "num_heads": 2, "num_layers": 1, "context_tokens": 16}
KNOBS = SHAPE | {"num_steps": 6, "batch_sequences": 2, "warmup_steps": 1, "threads": 1}


def test_it_trains_what_is_packed(tmp_path, tokenizer):
    told = []
    runtime = Runtime(tmp_path / "scratch", on_progress=lambda *said: told.append(said))
    runtime.scratch.mkdir()
    checkpoint, losses, batches = train_model.function(packed_of(4, 3), tokenizer, TrainModel(**KNOBS), runtime)
    assert checkpoint.names() == ["config.json", "model.safetensors", "trainer_state.json"]
    architecture = Architecture.from_checkpoint(checkpoint.path)
    assert (architecture.vocab_size, architecture.width) == (27, 32)
    told_to_others = json.loads((checkpoint.path / "config.json").read_text())
    assert [STARCODER[told_to_others[name]] for name in ("eos_token_id", "pad_token_id")] == ["<|endoftext|>", "<fim_pad>"]
    assert json.loads((checkpoint.path / "trainer_state.json").read_text())["parameters"] == architecture.num_parameters
    assert losses.read().schema.equals(Losses.SCHEMA)
    assert batches.read().schema.equals(Batches.SCHEMA)
    seen = {(row["part"], row["row"]) for row in batches.read().to_pylist()}
    assert seen == {(0, 0), (0, 2), (0, 3), (1, 0), (1, 2)}
    assert [(done, total, unit) for done, total, unit, _ in told] == [(step, 6, "steps") for step in range(1, 7)]
    assert [metrics["loss"] for *_, metrics in told] == losses.read()["loss"].to_pylist()
    assert runtime.notes["tokens"] == 6 * 2 * 16


def test_a_killed_training_goes_on_in_its_scratch_folder(tmp_path, tokenizer):
    def trained(folder):
        runtime = Runtime.alone(folder)
        cfg = TrainModel(**KNOBS, checkpoint_every_steps=4)
        checkpoint, losses, _ = train_model.function(packed_of(4, 3), tokenizer, cfg, runtime)
        return runtime.notes, (checkpoint.path / "model.safetensors").read_bytes(), losses.read()

    notes, weights, losses = trained(tmp_path / "scratch")
    assert (notes["steps"], "resumed_at_step" in notes) == (6, False)
    notes, again, losses_again = trained(tmp_path / "scratch")  # its state of step 4 is there, as after a kill
    assert (notes["steps"], notes["resumed_at_step"]) == (2, 4)
    assert again == weights
    assert losses_again.equals(losses)


def packed_alike(split: str, length: int) -> Packed:
    tokens = pa.array([[0] * length], pa.list_(pa.uint16()))
    return Packed.of(pa.table({"sequence": [0], "split": [split], "tokens": tokens, "starts": [[0]]}))


@pytest.mark.parametrize(
    ("packed", "message", "hint"),
    [
        (packed_alike("train", 17), "17 tokens, and this network reads 2 to 16", "pack_fim.sequence_length to 16 or less"),
        (packed_alike("train", 1), "1 tokens, and this network reads 2 to 16", "pack_fim.sequence_length"),
        (packed_alike("heldout", 16), "nothing to train on: of 1 packed sequences none", "lower pack_fim.heldout_fraction"),
        (packed_of(), "nothing to train on: of 0 packed sequences none", "left no documents"),
        (packed_of(0, 0), "nothing to train on: of 0 packed sequences none", "left no documents"),
    ],
)
def test_refuses_before_anything_starts_what_cannot_be_trained_on(packed, message, hint, tmp_path, tokenizer):
    runtime = Runtime.alone(tmp_path / "scratch")
    runtime.subprocess = lambda *_, **__: pytest.fail("a trainer was started")
    with pytest.raises(InputError, match=message) as caught:
        train_model.function(packed, tokenizer, TrainModel(**KNOBS), runtime)
    assert hint in str(caught.value.hint)
