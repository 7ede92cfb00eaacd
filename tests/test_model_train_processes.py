"""The trainer on many processes and machines: it learns what one process learns, and where one of them ends, all do."""

import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from starloom.model.data import Order
from starloom.model.train import Interruption
from tests.trainings import finish, job_of, lines_until, losses_of, start, trainer_of, write_packed

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> list[Path]:
    return write_packed(tmp_path_factory.mktemp("packed"))


@pytest.mark.long  # `test_two_machines_that_share_a_folder_train_as_one` shows it of two processes too
def test_two_processes_see_the_same_batches_and_learn_the_same(tmp_path, packed):
    job = job_of(tmp_path, packed, num_steps=12, checkpoint_every_steps=5)
    lines = finish(start(job, (*TORCHRUN, "2")))
    alone = trainer_of(tmp_path / "alone", packed, num_steps=12)
    assert alone.run(Interruption()) == 0
    assert lines[-1]["summary"]["processes"] == 2
    assert (job.out / "batches.parquet").read_bytes() == (alone.job.out / "batches.parquet").read_bytes()
    np.testing.assert_allclose(pq.read_table(job.out / "losses.parquet")["loss"], losses_of(alone), rtol=1e-4)


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param("ddp", None, marks=pytest.mark.long), (None, "fsdp"), pytest.param("fsdp", "ddp", marks=pytest.mark.long)],
)
def test_a_training_goes_on_with_another_number_of_processes(tmp_path, packed, first, second):
    """No sequence repeats or is lost, and the curve is that of one process but for rounding."""
    alone = trainer_of(tmp_path / "alone", packed, num_steps=14, spike_factor=1e9)
    assert alone.run(Interruption()) == 0
    for parallel, is_last in ((first, False), (second, True)):
        changed = {"parallel": parallel or "ddp", "checkpoint_every_steps": 7, "num_steps": 14, "spike_factor": 1e9}
        process = start(job_of(tmp_path / "moved", packed, **changed), (*TORCHRUN, "2") if parallel else ())
        if is_last:
            lines = finish(process)
            assert lines[0] == {"resumed": {"step": 7}}
        else:
            lines_until(process, 8)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            for state in sorted((tmp_path / "moved" / "work" / "states").iterdir())[1:]:
                shutil.rmtree(state)  # what it saved on leaving: go on from step 7
    out = tmp_path / "moved" / "out"
    assert (out / "batches.parquet").read_bytes() == (alone.job.out / "batches.parquet").read_bytes()
    np.testing.assert_allclose(pq.read_table(out / "losses.parquet")["loss"], losses_of(alone), rtol=1e-4)


def test_processes_that_diverge_together_name_the_sequences_of_all_of_them(tmp_path, packed):
    job = job_of(tmp_path, packed, learning_rate=1e30, warmup_steps=0)
    out, errors = start(job, (*TORCHRUN, "2")).communicate(timeout=120)
    told = [line for line in errors.splitlines() if line.startswith("TrainingError: step 2: loss")]
    assert told, errors
    rows = [(part, row) for part in range(3) for row in range(20) if row % 10 != 9]
    for place in Order(len(rows), 0).places(4, 4):
        assert "part {} row {}".format(*rows[place]) in told[0]
    assert '"step": 1' in out
    assert [path.name for path in (job.work / "states").iterdir()] == ["step-00000001"]


def test_two_machines_that_share_a_folder_train_as_one(tmp_path, packed):
    job = job_of(tmp_path, packed, num_steps=12, checkpoint_every_steps=5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--nproc_per_node=1", "--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={port}")
    machines = [start(job, ("-m", "torch.distributed.run", *where, f"--node_rank={rank}")) for rank in (0, 1)]
    first, second = (finish(machine) for machine in machines)
    assert first[-1]["summary"]["processes"] == 2
    assert not second  # it is not heard
    alone = trainer_of(tmp_path / "alone", packed, num_steps=12)
    assert alone.run(Interruption()) == 0
    assert (job.out / "batches.parquet").read_bytes() == (alone.job.out / "batches.parquet").read_bytes()
    np.testing.assert_allclose(pq.read_table(job.out / "losses.parquet")["loss"], losses_of(alone), rtol=1e-4)


def test_where_the_first_process_fails_the_others_end_too(tmp_path, packed):
    """It alone reads the packed files, while the second waits for it."""
    process = start(job_of(tmp_path, packed, vocab_size=40), (*TORCHRUN, "2"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "vocab_size is 40" in errors
