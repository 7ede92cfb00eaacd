"""A checkpoint and a tokenizer as transformers loads them: the same numbers, the same words, the same continuations."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast

from starloom.model.architecture import Architecture
from starloom.model.config import Prompt
from starloom.model.formats import load_network, save_network
from starloom.model.generate import Continuation, complete
from starloom.model.network import GPT
from starloom.model.prompting import asked
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.tokens.special_tokens import STARCODER
from starloom.tasks.schemas import Docs
from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer
from tests.sizes import examples

TEXT = "def add(a, b):\n\n    return a + b  # 12 é , . 's\n"
CONTEXT_TOKENS = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a release holds: the files of `train_tokenizer` and of `starloom.model.formats`."""
    row = {"doc_id": "0" * 32, "source": "s", "kind": "code", "repo": "r", "path": "a.py", "content": TEXT, "size": len(TEXT.encode()),
           "swhid": "swh:1:cnt:0", "is_vendor": False, "is_generated": False, "is_documentation": False}  # fmt: skip
    runtime = Runtime.alone(tmp_path_factory.mktemp("scratch"))
    docs = Docs.of(pa.Table.from_pylist([row], schema=Docs.SCHEMA))
    folder = train_tokenizer.function(docs, TrainTokenizer(vocab_size=300), runtime)[0].path
    size = Fast.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    architecture = Architecture(
        vocab_size=size, context_tokens=CONTEXT_TOKENS, num_layers=2, num_heads=4, width=32, inner_width=96, initializer_range=0.4
    )
    network = GPT(architecture)
    network.init_weights(5)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    eod, pad = STARCODER.index("<|endoftext|>"), STARCODER.index("<fim_pad>")
    save_network(folder, architecture, network.named_parameters(), bos_token_id=eod, eos_token_id=eod, pad_token_id=pad)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, told = loaded
    assert not any(told.values()), f"weights that fit nothing: {told}"
    return model.eval()


def test_weights_give_the_same_logits(folder, theirs):
    ours = load_network(folder, torch.device("cpu"))
    tokens = torch.randint(0, ours.architecture.vocab_size, (3, CONTEXT_TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours.logits(ours.hidden(tokens)), rtol=0, atol=1e-5)


def test_the_likeliest_continuation_is_the_same(folder, theirs):
    ours, tokenizer = load_network(folder, torch.device("cpu")), transformers.AutoTokenizer.from_pretrained(folder)
    read = tokenizer("def add(", return_tensors="pt")
    prompt = read["input_ids"][0].tolist()
    row = continuation(ours, prompt, 24)
    complete(ours, [row], Fast.from_file(str(folder / "tokenizer.json")), None)
    generated = theirs.generate(**read, max_new_tokens=24, do_sample=False, eos_token_id=None)
    assert generated[0].tolist() == prompt + row.new_tokens


def continuation(network, tokens, max_new_tokens):
    prompt = Prompt(task_id="t", prompt_tokens=tokens, max_new_tokens=max_new_tokens)
    return Continuation(prompt, asked(prompt, cast("Fast", Silent()), network.architecture))


class Silent:
    """Tokens that spell nothing."""

    def decode(self, ids, *, skip_special_tokens=True):
        return ""


@st.composite
def architectures(draw):
    family, groups = draw(st.sampled_from(["gpt_bigcode", "starcoder2"])), draw(st.sampled_from([1, 2]))
    heads = groups * draw(st.sampled_from([1, 2]))
    special = {"num_key_value_heads": draw(st.sampled_from([1, heads]))}
    if family == "starcoder2":
        special = {"num_key_value_heads": groups, "rope_theta": 1e4, "sliding_window": draw(st.none() | st.integers(1, 40))}
    return Architecture(
        family=family,
        vocab_size=draw(st.integers(20, 80)),
        context_tokens=48,
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        width=8 * heads,
        initializer_range=draw(st.sampled_from([0.3, 1.0])),
        tied_head=draw(st.booleans()),
        **special,
    )


def theirs_of(network):
    with tempfile.TemporaryDirectory() as folder:
        save_network(Path(folder), network.architecture, network.named_parameters())
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


TIE = 1e-4
"""Logits so close to each other may change places by rounding."""


@torch.no_grad()
def greedily(network, tokens, count):
    """The likeliest continuation by reading everything again for every token, and how far from a tie each token was chosen."""
    tokens, margins = list(tokens), []
    for _ in range(count):
        first, second = network.logits(network.hidden(torch.tensor([tokens]))[0, -1]).topk(2)[0].tolist()
        margins.append(first - second)
        tokens.append(int(network.logits(network.hidden(torch.tensor([tokens]))[0, -1]).argmax()))
    return tokens[-count:], margins


@settings(max_examples=examples(40), deadline=None)
@given(architectures(), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 18), st.booleans(), st.integers(0, 1 << 30))
@pytest.mark.slow
def test_any_batch_is_continued_as_transformers_does_with_a_cache_or_without(architecture, lengths, count, use_cache, seed):
    ours = GPT(architecture)
    ours.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.3, generator=generator)
    theirs = theirs_of(ours.eval())
    prompts = [torch.randint(0, architecture.vocab_size, (length,), generator=generator).tolist() for length in lengths]
    rows = [continuation(ours, tokens, count) for tokens in prompts]
    complete(ours, rows, Silent(), None)
    for row, tokens in zip(rows, prompts, strict=True):
        read = torch.tensor([tokens])
        how = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": use_cache}
        generated = theirs.generate(read, attention_mask=torch.ones_like(read), **how)[0, len(tokens) :].tolist()
        plain, margins = greedily(ours, tokens, count)
        sure = next((at for at, margin in enumerate(margins) if margin < TIE), count)
        assert row.new_tokens[:sure] == generated[:sure] == plain[:sure]
        assert len(row.new_tokens) == count


def test_the_tokenizer_is_the_same_and_agrees_with_the_config(folder, theirs):
    tokenizer, fast = transformers.AutoTokenizer.from_pretrained(folder), Fast.from_file(str(folder / "tokenizer.json"))
    for text in (TEXT, "<fim_prefix>a<fim_suffix>b<fim_middle>", " x ,\ty 's \r\n"):
        assert tokenizer(text)["input_ids"] == fast.encode(text).ids
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == theirs.config.vocab_size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(theirs.config, name) is not None
    batch = tokenizer(["def", TEXT], padding=True, return_tensors="pt")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
