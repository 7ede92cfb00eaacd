"""The trainer: it learns, it is the same every time, and nothing that happens to it costs more than time."""

# ruff: noqa: N806  # shapes as suffixes, as in model/

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml

from starloom.model import train
from starloom.model.architecture import Architecture
from starloom.model.config import TrainingJob
from starloom.model.data import Order
from starloom.model.formats import load_network, save_network
from starloom.model.network import GPT, targets_of
from starloom.model.train import Interruption, TrainingError
from tests.trainings import ARCHITECTURE, HOUSE, finish, job_of, lines_until, losses_of, start, trainer_of, write_packed

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "tiny_losses.json"
RESULTS = ["batches.parquet", "config.json", "losses.parquet", "model.safetensors", "trainer_state.json", "validation.parquet"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> list[Path]:
    return write_packed(tmp_path_factory.mktemp("packed"))


def same_results(one: Path, other: Path) -> bool:
    assert sorted(path.name for path in one.iterdir()) == RESULTS
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, packed) -> tuple[TrainingJob, list[dict[str, Any]]]:
    job = job_of(tmp_path_factory.mktemp("undisturbed"), packed, dropout=0.1)
    return job, finish(start(job))


def test_it_writes_what_it_promises(undisturbed, packed):
    job, lines = undisturbed
    assert [line["step"] for line in lines[1:-1]] == list(range(1, 151))
    assert {"step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "data_wait_seconds"} <= set(lines[1])
    assert lines[0]["about"]["parameters"] == job.architecture.num_parameters
    assert lines[-1]["summary"]["tokens"] == 150 * 4 * 32
    losses, batches = pq.read_table(job.out / "losses.parquet"), pq.read_table(job.out / "batches.parquet")
    assert losses.schema.equals(train.LOSSES)
    assert batches.schema.equals(train.BATCHES)
    assert losses["tokens"].to_pylist() == [128 * step for step in range(1, 151)]
    assert batches["step"].to_pylist() == [step for step in range(1, 151) for _ in range(4)]
    seen = [(part, row) for part, row in zip(batches["part"].to_pylist(), batches["row"].to_pylist(), strict=True)]
    train_rows = [(part, row) for part in range(3) for row in range(20) if row % 10 != 9]
    assert seen == [train_rows[place] for place in Order(len(train_rows), 0).places(0, 600)]
    state = json.loads((job.out / "trainer_state.json").read_text())
    assert (state["steps"], state["tokens"], state["seed"]) == (150, 150 * 128, 0)
    assert str(job.out.parent) not in (job.out / "trainer_state.json").read_text()
    assert load_network(job.out, torch.device("cpu")).architecture == job.architecture


def test_killed_at_any_step_it_ends_in_the_same_bytes(tmp_path, packed, undisturbed):
    job = job_of(tmp_path, packed, dropout=0.1)
    for step in (4, 70):
        process = start(job)
        lines_until(process, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    lines = finish(start(job))
    assert lines[0]["resumed"]["step"] >= 54  # the state of step 63, or if the kill hit its writing the one before
    assert same_results(job.out, undisturbed[0].out)
    assert not list(job.work.glob(".*.partial"))


@pytest.mark.parametrize(
    "changed", [{"checkpoint_every_steps": 4, "keep_states": 1, "keep_every_steps": 8, "log_every_steps": 3, "grace_seconds": 3}]
)
def test_how_often_it_saves_and_tells_moves_no_bit(tmp_path, packed, changed):
    usual, other = trainer_of(tmp_path / "usual", packed, num_steps=12), trainer_of(tmp_path / "other", packed, num_steps=12, **changed)
    assert usual.run(Interruption()) == other.run(Interruption()) == 0
    assert same_results(usual.job.out, other.job.out)
    assert len(usual.computed) == len(other.computed) == 1


def test_another_checkpoint_of_the_same_size_to_begin_with_is_another_training(tmp_path, packed):
    first = trainer_of(tmp_path / "first", packed, num_steps=11)
    assert first.run(Interruption()) == 0
    shutil.copytree(first.job.out, tmp_path / "initial")
    begun = trainer_of(tmp_path / "second", packed, num_steps=12, initial=tmp_path / "initial")
    begun.take_step()
    begun._save()
    begun._wait_for_state()
    trainer_of(tmp_path / "second", packed, num_steps=12, initial=tmp_path / "initial")._resume()
    weights = tmp_path / "initial" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(TrainingError, match="belongs to a training with other settings or data"):
        trainer_of(tmp_path / "second", packed, num_steps=12, initial=tmp_path / "initial")._resume()


def test_gone_on_with_smaller_microbatches_it_tells_from_which_step(tmp_path, packed, capsys):
    first = trainer_of(tmp_path, packed, num_steps=12)
    for _ in range(3):
        first.take_step()
    first.computed = [{"from_step": 1, **first.computing()}]
    first._save()
    first._wait_for_state()
    second = trainer_of(tmp_path, packed, num_steps=12, microbatch_sequences=1)
    assert second.run(Interruption()) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    told = lines[-1]["summary"]["computed_with"]
    assert [(each["from_step"], each["microbatch_sequences"]) for each in told] == [(1, 4), (4, 1)]


def test_resumed_on_several_threads_it_goes_on_to_the_bit(tmp_path, packed):
    changed = {"width": 192, "num_heads": 3, "threads": 2, "dropout": 0.1}
    undisturbed, first = trainer_of(tmp_path / "undisturbed", packed, **changed), trainer_of(tmp_path / "resumed", packed, **changed)
    for _ in range(3):
        undisturbed.take_step()
        first.take_step()
    first._save()
    first._wait_for_state()
    second = trainer_of(tmp_path / "resumed", packed, **changed)
    second._resume()
    for trainer in (undisturbed, second):
        trainer.take_step()
        trainer.take_step()
    assert second.history == undisturbed.history
    weights = undisturbed.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in second.network.state_dict().items())


def test_in_bf16_and_with_activations_computed_again_it_resumes_to_the_bit(tmp_path, packed):
    changed = {"precision": "bf16", "activation_checkpointing": True, "dropout": 0.1, "num_steps": 60}
    undisturbed, first = trainer_of(tmp_path / "undisturbed", packed, **changed), trainer_of(tmp_path / "resumed", packed, **changed)
    for _ in range(3):
        first.take_step()
    first._save()
    first._wait_for_state()
    second = trainer_of(tmp_path / "resumed", packed, **changed)
    for trainer in (undisturbed, second):
        assert trainer.run(Interruption()) == 0
    assert second.history == undisturbed.history
    assert (second.job.out / "model.safetensors").read_bytes() == (undisturbed.job.out / "model.safetensors").read_bytes()
    exact = trainer_of(tmp_path / "exact", packed, **changed | {"precision": "fp32", "activation_checkpointing": False})
    assert exact.run(Interruption()) == 0
    assert losses_of(exact) != losses_of(undisturbed)
    np.testing.assert_allclose(losses_of(exact), losses_of(undisturbed), rtol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of what it does itself, and counts on being able to
@pytest.mark.parametrize("changed", [{}, {"family": "starcoder2", "num_key_value_heads": 1, "attend_across_documents": False}])
def test_on_a_gpu_it_learns_what_it_learns_on_a_cpu_and_resumes_within_noise(tmp_path, packed, monkeypatch, changed):
    changed = changed | {"width": 128, "num_steps": 20, "microbatch_sequences": 2, "precision": "auto"}
    undisturbed, first = trainer_of(tmp_path / "undisturbed", packed, **changed), trainer_of(tmp_path / "resumed", packed, **changed)
    assert undisturbed.precision == "bf16"
    for _ in range(9):
        first.take_step()
    first._save()
    first._wait_for_state()
    second = trainer_of(tmp_path / "resumed", packed, **changed)
    for trainer in (undisturbed, second):
        assert trainer.run(Interruption()) == 0
    np.testing.assert_allclose(losses_of(second), losses_of(undisturbed), rtol=0.01)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = trainer_of(tmp_path / "cpu", packed, **changed)
    assert on_cpu.run(Interruption()) == 0
    np.testing.assert_allclose(losses_of(on_cpu), losses_of(undisturbed), rtol=0.03)


@pytest.mark.filterwarnings("ignore")  # as above
def test_compiled_blocks_learn_what_others_learn(tmp_path, packed, monkeypatch):
    real, compiled = torch.compile, []

    def compile_eagerly(function):
        compiled.append(real(function, backend="eager"))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    plain = trainer_of(tmp_path / "plain", packed)
    assert not compiled  # on a CPU it is not worth the wait
    fused = trainer_of(tmp_path / "fused", packed, compile="on", activation_checkpointing=True, microbatch_sequences=2)
    assert len(compiled) == len(fused.network.blocks)
    for _ in range(4):
        plain.take_step()
        fused.take_step()
    np.testing.assert_allclose(np.array(fused.history), np.array(plain.history), rtol=1e-4)


def test_asked_to_end_it_saves_and_leaves(tmp_path, packed, undisturbed):
    job = job_of(tmp_path, packed, dropout=0.1, checkpoint_every_steps=1000)
    process = start(job)
    lines_until(process, 5)
    asked = time.monotonic()
    process.terminate()
    rest, errors = process.communicate()
    assert time.monotonic() - asked < 5
    assert process.returncode == 143, errors
    last = json.loads(rest.splitlines()[-1])["step"] if rest else 5
    assert not job.out.exists()
    lines = finish(start(job))
    assert lines[0] == {"resumed": {"step": last}}
    assert same_results(job.out, undisturbed[0].out)


def test_a_save_that_takes_too_long_is_not_waited_for():
    code = (
        "import time; from starloom.model.train import Interruption; waiting = Interruption(); waiting.listen(); "
        "waiting.grace_seconds = 0.3; print('ready', flush=True); time.sleep(60); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=HOUSE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(timeout=20) == 143
    process.stdout.close()


def test_left_alone_by_whoever_reads_it_it_ends(tmp_path, packed):
    """A run that was killed does not leave a trainer behind that the next run would meet."""
    process = start(job_of(tmp_path, packed, num_steps=10**7))
    lines_until(process, 3)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=20) > 0


@pytest.mark.parametrize("name", ["starcoder", "starcoder2"])
def test_the_first_fifty_losses_of_the_tiny_preset_are_the_recorded_ones(tmp_path, packed, name):
    """A change that should not change numerics must not change this curve; `UPDATE_GOLDEN=1` records it again."""
    preset = yaml.safe_load((HOUSE / "conf" / "model" / "tiny.yaml").read_text())
    two = {"family": "starcoder2", "num_heads": 4, "num_key_value_heads": 2, "sliding_window": 16} if name == "starcoder2" else {}
    knobs = (
        preset["architecture"]
        | {"vocab_size": ARCHITECTURE["vocab_size"]}
        | two
        | preset["training"]
        | {"num_steps": 50, "attend_across_documents": name == "starcoder"}
    )
    knobs.pop("checkpoint_every_steps", None)
    trainer = trainer_of(tmp_path, packed, **knobs)
    trainer.run(Interruption())
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("UPDATE_GOLDEN"):
        golden[name] = losses_of(trainer)
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    np.testing.assert_allclose(losses_of(trainer), golden[name], rtol=1e-4)


def test_it_overfits_what_it_sees_again_and_again(tmp_path, packed):
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(packed[0]).slice(1, 4), few)
    trainer = trainer_of(tmp_path, [few], learning_rate=1e-2, num_steps=120)
    trainer.run(Interruption())
    assert trainer.history[0][2] > 4
    assert trainer.history[-1][2] < 0.05


@pytest.mark.parametrize("changed", [{"microbatch_sequences": 1}, {"microbatch_sequences": 2}])
def test_microbatches_change_nothing_but_memory(tmp_path, packed, changed):
    whole, parts = trainer_of(tmp_path / "whole", packed), trainer_of(tmp_path / "parts", packed, **changed)
    for _ in range(5):
        whole.take_step()
        parts.take_step()
    np.testing.assert_allclose(np.array(parts.history), np.array(whole.history), rtol=1e-4)


def test_a_loss_that_is_no_number_stops_it_and_names_the_sequences(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed, learning_rate=1e30, warmup_steps=0)
    trainer.take_step()
    weights = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    with pytest.raises(TrainingError, match=r"step 2: loss (nan|inf).* part \d row \d+.*weights of step 1.*learning_rate") as caught:
        trainer.take_step()
    for place in trainer.reader.order.places(4, 4):
        part, row = trainer.sequences.origin[place]
        assert f"part {part} row {row}" in str(caught.value)
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.network.state_dict().items())
    found = trainer.states.newest()
    assert found is not None
    assert found.step == 1


def poison(trainer, step, value=float("nan")):
    """Have the gradient of one step be something else."""
    clean = trainer._accumulate_gradient

    def accumulate(mine):
        loss = clean(mine)
        if trainer.step + 1 == step:
            trainer.network.wte.weight.grad.mul_(value)
        return loss

    trainer._accumulate_gradient = accumulate


def test_told_to_skip_it_leaves_the_step_out_and_goes_on(tmp_path, packed, capsys):
    trainer = trainer_of(tmp_path, packed, num_steps=12, on_divergence="skip")
    poison(trainer, 5)
    assert trainer.run(Interruption()) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (skipped,) = [line["skipped"] for line in lines if "skipped" in line]
    assert skipped["step"] == 5
    assert "part" in skipped["where"]
    losses = pq.read_table(trainer.job.out / "losses.parquet")
    assert losses.filter(losses["skipped"])["step"].to_pylist() == [5]
    assert losses.num_rows == 12


def test_a_skipped_step_changes_no_weight(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed, on_divergence="skip")
    poison(trainer, 2)
    trainer.take_step()
    weights = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.take_step()
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.network.state_dict().items())
    trainer.take_step()
    assert not torch.equal(weights["wte.weight"], trainer.network.wte.weight)


def test_it_does_not_skip_for_ever(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed, on_divergence="skip", max_skipped_steps=2, learning_rate=1e30, warmup_steps=0)
    for _ in range(3):
        trainer.take_step()
    with pytest.raises(TrainingError, match="step 4: loss .* after 2 steps in a row were skipped"):
        trainer.take_step()


def test_a_spike_of_the_gradient_is_divergence_where_that_is_asked_for(tmp_path, packed):
    calm, strict = trainer_of(tmp_path / "calm", packed), trainer_of(tmp_path / "strict", packed, spike_factor=50.0)
    for trainer in (calm, strict):
        poison(trainer, 30, 1e6)
        for _ in range(29):
            trainer.take_step()
    calm.take_step()
    with pytest.raises(TrainingError, match=r"step 30: loss .* times the median of the 29 steps before"):
        strict.take_step()


def test_the_documents_of_a_bad_step_are_named(tmp_path, packed):
    names = ["sequence", "token_start", "token_end", "doc_id", "byte_start", "role", "language"]
    spans = []
    for part in range(3):
        spans.append(tmp_path / f"spans-{part}.parquet")
        rows = [[row, 0, 32, f"{part:016x}{row:016x}", 0, "text", "C" if row % 2 else "Go"] for row in range(20)]
        pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), spans[-1])
    trainer = trainer_of(tmp_path, packed, spans=spans, validate_every_steps=2, num_steps=5)
    poison(trainer, 3)
    trainer.take_step()
    trainer.take_step()
    with pytest.raises(TrainingError) as caught:
        trainer.take_step()
    for place in trainer.reader.order.places(8, 4):
        part, row = trainer.sequences.origin[place]
        assert f"{part:016x}{row:016x}" in str(caught.value)


def test_the_heldout_loss_is_measured_by_language(tmp_path, packed):
    names = ["sequence", "token_start", "token_end", "doc_id", "byte_start", "role", "language"]
    spans = []
    for part in range(3):
        spans.append(tmp_path / f"spans-{part}.parquet")
        rows = [[row, 0, 32, "0" * 32, 0, "text", "C" if row == 9 else "Go"] for row in range(20)]
        pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), spans[-1])
    trainer = trainer_of(tmp_path, packed, spans=spans, validate_every_steps=2, num_steps=5, attend_across_documents=False)
    assert trainer.run(Interruption()) == 0
    table = pq.read_table(trainer.job.out / "validation.parquet")
    assert table.schema.equals(train.VALIDATION)
    assert table["step"].to_pylist() == [2, 2, 2, 4, 4, 4, 5, 5, 5]
    assert table["language"].to_pylist() == [None, "C", "Go"] * 3
    network, last = load_network(trainer.job.out, torch.device("cpu")), table.slice(6).to_pylist()
    for row, wanted in (("C", 9), ("Go", 19)):
        tokens_BT = torch.tensor([pq.read_table(path)["tokens"][wanted].as_py() for path in packed])
        losses_BT = network.token_losses(tokens_BT, targets_of(tokens_BT, 0))
        (measured,) = [line for line in last if line["language"] == row]
        assert measured["tokens"] == int((losses_BT != 0).sum())
        assert measured["loss"] == pytest.approx(float(losses_BT.sum()) / measured["tokens"], rel=1e-4)
    assert last[0]["tokens"] == last[1]["tokens"] + last[2]["tokens"]


def test_documents_kept_apart_train_as_if_each_were_a_sequence(tmp_path):
    rows, starts = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]], [[0, 3], [0, 5, 6]]
    apart = tmp_path / "apart.parquet"
    tokens, begins = pa.array(rows, pa.list_(pa.uint16())), pa.array(starts, pa.list_(pa.int32()))
    pq.write_table(pa.table({"split": ["train", "train"], "tokens": tokens, "starts": begins}), apart)
    trainer = trainer_of(tmp_path, [apart], batch_sequences=2, attend_across_documents=False)
    network, total = GPT(trainer.job.architecture), 0.0
    network.init_weights(0)
    documents = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11, 12, 13], [14], [15, 16]]
    for document in documents:
        tokens_BT = torch.tensor([document])
        total += float(network.token_losses(tokens_BT, targets_of(tokens_BT, 0)).sum())
    trainer.take_step()
    assert trainer.history[0].loss == pytest.approx(total / (16 - len(documents)), rel=1e-5)


# Going on from a trained network


@pytest.fixture(scope="module")
def trained(tmp_path_factory, packed):
    """A network of the second family that has learnt for a while."""
    two = {"family": "starcoder2", "num_key_value_heads": 1, "rope_theta": 100.0}
    trainer = trainer_of(tmp_path_factory.mktemp("trained"), packed, num_steps=60, **two)
    assert trainer.run(Interruption()) == 0
    return trainer


def test_training_goes_on_from_a_checkpoint_with_a_fresh_optimizer(tmp_path, packed, trained):
    """As StarCoder2's second stage: the same weights, another theta, window, context and learning rate."""
    changed = {"family": "starcoder2", "num_key_value_heads": 1, "rope_theta": 1000.0, "sliding_window": 8, "context_tokens": 64}
    trainer = trainer_of(tmp_path, packed, initial=trained.job.out, num_steps=10, learning_rate=1e-3, min_learning_rate=0, **changed)
    for (name, ours), (_, theirs) in zip(trainer.network.named_parameters(), trained.network.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert not trainer.optimizer.state
    assert trainer.run(Interruption()) == 0
    assert trainer.history[-1].loss < trained.history[0].loss - 0.5
    continued = load_network(trainer.job.out, torch.device("cpu")).architecture
    assert (continued.rope_theta, continued.sliding_window, continued.context_tokens) == (1000.0, 8, 64)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"family": "starcoder2", "rope_theta": 100.0, "width": 64}, "width is 64, but the checkpoint to continue has 32"),
        ({}, "family is 'gpt_bigcode', but the checkpoint to continue has 'starcoder2'"),
    ],
)
def test_a_checkpoint_of_another_shape_is_not_gone_on_with(tmp_path, packed, trained, changed, named):
    with pytest.raises(ValueError, match=named):
        trainer_of(tmp_path, packed, initial=trained.job.out, **changed)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers so
@pytest.mark.parametrize(
    "shape",
    [{}, {"num_key_value_heads": 2}, {"family": "starcoder2", "num_key_value_heads": 1}],
    ids=["one key head", "a key for each head", "starcoder2"],
)
def test_a_low_rank_adaptation_is_a_checkpoint_and_an_adapter_for_transformers(tmp_path, packed, shape):
    architecture, base = Architecture(**ARCHITECTURE, **shape), tmp_path / "base"
    network = GPT(architecture)
    network.init_weights(3)
    save_network(base, architecture, network.named_parameters())
    changed = {"initial": base, "num_steps": 8, "learning_rate": 1e-2, "lora": {"rank": 4}} | shape
    trainer = trainer_of(tmp_path, packed, **changed)
    assert sum(parameter.requires_grad for parameter in trainer.network.parameters()) == 2 * 4 * 2
    for _ in range(3):
        trainer.take_step()
    trainer._save()
    trainer._wait_for_state()
    again = trainer_of(tmp_path, packed, **changed)
    for one in (trainer, again):
        assert one.run(Interruption()) == 0
    assert again.history == trainer.history
    tokens_BT = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(1))
    whole = transformers.AutoModelForCausalLM.from_pretrained(trainer.job.out).eval()
    paired = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), trainer.job.out / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(paired(tokens_BT).logits, whole(tokens_BT).logits, rtol=1e-4, atol=1e-4)
        with paired.disable_adapter():
            assert not torch.allclose(paired(tokens_BT).logits, whole(tokens_BT).logits, atol=0.05)


# What goes wrong


def test_a_full_disk_leaves_the_last_good_state(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed)
    trainer.take_step()
    trainer._save()
    trainer._wait_for_state()
    trainer.take_step()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TrainingError, match="step 2: a state could not be saved.*bytes are free on its disk.*Free some space"):
            trainer._save()
            trainer._wait_for_state()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(trainer.states.folder.glob(".*.partial"))
    again = trainer_of(tmp_path, packed)
    again._resume()
    assert again.step == 1
    again.take_step()
    assert again.history == trainer.history


def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path, packed, capsys):
    trainer = trainer_of(tmp_path, packed)
    for _ in range(3):
        trainer.take_step()
        trainer._save()
    trainer._wait_for_state()
    kept = sorted(trainer.states.folder.iterdir())
    assert [path.name for path in kept] == ["step-00000002", "step-00000003"]
    with next(kept[-1].glob("*.distcp")).open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    again = trainer_of(tmp_path, packed)
    again._resume()
    assert again.step == 2
    assert '"damaged": {"step-00000003": ' in capsys.readouterr().out


def test_a_state_of_other_settings_is_not_continued(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed)
    trainer.take_step()
    trainer._save()
    trainer._wait_for_state()
    with pytest.raises(TrainingError, match="belongs to a training with other settings"):
        trainer_of(tmp_path, packed, learning_rate=1e-3).run(Interruption())


def test_two_trainers_do_not_share_a_work_folder(tmp_path, packed, monkeypatch, capsys):
    monkeypatch.setattr(train, "LOCK_SECONDS", 0)
    monkeypatch.setattr(Interruption, "listen", lambda self: None)
    job = job_of(tmp_path, packed)
    job.work.mkdir()
    (tmp_path / "config.json").write_text(job.model_dump_json())
    with (job.work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert train.main([str(tmp_path / "config.json")]) == 1
    assert "another trainer is running" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"context_tokens": 16}, "sequences of 32 tokens do not fit context_tokens 16"),
        ({"batch_sequences": 6, "microbatch_sequences": 4}, "batch_sequences 6"),
        ({"vocab_size": 40}, "vocab_size is 40"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_step(tmp_path, packed, changed, named):
    with pytest.raises((TrainingError, ValueError), match=named):
        trainer_of(tmp_path, packed, **changed)


def test_a_wrong_config_ends_in_a_message_and_status_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Interruption, "listen", lambda self: None)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"training": {"num_steps": 0}}))
    assert train.main([str(config)]) == 1
    assert "num_steps" in capsys.readouterr().err
    assert train.main([]) == 2


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"schedule": "wsd", "warmup_steps": 100, "decay_steps": 60}, "100 and decay_steps 60 together are more than num_steps 150"),
        ({"decay_steps": 5}, "decay_steps 5 is for the schedule wsd"),
        ({"betas": (0.9, 1.5)}, "betas"),
        ({"min_learning_rate": 1.0}, "min_learning_rate 1.0 is above"),
        ({"keep_every_steps": 5}, "keep_every_steps 5 is not a multiple of checkpoint_every_steps 9"),
        ({"lora": {"rank": 4}}, "lora adapts a trained network"),
    ],
)
def test_a_knob_that_makes_no_sense_is_refused_by_name(tmp_path, packed, knobs, named):
    with pytest.raises(ValueError, match=named):
        job_of(tmp_path, packed, **knobs)


def test_only_matrices_decay(tmp_path, packed):
    decayed, spared = trainer_of(tmp_path, packed).optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in spared["params"]} == {1}
