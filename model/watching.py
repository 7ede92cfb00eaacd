"""Logs of a training: cost and result of each step, as JSON lines, Parquet, TensorBoard files and lines of text.

Nothing here shapes a byte of a result: it may be changed without a training having to be done again (`starloom.lineage.code` leaves it
out of the identity of a training), and its files hold clocks, so they lie in `work` and not in `out`.

    timings.parquet      step, at, seconds, idle_seconds, data_wait_seconds, tokens_per_second, mfu, peak_memory_bytes
    samples.parquet      step, task, language, doc_id, prefix, suffix, original, written, finish: what the model wrote after a held-out
                         prefix, or between it and a suffix, where the document has `original` (`starloom.model.samples`)
    tensorboard/         the same and all losses, where tensorboard is installed

MFU is counted as `starloom.model.flops` says. Numbers are those of process 0: its memory, its wait for data. Tokens are those of
all processes.
"""

import datetime
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from starloom.model.architecture import Architecture
from starloom.model.files import replacing
from starloom.model.flops import flops_per_token, peak_memory_bytes, peak_of

TIMINGS_FILE, SAMPLES_FILE, TENSORBOARD_FOLDER = "timings.parquet", "samples.parquet", "tensorboard"
TIMINGS = pa.schema({
    "step": pa.int64(),
    "at": pa.timestamp("ms", "UTC"),
    "seconds": pa.float64(),
    "idle_seconds": pa.float64(),
    "data_wait_seconds": pa.float64(),
    "tokens_per_second": pa.float64(),
    "mfu": pa.float64(),
    "peak_memory_bytes": pa.int64(),
})  # fmt: skip
SAMPLES = pa.schema([
    ("step", pa.int64()),
    *((name, pa.string()) for name in ("task", "language", "doc_id", "prefix", "suffix", "original", "written", "finish")),
])  # fmt: skip
SCALARS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "mfu": "speed/mfu",
    "data_wait_seconds": "speed/data_wait_seconds",
    "peak_memory_bytes": "speed/peak_memory_bytes",
}
"""The TensorBoard tag of each field."""


class Step(NamedTuple):
    """The results of one training step; the columns of `losses.parquet`."""

    step: int
    tokens: int
    """Seen by all processes so far, this step included."""
    loss: float
    learning_rate: float
    grad_norm: float


def print_line(stream: IO[str] | None = None, /, **facts: Any) -> None:
    """Print one JSON line, at once."""
    print(json.dumps(facts), file=stream, flush=True)


class Watch:
    """A log of the steps of one training, which also prints them. Every process may call it; only process 0 prints.

    In the loop: `begin_step`, then `end_step` when the step's numbers are known (which waits for a GPU); `validated` where the
    held-out loss was measured, and `wrote` where the model wrote something; `flush` before a state is saved, so that no state is without
    the timings of its steps.
    """

    def __init__(
        self,
        work: Path,
        architecture: Architecture,
        *,
        num_steps: int,
        step_tokens: int,
        sequence_tokens: int,
        device: torch.device,
        precision: str,
        rank: int = 0,
        world: int = 1,
        every_steps: int = 1,
        stream: IO[str] | None = None,
    ) -> None:
        """Read and write nothing before `resume` or the first step.

        Args:
            work: folder of the files.
            architecture: of the network, for its FLOPs.
            num_steps: of the whole training.
            step_tokens: tokens of a step, over all processes.
            sequence_tokens: tokens of a sequence.
            device: of this process.
            precision: of the matrix products, bf16 or fp32.
            rank: number of this process.
            world: processes that train together.
            every_steps: steps between two lines, and between two points in TensorBoard.
            stream: where the lines go; stdout unless given. A terminal gets lines for people, everything else JSON.
        """
        self.work, self.num_steps, self.step_tokens, self.every_steps = work, num_steps, step_tokens, every_steps
        self.device, self.is_heard, self.stream = device, rank == 0, stream or sys.stdout
        self.flops_per_token = flops_per_token(architecture, sequence_tokens)
        peak = peak_of(device, precision)
        self.peak_flops = None if peak is None else peak * world
        self.first_step = 1
        self._kept = TIMINGS.empty_table()
        self._rows: list[tuple[Any, ...]] = []
        self._samples = SAMPLES.empty_table()
        self._began = self._ended = 0.0
        self._line_steps, self._line_seconds, self._line_wait = 0, 0.0, 0.0
        self._board: Any = None
        self._is_board_open = False

    # Around a step

    def resume(self, step: int) -> None:
        """Continue after `step`: notes of later steps, which will be taken again, are removed."""
        self.first_step = step + 1
        if self.is_heard:
            self._kept = _kept_up_to(step, self.work / TIMINGS_FILE, TIMINGS)
            self._samples = _kept_up_to(step, self.work / SAMPLES_FILE, SAMPLES)

    def begin_step(self) -> None:
        """Start the clock of a step; the time since the last one ended (saving, validating) is no part of it."""
        self._began = time.perf_counter()
        self._ended = self._ended or self._began

    def end_step(self, step: Step, data_wait_seconds: float) -> None:
        """Record the step that began.

        Args:
            step: what came of it.
            data_wait_seconds: of it, that it stood still for its tokens.
        """
        if not self.is_heard:
            return
        now = time.perf_counter()
        seconds, idle, self._ended = now - self._began, self._began - self._ended, now
        at = datetime.datetime.now(datetime.UTC)
        per_second = self.step_tokens / seconds
        peak_bytes = peak_memory_bytes(self.device)
        self._rows.append((step.step, at, seconds, idle, data_wait_seconds, per_second, self._mfu(per_second), peak_bytes))
        self._line_steps, self._line_seconds = self._line_steps + 1, self._line_seconds + seconds
        self._line_wait += data_wait_seconds
        if step.step % self.every_steps == 0 or step.step == self.num_steps:
            self._tell(step, peak_bytes)

    def validated(self, step: int, losses: Mapping[str, float], tokens: Mapping[str, int]) -> None:
        """Record the mean loss of the held-out tokens of each group, and how many they are, with the weights of `step`."""
        if not self.is_heard:
            return
        for group, loss in losses.items():
            self._point(f"validation/{group}", loss, step)
        if self.stream.isatty():
            told = "  ".join(f"{group} {loss:.4f}" for group, loss in losses.items())
            print(f"step {step:>7,}  held-out loss  {told}", file=self.stream, flush=True)
        else:
            print_line(self.stream, validation={"step": step, "losses": dict(losses), "tokens": dict(tokens)})

    def wrote(self, step: int, samples: list[dict[str, Any]]) -> None:
        """Record what the model wrote with the weights of `step`: rows of `SAMPLES`, without the step."""
        if not self.is_heard:
            return
        rows = pa.Table.from_pylist([{"step": step, **sample} for sample in samples], schema=SAMPLES)
        self._samples = pa.concat_tables([self._samples, rows])
        if self.stream.isatty():
            for sample in samples:
                told = f"{sample['language']}: after {sample['prefix'][-24:]!r} it writes {sample['written']!r}"
                print(f"step {step:>7,}  {told}", file=self.stream, flush=True)
        else:
            print_line(self.stream, samples={"step": step, "samples": samples})

    def flush(self) -> None:
        """Put everything on the disk, whole or not at all.

        Raises:
            OSError: the disk is full; what was there stands.
        """
        if not self.is_heard:
            return
        self._kept, self._rows = pa.concat_tables([self._kept, self._new()]), []
        with replacing(self.work / TIMINGS_FILE) as file:
            pq.write_table(self._kept, file, compression="zstd")
        if self._samples.num_rows:
            with replacing(self.work / SAMPLES_FILE) as file:
                pq.write_table(self._samples, file, compression="zstd")
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Flush, and end TensorBoard's thread."""
        self.flush()
        if self._board is not None:
            self._board.close()

    def summary(self) -> dict[str, Any]:
        """Return totals of the steps taken since the start or the resumption; MFU is the median step's, so that compiling is not in it."""
        timings = pa.concat_tables([self._kept, self._new()])
        timings = timings.filter(pc.greater_equal(timings["step"], self.first_step))
        steps = timings.num_rows
        total, idle, wait = (pc.sum(timings[name], min_count=0).as_py() for name in ("seconds", "idle_seconds", "data_wait_seconds"))
        middle = statistics.median(timings["seconds"].to_pylist()) if steps else 0.0
        return {
            "steps": steps,
            "tokens": steps * self.step_tokens,
            "seconds": round(total, 3),
            "idle_seconds": round(idle, 3),
            "data_wait_seconds": round(wait, 3),
            "median_step_seconds": round(middle, 6),
            "tokens_per_second": round(steps * self.step_tokens / total) if steps else 0,
            "mfu": self._mfu(self.step_tokens / middle) if steps else None,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }

    # Telling

    def _mfu(self, tokens_per_second: float) -> float | None:
        return None if self.peak_flops is None else tokens_per_second * self.flops_per_token / self.peak_flops

    def _tell(self, step: Step, peak_bytes: int) -> None:
        """Print a line about the steps since the last one."""
        per_second = self._line_steps * self.step_tokens / self._line_seconds
        line = step._asdict() | {
            "tokens_per_second": round(per_second),
            "mfu": self._mfu(per_second),
            "data_wait_seconds": round(self._line_wait, 6),
            "peak_memory_bytes": peak_bytes,
        }
        for name, tag in SCALARS.items():
            if line[name] is not None:
                self._point(tag, line[name], step.step)
        if self.stream.isatty():
            wait = self._line_wait / self._line_seconds
            print(_for_people(line, self.num_steps, wait), file=self.stream, flush=True)
        else:
            print_line(self.stream, **line)
        self._line_steps, self._line_seconds, self._line_wait = 0, 0.0, 0.0

    def _point(self, tag: str, value: float, step: int) -> None:
        if not self._is_board_open:
            self._board, self._is_board_open = _tensorboard(self.work / TENSORBOARD_FOLDER, self.first_step), True
        if self._board is not None:
            self._board.add_scalar(tag, value, step)

    def _new(self) -> pa.Table:
        columns: Iterable[Any] = zip(*self._rows, strict=True) if self._rows else [()] * len(TIMINGS)
        return pa.table([pa.array(values, field.type) for values, field in zip(columns, TIMINGS, strict=True)], schema=TIMINGS)


def _kept_up_to(step: int, path: Path, schema: pa.Schema) -> pa.Table:
    """Return the kept rows of steps up to `step`. A file that cannot be read is reported, and does not stop the training."""
    if not path.exists():
        return schema.empty_table()
    try:
        table = pq.read_table(path, schema=schema)
    except (OSError, pa.ArrowException) as error:
        print(f"{path} cannot be read and is started anew: {error}", file=sys.stderr, flush=True)
        return schema.empty_table()
    return table.filter(pc.less_equal(table["step"], step))


def _tensorboard(folder: Path, first_step: int) -> Any:
    """Return a writer of event files, or None without tensorboard. Earlier events of `first_step` and later are hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step, flush_secs=30)


def _for_people(line: Mapping[str, Any], num_steps: int, wait: float) -> str:
    mfu = "" if line["mfu"] is None else f"  MFU {line['mfu']:.1%}"
    return (
        f"step {line['step']:>7,} of {num_steps:,}  loss {line['loss']:.4f}  lr {line['learning_rate']:.2e}  norm {line['grad_norm']:.2f}  "
        f"{line['tokens_per_second']:>9,} tokens/s{mfu}  {line['peak_memory_bytes'] / 1e9:.2f} GB  waited {wait:.1%}"
    )
