"""The artifacts that stages exchange, and the columns of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage.views import Files, PartSource, Tabular

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from starloom.tasks.kernels.sources.units import Unit

_STR, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _schema(required: Mapping[str, pa.DataType], nullable: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    names = nullable or {}
    return pa.schema([pa.field(n, t, nullable=False) for n, t in required.items()] + [pa.field(n, t) for n, t in names.items()])


class Repositories:
    """The input of `ingest`: the repositories of one part, as the snapshot found them."""

    def __init__(self, snapshots: Sequence[Unit]) -> None:
        self.snapshots = tuple(snapshots)


class Docs(Tabular):
    """Documents as the next stage sees them: text parts with the verdicts so far applied on reading."""

    ROWS_PER_GROUP = 1024
    SCHEMA = pa.schema(
        [
            pa.field("doc_id", _STR, nullable=False),
            pa.field("source", _STR, nullable=False),
            pa.field("kind", _STR, nullable=False),
            pa.field("repo", _STR, nullable=False),
            pa.field("revision", _STR),
            pa.field("path", _STR, nullable=False),
            pa.field("language", _STR),
            pa.field("content", _STR, nullable=False),
            pa.field("size", _INT, nullable=False),
            pa.field("swhid", _STR, nullable=False),
            pa.field("declared_license", _STR),
            pa.field("stars", _INT),
            pa.field("forks", _INT),
            pa.field("committed_at", pa.timestamp("us", tz="UTC")),
            pa.field("visited_at", pa.timestamp("us", tz="UTC")),
            pa.field("url", _STR),
            pa.field("encoding", _STR),
            pa.field("is_vendor", _BOOL, nullable=False),
            pa.field("is_generated", _BOOL, nullable=False),
            pa.field("is_documentation", _BOOL, nullable=False),
        ]
    )

    def verdicts(self, keep: Any, rule: Any = None, value: Any = None, threshold: Any = None, detail: Any = None) -> Verdicts:
        """Return verdicts on the live rows of a one-part view.

        Args:
            keep: booleans aligned with `read()`.
            rule: None, one value for all rows, or values aligned likewise (nulls allowed).
            value: likewise; what was measured.
            threshold: likewise; what it was held against.
            detail: likewise; evidence in words.

        Raises:
            ValueError: if a column's length is not the number of live rows, or `keep` holds a null.
        """
        (source,) = self.sources
        live = source.keep
        doc_id = PartSource(source.data).read(["doc_id"]).column("doc_id")
        total = len(doc_id)
        positions = pa.array(range(total)) if live is None else pc.indices_nonzero(live)
        given = {"keep": keep, "rule": rule, "value": value, "threshold": threshold, "detail": detail}
        table = pa.table({name: _aligned(column, Verdicts.SCHEMA.field(name).type, len(positions), name) for name, column in given.items()})
        if table.column("keep").null_count:
            raise ValueError("a verdict on a live document must be kept or dropped, not null")
        if live is not None:
            slots = pc.if_else(live, pc.subtract(pc.cumulative_sum(pc.cast(live, pa.int64())), 1), pa.scalar(None, pa.int64()))
            table = table.take(slots)
        return Verdicts.of(table.add_column(0, "doc_id", doc_id))


def _aligned(column: Any, kind: pa.DataType, length: int, name: str) -> pa.Array | pa.ChunkedArray:
    if column is None or isinstance(column, (str, bool, int, float)):
        return pa.repeat(pa.scalar(column, kind), length)
    array = column if isinstance(column, pa.ChunkedArray) else pa.array(column)
    if len(array) != length:
        raise ValueError(f"{name} has {len(array)} values for {length} live documents")
    return array.cast(kind)


class Skipped(Tabular):
    """Files that did not become documents, each with the reason."""

    SCHEMA = _schema(
        {"source": _STR, "repo": _STR, "path": _STR, "size": _INT, "rule": _STR}, {"value": _FLOAT, "threshold": _FLOAT, "detail": _STR}
    )


class Verdicts(Tabular):
    """One row for each row of the text part: kept or not (null: dropped earlier), by which rule, with which value."""

    SCHEMA = _schema({"doc_id": _STR}, {"keep": _BOOL, "rule": _STR, "value": _FLOAT, "threshold": _FLOAT, "detail": _STR})

    @classmethod
    def join(cls, parts: Iterable[Verdicts]) -> Self:
        """Return the verdicts of a whole corpus from those of its parts, in order."""
        return cls([source for part in parts for source in part.sources])


LicenseClass = Literal["permissive", "no-license", "unknown-license", "non-permissive"]
"""What a licence allows, from the most to the least."""


class LicenseStatements(Tabular):
    """Everything that files say about licences, before a policy weighs it: a row a statement; `paths` are patterns, one a line."""

    SCHEMA = _schema(
        {"doc_id": _STR, "role": _STR, "line": _INT, "score": _FLOAT, "rule": _STR, "overrides": _BOOL},
        {"expression": _STR, "quoted": _STR, "target": _STR, "paths": _STR},
    )


class Licenses(Tabular):
    """The class of each document's licence and the evidence for it, whether or not a filter dropped it for that.

    `rule` is what gave the class; `expression`, `evidence_path`, `evidence_line`, `score` and `detector` describe the statement that
    decided: the SPDX expression, the file and line (null: the source's metadata), how sure (percent), and what recognised it.
    """

    SCHEMA = _schema(
        {"doc_id": _STR, "license_class": _STR},
        {
            "evidence": _STR,
            "rule": _STR,
            "expression": _STR,
            "evidence_path": _STR,
            "evidence_line": _INT,
            "score": _FLOAT,
            "detector": _STR,
        },
    )


class Signals(Tabular):
    """Measured properties of documents, kept apart from the thresholds that judge them."""

    OPEN = True
    SCHEMA = _schema(
        {
            "doc_id": _STR,
            "num_lines": _INT,
            "max_line_length": _INT,
            "avg_line_length": _FLOAT,
            "alnum_fraction": _FLOAT,
            "alpha_fraction": _FLOAT,
        }
    )


class Signatures(Tabular):
    """MinHash signatures, usable by datasketch as they are."""

    ROWS_PER_GROUP = 8192
    SCHEMA = _schema({"doc_id": _STR, "num_shingles": _INT, "signature": pa.list_(pa.uint32())})


class Clusters(Tabular):
    """Members of clusters of two or more, who survives and why. A cluster is named by its best survivor, or by who would be it."""

    SCHEMA = _schema(
        {
            "doc_id": _STR,
            "cluster_id": _STR,
            "repo": _STR,
            "path": _STR,
            "jaccard": _FLOAT,
            "is_survivor": _BOOL,
            "reason": _STR,
            "has_license_conflict": _BOOL,
        },
        {"license_class": _STR},
    )


class Redactions(Tabular):
    """Redactions: entity and place of each, without the secret itself. Byte ranges are half-open."""

    SCHEMA = _schema(
        {
            "doc_id": _STR,
            "entity": _STR,
            "detector": _STR,
            "start": _INT,
            "end": _INT,
            "new_start": _INT,
            "new_end": _INT,
            "value_hmac": _STR,
        }
    )


_TOKENS = pa.list_(pa.uint32())


class Tokens(Tabular):
    """Documents as token ids; `metadata` are the template's tokens before the text.

    Rows of one `context` stand together in the order in which they are read: the files of a repository, or a document alone.
    """

    ROWS_PER_GROUP = 2048
    LOOSE = frozenset({"metadata", "tokens"})
    SCHEMA = pa.schema(
        [
            pa.field("doc_id", _STR, nullable=False),
            pa.field("source", _STR, nullable=False),
            pa.field("repo", _STR, nullable=False),
            pa.field("language", _STR),
            pa.field("kind", _STR, nullable=False),
            pa.field("context", _STR, nullable=False),
            pa.field("metadata", _TOKENS, nullable=False),
            pa.field("tokens", _TOKENS, nullable=False),
        ]
    )


class Heldout(Tabular):
    """The documents that are kept from training, part by part as those of Tokens, and the bytes of text of each."""

    SCHEMA = _schema({"doc_id": _STR, "repo": _STR, "num_bytes": _INT})


class Packed(Tabular):
    """Sequences of one fixed length, ready for training; `starts` are the positions at which another context begins."""

    ROWS_PER_GROUP = 1024
    LOOSE = frozenset({"tokens"})
    SCHEMA = _schema({"sequence": _INT, "split": _STR, "tokens": _TOKENS, "starts": pa.list_(pa.int32())})


class Spans(Tabular):
    """The document and byte range that every token range of every packed sequence came from.

    `copy` is which taking of the document it is, from 0, over the epochs and its mixture weight. Padding is of no document.
    """

    SCHEMA = _schema(
        {"sequence": _INT, "token_start": pa.int32(), "token_end": pa.int32()},
        {"doc_id": _STR, "copy": pa.int32(), "byte_start": _INT, "byte_end": _INT, "role": _STR, "language": _STR},
    )


class Losses(Tabular):
    """The training loss, step by step. Timings are in the record, not here: they are no property of the model.

    A step that was `skipped`, because its loss was NaN or its gradient a spike, left the weights as they were.
    """

    SCHEMA = _schema({"step": _INT, "tokens": _INT, "loss": _FLOAT, "learning_rate": _FLOAT, "grad_norm": _FLOAT, "skipped": _BOOL})


class Batches(Tabular):
    """The sequences (part of Packed, row) that were seen at each step, in order."""

    SCHEMA = _schema({"step": _INT, "part": pa.int32(), "row": pa.int32()})


class Validation(Tabular):
    """The loss of held-out sequences as training went on: a row for each language, and one for all tokens (language null)."""

    SCHEMA = _schema({"step": _INT, "loss": _FLOAT, "tokens": _INT}, {"language": _STR})


class Completions(Tabular):
    """The model's completion for each problem, and the outcome of running it."""

    SCHEMA = _schema(
        {"benchmark": _STR, "task_id": _STR, "sample": _INT, "prompt": _STR, "completion": _STR, "outcome": _STR},
        {"language": _STR, "reference": _STR, "passed": _BOOL},
    )


class Scores(Tabular):
    """Figures of a checkpoint: one row for each benchmark, metric and language."""

    SCHEMA = _schema({"benchmark": _STR, "metric": _STR, "value": _FLOAT, "count": _INT}, {"language": _STR})


class Tokenizer(Files):
    """tokenizer.json and what transformers needs beside it."""


class TokenizerSample(Tabular):
    """The documents that the tokenizer learnt from, and how many of their first bytes; no rows if it was not trained here."""

    SCHEMA = _schema({"doc_id": _STR, "num_bytes": _INT}, {"language": _STR})


class Fertility(Tabular):
    """The tokens that text needs: a row for each language, and one for all of them (language null) as they share the corpus.

    `corpus_bytes` of a language are of the whole corpus, `documents`, `bytes` and `tokens` of what was measured of it.
    """

    SCHEMA = _schema(
        {"corpus_bytes": _INT, "documents": _INT, "bytes": _INT, "tokens": _INT, "bytes_per_token": _FLOAT, "is_heldout": _BOOL},
        {"language": _STR, "reference_tokens": _INT, "reference_bytes_per_token": _FLOAT},
    )


class Checkpoint(Files):
    """config.json and safetensors, as transformers reads them; of a training also trainer_state.json, with lora adapter/."""


class Release(Files):
    """The published files: weights, tokenizer, cards, manifest."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The record of one step of the recipe: free of clocks and paths, so it can be published."""

    name: str
    stage: str
    config: dict[str, Any]
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Type name → {"artifact": hash, "counts": {...}}."""


@dataclass(frozen=True, slots=True)
class Record:
    """The records of the steps above."""

    recipe: str
    steps: tuple[StepRecord, ...]


ONE_ROW_A_DOCUMENT: tuple[type[Tabular], ...] = (Docs, Verdicts, Licenses, Signals, Signatures, Clusters, Tokens, TokenizerSample)
"""Artifacts in which a doc_id stands once: stages join by it."""

ARTIFACTS: dict[str, type[Tabular | Files]] = {
    kind.__name__: kind
    for kind in (
        Docs,
        Skipped,
        Verdicts,
        LicenseStatements,
        Licenses,
        Signals,
        Signatures,
        Clusters,
        Redactions,
        Tokens,
        Heldout,
        Packed,
        Spans,
        Losses,
        Batches,
        Validation,
        Completions,
        Scores,
        Tokenizer,
        TokenizerSample,
        Fertility,
        Checkpoint,
        Release,
    )
}
"""Every artifact type by its name, as manifests spell it."""
