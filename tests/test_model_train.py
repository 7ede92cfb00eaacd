"""The trainer: it learns, it is the same every time, and nothing that happens to it costs more than time."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model import train
from model.checkpoint import load_network, newest_state
from model.config import TrainingJob
from model.data import Order
from model.train import Interruption, Trainer, TrainingError, learning_rate_at

HOUSE = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "tiny_losses.json"
ARCHITECTURE = {"vocab_size": 64, "context_tokens": 32, "num_layers": 2, "num_heads": 2, "width": 32}
TRAINING = {
    "num_steps": 150, "batch_sequences": 4, "learning_rate": 3e-3, "min_learning_rate": 3e-4, "warmup_steps": 10,
    "pad_token": 0, "checkpoint_every_steps": 9, "threads": 1,
}  # fmt: skip
RESULTS = ["batches.parquet", "config.json", "losses.parquet", "model.safetensors", "trainer_state.json"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> list[Path]:
    """Three parts of a language in which a token mostly decides the next one, written by arithmetic alone."""
    folder, paths, token = tmp_path_factory.mktemp("packed"), [], 1
    for part in range(3):
        rows = []
        for row in range(20):
            rows.append([])
            for at in range(32):
                token = (token * 5 + 7 + (row * 31 + at * at) % 3) % 63 + 1
                rows[-1].append(token)
            rows[-1][30:] = [0, 0] if row % 4 == 0 else rows[-1][30:]
        split = ["heldout" if row % 10 == 9 else "train" for row in range(20)]
        paths.append(folder / f"{part}.parquet")
        pq.write_table(pa.table({"split": split, "tokens": pa.array(rows, pa.list_(pa.uint16()))}), paths[-1])
    return paths


def job_of(folder: Path, packed: list[Path], **changed) -> TrainingJob:
    architecture = ARCHITECTURE | {key: changed.pop(key) for key in list(changed) if key in {*ARCHITECTURE, "dropout"}}
    return TrainingJob(architecture=architecture, training=TRAINING | changed, packed=packed, out=folder / "out", work=folder / "work")


def trainer_of(folder, packed, **changed):
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return Trainer(job_of(folder, packed, **changed))


def losses_of(trainer):
    return [row[2] for row in trainer.history]


def start(job: TrainingJob, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    job.work.parent.mkdir(parents=True, exist_ok=True)
    config = job.work.parent / "config.json"
    config.write_text(job.model_dump_json())
    argv = [sys.executable, *launcher, "-m", "model.train", str(config)]
    return subprocess.Popen(argv, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_until(process: subprocess.Popen, step: int) -> list[dict]:
    """Its lines up to the one of this step."""
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1].get("step", -1) >= step:
            return lines
    raise AssertionError(f"it ended before step {step}: {process.stderr.read()}")


def finish(process: subprocess.Popen) -> list[dict]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def same_results(one: Path, other: Path) -> bool:
    assert sorted(path.name for path in one.iterdir()) == RESULTS
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, packed) -> tuple[TrainingJob, list[dict]]:
    job = job_of(tmp_path_factory.mktemp("undisturbed"), packed, dropout=0.1)
    return job, finish(start(job))


def test_it_writes_what_it_promises(undisturbed, packed):
    job, lines = undisturbed
    assert [line["step"] for line in lines[:-1]] == list(range(1, 151))
    assert set(lines[0]) == {"step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
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


def test_resumed_on_several_threads_it_goes_on_to_the_bit(tmp_path, packed):
    changed = {"width": 192, "num_heads": 3, "threads": 2, "dropout": 0.1}
    undisturbed, first = trainer_of(tmp_path / "undisturbed", packed, **changed), trainer_of(tmp_path / "resumed", packed, **changed)
    for _ in range(3):
        undisturbed.take_step()
        first.take_step()
    first._save()
    second = trainer_of(tmp_path / "resumed", packed, **changed)
    second._resume()
    for trainer in (undisturbed, second):
        trainer.take_step()
        trainer.take_step()
    assert second.history == undisturbed.history
    weights = undisturbed.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in second.network.state_dict().items())


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


def test_left_alone_by_whoever_reads_it_it_ends(tmp_path, packed):
    """A run that was killed does not leave a trainer behind that the next run would meet."""
    process = start(job_of(tmp_path, packed, num_steps=10**7))
    lines_until(process, 3)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=20) > 0


def test_two_processes_see_the_same_batches_and_learn_the_same(tmp_path, packed, undisturbed):
    job = job_of(tmp_path, packed, num_steps=12, checkpoint_every_steps=5)
    lines = finish(start(job, ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")))
    alone = trainer_of(tmp_path / "alone", packed, num_steps=12)
    assert alone.run(Interruption()) == 0
    assert lines[-1]["summary"]["processes"] == 2
    assert (job.out / "batches.parquet").read_bytes() == (alone.job.out / "batches.parquet").read_bytes()
    np.testing.assert_allclose(pq.read_table(job.out / "losses.parquet")["loss"], losses_of(alone), rtol=1e-4)


def test_first_losses_are_the_recorded_ones(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed, num_steps=20)
    trainer.run(Interruption())
    recorded = json.loads(GOLDEN.read_text())
    np.testing.assert_allclose(losses_of(trainer), recorded, rtol=1e-4, err_msg=f"if that is meant, record {losses_of(trainer)}")


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
    with pytest.raises(TrainingError, match=r"step 2: loss (nan|inf).* part \d row \d+.*learning_rate") as caught:
        trainer.take_step()
    for place in trainer.reader.order.places(4, 4):
        part, row = trainer.sequences.origin[place]
        assert f"part {part} row {row}" in str(caught.value)
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.network.state_dict().items())


def test_a_full_disk_leaves_the_last_good_state(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed)
    trainer.take_step()
    trainer._save()
    trainer.take_step()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TrainingError, match="step 2: the state could not be saved.*Free some space"):
            trainer._save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(trainer.job.work.glob(".*.partial"))
    again = trainer_of(tmp_path, packed)
    again._resume()
    assert again.step == 1
    again.take_step()
    assert again.history == trainer.history


def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed)
    for _ in range(3):
        trainer.take_step()
        trainer._save()
    kept = sorted(trainer.job.work.glob("state-*.pt"))
    assert [path.name for path in kept] == ["state-00000002.pt", "state-00000003.pt"]
    with kept[-1].open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    found = newest_state(trainer.job.work)
    assert found is not None
    assert found[1]["step"] == 2


def test_a_state_of_other_settings_is_not_continued(tmp_path, packed):
    trainer = trainer_of(tmp_path, packed)
    trainer.take_step()
    trainer._save()
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
    assert "another trainer is at work" in capsys.readouterr().err


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


def test_the_schedule_climbs_then_falls_to_its_minimum():
    training = TrainingJob(architecture=ARCHITECTURE, training=TRAINING, packed=["x"], out="x", work="x").training
    rates = [learning_rate_at(step, training) for step in range(1, 151)]
    assert rates[:10] == pytest.approx([3e-4 * step for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[79] == pytest.approx((3e-3 + 3e-4) / 2)  # half-way down at half time
    assert rates[-1] == pytest.approx(3e-4)


def test_only_matrices_decay(tmp_path, packed):
    decayed, spared = trainer_of(tmp_path, packed).optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
