"""Reading and writing checkpoints in transformers' format, for both families.

Ours and theirs differ in names and in how the rows of query, key and value lie: ours are one matrix, all queries, then all keys, then all
values. GPTBigCode's is the same where keys are shared, and interleaved head by head where they are not; Starcoder2 has three.
Weights are read and written one at a time, so memory holds the largest matrix rather than the network.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from starloom.model.architecture import GPT_BIGCODE, Architecture
from starloom.model.files import replacing
from starloom.model.network import GPT

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SHARD_BYTES = 5 << 30
"""Largest file of weights; a network beyond it is written in several, as transformers does."""

_GPT_BIGCODE = {
    "wte": "transformer.wte",
    "wpe": "transformer.wpe",
    "ln_f": "transformer.ln_f",
    "blocks": "transformer.h",
    "ln_1": "ln_1",
    "ln_2": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "head": "lm_head",
}
_STARCODER2 = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "blocks": "model.layers",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attention.out": "self_attn.o_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "head": "lm_head",
}
_STARCODER2_HEADS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class Piece(NamedTuple):
    """One tensor of theirs: the rows of ours that it is."""

    name: str
    start: int
    stop: int


def pieces_of(architecture: Architecture, name: str, num_rows: int) -> list[Piece]:
    """Return the tensors of transformers' format that a parameter of ours is made of, in order."""
    layer, _, rest = name.removeprefix("blocks.").partition(".") if name.startswith("blocks.") else ("", "", name)
    module, _, kind = rest.rpartition(".")
    names = _GPT_BIGCODE if architecture.family == GPT_BIGCODE else _STARCODER2
    prefix = f"{names['blocks']}.{layer}." if layer else ""
    if module in names:
        return [Piece(f"{prefix}{names[module]}.{kind}", 0, num_rows)]
    query, key = architecture.width, architecture.width + architecture.key_value_width
    ends = (0, query, key, num_rows)
    return [Piece(f"{prefix}{theirs}.{kind}", ends[i], ends[i + 1]) for i, theirs in enumerate(_STARCODER2_HEADS)]


def _interleaved_rows(architecture: Architecture, name: str) -> Tensor | None:
    """Return the row order of theirs, if it differs: GPTBigCode with a key per head puts query, key and value of each head side by side."""
    is_interleaved = architecture.family == GPT_BIGCODE and architecture.num_key_value_heads > 1
    if not is_interleaved or "attention.qkv" not in name:
        return None
    rows = torch.arange(3 * architecture.width).view(architecture.num_heads, 3, architecture.head_width)
    return rows.transpose(0, 1).reshape(-1)


# Writing


def save_network(
    folder: Path,
    architecture: Architecture,
    weights: Iterable[tuple[str, Tensor]],
    *,
    shard_bytes: int = SHARD_BYTES,
    **token_ids: int | None,
) -> None:
    """Write the weights in fp32, and `config.json` last.

    Args:
        folder: where; created.
        architecture: what the weights fit.
        weights: our names and tensors, in the order of `GPT.named_parameters`; taken one by one.
        shard_bytes: largest file of weights.
        token_ids: `eos_token_id` and the like, told to whoever loads it.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    for old in (folder / CONFIG, folder / INDEX, *folder.glob("model*.safetensors")):  # without its config the folder is no checkpoint
        old.unlink(missing_ok=True)
    shards = _shards(architecture, shard_bytes)
    files = [WEIGHTS] if len(shards) == 1 else [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    coming = iter(_as_theirs(architecture, weights))
    for file_name, names in zip(files, shards, strict=True):
        tensors = dict(next(coming) for _ in names)
        assert list(tensors) == names, f"the weights came in another order than {names[:3]} …"
        with replacing(folder / file_name) as file:
            safetensors.torch.save_file(tensors, file.name, metadata={"format": "pt"})
    assert next(coming, None) is None, "there are more weights than the architecture has"
    if len(shards) > 1:
        where = {name: file_name for file_name, names in zip(files, shards, strict=True) for name in names}
        _write_json(folder / INDEX, {"metadata": {"total_size": 4 * architecture.num_parameters}, "weight_map": where})
    _write_json(folder / CONFIG, architecture.to_checkpoint() | token_ids)


def _shards(architecture: Architecture, shard_bytes: int) -> list[list[str]]:
    """Group the names into files, each at most so large unless one tensor is larger."""
    with torch.device("meta"):
        network = GPT(architecture)
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, parameter in network.named_parameters():
        for piece in pieces_of(architecture, name, len(parameter)):
            size = 4 * (piece.stop - piece.start) * (parameter.numel() // len(parameter))
            if size > room and shards[-1]:
                shards.append([])
                room = shard_bytes
            shards[-1].append(piece.name)
            room -= size
    return shards


def _as_theirs(architecture: Architecture, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights:
        yield from their_rows(architecture, name, tensor.detach().to("cpu", torch.float32))


def their_rows(architecture: Architecture, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Return a parameter of ours, or anything that has its rows, as the tensors of transformers' format."""
    rows = _interleaved_rows(architecture, name)
    if rows is not None:
        tensor = torch.empty_like(tensor).index_copy_(0, rows, tensor)
    for piece in pieces_of(architecture, name, len(tensor)):
        yield piece.name, tensor[piece.start : piece.stop].contiguous()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True).encode() + b"\n")


# Reading


class Weights:
    """The weights of a checkpoint folder, read one at a time under our names.

    Raises:
        ValueError: a file or a tensor is missing, or does not fit the config; the message names it.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self.folder, self.architecture = folder, architecture
        self._open: dict[str, Any] = {}
        self._file_of = self._index()

    def __call__(self, name: str, shape: torch.Size) -> Tensor:
        """Return the parameter of this name and shape, fp32 on the CPU."""
        pieces = pieces_of(self.architecture, name, shape[0])
        tensor = torch.cat([self._read(piece.name) for piece in pieces]) if len(pieces) > 1 else self._read(pieces[0].name)
        if tensor.shape != shape:
            raise ValueError(f"{self.folder}: {pieces[0].name} is {list(tensor.shape)}, but {CONFIG} asks for {list(shape)}")
        rows = _interleaved_rows(self.architecture, name)
        return tensor.float() if rows is None else tensor[rows].float()

    def _index(self) -> dict[str, str]:
        if (self.folder / INDEX).exists():
            where: dict[str, str] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            return where
        if not (self.folder / WEIGHTS).exists():
            raise ValueError(
                f"{self.folder} has neither {WEIGHTS} nor {INDEX}; weights of another format (pytorch_model.bin) are not read: "
                "they can run code. Convert them with transformers: from_pretrained, then save_pretrained"
            )
        return dict.fromkeys(self._file(WEIGHTS).keys(), WEIGHTS)

    def _file(self, name: str) -> Any:
        if name not in self._open:
            path = self.folder / name
            if not path.exists():
                raise ValueError(f"{self.folder / INDEX} names {name}, which is not there; fetch the whole folder")
            try:
                self._open[name] = safetensors.safe_open(path, framework="pt")
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path} is not a complete safetensors file ({error}); fetch it again") from error
        return self._open[name]

    def _read(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise ValueError(f"{self.folder} has no tensor {name}, which {CONFIG} asks for")
        tensor: Tensor = self._file(self._file_of[name]).get_tensor(name)
        return tensor


@torch.no_grad()
def load_network(folder: Path, device: torch.device) -> GPT:
    """Load the network of a checkpoint folder, ready to evaluate.

    Raises:
        ValueError: the folder holds another kind of network, or its weights do not fit its config.
    """
    architecture = Architecture.from_checkpoint(folder)
    weights = Weights(folder, architecture)
    with torch.device("meta"):
        network = GPT(architecture)
    network.to_empty(device=device)
    for name, parameter in network.named_parameters():
        parameter.copy_(weights(name, parameter.shape))
    return network.eval()
