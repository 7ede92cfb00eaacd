"""FLOPs of training on a token, and a device's peak FLOP/s: the two halves of MFU.

**MFU** (model FLOPs utilisation; Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B) is the share of a device's peak that the
network's own arithmetic reaches: tokens a second x FLOPs a token / (peak x devices). A token costs 6 N + 12 L H K T: forward and
backward, a multiplication and an addition for each of the N entries of the matrices it passes, the head included and look-ups in
embeddings not, and the products of queries with keys and of weights with values. Recomputation does not count. This is the
convention of nanochat and torchtitan, and it flatters attention: all T x T pairs count, though a causal kernel computes half of
them, and fewer where documents are kept apart; a sliding window of W tokens counts W for T. `flops_per_token(…, pairs=False)` leaves
attention's pairs out, to be compared with figures that are counted so.
"""

import re
import resource
import sys

import torch

from starloom.model.architecture import Architecture

PEAK_FLOPS = (
    (r"NVIDIA A100(-SXM4-(40|80)GB|-PCIE-40GB| 80GB PCIe)", 312e12),
    (r"NVIDIA (H100 80GB HBM3|GH200 (96|120|144|480)GB)", 989.4e12),
    (r"NVIDIA H100 PCIe", 756e12),
    (r"NVIDIA H(100|200) NVL", 835.5e12),
    (r"NVIDIA H200", 989.4e12),
    (r"NVIDIA B200", 2250e12),
    (r"NVIDIA GB200", 2500e12),
    (r"NVIDIA A30", 165e12),
    (r"NVIDIA A40", 149.7e12),
    (r"NVIDIA L4", 121e12),
    (r"NVIDIA L40", 181.05e12),
    (r"NVIDIA L40S", 362.05e12),
    (r"NVIDIA GeForce RTX 3090", 71e12),
    (r"NVIDIA GeForce RTX 4090", 165.2e12),
    (r"NVIDIA GeForce RTX 5090", 209.5e12),
    (r"AMD Instinct MI300X( OAM)?", 1307.4e12),
)
"""Whole name of a device as torch says it, and its dense bf16 FLOPs a second with sums in fp32: makers' data sheets, where they give
the figure with sparsity, half of it. A slice of a device (MIG) and a laptop's namesake match nothing."""


def flops_per_token(architecture: Architecture, sequence_tokens: int, *, pairs: bool = True) -> float:
    """Return the floating-point operations of training on one token; the formula stands in the module's docstring.

    Args:
        architecture: of the network.
        sequence_tokens: of the sequences trained on, T.
        pairs: whether attention's T x T pairs count.
    """
    D, F = architecture.width, architecture.inner_width
    entries_of_block = 2 * D * D + 2 * D * architecture.key_value_width + 2 * D * F
    entries = architecture.num_layers * entries_of_block + architecture.vocab_size * D
    seen = min(sequence_tokens, architecture.window or sequence_tokens)
    return 6.0 * entries + (12.0 * architecture.num_layers * D * seen if pairs else 0.0)


def peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 FLOP/s of a device, by its name; None, and never a guess, for one that `PEAK_FLOPS` does not list."""
    return next((peak for pattern, peak in PEAK_FLOPS if re.fullmatch(pattern, device_name)), None)


def peak_of(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s that MFU is measured against: known for bf16 on devices of `PEAK_FLOPS`."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" and precision == "bf16" else None


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory so far: allocated on a CUDA device, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of macOS counts bytes, of Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
