"""Prompts as tokens: text, tokens as they are, or both sides of a gap to fill in, cut to what fits the context.

Filling in is asked for as StarCoder and StarCoder2 were trained to do it (Bavarian et al. 2022, arXiv 2207.14255; of its two ways to put
the suffix first, the second):

    psm    <fim_prefix> prefix <fim_suffix> suffix <fim_middle>
    spm    <fim_prefix> <fim_suffix> suffix <fim_middle> prefix
"""

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from starloom.model.architecture import Architecture
from starloom.model.config import Prompt

END_OF_TEXT = "<|endoftext|>"
FIM_SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
MIDDLE_ENDS = (*FIM_SENTINELS, "<fim_pad>", "<filename>", "<repo_name>", "<file_sep>")
"""Tokens that end a middle, even if the model did not write the end of the text."""


class Asked(NamedTuple):
    """A prompt as the network reads it."""

    tokens: list[int]
    num_cut_tokens: int
    """Tokens farthest from the completion that did not fit the context."""
    ends: frozenset[int]
    """Tokens that end the completion, besides the end of the text."""


def open_tokenizer(path: Path) -> Tokenizer:
    """Open the tokenizer of this file; it encodes plain text, even where that spells a special token.

    Raises:
        ValueError: the file is missing, is not a tokenizer, or encodes at random.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there; give the tokenizer.json that the network was trained with")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(f"{path} is not a tokenizer.json ({error})") from error
    dropout = getattr(tokenizer.model, "dropout", None)
    if dropout:
        raise ValueError(
            f"{path} encodes at random (model.dropout {dropout:g}), so one prompt would have other tokens each time; set it to null there"
        )
    tokenizer.encode_special_tokens = True
    return tokenizer


def asked(prompt: Prompt, tokenizer: Tokenizer, architecture: Architecture) -> Asked:
    """Return the prompt, or as much of it as leaves room for the completion.

    Raises:
        ValueError: the prompt is empty or not of this network's vocabulary, the completion alone would fill the context, or the
            tokenizer has no sentinels to ask for a middle with.
    """
    room = architecture.context_tokens - prompt.max_new_tokens
    if room <= 0:
        full = f"max_new_tokens {prompt.max_new_tokens} alone fills the context of {architecture.context_tokens}"
        raise ValueError(f"task {prompt.task_id!r}: {full}; ask for fewer")
    question = _continuing(prompt, tokenizer, room) if prompt.prefix is None else _filling_in(prompt, tokenizer, room)
    if outside := [token for token in question.tokens if not 0 <= token < architecture.vocab_size]:
        vocabulary = f"token {outside[0]} of the prompt is outside the network's vocabulary of {architecture.vocab_size}"
        raise ValueError(f"task {prompt.task_id!r}: {vocabulary}; is this its tokenizer?")
    return question


def _continuing(prompt: Prompt, tokenizer: Tokenizer, room: int) -> Asked:
    tokens = _encoded(prompt.prompt, tokenizer) if prompt.prompt is not None else prompt.prompt_tokens or []
    if not tokens:
        raise ValueError(f"task {prompt.task_id!r}: the prompt has no tokens; start it with the end-of-document token")
    return Asked(tokens[-room:], max(0, len(tokens) - room), frozenset())


def _filling_in(prompt: Prompt, tokenizer: Tokenizer, room: int) -> Asked:
    found = {name: token for name in MIDDLE_ENDS if (token := tokenizer.token_to_id(name)) is not None}
    if missing := [name for name in FIM_SENTINELS if name not in found]:
        raise ValueError(f"task {prompt.task_id!r}: the tokenizer has no {', '.join(missing)}; fill-in-the-middle is not possible")
    room -= len(FIM_SENTINELS)
    if room < 0:
        raise ValueError(f"task {prompt.task_id!r}: no room for the sentinels beside max_new_tokens {prompt.max_new_tokens}; ask for fewer")
    prefix, suffix = _encoded(prompt.prefix or "", tokenizer), _encoded(prompt.suffix or "", tokenizer)
    num_suffix = min(len(suffix), max(room // 2, room - len(prefix)))  # both sides as even as can be, nearest to the gap
    num_prefix = min(len(prefix), room - num_suffix)
    before, after = prefix[len(prefix) - num_prefix :], suffix[:num_suffix]
    begin, turn, middle = (found[name] for name in FIM_SENTINELS)
    tokens = [begin, *before, turn, *after, middle] if prompt.fim == "psm" else [begin, turn, *after, middle, *before]
    return Asked(tokens, len(prefix) + len(suffix) - num_prefix - num_suffix, frozenset(found.values()))


def _encoded(text: str, tokenizer: Tokenizer) -> list[int]:
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return tokens
