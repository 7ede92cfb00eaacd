"""Watching a training: the numbers add up, no step is told twice, and what is not known is not guessed."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from starloom.model import watching
from starloom.model.architecture import Architecture
from starloom.model.flops import PEAK_FLOPS, flops_per_token, peak_flops
from starloom.model.watching import TIMINGS, Step, Watch

CPU = torch.device("cpu")
TINY = Architecture(vocab_size=64, context_tokens=32, num_layers=2, num_heads=2, width=32)
H200_FLOPS = 989.4e12


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watch_of(work, stream=None, **changed):
    knobs: dict[str, Any] = {
        "num_steps": 9,
        "step_tokens": 128,
        "sequence_tokens": 32,
        "device": CPU,
        "precision": "fp32",
        "stream": stream or io.StringIO(),
    }
    return Watch(work, TINY, **(knobs | changed))


def step_of(number):
    return Step(number, number * 128, 5.0 / number, 1e-3, 0.5)


def take(watch, numbers, clock=None, seconds=2.0, idle=0.0, wait=0.0):
    for number in numbers:
        if clock:
            clock.now += idle
        watch.begin_step()
        if clock:
            clock.now += seconds
        watch.end_step(step_of(number), wait)


def lines_of(watch):
    return [json.loads(line) for line in watch.stream.getvalue().splitlines()]


# Numbers


def test_a_line_and_a_row_say_how_long_a_step_took_and_what_it_waited_for(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    watch = watch_of(tmp_path)
    take(watch, [1, 2, 3], clock, seconds=2.0, idle=0.5, wait=0.25)
    watch.close()
    assert [line["step"] for line in lines_of(watch)] == [1, 2, 3]
    told = {name: value for name, value in lines_of(watch)[1].items() if name != "peak_memory_bytes"}
    assert told == {
        "step": 2, "tokens": 256, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.5,
        "tokens_per_second": 64, "mfu": None, "data_wait_seconds": 0.25,
    }  # fmt: skip
    timings = pq.read_table(tmp_path / "timings.parquet")
    assert timings.schema.equals(TIMINGS)
    rows = timings.to_pylist()
    assert [row["seconds"] for row in rows] == [2.0, 2.0, 2.0]
    assert [row["idle_seconds"] for row in rows] == [0.0, 0.5, 0.5]  # before the first there was nothing
    assert [row["data_wait_seconds"] for row in rows] == [0.25] * 3
    assert {row["tokens_per_second"] for row in rows} == {64.0}
    assert all(row["peak_memory_bytes"] > 10**7 for row in rows)
    assert sorted(row["at"] for row in rows) == [row["at"] for row in rows]


def test_a_line_speaks_for_all_steps_since_the_one_before(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    watch = watch_of(tmp_path, every_steps=4)
    take(watch, [1, 2, 3], clock, seconds=1.0, wait=0.1)
    take(watch, [4], clock, seconds=5.0, wait=0.5)
    take(watch, range(5, 10), clock, seconds=1.0)
    lines = lines_of(watch)
    assert [line["step"] for line in lines] == [4, 8, 9]  # the last is always told
    assert [line["tokens_per_second"] for line in lines] == [64, 128, 128]
    assert [line["data_wait_seconds"] for line in lines] == [0.8, 0, 0]


def test_the_summary_adds_up_the_steps_since_the_start_or_the_resumption(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    first = watch_of(tmp_path)
    take(first, [1, 2], clock, seconds=50.0)
    first.flush()
    second = watch_of(tmp_path)
    assert second.summary()["steps"] == second.summary()["tokens_per_second"] == 0
    second.resume(2)
    take(second, [3], clock, seconds=9.0)
    take(second, [4, 5], clock, seconds=0.5, idle=1.5, wait=0.125)
    summary = second.summary()
    assert summary.pop("peak_memory_bytes") > 10**7
    assert summary == {
        "steps": 3, "tokens": 384, "seconds": 10.0, "idle_seconds": 3.0, "data_wait_seconds": 0.25,
        "median_step_seconds": 0.5, "tokens_per_second": 38, "mfu": None,
    }  # fmt: skip


def test_mfu_is_the_networks_arithmetic_over_the_peak_of_all_devices(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(watching, "peak_of", lambda device, precision: 1e6)
    watch = watch_of(tmp_path, world=4)
    take(watch, [1], clock, seconds=2.0)
    expected = 128 * flops_per_token(TINY, 32) / (2.0 * 4e6)
    assert lines_of(watch)[0]["mfu"] == pytest.approx(expected)
    assert watch.summary()["mfu"] == pytest.approx(expected)
    watch.flush()
    assert pq.read_table(tmp_path / "timings.parquet")["mfu"].to_pylist() == [pytest.approx(expected)]


SHAPES = st.fixed_dictionaries({
    "vocab_size": st.integers(1, 99), "context_tokens": st.integers(2, 64), "num_layers": st.integers(1, 4),
    "num_heads": st.sampled_from([2, 4]), "width": st.sampled_from([16, 32]), "inner_width": st.sampled_from([0, 24]),
    "num_key_value_heads": st.sampled_from([1, 2]),
    "sliding_window": st.none() | st.integers(1, 70), "tied_head": st.booleans(),
})  # fmt: skip


@given(SHAPES)
def test_flops_are_those_of_the_matrices_that_a_network_multiplies_by(shape):
    from starloom.model.network import GPT

    architecture = Architecture(family="starcoder2", **shape)
    with torch.device("meta"):
        network = GPT(architecture)
    matrices = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim == 2)
    lookups = 0 if architecture.tied_head else architecture.vocab_size * architecture.width  # a tied one is looked up in and multiplied by
    length = architecture.context_tokens
    assert flops_per_token(architecture, length, pairs=False) == 6 * (matrices - lookups)
    seen = min(length, shape["sliding_window"] or length)
    heads = architecture.num_heads * architecture.head_width
    assert flops_per_token(architecture, length) == 6 * (matrices - lookups) + 12 * shape["num_layers"] * heads * seen


def test_flops_of_a_published_network():
    """StarCoderBase-1B at 8,192 tokens: 1.120 billion entries in matrices besides learned positions."""
    base = Architecture(vocab_size=49152, context_tokens=8192, num_layers=24, num_heads=16, width=2048)
    entries = base.num_parameters - 8192 * 2048
    assert flops_per_token(base, 8192, pairs=False) == pytest.approx(6 * entries, rel=1e-3)  # biases and LayerNorms are a thousandth
    assert flops_per_token(base, 8192) - flops_per_token(base, 8192, pairs=False) == 12 * 24 * 2048 * 8192


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835.5), ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H200", 989.4), ("NVIDIA H200 NVL", 835.5), ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121), ("NVIDIA L40", 181.05), ("NVIDIA L40S", 362.05), ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA H200 MIG 1g.18gb", None), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H20", None), ("Tesla V100-SXM2-16GB", None), ("", None),
    ],
)  # fmt: skip
def test_the_peak_of_a_device_is_known_or_not_told(device, tera):
    assert peak_flops(device) == (None if tera is None else tera * 1e12)


def test_no_device_has_two_peaks():
    names = [
        "NVIDIA A100 80GB PCIe",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 NVL",
        "NVIDIA H200",
        "NVIDIA H200 NVL",
        "NVIDIA L4",
        "NVIDIA L40",
    ]
    assert {name: sum(bool(re.fullmatch(pattern, name)) for pattern, _ in PEAK_FLOPS) for name in names} == dict.fromkeys(names, 1)


# Surviving


def test_a_resumed_training_has_one_row_a_step(tmp_path):
    first = watch_of(tmp_path)
    take(first, range(1, 4))
    first.flush()  # before the state of step 3 is saved
    take(first, range(4, 6))
    first.flush()  # and that of step 5 turns out to be damaged; here it was killed
    second = watch_of(tmp_path)
    second.resume(3)
    take(second, range(4, 10))
    second.close()
    assert pq.read_table(tmp_path / "timings.parquet")["step"].to_pylist() == list(range(1, 10))


def test_one_that_was_killed_before_its_first_state_begins_anew(tmp_path):
    first = watch_of(tmp_path)
    take(first, [1, 2])
    first.flush()
    second = watch_of(tmp_path)
    take(second, [1])
    second.close()
    assert pq.read_table(tmp_path / "timings.parquet")["step"].to_pylist() == [1]


def test_a_damaged_file_of_timings_ends_no_training(tmp_path, capsys):
    (tmp_path / "timings.parquet").write_bytes(b"PAR1 and then nothing")
    watch = watch_of(tmp_path)
    watch.resume(3)
    take(watch, [4])
    watch.close()
    assert "timings.parquet cannot be read and is started anew" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "timings.parquet")["step"].to_pylist() == [4]


def test_only_the_first_process_is_heard(tmp_path):
    watch = watch_of(tmp_path, rank=1, world=2)
    watch.resume(0)
    take(watch, [1, 2])
    watch.validated(2, {"all": 1.0}, {"all": 90})
    watch.close()
    assert watch.stream.getvalue() == ""
    assert list(tmp_path.iterdir()) == []


# Telling


def test_the_held_out_losses_are_a_line_that_is_no_step(tmp_path):
    watch = watch_of(tmp_path)
    watch.validated(4, {"all": 2.5, "Python": 2.25}, {"all": 90, "Python": 60})
    assert lines_of(watch) == [{"validation": {"step": 4, "losses": {"all": 2.5, "Python": 2.25}, "tokens": {"all": 90, "Python": 60}}}]


def test_people_at_a_terminal_get_lines_to_read(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(watching, "peak_of", lambda device, precision: H200_FLOPS)
    watch = watch_of(tmp_path, stream=Terminal(), step_tokens=2_000_000_000)
    take(watch, [1], clock, seconds=2.0, wait=0.02)
    watch.validated(1, {"all": 4.25}, {"all": 90})
    step, heldout = watch.stream.getvalue().splitlines()
    assert step.startswith("step       1 of 9  loss 5.0000  lr 1.00e-03  norm 0.50  1,000,000,000 tokens/s  MFU 17.4%")
    assert step.endswith("waited 1.0%")
    assert heldout == "step       1  held-out loss  all 4.2500"


def points_of(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_step_once_however_often_it_was_taken(tmp_path):
    first = watch_of(tmp_path)
    take(first, range(1, 6))
    first.validated(4, {"Python": 9.0}, {"Python": 60})
    first.close()
    second = watch_of(tmp_path)
    second.resume(3)
    take(second, range(4, 7))
    second.validated(4, {"Python": 1.5}, {"Python": 60})
    second.close()
    points = points_of(tmp_path / "tensorboard")
    assert set(points) == {*watching.SCALARS.values(), "validation/Python"} - {"speed/mfu"}  # of this device it is not known
    assert points["train/loss"] == [(step, pytest.approx(5.0 / step)) for step in range(1, 7)]
    assert points["validation/Python"] == [(4, 1.5)]


@pytest.mark.slow
def test_without_tensorboard_nothing_is_missed(tmp_path):
    """As on a bare machine, where importing it fails."""
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "__init__.py").write_text("raise ImportError\n")
    code = """
import io, pathlib, torch
from starloom.model.architecture import Architecture
from starloom.model.watching import Step, Watch
shape = Architecture(vocab_size=8, context_tokens=4, num_layers=1, num_heads=1, width=4)
watch = Watch(pathlib.Path("work"), shape, num_steps=1, step_tokens=4, sequence_tokens=4, device=torch.device("cpu"), precision="fp32")
watch.begin_step()
watch.end_step(Step(1, 4, 1.0, 0.1, 0.5), 0.0)
watch.close()
"""
    house = Path(watching.__file__).parents[1]
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{house}"}, capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    assert json.loads(told.stdout)["step"] == 1
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["timings.parquet"]
