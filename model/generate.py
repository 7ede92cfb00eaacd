"""Continuing prompts: batched, cached, greedy or sampled, the same on every run.

A batch is padded on the right, so the token at position p stands in slot p of the cache and the padding is never seen: a row's own tokens
overwrite it. A draw depends on the prompt's seed, task, sample and position only, not on who else is in the batch; what remains is
rounding: a matrix product may differ in its last bit with the size of the batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from model.config import Prompt
from model.network import GPT, Cache


class Decoder(Protocol):
    """What turns ids into text: a `tokenizers.Tokenizer`."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str:
        """The text of these tokens."""


@dataclass
class Continuation:
    """A prompt and what has been added to it."""

    prompt: Prompt
    prompt_tokens: list[int]
    """The end of the prompt that fits the context."""
    num_cut_tokens: int
    """Tokens of its beginning that did not fit."""
    new_tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    """Why it ended: `eod`, `stop` or `length`; empty while it goes on."""

    def take(self, token: int, decoder: Decoder, eod_token: int | None) -> None:
        """Add a token, and see whether that ends it."""
        if token == eod_token:
            self.finish = "eod"
            return
        self.new_tokens.append(token)
        self.text = decoder.decode(self.new_tokens, skip_special_tokens=False)
        ends = [end for stop in self.prompt.stop if (end := self.text.find(stop)) >= 0]
        if ends:
            self.text, self.finish = self.text[: min(ends)], "stop"
        elif len(self.new_tokens) == self.prompt.max_new_tokens:
            self.finish = "length"


def begin(prompt: Prompt, tokens: list[int], context_tokens: int) -> Continuation:
    """A continuation of these tokens, or of as many of the last ones as leave room for the completion.

    Raises:
        ValueError: the prompt is empty, or the completion alone would fill the context.
    """
    if not tokens:
        raise ValueError(f"task {prompt.task_id!r}: the prompt has no tokens; start it with the end-of-document token")
    room = context_tokens - prompt.max_new_tokens
    if room <= 0:
        raise ValueError(f"task {prompt.task_id!r}: max_new_tokens {prompt.max_new_tokens} alone fills the context of {context_tokens}")
    return Continuation(prompt, tokens[-room:], max(0, len(tokens) - room))


@torch.no_grad()
def complete(network: GPT, batch: Sequence[Continuation], decoder: Decoder, eod_token: int | None) -> None:
    """Continue every member of the batch to its end."""
    device = network.device
    lengths = [len(row.prompt_tokens) for row in batch]
    slots = max(length + row.prompt.max_new_tokens for length, row in zip(lengths, batch, strict=True))
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
    cache = Cache(network.architecture, len(batch), slots, device=device, dtype=dtype)
    tokens_BT = torch.tensor([row.prompt_tokens + [0] * (max(lengths) - len(row.prompt_tokens)) for row in batch], device=device)
    last_B = torch.tensor(lengths, device=device) - 1
    rows_B = torch.arange(len(batch), device=device)
    hidden_BD = network.hidden(tokens_BT, cache=cache)[rows_B, last_B]
    while True:
        next_B = choose(network.logits(hidden_BD), batch)
        for row, token in zip(batch, next_B, strict=True):
            if not row.finish:
                row.take(token, decoder, eod_token)
        if all(row.finish for row in batch):
            return
        last_B = (last_B + 1).clamp(max=slots - 1)  # a finished row idles in its last slot
        hidden_BD = network.hidden(torch.tensor(next_B, device=device)[:, None], last_B[:, None], cache)[:, 0]


def choose(logits_BV: Tensor, batch: Sequence[Continuation]) -> list[int]:
    """The next token of every row: its likeliest, or a draw of its own."""
    greedy_B = logits_BV.argmax(-1).tolist()
    return [
        draw(logits_V, row) if row.prompt.temperature and not row.finish else token
        for logits_V, row, token in zip(logits_BV, batch, greedy_B, strict=True)
    ]


def draw(logits_V: Tensor, row: Continuation) -> int:
    """A token of the nucleus, the fewest likeliest tokens that hold top_p (Holtzman et al. 2020, arXiv 1904.09751).

    The number drawn is laid along the tokens in the order of their ids, so that two tokens as likely as each other but for rounding
    cannot change places under it.
    """
    probability_V = (logits_V.double().cpu() / row.prompt.temperature).softmax(-1)
    sorted_V, tokens_V = probability_V.sort(descending=True, stable=True)
    is_beyond_V = sorted_V.cumsum(-1) - sorted_V >= row.prompt.top_p
    probability_V[tokens_V[is_beyond_V]] = 0.0
    cumulative_V = probability_V.cumsum(-1)
    return int((cumulative_V <= uniform(row) * cumulative_V[-1]).sum())


def uniform(row: Continuation) -> float:
    """A number in [0, 1) that belongs to this seed, task, sample and position."""
    name = repr((row.prompt.seed, row.prompt.task_id, row.prompt.sample, len(row.new_tokens)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") / 2**48
