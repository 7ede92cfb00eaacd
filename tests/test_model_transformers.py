"""A checkpoint and a tokenizer as transformers loads them: the same numbers, the same words. Skipped where it is not installed."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer as Fast

from model.checkpoint import load_network, save_network
from model.config import Architecture, Prompt
from model.generate import begin, complete
from model.network import GPT
from tasks._stage import Runtime
from tasks.kernels.special_tokens import STARCODER
from tasks.schemas import Docs
from tasks.train_tokenizer import TrainTokenizer, train_tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is no dependency, only a reader of releases")

TEXT = "def add(a, b):\n\n    return a + b  # 12 é , . 's\n"
CONTEXT_TOKENS = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a release holds: the files of `train_tokenizer` and of `model.checkpoint`."""
    row = {"doc_id": "0" * 32, "source": "s", "kind": "code", "repo": "r", "path": "a.py", "content": TEXT, "size": len(TEXT.encode()),
           "swhid": "swh:1:cnt:0", "is_vendor": False, "is_generated": False}  # fmt: skip
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
    save_network(folder, architecture, network.state_dict(), bos_token_id=eod, eos_token_id=eod, pad_token_id=pad)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), f"weights that fit nothing: {told}"
    return model.eval()


def test_weights_give_the_same_logits(folder, theirs):
    ours = load_network(folder, torch.device("cpu"))
    tokens = torch.randint(0, ours.architecture.vocab_size, (3, CONTEXT_TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours.logits(ours.hidden(tokens)), rtol=0, atol=1e-5)


def test_the_likeliest_continuation_is_the_same(folder, theirs):
    ours, tokenizer = load_network(folder, torch.device("cpu")), transformers.AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("def add(", return_tensors="pt")
    prompt = asked["input_ids"][0].tolist()
    row = begin(Prompt(task_id="t", prompt_tokens=prompt, max_new_tokens=24), prompt, CONTEXT_TOKENS)
    complete(ours, [row], Fast.from_file(str(folder / "tokenizer.json")), None)
    generated = theirs.generate(**asked, max_new_tokens=24, do_sample=False, eos_token_id=None)
    assert generated[0].tolist() == prompt + row.new_tokens


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
