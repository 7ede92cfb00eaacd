"""The processor of this machine, known without loading torch."""

import functools
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def has_bf16_matrices() -> bool:
    """Return whether the processor multiplies matrices of bf16 by instructions of their own: Intel's AMX, as Linux lists it.

    With vectors of bf16 alone (AVX-512), or without either, bf16 is no faster than fp32, or much slower.
    """
    try:
        told = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # another system than Linux
    return re.search(r"^flags\s*:.*\bamx_bf16\b", told, re.MULTILINE) is not None
