"""Drop near-duplicate files, keeping the best of each cluster, with the cluster as evidence.

Two files are near-duplicates when the MinHash signatures of their word 5-grams agree in a whole band; clusters are the
connected components of that relation, and of each the survivor policy keeps one (The Stack, StarCoder: 256
permutations, Jaccard 0.7, 25 bands of 10 rows, per language, collisions trusted). With `verify` a colliding pair counts
only if its Jaccard similarity, estimated from the signatures or exact on the shingles, reaches the threshold.
A chain of near-duplicates is one component, though its ends may have nothing in common: with `clusters: survivors` a
file is dropped only for a kept one of its cluster that it resembles, and its verdict names that.

Reads   Docs        doc_id, content, language, source, repo, path, and the columns that the policy names (stars, forks, …)
        Licenses    license_class, where a step above judged it
Writes  Signatures  doc_id, num_shingles, signature (datasketch's "affine32"); cached without the decision's knobs
        Verdicts    dropped: rule = near-duplicate or license-conflict, value = Jaccard similarity to the file for which it
                    goes, detail = its doc_id; a kept member of a cluster: rule = survivor
        Clusters    every member of a cluster of two or more, with the reason why the survivor was preferred to it
Warns   of sources, repositories and languages that lose more than half of their documents, and of large clusters

Memory: `memory_bytes` a worker to find candidates; in all 4 bytes a document, and 100 for each that collides with another;
what else is known of those is mapped from files, and paged as the system can. Disk: 12 bytes a document and band, until
all are read; then 4 x num_perm a survivor (with `verify`, a document that collides), 8 for each preference, and 60;
with `verify: exact` 8 a distinct shingle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from starloom.tasks.common.clusters import Election, Part, Work, connect, elect, judge, judged, lay_out, warn
from starloom.tasks.frame.stage import Config, Runtime, prepare, stage
from starloom.tasks.kernels.duplicates.workspace import Distinct, Elected, NodeParents, Nodes, Sets, Signed
from starloom.tasks.schemas import Clusters, Docs, Licenses, Signatures, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class Shingling(Config):
    """Knobs of the signatures."""

    num_perm: int = Field(default=256, gt=0, le=4096)
    """Permutations of a MinHash signature: the estimate's standard error is at most 0.5 / sqrt(num_perm)."""
    ngram: int = Field(default=5, gt=0, le=256)
    """Words in a shingle. A file of fewer words, empty ones not counted, is one shingle: only its exact copies resemble it."""
    words: Literal["ascii", "unicode", "runs"] = "ascii"
    """Definition of a word. `ascii`: the text between any two characters other than `A-Za-z_0-9`, so that empty words count, case kept
    (StarCoder); `unicode`: the same of Unicode word characters, in lower case (The Stack v2); `runs`: runs of `A-Za-z_0-9`, case kept. For
    `ascii` and `runs` only its exact copies resemble a file of which more characters are beyond ASCII than are of those."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of the permutations; 42 is StarCoder's."""


class NearDedup(Shingling, Election):
    """Knobs of near-deduplication."""

    threshold: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity at or above which two files count as one; the best bands and rows follow from it."""
    bands: int | None = Field(default=None, gt=0)
    """Bands of a signature, with `rows`; by default as many as datasketch takes for the threshold."""
    rows: int | None = Field(default=None, gt=0)
    """Positions of the signature in a band, with `bands`."""
    verify: Literal["none", "estimated", "exact"] = "none"
    """Check of colliding pairs against the threshold: `none` (StarCoder), `estimated` from signatures, `exact` on shingles."""
    clusters: Literal["components", "survivors"] = "components"
    """Files dropped of a cluster: with `components` all but the best (StarCoder), similar to it or not; with `survivors` those similar to
    a kept file, the best first. The second needs `verify`."""
    scope: Literal["language", "global"] = "language"
    """Compare files of one language only, as StarCoder did, or all with all."""
    large_cluster: int = Field(default=1000, ge=2)
    """Warn of clusters of more documents than this threshold: they may be connected by a template, a header, a chain."""

    def banding(self) -> tuple[int, int]:
        """Bands, and rows of each."""
        from starloom.tasks.kernels.duplicates.lsh import optimal_bands

        return (self.bands, self.rows) if self.bands and self.rows else optimal_bands(self.threshold, self.num_perm)

    @model_validator(mode="after")
    def _knobs_fit(self) -> Self:
        if (self.bands is None) != (self.rows is None):
            raise ValueError("bands and rows go together: give both, or neither")
        if self.clusters == "survivors" and self.verify == "none":
            raise ValueError("clusters: survivors compares files with those that are kept: set verify to estimated or exact")
        if self.clusters == "survivors" and self.keep == "none":
            raise ValueError("clusters: survivors drops files for those that are kept, and keep: none keeps none: leave one of the two out")
        if self.bands is not None and self.rows is not None and self.bands * self.rows > self.num_perm:
            raise ValueError(
                f"{self.bands} bands of {self.rows} rows need {self.bands * self.rows} permutations; num_perm is {self.num_perm}"
            )
        return self


@prepare(libraries=("unicodedata",))
def signatures(docs: Docs, cfg: Shingling, runtime: Runtime) -> Signatures:
    """Sign every document."""
    import numpy as np
    import pyarrow as pa

    from starloom.tasks.kernels.duplicates.minhash import sign_texts
    from starloom.tasks.kernels.text.arrow_bytes import string_buffers

    batches, done, num_documents = [], 0, docs.num_rows
    for batch in docs.batches(["doc_id", "content"], rows=1024):
        offsets, data = string_buffers(batch.column("content"))
        values, num_shingles = sign_texts(offsets, data, num_perm=cfg.num_perm, ngram=cfg.ngram, seed=cfg.seed, words=cfg.words)
        starts = np.arange(0, values.size + 1, cfg.num_perm, dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(starts), pa.array(values.reshape(-1)))
        columns = [batch.column("doc_id"), pa.array(num_shingles), lists]
        batches.append(pa.record_batch(columns, names=Signatures.SCHEMA.names))
        done += batch.num_rows
        runtime.progress(done, num_documents, "documents")
    return Signatures.of(pa.Table.from_batches(batches) if batches else Signatures.SCHEMA.empty_table())


@stage(over="whole", libraries=("unicodedata",), prepare=signatures)
def near_dedup(
    docs: Docs, signatures: Signatures, licenses: Licenses | None, cfg: NearDedup, runtime: Runtime
) -> tuple[Verdicts, Clusters]:
    """Find clusters over the whole corpus and keep one document of each."""
    import numpy as np

    if not docs.parts:
        return Verdicts.join([]), Clusters.of_parts([])
    bands, rows = cfg.banding()
    num_rounds = bands * (1 if cfg.verify == "none" else 2)
    work = lay_out(docs, licenses, signatures, cfg, bands, runtime)
    runtime.note(bands=bands, rows=rows)
    groups = connect(work, _write_keys, lambda done: runtime.progress(done, num_rounds, "bands"))
    if cfg.verify == "none":
        work.files.remove_keys()
        elect(work, groups, runtime)
        elected = work.files.arrays.get(Elected)
        survivors = np.unique(elected.survivors)
        _gather_signatures(work, np.union1d(survivors, elected.rivals[survivors]) if cfg.keep == "none" else survivors)
    else:
        runtime.note(duplicates_if_collisions_were_trusted=int(np.count_nonzero(groups != np.arange(len(groups)))))
        _gather_signatures(work, np.arange(len(groups)))
        if cfg.verify == "exact":
            _gather_sets(work)
        groups, keepers = _verified(work, lambda done: runtime.progress(bands + done, num_rounds, "bands"))
        elect(work, groups, runtime, keepers)
    warn(runtime, _large_clusters(work, groups))
    return judge(work, _judge, runtime)


def _large_clusters(work: Work[NearDedup], groups: NDArray[np.int64]) -> list[str]:
    """Say how many clusters are large, and which is the largest."""
    import numpy as np

    from starloom.tasks.kernels.duplicates.survivor import doc_ids

    sizes, most = np.bincount(groups), work.parts[0].cfg.large_cluster
    num_large = int(np.count_nonzero(sizes > most))
    if num_large == 0:
        return []
    largest, arrays = int(sizes.argmax()), work.files.arrays
    name = doc_ids(arrays.get(Nodes).ranks[arrays.get(Elected).heads[[largest]]])[0].as_py()
    who = "a cluster has" if num_large == 1 else f"{num_large:,} clusters have"
    return [f"{who} more than {most:,} documents; the largest, {name[:12]}, has {sizes[largest]:,}"]


def _write_keys(part: Part[NearDedup]) -> NDArray[np.int64]:
    """Hash the bands of a part's signatures and write them."""
    import numpy as np

    from starloom.tasks.kernels.duplicates.lsh import band_keys

    assert part.beside is not None
    bands, rows = part.cfg.banding()
    ids, scopes = part.docs.read(["doc_id"]).column("doc_id"), _scopes(part.docs, part.cfg.scope)
    keys, start = np.empty((bands, len(ids)), np.uint64), 0
    for batch in part.beside.batches(["doc_id", "signature"]):
        end = start + batch.num_rows
        assert ids.slice(start, batch.num_rows).combine_chunks().equals(batch.column("doc_id")), "signatures are of other documents"
        keys[:, start:end] = band_keys(_matrix(batch, part.cfg.num_perm), scopes[start:end], bands, rows)
        start = end
    return part.files.write(part.number, keys)


def _matrix(batch: pa.RecordBatch, num_perm: int) -> NDArray[np.uint32]:
    """Give a column of signatures as an array, [rows, num_perm]."""
    matrix: NDArray[np.uint32] = batch.column("signature").flatten().to_numpy().reshape(-1, num_perm)
    return matrix


def _scopes(docs: Docs, scope: Literal["language", "global"]) -> NDArray[np.uint64]:
    """Number the documents' scopes: by a hash, so that the number does not depend on what else a part holds."""
    import hashlib

    import numpy as np

    if scope == "global":
        return np.zeros(docs.num_rows, np.uint64)
    encoded = docs.read(["language"]).column("language").combine_chunks().dictionary_encode("encode")  # no language is one too
    digests = [hashlib.blake2b(repr(name).encode(), digest_size=8).digest() for name in encoded.dictionary.to_pylist()]
    numbers: NDArray[np.uint64] = np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)[encoded.indices.to_numpy()]
    return numbers


def _gather_signatures(work: Work[NearDedup], nodes: NDArray[np.int64]) -> None:
    """Put the signatures of nodes (ascending) where all can compare with them, in that order."""
    import numpy as np

    num_nodes, matrix = len(nodes), (np.uint32, len(nodes), work.parts[0].cfg.num_perm)
    signed = work.files.arrays.make(Signed, nodes=(np.int64, num_nodes), signatures=matrix, scopes=(np.uint64, num_nodes))
    signed.nodes[:] = nodes
    work.mapper(_gather_signatures_of, work.parts)


def _gather_signatures_of(part: Part[NearDedup]) -> None:
    import numpy as np

    signed, rows = part.arrays.get(Signed, writable=True), part.arrays.get(Nodes).rows
    low, high = np.searchsorted(signed.nodes, part.nodes())
    wanted = rows[signed.nodes[low:high]] - part.first_row
    signed.scopes[low:high] = _scopes(part.docs, part.cfg.scope)[wanted]
    for batch, first, last, start in _batches(part, wanted):
        signed.signatures[low + first : low + last] = batch[wanted[first:last] - start]


def _batches(part: Part[NearDedup], rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.uint32], int, int, int]]:
    """Stream a part's signatures beside the rows that are wanted.

    Yields:
        signatures of a batch, [n, num_perm]; first and last, so that `rows[first:last]` are in it; the row that it begins with.
    """
    import numpy as np

    assert part.beside is not None
    start = 0
    for batch in part.beside.batches(["signature"]):
        first, last = np.searchsorted(rows, (start, start + batch.num_rows))
        yield _matrix(batch, part.cfg.num_perm), int(first), int(last), start
        start += batch.num_rows


def _gather_sets(work: Work[NearDedup]) -> None:
    """Put the distinct shingles of all nodes into one array."""
    import numpy as np

    arrays, sizes = work.files.arrays, work.mapper(_gather_sets_of, work.parts)
    starts = np.append(0, np.cumsum(np.concatenate(sizes)))
    sets, begin = arrays.make(Sets, starts=(np.int64, len(starts)), hashes=(np.uint64, int(starts[-1]))), 0
    sets.starts[:] = starts
    for part, of_part in zip(work.parts, sizes, strict=True):
        end = begin + int(of_part.sum())
        sets.hashes[begin:end] = arrays.open(f"sets-{part.number}")
        arrays.path(f"sets-{part.number}").unlink()
        begin = end


def _gather_sets_of(part: Part[NearDedup]) -> NDArray[np.int64]:
    """Write the distinct shingles of each node of a part; gives their numbers."""
    import numpy as np
    import pyarrow as pa

    from starloom.tasks.kernels.duplicates.minhash import shingle_sets
    from starloom.tasks.kernels.text.arrow_bytes import string_buffers

    rows, sizes, sets, start = part.rows(), [np.empty(0, np.int64)], [np.empty(0, np.uint64)], 0
    for batch in part.docs.batches(["content"], rows=1024):
        first, last = np.searchsorted(rows, (start, start + batch.num_rows))
        texts = batch.column("content").take(pa.array(rows[first:last] - start))
        starts, hashes = shingle_sets(*string_buffers(texts), ngram=part.cfg.ngram, words=part.cfg.words)
        sizes.append(np.diff(starts))
        sets.append(hashes)
        start += batch.num_rows
    part.arrays.save(f"sets-{part.number}", np.concatenate(sets))
    return np.concatenate(sizes)


def _verified(work: Work[NearDedup], on_band: Callable[[int], None]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Connect only similar documents: for each node the first of its component; and for whom it goes, if not for the best of that."""
    import numpy as np

    from starloom.tasks.kernels.duplicates import connecting, linking, lsh, union_find
    from starloom.tasks.kernels.duplicates.thinning import thin

    cfg, arrays = work.parts[0].cfg, work.files.arrays
    signed, is_exact = arrays.get(Signed), cfg.verify == "exact"
    if is_exact:
        sets = arrays.get(Sets)
        identities = lsh.set_keys(sets.starts, sets.hashes, signed.scopes)
    else:
        (identities,) = lsh.band_keys(signed.signatures, signed.scopes, 1, cfg.num_perm)
    num_nodes = len(identities)
    parent = arrays.make(NodeParents, parents=(union_find.width(num_nodes), num_nodes)).parents
    union_find.part(parent)
    union_find.unite(parent, linking.link_trusting(parent.copy(), *lsh.buckets(identities)))
    union_find.compress(parent)
    copies = parent.astype(np.int64)
    arrays.put(Distinct(identities, copies == np.arange(num_nodes)))
    evidence = connecting.Evidence(cfg.threshold, is_exact, cfg.banding())
    connecting.connect(work.files, NodeParents, work.mapper, evidence=evidence, on_band=on_band)
    groups: NDArray[np.int64] = parent.astype(np.int64)
    if cfg.clusters == "components":
        return groups, None
    return groups, thin(arrays, groups, copies, work.mapper, evidence=evidence, policy=cfg.policy())


def _judge(part: Part[NearDedup]) -> tuple[Verdicts, Clusters]:
    return judged(part, "near-duplicate", part.cfg.threshold, _exact if part.cfg.verify == "exact" else _estimated)


def _estimated(part: Part[NearDedup], nodes: NDArray[np.int64], partners: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimate how alike nodes and their partners are, from the part's signatures and those that were gathered."""
    import numpy as np

    from starloom.tasks.kernels.duplicates.minhash import estimated_jaccard

    signed = part.arrays.get(Signed)
    slots = np.searchsorted(signed.nodes, partners)
    rows, estimates = part.arrays.get(Nodes).rows[nodes] - part.first_row, np.empty(len(nodes))
    for batch, first, last, start in _batches(part, rows):
        both = np.concatenate([batch[rows[first:last] - start], signed.signatures[slots[first:last]]])
        itself = np.arange(last - first)
        estimates[first:last] = estimated_jaccard(both, itself, itself + last - first)
    return estimates


def _exact(part: Part[NearDedup], nodes: NDArray[np.int64], partners: NDArray[np.int64]) -> NDArray[np.float64]:
    from starloom.tasks.kernels.duplicates.linking import jaccard

    sets = part.arrays.get(Sets)
    found: NDArray[np.float64] = jaccard(sets.starts, sets.hashes, nodes, partners)
    return found
