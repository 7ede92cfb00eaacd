"""Drop near-duplicate files, keeping the best of each cluster, with the cluster as evidence.

Two files are near-duplicates when the MinHash signatures of their word 5-grams agree in a whole band; clusters are the
connected components of that relation, and of each the survivor policy keeps one (The Stack, StarCoder: 256
permutations, Jaccard 0.7, 25 bands of 10 rows, per language, collisions trusted). With `verify: estimated` a
colliding pair counts only if its estimated Jaccard similarity reaches the threshold.

Reads   Docs        doc_id, content, language, repo, path, and the columns that the policy names (stars, forks, …)
Writes  Signatures  doc_id, num_shingles, signature (datasketch's "affine32"); cached without the decision's knobs
        Verdicts    dropped: rule = near-duplicate, value = estimated Jaccard to the survivor, detail = its doc_id;
                    a kept member of a cluster: rule = survivor
        Clusters    every member of a cluster of two or more: doc_id, cluster_id, repo, path, jaccard, is_survivor, reason

Memory: 8 bytes a document and band (200 at the defaults) and 40 for sorting; for each document that collides with
another as much again, 4 x num_perm, and about 200 (1.4 kB). Signatures of the others are streamed, part by part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks._stage import Config, Runtime, prepare, stage
from tasks.kernels.survivor import Preference
from tasks.schemas import Clusters, Docs, Signatures, Verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Shingling(Config):
    """Knobs of the signatures."""

    num_perm: int = Field(256, gt=0, le=4096)
    """Permutations of a MinHash signature: the estimate's standard error is at most 0.5 / sqrt(num_perm)."""
    ngram: int = Field(5, gt=0, le=256)
    """Words in a shingle. A file of fewer words is one shingle: only its exact copies resemble it."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the permutations; 42 is StarCoder's."""


class NearDedup(Shingling):
    """Knobs of near-deduplication."""

    threshold: float = Field(0.7, gt=0, le=1)
    """Jaccard similarity at or above which two files count as one; bands and rows follow from it."""
    verify: Literal["none", "estimated"] = "none"
    """`none` trusts every collision of a band, as StarCoder did; `estimated` asks both signatures for the threshold."""
    scope: Literal["language", "global"] = "language"
    """Compare files of one language only, as StarCoder did, or all with all."""
    survivor: tuple[Preference, ...] = ("stars desc", "forks desc", "committed_at desc")
    """Which of a cluster stays: the first preference that tells two apart; a missing value loses; at last the smaller doc_id wins."""


@prepare()
def signatures(docs: Docs, cfg: Shingling, runtime: Runtime) -> Signatures:
    """Sign every document."""
    import numpy as np
    import pyarrow as pa

    from tasks.kernels.arrow_bytes import string_buffers
    from tasks.kernels.minhash import sign_texts

    batches, done, num_documents = [], 0, docs.num_rows
    for batch in docs.batches(["doc_id", "content"], rows=1024):
        offsets, data = string_buffers(batch.column("content"))
        values, num_shingles = sign_texts(offsets, data, num_perm=cfg.num_perm, ngram=cfg.ngram, seed=cfg.seed)
        starts = np.arange(0, values.size + 1, cfg.num_perm, dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(starts), pa.array(values.reshape(-1)))
        columns = [batch.column("doc_id"), pa.array(num_shingles), lists]
        batches.append(pa.record_batch(columns, names=Signatures.SCHEMA.names))
        done += batch.num_rows
        runtime.progress(done, num_documents, "documents")
    return Signatures.of(pa.Table.from_batches(batches) if batches else Signatures.SCHEMA.empty_table())


@stage(over="whole", prepare=signatures)
def near_dedup(docs: Docs, signatures: Signatures, cfg: NearDedup, runtime: Runtime) -> tuple[Verdicts, Clusters]:
    """Find clusters over the whole corpus and keep one document of each."""
    import numpy as np

    from tasks.kernels.lsh import sharing

    parts = list(zip(docs.parts, signatures.parts, strict=True))
    starts = np.cumsum([0, *(signed.num_rows for _, signed in parts)], dtype=np.int64)
    keys = _band_keys(parts, starts, cfg, runtime)
    rows = sharing(keys)  # of the corpus; most documents resemble none, and are not looked at again
    keys = keys[:, rows]
    documents, matrix = _collect(parts, starts, rows, cfg)
    clusters, is_member = _clusters(documents, matrix, _components(keys, matrix, cfg), cfg)
    rows = rows[is_member]
    verdicts, tables = [], []
    for (part, _), first, last in zip(parts, starts[:-1], starts[1:], strict=True):
        low, high = np.searchsorted(rows, (first, last))
        tables.append(clusters.slice(low, high - low))
        verdicts.append(_verdicts(part, tables[-1], rows[low:high] - first, cfg.threshold))
    return Verdicts.join(verdicts), Clusters.of_parts(tables)


def _band_keys(parts: list[tuple[Docs, Signatures]], starts: NDArray[np.int64], cfg: NearDedup, runtime: Runtime) -> NDArray[np.uint64]:
    """Hash the bands of all documents, [bands, documents]; part i begins at row `starts[i]`."""
    import numpy as np

    from tasks.kernels.lsh import band_keys, optimal_bands

    bands, rows = optimal_bands(cfg.threshold, cfg.num_perm)
    runtime.note(bands=bands, rows=rows)
    keys = np.empty((bands, starts[-1]), np.uint64)
    for i, (part, signed) in enumerate(parts):
        table, matrix = part.read(["doc_id", "language"]), signed.read(["doc_id", "signature"])
        assert table.column("doc_id").equals(matrix.column("doc_id")), "signatures are of other documents"
        keys[:, starts[i] : starts[i + 1]] = band_keys(_matrix(matrix, cfg.num_perm), _scopes(table, cfg.scope), bands, rows)
        runtime.progress(i + 1, len(parts))
    return keys


def _matrix(table: pa.Table, num_perm: int) -> NDArray[np.uint32]:
    """Give a column of signatures as an array, [rows, num_perm]."""
    matrix: NDArray[np.uint32] = table.column("signature").combine_chunks().flatten().to_numpy().reshape(-1, num_perm)
    return matrix


def _scopes(table: pa.Table, scope: Literal["language", "global"]) -> NDArray[np.uint64]:
    """Number the documents' scopes: by a hash, so that the number does not depend on what else a part holds."""
    import hashlib

    import numpy as np

    if scope == "global":
        return np.zeros(table.num_rows, np.uint64)
    encoded = table.column("language").combine_chunks().dictionary_encode("encode")  # no language is one too
    digests = [hashlib.blake2b(repr(name).encode(), digest_size=8).digest() for name in encoded.dictionary.to_pylist()]
    numbers: NDArray[np.uint64] = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)[encoded.indices.to_numpy()]
    return numbers


def _collect(
    parts: list[tuple[Docs, Signatures]], starts: NDArray[np.int64], rows: NDArray[np.int64], cfg: NearDedup
) -> tuple[pa.Table, NDArray[np.uint32]]:
    """Read what a decision needs of the documents at `rows` (ascending, counted over all parts), and their signatures."""
    import numpy as np
    import pyarrow as pa

    from tasks.kernels import survivor

    columns = list(dict.fromkeys([*survivor.columns(cfg.survivor), "repo", "path"]))
    tables = [pa.schema([Docs.SCHEMA.field(name) for name in columns]).empty_table()]
    matrix, bounds = np.empty((len(rows), cfg.num_perm), np.uint32), np.searchsorted(rows, starts)
    for (part, signed), start, low, high in zip(parts, starts[:-1], bounds[:-1], bounds[1:], strict=True):
        if low < high:
            wanted = rows[low:high] - start
            tables.append(part.read(columns).take(pa.array(wanted)))
            matrix[low:high] = _matrix(signed.read(["signature"]), cfg.num_perm)[wanted]
    return pa.concat_tables(tables), matrix


def _clusters(
    documents: pa.Table, matrix: NDArray[np.uint32], component: NDArray[np.int64], cfg: NearDedup
) -> tuple[pa.Table, NDArray[np.bool_]]:
    """Elect the survivor of each component.

    Returns:
        The members of clusters of two or more, as Clusters, and which of `documents` they are.
    """
    import numpy as np
    import pyarrow as pa

    from tasks.kernels import survivor
    from tasks.kernels.minhash import estimated_jaccard

    itself = np.arange(len(component))
    survivors, rivals = survivor.elect(documents, component, cfg.survivor)
    table = pa.table(
        {
            "doc_id": documents.column("doc_id"),
            "cluster_id": documents.column("doc_id").take(pa.array(survivors)),
            "repo": documents.column("repo"),
            "path": documents.column("path"),
            "jaccard": estimated_jaccard(matrix, itself, survivors),
            "is_survivor": survivors == itself,
            "reason": survivor.reasons(documents, survivors, rivals, cfg.survivor),
        }
    )
    is_member = (survivors != itself) | (rivals != itself)
    return table.filter(pa.array(is_member)).combine_chunks(), is_member


def _components(keys: NDArray[np.uint64], matrix: NDArray[np.uint32], cfg: NearDedup) -> NDArray[np.int64]:
    """Give each document the number of its cluster: the smallest row in it."""
    import math

    import numpy as np

    from tasks.kernels import lsh, union_find

    parent = np.arange(len(matrix), dtype=np.int64)
    if cfg.verify == "none":
        for band in keys:
            union_find.unite_buckets(parent, *lsh.buckets(band))
    else:
        first = _unite_identical(parent, keys, matrix)
        min_agreeing = math.ceil(cfg.threshold * cfg.num_perm - 1e-9)
        for band in keys:
            members, starts = lsh.buckets(band[first])
            union_find.unite_similar(parent, first[members], starts, matrix, min_agreeing)
    component: NDArray[np.int64] = union_find.components(parent)
    return component


def _unite_identical(parent: NDArray[np.int64], keys: NDArray[np.uint64], matrix: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Join documents of one signature and give the first of each: a thousand copies cost a thousand steps, not a million."""
    import numpy as np

    from tasks.kernels import lsh, union_find

    if len(matrix):
        same_band = np.ascontiguousarray(keys[0])  # as the scope: copies in another scope are not in the same bucket
        (whole,) = lsh.band_keys(matrix, same_band, 1, matrix.shape[1])
        union_find.unite_buckets(parent, *lsh.buckets(whole))
    return np.flatnonzero(union_find.components(parent) == np.arange(len(matrix)))


def _verdicts(docs: Docs, members: pa.Table, rows: NDArray[np.int64], threshold: float) -> Verdicts:
    """Judge one part, whose cluster members are at `rows`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    slots = np.full(docs.num_rows, -1, np.int64)
    slots[rows] = np.arange(len(rows))
    member = members.take(pa.array(slots, mask=slots < 0))
    is_dropped = pc.fill_null(pc.invert(member.column("is_survivor")), fill_value=False)
    missing = pa.scalar(None)
    return docs.verdicts(
        pc.invert(is_dropped),
        rule=pc.if_else(member.column("is_survivor"), "survivor", "near-duplicate"),  # null where no member
        value=pc.if_else(is_dropped, member.column("jaccard"), missing),
        # Only what is dropped names the threshold: parts without duplicates keep their bytes when it moves.
        threshold=pc.if_else(is_dropped, pa.scalar(threshold), missing),
        detail=pc.if_else(is_dropped, member.column("cluster_id"), missing),
    )
