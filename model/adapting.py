"""Low-rank adaptation of a trained network by `peft` (extra `lora`): its weights stand still, a narrow pair beside each matrix is trained.

Afterwards the pairs are multiplied and added to the matrices, so that the checkpoint is a network like any other; and the pairs are written
on their own, in the format that `peft.PeftModel.from_pretrained` adds to the transformers model of the checkpoint that was adapted.

Source: Hu et al. 2021, arXiv 2106.09685. A pair is A, [rank, inputs], and B, [outputs, rank]; the matrix becomes W + alpha / rank B A.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from starloom.model.architecture import Architecture
from starloom.model.config import Lora
from starloom.model.files import replacing
from starloom.model.formats import their_rows

if TYPE_CHECKING:
    from starloom.model.parallel import Source

WHERE = {"qkv": "attention.qkv", "out": "attention.out", "up": "mlp.up", "down": "mlp.down"}
BASE, FIRST, SECOND = ".base_layer", ".lora_A.default", ".lora_B.default"
"""The affixes that peft adds to the names of parameters."""


class Pair(NamedTuple):
    """The low-rank pair trained beside one matrix."""

    name: str
    """Of the matrix, in the network as it was."""
    first: Tensor
    second: Tensor


def adapt(network: nn.Module, lora: Lora) -> None:
    """Put a pair beside each matrix that is to have one, and leave nothing else to train.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora needs the package peft: pip install 'starloom[lora]'") from error
    modules = [WHERE[module] for module in lora.modules]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules)
    inject_adapter_in_model(config, network)


class Adapted:
    """First weights of an adapted network: the matrices from their source, A small and random, B zero, so that nothing changes at first."""

    def __init__(self, source: "Source", seed: int) -> None:
        self.source, self.seed = source, seed

    def __call__(self, name: str, shape: torch.Size) -> Tensor:
        """Return the parameter of this name and shape."""
        if SECOND in name:
            return torch.zeros(shape)
        if FIRST not in name:
            return self.source(name.replace(BASE, ""), shape)
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        bound = 1 / math.sqrt(shape[1])  # as peft: kaiming_uniform with a = sqrt(5)
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def merged(weights: Iterator[tuple[str, Tensor]], lora: Lora, keep: Callable[[list[Pair]], None]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a network without pairs that computes the same; at the end the pairs are given to `keep`."""
    pairs: list[Pair] = []
    held: dict[str, Tensor] = {}
    for name, tensor in weights:
        if BASE in name or FIRST in name:
            held[name.replace(BASE, "")] = tensor
        elif SECOND in name:
            first_name = name.replace(SECOND, FIRST)
            matrix = name.replace(SECOND, "")
            pairs.append(Pair(matrix, held.pop(first_name), tensor))
            held[matrix] = held[matrix] + (pairs[-1].second @ pairs[-1].first) * (lora.alpha / lora.rank)
            yield from held.items()
            held = {}
        else:
            yield name, tensor
    keep(pairs)


def save_adapter(folder: Path, architecture: Architecture, lora: Lora, pairs: list[Pair]) -> None:
    """Write the pairs for the transformers model of what was adapted.

    Where our one matrix is several of theirs, each of theirs gets the same A and its own rows of B: the product is the same.
    """
    import safetensors.torch
    from peft import LoraConfig

    tensors: dict[str, Tensor] = {}
    modules = set()
    for pair in pairs:
        for theirs, second in their_rows(architecture, pair.name, pair.second):
            module = theirs.removesuffix(".weight")
            modules.add(module.split(".", 3)[-1])
            tensors[f"base_model.model.{module}.lora_A.weight"] = pair.first.clone()
            tensors[f"base_model.model.{module}.lora_B.weight"] = second
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "adapter_model.safetensors") as file:
        safetensors.torch.save_file(tensors, file.name, metadata={"format": "pt"})
    names = sorted(modules)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names, task_type="CAUSAL_LM"
    ).to_dict()
    with replacing(folder / "adapter_config.json") as file:  # peft's own writer leaves the names in the order of a set
        file.write(json.dumps(config | {"target_modules": names}, indent=2, sort_keys=True).encode() + b"\n")
