"""Every knob of the network, its trainer and its evaluator, as frozen, checked values.

Importing this module costs milliseconds: it needs pydantic only, so a planner can read a preset without loading torch.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """A value: no unknown fields, no later changes; the string under a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Architecture(Frozen):
    """The shape of a GPTBigCode network: multi-query attention, learned positions, tied head."""

    vocab_size: int = Field(gt=0)
    """Rows of the token embedding, special tokens included."""
    context_tokens: int = Field(gt=1)
    """Longest sequence; rows of the position embedding."""
    num_layers: int = Field(gt=0)
    """Transformer blocks."""
    num_heads: int = Field(gt=0)
    """Query heads; they share one key head and one value head."""
    width: int = Field(gt=0)
    """Numbers in a token's residual stream."""
    inner_width: int = Field(0, ge=0)
    """Numbers in the hidden layer of a block's MLP; 0 stands for four times the width."""
    initializer_range: float = Field(0.0, ge=0)
    """Standard deviation of a fresh weight; 0 stands for 1/sqrt(width), StarCoder's choice."""
    layer_norm_epsilon: float = Field(1e-5, gt=0)
    """Added to the variance in every LayerNorm."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Chance that an embedding, an attention weight or a block's output is zeroed in training."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("width"), int) and values["width"] > 0:
            values = dict(values)
            values["inner_width"] = values.get("inner_width") or 4 * values["width"]
            values["initializer_range"] = values.get("initializer_range") or 1 / math.sqrt(values["width"])
        return values

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            msg = f"width {self.width} is not a multiple of num_heads {self.num_heads}: every head gets an equal share of it"
            raise ValueError(msg)
        return self

    @property
    def head_width(self) -> int:
        """Numbers in one query, key or value."""
        return self.width // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; the tied head counts once."""
        layer_norm, width = 2 * self.width, self.width
        query_key_value = (width + 1) * (width + 2 * self.head_width)
        projection = (width + 1) * width
        mlp = (width + 1) * self.inner_width + (self.inner_width + 1) * width
        block = 2 * layer_norm + query_key_value + projection + mlp
        return (self.vocab_size + self.context_tokens) * width + self.num_layers * block + layer_norm

    def to_checkpoint(self) -> dict[str, Any]:
        """The `config.json` of a checkpoint, in the vocabulary of transformers' GPTBigCodeConfig."""
        names = {theirs: getattr(self, ours) for theirs, ours in CHECKPOINT_NAMES.items()}
        return CHECKPOINT_CONSTANTS | names | {"embd_pdrop": self.dropout, "attn_pdrop": self.dropout}

    @classmethod
    def from_checkpoint(cls, folder: Path) -> Self:
        """The architecture of a checkpoint folder, ours or StarCoder's.

        Raises:
            ValueError: the folder's `config.json` describes another kind of network.
        """
        config = json.loads((folder / "config.json").read_text())
        for name, expected in CHECKPOINT_CONSTANTS.items():
            if name in CHECKPOINT_DEFINING and config.get(name) != expected:
                msg = f"{folder / 'config.json'}: {name} is {config.get(name)!r}, but this network is built for {expected!r}"
                raise ValueError(msg)
        return cls(**{ours: config[theirs] or 0 for theirs, ours in CHECKPOINT_NAMES.items()})


CHECKPOINT_NAMES = {
    "vocab_size": "vocab_size",
    "n_positions": "context_tokens",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "width",
    "n_inner": "inner_width",
    "initializer_range": "initializer_range",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "resid_pdrop": "dropout",
}
CHECKPOINT_CONSTANTS: dict[str, Any] = {
    "architectures": ["GPTBigCodeForCausalLM"],
    "model_type": "gpt_bigcode",
    "activation_function": "gelu_pytorch_tanh",
    "multi_query": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
CHECKPOINT_DEFINING = ("model_type", "activation_function", "multi_query")


class Training(Frozen):
    """How the weights are found. Identity: the same values on the same kind of machine give the same bytes."""

    seed: int = Field(0, ge=0)
    """Decides the first weights, the order of the sequences and dropout."""
    num_steps: int = Field(gt=0)
    """Updates of the weights."""
    batch_sequences: int = Field(gt=0)
    """Sequences in one update, over all processes."""
    microbatch_sequences: int = Field(0, ge=0)
    """Sequences one process holds in memory at a time; 0 stands for its whole share of the batch."""
    learning_rate: float = Field(gt=0)
    """Peak of the schedule, reached at the end of the warm-up."""
    min_learning_rate: float = Field(0.0, ge=0)
    """Where the cosine ends."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of the linear climb to the peak."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decay of matrices; biases and LayerNorms are spared."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's memory of the gradient and of its square."""
    epsilon: float = Field(1e-8, gt=0)
    """Added to AdamW's denominator."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient; a longer one is shortened to it."""
    pad_token: int | None = Field(None, ge=0)
    """Token that is never a target of the loss."""
    eod_token: int | None = Field(None, ge=0)
    """Token that ends a document; whoever loads the checkpoint is told, so that a completion ends there."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the matrix products: auto is bf16 on CUDA and fp32 on CPU. Weights and sums stay fp32."""
    threads: int = Field(2, gt=0)
    """CPU threads of a process. Identity, because the order of a floating-point sum depends on it."""
    checkpoint_every_steps: int = Field(100, gt=0)
    """Steps between two checkpoints that a killed training resumes from."""
    log_every_steps: int = Field(1, gt=0)
    """Steps between two lines of progress on stdout."""

    @model_validator(mode="after")
    def _schedule_is_sane(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            msg = f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}"
            raise ValueError(msg)
        return self


class TrainingJob(Frozen):
    """The whole `config.json` of `model.train`."""

    architecture: Architecture
    training: Training
    packed: list[Path] = Field(min_length=1)
    """Part files, in order: Parquet with `split` and `tokens`."""
    out: Path
    """Folder of the results; created."""
    work: Path
    """Folder of checkpoints and scratch files; a killed training resumes from it."""


class Heldout(Frozen):
    """Loss of every token of the held-out sequences."""

    max_sequences: int = Field(256, gt=0)
    """At most so many, spread evenly over all that there are."""
    batch_sequences: int = Field(16, gt=0)
    """Sequences evaluated at once."""


class Completing(Frozen):
    """Completions of prompts."""

    prompts: Path
    """JSON lines, one `Prompt` each."""
    batch_prompts: int = Field(16, gt=0)
    """Prompts continued at once."""


class EvaluationTasks(Frozen):
    """What to measure; a task left out is not run."""

    heldout: Heldout | None = None
    completions: Completing | None = None


class EvaluationJob(Frozen):
    """The whole `config.json` of `model.evaluate`."""

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
    threads: int = Field(2, gt=0)


class Prompt(Frozen):
    """One line of a prompts file: text or token ids, and how to continue them."""

    task_id: str
    sample: int = Field(0, ge=0)
    """Number of this sample of the task; part of the random seed."""
    prompt: str | None = None
    """Encoded as plain text: what looks like a special token is not one."""
    prompt_tokens: list[int] | None = None
    """Token ids, special ones included; instead of `prompt`."""
    max_new_tokens: int = Field(128, gt=0)
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token; above, a draw from the sharpened or flattened distribution."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the fewest tokens that hold this share of the probability."""
    stop: list[str] = []
    """The completion ends before the first of these that appears in it."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.prompt_tokens is None):
            msg = f"task {self.task_id!r}: give exactly one of `prompt` and `prompt_tokens`"
            raise ValueError(msg)
        return self
