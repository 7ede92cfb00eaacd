"""Every knob of the trainer and the evaluator, as frozen, checked values.

Importing this module costs milliseconds: it needs pydantic only, so a planner can read a preset without loading torch.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from starloom.model.architecture import Architecture


class Frozen(BaseModel):
    """A value: no unknown fields, no later changes; the string under a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Lora(Frozen):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): the weights stand still, a narrow pair of matrices beside each is trained."""

    rank: int = Field(16, gt=0, strict=True)
    """Rank of the pair."""
    alpha: float = Field(32.0, gt=0, strict=True)
    """Scale: the pair's product is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1, strict=True)
    """Dropout: the probability that an input of the pair is zeroed in training."""
    modules: tuple[Literal["qkv", "out", "up", "down"], ...] = Field(("qkv", "out", "up", "down"), min_length=1)
    """Which matrices of a block get a pair."""


class Training(Frozen):
    """The knobs of optimization. Identity: the same values on the same kind of machine give the same bytes."""

    seed: int = Field(0, ge=0)
    """Seed of the first weights, the order of the sequences and dropout."""
    num_steps: int = Field(gt=0)
    """Optimizer steps."""
    batch_sequences: int = Field(gt=0)
    """Sequences of one step (the global batch), over all processes."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate, reached at the end of the warm-up."""
    min_learning_rate: float = Field(0.0, ge=0)
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a half cosine; or stable at the peak, then a decay by 1 - sqrt (WSD; Hägele et al. 2024, arXiv 2405.18392)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of the linear climb to the peak; a training that is shorter ends on the way up."""
    decay_steps: int = Field(0, ge=0)
    """Steps of the decay of `wsd`; 0 stands for a fifth of all."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decay of matrices; biases and LayerNorms are spared."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW's betas: decay of the averages of the gradient and of its square."""
    epsilon: float = Field(1e-8, gt=0)
    """AdamW's epsilon, added to the denominator."""
    clip: float = Field(1.0, gt=0)
    """Gradient clipping: the largest global norm of the gradient."""
    attend_across_documents: bool = True
    """Attention across the documents of a sequence, as in StarCoder; if false, a token attends to its own document only."""
    validate_every_steps: int = Field(0, ge=0)
    """Steps between two measurements of the held-out loss, overall and by language; 0 measures none."""
    validation_sequences: int = Field(64, gt=0)
    """Held-out sequences to measure it on, spread evenly over all."""
    spike_factor: float = Field(0.0, ge=0)
    """A gradient norm this many times the median of the last hundred steps is a spike; 0 disables the check."""
    on_divergence: Literal["stop", "skip"] = "stop"
    """On a NaN or infinite loss or gradient, or a spike: stop and name its documents; or skip the step and go on."""
    max_skipped_steps: int = Field(10, gt=0)
    """Steps in a row that `skip` may skip before training stops."""
    lora: Lora | None = None
    """Train a low-rank adaptation (LoRA) of the initial checkpoint rather than all weights."""
    pad_token: int | None = Field(None, ge=0)
    """Token that is never a target of the loss."""
    eod_token: int | None = Field(None, ge=0)
    """Token that ends a document; written to the checkpoint's config, so that a completion ends there."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the matrix products: auto is bf16 on CUDA and on a CPU that has instructions for it (AMX), else fp32.
    Weights and sums stay fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute: auto is a GPU where there is one. In the key as resolved, like the precision, for the bits differ."""
    threads: int = Field(2, gt=0)
    """CPU threads of a process. Identity, because the order of a floating-point sum depends on it."""

    @model_validator(mode="after")
    def _schedule_is_sane(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}")
        if self.schedule == "cosine" and self.decay_steps:
            raise ValueError(f"decay_steps {self.decay_steps} is for the schedule wsd; the cosine decays from the warm-up to the end")
        if self.decay_steps and self.warmup_steps + self.decay_steps > self.num_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} together are more than num_steps {self.num_steps}"
            )
        return self


class Running(Frozen):
    """The knobs of execution: what may change between two starts of one training, and some of it the last bits."""

    microbatch_sequences: int = Field(default=0, ge=0)
    """Sequences of one forward pass on one process (the microbatch); 0 stands for its whole share of the batch."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Each process holds the whole network; or a shard of it, gathered block by block (FSDP2)."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile each block with torch.compile; auto does so on a GPU."""
    activation_checkpointing: bool = False
    """Activation checkpointing: recompute activations in the backward pass, for a third more work and a fraction of the memory."""
    attention: Literal["auto", "flash", "varlen", "cudnn", "sdpa"] = "auto"
    """Attention kernel: auto takes flash-attn where it is installed, else torch's own. `starloom.model.bench` compares them."""
    checkpoint_every_steps: int = Field(default=100, gt=0)
    """Steps between two states that a killed training resumes from."""
    keep_states: int = Field(default=2, gt=0)
    """Newest states to keep; with two, a state that the disk damaged costs some steps and not the training."""
    keep_every_steps: int = Field(default=0, ge=0)
    """States of steps that this divides are kept for good; 0 keeps none."""
    log_every_steps: int = Field(default=1, gt=0)
    """Steps between two lines of progress on stdout."""
    sample_prompts: int = Field(default=4, ge=0, le=64)
    """Held-out prompts that the model continues or fills in, greedily, whenever the held-out loss is measured; 0 has it write nothing."""
    sample_tokens: int = Field(default=48, gt=0)
    """Longest of these completions."""
    grace_seconds: float = Field(default=30.0, gt=0)
    """Time that a save may take after SIGTERM before the process exits without it."""

    @model_validator(mode="after")
    def _states_are_kept(self) -> Self:
        if self.keep_every_steps % self.checkpoint_every_steps:
            raise ValueError(
                f"keep_every_steps {self.keep_every_steps} is not a multiple of checkpoint_every_steps {self.checkpoint_every_steps}: "
                "no state would be kept"
            )
        return self


class TrainingJob(Frozen):
    """The whole `config.json` of `starloom.model.train`."""

    architecture: Architecture
    training: Training
    running: Running = Running()
    packed: list[Path] = Field(min_length=1)
    """Part files, in order: Parquet with `split`, `tokens` and perhaps `starts`."""
    spans: list[Path] = []
    """For each part file its Spans: Parquet with sequence, token_start, token_end, doc_id, language, role."""
    vocabulary_sha256: str | None = None
    """Hash of the vocabulary that the tokens are of, to be noted in `trainer_state.json`."""
    tokenizer: Path | None = None
    """The `tokenizer.json` that the tokens are of, to spell what the model writes meanwhile; without it, it writes nothing."""
    initial: Path | None = None
    """Folder of a checkpoint to start from; optimizer and schedule start anew."""
    out: Path
    """Folder of the results; created."""
    work: Path
    """Folder of states and scratch files; a killed training resumes from it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.spans and len(self.spans) != len(self.packed):
            raise ValueError(f"{len(self.spans)} files of spans for {len(self.packed)} packed part files; give one for each, or none")
        if self.training.lora and self.initial is None:
            raise ValueError("lora adapts a trained network: give `initial`, the checkpoint to adapt")
        return self


class Heldout(Frozen):
    """Loss of every token of the held-out sequences."""

    max_sequences: int = Field(256, gt=0)
    """Largest number of sequences to measure, spread evenly over all."""
    batch_sequences: int = Field(16, gt=0)
    """Sequences evaluated at once."""
    attend_across_documents: bool = True
    """Attention across the documents of a sequence; set it as in training."""


class Completing(Frozen):
    """Completions of prompts."""

    prompts: Path
    """JSON lines, one `Prompt` each."""
    batch_prompts: int = Field(16, gt=0)
    """Prompts continued at once."""


class EvaluationTasks(Frozen):
    """The tasks to run; a task left out is not run."""

    heldout: Heldout | None = None
    completions: Completing | None = None


class EvaluationJob(Frozen):
    """The whole `config.json` of `starloom.model.evaluate`."""

    checkpoint: Path
    """Folder with `model.safetensors` and `config.json`."""
    tokenizer: Path
    """The `tokenizer.json` that the packed tokens were made with."""
    packed: list[Path] = []
    """Part files, in order; read by the held-out task."""
    out: Path
    """Folder of the results; created."""
    tasks: EvaluationTasks
    pad_token: int | None = Field(None, ge=0)
    """Token that is never a target of the loss."""
    eod_token: int | None = Field(None, ge=0)
    """Token that ends a completion."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(2, gt=0)


class Prompt(Frozen):
    """One line of a prompts file: text, token ids, or both sides of a gap; and how to continue them."""

    task_id: str
    sample: int = Field(0, ge=0)
    """Number of this sample of the task; part of the random seed."""
    prompt: str | None = None
    """Encoded as plain text: what looks like a special token is not one."""
    prompt_tokens: list[int] | None = None
    """Token ids, special ones included; instead of `prompt`."""
    prefix: str | None = None
    """Text before the gap to fill in, encoded like `prompt`; with `suffix`, instead of `prompt`."""
    suffix: str | None = None
    """Text after the gap."""
    fim: Literal["psm", "spm"] = "psm"
    """Order in which the two are shown: prefix, suffix, middle; or suffix first."""
    max_new_tokens: int = Field(128, gt=0)
    """Largest number of tokens of the completion."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: draw from the smallest set of tokens that holds this share of the probability."""
    stop: list[str] = []
    """The completion ends before the first of these that appears in it."""
    seed: int = Field(0, ge=0)
    """Part of the random seed."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prefix is None) != (self.suffix is None):
            raise ValueError(f"task {self.task_id!r}: give both `prefix` and `suffix`, the two sides of the gap; one may be empty")
        if [self.prompt, self.prompt_tokens, self.prefix].count(None) != 2:  # noqa: PLR2004  # two of the three ways to ask are left out
            raise ValueError(f"task {self.task_id!r}: give exactly one of `prompt`, `prompt_tokens`, and `prefix` with `suffix`")
        if "" in self.stop:
            raise ValueError(f"task {self.task_id!r}: an empty stop string would end every completion at once; leave it out")
        return self
