"""The shape of a network: StarCoder's family and StarCoder2's, as one frozen value, and its `config.json`.

Importing this module needs the standard library only, so that a planner can count parameters, and a bare GPU machine can run.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

Family = Literal["gpt_bigcode", "starcoder2"]
GPT_BIGCODE: Family = "gpt_bigcode"
STARCODER2: Family = "starcoder2"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder-only transformer with biases, LayerNorm and a GELU MLP; the family decides positions and attention.

    Raises:
        ValueError: the numbers are inconsistent; the message names them.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    vocab_size: int
    """Rows of the token embedding, special tokens included."""
    context_tokens: int
    """Longest sequence."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Query heads."""
    width: int
    """Numbers in a token's residual stream."""
    family: Family = GPT_BIGCODE
    """gpt_bigcode: learned positions, multi-query attention (StarCoder). starcoder2: rotary positions, grouped queries, window."""
    num_key_value_heads: int = 0
    """Key and value heads that the query heads share equally; 0 stands for 1. gpt_bigcode has 1, or as many as query heads."""
    inner_width: int = 0
    """Numbers in the hidden layer of a block's MLP; 0 stands for four times the width."""
    initializer_range: float = 0.0
    """Standard deviation of a fresh weight; 0 stands for 1/sqrt(width), StarCoder's choice."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every LayerNorm."""
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    """GELU by its tanh approximation, as trained; or exact, as in some converted checkpoints."""
    dropout: float = 0.0
    """Probability that an embedding, an attention weight or a block's output is zeroed in training."""
    rope_theta: float = 0.0
    """Base of the rotary wavelengths, starcoder2 only; 0 stands for 100,000."""
    sliding_window: int | None = None
    """Tokens that a token sees, itself included, starcoder2 only; all before it where none is given."""
    tied_head: bool = True
    """Whether the output matrix is the token embedding."""

    def __post_init__(self) -> None:
        is_rotary = self.family == STARCODER2
        resolved = {
            "num_key_value_heads": self.num_key_value_heads or 1,
            "inner_width": self.inner_width or 4 * self.width,
            "initializer_range": self.initializer_range or 1 / math.sqrt(max(self.width, 1)),
            "rope_theta": self.rope_theta or (1e5 if is_rotary else 0.0),
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        positive = ("vocab_size", "num_layers", "num_heads", "width", "num_key_value_heads", "inner_width", "layer_norm_epsilon")
        for name in positive:
            _refuse(getattr(self, name) <= 0, f"{name} {getattr(self, name)} is not above 0")
        _refuse(self.family not in (GPT_BIGCODE, STARCODER2), f"family {self.family!r} is neither {GPT_BIGCODE} nor {STARCODER2}")
        _refuse(self.activation not in ACTIVATIONS.values(), f"activation {self.activation!r} is neither gelu_tanh nor gelu")
        _refuse(self.context_tokens <= 1, f"context_tokens {self.context_tokens} leaves nothing to predict; it must be 2 or more")
        _refuse(self.initializer_range < 0, f"initializer_range {self.initializer_range} is below 0")
        _refuse(not 0 <= self.dropout < 1, f"dropout {self.dropout} is not in [0, 1)")
        unequal = f"width {self.width} is not a multiple of num_heads {self.num_heads}: every head gets an equal share of it"
        _refuse(self.width % self.num_heads != 0, unequal)
        groups = f"num_heads {self.num_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}, which share them equally"
        _refuse(self.num_heads % self.num_key_value_heads != 0, groups)
        if self.family == STARCODER2:
            _refuse(self.rope_theta <= 0, f"rope_theta {self.rope_theta} is not above 0")
            _refuse(self.head_width % 2 != 0, f"heads of {self.head_width} numbers cannot be rotated in pairs; make width / num_heads even")
            _refuse(self.sliding_window is not None and self.sliding_window <= 0, f"sliding_window {self.sliding_window} is not above 0")
        else:
            for name in ("rope_theta", "sliding_window"):
                _refuse(bool(getattr(self, name)), f"{name} {getattr(self, name)} is for starcoder2; gpt_bigcode has learned positions")
            heads = f"num_key_value_heads {self.num_key_value_heads}: gpt_bigcode has 1, or one for each of its {self.num_heads} heads"
            _refuse(self.num_key_value_heads not in (1, self.num_heads), heads)

    @property
    def head_width(self) -> int:
        """Numbers in one query, key or value."""
        return self.width // self.num_heads

    @property
    def key_value_width(self) -> int:
        """Numbers in all keys of a token; its values are as many."""
        return self.num_key_value_heads * self.head_width

    @property
    def has_learned_positions(self) -> bool:
        """True if positions are a matrix added to the embeddings, rather than a rotation of queries and keys."""
        return self.family == GPT_BIGCODE

    @property
    def window(self) -> int | None:
        """The sliding window where it hides anything."""
        return self.sliding_window if self.sliding_window is not None and self.sliding_window < self.context_tokens else None

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; a tied head counts once."""
        width, layer_norm = self.width, 2 * self.width
        query_key_value = (width + 1) * (width + 2 * self.key_value_width)
        projection = (width + 1) * width
        mlp = (width + 1) * self.inner_width + (self.inner_width + 1) * width
        block = 2 * layer_norm + query_key_value + projection + mlp
        embeddings = (
            self.vocab_size + (self.context_tokens if self.has_learned_positions else 0) + (0 if self.tied_head else self.vocab_size)
        )
        return embeddings * width + self.num_layers * block + layer_norm

    def check_continues(self, trained: "Architecture") -> None:
        """Refuse to go on with the weights of another network, unless the two differ only in what weights do not know of.

        Raises:
            ValueError: they differ elsewhere; the message names the first field and both values.
        """
        free = {"rope_theta", "sliding_window", "dropout", "initializer_range"}
        free |= set() if self.has_learned_positions else {"context_tokens"}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(trained, field.name)
            refusal = (
                f"{field.name} is {mine!r}, but the checkpoint to continue has {theirs!r}; what may change is {', '.join(sorted(free))}"
            )
            _refuse(field.name not in free and mine != theirs, refusal)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return the `config.json` of a checkpoint, in the vocabulary of transformers' GPTBigCodeConfig or Starcoder2Config."""
        constants, names, dropouts = _FAMILIES[self.family]
        config = constants | {theirs: getattr(self, ours) for theirs, ours in names.items()} | dict.fromkeys(dropouts, self.dropout)
        config["tie_word_embeddings"] = self.tied_head
        activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == self.activation)
        if self.family == STARCODER2:
            rotary = {"rope_theta": self.rope_theta, "rope_type": "default"}
            return config | {"hidden_act": activation, "rope_theta": self.rope_theta, "rope_parameters": rotary}
        return config | {"activation_function": activation, "multi_query": self.num_key_value_heads == 1}

    @classmethod
    def from_checkpoint(cls, folder: Path) -> Self:
        """Return the architecture of a checkpoint folder, ours or anybody's in transformers' format.

        Raises:
            ValueError: the folder's `config.json` describes another kind of network.
        """
        path = folder / "config.json"
        config = _read(path)
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise ValueError(f"{path}: model_type is {family!r}; this network can be {' or '.join(_FAMILIES)}")
        constants, names, dropouts = _FAMILIES[family]
        missing = [theirs for theirs in names if theirs not in config and theirs not in _OPTIONAL]
        _refuse(bool(missing), f"{path}: {', '.join(missing)} missing")
        for name in _DEFINING & set(constants):
            said = config.get(name, constants[name])
            _refuse(said != constants[name], f"{path}: {name} is {said!r}, but this network is built for {constants[name]!r}")
        knobs = {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs) is not None}
        knobs |= _starcoder2_knobs(config, path) if family == STARCODER2 else _gpt_bigcode_knobs(config)
        activation = config.get("hidden_act" if family == STARCODER2 else "activation_function", "gelu_pytorch_tanh")
        _refuse(activation not in ACTIVATIONS, f"{path}: the activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        return cls(
            family=family,
            activation=ACTIVATIONS[activation],
            dropout=config.get(dropouts[0], 0.0),
            tied_head=config.get("tie_word_embeddings", True),
            **knobs,
        )


ACTIVATIONS: dict[str, Literal["gelu_tanh", "gelu"]] = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "gelu_new": "gelu_tanh"}
_GPT_BIGCODE_CONSTANTS: dict[str, Any] = {
    "architectures": ["GPTBigCodeForCausalLM"],
    "model_type": GPT_BIGCODE,
    "scale_attn_weights": True,
    "torch_dtype": "float32",
}
_GPT_BIGCODE_NAMES = {
    "vocab_size": "vocab_size",
    "n_positions": "context_tokens",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "width",
    "n_inner": "inner_width",
    "initializer_range": "initializer_range",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
_STARCODER2_CONSTANTS: dict[str, Any] = {
    "architectures": ["Starcoder2ForCausalLM"],
    "model_type": STARCODER2,
    "use_bias": True,
    "torch_dtype": "float32",
}
_STARCODER2_NAMES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_tokens",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_size": "width",
    "intermediate_size": "inner_width",
    "initializer_range": "initializer_range",
    "norm_epsilon": "layer_norm_epsilon",
    "sliding_window": "sliding_window",
}
_FAMILIES: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    GPT_BIGCODE: (_GPT_BIGCODE_CONSTANTS, _GPT_BIGCODE_NAMES, ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    STARCODER2: (_STARCODER2_CONSTANTS, _STARCODER2_NAMES, ("residual_dropout", "embedding_dropout", "attention_dropout")),
}
"""For each family: what always stands in its config, their names for our fields, their names for dropout."""
_DEFINING = {"scale_attn_weights", "use_bias"}
_OPTIONAL = {"n_inner", "initializer_range", "layer_norm_epsilon", "norm_epsilon", "sliding_window"}


def _gpt_bigcode_knobs(config: dict[str, Any]) -> dict[str, Any]:
    return {"num_key_value_heads": 1 if config.get("multi_query", True) else config["n_head"]}


def _starcoder2_knobs(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return theta, which transformers 4 keeps beside `rope_scaling` and transformers 5 in `rope_parameters`."""
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    _refuse(kind != "default", f"{path}: rotary positions of the type {kind!r}; this network has the default ones")
    theta = rotary.get("rope_theta", config.get("rope_theta", 10_000.0))  # the default of Starcoder2Config
    return {"rope_theta": float(theta)}


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}; a checkpoint is a folder in transformers' format") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, not a mapping of names to values")  # noqa: TRY004 - the file is wrong, not a caller
    return config


def _refuse(is_wrong: bool, why: str) -> None:
    if is_wrong:
        raise ValueError(why)
