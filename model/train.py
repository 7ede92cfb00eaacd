"""The trainer: from packed sequences to a checkpoint, by one loop that survives being killed.

    accelerate launch -m model.train config.json        any number of processes
    python -m model.train config.json                   one

`config.json` is a `model.config.TrainingJob`. Written to `out` at the end: `model.safetensors`, `config.json`, `trainer_state.json`,
`losses.parquet` (step, tokens, loss, learning_rate, grad_norm) and `batches.parquet` (step, part, row: every sequence seen, in
order). One JSON line a step goes to stdout, and a last one with the timings, which are in no file.

- AdamW, decoupled decay on matrices only; linear warm-up, cosine to the minimum; gradient clipped by its global norm.
- Everything random at step n is drawn from (seed, n). So there is no random state to save, and a training that was killed and resumed
  ends in the same bytes as one that was not (same device, processes and threads).
- The loss of a step is the mean over all its targets, however they are spread over microbatches and processes.
- SIGTERM and SIGINT: finish the step, save, leave with 128 + signal. A killed trainer resumes from the newest sound state in `work`.
"""

import fcntl
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import ValidationError

from model.checkpoint import newest_state, save_network, save_state
from model.config import Training, TrainingJob
from model.data import PackedSequences, Reader, share_of
from model.files import replacing, sweep
from model.network import GPT, IGNORE, targets_of
from model.numerics import autocast, fix_numerics, resolved

_MEASURED = {name: pa.float64() for name in ("loss", "learning_rate", "grad_norm")}
LOSSES = pa.schema({"step": pa.int64(), "tokens": pa.int64(), **_MEASURED})
BATCHES = pa.schema({"step": pa.int64(), "part": pa.int32(), "row": pa.int32()})
LOCK_SECONDS = 30
NUM_NAMED = 5
"""Sequences named in an error."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step, why, and what to do."""


class Interruption:
    """What to do when asked to end: at once, or while steps are taken, when the one in hand is done."""

    def __init__(self) -> None:
        self.is_patient = False
        self.signal = 0
        """The signal that came, or 0."""

    def listen(self) -> None:
        """From now on, answer SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._answer)

    def _answer(self, number: int, _frame: object) -> None:
        self.signal = number
        if not self.is_patient:
            sys.exit(128 + number)


def learning_rate_at(step: int, training: Training) -> float:
    """The schedule; the first step is 1, and the last one has the minimum."""
    if step <= training.warmup_steps:
        return training.learning_rate * step / training.warmup_steps
    done = (step - training.warmup_steps) / (training.num_steps - training.warmup_steps)
    height = training.learning_rate - training.min_learning_rate
    return training.min_learning_rate + height * (1 + math.cos(math.pi * done)) / 2


class Trainer:
    """One training: everything it holds, and its loop."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.training = job, job.training
        self.started = time.perf_counter()
        fix_numerics(self.training.threads)
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.precision = resolved(self.device, self.training.precision)
        self.sequences = self._open_sequences()
        self.step_tokens = self.training.batch_sequences * self.sequences.tokens.shape[1]
        self.reader = Reader(self.sequences, self.training.seed, self.training.batch_sequences, self.rank, self.world)
        self.network = GPT(job.architecture)
        self.network.init_weights(self.training.seed)
        self.model = self.accelerator.prepare(self.network)
        self.optimizer = self._make_optimizer()
        self.step = 0
        self.history: list[tuple[float, ...]] = []
        """One row of `LOSSES` for each step."""

    def _open_sequences(self) -> PackedSequences:
        share = self.training.batch_sequences / self.world
        if share % (self.training.microbatch_sequences or 1) or not share.is_integer():
            raise TrainingError(
                f"batch_sequences {self.training.batch_sequences} cannot be shared equally by {self.world} processes "
                f"in microbatches of {self.training.microbatch_sequences or share}; make it a multiple"
            )
        with self.accelerator.local_main_process_first():
            sequences = PackedSequences.open(self.job.packed, self.job.work, self.job.architecture.vocab_size)
        length, context = sequences.tokens.shape[1], self.job.architecture.context_tokens
        if length > context:
            raise TrainingError(f"packed sequences of {length} tokens do not fit context_tokens {context}; raise it or pack shorter ones")
        return sequences

    def _make_optimizer(self) -> torch.optim.Optimizer:
        matrices = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.network.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.0, betas=self.training.betas, eps=self.training.epsilon, fused=True)

    # One step

    def take_step(self) -> None:
        """Update the weights by the next batch and note what happened.

        Raises:
            TrainingError: the loss or the gradient is not a number; the weights are as before the step.
        """
        step = self.step + 1
        torch.manual_seed(_seed_of(self.training.seed, step, self.rank))  # dropout
        loss = self._accumulate_gradient(self.reader.read(step))
        grad_norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.training.clip))
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise TrainingError(self._blame(step, self.reader.batch(step), loss, grad_norm))
        learning_rate = learning_rate_at(step, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = step
        self.history.append((step, step * self.step_tokens, loss, learning_rate, grad_norm))

    def _accumulate_gradient(self, mine: NDArray[np.int64]) -> float:
        """Backpropagate the mean loss over the targets of the whole batch, of which `mine` is here, [sequences, length]; return it."""
        tokens_BT = torch.from_numpy(mine).to(self.device)
        targets_BT = targets_of(tokens_BT, self.training.pad_token)
        num_targets = self.accelerator.reduce((targets_BT != IGNORE).sum(), "sum").clamp(min=1)
        micro = self.training.microbatch_sequences or len(mine)
        total = torch.zeros((), device=self.device)
        for start in range(0, len(mine), micro):
            is_last = start + micro >= len(mine)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model), autocast(self.device, self.precision):
                loss = self.model(tokens_BT[start : start + micro], targets_BT[start : start + micro])
                self.accelerator.backward(loss * (self.world / num_targets))  # processes average their gradients; we want the sum
            total += loss.detach()
        return float(self.accelerator.reduce(total, "sum") / num_targets)

    @torch.no_grad()
    def _blame(self, step: int, batch: NDArray[np.int64], loss: float, grad_norm: float) -> str:
        """The message for a loss that is no number: which sequences make it so, each tried alone."""
        culprits = []
        for sequence in share_of(batch, self.rank, self.world):
            tokens_BT = torch.from_numpy(self.sequences.tokens[[sequence]].astype(np.int64)).to(self.device)
            with autocast(self.device, self.precision):
                if not torch.isfinite(self.network(tokens_BT, targets_of(tokens_BT, self.training.pad_token))):
                    culprits.append(sequence)
        suspects = self.sequences.origin[culprits or batch]
        named = ", ".join(f"part {part} row {row}" for part, row in suspects[:NUM_NAMED]) + (", …" if len(suspects) > NUM_NAMED else "")
        which = f"{len(culprits)} of its sequences give it alone" if culprits else "none of its sequences gives it alone; the batch is"
        return (
            f"step {step}: loss {loss}, gradient norm {grad_norm}; {which}: {named}. The weights of step {step - 1} are untouched. "
            f"Look at these rows, or lower learning_rate {self.training.learning_rate}"
        )

    # The loop

    def run(self, interruption: Interruption) -> int:
        """Train to the end, or until interrupted; return the exit status."""
        self._resume()
        first, began = self.step, time.perf_counter()
        interruption.is_patient = True
        while self.step < self.training.num_steps:
            self.take_step()
            self._report(began, first)
            is_interrupted = self._any_process(interruption.signal)
            if is_interrupted or (self.step % self.training.checkpoint_every_steps == 0 and self.step < self.training.num_steps):
                self._save()
            if is_interrupted:
                return 128 + is_interrupted
        interruption.is_patient = False
        if self.accelerator.is_main_process:
            ended = time.perf_counter()
            write_results(self)
            self._print_summary(first, began, ended)
        self.accelerator.wait_for_everyone()
        return 0

    def _any_process(self, number: int) -> int:
        """The signal that some process got, so that all of them stop after the same step."""
        if self.world == 1:
            return number
        asked = int(self.accelerator.reduce(torch.tensor(number, device=self.device), "sum"))
        return (number or signal.SIGTERM) if asked else 0

    def _report(self, began: float, first: int) -> None:
        is_due = self.step % self.training.log_every_steps == 0 or self.step == self.training.num_steps
        if self.accelerator.is_main_process and is_due:
            line = dict(zip(LOSSES.names, self.history[-1], strict=True))
            say(**line, tokens_per_second=round((self.step - first) * self.step_tokens / (time.perf_counter() - began)))

    def _print_summary(self, first: int, began: float, ended: float) -> None:
        seconds, num_steps = ended - began, self.step - first
        tokens = num_steps * self.step_tokens
        summary = {
            "steps": num_steps,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "setup_seconds": round(began - self.started, 3),
            "data_wait_seconds": round(self.reader.waited_seconds, 3),
            "tokens_per_second": round(tokens / seconds) if num_steps else 0,
            "device": str(self.device),
            "precision": self.precision,
            "processes": self.world,
            "parameters": self.job.architecture.num_parameters,
        }
        say(summary=summary)

    # Surviving

    def fingerprint(self) -> str:
        """What must be equal for a state to be continued: every knob that shapes the bytes, and the data."""
        habits = {"checkpoint_every_steps", "log_every_steps", "microbatch_sequences"}
        knobs = {"architecture": self.job.architecture.model_dump(), "training": self.training.model_dump(exclude=habits)}
        return hashlib.sha256(json.dumps([knobs, self.precision, self.sequences.digest], sort_keys=True).encode()).hexdigest()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            history = torch.tensor(self.history, dtype=torch.float64)
            state = {"step": self.step, "history": history, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
            try:
                save_state(self.job.work, self.step, {"fingerprint": self.fingerprint(), **state})
            except OSError as error:
                raise TrainingError(
                    f"step {self.step}: the state could not be saved ({error}); those before it in {self.job.work} are sound. "
                    "Free some space and start again: it resumes from there"
                ) from error
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = newest_state(self.job.work)
        if found is None:
            return
        path, state = found
        if state["fingerprint"] != self.fingerprint():
            raise TrainingError(f"{path} belongs to a training with other settings or data; empty {self.job.work} or choose another `work`")
        self.step = int(state["step"])
        self.history = [(int(step), int(tokens), *measured) for step, tokens, *measured in state["history"].tolist()]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.is_main_process:
            say(resumed={"step": self.step})


def write_results(trainer: Trainer) -> None:
    """Write everything that `out` promises, the checkpoint last."""
    out, training = trainer.job.out, trainer.training
    sweep(out)
    columns = zip(*trainer.history, strict=True)
    losses = pa.table([pa.array(values).cast(field.type) for values, field in zip(columns, LOSSES, strict=True)], schema=LOSSES)
    with replacing(out / "losses.parquet") as file:
        pq.write_table(losses, file, compression="zstd")
    with replacing(out / "batches.parquet") as file, pq.ParquetWriter(file, BATCHES, compression="zstd") as writer:
        for steps in batched_steps(training.num_steps, training.batch_sequences):
            places = trainer.reader.order.places((steps[0] - 1) * training.batch_sequences, len(steps) * training.batch_sequences)
            part, row = trainer.sequences.origin[places].T
            writer.write_table(pa.table([np.repeat(steps, training.batch_sequences), part, row], schema=BATCHES))
    state = {
        "steps": training.num_steps,
        "tokens": training.num_steps * trainer.step_tokens,
        "seed": training.seed,
        "precision": trainer.precision,
        "loss": trainer.history[-1][2],
        "parameters": trainer.job.architecture.num_parameters,
        "sequences": len(trainer.sequences.tokens),
        "sequence_tokens": trainer.sequences.tokens.shape[1],
        "data_sha256": trainer.sequences.digest,
    }
    with replacing(out / "trainer_state.json") as file:
        file.write(json.dumps(state, indent=2, sort_keys=True).encode() + b"\n")
    eod, pad = training.eod_token, training.pad_token
    weights = trainer.network.state_dict()
    save_network(out, trainer.job.architecture, weights, bos_token_id=eod, eos_token_id=eod, pad_token_id=pad)


def batched_steps(num_steps: int, batch_sequences: int) -> Iterator[NDArray[np.int64]]:
    """The steps in groups of about a million sequences, one row group each."""
    group = max(1, 1_000_000 // batch_sequences)
    for start in range(1, num_steps + 1, group):
        yield np.arange(start, min(start + group, num_steps + 1))


def _seed_of(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "big")


def say(**facts: Any) -> None:
    """Print one JSON line, at once."""
    print(json.dumps(facts), flush=True)


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Hold a lock on the work folder; wait a moment for the trainer of a run that is just ending.

    Raises:
        TrainingError: another trainer works there.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TrainingError(f"another trainer is at work in {work}; end it, or choose another `work`") from error
                time.sleep(0.2)
        sweep(work)
        yield


def leave(status: int) -> NoReturn:
    """End one of several processes without taking its process group apart: gloo's teardown can wait for ever for a peer that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: list[str]) -> int:
    """Run the training that a config file describes; the exit status is 0, 1 for a failure, or 128 + the signal that ended it."""
    if len(arguments) != 1:
        print("usage: python -m model.train config.json", file=sys.stderr)
        return 2
    interruption = Interruption()
    interruption.listen()
    try:
        job = TrainingJob.model_validate_json(Path(arguments[0]).read_text())
        is_first = int(os.environ.get("RANK", "0")) == 0
        with alone_in(job.work) if is_first else nullcontext():
            trainer = Trainer(job)
            status = trainer.run(interruption)
            if trainer.world > 1:
                leave(status)
            return status
    except (TrainingError, ValidationError, ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
