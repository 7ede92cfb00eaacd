"""The contenders of `starloom.model.bench`: our network with this technique or that, and transformers' class of the same shape.

Each contender is a function that takes one step of training on a batch: forward, backward, clipping and AdamW. Weights of all of
ours are drawn alike, so that a technique which changed the loss would be seen.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every paper's code
from accelerate import Accelerator
from torch import Tensor, nn

from starloom.model.architecture import Architecture
from starloom.model.attention import Choice, Kernel, has_flash, has_varlen
from starloom.model.loss import IGNORE
from starloom.model.network import GPT, targets_of
from starloom.model.numerics import autocast
from starloom.model.parallel import clip_gradients, distribute

TECHNIQUES = ("compile", "attention", "loss", "checkpointing", "optimizer", "documents", "peer")
NUM_BATCHES = 4
"""Different batches, taken in turn: cut into documents, each has another number of them."""
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-4, 0.1, 1.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One configuration to measure: ours by default, as the trainer sets it up."""

    name: str
    is_peer: bool = False
    is_compiled: bool = False
    kernel: Choice = "auto"
    attention: str = "sdpa"
    """Of the peer, as transformers calls it."""
    has_plain_loss: bool = False
    is_checkpointing: bool = False
    is_fused: bool = True
    has_documents: bool = False


@dataclass(frozen=True)
class Setting:
    """The settings that all lines of a preset share."""

    architecture: Architecture
    sequence_tokens: int
    batch_sequences: int
    device: torch.device
    precision: Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Batch:
    """Tokens, targets, and document starts."""

    tokens_BT: Tensor
    targets_BT: Tensor
    offsets_N: Tensor


def variants(techniques: Sequence[str], device: torch.device) -> list[Variant]:
    """Return the lines of a preset: as the trainer does it, then with one technique less or more, then the peer."""
    on_gpu = device.type == "cuda"
    usual = Variant(name="as trained", is_compiled=on_gpu)
    known: tuple[tuple[Kernel, bool], ...] = (("cudnn", True), ("varlen", has_varlen()), ("sdpa", has_flash()))
    others = [kernel for kernel, is_another in known if is_another and on_gpu]  # than `auto` takes
    changed: dict[str, list[dict[str, Any]]] = {
        "compile": [{"name": "not compiled" if on_gpu else "compiled", "is_compiled": not on_gpu}],
        "attention": [{"name": f"attention by {kernel}", "kernel": kernel} for kernel in others],
        "loss": [{"name": "all logits at once", "has_plain_loss": True}],
        "checkpointing": [{"name": "activations recomputed", "is_checkpointing": True}],
        "optimizer": [{"name": "AdamW not fused", "is_fused": False}],
        "documents": [{"name": "documents apart", "has_documents": True}],
    }
    lines = [dataclasses.replace(usual, **change) for name, changes in changed.items() if name in techniques for change in changes]
    return [usual, *lines, *(_peers(on_gpu=on_gpu) if "peer" in techniques else [])]


def _peers(*, on_gpu: bool) -> list[Variant]:
    found = [Variant(name="transformers", is_peer=True)]
    if on_gpu:
        found.append(Variant(name="transformers, compiled", is_peer=True, is_compiled=True))
    if on_gpu and has_flash():
        found.append(Variant(name="transformers, flash", is_peer=True, attention="flash_attention_2"))
    return found


# Contenders: each gives a function that takes a step on a batch and returns the mean loss


def ours(setting: Setting, variant: Variant, accelerator: Accelerator) -> Callable[[Batch], Tensor]:
    """Build our network, set up as `starloom.model.train` does for one process."""
    with torch.device(setting.device):
        network = GPT(setting.architecture)
    network.train()
    _draw(network, setting.architecture.initializer_range)
    network.kernel = variant.kernel
    distribute(
        network,
        accelerator,
        parallel="ddp",
        precision=setting.precision,
        compile_blocks=variant.is_compiled,
        activation_checkpointing=variant.is_checkpointing,
    )
    optimizer = _adamw(network, is_fused=variant.is_fused)

    def step(batch: Batch) -> Tensor:
        offsets_N = batch.offsets_N if variant.has_documents else None
        num_targets = (batch.targets_BT != IGNORE).sum()
        with autocast(setting.device, setting.precision):
            if variant.has_plain_loss:
                logits_BTV = network.logits(network.hidden(batch.tokens_BT, offsets_N=offsets_N))
                loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
            else:
                loss = network(batch.tokens_BT, batch.targets_BT, offsets_N)
            loss = loss / num_targets
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        clip_gradients(network, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def peer(setting: Setting, variant: Variant, accelerator: Accelerator) -> Callable[[Batch], Tensor]:
    """Build the transformers class of the same shape, under accelerate as its users have it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    told = setting.architecture.to_checkpoint()
    shape = {name: value for name, value in told.items() if name not in ("architectures", "torch_dtype")}
    config = AutoConfig.for_model(**shape, bos_token_id=None, eos_token_id=None)
    with torch.device(setting.device):
        network = AutoModelForCausalLM.from_config(config, attn_implementation=variant.attention)  # type: ignore[no-untyped-call]
    _draw(network, setting.architecture.initializer_range)
    network.train()
    model, optimizer = accelerator.prepare(network, _adamw(network, is_fused=True))
    if variant.is_compiled:
        model = torch.compile(model)

    def step(batch: Batch) -> Tensor:
        loss: Tensor = model(input_ids=batch.tokens_BT, labels=batch.tokens_BT, use_cache=False).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


@torch.no_grad()
def _draw(network: nn.Module, std: float) -> None:
    """Draw first weights on the device: for three billion, a CPU would take minutes."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, std)
        elif name.endswith("bias"):
            parameter.zero_()


def _adamw(network: nn.Module, *, is_fused: bool) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=is_fused)


def batches(setting: Setting) -> list[Batch]:
    """Yield random tokens, each batch cut at random into documents of about a quarter of a sequence."""
    B, T = setting.batch_sequences, setting.sequence_tokens
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(NUM_BATCHES):
        tokens_BT = torch.randint(setting.architecture.vocab_size, (B, T), generator=generator).to(setting.device)
        is_start_BT = torch.rand((B, T), generator=generator) < 4 / T
        is_start_BT[:, 0] = True
        offsets_N = torch.cat([is_start_BT.flatten().nonzero()[:, 0], torch.tensor([B * T])]).to(setting.device, torch.int32)
        made.append(Batch(tokens_BT, targets_of(tokens_BT, None), offsets_N))
    return made
