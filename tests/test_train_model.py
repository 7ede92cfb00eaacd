"""The training stage: presets, what its identity is, and a training from packed parts to a checkpoint."""

# A preset fills knobs that have no default:
# mypy: disable-error-code="call-arg"

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import tokenizers
import torch
from pydantic import ValidationError

from starloom.lineage.errors import Cancelled, InputError, StageError
from starloom.model import processor
from starloom.model.architecture import Architecture
from starloom.model.config import Running, Training
from starloom.model.formats import save_network
from starloom.model.network import GPT
from starloom.model.numerics import chosen_device, resolved, resolved_to_train
from starloom.tasks.common import devices
from starloom.tasks.common.devices import device_of, precision_of, training_precision_of
from starloom.tasks.evaluate import Evaluate
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from starloom.tasks.schemas import Batches, Checkpoint, Losses, Packed, Spans, Tokenizer
from starloom.tasks.train_model import PRESETS, Launching, Shape, TrainModel, _job, train_model

pytestmark = pytest.mark.slow


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
    for name in NEUTRAL:
        other: Any = {"preset": "small", "on_divergence": "skip", "main_process_ip": "10.0.0.1", "keep_every_steps": 500}.get(name, 7)
        if name not in ("preset", "machine_rank"):  # those need others to change with them
            assert TrainModel(**{name: other}).identity() == mine.identity(), name
    assert set(TrainModel.model_fields) - set(mine.identity()) == NEUTRAL
    changes: list[dict[str, Any]] = [{"lora": {"rank": 2}}, {"schedule": "wsd"}, {"attend_across_documents": False}, {"dropout": 0.1}]
    for what in (*changes, {"spike_factor": 5}):
        assert TrainModel(**what).identity() != mine.identity()


NEUTRAL = {
    *("preset", "on_divergence", "max_skipped_steps"),
    *("checkpoint_every_steps", "keep_states", "keep_every_steps", "log_every_steps", "grace_seconds"),
    *("sample_prompts", "sample_tokens"),
    *("machine_rank", "main_process_ip", "main_process_port"),
}
"""Knobs that are not in the key. That the second line of them moves no bits is shown in test_model_train."""


def test_what_moves_bits_is_in_the_key_as_it_turns_out_and_an_unfinished_training_goes_on_without_it(monkeypatch):
    usual = TrainModel()
    changes: list[dict[str, Any]] = [{"num_processes": 2}, {"num_processes": 8}, {"microbatch_sequences": 2}, {"compile": "on"}]
    changes += [
        {"attention": "flash"},
        {"activation_checkpointing": True},
        {"num_processes": 2, "num_machines": 2, "main_process_ip": "a", "main_process_port": 1},
    ]
    keys = [json.dumps(TrainModel(**change).identity(), sort_keys=True) for change in changes]
    assert len({*keys, json.dumps(usual.identity(), sort_keys=True)}) == len(changes) + 1
    for change in changes:
        assert TrainModel(**change).continuation() == usual.continuation()
    assert TrainModel(microbatch_sequences=usual.batch_sequences, parallel="fsdp").identity() == usual.identity(), "one process is alone"
    assert TrainModel(num_processes=2, parallel="fsdp").identity() != TrainModel(num_processes=2).identity()
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.setattr(devices, "has_bf16_matrices", lambda: False)
    cpu = {kind: kind().identity() for kind in (TrainModel, Evaluate)}
    for kind, found in cpu.items():
        assert kind(precision="fp32", device="cpu").identity() == found
        assert (found["device"], found["precision"], found["attention"]) == ("cpu", "fp32", "sdpa")
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "has_flash", lambda: False)
    gpu = {kind: kind().identity() for kind in cpu}
    for kind, found in gpu.items():
        assert (found["device"], found["precision"], found["attention"]) == ("cuda", "bf16", "auto")
        assert kind(device="cpu").identity() == cpu[kind]
    assert gpu[TrainModel]["compile"] == "on"
    assert TrainModel().continuation() != TrainModel(device="cpu").continuation()
    monkeypatch.setattr(devices, "has_flash", lambda: True)
    assert [kind().identity()["attention"] for kind in gpu] == ["flash", "flash"]


@pytest.mark.parametrize(
    ("flags", "auto"),
    [("fpu avx512_bf16 amx_bf16 amx_tile", "bf16"), ("fpu avx512f avx512_bf16", "fp32"), ("fpu amx_bf16x", "fp32"), (None, "fp32")],
)
def test_a_training_takes_bf16_where_the_processor_multiplies_matrices_of_it(tmp_path, monkeypatch, flags, auto):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nbugs\t\t: amx_bf16\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    processor.has_bf16_matrices.cache_clear()
    try:
        cpu = torch.device("cpu")
        assert TrainModel(device="cpu").identity() == TrainModel(device="cpu", precision=auto).identity()
        assert (resolved_to_train(cpu, "auto"), training_precision_of("auto", "cpu")) == (auto, auto)
        assert (resolved_to_train(torch.device("cuda"), "auto"), training_precision_of("auto", "cuda")) == ("bf16", "bf16")
        assert {resolved_to_train(cpu, choice) for choice in ("fp32",)} == {training_precision_of("fp32", "cpu")} == {"fp32"}
        assert resolved(cpu, "auto") == precision_of("auto", "cpu") == Evaluate(device="cpu").identity()["precision"] == "fp32"
    finally:
        processor.has_bf16_matrices.cache_clear()


def test_whether_there_is_a_gpu_is_known_without_torch_as_torch_knows_it():
    program = "import sys; from starloom.tasks.common.devices import has_gpu; a = has_gpu(); assert 'torch' not in sys.modules; "
    program += "import torch; assert a == torch.cuda.is_available()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_trainer_is_told_what_the_key_says(tmp_path, tokenizer):
    job = _job(packed_of(2), spans_of(packed_of(2)), tokenizer, None, TrainModel.model_validate(KNOBS), tmp_path)
    assert (job.training.device, job.training.precision) == (device_of("auto"), training_precision_of("auto", device_of("auto")))
    assert job.running.compile in ("on", "off")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == chosen_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is cuda, and torch finds no GPU here"):
        chosen_device("cuda")


def test_every_number_of_a_network_and_of_a_training_has_a_knob_and_those_of_the_tokenizer_have_none():
    shape = {field.name for field in dataclasses.fields(Architecture)} - {"vocab_size"}
    assert set(Shape.model_fields) == shape
    knobs = set(TrainModel.model_fields)
    assert knobs == shape | (set(Training.model_fields) - {"pad_token", "eod_token"}) | set(Running.model_fields) | set(
        Launching.model_fields
    ) | {"preset"}


def test_machines_and_processes_are_told_to_the_launcher():
    assert TrainModel().launcher(3) == []
    many = TrainModel(num_processes=4, num_machines=2, machine_rank=1, main_process_ip="10.0.0.1", main_process_port=29500).launcher(2)
    told = dict(itertools.pairwise(many))
    assert [told[f"--{name}"] for name in ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")] == [
        "4", "2", "1", "10.0.0.1", "29500",
    ]  # fmt: skip
    assert "--multi_gpu" in many
    assert told["--num_cpu_threads_per_process"] == "2"


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
        ({"preset": "tyni"}, "preset 'tyni' is neither a file .* nor one of finetune, small"),
        ({"learning_rate": 1e-5}, "min_learning_rate"),
        ({"num_steps": 0}, "num_steps"),
        ({"nmu_steps": 3}, "nmu_steps"),
        ({"preset": "finetune"}, "batch_sequences"),
        ({"pad_token": 3}, "pad_token"),
        ({"vocab_size": 3}, "vocab_size"),
        ({"lora": {"rnak": 3}}, "rnak"),
        ({"keep_every_steps": 7}, "keep_every_steps 7"),
        ({"schedule": "wsd", "decay_steps": 399}, "decay_steps 399"),
        ({"rope_theta": 1e4}, "rope_theta 10000.0 is for starcoder2"),
        ({"num_processes": 3, "num_machines": 2}, "num_processes 3"),
        ({"num_machines": 1, "machine_rank": 1}, "machine_rank 1"),
        ({"num_processes": 2, "num_machines": 2}, "main_process_ip"),
        ({"num_processes": 3, "batch_sequences": 8}, "batch_sequences 8 cannot be shared equally by num_processes 3; make it"),
        ({"microbatch_sequences": 3, "batch_sequences": 8}, "batch_sequences 8 cannot be .* in microbatches of 3; make it"),
        ({"num_processes": 16, "batch_sequences": 8}, "batch_sequences 8 cannot"),
    ],
)
def test_a_wrong_knob_is_refused_by_name(knobs, named):
    with pytest.raises(ValidationError, match=named):
        TrainModel(**knobs)


def test_yamls_on_and_off_are_words_here():
    words: tuple[Any, ...] = (True, False, "on", "auto")
    assert [TrainModel(compile=word).compile for word in words] == ["on", "off", "on", "auto"]


def test_a_misspelt_knob_of_a_preset_is_refused(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("architecture: {widht: 3}\n")
    with pytest.raises(ValidationError, match="widht"):
        TrainModel(preset=str(preset))
    preset.write_text("width: 3\n")
    with pytest.raises(ValidationError, match="needs `architecture`"):
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


def spans_of(packed: Packed) -> Spans:
    """Each sequence one document, by turns of two languages."""
    tables = []
    for number, part in enumerate(packed.parts):
        tokens = part.read(["tokens"])["tokens"].to_pylist()
        rows = [
            {"sequence": row, "token_start": 0, "token_end": len(ids), "doc_id": f"{number:016x}{row:016x}", "copy": 0, "byte_start": 0,
             "byte_end": 3 * len(ids), "role": "text", "language": ("Python", "C")[row % 2]}
            for row, ids in enumerate(tokens)
        ]  # fmt: skip
        tables.append(pa.Table.from_pylist(rows, schema=Spans.SCHEMA))
    return Spans.of_parts(tables)


def train(packed, tokenizer, runtime, initial=None, **knobs):
    return train_model.function(packed, spans_of(packed), tokenizer, initial, TrainModel(**knobs), runtime)


SHAPE = {"width": 32, "num_heads": 2, "num_layers": 1, "context_tokens": 16}
KNOBS = SHAPE | {"num_steps": 6, "batch_sequences": 2, "warmup_steps": 1, "threads": 1}
ROTARY = KNOBS | {"family": "starcoder2", "num_key_value_heads": 1}


def scratch(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_it_trains_what_is_packed(tmp_path, tokenizer):
    told, appended = [], []
    runtime = Runtime(
        scratch(tmp_path / "scratch"), on_progress=lambda *said: told.append(said), on_append=lambda *said: appended.append(said)
    )
    checkpoint, losses, batches, validation = train(packed_of(4, 3), tokenizer, runtime, **KNOBS, validate_every_steps=4)
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
    measured = [(row["step"], row["language"], row["tokens"]) for row in validation.read().to_pylist()]
    assert measured == [(step, language, 30) for step in (4, 6) for language in (None, "C")]
    assert [(done, total, unit) for done, total, unit, _ in told] == [(step, 6, "steps") for step in range(1, 7)]
    assert [metrics["loss"] for *_, metrics in told] == losses.read()["loss"].to_pylist()
    assert [metrics.get("heldout_loss") for *_, metrics in told] == [None] * 4 + [validation.read()["loss"][0].as_py()] * 2
    assert runtime.notes["tokens"] == 6 * 2 * 16
    heldout = [entry for series, entry in appended if series == "heldout"]
    rows = [(each["step"], name, loss, each["tokens"][name]) for each in heldout for name, loss in each["losses"].items()]
    assert rows == [(row["step"], row["language"] or "all", row["loss"], row["tokens"]) for row in validation.read().to_pylist()]
    samples = [{"step": entry["step"], **one} for series, entry in appended if series == "samples" for one in entry["samples"]]
    assert samples == pq.read_table(runtime.shown["samples.parquet"]).to_pylist()
    assert [(one["step"], one["language"]) for one in samples] == [(step, "C") for step in (4, 4, 6, 6)]


def test_a_killed_training_goes_on_in_its_scratch_folder(tmp_path, tokenizer):
    def trained(folder):
        runtime = Runtime.alone(folder)
        checkpoint, losses, _, validation = train(packed_of(4, 3), tokenizer, runtime, **KNOBS, checkpoint_every_steps=4)
        assert validation.read().num_rows == 0
        return runtime.notes, (checkpoint.path / "model.safetensors").read_bytes(), losses.read()

    notes, weights, losses = trained(tmp_path / "scratch")
    assert (notes["steps"], "resumed_at_step" in notes) == (6, False)
    notes, again, losses_again = trained(tmp_path / "scratch")  # its state of step 4 is there, as after a kill
    assert (notes["steps"], notes["resumed_at_step"]) == (2, 4)
    assert again == weights
    assert losses_again.equals(losses)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_trainer_that_is_killed_is_said_to_be(num_processes, tmp_path, tokenizer):
    def kill_trainer(done: int, *_: object) -> None:
        if done == 3:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # another process that has just ended
                    words = path.read_bytes().split(b"\0")
                    if os.fsencode(tmp_path / "s" / "job.json") in words and b"accelerate.commands.launch" not in words:
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        return

    packed, knobs = packed_of(4, 3), KNOBS | {"num_steps": 3000, "checkpoint_every_steps": 1, "num_processes": num_processes}
    with pytest.raises(StageError, match=r"^the trainer after step \d[\d,]* of 3,000 ended without a message") as caught:
        train(packed, tokenizer, Runtime(scratch(tmp_path / "s"), on_progress=kill_trainer), **knobs)
    assert "microbatch_sequences" in caught.value.hint
    assert "it resumes from the last saved state" in caught.value.hint
    assert list((tmp_path / "s" / "work" / "states").glob("step-*"))


@pytest.mark.parametrize(("at_step", "kept"), [(0, "had saved nothing yet and starts again"), (3, r"resumes after step \d+$")])
def test_a_training_that_is_stopped_says_where_it_goes_on(at_step, kept, tmp_path, tokenizer):
    done = [0]
    runtime = Runtime(scratch(tmp_path / "s"), on_progress=lambda step, *_: done.append(step), is_cancelled=lambda: done[-1] >= at_step)
    with pytest.raises(Cancelled) as caught:
        train(packed_of(4, 3), tokenizer, runtime, **KNOBS | {"num_steps": 3000})
    assert re.search(kept, caught.value.hint)


def test_a_trainer_that_fails_is_heard_in_its_own_words_and_not_in_its_figures(tmp_path, tokenizer):
    knobs = KNOBS | {"learning_rate": 1e30, "min_learning_rate": 0.0}
    with pytest.raises(StageError, match=r"^the trainer failed after step \d of 6; its last lines:\nTrainingError: step ") as caught:
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "s"), **knobs)
    assert "{" not in caught.value.message


def test_of_several_trainers_the_reason_is_heard_and_not_their_launcher(tmp_path, tokenizer):
    knobs = KNOBS | {"learning_rate": 1e30, "min_learning_rate": 0.0, "num_processes": 2}
    with pytest.raises(StageError, match=r"its last lines:\nTrainingError: step \d: ") as caught:
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "s"), **knobs)
    assert "elastic" not in caught.value.message


# Going on from a checkpoint


def checkpoint_of(folder, **knobs) -> Checkpoint:
    """A network as if it had been trained: weights that no training begins with here."""
    architecture = Architecture(vocab_size=27, **{name: knobs[name] for name in Shape.model_fields if name in knobs})
    network = GPT(architecture)
    network.init_weights(7)
    save_network(folder, architecture, network.named_parameters())
    return Checkpoint.of(folder)


@pytest.fixture
def trained(tmp_path) -> Checkpoint:
    return checkpoint_of(tmp_path / "trained", **ROTARY)


def test_it_goes_on_from_a_checkpoint_and_may_make_its_context_longer(trained, tmp_path, tokenizer):
    longer: dict[str, Any] = {"context_tokens": 64, "rope_theta": 1e6, "sliding_window": 8}
    knobs = {"preset": "finetune", "batch_sequences": 2, "threads": 1, "warmup_steps": 0, "num_steps": 1, "learning_rate": 1e-9}
    runtime = Runtime.alone(tmp_path / "second")
    checkpoint, *_ = train(packed_of(4), tokenizer, runtime, trained, **knobs, **longer, min_learning_rate=0)
    before, after = Architecture.from_checkpoint(trained.path), Architecture.from_checkpoint(checkpoint.path)
    assert dataclasses.replace(before, **longer) == after
    weights, again = (safetensors.numpy.load_file(folder.path / "model.safetensors") for folder in (trained, checkpoint))
    assert {name: array.shape for name, array in weights.items()} == {name: array.shape for name, array in again.items()}
    assert all(np.abs(weights[name] - again[name]).max() < 1e-7 for name in weights), "so small a step leaves the weights where they were"


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        (ROTARY | {"width": 64}, "width is 64, but the checkpoint to continue has 32"),
        (ROTARY | {"num_layers": 2}, "num_layers is 2, but the checkpoint to continue has 1"),
        (ROTARY | {"tied_head": False}, "tied_head is False"),
        (KNOBS | {"family": "gpt_bigcode"}, "rope_theta"),
        ({"num_steps": 3}, "num_layers is 2|width is 128"),
    ],
)
def test_what_no_weights_fit_is_refused_by_name(trained, knobs, told, tmp_path, tokenizer):
    with pytest.raises(InputError, match=told) as caught:
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "second"), trained, **knobs)
    assert "finetune" in str(caught.value.hint)


def test_the_positions_of_starcoders_kind_are_learned_and_so_not_more_of_them(tmp_path, tokenizer):
    trained = checkpoint_of(tmp_path / "trained", **KNOBS)
    with pytest.raises(InputError, match="context_tokens is 32, but the checkpoint to continue has 16"):
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "second"), trained, **KNOBS | {"context_tokens": 32})


def test_a_tokenizer_of_more_tokens_than_the_checkpoint_knows_is_refused_with_both_numbers(trained, tmp_path, tokenizer):
    model = tokenizers.Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    model.add_tokens(["one more"])
    model.save(str(tokenizer.path / "tokenizer.json"))
    with pytest.raises(InputError, match="tokenizer has 28 tokens, but the checkpoint to continue has 27"):
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "second"), trained, **ROTARY)


def test_a_low_rank_adaptation_leaves_its_adapter_beside_the_whole_network(trained, tmp_path, tokenizer):
    knobs = ROTARY | {"lora": {"rank": 2, "alpha": 4}}
    checkpoint, *_ = train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "second"), trained, **knobs)
    assert {"config.json", "model.safetensors", "adapter/adapter_model.safetensors"} <= set(checkpoint.names())
    with pytest.raises(InputError, match="lora adapts a trained network, and no step above"):
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "third"), **knobs)


def test_without_a_checkpoint_the_shape_must_be_given(tmp_path, tokenizer):
    knobs = {"preset": "finetune", "num_steps": 1, "batch_sequences": 2, "warmup_steps": 0, "width": 32}
    with pytest.raises(InputError, match=r"train_model\.num_layers, train_model\.num_heads not given, and no step above") as caught:
        train(packed_of(4), tokenizer, Runtime.alone(tmp_path / "second"), **knobs)
    assert "import_checkpoint" in str(caught.value.hint)


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
def test_refuses_before_anything_starts_what_cannot_be_trained_on(packed, message, hint, tmp_path, tokenizer, monkeypatch):
    runtime = Runtime.alone(tmp_path / "scratch")
    monkeypatch.setattr(runtime, "subprocess", lambda *_, **__: pytest.fail("a trainer was started"))
    with pytest.raises(InputError, match=message) as caught:
        train(packed, tokenizer, runtime, **KNOBS)
    assert hint in str(caught.value.hint)
