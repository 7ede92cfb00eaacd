"""Places in texts: from bytes of UTF-8 to characters."""

from __future__ import annotations

import numpy as np

_CONTINUES, _MASK = 0x80, 0xC0
"""UTF-8: the bits of a byte that continues a character."""


def characters_of(text: str, positions: list[int]) -> dict[int, int]:
    """Return position in UTF-8 bytes → position in characters."""
    begins = (np.frombuffer(text.encode(), np.uint8) & _MASK) != _CONTINUES
    return {position: int(np.count_nonzero(begins[:position])) for position in positions}
