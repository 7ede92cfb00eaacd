"""How much is generated: `STARLOOM_TESTS=all` (`make test-all`) takes the full number of cases, else a part of it."""

from __future__ import annotations

import os

ALL = os.environ.get("STARLOOM_TESTS") == "all"
PART = 4


def examples(number: int) -> int:
    """How many of `number` generated examples to try now; never fewer than 15 of them."""
    return number if ALL else min(number, max(15, number // PART))
