"""Train StarCoder's kind of tokenizer, a byte-level BPE, on a sample of the corpus.

Reads   Docs       doc_id, language, size, content
Writes  Tokenizer  tokenizer.json, tokenizer_config.json, special_tokens_map.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks._stage import Config, Runtime, stage
from tasks.schemas import Docs, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import tokenizers

ROWS = 512
SMALLEST_VOCABULARY = 256 + 38
"""All bytes, and the special tokens of the larger preset."""


class TrainTokenizer(Config):
    """Knobs of `train_tokenizer`."""

    vocab_size: int = Field(default=49_152, ge=SMALLEST_VOCABULARY)
    """Tokens of the vocabulary, special tokens and the 256 bytes among them."""
    special_tokens: Literal["starcoder", "starcoder2"] = "starcoder"
    """Whose special tokens come first."""
    sample_bytes: int = Field(default=1_000_000_000, gt=0)
    """Text to learn from, shared out among languages as they share the corpus."""
    seed: int = 0
    """Seed of the sample."""


@stage(over="whole", libraries=("tokenizers",))
def train_tokenizer(docs: Docs, cfg: TrainTokenizer, runtime: Runtime) -> Tokenizer:
    """Learn the merges from a sample that depends on the documents and the seed alone."""
    import os

    from tokenizers import pre_tokenizers, trainers

    from tasks.kernels.byte_level import untrained
    from tasks.kernels.special_tokens import PRESETS

    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # the merges are the same on any number of threads
    special_tokens = PRESETS[cfg.special_tokens]
    allowances = _allowances(docs, cfg)
    model = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=cfg.vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(_sample(docs, allowances, runtime), trainer)
    runtime.note(
        vocab_size=model.get_vocab_size(),
        requested_vocab_size=cfg.vocab_size,
        sample_bytes=int(sum(allowance.sum() for allowance in allowances)),
    )
    folder = runtime.scratch / "tokenizer"
    _save(model, special_tokens, folder)
    return Tokenizer.of(folder)


def _allowances(docs: Docs, cfg: TrainTokenizer) -> list[np.ndarray]:
    """Decide how many bytes of each document to learn from: for each part, int64 in order of its rows.

    Within a language, documents come in the order of their draws; a language's share of the sample is its share of
    the corpus, and the document that stands at the border is cut there.
    """
    import numpy as np
    import pyarrow as pa

    from tasks.kernels.draws import draw

    draws, sizes, languages = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], []
    for part in docs.parts:
        table = part.read(["doc_id", "language", "size"])
        draws.append(draw(table.column("doc_id"), cfg.seed, "sample")[:, 0])
        sizes.append(np.asarray(table.column("size")))
        languages += table.column("language").chunks
    size, column = np.concatenate(sizes), pa.chunked_array(languages, pa.string())
    language = np.asarray(column.fill_null("").combine_chunks().dictionary_encode().indices)
    order = np.lexsort((size, np.concatenate(draws), language))
    corpus = np.bincount(language, size)
    budget = np.floor(corpus * min(1.0, cfg.sample_bytes / max(size.sum(), 1))).astype(np.int64)
    before = np.cumsum(size[order]) - size[order] - (np.cumsum(corpus) - corpus).astype(np.int64)[language[order]]
    allowance = np.empty_like(size)
    allowance[order] = np.clip(budget[language[order]] - before, 0, size[order])
    return np.split(allowance, np.cumsum([len(part) for part in sizes]))[1:-1]


def _sample(docs: Docs, allowances: list[np.ndarray], runtime: Runtime) -> Iterator[list[str]]:
    """Read the sample, a batch of documents at a time."""
    for done, (part, allowance) in enumerate(zip(docs.parts, allowances, strict=True), start=1):
        row = 0
        for batch in part.batches(["content"], rows=ROWS):
            allowed = allowance[row : row + batch.num_rows]
            texts = batch.column("content").filter(allowed > 0).to_pylist()
            yield [_prefix(text, num_bytes) for text, num_bytes in zip(texts, allowed[allowed > 0].tolist(), strict=True)]
            row += batch.num_rows
        runtime.progress(done, len(allowances))


def _prefix(text: str, num_bytes: int) -> str:
    """The first bytes of a text, less a character cut in two."""
    return text.encode()[:num_bytes].decode(errors="ignore")


def _save(model: tokenizers.Tokenizer, special_tokens: tuple[str, ...], folder: Path) -> None:
    """Write the files by which `tokenizers` and transformers load it; their bytes depend on the merges alone."""
    import json

    from tasks.kernels.special_tokens import END_OF_TEXT, FIM_PAD

    named = {**dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT), "pad_token": FIM_PAD}
    others = [name for name in special_tokens if name not in named.values()]
    special: dict[str, Any] = {**named, "additional_special_tokens": others}
    config = {
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,  # it would eat spaces before punctuation
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder / "tokenizer.json"), pretty=False)
    for name, content in (("special_tokens_map.json", special), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
