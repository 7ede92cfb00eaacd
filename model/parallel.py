"""The network over many processes: equal copies that average their gradients (DDP), or one copy cut into shards (FSDP2).

    with torch.device("meta"):
        network = GPT(architecture)                                        # no memory yet
    model = distribute(network, accelerator, parallel="fsdp", precision="bf16", activation_checkpointing=True)
    fill(network, source)                                                  # parameter by parameter
    optimizer = …                                                          # after `distribute`: it replaces the parameters

- The order is checkpoint, compile, shard: the compiler sees what is recomputed, and the gathering of shards stays outside both.
- A block keeps its class and its parameters keep their names, so a state or a checkpoint does not know what was done here.
- Both kinds *average* gradients over the processes; who wants the sum scales the loss by the number of processes.
- FSDP2 is called directly. Accelerate's plugin for it takes effect on GPUs only (on CPUs it silently copies instead, so that nothing
  could be tested) and wants the whole model in the memory of the first process.

Sources: PyTorch FSDP (Zhao et al. 2023, arXiv 2304.11277); activation checkpointing (Chen et al. 2016, arXiv 1604.06174).
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from starloom.model.attention import keep_from_compilers

Source = Callable[[str, torch.Size], Tensor]
"""Returns a whole parameter on the CPU, by its name and shape."""
ENTRANCES = ("token_losses", "next_tokens")
"""Methods beside `forward` that somebody calls from outside; shards have to be gathered for them too."""


def distribute(
    network: nn.Module,
    accelerator: Accelerator,
    *,
    parallel: Literal["ddp", "fsdp"],
    precision: str,
    compile_blocks: bool = False,
    activation_checkpointing: bool = False,
) -> nn.Module:
    """Make a network ready for training on this process's device, in place; return what is to be called.

    Args:
        network: has its repeated part in `blocks`. On the meta device its weights are undefined afterwards: `fill` them, or load a state.
        accelerator: knows the processes and the device. One process needs neither copies nor shards.
        parallel: `ddp` or `fsdp`.
        precision: with `bf16`, shards are gathered and multiplied in bf16; weights and the sum of gradients stay fp32.
        compile_blocks: compile each block, one program for all.
        activation_checkpointing: keep only what enters a block, and compute the rest again on the way back.
    """
    for block in _blocks_of(network):
        if activation_checkpointing:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        if compile_blocks:
            block.forward = torch.compile(block.forward)
    if compile_blocks:
        keep_from_compilers()
        torch._dynamo.config.optimize_ddp = False  # noqa: SLF001  # it splits a graph at DDP's buckets; ours are a block each, and it cannot split checkpoints
    is_many, device = accelerator.num_processes > 1, accelerator.device
    if is_many and parallel == "fsdp":
        _shard(network, device, accelerator.num_processes, precision)
    _materialise(network, device)
    if is_many and parallel == "ddp":
        device_ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids, gradient_as_bucket_view=True)
    return network


def _blocks_of(network: nn.Module) -> Iterable[nn.Module]:
    return cast("nn.ModuleList", network.blocks)


def _shard(network: nn.Module, device: torch.device, num_processes: int, precision: str) -> None:
    """Shard every parameter by rows over the processes; a block is whole only while it computes."""
    mesh = init_device_mesh(device.type, (num_processes,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
    for part in (*_blocks_of(network), network):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    network.register_forward_hook(_reshard_if_last)
    for name in ENTRANCES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)
            setattr(network, name, _then_resharded(network, getattr(network, name)))


def _reshard(network: nn.Module) -> None:
    """Free what was gathered.

    The root stays gathered after a pass forward, for the pass back. Where none follows, its parameters would go on being the gathered
    ones, in bf16, to whoever asks for them: an export, for one.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _reshard_if_last(network: nn.Module, _inputs: object, _output: object) -> None:
    if not torch.is_grad_enabled():
        _reshard(network)


def _then_resharded(network: nn.Module, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        _reshard(network)
        return result

    return call


def _materialise(network: nn.Module, device: torch.device) -> None:
    if any(parameter.is_meta for parameter in network.parameters()):
        empty = [name for name, buffer in network.named_buffers() if buffer.is_meta]
        assert not empty, f"nothing fills a buffer that was built on the meta device: {empty}"
        network.to_empty(device=device)
    else:
        network.to(device)


@torch.no_grad()
def fill(network: nn.Module, source: Source) -> None:
    """Set every parameter from `source`, asked for one after another in the network's order; a process keeps its shard of each.

    The most that a process holds beside its shards is one whole parameter.

    Raises:
        ValueError: the source gives another shape.
    """
    _reshard(network)
    for name, parameter in network.named_parameters():
        full = source(name, parameter.shape)
        if full.shape != parameter.shape:
            raise ValueError(f"{name} has the shape {tuple(parameter.shape)} in the network, but {tuple(full.shape)} in its source")
        if isinstance(parameter, DTensor):
            _keep_shard(parameter, full)
        else:
            parameter.copy_(full)


def _keep_shard(parameter: DTensor, full: Tensor) -> None:
    mesh, (placement,) = parameter.device_mesh, parameter.placements
    assert placement == Shard(0), placement  # as `_shard` left it
    shards = full.chunk(mesh.size(), dim=0)
    if mesh.get_local_rank() < len(shards):  # a parameter of few rows leaves some processes with none
        parameter.to_local().copy_(shards[mesh.get_local_rank()])


@torch.no_grad()
def full_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter whole, on the CPU, one at a time; they come out at the first process, and all must ask for them."""
    _reshard(network)
    for name, parameter in network.named_parameters():
        if isinstance(parameter, DTensor):
            full = parameter.full_tensor()
            if parameter.device_mesh.get_rank() == 0:
                yield name, full.cpu()
        elif not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            yield name, parameter.detach().cpu()


@contextmanager
def accumulating(model: nn.Module) -> Iterator[None]:
    """Let microbatches in this context add to this process's own gradients; the first backward pass after it exchanges the sum.

    With FSDP the gradients are then whole on each process, in fp32, not sharded: 4 bytes a parameter, for one exchange a step.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    elif isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def clip_gradients(network: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients together so that their norm is at most this; return what it was, the same at every process."""
    parameters = list(network.parameters())
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
