"""Packing as a run does it: what is held out is chosen over the whole corpus, then each part is packed by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.tasks.pack_fim import held_out, pack_fim

if TYPE_CHECKING:
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.pack_fim import PackFim
    from starloom.tasks.schemas import Packed, Spans, Tokenizer, Tokens


def pack_parts(tokens: Tokens, tokenizer: Tokenizer, cfg: PackFim, runtime: Runtime) -> list[tuple[Packed, Spans]]:
    """What both halves of `pack_fim` make of each part."""
    assert pack_fim.prepare is held_out
    heldout = held_out.function(tokens, tokenizer, pack_fim.prepared_config(cfg), runtime)
    parts = zip(tokens.parts, heldout.parts, strict=True)
    return [pack_fim.function(part, tokenizer, chosen, cfg, runtime) for part, chosen in parts]


def pack(tokens: Tokens, tokenizer: Tokenizer, cfg: PackFim, runtime: Runtime) -> tuple[Packed, Spans]:
    """The same of a corpus of one part."""
    ((packed, spans),) = pack_parts(tokens, tokenizer, cfg, runtime)
    return packed, spans
