"""The benches of encoding: each tool is given the same merges, and a tool whose ids differ is told."""

from __future__ import annotations

import json

import pytest

from starloom.bench import _peer, encode, encode_gpt2
from starloom.bench._measure import Timing
from starloom.bench._tool import Corpus, Tool, environment_corpus
from starloom.tasks.schemas import Docs

pytestmark = pytest.mark.slow

TEXTS = [
    "def main(x):\n    return x + 12345\n\n\n\tif x:  # it's done, isn't it?\n",
    "Größe — 漢字 ٣٤٥ 😀\u00a0\u2003 1234  5 \r\n a<|endoftext|>b <fim_prefix>",
    "",
    "   \n",
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rows = environment_corpus(200_000).table.slice(0, len(TEXTS)).to_pylist()
    assert len(rows) == len(TEXTS)
    changed = [{**row, "content": text, "size": len(text.encode())} for row, text in zip(rows, TEXTS, strict=True)]
    return Corpus(type(environment_corpus(1).table).from_pylist(changed, schema=Docs.SCHEMA))


@pytest.fixture(scope="module", autouse=True)
def small(request):
    """Train on little, once for the module."""
    patch = pytest.MonkeyPatch()
    patch.setattr(encode, "TRAINING_BYTES", 300_000)
    patch.setattr(encode, "VOCAB_SIZE", 1_000)
    caches = (encode.tokenizer_folder, encode._text_encoder, encode._tiktoken_encoding)
    for cached in caches:
        cached.cache_clear()
    yield
    patch.undo()
    for cached in caches:
        cached.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def peers_end():
    yield
    for environment in (encode.DATATROVE, encode.GIGATOKEN, encode.TOKENDAGGER):
        if environment.is_built() and _peer._started.cache_info().currsize:
            process, _ = _peer._started(environment)
            process.stdin.close()
            process.stdout.close()
            process.wait()
    _peer._started.cache_clear()


def timings(tools: list[Tool]) -> list[Timing]:
    """Of those that are installed here."""
    for tool in tools:
        for name in tool.requires:
            pytest.importorskip(name, reason="the extra `bench` is not installed")
    return [Timing(tool, [1.0], 10**6) for tool in tools if tool.environment is None or tool.environment.is_built()]


@pytest.mark.parametrize("bench", [encode, encode_gpt2])
def test_every_tool_that_is_installed_has_the_ids_of_the_stage(bench, corpus):
    told = bench.judge(corpus, timings(bench.TOOLS))
    assert told["compared"] == len(TEXTS)
    matches_special_tokens = {"datatrove, files to files"} & set(told["differing"])
    assert {name for name, count in told["differing"].items() if count} == matches_special_tokens
    assert len(told["differing"]) >= 6


def test_the_two_splits_differ_in_digits():
    splits = {split: encode._text_encoder(split).tokenizer.pre_tokenizer.pre_tokenize_str("ab 12") for split in ("starcoder", "gpt2")}
    assert {split: [word for word, _ in words] for split, words in splits.items()} == {
        "starcoder": ["ab", "Ġ", "1", "2"],
        "gpt2": ["ab", "Ġ12"],
    }


def test_a_tool_with_other_ids_or_fewer_texts_is_told(corpus):
    ours, *_ = encode.common_tools("starcoder")
    right = encode.id_lists(ours.run(ours.prepare(corpus, None)))

    def tool(name: str, ids: list[list[int]]) -> Tool:
        return Tool(name, lambda _: ids, prepare=lambda corpus, folder: encode.Given(corpus, "starcoder", folder))

    found = [ours, tool("same", right), tool("other", [right[0][:-1], *right[1:]]), tool("fewer", right[:2])]
    assert encode.judge(corpus, timings(found))["differing"] == {ours.name: 0, "same": 0, "other": 1, "fewer": 2}


@pytest.mark.parametrize("tool", [encode._stage, encode._kernel])
def test_a_cold_round_starts_with_an_empty_cache(tool, corpus):
    given, text_encoder = encode._column(corpus, None, split="starcoder"), encode._text_encoder("starcoder")
    tool(given, cold=False)
    before = text_encoder._kernel
    assert before.cache.short.any()
    tool(given, cold=False)
    assert text_encoder._kernel is before
    tool(given, cold=True)
    assert text_encoder._kernel is not before
    encode._forget("starcoder")
    assert not text_encoder._kernel.cache.short.any()


def test_ranks_are_the_tokens_in_bytes():
    ranks = encode.ranks("starcoder")
    assert len(ranks) == len(set(ranks.values()))
    assert {bytes([byte]) for byte in range(256)} <= set(ranks)
    vocabulary = json.loads((encode.tokenizer_folder("starcoder") / "tokenizer.json").read_text())["model"]["vocab"]
    assert ranks[b" the"] == vocabulary["Ġthe"]


def test_lines_tell_every_tool():
    tools = [
        {"name": "ours", "is_ours": True, "mb_per_second": 100.0, "peak_bytes": 10**6, "ratio_to_ours": 1.0, "problem": None},
        {"name": "peer", "is_ours": False, "mb_per_second": 3.0, "peak_bytes": 10**6, "ratio_to_ours": 0.03, "problem": None},
        {"name": "gone", "is_ours": False, "problem": "not installed: so and so"},
    ]
    report = {"bench": "x", "title": "t", "documents": 9, "bytes": 10**6, "rounds": 3, "cores": 2, "load_average": 0.0, "tools": tools}
    *_, ours, peer, gone = encode.lines({**report, "differing": {"ours": 0, "peer": 2}, "compared": 9}).splitlines()
    assert ours.endswith("same ids")
    assert "0.030" in peer
    assert peer.endswith("ids of 2 documents differ")
    assert gone.split(maxsplit=1) == ["gone", "not installed: so and so"]


def test_every_environment_has_a_driver_with_pinned_requirements():
    environments = {tool.environment for tool in [*encode.TOOLS, *encode_gpt2.TOOLS] if tool.environment is not None}
    assert len(environments) == 3
    for environment in environments:
        assert (_peer.HERE / f"_peer_{environment.name.replace('-', '_')}.py").exists()
        assert all("==" in requirement for requirement in environment.requirements)
