"""What a plan knows of a checkpoint before it is there: how much its network reads, and which tokenizer it learnt with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.tasks.common.hub import is_on_the_hub

if TYPE_CHECKING:
    from pathlib import Path

    from starloom.tasks.frame.stage import Wired

TOKENIZER = "tokenizer.json"


def known_context_tokens(maker: Wired | None) -> int | None:
    """Return the context of the network that a step makes or takes; None where only running it tells."""
    if maker is None:
        return None
    knobs = maker.config.model_dump()
    if maker.stage == "import_checkpoint" and not is_on_the_hub(knobs["checkpoint"]):
        return _context_in(knobs["checkpoint"])
    given = knobs.get("context_tokens")
    return given if given is not None else known_context_tokens(maker.inputs.get("initial"))


def _context_in(folder: str) -> int | None:
    from pathlib import Path

    from starloom.model.architecture import Architecture

    try:
        return Architecture.from_checkpoint(Path(folder)).context_tokens
    except (ValueError, TypeError, KeyError, OSError):  # import_checkpoint will say what is wrong with it
        return None


def is_trained_afresh(tokenizer: Wired | None) -> bool:
    """Return whether a step trains a tokenizer rather than taking one that exists."""
    return tokenizer is not None and tokenizer.stage == "train_tokenizer" and tokenizer.config.model_dump()["existing"] is None


def first_difference(vocabulary: dict[str, int], folder: Path) -> str | None:
    """Describe how a tokenizer differs from that in a checkpoint's folder; None if each id that both know stands for the same text.

    Args:
        vocabulary: token → number, of the tokenizer.
        folder: the checkpoint's, with tokenizer.json.

    Raises:
        ValueError: the tokenizer there cannot be read.
    """
    from starloom.tasks.kernels.tokens.byte_level import load

    theirs = {number: token for token, number in load(folder).get_vocab(with_added_tokens=True).items()}
    others = sorted((number, token) for token, number in vocabulary.items() if theirs.get(number, token) != token)
    if not others:
        return None
    number, token = others[0]
    return f"{len(others):,} of {len(vocabulary):,} tokens differ, the first is number {number}: {token!r} here, {theirs[number]!r} there"
