"""Measure the bytes per token, language by language, on text that the tokenizer was not trained on.

Reads   Docs             doc_id, language, size, content
        Tokenizer
        TokenizerSample  doc_id; without it (a tokenizer that was taken, not trained) no document counts as learnt from
Writes  Fertility        language, corpus_bytes, documents, bytes, tokens, bytes_per_token, is_heldout; with compare_with also
                         reference_tokens, reference_bytes_per_token
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Config, File, Runtime, stage
from starloom.tasks.schemas import Docs, Fertility, Tokenizer, TokenizerSample

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.tasks.kernels.tokens.encoding import TextEncoder

ROWS = 512
UNKNOWN = "unknown"


class MeasureTokenizer(Config):
    """Knobs of `measure_tokenizer`."""

    compare_with: File | None = None
    """A tokenizer.json to measure beside it on the same text, such as StarCoder's."""
    language_bytes: int = Field(default=2_000_000, gt=0)
    """Text to measure of each language: documents are drawn until this is reached."""
    seed: int = 0
    """Seed of the draws."""


class _Chosen(NamedTuple):
    """The documents that are measured, and totals of the corpus; languages by their place in `names`."""

    names: list[str]
    language: NDArray[np.int64]
    """int64 [documents]."""
    is_chosen: NDArray[np.bool_]
    """bool [documents]."""
    is_heldout: NDArray[np.bool_]
    """Whether what is measured of a language was not learnt from: bool [languages]."""
    corpus_bytes: NDArray[np.int64]
    """int64 [languages]."""


@stage(over="whole", libraries=("tokenizers",))
def measure_tokenizer(
    docs: Docs, tokenizer: Tokenizer, sample: TokenizerSample | None, cfg: MeasureTokenizer, runtime: Runtime
) -> Fertility:
    """Encode some documents of each language."""
    import pyarrow as pa

    from starloom.tasks.kernels.tokens.encoding import open_encoder

    models = [open_encoder(tokenizer.path), *([_reference(cfg.compare_with)] if cfg.compare_with else [])]
    learnt = sample.read(["doc_id"]).column("doc_id") if sample else pa.chunked_array([], pa.string())
    chosen = _choose(docs, learnt, cfg)
    table = _table(chosen, *_measured(docs, chosen, models, runtime))
    if table.num_rows:
        overall = table.slice(0, 1).to_pylist()[0]
        runtime.note(**{name: overall[name] for name in ("bytes_per_token", "reference_bytes_per_token")})
    return Fertility.of(table)


def _reference(path: str) -> TextEncoder:
    from pathlib import Path

    from starloom.tasks.kernels.tokens.encoding import open_encoder

    try:
        return open_encoder(Path(path))
    except ValueError as error:
        raise InputError(str(error), hint="measure_tokenizer.compare_with is a file as `tokenizers` saves it") from error


def _choose(docs: Docs, learnt: pa.ChunkedArray, cfg: MeasureTokenizer) -> _Chosen:
    """Draw documents of each language that were not learnt from; if it has none, any."""
    import numpy as np
    import pyarrow.compute as pc

    from starloom.tasks.kernels.text.draws import draw

    table = docs.read(["doc_id", "language", "size"])
    encoded = pc.fill_null(table.column("language"), UNKNOWN).combine_chunks().dictionary_encode()
    names, language = encoded.dictionary.to_pylist(), np.asarray(encoded.indices).astype(np.int64)
    size = np.asarray(table.column("size"))
    is_unseen = ~np.asarray(pc.is_in(table.column("doc_id"), learnt))
    is_heldout = np.bincount(language, is_unseen & (size > 0), len(names)) > 0
    candidates = np.flatnonzero((size > 0) & (is_unseen | ~is_heldout[language]))
    order = candidates[np.lexsort((draw(table.column("doc_id"), cfg.seed, "fertility")[candidates, 0], language[candidates]))]
    before = np.cumsum(size[order]) - size[order]
    first = np.searchsorted(language[order], np.arange(len(names)))
    is_chosen = np.zeros(len(size), bool)
    is_chosen[order[before - before[first[language[order]]] < cfg.language_bytes]] = True
    return _Chosen(names, language, is_chosen, is_heldout, np.bincount(language, size, len(names)).astype(np.int64))


def _measured(
    docs: Docs, chosen: _Chosen, models: list[TextEncoder], runtime: Runtime
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]:
    """Count documents and bytes of each language, and the tokens of each tokenizer."""
    import numpy as np
    import pyarrow.compute as pc

    num = len(chosen.names)
    documents, num_bytes, tokens, row = np.zeros(num, np.int64), np.zeros(num, np.int64), [np.zeros(num, np.int64) for _ in models], 0
    for done, part in enumerate(docs.parts, start=1):
        for batch in part.batches(["content"], rows=ROWS):
            here = slice(row, row := row + batch.num_rows)
            language, texts = chosen.language[here][chosen.is_chosen[here]], batch.column("content").filter(chosen.is_chosen[here])
            np.add.at(documents, language, 1)
            np.add.at(num_bytes, language, np.asarray(pc.binary_length(texts)))
            for model, counted in zip(models, tokens, strict=True):
                np.add.at(counted, language, np.diff(model.encode(texts).offsets))
        runtime.progress(done, len(docs.parts))
    return documents, num_bytes, tokens


def _table(chosen: _Chosen, documents: NDArray[np.int64], num_bytes: NDArray[np.int64], tokens: list[NDArray[np.int64]]) -> pa.Table:
    """Return a row of all languages together, then one of each, those with most text first."""
    import numpy as np
    import pyarrow as pa

    rows = sorted(np.flatnonzero(documents).tolist(), key=lambda i: (-chosen.corpus_bytes[i], chosen.names[i]))
    if not rows:
        return Fertility.SCHEMA.empty_table()
    corpus = chosen.corpus_bytes[rows]
    columns = {"corpus_bytes": corpus, "documents": documents[rows], "bytes": num_bytes[rows]}
    columns |= {name: counted[rows] for name, counted in zip(("tokens", "reference_tokens"), tokens, strict=False)}
    table = {name: np.insert(column, 0, column.sum()) for name, column in columns.items()}
    for name, counted in zip(("bytes_per_token", "reference_bytes_per_token"), tokens, strict=False):
        each = num_bytes[rows] / counted[rows]
        table[name] = np.insert(each, 0, corpus.sum() / (corpus / each).sum())  # not of what was measured: rare languages weigh more there
    nothing = pa.nulls(len(rows) + 1)
    names = [None, *(chosen.names[i] for i in rows)]
    heldout = np.insert(chosen.is_heldout[rows], 0, chosen.is_heldout[rows].all())
    made = {"reference_tokens": nothing, "reference_bytes_per_token": nothing} | table | {"language": names, "is_heldout": heldout}
    return pa.table({name: made[name] for name in Fertility.SCHEMA.names}, Fertility.SCHEMA)
