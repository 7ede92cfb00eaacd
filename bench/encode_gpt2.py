"""Encoding with GPT-2's own split, digits together, one core: where gigatoken, which refuses StarCoder's, takes part.

Else as `encode`. gigatoken is given bytes or strings; its cold lines have a tokenizer opened for each round beforehand.
"""

from __future__ import annotations

from starloom.bench.encode import GIGATOKEN, TOKENDAGGER, common_tools, judge, lines, peer

__all__ = ["TITLE", "TOOLS", "judge", "lines"]

TITLE = "encode documents as token ids, GPT-2's split, one core"

TOOLS = [
    *common_tools("gpt2"),
    peer("gigatoken, bytes, cold", "gpt2", GIGATOKEN, kind="bytes", cold=True),
    peer("gigatoken, bytes, warm", "gpt2", GIGATOKEN, kind="bytes", cold=False),
    peer("gigatoken, str, cold", "gpt2", GIGATOKEN, kind="str", cold=True),
    peer("gigatoken, str, warm", "gpt2", GIGATOKEN, kind="str", cold=False),
    peer("tokendagger (needs libpcre2-dev)", "gpt2", TOKENDAGGER),  # last: where it cannot be built, the others are
]
