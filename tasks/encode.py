"""Encode documents as token ids, each with the metadata of its template before it.

Reads   Docs       doc_id, source, repo, path, language, kind, stars, content
        Tokenizer
Writes  Tokens     doc_id, source, repo, language, kind; tokens: the content, byte for byte; metadata: the template's tokens
                   before it; context: documents that are read as one sample, together and in order

Templates: `starcoder`, `<reponame>REPO<filename>PATH<gh_stars>BUCKET` and a line feed, each field drawn by itself;
`starcoder2`, the files of a repository in random order, `<repo_name>REPO` before the first and `<file_sep>PATH` before
each, named where the repository drew it; `none`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Docs, Tokenizer, Tokens

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import tokenizers
    from numpy.typing import NDArray

    from starloom.tasks.kernels.tokens.byte_level import Ragged
    from starloom.tasks.kernels.tokens.encoding import TextEncoder
    from starloom.tasks.kernels.tokens.templates import Fields

ROWS = 512
KEPT = ["doc_id", "source", "repo", "language", "kind"]
RATES = {"none": 0.0, "starcoder": 0.2, "starcoder2": 0.5}
"""As published: of each field, and of a repository."""


class Encode(Config):
    """Knobs of `encode`."""

    template: Literal["starcoder", "starcoder2", "none"] = "starcoder"
    """Metadata template: each file is a context (`starcoder`, `none`), or a repository is one (`starcoder2`)."""
    metadata_rate: float | None = Field(default=None, ge=0, le=1)
    """Probability of each metadata field (starcoder: 0.2), or of a repository's names (starcoder2: 0.5); by default as published."""
    metadata_kinds: tuple[str, ...] = ("code", "documentation")
    """Kinds of document that are files of repositories; other kinds have templates of their own."""
    seed: int = 0
    """Seed of the draws, which depend on nothing else but the document and the field, or the repository."""


@stage(libraries=("tokenizers",))
def encode(docs: Docs, tokenizer: Tokenizer, cfg: Encode, runtime: Runtime) -> Tokens:
    """Encode one part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.tokens import templates
    from starloom.tasks.kernels.tokens.encoding import open_encoder

    encoder = open_encoder(tokenizer.path)
    if encoder.not_covered:
        runtime.note(encoded_by=f"tokenizers, as {encoder.not_covered}")
    tokens, documents = _contents(docs, encoder, runtime), docs.read([*KEPT, "path", "stars", "size"])
    rate = RATES[cfg.template] if cfg.metadata_rate is None else cfg.metadata_rate
    context = documents.column("doc_id")
    if cfg.template == "starcoder2":
        order, context = templates.contexts(documents, cfg.seed, cfg.metadata_kinds)
        documents, tokens = documents.take(pa.array(order)), tokens.take(pa.array(order))
        fields = templates.starcoder2(documents, context, cfg.seed, rate, cfg.metadata_kinds)
    else:
        fields = templates.starcoder(documents, cfg.seed, 0 if cfg.template == "none" else rate, cfg.metadata_kinds)
    metadata = _metadata(encoder, fields, templates.SPECIAL_TOKENS.get(cfg.template, ()), documents.num_rows)
    num_bytes = pc.sum(documents.column("size"), min_count=0).as_py()
    num_tokens = pc.sum(pc.list_value_length(tokens), min_count=0).as_py()
    runtime.count(documents=documents.num_rows, bytes=num_bytes, tokens=num_tokens, template_tokens=len(metadata.values))
    columns = {name: documents.column(name) for name in KEPT}
    return Tokens.of(pa.table({**columns, "context": context, "metadata": metadata.to_arrow(), "tokens": tokens}, Tokens.SCHEMA))


def _contents(docs: Docs, encoder: TextEncoder, runtime: Runtime) -> pa.ChunkedArray:
    """Encode the texts, each token checked against the bytes that it stands for."""
    import pyarrow as pa

    total, chunks, done = docs.num_rows, [], 0
    for batch in docs.batches(["path", "content"], rows=ROWS):
        tokens = encoder.encode(batch.column("content"))
        _check_spelling(tokens, encoder, batch)
        chunks.append(tokens.to_arrow())
        done += batch.num_rows
        runtime.progress(done, total, "documents")
    return pa.chunked_array(chunks, Tokens.SCHEMA.field("tokens").type)


def _check_spelling(tokens: Ragged, encoder: TextEncoder, batch: pa.RecordBatch) -> None:
    """Refuse a tokenizer that changes text: bytes could no longer be traced to tokens."""
    row = encoder.first_misspelt(tokens, batch.column("content"))
    if row >= 0:
        raise InputError(
            f"the tokenizer changes text: the tokens of {batch.column('path')[row]} spell other bytes than it has",
            hint="use a byte-level tokenizer without a normaliser, such as train_tokenizer makes",
        )


def _metadata(encoder: TextEncoder, fields: Fields, names: tuple[str, ...], num_documents: int) -> Ragged:
    """Encode a template's fields: each a special token and its text."""
    import numpy as np

    from starloom.tasks.kernels.tokens.byte_level import Ragged

    texts = encoder.encode(fields.text)
    ids = np.insert(texts.values, texts.offsets[:-1], _special_ids(encoder.tokenizer, names, fields)[fields.special])
    per_document = np.bincount(fields.row, np.diff(texts.offsets) + 1, num_documents).astype(np.int64)
    return Ragged(ids, np.append(0, np.cumsum(per_document)))


def _special_ids(model: tokenizers.Tokenizer, names: tuple[str, ...], fields: Fields) -> NDArray[np.uint32]:
    """Return the ids of the template's special tokens, all of which the tokenizer must have if any is written."""
    import numpy as np

    ids = [model.token_to_id(name) for name in names]
    missing = [name for name, index in zip(names, ids, strict=True) if index is None]
    if missing and len(fields.row):
        raise InputError(
            f"the tokenizer has no {', '.join(missing)}, which the metadata template needs",
            hint="give train_tokenizer the special_tokens of encode's template, or set encode.template to none",
        )
    return np.array([index or 0 for index in ids], np.uint32)
