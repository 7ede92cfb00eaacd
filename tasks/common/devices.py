"""What the network will be computed with here, known without loading torch: the device, and what `auto` becomes on it.

Other devices, precisions and kernels give other bits, so what `auto` becomes is part of the key of what is computed, and the process
that computes is told that and nothing else. Asked of the driver, as torch asks it: one call, and none where this torch was built
without CUDA.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from pathlib import Path
from typing import Literal

from starloom.lineage.errors import ConfigError
from starloom.model.processor import has_bf16_matrices

Device = Literal["cpu", "cuda"]


def device_of(choice: str) -> str:
    """Return `cpu` or `cuda`; `auto` is a GPU where torch would find one."""
    return ("cuda" if has_gpu() else "cpu") if choice == "auto" else choice


def check_device(choice: str, step: str) -> None:
    """Refuse a GPU that is not there, for the step of that name.

    Raises:
        ConfigError: naming the knob.
    """
    if choice == "cuda" and not has_gpu():
        raise ConfigError(
            f"{step}.device is cuda, and torch finds no GPU here",
            hint=f"run it where there is one, or set {step}.device to cpu: the result is another one, if only in its last bits",
        )


def precision_of(choice: str, device: str) -> str:
    """Return `bf16` or `fp32`, as `starloom.model.numerics.resolved` has it."""
    return ("bf16" if device == "cuda" else "fp32") if choice == "auto" else choice


def training_precision_of(choice: str, device: str) -> str:
    """Return `bf16` or `fp32`, as `starloom.model.numerics.resolved_to_train` has it."""
    return "bf16" if choice == "auto" and device == "cpu" and has_bf16_matrices() else precision_of(choice, device)


def attention_of(choice: str, device: str, precision: str) -> str:
    """Return the attention kernel as far as this machine decides it; what `auto` becomes then depends on torch and the network alone."""
    if choice != "auto":
        return choice
    if device == "cpu" or precision != "bf16":
        return "sdpa"
    return "flash" if has_flash() else "auto"


@functools.cache
def has_flash() -> bool:
    """Return whether the package flash-attn is installed."""
    return importlib.util.find_spec("flash_attn") is not None


@functools.cache
def has_gpu() -> bool:
    """Return whether torch would find a GPU: it was built for CUDA, and the driver has a device for this process."""
    found = importlib.util.find_spec("torch")  # looks, and imports nothing
    places = list(found.submodule_search_locations or ()) if found else []
    version = Path(places[0], "version.py") if places else None
    if (
        version is None
        or not version.is_file()
        or not re.search(r"^cuda\b[^=]*= *['\"]", version.read_text(encoding="utf-8"), re.MULTILINE)
    ):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
