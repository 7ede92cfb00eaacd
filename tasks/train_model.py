"""Train a language model on the packed sequences, in a process of its own.

Reads   Packed      split, tokens (rows whose split is train)
        Tokenizer   tokenizer.json (size of the vocabulary, ids of its special tokens)
Writes  Checkpoint  model.safetensors, config.json, trainer_state.json
        Losses      step, tokens, loss, learning_rate, grad_norm
        Batches     step, part, row: every sequence of Packed that was seen, in order
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from lineage.errors import InputError
from tasks._stage import Config, Runtime, RuntimeOnly, stage
from tasks.schemas import Batches, Checkpoint, Losses, Packed, Tokenizer

if TYPE_CHECKING:
    from model.config import TrainingJob

PRESETS = Path(__file__).parents[1] / "conf" / "model"
CHECKPOINT_FILES = ("model.safetensors", "config.json", "trainer_state.json")


class TrainModel(Config):
    """Knobs of `train_model`. Those left out are the preset's; all of them, and not the preset's name, are the identity."""

    preset: RuntimeOnly[str] = "tiny"
    """Where the other knobs come from: a name in conf/model (tiny, starcoderbase-1b …), or a YAML file beside the recipe."""

    context_tokens: int | None = Field(None, gt=1)
    """Longest sequence the network reads."""
    num_layers: int | None = Field(None, gt=0)
    """Transformer blocks."""
    num_heads: int | None = Field(None, gt=0)
    """Query heads; they share one key and one value head."""
    width: int | None = Field(None, gt=0)
    """Numbers in a token's residual stream."""
    inner_width: int | None = Field(None, gt=0)
    """Numbers in the hidden layer of a block's MLP; four times the width unless given."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Chance that a number is zeroed in training; none unless given."""

    seed: int = Field(0, ge=0)
    """Decides the first weights, the order of the sequences and dropout."""
    num_steps: int | None = Field(None, gt=0)
    """Updates of the weights."""
    batch_sequences: int | None = Field(None, gt=0)
    """Sequences in one update, over all processes."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak of the schedule, reached at the end of the warm-up."""
    min_learning_rate: float | None = Field(None, ge=0)
    """Where the cosine ends; 0 unless given."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of the linear climb to the peak; none unless given."""
    weight_decay: float | None = Field(None, ge=0)
    """AdamW's decay of matrices; 0.1 unless given."""
    betas: tuple[float, float] | None = None
    """AdamW's memory of the gradient and of its square; 0.9 and 0.95 unless given."""
    epsilon: float | None = Field(None, gt=0)
    """Added to AdamW's denominator; 1e-8 unless given."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; 1 unless given."""
    precision: Literal["auto", "bf16", "fp32"] | None = None
    """Arithmetic of matrix products; auto is bf16 on CUDA and fp32 on a CPU."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of a process, 2 unless given. Identity: the order of a floating-point sum depends on it."""

    microbatch_sequences: RuntimeOnly[int | None] = Field(None, gt=0)
    """Sequences a process holds in memory at a time; its whole share of the batch unless given."""
    checkpoint_every_steps: RuntimeOnly[int | None] = Field(None, gt=0)
    """Steps that a killed training loses at most."""
    num_processes: RuntimeOnly[int] = Field(1, gt=0)
    """Processes that train together, each with a GPU of its own."""

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, knobs: Any, info: ValidationInfo) -> Any:
        """Fill in what the preset says and nobody overrides."""
        if not isinstance(knobs, dict):
            return knobs
        path = _preset_path(str(knobs.get("preset", "tiny")), (info.context or {}).get("folder", "."))
        given = {name: value for name, value in knobs.items() if value is not None}
        return _preset_knobs(path) | given | {"preset": str(path)}

    @model_validator(mode="after")
    def _is_a_job(self) -> TrainModel:
        """Refuse what the trainer would refuse, before anything runs."""
        _job(self, vocab_size=1, packed=[Path("packed")], folder=Path("folder"))
        return self


def _preset_path(preset: str, folder: str) -> Path:
    named, beside = PRESETS / f"{preset}.yaml", Path(folder, preset).expanduser()
    for path in (named, beside):
        if path.is_file():
            return path.absolute()
    known = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
    raise ValueError(f"preset {preset!r} is neither a file ({beside}) nor one of {known}")


def _preset_knobs(path: Path) -> dict[str, Any]:
    """Both halves of a preset as one mapping; the vocabulary is the tokenizer's, whatever the preset says."""
    import yaml

    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(preset, dict) or not set(preset) <= {"architecture", "training"}:
        raise ValueError(f"{path} is no preset: it needs `architecture` and `training`, and nothing else")
    knobs = {**preset.get("architecture", {}), **preset.get("training", {})}
    knobs.pop("vocab_size", None)
    return knobs


def _job(cfg: TrainModel, *, vocab_size: int, packed: list[Path], folder: Path, **tokens: int | None) -> TrainingJob:
    """What `model.train` is told."""
    from model.config import Architecture, Training, TrainingJob

    knobs = {name: value for name, value in cfg.model_dump().items() if value is not None}
    shape = {name: value for name, value in knobs.items() if name in Architecture.model_fields}
    schedule: dict[str, Any] = {name: value for name, value in knobs.items() if name in Training.model_fields}
    return TrainingJob(
        architecture=Architecture(vocab_size=vocab_size, **shape),
        training=Training(**(schedule | tokens)),
        packed=packed,
        out=folder / "out",
        work=folder / "work",
    )


@stage(over="whole", runs=("model.train",), libraries=("torch", "accelerate", "safetensors", "pyarrow"))
def train_model(packed: Packed, tokenizer: Tokenizer, cfg: TrainModel, runtime: Runtime) -> tuple[Checkpoint, Losses, Batches]:
    """Have `model.train` train; a run that was killed resumes from its newest state in the scratch folder."""
    import json
    import sys

    import pyarrow.parquet as pq
    import tokenizers

    from tasks.kernels.special_tokens import END_OF_TEXT, FIM_PAD

    def show(line: str) -> None:
        said = json.loads(line) if line.startswith("{") else {}
        if "resumed" in said:
            runtime.note(resumed_at_step=said["resumed"]["step"])
        if "step" in said:
            runtime.progress(said["step"], job.training.num_steps, "steps", loss=said["loss"], tokens_per_second=said["tokens_per_second"])
        runtime.note(**said.get("summary", {}))

    _check_sequences(packed, cfg)
    model = tokenizers.Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    job = _job(
        cfg,
        vocab_size=model.get_vocab_size(),
        pad_token=model.token_to_id(FIM_PAD),
        eod_token=model.token_to_id(END_OF_TEXT),
        packed=packed.local_paths(runtime.scratch),
        folder=runtime.scratch,
    )
    config = runtime.scratch / "job.json"
    config.write_text(job.model_dump_json(indent=2), encoding="utf-8")
    argv = [sys.executable, *_launcher(cfg, job.training.threads), "-m", "model.train", str(config)]
    # On busy cores, threads that spin while they wait for each other make a step five times slower; on idle ones nothing is lost.
    runtime.subprocess(argv, on_line=show, env={"OMP_WAIT_POLICY": "PASSIVE"})
    checkpoint = runtime.scratch / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    for name in CHECKPOINT_FILES:
        (job.out / name).replace(checkpoint / name)
    losses, batches = (pq.read_table(job.out / name) for name in ("losses.parquet", "batches.parquet"))
    return Checkpoint.of(checkpoint), Losses.of(losses), Batches.of(batches)


def _check_sequences(packed: Packed, cfg: TrainModel) -> None:
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
    context_tokens = cfg.context_tokens or 0
    if not 1 < length <= context_tokens:
        raise InputError(
            f"packed sequences have {length} tokens, and this network reads 2 to {context_tokens} (train_model.context_tokens)",
            hint=f"set pack_fim.sequence_length to {context_tokens} or less, or train_model.context_tokens to {max(length, 2)} or more",
        )


def _launcher(cfg: TrainModel, threads: int) -> list[str]:
    """`accelerate launch` with every value given, so that it asks, guesses and warns about nothing."""
    many = ["--multi_gpu"] if cfg.num_processes > 1 else []
    return [
        *("-m", "accelerate.commands.launch", "--quiet", *many),
        *("--num_processes", str(cfg.num_processes), "--num_machines", "1", "--num_cpu_threads_per_process", str(threads)),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ]
