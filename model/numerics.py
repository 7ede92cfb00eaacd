"""Reproducible arithmetic: precision, number of threads, order of sums."""

import torch

from starloom.model.processor import has_bf16_matrices


def fix_numerics(threads: int, device: torch.device) -> None:
    """Fix the order of every sum on a CPU, so that each run gives the same bytes; on a GPU that would cost more than it is worth.

    Raises:
        ValueError: torch cannot run so many threads; other sums would give other bytes, so nothing is adjusted silently.
    """
    torch.use_deterministic_algorithms(mode=device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a pass over every new tensor; we read none unwritten
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise ValueError(f"threads is {threads}, but torch runs {torch.get_num_threads()}: set `threads` to that (it changes the sums)")


def chosen_device(choice: str) -> torch.device:
    """Return the device to compute on.

    Raises:
        ValueError: it is to be a GPU, and there is none.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, and torch finds no GPU here; run it where there is one, or set device to cpu (it changes the bits)"
        )
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which matrix products have this precision: `bf16`, `fp32`, or `auto`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved(device, precision) == "bf16")


def resolved(device: torch.device, precision: str) -> str:
    """Resolve `auto` for reading with a network: bf16 on CUDA, where it is several times faster, and fp32 on a CPU, where it is not."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


def resolved_to_train(device: torch.device, precision: str) -> str:
    """Resolve `auto` for training: bf16 also on a CPU that multiplies matrices of it; its products are large enough to gain."""
    return "bf16" if precision == "auto" and device.type == "cpu" and has_bf16_matrices() else resolved(device, precision)
