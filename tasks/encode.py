"""Encode documents as token ids, each with the metadata template that StarCoder put before some of them.

Reads   Docs       doc_id, repo, path, language, kind, stars, content
        Tokenizer
Writes  Tokens     doc_id, repo, language, kind; metadata: `<reponame>REPO<filename>PATH<gh_stars>BUCKET` and a line feed,
                   each field drawn by itself; tokens: the content, byte for byte
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lineage.errors import InputError
from tasks._stage import Config, Runtime, stage
from tasks.schemas import Docs, Tokenizer, Tokens

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import tokenizers

    from tasks.kernels.byte_level import Ragged, TokenBytes

ROWS = 512
COLUMNS = ["doc_id", "repo", "path", "language", "kind", "stars", "content"]


class Encode(Config):
    """Knobs of `encode`."""

    metadata_rate: float = Field(default=0.2, ge=0, le=1)
    """Chance of each metadata field (repository, path, stars) to stand before a document; 0 writes none."""
    metadata_kinds: tuple[str, ...] = ("code", "documentation")
    """Kinds of document that may carry metadata fields: files of repositories; other kinds have templates of their own."""
    seed: int = 0
    """Seed of the draws, which depend on nothing else but the document and the field."""


@stage(libraries=("tokenizers",))
def encode(docs: Docs, tokenizer: Tokenizer, cfg: Encode, runtime: Runtime) -> Tokens:
    """Encode one part."""
    import os

    import pyarrow as pa

    from tasks.kernels.byte_level import encode_texts, load, token_bytes

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # parts already keep every core busy; the ids are the same
    model = load(tokenizer.path)
    spelled, tables, total = token_bytes(model), [], docs.num_rows
    for batch in docs.batches(COLUMNS, rows=ROWS):
        tokens = encode_texts(model, batch.column("content"))
        _check_spelling(tokens, spelled, batch)
        columns = {name: batch.column(name) for name in ("doc_id", "repo", "language", "kind")}
        metadata = _metadata(model, batch, cfg)
        tables.append(pa.table({**columns, "metadata": metadata.to_arrow(), "tokens": tokens.to_arrow()}, Tokens.SCHEMA))
        runtime.progress(sum(table.num_rows for table in tables), total, "documents")
    return Tokens.of(pa.concat_tables(tables) if tables else Tokens.SCHEMA.empty_table())


def _check_spelling(tokens: Ragged, spelled: TokenBytes, batch: pa.RecordBatch) -> None:
    """Refuse a tokenizer that changes text: bytes could no longer be traced to tokens."""
    from tasks.kernels.arrow_bytes import string_buffers
    from tasks.kernels.byte_level import first_misspelt

    row = first_misspelt(*tokens, *spelled, *string_buffers(batch.column("content")))
    if row >= 0:
        raise InputError(
            f"the tokenizer does not keep text as it is: the tokens of {batch.column('path')[row]} spell other bytes than it has",
            hint="use a byte-level tokenizer without a normaliser, such as train_tokenizer makes",
        )


def _metadata(model: tokenizers.Tokenizer, batch: pa.RecordBatch, cfg: Encode) -> Ragged:
    """Encode the template's fields of each document of a batch; a line feed follows the last, if there is one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from tasks.kernels.byte_level import Ragged, encode_texts
    from tasks.kernels.draws import draw, happens
    from tasks.kernels.special_tokens import METADATA_FIELDS, star_bucket

    drawn = happens(draw(batch.column("doc_id"), cfg.seed, "metadata", len(METADATA_FIELDS)), cfg.metadata_rate)
    may = np.asarray(pc.is_in(batch.column("kind"), pa.array(cfg.metadata_kinds, pa.string())))
    doc, field = np.nonzero(drawn & may[:, None])
    stars = pa.array([star_bucket(stars) for stars in batch.column("stars").to_pylist()], pa.string())
    columns = pa.chunked_array([batch.column("repo"), batch.column("path"), stars])
    texts = columns.take(pa.array(field * batch.num_rows + doc)).combine_chunks()
    is_last = np.append(doc[1:] != doc[:-1], True)[: len(doc)]
    texts = pc.binary_join_element_wise(texts, pa.array(np.where(is_last, "\n", ""), pa.string()), "")
    fields = encode_texts(model, texts)
    ids = np.insert(fields.values, fields.offsets[:-1], _special_ids(model, METADATA_FIELDS, cfg)[field])
    per_document = np.bincount(doc, np.diff(fields.offsets) + 1, batch.num_rows).astype(np.int64)
    return Ragged(ids, np.append(0, np.cumsum(per_document)))


def _special_ids(model: tokenizers.Tokenizer, names: tuple[str, ...], cfg: Encode) -> np.ndarray:
    """Ids of the template's special tokens, all of which the tokenizer must have if any may be written."""
    import numpy as np

    ids = [model.token_to_id(name) for name in names]
    missing = [name for name, index in zip(names, ids, strict=True) if index is None]
    if missing and cfg.metadata_rate > 0:
        raise InputError(
            f"the tokenizer has no {', '.join(missing)}, which the metadata template needs",
            hint="train it with special_tokens: starcoder, or set encode.metadata_rate to 0",
        )
    return np.array([index or 0 for index in ids], np.uint32)
