"""Continuing prompts and filling gaps: batched, cached, greedy or sampled, the same on every run.

    python -m starloom.model.generate CHECKPOINT --prompt 'def add(a, b):'
    python -m starloom.model.generate CHECKPOINT --prefix 'def add(a, b): c =' --suffix '; return c' --temperature 0.2 --top-p 0.95

A batch is padded on the right, so the token at position p stands in slot p of the cache and the padding is never seen: a row's own
tokens overwrite it. A prompt of several samples is read once. A row that has ended leaves the batch. Attention passes over no slot
that all rows are blind to: none beyond the longest, none that a sliding window has left behind. A draw depends on the prompt's seed,
task, sample and position only, not on who else is in the batch; what remains is rounding: a matrix product may differ in its last bit
with the size of the batch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from starloom.model.config import Prompt
from starloom.model.formats import load_network
from starloom.model.network import GPT, Cache
from starloom.model.numerics import autocast, chosen_device, fix_numerics
from starloom.model.prompting import END_OF_TEXT, Asked, asked, open_tokenizer
from starloom.model.sampling import choose, uniform

REPLACEMENT = "\ufffd"
"""The replacement character, for bytes that are not (yet) a character."""


class Decoder(Protocol):
    """A converter of ids into text: a `tokenizers.Tokenizer` whose tokens are bytes."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str:
        """Return the text of these tokens."""


@dataclass
class Continuation:
    """A prompt and what has been added to it."""

    prompt: Prompt
    asked: Asked
    new_tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    """Why it ended: `eod`, `stop` or `length`; empty while it goes on."""
    _settled_text: str = ""
    """What the first of the new tokens spell, up to the end of a character: it is not decoded again."""
    _num_settled_tokens: int = 0

    def take(self, token: int, decoder: Decoder, eod_token: int | None) -> None:
        """Add a token, and see whether that ends it."""
        if token == eod_token or token in self.asked.ends:
            self.finish = "eod" if token == eod_token else "stop"
            return
        self.new_tokens.append(token)
        num_searched = len(self._settled_text)
        self._decode(decoder)
        ends = [end for stop in self.prompt.stop if (end := self.text.find(stop, max(0, num_searched - len(stop) + 1))) >= 0]
        if ends:
            self.text, self.finish = self.text[: min(ends)], "stop"
        elif len(self.new_tokens) == self.prompt.max_new_tokens:
            self.finish = "length"

    def _decode(self, decoder: Decoder) -> None:
        tail = decoder.decode(self.new_tokens[self._num_settled_tokens :], skip_special_tokens=False)
        self.text = self._settled_text + tail
        if not tail.endswith(REPLACEMENT):
            self._settled_text, self._num_settled_tokens = self.text, len(self.new_tokens)

    @property
    def position(self) -> int:
        """The position of its last token."""
        return len(self.asked.tokens) + len(self.new_tokens) - 1

    @property
    def uniform(self) -> float:
        """The number that decides the draw of its next token."""
        return uniform(self.prompt.seed, self.prompt.task_id, self.prompt.sample, len(self.new_tokens))

    def as_record(self) -> dict[str, str | int]:
        """Return a line of `completions.jsonl`."""
        return {
            "task_id": self.prompt.task_id,
            "sample": self.prompt.sample,
            "completion": self.text,
            "finish": self.finish,
            "num_tokens": len(self.new_tokens),
            "num_cut_tokens": self.asked.num_cut_tokens,
        }


class Slots(Cache):
    """The slots of a cache that attention has to visit; writes go to the whole cache."""

    def __init__(self, whole: Cache, start: int, stop: int) -> None:
        self.key_LBSGK, self.value_LBSGK = whole.key_LBSGK[:, :, start:stop], whole.value_LBSGK[:, :, start:stop]
        self.rows_B1, self.slots_S = whole.rows_B1, whole.slots_S[start:stop]
        self.start = start

    def write(self, layer: int, positions_BT: Tensor, key_BTGK: Tensor, value_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """Store what a layer computed for these positions; return these slots."""
        return super().write(layer, positions_BT - self.start, key_BTGK, value_BTGK)


class Reading:
    """A network in the middle of a batch of texts."""

    def __init__(self, network: GPT, rows: int, slots: int) -> None:
        self.network = network
        dtype = torch.get_autocast_dtype(network.device.type) if torch.is_autocast_enabled(network.device.type) else torch.float32
        self.cache = Cache(network.architecture, rows, slots, device=network.device, dtype=dtype)

    def begin(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read the beginning of every text; what the head reads at its last token, BD."""
        longest = max(len(text) for text in texts)
        tokens_BT = self._tensor([[*text, *[0] * (longest - len(text))] for text in texts])
        hidden_BTD = self.network.hidden(tokens_BT, cache=Slots(self.cache, 0, longest))
        return hidden_BTD[self.cache.rows_B1[:, 0], self._tensor([len(text) - 1 for text in texts])]

    def go_on(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Read one more token of every text; BD."""
        window = self.network.architecture.window
        seen = Slots(self.cache, max(0, min(positions) + 1 - window) if window else 0, max(positions) + 1)
        return self.network.hidden(self._tensor(tokens)[:, None], self._tensor(positions)[:, None], seen)[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these texts; one that is named twice becomes two."""
        kept = self._tensor(rows)
        self.cache.key_LBSGK, self.cache.value_LBSGK = self.cache.key_LBSGK[:, kept], self.cache.value_LBSGK[:, kept]
        self.cache.rows_B1 = torch.arange(len(rows), device=kept.device)[:, None]

    def _tensor(self, numbers: Sequence[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, device=self.network.device)


@torch.no_grad()
def complete(network: GPT, batch: Sequence[Continuation], decoder: Decoder, eod_token: int | None) -> None:
    """Continue every member of the batch to its end."""
    going = list(batch)
    places: dict[tuple[int, ...], int] = {}
    place_of = [places.setdefault(tuple(row.asked.tokens), len(places)) for row in going]
    reading = Reading(network, len(places), max(len(row.asked.tokens) + row.prompt.max_new_tokens for row in going))
    hidden_BD = reading.begin(list(places))[place_of]
    reading.keep(place_of)
    while True:
        knobs = ([row.prompt.temperature for row in going], [row.prompt.top_p for row in going], [row.uniform for row in going])
        for row, token in zip(going, choose(network.logits(hidden_BD), *knobs), strict=True):
            row.take(token, decoder, eod_token)
        kept = [place for place, row in enumerate(going) if not row.finish]
        if not kept:
            return
        if len(kept) < len(going):
            reading.keep(kept)
            going = [going[place] for place in kept]
        hidden_BD = reading.go_on([row.new_tokens[-1] for row in going], [row.position for row in going])


def main(arguments: list[str]) -> int:
    """Complete one prompt for somebody at a terminal; the exit status is 0, or 1 for a failure."""
    options = _parser().parse_args(arguments)
    try:
        row = _completed(options)
    except ValidationError as error:
        for problem in error.errors():
            option = f"--{'-'.join(map(str, problem['loc'])).replace('_', '-')} {problem['input']}: " if problem["loc"] else ""
            print(f"error: {option}{problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(row.as_record()) if options.json else row.text)
    return 0


def _completed(options: argparse.Namespace) -> Continuation:
    """Return the completion of the prompt that the options give."""
    if (options.prompt is None) is (options.prefix is None or options.suffix is None):
        raise ValueError("give --prompt, or --prefix and --suffix")
    names = ("prompt", "prefix", "suffix", "max_new_tokens", "temperature", "top_p", "stop", "seed")
    prompt = Prompt(task_id="prompt", fim="spm" if options.spm else "psm", **{name: getattr(options, name) for name in names})
    if not options.checkpoint.is_dir():
        raise ValueError(f"there is no folder {options.checkpoint}; name a checkpoint, such as runs/RUN/release in a store")
    tokenizer = open_tokenizer(options.tokenizer or options.checkpoint / "tokenizer.json")
    device = chosen_device("auto")
    fix_numerics(torch.get_num_threads(), device)
    network = load_network(options.checkpoint, device)
    row = Continuation(prompt, asked(prompt, tokenizer, network.architecture))
    with autocast(device, "auto"):
        complete(network, [row], tokenizer, tokenizer.token_to_id(END_OF_TEXT))
    return row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m starloom.model.generate", description="Continue a text, or fill a gap in one.")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder in transformers' format: gpt_bigcode or starcoder2")
    parser.add_argument("--prompt", help="text to continue")
    parser.add_argument("--prefix", help="text before the gap to fill; with --suffix, instead of --prompt")
    parser.add_argument("--suffix", help="text after the gap")
    parser.add_argument("--spm", action="store_true", help="show the suffix first (SPM), not the prefix (PSM)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json, if not the one in CHECKPOINT")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="largest number of new tokens (default 128)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="sampling temperature; 0 (the default) is greedy decoding"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling: draw from the smallest set of tokens with this probability"
    )
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws")
    parser.add_argument("--json", action="store_true", help="print one JSON object: completion, finish, numbers of tokens")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
