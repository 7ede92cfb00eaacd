"""Cross entropy of a linear head that never holds all logits.

A vocabulary is wide and a residual stream narrow, so the logits are the largest tensor of a step. Here they exist for one chunk of
tokens at a time, and since the loss is a plain sum its gradient is known chunk by chunk on the way forward: nothing is
kept, nothing computed twice (the idea of Liger Kernel's FusedLinearCrossEntropy, arXiv 2410.10989).

Shapes: N tokens, D width of the residual stream, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""Target of a position that has nothing to predict."""
CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
"""Logits held at once, in fp32: what a CPU's cache holds, or what a GPU needs to be busy."""


def summed_cross_entropy(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Return the sum of -log softmax(hidden @ head.T)[target] over the tokens whose target is not `IGNORE`, in fp32."""
    loss: Tensor = _SummedCrossEntropy.apply(hidden_ND, head_VD, targets_N)  # type: ignore[no-untyped-call]  # torch has no types here
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        """Return the sum, and save its gradient."""
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        weight_VD = head_VD.to(dtype)
        loss_and_gradient = _compiled() if device == "cuda" else _loss_and_gradient
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        hidden_grad_ND = torch.empty_like(hidden_ND)
        head_grad_VD = torch.zeros_like(head_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        size = _chunk_tokens(len(hidden_ND), len(weight_VD), device)
        for start in range(0, len(hidden_ND), size):
            part_ND = hidden_ND[start : start + size].to(dtype)
            part_loss, grad_NV = loss_and_gradient(part_ND @ weight_VD.T, targets_N[start : start + size])
            loss += part_loss
            hidden_grad_ND[start : start + size] = grad_NV @ weight_VD
            if head_grad_VD is not None:
                head_grad_VD += grad_NV.T @ part_ND
        ctx.save_for_backward(hidden_grad_ND, head_grad_VD)
        return loss

    @staticmethod
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradient, scaled."""
        hidden_grad_ND, head_grad_VD = ctx.saved_tensors
        return hidden_grad_ND * loss_grad, None if head_grad_VD is None else head_grad_VD * loss_grad, None


def _chunk_tokens(num_tokens: int, vocab_size: int, device: str) -> int:
    """Return the tokens of a chunk: the whole cut into equal pieces if it can be, so that a compiled kernel sees one shape."""
    least = max(1, -(-num_tokens * vocab_size * 4 // CHUNK_BYTES[device]))
    num_chunks = next((count for count in range(least, 2 * least) if num_tokens % count == 0), least)
    return max(1, -(-num_tokens // num_chunks))


def _loss_and_gradient(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss of these tokens and its gradient by the logits: softmax minus one at the target, in the logits' precision."""
    wide_NV, is_kept_N1 = logits_NV.float(), (targets_N != IGNORE)[:, None]
    target_N1 = targets_N.clamp(min=0)[:, None]
    log_sum_N1 = wide_NV.logsumexp(-1, keepdim=True)
    loss = ((log_sum_N1 - wide_NV.gather(1, target_N1)) * is_kept_N1).sum()
    grad_NV = wide_NV.sub_(log_sum_N1).exp_()  # in place: the logits are nobody else's
    grad_NV.scatter_add_(1, target_N1, -torch.ones_like(log_sum_N1))
    return loss, grad_NV.mul_(is_kept_N1).to(logits_NV.dtype)


def _loss_and_gradient_to_fuse(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same numbers in a form that a compiler fuses into one pass: nothing is written into the middle of a tensor."""
    wide_NV, is_kept_N1 = logits_NV.float(), (targets_N != IGNORE)[:, None]
    target_N1 = targets_N.clamp(min=0)[:, None]
    log_sum_N1 = wide_NV.logsumexp(-1, keepdim=True)
    loss = ((log_sum_N1 - wide_NV.gather(1, target_N1)) * is_kept_N1).sum()
    is_target_NV = torch.arange(wide_NV.shape[1], device=wide_NV.device) == target_N1
    grad_NV = ((wide_NV - log_sum_N1).exp() - is_target_NV.float()) * is_kept_N1
    return loss, grad_NV.to(logits_NV.dtype)


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the fused version: on a GPU the passes over the logits would cost a quarter of the head."""
    return torch.compile(_loss_and_gradient_to_fuse)
