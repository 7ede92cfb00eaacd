"""Encoding documents with one tokenizer on one core, StarCoder's split: the stage, its kernel, and peers with the same merges.

Every tool is given the texts as it likes them (an Arrow column, Python strings, a Parquet file for datatrove) and a
tokenizer trained on some of the environment; both are made ready before, and so is what a tool opens. Rounds repeat the
same texts. What a tool keeps of those it has met is therefore warm, except where its line says cold: there each round
starts with an empty cache. tokendagger is released as source alone and pip does not bring what it is built with: a C++
compiler and the headers of PCRE2, whose library it then loads.

Each tool's process is kept to one core. After the rounds the first documents are encoded once more by every tool; a line says
if its ids are not ours.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import multiprocessing
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from starloom.bench._peer import Environment
from starloom.bench._tool import BYTES_PER_MB, Corpus, Tool, environment_corpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from starloom.bench._measure import Timing
    from starloom.tasks.kernels.tokens.byte_level import Ragged
    from starloom.tasks.kernels.tokens.encoding import TextEncoder

TITLE = "encode documents as token ids, one core"
VOCAB_SIZE = 16_384
TRAINING_BYTES = 4_000_000

Split = Literal["starcoder", "gpt2"]

# GPT-2's pattern; and with digits apart, as one expression: white space before a digit is not split, as digits are cut off first.
PATTERNS: dict[Split, str] = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "starcoder": r"""'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+""",
}

GIGATOKEN = Environment("gigatoken", ("gigatoken==0.10.0",))
TOKENDAGGER = Environment("tokendagger", ("tokendagger==0.1.1",))
DATATROVE = Environment("datatrove-tokens", ("datatrove[io]==0.10.1", "tokenizers==0.23.3", "humanize==4.13.0"))


@dataclass(frozen=True)
class Given:
    """The input of a tool, and the folder it may write to."""

    corpus: Corpus
    split: Split
    folder: Path
    wants_ids: bool = False
    """Whether a peer in another process is to hand its ids over, which is not timed."""


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="starloom-bench-tokenizer-")


@functools.cache
def tokenizer_folder(split: Split = "starcoder") -> Path:
    """Return a tokenizer trained on some of the environment, the same for every tool."""
    from tokenizers import pre_tokenizers, trainers

    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.kernels.tokens.byte_level import untrained
    from starloom.tasks.kernels.tokens.special_tokens import STARCODER
    from starloom.tasks.schemas import Docs
    from starloom.tasks.train_tokenizer import TrainTokenizer, train_tokenizer

    corpus, folder = environment_corpus(TRAINING_BYTES), Path(_scratch().name, split)
    if split == "starcoder":
        knobs = TrainTokenizer(vocab_size=VOCAB_SIZE)
        path: Path = train_tokenizer.function(Docs.of(corpus.table), knobs, Runtime.alone(folder))[0].path
        return path
    model = untrained()
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = list(STARCODER)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(corpus.texts, trainer)
    folder.mkdir()
    model.save(str(folder / "tokenizer.json"))
    return folder


def ranks(split: Split) -> dict[bytes, int]:
    """Return the tokenizer's tokens except special ones, as tiktoken wants them."""
    from starloom.tasks.kernels.tokens.special_tokens import STARCODER

    spelled = _text_encoder(split).spelled
    ids = range(len(STARCODER), len(spelled.lengths))
    return {spelled.data[spelled.offsets[i] : spelled.offsets[i + 1]].tobytes(): i for i in ids}


def _keep_to_one_core() -> None:
    """Pin the tool's process to one core, where the system allows it: some tools start threads unasked."""
    if multiprocessing.parent_process() is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


# Ours


def _column(corpus: Corpus, folder: Path, *, split: Split) -> Given:
    """Prepare our input: the texts as an Arrow column, and the opened tokenizer."""
    _keep_to_one_core()
    _text_encoder(split)
    return Given(corpus, split, folder)


@functools.cache
def _text_encoder(split: Split) -> TextEncoder:
    from starloom.tasks.kernels.tokens.encoding import open_encoder

    return open_encoder(tokenizer_folder(split))


def _forget(split: Split) -> None:
    """Empty the kernel's cache, as if a new process had opened the tokenizer; this is not timed."""
    encoder = _text_encoder(split)
    assert encoder._kernel is not None  # noqa: SLF001 - no stage has a use for forgetting
    encoder._kernel = type(encoder._kernel)(encoder._kernel.split, encoder._kernel.model)  # noqa: SLF001


def _stage(given: Given, *, cold: bool) -> object:
    """Run the whole stage, with metadata drawn and every token checked against the text."""
    from starloom.tasks.encode import Encode, encode
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.schemas import Docs, Tokenizer

    if cold:
        _forget(given.split)
    folder = tokenizer_folder(given.split)
    return encode.function(Docs.of(given.corpus.table), Tokenizer.of(folder), Encode(), Runtime.alone(folder))


def _kernel(given: Given, *, cold: bool) -> list[Ragged]:
    """Run the kernel alone, as many documents at a time as the stage gives it."""
    from starloom.tasks.encode import ROWS

    if cold:
        _forget(given.split)
    batches = given.corpus.table.select(["content"]).to_batches(max_chunksize=ROWS)
    return [_text_encoder(given.split).encode(batch.column(0)) for batch in batches]


# Peers beside us


def _strings(corpus: Corpus, folder: Path, *, split: Split) -> Given:
    """Prepare the peers' input: the texts as Python strings."""
    _keep_to_one_core()
    assert corpus.texts
    tokenizer_folder(split)
    return Given(corpus, split, folder)


def _tokenizers(given: Given) -> object:
    """Call the batch interface once on one thread, special tokens taken for text; ids stay in its own objects."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return _text_encoder(given.split).tokenizer.encode_batch_fast(given.corpus.texts, add_special_tokens=False)


@functools.cache
def _tiktoken_encoding(split: Split) -> Any:
    import tiktoken

    return tiktoken.Encoding("starloom", pat_str=PATTERNS[split], mergeable_ranks=ranks(split), special_tokens={})


def _tiktoken(given: Given) -> object:
    """Build the same vocabulary and pattern in tiktoken."""
    return _tiktoken_encoding(given.split).encode_ordinary_batch(given.corpus.texts, num_threads=1)


# Peers in environments of their own: a driver has its tokenizer and its texts ready, and times nothing but `encode`


def _asked(environment: Environment, **options: Any) -> Callable[[Given], object]:
    def run(given: Given) -> object:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            wants_ids = given.wants_ids
            return environment.ask(step="encode", folder=str(given.folder), scratch=scratch, wants_ids=wants_ids, **options)

    return run


def _files(corpus: Corpus, folder: Path, *, split: Split, environment: Environment, **options: Any) -> Given:
    """Write texts and tokenizer for a driver, in the ways that one of them reads, and have it load them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _keep_to_one_core()  # and so is the driver, started from here
    (folder / "texts.json").write_text(json.dumps(corpus.texts))
    (folder / "docs").mkdir()
    columns = {"id": corpus.table.column("doc_id"), "text": corpus.table.column("content")}
    pq.write_table(pa.table(columns), folder / "docs" / "part.parquet")
    (folder / "tokenizer.json").write_bytes((tokenizer_folder(split) / "tokenizer.json").read_bytes())
    listed = [[base64.b64encode(token).decode(), rank] for token, rank in ranks(split).items()]
    (folder / "ranks.json").write_text(json.dumps({"pattern": PATTERNS[split], "ranks": listed}))
    environment.ask(step="load", folder=str(folder), scratch=str(folder), wants_ids=False, **options)
    return Given(corpus, split, folder)


def peer(name: str, split: Split, environment: Environment, **options: Any) -> Tool:
    """Return a tool whose driver is called with these options."""
    prepare = functools.partial(_files, split=split, environment=environment, **options)
    return Tool(name, _asked(environment, **options), prepare=prepare, environment=environment)


def common_tools(split: Split) -> list[Tool]:
    """Return our tool, and the peers that support any split."""
    column, strings = functools.partial(_column, split=split), functools.partial(_strings, split=split)
    return [
        Tool("starloom, stage, cold", functools.partial(_stage, cold=True), is_ours=True, prepare=column),
        Tool("starloom, stage, warm", functools.partial(_stage, cold=False), is_ours=True, prepare=column),
        Tool("starloom, kernel only, cold", functools.partial(_kernel, cold=True), is_ours=True, prepare=column),
        Tool("starloom, kernel only, warm", functools.partial(_kernel, cold=False), is_ours=True, prepare=column),
        Tool("tokenizers", _tokenizers, prepare=strings),
        Tool("tiktoken", _tiktoken, requires=("tiktoken",), prepare=strings),
    ]


TOOLS = [
    *common_tools("starcoder"),
    peer("datatrove, files to files", "starcoder", DATATROVE),
    peer("tokendagger (needs libpcre2-dev)", "starcoder", TOKENDAGGER),  # last: where it cannot be built, the others are
]


# Whose ids are whose


def id_lists(result: Any) -> list[list[int]]:
    """Return the ids of each text, from any tool's result."""
    from starloom.tasks.schemas import Tokens

    if isinstance(result, Tokens):
        lists: list[list[int]] = result.read(["tokens"]).column("tokens").to_pylist()
        return lists
    return [ids for item in result for ids in _lists(item)]


def _lists(item: Any) -> list[list[int]]:
    """Return id lists from a chunk of ours, a text's encoding by `tokenizers`, or a list of ids."""
    if hasattr(item, "to_arrow"):
        chunk: list[list[int]] = item.to_arrow().to_pylist()
        return chunk
    return [item.ids if hasattr(item, "ids") else item]


def judge(corpus: Corpus, timings: list[Timing]) -> dict[str, Any]:
    """Count the documents, of the first few, whose ids are not those of the first tool, which is ours.

    Returns:
        `differing`: by tool; `compared`: how many were.
    """
    few = corpus.warm_up()
    with tempfile.TemporaryDirectory(prefix="starloom-bench-ids-") as folder:
        found = {t.tool.name: _ids(t.tool, few, Path(folder, str(i))) for i, t in enumerate(timings) if t.problem is None}
    ours = next(iter(found.values()), [])
    differing = {name: sum(a != b for a, b in itertools.zip_longest(ids, ours)) for name, ids in found.items()}
    return {"differing": differing, "compared": few.table.num_rows}


def _ids(tool: Tool, corpus: Corpus, folder: Path) -> list[list[int]]:
    assert tool.prepare is not None
    folder.mkdir()
    return id_lists(tool.run(replace(tool.prepare(corpus, folder), wants_ids=True)))


def lines(report: dict[str, Any]) -> str:
    """Format the report as a table."""
    head = (
        f"{report['bench']}: {report['title']}\n{report['documents']:,} documents, {report['bytes'] / BYTES_PER_MB:.1f} MB, best of "
        f"{report['rounds']}, {report['cores']} cores, load {report['load_average']}; ids compared on {report['compared']} documents"
    )
    return "\n".join([head, *(_line(tool, report) for tool in report["tools"])])


def _line(tool: dict[str, Any], report: dict[str, Any]) -> str:
    name = f"{'*' if tool['is_ours'] else ' '} {tool['name']:<33}"
    if tool["problem"]:
        return f"{name} {tool['problem']}"
    differing = report["differing"][tool["name"]]
    told = f"ids of {differing} documents differ" if differing else "same ids"
    ratio = f"{tool['ratio_to_ours']:8.3f} of the first" if tool["ratio_to_ours"] else ""
    return f"{name} {tool['mb_per_second']:8.2f} MB/s {tool['peak_bytes'] / BYTES_PER_MB:6.0f} MB peak {ratio}  {told}"
