"""Trainings for tests: a small one whose knobs may be changed, in this process or in one of its own."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from starloom.model.architecture import Architecture
from starloom.model.config import Running, Training, TrainingJob
from starloom.model.train import Trainer

ARCHITECTURE_KNOBS = {field.name for field in dataclasses.fields(Architecture)}
HOUSE = Path(__file__).parents[1]
ARCHITECTURE: dict[str, Any] = {"vocab_size": 64, "context_tokens": 32, "num_layers": 2, "num_heads": 2, "width": 32}
TRAINING: dict[str, Any] = {
    "num_steps": 150, "batch_sequences": 4, "learning_rate": 3e-3, "min_learning_rate": 3e-4, "warmup_steps": 10,
    "pad_token": 0, "threads": 1, "precision": "fp32",
}  # fmt: skip
RUNNING = {"checkpoint_every_steps": 9}


def write_packed(folder: Path) -> list[Path]:
    """Three parts of a language in which a token mostly decides the next one, written by arithmetic alone."""
    paths, token = [], 1
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
    """The job of these tests with some knobs changed, wherever they belong."""
    architecture: dict[str, Any] = {name: changed.pop(name) for name in list(changed) if name in ARCHITECTURE_KNOBS}
    running = {name: changed.pop(name) for name in list(changed) if name in Running.model_fields}
    training = {name: changed.pop(name) for name in list(changed) if name in Training.model_fields}
    knobs = {"architecture": ARCHITECTURE | architecture, "training": TRAINING | training, "running": RUNNING | running}
    return TrainingJob.model_validate({**knobs, "packed": packed, "out": folder / "out", "work": folder / "work", **changed})


def trainer_of(folder, packed, **changed):
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return Trainer(job_of(folder, packed, **changed))


def losses_of(trainer):
    return [step.loss for step in trainer.history]


def start(job: TrainingJob, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    job.work.parent.mkdir(parents=True, exist_ok=True)
    config = job.work.parent / "config.json"
    config.write_text(job.model_dump_json())
    argv = [sys.executable, *launcher, "-m", "starloom.model.train", str(config)]
    return subprocess.Popen(argv, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_until(process: subprocess.Popen[str], step: int) -> list[dict[str, Any]]:
    """Its lines up to the one of this step."""
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1].get("step", -1) >= step:
            return lines
    raise AssertionError(f"it ended before step {step}: {process.stderr.read()}")


def finish(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
