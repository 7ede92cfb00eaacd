"""Train a language model on the packed sequences, in a process of its own: from fresh weights, or going on from a checkpoint.

Reads   Packed      split, tokens, starts (rows whose split is train; those held out are measured)
        Spans       sequence, token_start, token_end, doc_id, byte_start, language: whose loss it was
        Tokenizer   tokenizer.json (size of the vocabulary, ids of its special tokens)
        Checkpoint  of the nearest step above that writes one: the first weights and the shape; optimizer and schedule begin anew
Writes  Checkpoint  config.json, model.safetensors or several with an index, trainer_state.json; with lora also adapter/
        Losses      step, tokens, loss, learning_rate, grad_norm, skipped
        Batches     step, part, row: every sequence of Packed that was read, in order
        Validation  step, language, loss, tokens: of held-out sequences

On several machines, each starts its own processes. The step does so on the one that it runs on, and waits for the others. There type
`accelerate launch --multi_gpu --num_processes N --num_machines M --machine_rank R --main_process_ip IP --main_process_port PORT
-m starloom.model.train runs/RUN/train_model/live/job.json`, with the store on a disk that all of them see under one path.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from starloom.lineage import keys
from starloom.lineage.errors import Cancelled, ConfigError, InputError, StageError
from starloom.model.architecture import Architecture
from starloom.model.config import Running, Training
from starloom.tasks.common.checkpoints import TOKENIZER, first_difference, is_trained_afresh, known_context_tokens
from starloom.tasks.common.devices import attention_of, check_device, device_of, has_flash, training_precision_of
from starloom.tasks.frame.stage import Config, Runtime, RuntimeOnly, Wired, stage
from starloom.tasks.schemas import Batches, Checkpoint, Losses, Packed, Spans, Tokenizer, Validation

if TYPE_CHECKING:
    from starloom.model.config import TrainingJob

PRESETS = Path(__file__).parents[1] / "conf" / "model"
LEAVING_SECONDS = 2.0
"""Time that a trainer has to leave in, once it has saved."""
KEPT_LINES = 30
LAUNCHERS_LINE = re.compile(r"[WE]\d{4} \S+ \d+ \S*torch/distributed/")
"""What torch's launcher of several processes logs when one of them has failed."""
KILLED = "failed (exitcode: -9)"
"""Part of such a line."""
TABLES = ("losses.parquet", "batches.parquet", "validation.parquet")
"""What the trainer leaves beside the files of the checkpoint."""

POLICIES = ("on_divergence", "max_skipped_steps")
"""Knobs that decide whether a training ends, not with which weights: one that stopped at a bad step goes on when told to skip it."""


class Shape(Config):
    """Knobs of the network; those that neither recipe nor preset give are the checkpoint's to go on from, or the usual ones."""

    family: Literal["gpt_bigcode", "starcoder2"] | None = None
    """gpt_bigcode (the usual): learned positions, multi-query attention. starcoder2: rotary positions, grouped queries, window."""
    context_tokens: int | None = Field(None, gt=1)
    """Longest sequence the network reads. starcoder2 may change it when it goes on from a checkpoint."""
    num_layers: int | None = Field(None, gt=0)
    """Transformer blocks."""
    num_heads: int | None = Field(None, gt=0)
    """Query heads."""
    width: int | None = Field(None, gt=0)
    """Numbers in a token's residual stream."""
    num_key_value_heads: int | None = Field(None, gt=0)
    """Key and value heads that the query heads share equally; 1 unless given."""
    inner_width: int | None = Field(None, gt=0)
    """Numbers in the hidden layer of a block's MLP; four times the width unless given."""
    initializer_range: float | None = Field(None, gt=0)
    """Standard deviation of a fresh weight; 1/sqrt(width) unless given."""
    layer_norm_epsilon: float | None = Field(None, gt=0)
    """Added to the variance in every LayerNorm; 1e-5 unless given."""
    activation: Literal["gelu_tanh", "gelu"] | None = None
    """GELU by its tanh approximation, unless exact is asked for."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout probability in training; none unless given, or the checkpoint's. May change."""
    rope_theta: float | None = Field(None, gt=0)
    """Base of the rotary wavelengths, starcoder2 only; 100,000 unless given. May change."""
    sliding_window: int | None = Field(None, gt=0)
    """Tokens that a token sees, itself included, starcoder2 only; all before it unless given. May change."""
    tied_head: bool | None = None
    """Whether the output matrix is the token embedding, as it usually is."""

    def given(self) -> dict[str, Any]:
        """Return those of them that somebody gave."""
        return self.model_dump(include=set(Shape.model_fields), exclude_none=True)


class Launching(Config):
    """Knobs of the processes: how many, and on which machines."""

    num_processes: int = Field(1, gt=0)
    """Processes that train together, on all machines, each with a GPU of its own."""
    num_machines: int = Field(1, gt=0)
    """Machines that train together; `starloom stage train_model --help` begins with how."""
    machine_rank: RuntimeOnly[int] = Field(0, ge=0)
    """Number of this machine."""
    main_process_ip: RuntimeOnly[str | None] = None
    """Address of machine 0."""
    main_process_port: RuntimeOnly[int] = Field(0, ge=0, lt=1 << 16)
    """Free port of machine 0; on a single machine, 0 takes any."""

    @model_validator(mode="after")
    def _can_meet(self) -> Self:
        if self.num_processes % self.num_machines:
            raise ValueError(f"num_processes {self.num_processes} is not a multiple of num_machines {self.num_machines}")
        if self.machine_rank >= self.num_machines:
            raise ValueError(f"machine_rank {self.machine_rank} is not below num_machines {self.num_machines}; the first is 0")
        if self.num_machines > 1 and not (self.main_process_ip and self.main_process_port):
            raise ValueError(f"num_machines {self.num_machines} have to meet somewhere: give main_process_ip and main_process_port")
        return self

    def launcher(self, threads: int) -> list[str]:
        """Return `accelerate launch` with every value given, so that it asks, guesses and warns about nothing; for one process, none.

        Python with torch takes two seconds to start, and a launcher is one more of them.
        """
        if self.num_processes == 1:
            return []
        words = ["-m", "accelerate.commands.launch", "--quiet", *(["--multi_gpu"] if self.num_processes > 1 else [])]
        words += ["--num_processes", str(self.num_processes), "--num_machines", str(self.num_machines)]
        words += ["--machine_rank", str(self.machine_rank), "--main_process_port", str(self.main_process_port)]
        words += ["--main_process_ip", self.main_process_ip] if self.main_process_ip else []
        return [*words, "--num_cpu_threads_per_process", str(threads), "--mixed_precision", "no", "--dynamo_backend", "no"]


class TrainModel(Launching, Running, Training, Shape):
    """Knobs of `train_model`. Those left out are the preset's; what shapes the weights, and not the preset's name, is the identity."""

    preset: RuntimeOnly[str] = "tiny"
    """Where the other knobs come from: a name in conf/model (tiny, small, starcoderbase-1b, starcoder2-3b, finetune …), or a YAML file
    beside the recipe."""

    pad_token: ClassVar[None] = None  # type: ignore[misc]  # no knob: the tokenizer says
    eod_token: ClassVar[None] = None  # type: ignore[misc]

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, knobs: Any, info: ValidationInfo) -> Any:
        """Fill in what the preset says and nobody overrides."""
        if not isinstance(knobs, dict):
            return knobs
        path = _preset_path(str(knobs.get("preset", "tiny")), (info.context or {}).get("folder", "."))
        given = {name: value for name, value in knobs.items() if value is not None}
        if isinstance(given.get("compile"), bool):
            given["compile"] = "on" if given["compile"] else "off"  # what YAML makes of these words
        return _preset_knobs(path) | given | {"preset": str(path)}

    @model_validator(mode="after")
    def _is_a_network(self) -> Self:
        """Refuse what the trainer would refuse, before anything runs."""
        if not _lacking(self.given()):
            Architecture(vocab_size=1, **self.given())
        return self

    @model_validator(mode="after")
    def _is_shared_out(self) -> Self:
        """Refuse likewise a batch that the processes cannot share."""
        share, rest = divmod(self.batch_sequences, self.num_processes)
        if rest or share % (self.microbatch_sequences or share):
            raise ValueError(
                f"batch_sequences {self.batch_sequences} cannot be shared equally by num_processes {self.num_processes}"
                + (f" in microbatches of {self.microbatch_sequences}" if self.microbatch_sequences else "")
                + "; make it a multiple"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the knobs that shape the weights to the last bit, as plain JSON values: `auto` as it is resolved here."""
        return {**self.continuation(), **self.computing(), "num_machines": self.num_machines}

    def check_plan(self, wired: Wired) -> None:
        """Refuse a shape or an adaptation without a checkpoint, a new tokenizer for one that exists, and sequences too long for it."""
        initial, tokenizer, packed = (wired.inputs.get(name) for name in ("initial", "tokenizer", "packed"))
        if initial is None and (problem := self.without_checkpoint(wired.name)):
            raise ConfigError(problem[0], hint=problem[1])
        if initial is not None and initial.stage == "import_checkpoint" and tokenizer and is_trained_afresh(tokenizer):
            raise ConfigError(
                f"{wired.name} goes on from the checkpoint of {initial.name}, and {tokenizer.name} trains a tokenizer of its own: "
                "the same numbers would be other text",
                hint=f"set {tokenizer.name}.existing to the checkpoint's tokenizer: its tokenizer.json, its folder, or org/name@commit",
            )
        length = packed.config.model_dump().get("sequence_length") if packed else None
        context = known_context_tokens(wired)
        if packed and length is not None and context is not None and not 1 < length <= context:
            message, hint = _unfit(length, context, wired.name, packed.name, can_grow=initial is None)
            raise ConfigError(message, hint=hint)

    def check_here(self, step: str) -> None:
        """Refuse a device or a kernel of the attention that is not here."""
        check_device(self.device, step)
        place = self.place()
        if self.attention == "flash" and not has_flash():
            raise ConfigError(
                f"{step}.attention is flash, and flash-attn is not installed",
                hint=f"pip install 'starloom[gpu]', or set {step}.attention to auto",
            )
        if self.attention not in ("auto", "sdpa") and place != {"device": "cuda", "precision": "bf16"}:
            raise ConfigError(
                f"{step}.attention is {self.attention}, which needs bf16 on a GPU, not {place['precision']} on {place['device']}",
                hint=f"set {step}.attention to auto",
            )

    def without_checkpoint(self, step: str) -> tuple[str, str] | None:
        """Return the problem and a hint if there is no checkpoint to continue from; None if there is no problem."""
        lacking = ", ".join(f"{step}.{name}" for name in _lacking(self.given()))
        if not lacking and not self.lora:
            return None
        what = f"{lacking} not given" if lacking else f"{step}.lora adapts a trained network"
        hint = "put import_checkpoint or a training above it" + ("; or name a preset that gives them" if lacking else "")
        return f"{what}, and no step above {step} writes a Checkpoint", hint

    def continuation(self) -> dict[str, Any]:
        """Return the knobs that shape the weights but for rounding: an unfinished training continues with other processes."""
        knobs = self.model_dump(mode="json", exclude={"preset", *POLICIES, *Running.model_fields, *Launching.model_fields})
        return {**knobs, **self.place()}

    def place(self) -> dict[str, Any]:
        """Return device and precision as resolved here."""
        device = device_of(self.device)
        return {"device": device, "precision": training_precision_of(self.precision, device)}

    def computing(self) -> dict[str, Any]:
        """Return what changes bits without being part of the training, as resolved here."""
        place = self.place()
        return {
            "num_processes": self.num_processes,
            "microbatch_sequences": self.microbatch_sequences or self.batch_sequences // self.num_processes,
            "parallel": self.parallel if self.num_processes > 1 else "alone",
            "compile": self.compile if self.compile != "auto" else "on" if place["device"] == "cuda" else "off",
            "activation_checkpointing": self.activation_checkpointing,
            "attention": attention_of(self.attention, **place),
        }


def _preset_path(preset: str, folder: str) -> Path:
    named, beside = PRESETS / f"{preset}.yaml", Path(folder, preset).expanduser()
    for path in (named, beside):
        if path.is_file():
            return path.absolute()
    known = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
    raise ValueError(f"preset {preset!r} is neither a file ({beside}) nor one of {known}")


def _preset_knobs(path: Path) -> dict[str, Any]:
    """Return all of a preset as one mapping; the vocabulary is the tokenizer's, whatever the preset says."""
    import yaml

    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(preset, dict) or not {"architecture"} <= set(preset) <= {"architecture", "training", "running"}:
        raise ValueError(f"{path} is no preset: it needs `architecture`, may have `training` and `running`, and has nothing else")
    knobs = {name: value for half in preset.values() for name, value in (half or {}).items()}
    knobs.pop("vocab_size", None)
    return knobs


def _lacking(shape: dict[str, Any]) -> list[str]:
    """Knobs that a network needs and nobody gave."""
    needed = [field.name for field in dataclasses.fields(Architecture) if field.default is dataclasses.MISSING]
    return [name for name in needed if name not in shape and name != "vocab_size"]


@stage(over="whole", runs=("starloom.model.train",), libraries=("torch", "accelerate", "safetensors", "pyarrow"))
def train_model(
    packed: Packed, spans: Spans, tokenizer: Tokenizer, initial: Checkpoint | None, cfg: TrainModel, runtime: Runtime
) -> tuple[Checkpoint, Losses, Batches, Validation]:
    """Have `starloom.model.train` train; a run that was killed resumes from its newest state in the scratch folder."""
    import shutil
    import sys

    import pyarrow.parquet as pq

    job = _job(packed, spans, tokenizer, initial, cfg, runtime.scratch)
    config = runtime.scratch / "job.json"
    config.write_text(job.model_dump_json(indent=2), encoding="utf-8")
    argv = [sys.executable, *cfg.launcher(cfg.threads), "-m", "starloom.model.train", str(config)]
    # Threads that wait for each other spin for some microseconds and then sleep. Asleep at once, a small network's step takes a fifth
    # longer; spinning on, as is their default, it takes twice as long where the cores are busy with something else.
    patient = {"GOMP_SPINCOUNT": "10000", "OMP_NUM_THREADS": str(cfg.threads)}
    listener = _Listener(runtime, cfg.num_steps)
    try:
        runtime.subprocess(argv, listener, patient, grace_seconds=cfg.grace_seconds + LEAVING_SECONDS)
    except StageError as error:
        raise listener.failure() from error
    except Cancelled as error:
        raise Cancelled(error.message, hint=f"run the same command again: finished parts are kept, and {_kept(job)}") from error
    _show(job, runtime)
    losses, batches, validation = (pq.read_table(job.out / name) for name in TABLES)
    checkpoint = runtime.scratch / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)  # what a killed run left
    checkpoint.mkdir()
    for path in job.out.iterdir():
        if path.name not in TABLES:
            path.replace(checkpoint / path.name)
    return Checkpoint.of(checkpoint), Losses.of(losses), Batches.of(batches), Validation.of(validation)


def _kept(job: TrainingJob) -> str:
    """Return the folder in which a stopped training continues."""
    steps = [int(path.name.removeprefix("step-")) for path in (job.work / "states").glob("step-*")]
    return f"the training resumes after step {max(steps):,}" if steps else "the training had saved nothing yet and starts again"


def _job(packed: Packed, spans: Spans, tokenizer: Tokenizer, initial: Checkpoint | None, cfg: TrainModel, folder: Path) -> TrainingJob:
    """Return the job of `starloom.model.train`."""
    import tokenizers

    from starloom.model.config import TrainingJob
    from starloom.tasks.kernels.tokens.special_tokens import END_OF_TEXT, FIM_PAD

    model = tokenizers.Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    architecture = _architecture(cfg, model.get_vocab_size(), initial)
    _check_sequences(packed, architecture, initial)
    vocabulary = model.get_vocab(with_added_tokens=True)
    digest = keys.digest(sorted(vocabulary.items()))
    if initial is not None:
        _check_tokenizer(vocabulary, digest, initial)
    told = {name: value for name, value in cfg.computing().items() if name in ("compile", "attention")}
    ids = {"pad_token": model.token_to_id(FIM_PAD), "eod_token": model.token_to_id(END_OF_TEXT)}
    return TrainingJob(
        architecture=architecture,
        training=Training.model_validate(cfg.model_dump(include=set(Training.model_fields)) | ids | cfg.place()),
        running=Running.model_validate(cfg.model_dump(include=set(Running.model_fields)) | told),
        packed=packed.local_paths(folder),
        spans=spans.local_paths(folder),
        vocabulary_sha256=digest,
        tokenizer=tokenizer.path / "tokenizer.json",
        initial=initial.path if initial else None,
        out=folder / "out",
        work=folder / "work",
    )


def _architecture(cfg: TrainModel, vocab_size: int, initial: Checkpoint | None) -> Architecture:
    """Return the network's shape: as the knobs say, or as the checkpoint to go on from does, where they only change what may change."""
    given = cfg.given()
    if initial is None:
        if problem := cfg.without_checkpoint("train_model"):
            raise InputError(problem[0], hint=problem[1])
        return Architecture(vocab_size=vocab_size, **given)
    try:
        trained = Architecture.from_checkpoint(initial.path)
        architecture = dataclasses.replace(trained, **given)
        architecture.check_continues(trained)
    except ValueError as error:
        raise InputError(
            f"train_model cannot continue the checkpoint of the step above: {error}",
            hint="leave that knob out, and take a preset that gives it like the checkpoint or, like finetune, says nothing of the shape",
        ) from error
    if vocab_size > trained.vocab_size:
        raise InputError(
            f"the tokenizer has {vocab_size:,} tokens, but the checkpoint to continue has {trained.vocab_size:,}",
            hint="take the tokenizer that the checkpoint was trained with: train_tokenizer.existing",
        )
    return architecture


class _Listener:
    """Hears the trainer's lines, and tells the run."""

    def __init__(self, runtime: Runtime, num_steps: int) -> None:
        self.runtime, self.num_steps = runtime, num_steps
        self.step = 0
        self.heldout: dict[str, float] = {}
        self.words: deque[str] = deque(maxlen=KEPT_LINES)
        """What it said to people: the last lines that are no figures, each once, whichever process said it."""
        self.was_killed = self._is_over = False

    def __call__(self, line: str) -> None:
        said = json.loads(line) if line.startswith("{") else {}
        if not said:
            self._hear(line)
        if "step" in said:
            self.step = said["step"]
            told = {name: said[name] for name in ("loss", "tokens_per_second", "mfu") if said.get(name) is not None}
            self.runtime.progress(said["step"], self.num_steps, "steps", **told, **self.heldout)
        if "validation" in said and "all" in said["validation"]["losses"]:  # not where nothing is held out
            self.heldout = {"heldout_loss": said["validation"]["losses"]["all"]}
            self.runtime.append("heldout", **said["validation"])
        if "samples" in said:
            self.runtime.append("samples", **said["samples"])
        if "resumed" in said:
            self.step = said["resumed"]["step"]
            self.runtime.note(resumed_at_step=self.step)
        if "skipped" in said:
            self.runtime.note(last_skipped=said["skipped"])
        if "damaged" in said:
            self.runtime.note(damaged_states=said["damaged"])
        self.runtime.note(**said.get("summary", {}))

    def _hear(self, line: str) -> None:
        """Keep what the trainer says, and not what the launcher of several has to say of its end, which is long and gives no reason."""
        self._is_over = self._is_over or LAUNCHERS_LINE.match(line) is not None
        self.was_killed = self.was_killed or KILLED in line
        if not self._is_over and line not in self.words:
            self.words.append(line)

    def failure(self) -> StageError:
        """Return why it ended, in its own words; without any, it was killed."""
        words = "" if self.was_killed else "\n".join(self.words).strip()  # those left behind only say that they lost another
        where = f"after step {self.step:,} of {self.num_steps:,}" if self.step else "before its first step"
        again = "run the same command again: it resumes from the last saved state"
        if words and "out of memory" not in words.lower():
            return StageError(f"the trainer failed {where}; its last lines:\n{words}", hint="fix the error, and " + again)
        silent = "ended without a message, as a killed process does: often, memory ran out"
        how = f"ran out of memory; its last lines:\n{words}" if words else silent
        lower = "train_model.microbatch_sequences, or set train_model.activation_checkpointing"
        return StageError(f"the trainer {where} {how}", hint=f"if it was memory, lower {lower}; {again}")


def _check_sequences(packed: Packed, architecture: Architecture, initial: Checkpoint | None) -> None:
    """Refuse at once, and by the knobs' names, what a trainer would refuse after seconds of loading."""
    import pyarrow.compute as pc

    num_train = sum(pc.sum(pc.equal(part.read(["split"])["split"], "train"), min_count=0).as_py() for part in packed.parts)
    if not num_train:
        raise InputError(
            f"there is nothing to train on: of {packed.num_rows} packed sequences none has the split train",
            hint="look in the lines above for the step that left no documents (`starloom trace REPOSITORY` says why), give ingest more "
            "sources, or lower pack_fim.heldout_fraction",
        )
    length = len(next(iter(packed.batches(["tokens"], rows=1)))["tokens"][0])
    context_tokens = architecture.context_tokens
    if not 1 < length <= context_tokens:
        can_grow = initial is None or not architecture.has_learned_positions
        message, hint = _unfit(length, context_tokens, "train_model", "pack_fim", can_grow=can_grow)
        raise InputError(message, hint=hint)


def _unfit(length: int, context_tokens: int, training: str, packing: str, *, can_grow: bool) -> tuple[str, str]:
    """Describe what is wrong with sequences that a network cannot read, and what to do."""
    grow = f", or {training}.context_tokens to {max(length, 2)} or more" if can_grow else ""
    return (
        f"packed sequences have {length} tokens, and this network reads 2 to {context_tokens} ({training}.context_tokens)",
        f"set {packing}.sequence_length to {context_tokens} or less{grow}",
    )


def _check_tokenizer(vocabulary: dict[str, int], digest: str, initial: Checkpoint) -> None:
    """Refuse a tokenizer by which the checkpoint's numbers mean other text."""
    hint = "take the tokenizer that the checkpoint was trained with: train_tokenizer.existing"
    if TOKENIZER in initial.names():
        try:
            difference = first_difference(vocabulary, initial.path)
        except ValueError as error:
            raise InputError(f"the checkpoint's tokenizer cannot be read: {error}", hint="fetch its files again") from error
        if difference:
            raise InputError(f"the tokenizer is not that of the checkpoint to go on from: {difference}", hint=hint)
    state = initial.path / "trainer_state.json"
    noted = json.loads(state.read_text(encoding="utf-8")).get("vocabulary_sha256") if state.exists() else None
    if noted is not None and noted != digest:
        raise InputError("the tokenizer is not the one that the checkpoint to go on from was trained with", hint=hint)


def _show(job: TrainingJob, runtime: Runtime) -> None:
    """Leave what the trainer noted of its steps, and a picture of the curves, for whoever looks at the run."""
    import pyarrow.parquet as pq

    for name in ("timings.parquet", "samples.parquet", "tensorboard"):
        if (job.work / name).exists():
            runtime.show(job.work / name)
    losses = pq.read_table(job.out / "losses.parquet")
    runtime.draw(
        "loss.png",
        "training_curves",
        steps=losses["step"].to_numpy(),
        losses=losses["loss"].to_numpy(),
        learning_rates=losses["learning_rate"].to_numpy(),
        heldout=pq.read_table(job.out / "validation.parquet").to_pydict(),
        title="Training loss",
    )
