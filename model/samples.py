"""What a network writes while it learns: a few held-out prompts, the same every time, continued or filled in.

For the eye, and for nothing else: decoding is greedy and draws no random number, so that a training goes on in the same bytes whether
somebody looks or not (`starloom.lineage.code` leaves this file out of the identity of a training).

- A prompt is a piece of a held-out document, as Spans cut it: of a document the longest, by turns of the languages, those with most
  held-out tokens first. By turns it is continued after its beginning, or filled in between its ends (PSM, as `prompting` explains).
- Where every process has the whole network, the first one writes. Where each has a shard, all compute, and take the first one's tokens:
  so none can end before another, which would wait for it for ever.

Shapes: B prompts, T tokens of the longest.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from starloom.model.config import TrainingJob
from starloom.model.network import GPT, Cache
from starloom.model.numerics import autocast
from starloom.model.prompting import FIM_SENTINELS, MIDDLE_ENDS
from starloom.model.spans import read_spans
from starloom.model.validation import UNKNOWN, ValidationSet

LEAST_TOKENS = 16
"""Pieces shorter than this say too little."""
SHOWN_TOKENS = 64
"""Tokens before what is to be written, at most; and in filling in, after it."""
MIDDLE_TOKENS = 24
"""Tokens of the gap that is filled in, at most."""


class Piece(NamedTuple):
    """A stretch of a held-out document that stands in one piece in a sequence."""

    tokens: NDArray[np.unsignedinteger[Any]]
    language: str
    doc_id: str | None


class SamplePrompt(NamedTuple):
    """A piece as a task: what is shown of it, and what stood there."""

    tokens: list[int]
    """As the network reads it, sentinels included."""
    task: str
    """`continue` or `fill in`."""
    language: str
    doc_id: str | None
    prefix: str
    suffix: str
    original: str
    """What the document has there."""


class Sampler:
    """The prompts of one training, and what spells the answers."""

    def __init__(self, prompts: Sequence[SamplePrompt], tokenizer: Tokenizer, num_tokens: int, ends: frozenset[int]) -> None:
        """Take what `open` finds.

        Args:
            prompts: at least one.
            tokenizer: that the tokens are of.
            num_tokens: tokens to write, at most.
            ends: tokens that end an answer.
        """
        self.prompts, self.tokenizer, self.num_tokens, self.ends = prompts, tokenizer, num_tokens, ends

    @classmethod
    def open(cls, job: TrainingJob, heldout: ValidationSet | None) -> "Sampler | None":
        """Choose the prompts of a training; None if none are wanted, or nothing held out is long enough."""
        wanted, context = job.running.sample_prompts, job.architecture.context_tokens
        if not wanted or heldout is None or job.tokenizer is None or not job.spans:
            return None
        tokenizer = Tokenizer.from_file(str(job.tokenizer))
        num_tokens = min(job.running.sample_tokens, context // 2)
        pieces = by_turns(_pieces(heldout, job.spans))[:wanted]
        room = context - num_tokens - len(FIM_SENTINELS)
        prompts = [prompt_of(piece, tokenizer, room, num_tokens, fills_in=number % 2 == 1) for number, piece in enumerate(pieces)]
        ends = {tokenizer.token_to_id(name) for name in MIDDLE_ENDS} | {job.training.eod_token}
        return cls(prompts, tokenizer, num_tokens, frozenset(end for end in ends if end is not None)) if prompts and room > 1 else None

    def write(self, network: GPT, precision: str, *, is_sharded: bool) -> list[dict[str, Any]]:
        """Return a row for each prompt, in order: what the network writes there with the weights of now, and how that ended.

        Args:
            network: as it is trained; it is left in training.
            precision: of the matrix products, bf16 or fp32.
            is_sharded: each process has a shard of it; then all have to call this.
        """
        agree: Callable[[Tensor], Tensor] = broadcast if is_sharded else lambda tokens_B: tokens_B
        network.eval()
        with autocast(network.device, precision), torch.compiler.set_stance("force_eager"):  # a program for each length would cost minutes
            written = decode_greedily(network, [prompt.tokens for prompt in self.prompts], self.num_tokens, self.ends, agree)
        network.train()
        return [self._row(prompt, tokens) for prompt, tokens in zip(self.prompts, written, strict=True)]

    def _row(self, prompt: SamplePrompt, tokens: Sequence[int]) -> dict[str, Any]:
        end = next((at for at, token in enumerate(tokens) if token in self.ends), None)
        told = {name: value for name, value in prompt._asdict().items() if name != "tokens"}
        return {**told, "written": spelt(self.tokenizer, tokens[:end]), "finish": "length" if end is None else "end"}


@torch.no_grad()
def decode_greedily(
    network: GPT, prompts: Sequence[Sequence[int]], num_tokens: int, ends: frozenset[int], agree: Callable[[Tensor], Tensor]
) -> list[list[int]]:
    """Return the likeliest tokens after each prompt, one after another: `num_tokens`, or fewer where all have met an end before.

    Args:
        network: in evaluation.
        prompts: token ids.
        num_tokens: to write.
        ends: tokens after which nobody reads on.
        agree: makes the same of the chosen tokens at all processes.
    """
    device = network.device
    lasts_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    longest = int(lasts_B.max()) + 1
    tokens_BT = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
    cache = Cache(network.architecture, len(prompts), longest + num_tokens, device=device, dtype=dtype)
    new_B = agree(network.next_tokens(tokens_BT, lasts_B, cache))
    written = [new_B.tolist()]
    have_ended = {row for row, token in enumerate(written[0]) if token in ends}
    while len(written) < num_tokens and len(have_ended) < len(prompts):
        positions_B1 = (lasts_B + len(written))[:, None]
        new_B = agree(network.next_tokens(new_B[:, None], torch.zeros_like(lasts_B), cache, positions_B1))
        written.append(new_B.tolist())
        have_ended |= {row for row, token in enumerate(written[-1]) if token in ends}
    return [list(row) for row in zip(*written, strict=True)]


def by_turns(pieces: Sequence[Piece]) -> list[Piece]:
    """Order pieces: the first of each language, then the second of each; languages with most tokens first."""
    by_language: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_language.setdefault(piece.language, []).append(piece)
    ordered = sorted(by_language.items(), key=lambda named: (-sum(len(piece.tokens) for piece in named[1]), named[0]))
    most = max((len(mine) for _, mine in ordered), default=0)
    return [mine[turn] for turn in range(most) for _, mine in ordered if turn < len(mine)]


def prompt_of(piece: Piece, tokenizer: Tokenizer, room: int, num_tokens: int, *, fills_in: bool) -> SamplePrompt:
    """Make a task of a piece: its middle is to be filled in, where that is asked for and the tokenizer can; else its end.

    Args:
        piece: a stretch of a document.
        tokenizer: that its tokens are of.
        room: tokens that fit the prompt, sentinels aside.
        num_tokens: tokens that will be written.
        fills_in: asked for.
    """
    tokens, sentinels = piece.tokens.tolist(), [tokenizer.token_to_id(name) for name in FIM_SENTINELS]
    if not fills_in or None in sentinels:
        shown = max(1, min(SHOWN_TOKENS, room, len(tokens) // 2))
        original = tokens[shown : shown + num_tokens]
        return SamplePrompt(
            tokens[:shown], "continue", piece.language, piece.doc_id, spelt(tokenizer, tokens[:shown]), "", spelt(tokenizer, original)
        )
    middle = min(MIDDLE_TOKENS, len(tokens) // 4)
    side = max(1, min(SHOWN_TOKENS, room // 2, (len(tokens) - middle) // 2))
    prefix, original, suffix = tokens[:side], tokens[side : side + middle], tokens[side + middle : 2 * side + middle]
    begin, turn, end = sentinels
    asked = [begin, *prefix, turn, *suffix, end]
    return SamplePrompt(asked, "fill in", piece.language, piece.doc_id, *(spelt(tokenizer, part) for part in (prefix, suffix, original)))


def spelt(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Return the text of some tokens; bytes that are no whole character become replacement characters."""
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=False)
    return text


def _pieces(heldout: ValidationSet, spans_paths: Sequence[Path]) -> list[Piece]:
    """Return of each held-out document its longest piece that is long enough, in order of the sequences."""
    longest: dict[str | None, Piece] = {}
    for piece in _all_pieces(heldout, spans_paths):
        if len(piece.tokens) >= LEAST_TOKENS and (piece.doc_id not in longest or len(piece.tokens) > len(longest[piece.doc_id].tokens)):
            longest[piece.doc_id] = piece
    return list(longest.values())


def _all_pieces(heldout: ValidationSet, spans_paths: Sequence[Path]) -> Iterator[Piece]:
    columns = ["sequence", "token_start", "token_end", "byte_start", "doc_id", "language"]
    for part in np.unique(heldout.origin[:, 0]).tolist():
        places = np.flatnonzero(heldout.origin[:, 0] == part)
        rows = heldout.origin[places, 1]
        place_of = dict(zip(rows.tolist(), places.tolist(), strict=True))
        for span in read_spans(spans_paths[part], rows, columns).to_pylist():
            if span["byte_start"] is not None:  # what the template added has none
                tokens = heldout.tokens[place_of[span["sequence"]], span["token_start"] : span["token_end"]]
                yield Piece(tokens, span["language"] or UNKNOWN, span["doc_id"])
