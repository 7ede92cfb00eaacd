"""Near-deduplication, from Parquet files to what is dropped, on two cores: 5-grams, Jaccard 0.7, one scope.

Every tool reads the same eight files, written beforehand, and ends with the ids of the documents it drops. Ours signs
part by part in two warm worker processes, writes the signatures to disk, and decides from there, as a run does.
Libraries that only sketch (datasketch, rensa) get the same two processes, and shingles made in Python the fastest way
we know. Programs (datatrove, text-dedup, data-prep-kit) are set up as their authors do, save that what they do beyond
a verdict is left out where they let us; each says in its driver (`bench/_peer_NAME.py`) how. They normalise words in
ways of their own, so what they drop differs; `near_dedup_quality` tells who is right.
"""

from __future__ import annotations

import functools
import itertools
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from starloom.bench._peer import Environment
from starloom.bench._tool import Corpus, Dropped, Tool
from starloom.tasks.frame.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

TITLE = "near-duplicates by MinHash and LSH: Parquet files to verdicts, two cores"
MEGABYTES = 60.0

NUM_PARTS, NUM_WORKERS = 8, 2
THRESHOLD, NUM_PERM, NGRAM, SEED = 0.7, 256, 5, 42
RENSA_BANDS = 32
"""rensa's best setting: it has no optimum of its own, and its default of 16 finds half as many."""
SEPARATOR = re.compile("[^A-Za-z_0-9]")


@dataclass(frozen=True)
class PartFiles:
    """The corpus on disk."""

    docs: tuple[str, ...]
    """Parts of Docs, as a run writes them."""
    texts: Path
    """A folder of the same parts for peers: int_id_column, id and text."""
    folder: Path
    """Where a tool may write."""


def part_files(corpus: Corpus, folder: Path) -> PartFiles:
    """Write the corpus as parts of about the same number of bytes."""
    import pyarrow as pa

    from starloom.lineage import parquet
    from starloom.tasks.schemas import Docs

    texts = folder / "texts"
    texts.mkdir()
    docs = []
    for number, (start, stop) in enumerate(_parts(corpus.table)):
        part = corpus.table.slice(start, stop - start)
        docs.append(str(folder / f"docs-{number:05}.parquet"))
        parquet.write_table(part, Path(docs[-1]), Docs.ROWS_PER_GROUP)
        columns = {"int_id_column": pa.array(range(start, stop), pa.int64()), "id": part.column("doc_id"), "text": part.column("content")}
        parquet.write_table(pa.table(columns), texts / f"part-{number:05}.parquet", Docs.ROWS_PER_GROUP)
    return PartFiles(tuple(docs), texts, folder)


def _parts(table: pa.Table) -> list[tuple[int, int]]:
    """Return half-open ranges of rows."""
    import numpy as np

    ends = np.cumsum(table.column("size").to_numpy())
    bounds = np.searchsorted(ends, ends[-1] * np.arange(1, NUM_PARTS) / NUM_PARTS)
    cuts = [0, *(int(bound) + 1 for bound in bounds), len(ends)]
    return [(start, stop) for start, stop in itertools.pairwise(cuts) if start < stop]


@functools.cache
def _workers() -> Workers:
    """Return two worker processes, started by the warm-up."""
    return Workers(NUM_WORKERS)


def _ours(parts: PartFiles, verify: Literal["none", "estimated", "exact"]) -> Dropped:
    import pyarrow.compute as pc

    from starloom.lineage.views import PartSource, Stored
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.near_dedup import NearDedup, near_dedup
    from starloom.tasks.schemas import Docs, Signatures

    cfg = NearDedup(threshold=THRESHOLD, num_perm=NUM_PERM, ngram=NGRAM, seed=SEED, scope="global", verify=verify)
    with tempfile.TemporaryDirectory(dir=parts.folder) as folder:
        signed = _workers().map(_sign_part, [(name, f"{folder}/signatures-{i}.parquet", cfg) for i, name in enumerate(parts.docs)])
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        inputs: dict[str, Any] = dict.fromkeys(near_dedup.inputs)  # what is optional is not there
        inputs["docs"] = Docs([PartSource(Stored(None, name)) for name in parts.docs])
        inputs["signatures"] = Signatures([PartSource(Stored(None, name)) for name in signed])
        verdicts, _ = near_dedup.function(**inputs, cfg=cfg, runtime=Runtime(scratch, workers=NUM_WORKERS, mapper=_workers().map))
        table = verdicts.read(["doc_id", "keep"])
        dropped: pa.ChunkedArray = table.filter(pc.invert(table.column("keep"))).column("doc_id")
    return Dropped(tuple(dropped.to_pylist()))


def _sign_part(job: tuple[str, str, Any]) -> str:
    """Write the signatures of a part as a file, in a worker process."""
    from starloom.lineage import parquet
    from starloom.lineage.views import PartSource, Stored
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.near_dedup import near_dedup, signatures
    from starloom.tasks.schemas import Docs, Signatures

    name, target, cfg = job
    docs = Docs([PartSource(Stored(None, name))])
    signed = signatures.function(docs, near_dedup.prepared_config(cfg), Runtime(Path(target).parent))
    parquet.write_table(signed.read(), Path(target), Signatures.ROWS_PER_GROUP)
    return target


def _read(name: str) -> tuple[list[str], Iterator[list[str]]]:
    """Return the ids of a part, and the shingles of each text (bigcode-dataset, minhash_deduplication.py), one after another."""
    import pyarrow.parquet as pq

    table = pq.read_table(name, columns=["doc_id", "content"])
    return table.column("doc_id").to_pylist(), (shingle_list(text) for text in table.column("content").to_pylist())


def shingle_list(text: str) -> list[str]:
    """Return shingles in Python, repeated ones too; a short text is one shingle."""
    words = SEPARATOR.split(text)
    return list(map(" ".join, zip(*(words[i:] for i in range(NGRAM)), strict=False))) or [text]


def _datasketch(parts: PartFiles, *, xxhash: bool = False) -> Dropped:
    """Sketch with `MinHash.generator` in the workers; index, and find connected components, in this process."""
    from datasketch import LeanMinHash, MinHashLSH

    index, components = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM), _Components()
    doc_ids: list[str] = []
    for names, matrix in _workers().map(_datasketch_part, [(name, xxhash) for name in parts.docs]):
        for row, values in enumerate(matrix, start=len(doc_ids)):
            sketch = LeanMinHash(seed=SEED, hashvalues=values, scheme="affine32")
            for other in index.query(sketch):
                components.unite(row, other)
            index.insert(row, sketch, check_duplication=False)
        doc_ids += names
    return Dropped(tuple(name for row, name in enumerate(doc_ids) if components.first(row) != row))


def _datasketch_part(job: tuple[str, bool]) -> tuple[list[str], NDArray[np.uint32]]:
    import numpy as np
    from datasketch import MinHash

    name, xxhash = job
    doc_ids, lists = _read(name)
    sets = ({shingle.encode() for shingle in shingles} for shingles in lists)  # it works on each one given, repeated or not
    hashing: dict[str, Callable[[bytes], int]] = {}
    if xxhash:
        from xxhash import xxh32_intdigest

        hashing["hashfunc"] = xxh32_intdigest
    sketches = MinHash.generator(sets, num_perm=NUM_PERM, seed=SEED, **hashing)
    return doc_ids, np.stack([sketch.hashvalues for sketch in sketches])


class _Components:
    """Union-find that keeps the first row of each component."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def first(self, row: int) -> int:
        while (parent := self._parent.get(row, row)) != row:
            self._parent[row] = self._parent.get(parent, parent)
            row = parent
        return row

    def unite(self, left: int, right: int) -> None:
        low, high = sorted((self.first(left), self.first(right)))
        self._parent[high] = low


def _rensa(parts: PartFiles) -> Dropped:
    """Sketch in the workers, one thread each, and run rensa's own deduplicator over them in this process."""
    from rensa import RMinHashDeduplicator

    index = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=NUM_PERM, use_lsh=True, num_bands=RENSA_BANDS, seed=SEED)
    dropped: list[str] = []
    for doc_ids, sketches in _workers().map(_rensa_part, parts.docs):
        is_new = index.add_pairs(list(zip(doc_ids, sketches, strict=True)))
        dropped += [name for name, added in zip(doc_ids, is_new, strict=True) if not added]
    return Dropped(tuple(dropped))


def _rensa_part(name: str) -> tuple[list[str], list[Any]]:
    from rensa import RMinHash

    doc_ids, shingles = _read(name)
    return doc_ids, RMinHash.from_token_sets(shingles, NUM_PERM, SEED)  # repeated shingles cost it less than sets do


def _asked(environment: Environment, **options: Any) -> Callable[[PartFiles], Dropped]:
    """Run a peer in an environment of its own."""

    def run(parts: PartFiles) -> Dropped:
        with tempfile.TemporaryDirectory(dir=parts.folder) as scratch:
            return Dropped(tuple(environment.ask(texts=str(parts.texts), scratch=scratch, **options)))

    return run


DATATROVE = Environment("datatrove", ("datatrove[io,processing]==0.10.1", "spacy==3.8.18"))
TEXT_DEDUP = Environment("text-dedup", ("text-dedup==0.4.0",))
DATA_PREP_KIT = Environment("data-prep-kit", ("data-prep-toolkit-transforms[fdedup]==1.1.8", "pyarrow<22"))  # newer ones want numpy 2

TOOLS = [
    Tool("starloom, verify: none", functools.partial(_ours, verify="none"), is_ours=True, prepare=part_files),
    Tool("starloom, verify: estimated", functools.partial(_ours, verify="estimated"), prepare=part_files),
    Tool("starloom, verify: exact", functools.partial(_ours, verify="exact"), prepare=part_files),
    Tool(f"rensa, {RENSA_BANDS} bands", _rensa, requires=("rensa",), prepare=part_files),
    Tool("datasketch, sha1", _datasketch, requires=("datasketch",), prepare=part_files),
    Tool("datasketch, xxh32", functools.partial(_datasketch, xxhash=True), requires=("datasketch", "xxhash"), prepare=part_files),
    Tool("datatrove, 14 bands of 8", _asked(DATATROVE, bands=14, rows=8), prepare=part_files, environment=DATATROVE),
    Tool("datatrove, 25 bands of 10", _asked(DATATROVE, bands=25, rows=10), prepare=part_files, environment=DATATROVE),
    Tool("text-dedup", _asked(TEXT_DEDUP), prepare=part_files, environment=TEXT_DEDUP),
    Tool("data-prep-kit, fdedup", _asked(DATA_PREP_KIT), prepare=part_files, environment=DATA_PREP_KIT),
]
