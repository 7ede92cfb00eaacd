"""Continuing a batch of prompts, tokens to text: ours and transformers' `generate`, the same network and the same tokens.

A network of 13 million parameters in either family, fp32 on one core, 16 documents of which 128 tokens are read and 128 written.
Greedy, or drawn with temperature 0.8 and top-p 0.95, as one evaluates. The figures are tokens written a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from starloom.bench._tool import Corpus, Tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tokenizers import Tokenizer

    from starloom.model.config import Prompt

TITLE = "continue 16 prompts of 128 tokens by 128: tokens a second, one core"
MEGABYTES = 2.0
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 16, 128, 128
VOCAB_SIZE = 8192
TEMPERATURE, TOP_P = 0.8, 0.95
FAMILIES = {"gpt_bigcode": "StarCoder", "starcoder2": "StarCoder2"}


@dataclass
class _Given:
    """A network, in each implementation, and its prompts."""

    network: Any
    tokenizer: Tokenizer
    prompts: list[list[int]]


def _tokenizer(corpus: Corpus) -> Tokenizer:
    """Train a byte-level BPE tokenizer on the corpus."""
    from tokenizers import pre_tokenizers, trainers

    from starloom.tasks.kernels.tokens.byte_level import untrained

    tokenizer = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus.texts[:200], trainer)
    return tokenizer


def _given(corpus: Corpus, folder: Path, family: str, load: Callable[[Path], Any]) -> _Given:
    """Return the checkpoint that both load, and the beginnings of some documents, joined where they are short."""
    import torch

    from starloom.model.architecture import Architecture
    from starloom.model.formats import save_network
    from starloom.model.network import GPT

    torch.set_num_threads(1)
    groups = 1 if family == "gpt_bigcode" else 2
    shape = {"num_layers": 6, "num_heads": 6, "width": 384, "num_key_value_heads": groups, "initializer_range": 0.1}
    architecture = Architecture(family=family, vocab_size=VOCAB_SIZE, context_tokens=512, **shape)  # type: ignore[arg-type]
    network = GPT(architecture)
    network.init_weights(0)
    save_network(folder, architecture, network.named_parameters())
    tokenizer = _tokenizer(corpus)
    tokens = [token for text in corpus.texts[:50] for token in tokenizer.encode(text).ids[:PROMPT_TOKENS]]
    tokens = (tokens * (NUM_PROMPTS * PROMPT_TOKENS // len(tokens) + 1))[: NUM_PROMPTS * PROMPT_TOKENS]
    prompts = [tokens[start : start + PROMPT_TOKENS] for start in range(0, len(tokens), PROMPT_TOKENS)]
    return _Given(load(folder), tokenizer, prompts)


def _load_ours(folder: Path) -> object:
    import torch

    from starloom.model.formats import load_network

    return load_network(folder, torch.device("cpu"))


def _load_theirs(folder: Path) -> object:
    import transformers

    quiet: Any = transformers.logging  # untyped, as is what follows
    quiet.set_verbosity_error()
    network: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return network.eval()


def _ours(given: _Given, *, is_drawn: bool) -> object:
    from starloom.model.generate import Continuation, complete
    from starloom.model.prompting import asked

    rows = []
    for sample, tokens in enumerate(given.prompts):
        prompt = _prompt(tokens, sample, is_drawn=is_drawn)
        rows.append(Continuation(prompt, asked(prompt, given.tokenizer, given.network.architecture)))
    complete(given.network, rows, given.tokenizer, None)
    return [row.text for row in rows]


def _prompt(tokens: list[int], sample: int, *, is_drawn: bool) -> Prompt:
    from starloom.model.config import Prompt

    how: dict[str, Any] = {"temperature": TEMPERATURE, "top_p": TOP_P} if is_drawn else {}
    return Prompt(task_id="bench", sample=sample, prompt_tokens=tokens, max_new_tokens=NEW_TOKENS, **how)


def _theirs(given: _Given, *, is_drawn: bool) -> object:
    import torch

    tokens = torch.tensor(given.prompts)
    how = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0} if is_drawn else {"do_sample": False}
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "pad_token_id": 0}
    written = given.network.generate(tokens, attention_mask=torch.ones_like(tokens), **length, **how)
    return given.tokenizer.decode_batch(written[:, PROMPT_TOKENS:].tolist(), skip_special_tokens=False)


def lines(report: dict[str, Any]) -> str:
    """Format tokens per second of each tool, and our speed-up on the same network with the same settings."""
    head = f"{report['bench']}: {report['title']}\nbest of {report['rounds']}, {report['cores']} cores, load {report['load_average']}"
    told, seconds = [head], {tool["name"]: min(tool["seconds"], default=0.0) for tool in report["tools"]}
    for tool in report["tools"]:
        name = f"{'*' if tool['is_ours'] else ' '} {tool['name']:<36}"
        if tool["problem"]:
            told.append(f"{name} {tool['problem']}")
            continue
        ours = seconds["starloom" + tool["name"].removeprefix("transformers")] if not tool["is_ours"] else 0.0
        ratio = "     ours" if tool["is_ours"] else f"{ours / seconds[tool['name']]:9.3f} of ours" if ours else ""
        told.append(f"{name} {NUM_PROMPTS * NEW_TOKENS / seconds[tool['name']]:10,.0f} tokens/s {ratio}".rstrip())
    return "\n".join(told)


def _tools() -> list[Tool]:
    tools = []
    for family, name in FAMILIES.items():
        for is_drawn, manner in ((False, "greedy"), (True, "top-p")):
            ours, theirs = (partial(_given, family=family, load=load) for load in (_load_ours, _load_theirs))
            tools.append(Tool(f"starloom, {name}, {manner}", partial(_ours, is_drawn=is_drawn), is_ours=True, prepare=ours))
            wanted = ("transformers",)
            tools.append(Tool(f"transformers, {name}, {manner}", partial(_theirs, is_drawn=is_drawn), requires=wanted, prepare=theirs))
    return tools


TOOLS = _tools()
