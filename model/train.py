"""The trainer: from packed sequences to a checkpoint, in one loop that resumes after a kill.

    accelerate launch -m starloom.model.train config.json        any number of GPUs, on any number of machines
    torchrun --nproc-per-node 2 -m starloom.model.train config.json   the same, and on CPUs, where accelerate's launcher starts one
    python -m starloom.model.train config.json                   one process

`config.json` is a `starloom.model.config.TrainingJob`. Written to `out` at the end: the checkpoint in transformers' format
(`starloom.model.formats`), `trainer_state.json`, `losses.parquet` (step, tokens, loss, learning_rate, grad_norm, skipped),
`batches.parquet` (step, part, row: every sequence seen, in order), `validation.parquet` (step, language, loss, tokens; language null =
all tokens) and with LoRA `adapter/`.
What `starloom.model.watching` shows goes to stdout and to `work`.

- AdamW, decoupled decay on matrices only; linear warm-up, then a cosine or a plateau and a decay; gradient clipped by its global norm.
- Everything random at step n is drawn from (seed, n). So there is no random state to save, and on a CPU a training that was killed and
  resumed ends in the same bytes as one that was not (same processes and threads); on a GPU it ends within noise.
- The loss of a step is the mean over all its targets, however they are spread over microbatches and processes.
- A NaN or infinite loss or gradient, or a spike, leaves the weights untouched: the trainer stops and names its documents, or skips.
- SIGTERM and SIGINT: finish the step, save, leave with 128 + signal. A killed trainer resumes from the newest sound state in `work`.
"""

import base64
import errno
import fcntl
import hashlib
import json
import math
import os
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from starloom.model.adapting import Adapted, adapt, merged, save_adapter
from starloom.model.architecture import Architecture
from starloom.model.config import Training, TrainingJob
from starloom.model.data import Batch, PackedSequences, Reader
from starloom.model.files import replacing, sweep
from starloom.model.formats import Weights, save_network
from starloom.model.loss import IGNORE
from starloom.model.network import GPT, first_weight, targets_of
from starloom.model.numerics import autocast, chosen_device, fix_numerics, resolved_to_train
from starloom.model.parallel import Source, accumulating, clip_gradients, distribute, fill, full_weights
from starloom.model.samples import Sampler
from starloom.model.spans import documents_of
from starloom.model.states import PATIENCE, States
from starloom.model.validation import ValidationSet, add_up, means
from starloom.model.watching import Step, Watch, print_line

_MEASURED = {name: pa.float64() for name in ("loss", "learning_rate", "grad_norm")}
LOSSES = pa.schema({"step": pa.int64(), "tokens": pa.int64(), **_MEASURED, "skipped": pa.bool_()})
BATCHES = pa.schema({"step": pa.int64(), "part": pa.int32(), "row": pa.int32()})
VALIDATION = pa.schema({"step": pa.int64(), "language": pa.string(), "loss": pa.float64(), "tokens": pa.int64()})
LOCK_SECONDS = 30
NUM_NAMED = 5
"""Sequences and documents named in an error."""
SPIKE_WINDOW, SPIKE_LEAST = 100, 20
"""Steps before a spike that it is measured against: at most, and at least."""


class TrainingError(RuntimeError):
    """A failure of the training; the message says at which step, why, and what to do."""


class Interruption:
    """A handler of requests to end: at once, or while steps are taken, when the current one is done and saved."""

    def __init__(self) -> None:
        self.grace_seconds = 0.0
        """Time for that; 0 while there is nothing to save."""
        self.signal = 0
        """The received signal, or 0."""

    def listen(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._answer)

    def _answer(self, number: int, _frame: object) -> None:
        is_first, self.signal = not self.signal, number
        if not self.grace_seconds:
            sys.exit(128 + number)
        if is_first:
            last = threading.Timer(self.grace_seconds, os._exit, [128 + number])  # the states on the disk are whole at any moment
            last.daemon = True
            last.start()


def learning_rate_at(step: int, training: Training) -> float:
    """Return the scheduled learning rate; the first step is 1, and the last one has the minimum."""
    height = training.learning_rate - training.min_learning_rate
    if step <= training.warmup_steps:
        return training.learning_rate * step / training.warmup_steps
    if training.schedule == "cosine":
        done = (step - training.warmup_steps) / (training.num_steps - training.warmup_steps)
        return training.min_learning_rate + height * (1 + math.cos(math.pi * done)) / 2
    decay_steps = training.decay_steps or min(-(-training.num_steps // 5), training.num_steps - training.warmup_steps)
    done = max(0.0, 1 - (training.num_steps - step) / decay_steps)
    return training.min_learning_rate + height * (1 - math.sqrt(done))


class Trainer:
    """One training: all of its state, and its loop."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.training, self.running = job, job.training, job.running
        self.started = time.perf_counter()
        device = chosen_device(self.training.device)
        fix_numerics(self.training.threads, device)
        # The first process alone copies the sequences and writes the checkpoint; NCCL would give up waiting after 10 minutes.
        patience = InitProcessGroupKwargs(timeout=PATIENCE)
        self.accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[patience])
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.precision = resolved_to_train(self.device, self.training.precision)
        self.sequences = self._open_sequences()
        self.step_tokens = self.training.batch_sequences * self.sequences.tokens.shape[1]
        self.reader = Reader(self.sequences, self.training.seed, self.training.batch_sequences, self.rank, self.world)
        self.heldout = ValidationSet.open(job.packed, job.spans, self.training.validation_sequences) if self._validates else None
        self.sampler = Sampler.open(job, self.heldout)
        self._make_network()
        self.optimizer = self._make_optimizer()
        self.states = States(job.work / "states", keep_last=self.running.keep_states, keep_every_steps=self.running.keep_every_steps)
        self.watch = self._make_watch()
        self._initial = self._digests_of_initial()
        self.step = 0
        self.history: list[Step] = []
        self.computed: list[dict[str, Any]] = []
        """With what the steps were computed, and from which on: one entry, unless a training went on with something else."""
        self.skipped: set[int] = set()
        """Steps that were skipped."""
        self.validation: list[tuple[int, str | None, float, int]] = []
        """Rows of `VALIDATION`."""

    # What it is made of

    @property
    def _validates(self) -> bool:
        return self.training.validate_every_steps > 0

    def _open_sequences(self) -> PackedSequences:
        share, micro = self.training.batch_sequences / self.world, self.running.microbatch_sequences
        if share % (micro or 1) or not share.is_integer():
            raise TrainingError(
                f"batch_sequences {self.training.batch_sequences} cannot be shared equally by {self.world} processes "
                f"in microbatches of {micro or share}; make it a multiple"
            )
        with self.accelerator.main_process_first():  # `work` is one folder for all machines, and the copy in it is made once
            sequences = PackedSequences.open(self.job.packed, self.job.work, self.job.architecture.vocab_size)
        length, context = sequences.tokens.shape[1], self.job.architecture.context_tokens
        if length > context:
            raise TrainingError(f"packed sequences of {length} tokens do not fit context_tokens {context}; raise it or pack shorter ones")
        return sequences

    def _make_network(self) -> None:
        """Build it without memory, spread it over the processes, then fill it weight by weight."""
        architecture, running = self.job.architecture, self.running
        source: Source = partial(first_weight, architecture, self.training.seed)
        if self.job.initial is not None:
            architecture.check_continues(Architecture.from_checkpoint(self.job.initial))
            source = Weights(self.job.initial, architecture)
        with torch.device("meta"):
            self.network = GPT(architecture)
            if self.training.lora:
                source = Adapted(source, self.training.seed)
                adapt(self.network, self.training.lora)
        self.network.kernel = running.attention
        self.model = distribute(
            self.network,
            self.accelerator,
            parallel=running.parallel,
            precision=self.precision,
            compile_blocks=running.compile == "on" or (running.compile == "auto" and self.device.type == "cuda"),
            activation_checkpointing=running.activation_checkpointing,
        )
        fill(self.network, source)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.0, betas=self.training.betas, eps=self.training.epsilon, fused=True)

    def _make_watch(self) -> Watch:
        return Watch(
            self.job.work,
            self.job.architecture,
            num_steps=self.training.num_steps,
            step_tokens=self.step_tokens,
            sequence_tokens=self.sequences.tokens.shape[1],
            device=self.device,
            precision=self.precision,
            rank=self.rank,
            world=self.world,
            every_steps=self.running.log_every_steps,
        )

    # One step

    def take_step(self) -> None:
        """Update the weights by the next batch and note what happened.

        Raises:
            TrainingError: it diverges and may not be skipped; the weights are as before the step.
        """
        step, waited = self.step + 1, self.reader.waited_seconds
        self.watch.begin_step()
        torch.manual_seed(_seed_of(self.training.seed, step, self.rank))  # dropout
        total = self._accumulate_gradient(self.reader.read(step))
        loss, grad_norm = torch.stack((total, clip_gradients(self.network, self.training.clip))).tolist()  # the one wait for the device
        if reason := self._divergence(loss, grad_norm):
            self._stop_or_skip(step, reason)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(step, self.training)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = step
        self.history.append(Step(step, step * self.step_tokens, loss, learning_rate_at(step, self.training), grad_norm))
        self.watch.end_step(self.history[-1], self.reader.waited_seconds - waited)

    def _accumulate_gradient(self, mine: Batch) -> Tensor:
        """Backpropagate the mean loss over the targets of the whole batch, of which `mine` is here; return it."""
        num_sequences = len(mine.sequences)
        tokens_BT, targets_BT, offsets_N = self._on_device(mine)
        num_targets = self.accelerator.reduce((targets_BT != IGNORE).sum(), "sum").clamp(min=1)
        micro = self.running.microbatch_sequences or num_sequences
        total = torch.zeros((), device=self.device)
        for start in range(0, num_sequences, micro):
            stop = start + micro
            if offsets_N is not None:
                offsets_N = self._moved(mine.rows(start, stop).offsets_N)
            with nullcontext() if stop >= num_sequences else accumulating(self.model):
                with autocast(self.device, self.precision):
                    loss = self.model(tokens_BT[start:stop], targets_BT[start:stop], offsets_N)
                (loss * (self.world / num_targets)).backward()  # processes average their gradients; we want the sum
            total += loss.detach()
        mean: Tensor = self.accelerator.reduce(total, "sum") / num_targets
        return mean

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return tokens, targets and, where documents are kept apart, their offsets, on the device."""
        tokens_BT = self._moved(batch.tokens_BT)
        offsets_N = None if self.training.attend_across_documents else self._moved(batch.offsets_N)
        return tokens_BT, targets_of(tokens_BT, self.training.pad_token, offsets_N), offsets_N

    def _moved(self, array: NDArray[Any]) -> Tensor:
        """Copy to the device, asynchronously on a GPU: the host does not wait for earlier work on the GPU."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    # When it diverges

    def _divergence(self, loss: float, grad_norm: float) -> str:
        """Return why a step counts as diverged, or nothing."""
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            return f"loss {loss}, gradient norm {grad_norm}"
        norms = [step.grad_norm for step in self.history[-SPIKE_WINDOW:] if step.step not in self.skipped]
        if not self.training.spike_factor or len(norms) < SPIKE_LEAST:
            return ""
        usual = statistics.median(norms)
        if grad_norm <= self.training.spike_factor * usual:
            return ""
        times = f"{grad_norm / usual:.3g} times the median of the {len(norms)} steps before"
        return f"loss {loss}, gradient norm {grad_norm:.4g}, {times}"

    def _stop_or_skip(self, step: int, reason: str) -> None:
        """Skip the step, or raise, having saved everything up to it."""
        in_a_row = next(n for n in range(1, step + 1) if step - n not in self.skipped)
        blame = self._blame(step)
        if self.training.on_divergence == "skip" and in_a_row <= self.training.max_skipped_steps:
            self.skipped.add(step)
            if self.accelerator.is_main_process:
                print_line(skipped={"step": step, "reason": reason, "where": blame})
            return
        self._save()
        self._wait_for_state()
        skipped = f", after {in_a_row - 1} steps in a row were skipped" if in_a_row > 1 else ""
        raise TrainingError(
            f"step {step}: {reason}{skipped}; {blame}. The weights of step {step - 1} are untouched, and saved in {self.states.folder}. "
            f"Look at these documents, lower learning_rate {self.training.learning_rate}, or set on_divergence to skip"
        )

    @torch.no_grad()
    def _blame(self, step: int) -> str:
        """Find the sequences of a step that make it diverge, each tried alone by the process that had it, with their repositories."""
        mine = self.reader.read(step)
        culprits: list[int] = []
        for at, sequence in enumerate(mine.sequences):
            with autocast(self.device, self.precision):
                if not torch.isfinite(self.network(*self._on_device(mine.rows(at, at + 1)))):
                    culprits.append(int(sequence))
        culprits = gather_object(culprits)
        suspects = self.sequences.origin[culprits or self.reader.batch(step)]
        named = ", ".join(f"part {part} row {row}" for part, row in suspects[:NUM_NAMED]) + (", …" if len(suspects) > NUM_NAMED else "")
        which = f"{len(culprits)} of its sequences yield NaN alone" if culprits else "no single sequence yields NaN alone; the batch is"
        documents = documents_of(self.job.spans, suspects.astype(np.int64), NUM_NAMED)
        return f"{which}: {named}" + (
            f" (documents {', '.join(documents)}{', …' if len(documents) == NUM_NAMED else ''})" if documents else ""
        )

    # Held-out loss

    @torch.no_grad()
    def validate(self) -> None:
        """Measure the held-out loss, of all tokens and of each language, with the weights of now; and show what they write."""
        assert self.heldout is not None
        names, micro = self.heldout.names, self.running.microbatch_sequences or self.training.batch_sequences // self.world
        totals = np.zeros((len(names) + 1, 2))
        self.network.eval()
        for batch, groups_BT in self.heldout.batches(micro, self.rank, self.world):
            tokens_BT, targets_BT, offsets_N = self._on_device(batch)
            with autocast(self.device, self.precision):
                losses_BT = self.network.token_losses(tokens_BT, targets_BT, offsets_N)
            totals += add_up(losses_BT.cpu().numpy(), (targets_BT != IGNORE).cpu().numpy(), groups_BT, len(names))
        self.network.train()
        totals = self.accelerator.reduce(torch.from_numpy(totals).to(self.device), "sum").cpu().numpy()
        found = means(totals, names)
        self.validation += [(self.step, *row) for row in found]
        losses = {name or "all": loss for name, loss, _ in found}
        self.watch.validated(self.step, losses, {name or "all": tokens for name, _, tokens in found})
        is_sharded = self.world > 1 and self.running.parallel == "fsdp"
        if self.sampler is not None and (is_sharded or self.accelerator.is_main_process):
            self.watch.wrote(self.step, self.sampler.write(self.network, self.precision, is_sharded=is_sharded))

    # The loop

    def run(self, interruption: Interruption) -> int:
        """Train to the end, or until interrupted; return the exit status."""
        self._resume()
        if not self.computed or {**self.computed[-1], "from_step": 0} != {**self.computing(), "from_step": 0}:
            self.computed.append({"from_step": self.step + 1, **self.computing()})
        if self.accelerator.is_main_process:
            print_line(about={"setup_seconds": round(time.perf_counter() - self.started, 3), **self._about()})
        interruption.grace_seconds = self.running.grace_seconds
        while self.step < self.training.num_steps:
            self.take_step()
            is_end = self.step == self.training.num_steps
            if self._validates and (is_end or self.step % self.training.validate_every_steps == 0):
                self.validate()
            is_interrupted = self._any_process(interruption.signal)
            if is_interrupted or (self.step % self.running.checkpoint_every_steps == 0 and not is_end):
                self._save()
            if is_interrupted:
                self._wait_for_state()
                return 128 + is_interrupted
        interruption.grace_seconds = 0.0
        self._wait_for_state()
        self.reader.close()
        write_results(self)
        self.watch.close()
        if self.accelerator.is_main_process:
            changed = {"computed_with": self.computed} if len(self.computed) > 1 else {}
            print_line(summary=self._about() | changed | self.watch.summary())
        self.accelerator.wait_for_everyone()
        return 0

    def _any_process(self, number: int) -> int:
        """Return the signal that some process got, so that all of them stop after the same step."""
        if self.world == 1:
            return number
        asked = int(self.accelerator.reduce(torch.tensor(number, device=self.device), "sum"))
        return (number or signal.SIGTERM) if asked else 0

    def _about(self) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": self.precision,
            "processes": self.world,
            "parallel": self.running.parallel,
            "parameters": self.job.architecture.num_parameters,
        }

    # Surviving

    def computing(self) -> dict[str, Any]:
        """With what steps are computed from now on: it may change the last bits of them, and no more."""
        running = self.running
        return {
            "processes": self.world,
            "microbatch_sequences": running.microbatch_sequences or self.training.batch_sequences // self.world,
            "parallel": running.parallel if self.world > 1 else "alone",
            "compile": running.compile,
            "activation_checkpointing": running.activation_checkpointing,
            "attention": running.attention,
        }

    def fingerprint(self) -> str:
        """Return all that must be equal for a state to be continued: every knob that shapes the bytes, and the data."""
        policies = {"on_divergence", "spike_factor", "max_skipped_steps"}  # may be changed to get past a bad step
        knobs = self.job.model_dump(mode="json", include={"architecture": True, "training": True})
        for name in policies:
            del knobs["training"][name]
        return hashlib.sha256(
            json.dumps([knobs, self.precision, self.sequences.digest, self._initial], sort_keys=True).encode()
        ).hexdigest()

    def _digests_of_initial(self) -> list[tuple[str, str]]:
        """Return the contents of the checkpoint that was begun with, hashed by the first process for all: name, SHA-256."""
        found: list[list[tuple[str, str]]] = [[]]
        if self.job.initial is not None and self.accelerator.is_main_process:
            for path in sorted(self.job.initial.iterdir()):
                if path.name == "config.json" or path.name.endswith((".safetensors", ".index.json")):  # the others shape no weight
                    with path.open("rb") as file:
                        found[0].append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
        return [(name, digest) for name, digest in broadcast_object_list(found)[0]]

    def _save(self) -> None:
        with self._told_of_a_full_disk():
            self.watch.flush()
        numbers = base64.b64encode(np.array(self.history, np.float64).tobytes()).decode()
        head = {"fingerprint": self.fingerprint(), "history": numbers, "skipped": sorted(self.skipped)}
        head |= {"validation": self.validation, "computed": self.computed}
        with self._told_of_a_full_disk():
            self.states.save(self.step, self.network, self.optimizer, head)

    def _wait_for_state(self) -> None:
        with self._told_of_a_full_disk():
            self.states.wait()

    @contextmanager
    def _told_of_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"step {self.step}: a state could not be saved ({error}); those in {self.states.folder}, if there are any, are sound. "
                "Free some space and start again: it resumes from there"
            ) from error

    def _resume(self) -> None:
        found = self.states.newest()
        if self.accelerator.is_main_process and self.states.damaged:
            print_line(damaged=self.states.damaged)
        if found is None:
            return
        if found.head["fingerprint"] != self.fingerprint():
            raise TrainingError(
                f"{found.path} belongs to a training with other settings or data; empty {self.job.work} or choose another `work`"
            )
        self.states.load(found, self.network, self.optimizer)
        self.step = found.step
        numbers = np.frombuffer(base64.b64decode(found.head["history"])).reshape(-1, len(Step._fields))
        self.history = [Step(int(step), int(tokens), *measured) for step, tokens, *measured in numbers.tolist()]
        self.skipped = set(found.head["skipped"])
        self.validation = [tuple(row) for row in found.head["validation"]]
        self.computed = found.head["computed"]
        self.watch.resume(self.step)
        if self.accelerator.is_main_process:
            print_line(resumed={"step": self.step})


def write_results(trainer: Trainer) -> None:
    """Write everything that `out` promises, the checkpoint last. All processes take part, the first one writes."""
    weights = full_weights(trainer.network)
    if not trainer.accelerator.is_main_process:
        for _ in weights:
            raise AssertionError("weights come out at the first process only")
        return
    out, training = trainer.job.out, trainer.training
    sweep(out)
    steps = [(*step, step.step in trainer.skipped) for step in trainer.history]
    _write_table(out / "losses.parquet", steps, LOSSES)
    _write_table(out / "validation.parquet", trainer.validation, VALIDATION)
    with replacing(out / "batches.parquet") as file, pq.ParquetWriter(file, BATCHES, compression="zstd") as writer:
        for numbers in batched_steps(training.num_steps, training.batch_sequences):
            places = trainer.reader.order.places((numbers[0] - 1) * training.batch_sequences, len(numbers) * training.batch_sequences)
            part, row = trainer.sequences.origin[places].T
            writer.write_table(pa.table([np.repeat(numbers, training.batch_sequences), part, row], schema=BATCHES))
    state = {
        "steps": training.num_steps,
        "tokens": training.num_steps * trainer.step_tokens,
        "seed": training.seed,
        "precision": trainer.precision,
        "loss": trainer.history[-1].loss,
        "skipped": len(trainer.skipped),
        "parameters": trainer.job.architecture.num_parameters,
        "sequences": len(trainer.sequences.tokens),
        "sequence_tokens": trainer.sequences.tokens.shape[1],
        "data_sha256": trainer.sequences.digest,
        "attend_across_documents": training.attend_across_documents,
        **({"vocabulary_sha256": trainer.job.vocabulary_sha256} if trainer.job.vocabulary_sha256 else {}),
    }
    with replacing(out / "trainer_state.json") as file:
        file.write(json.dumps(state, indent=2, sort_keys=True).encode() + b"\n")
    if training.lora:
        weights = merged(weights, training.lora, partial(save_adapter, out / "adapter", trainer.job.architecture, training.lora))
    eod, pad = training.eod_token, training.pad_token
    save_network(out, trainer.job.architecture, weights, bos_token_id=eod, eos_token_id=eod, pad_token_id=pad)


def _write_table(path: Path, rows: list[Any], schema: pa.Schema) -> None:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [
        pa.array(values).cast(field.type) if values else pa.array([], field.type) for values, field in zip(columns, schema, strict=True)
    ]
    with replacing(path) as file:
        pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")


def batched_steps(num_steps: int, batch_sequences: int) -> Iterator[NDArray[np.int64]]:
    """Yield the steps in groups of about a million sequences, one row group each."""
    group = max(1, 1_000_000 // batch_sequences)
    for start in range(1, num_steps + 1, group):
        yield np.arange(start, min(start + group, num_steps + 1))


def _seed_of(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "big")


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Hold a lock on the work folder; waits a moment for the trainer of a run that is just ending.

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
                    raise TrainingError(f"another trainer is running in {work}; end it, or choose another `work`") from error
                time.sleep(0.2)
        sweep(work)
        yield


def leave(status: int) -> NoReturn:
    """End one of several processes without taking its process group apart: gloo's teardown can wait for ever for a peer that is gone.

    Nor may one that failed wait: the launcher ends its peers, who may be waiting for it, when it is gone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_full_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(arguments: list[str]) -> int:
    """Run the training that a config file describes; the exit status is 0, 1 for a failure, or 128 + the signal that ended it."""
    if len(arguments) != 1:
        print("usage: python -m starloom.model.train config.json", file=sys.stderr)
        return 2
    interruption = Interruption()
    interruption.listen()
    is_alone, is_first = int(os.environ.get("WORLD_SIZE", "1")) == 1, int(os.environ.get("RANK", "0")) == 0
    try:
        job = TrainingJob.model_validate_json(Path(arguments[0]).read_text())
        with alone_in(job.work) if is_first else nullcontext():
            status = Trainer(job).run(interruption)
    except torch.OutOfMemoryError as error:
        remedy = "lower microbatch_sequences, set activation_checkpointing, or spread it over more processes with parallel: fsdp"
        print(f"{type(error).__name__}: {error}\n{remedy}; it resumes from the last state", file=sys.stderr, flush=True)
        status = 1
    except (TrainingError, ValidationError, ValueError, OSError) as error:
        remedy = f" (writing to {job.work} or {job.out}); free some space and start again" if _is_full_disk(error) else ""
        print(f"{type(error).__name__}: {error}{remedy}", file=sys.stderr, flush=True)
        status = 1
    except Exception:
        if is_alone:
            raise
        traceback.print_exc()
        status = 1
    return status if is_alone else leave(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
