"""Train StarCoder's kind of tokenizer, a byte-level BPE, on a sample of the corpus; or import an existing one.

Reads   Docs             doc_id, language, size, content
Writes  Tokenizer        tokenizer.json, tokenizer_config.json, special_tokens_map.json
        TokenizerSample  doc_id, num_bytes, language: what it learnt from; nothing, if it was taken
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from starloom.lineage.errors import InputError
from starloom.tasks.common.hub import fetched, is_on_the_hub
from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Docs, Tokenizer, TokenizerSample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

ROWS = 512
SMALLEST_VOCABULARY = 256 + 38
"""All bytes, and the special tokens of the larger preset."""


def _existing(value: str, info: ValidationInfo) -> str:
    """Return a tokenizer.json by its absolute path, or `org/name@commit`."""
    from pathlib import Path

    if is_on_the_hub(value):
        return value
    path = Path((info.context or {}).get("folder", "."), value).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no tokenizer at {path}; one of the Hub is named org/name@commit, with the commit's 40 digits")
    return str(path.absolute())


class TrainTokenizer(Config):
    """Knobs of `train_tokenizer`."""

    existing: Annotated[str, AfterValidator(_existing)] | None = None
    """An existing tokenizer to use unchanged instead of training one (all other knobs are then ignored): a tokenizer.json, a folder that
    holds one, or `org/name@commit` of the Hugging Face Hub."""
    vocab_size: int = Field(default=49_152, ge=SMALLEST_VOCABULARY)
    """Tokens of the vocabulary, special tokens and the 256 bytes among them."""
    special_tokens: Literal["starcoder", "starcoder2"] = "starcoder"
    """The model whose special tokens come first."""
    sample_bytes: int = Field(default=1_000_000_000, gt=0)
    """Bytes of text to train on; each language has its share of the corpus."""
    seed: int = 0
    """Seed of the sample."""

    def identity(self) -> dict[str, Any]:
        """Return the identity of a tokenizer that is taken: a file's content, or a commit, which names its content."""
        from pathlib import Path

        from starloom.lineage.keys import file_digest

        if self.existing is None:
            return super().identity()
        return {"existing": self.existing if is_on_the_hub(self.existing) else {"sha256": file_digest(Path(self.existing))}}


@stage(over="whole", libraries=("tokenizers",))
def train_tokenizer(docs: Docs, cfg: TrainTokenizer, runtime: Runtime) -> tuple[Tokenizer, TokenizerSample]:
    """Learn the merges from a sample that depends on the documents and the seed alone, or take those of another tokenizer."""
    folder = runtime.scratch / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.existing is not None:
        _take(cfg.existing, folder, runtime)
        return Tokenizer.of(folder), TokenizerSample.of_parts(TokenizerSample.SCHEMA.empty_table() for _ in docs.parts)
    allowances = _allowances(docs, cfg)
    _train(docs, allowances, folder, cfg, runtime)
    return Tokenizer.of(folder), _learnt(docs, allowances)


def _train(docs: Docs, allowances: list[NDArray[np.int64]], folder: Path, cfg: TrainTokenizer, runtime: Runtime) -> None:
    import os

    from tokenizers import pre_tokenizers, trainers

    from starloom.tasks.kernels.tokens.byte_level import untrained
    from starloom.tasks.kernels.tokens.special_tokens import PRESETS
    from starloom.tasks.kernels.tokens.tokenizer_files import write_maps

    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # the merges are the same on any number of threads
    special_tokens = PRESETS[cfg.special_tokens]
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
    model.save(str(folder / "tokenizer.json"), pretty=False)
    write_maps(special_tokens, folder)


def _allowances(docs: Docs, cfg: TrainTokenizer) -> list[NDArray[np.int64]]:
    """Decide how many bytes of each document to learn from: for each part, int64 in order of its rows.

    Within a language, documents come in the order of their draws; a language's share of the sample is its share of
    the corpus, and the document that stands at the border is cut there.
    """
    import numpy as np
    import pyarrow as pa

    from starloom.tasks.kernels.text.draws import draw

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


def _sample(docs: Docs, allowances: list[NDArray[np.int64]], runtime: Runtime) -> Iterator[list[str]]:
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
    """Return the first bytes of a text, less a character cut in two."""
    return text.encode()[:num_bytes].decode(errors="ignore")


def _learnt(docs: Docs, allowances: list[NDArray[np.int64]]) -> TokenizerSample:
    """Return the sample as rows, part by part."""
    import pyarrow as pa

    tables = []
    for part, allowance in zip(docs.parts, allowances, strict=True):
        table = part.read(["doc_id", "language"])
        tables.append(table.append_column("num_bytes", pa.array(allowance)).filter(allowance > 0))
    return TokenizerSample.of_parts(tables)


def _take(existing: str, folder: Path, runtime: Runtime) -> None:
    """Copy a tokenizer.json byte for byte, if documents can be encoded and packed with it, and write what stands beside it.

    Raises:
        InputError: if it cannot be fetched, read or used.
    """
    import shutil
    from pathlib import Path

    from starloom.tasks.kernels.tokens.byte_level import load
    from starloom.tasks.kernels.tokens.special_tokens import FOR_PACKING
    from starloom.tasks.kernels.tokens.tokenizer_files import misfit, special_tokens, write_maps

    offline = "copy its tokenizer.json here and give that path as train_tokenizer.existing"
    source = fetched(existing, "tokenizer.json", offline) if is_on_the_hub(existing) else Path(existing)
    shutil.copyfile(source, folder / "tokenizer.json")
    instead = "or train one: leave train_tokenizer.existing out"
    try:
        model = load(folder)
    except ValueError as error:
        raise InputError(
            f"{existing} cannot be used: {error.__cause__ or error}", hint=f"give a file as `tokenizers` saves it, {instead}"
        ) from error
    names = special_tokens(model)
    missing = [name for name in FOR_PACKING if name not in names]
    if missing:
        problem = f"{existing} has no special token {', '.join(missing)}, which packing needs"
        raise InputError(problem, hint=f"use one that has them, such as StarCoder's or StarCoder2's, {instead}")
    why = misfit(model)
    if why:
        raise InputError(f"{existing} {why}", hint=f"use a byte-level BPE without a normaliser, {instead}")
    write_maps(names, folder)
    runtime.note(vocab_size=model.get_vocab_size(), existing=existing)
