"""From keys that documents share to clusters, survivors and verdicts: what the deduplicating stages have in common.

A stage writes keys of its documents, band by band; whoever shares one is connected. From then on only documents that
are connected with another are looked at. They are numbered anew, in the order of the corpus: nodes. What is known of
nodes lies in arrays with a row each, which all workers map from files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from starloom.tasks.frame.stage import Config, Runtime, RuntimeOnly
from starloom.tasks.schemas import Clusters, Docs, Licenses, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.lineage.views import Tabular
    from starloom.tasks.kernels.duplicates.array_files import ArrayFiles
    from starloom.tasks.kernels.duplicates.band_files import BandFiles
    from starloom.tasks.kernels.duplicates.connecting import Mapper

    Jaccard = Callable[["Part", NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]

Preference = Literal[
    "license_class asc",
    "stars desc",
    "stars asc",
    "forks desc",
    "forks asc",
    "committed_at desc",
    "committed_at asc",
    "visited_at desc",
    "visited_at asc",
    "size desc",
    "size asc",
]
"""A column and the direction that wins, as in SQL's ORDER BY."""

FEW_DOCUMENTS = 50_000
"""So many are decided in this process before others could be woken."""


class Election(Config):
    """Knobs of who stays of a cluster."""

    survivor: tuple[Preference, ...] = ("license_class asc", "stars desc", "forks desc", "committed_at desc", "visited_at desc")
    """Which of a cluster stays: the first preference that tells two apart; a missing value loses; at last the smaller doc_id wins."""
    license_conflicts: Literal["report", "strictest"] = "report"
    """What becomes of a cluster whose members are of different licence classes: it is reported, or also dropped as a whole."""
    memory_bytes: RuntimeOnly[int] = Field(default=1 << 30, ge=1 << 20)
    """Memory that a worker may take to look for candidates; with less, it looks at smaller ranges of keys at a time."""


@dataclass(frozen=True)
class Part:
    """One part of the corpus, as a worker is given it."""

    number: int
    docs: Docs
    licenses: Licenses | None
    beside: Tabular | None
    """What the stage reads beside the documents."""
    cfg: Any
    files: BandFiles

    @property
    def arrays(self) -> ArrayFiles:
        """What is known of nodes."""
        return self.files.arrays

    @property
    def first_row(self) -> int:
        """The number of its first document in the corpus."""
        return self.files.first_rows[self.number]

    def nodes(self) -> tuple[int, int]:
        """Give its first node, and the first of the next part."""
        import numpy as np

        low, high = np.searchsorted(self.arrays.open("rows"), self.files.first_rows[self.number : self.number + 2])
        return int(low), int(high)

    def rows(self) -> NDArray[np.int64]:
        """Give the rows of its nodes, counted in the part."""
        low, high = self.nodes()
        rows: NDArray[np.int64] = self.arrays.open("rows")[low:high] - self.first_row
        return rows


@dataclass(frozen=True)
class Work:
    """A corpus laid out in an empty folder."""

    parts: list[Part]
    files: BandFiles
    is_small: bool
    mapper: Mapper


def lay_out(docs: Docs, licenses: Licenses | None, beside: Tabular | None, cfg: Election, num_bands: int, runtime: Runtime) -> Work:
    """Cut the work into parts."""
    import numpy as np

    from starloom.tasks.kernels.duplicates.band_files import BandFiles, ranges_for

    folder = runtime.scratch / "bands"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    folder.mkdir()
    first_rows = np.cumsum([0, *(part.num_rows for part in (docs if beside is None else beside).parts)]).tolist()
    is_small = first_rows[-1] <= FEW_DOCUMENTS
    ranges = ranges_for(first_rows[-1], cfg.memory_bytes, 1 if is_small else runtime.workers)
    files = BandFiles(folder, num_bands, ranges, tuple(first_rows))
    alone = [None] * len(docs.parts)
    triples = zip(docs.parts, licenses.parts if licenses else alone, beside.parts if beside else alone, strict=True)
    parts = [Part(i, *triple, cfg, files) for i, triple in enumerate(triples)]
    return Work(parts, files, is_small, _here if is_small else runtime.map)


def _here(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    return [function(item) for item in items]


def connect(work: Work, write_keys: Callable[[Part], NDArray[np.int64]], on_band: Callable[[int], None]) -> NDArray[np.int64]:
    """Connect whoever shares a key, and collect what an election needs of them: nodes.

    Args:
        work: laid out anew.
        write_keys: writes the keys of a part to its files; a function of a module.
        on_band: is told how many bands are done.

    Returns:
        For each node the first of its component.
    """
    import numpy as np

    from starloom.tasks.kernels.duplicates import connecting, survivor, union_find

    files, cfg = work.files, work.parts[0].cfg
    files.seal(work.mapper(write_keys, work.parts))
    parent = files.arrays.create("parents", union_find.width(files.num_rows), files.num_rows)
    union_find.part(parent)
    connecting.connect(files, "parents", work.mapper, on_band=on_band)
    rows = union_find.in_company(parent)
    files.arrays.save("rows", rows)
    files.arrays.create("ranks", np.uint64, len(rows), survivor.num_lanes(cfg.survivor))
    files.arrays.create("classes", np.uint8, len(rows))
    work.mapper(_gather, work.parts)
    groups: NDArray[np.int64] = np.searchsorted(rows, parent[rows])
    return groups


def _gather(part: Part) -> None:
    """Rank the nodes of a part."""
    import pyarrow as pa

    from starloom.tasks.kernels.duplicates import survivor

    low, high = part.nodes()
    named = [name for name in survivor.columns(part.cfg.survivor) if name != "license_class"]
    documents = part.docs.read(named).take(pa.array(part.rows()))
    documents = documents.append_column("license_class", _license_classes(part.licenses, documents.column("doc_id")))
    part.arrays.open("ranks", writable=True)[low:high] = survivor.rank(documents, part.cfg.survivor)
    part.arrays.open("classes", writable=True)[low:high] = survivor.class_numbers(documents.column("license_class"))


def _license_classes(licenses: Licenses | None, doc_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Look up the licence class of documents; null where none was told."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if licenses is None:
        return pa.chunked_array([pa.nulls(len(doc_ids), pa.string())])
    table = licenses.read(["doc_id", "license_class"])
    return table.column("license_class").take(pc.index_in(doc_ids, table.column("doc_id").combine_chunks()))


def elect(work: Work, groups: NDArray[np.int64], runtime: Runtime) -> None:
    """Elect the survivors: the arrays `survivors` and `rivals`, and in `conflicts` whose clusters' licences differ.

    Args:
        work: whose nodes are connected.
        groups: for each node the first of its component.
        runtime: takes the figures of the report.
    """
    import numpy as np

    from starloom.tasks.kernels.duplicates import survivor

    arrays, itself = work.files.arrays, np.arange(len(groups))
    survivors, rivals = survivor.elect(groups, arrays.open("ranks"))
    has_conflict = survivor.disagree(groups, arrays.open("classes"))
    for name, array in [("survivors", survivors), ("rivals", rivals), ("conflicts", has_conflict)]:
        arrays.save(name, array)
    is_cluster = (groups == itself) & (rivals[survivors] != survivors)
    runtime.note(
        documents_that_collide=len(groups),
        duplicates=int(np.count_nonzero(groups != itself)),
        clusters=int(np.count_nonzero(is_cluster)),
        clusters_with_license_conflict=int(np.count_nonzero(is_cluster & has_conflict)),
    )


def judge(work: Work, judge_part: Callable[[Part], tuple[Verdicts, Clusters]]) -> tuple[Verdicts, Clusters]:
    """Judge every part, by a function of a module that calls `judged`."""
    done = work.mapper(judge_part if work.is_small else _IntoFiles(judge_part), work.parts)
    return Verdicts.join([verdicts for verdicts, _ in done]), Clusters([clusters.sources[0] for _, clusters in done])


@dataclass(frozen=True)
class _IntoFiles:
    """Judges a part and leaves the tables on disk, where those of the others need no memory."""

    judge: Callable[[Part], tuple[Verdicts, Clusters]]

    def __call__(self, part: Part) -> tuple[Verdicts, Clusters]:
        folder = part.files.folder / f"part-{part.number:05}"
        folder.mkdir()
        verdicts, clusters = self.judge(part)
        return Verdicts.in_files(verdicts.local_paths(folder)), Clusters.in_files(clusters.local_paths(folder))


def judged(part: Part, rule: str, threshold: float | None, jaccard: Jaccard | None) -> tuple[Verdicts, Clusters]:
    """Give the verdicts and cluster members of one part.

    Args:
        part: of a work whose survivors are elected.
        rule: that drops a duplicate.
        threshold: of the similarity.
        jaccard: compares nodes with their survivors; None where they are equal.
    """
    import numpy as np
    import pyarrow as pa

    low, high = part.nodes()
    nodes = np.arange(low, high)
    survivors, rivals = (part.arrays.open(name)[low:high] for name in ("survivors", "rivals"))
    is_member = (survivors != nodes) | (rivals != nodes)
    nodes, survivors, rivals = nodes[is_member], survivors[is_member], rivals[is_member]
    similarity = pa.array(np.ones(len(nodes)) if jaccard is None else jaccard(part, nodes, survivors))
    rows = part.rows()[is_member]
    members = _members(part, rows, nodes, survivors, rivals).append_column("jaccard", similarity)
    return _verdicts(part, members, rows, rule, threshold), Clusters.of(members)


def _members(
    part: Part, rows: NDArray[np.int64], nodes: NDArray[np.int64], survivors: NDArray[np.int64], rivals: NDArray[np.int64]
) -> pa.Table:
    """Describe the members of clusters that lie in one part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.duplicates import survivor

    ranks, has_conflict = part.arrays.open("ranks"), pa.array(part.arrays.open("conflicts")[nodes])
    winners = ranks[survivors]
    reasons, is_survivor = survivor.reasons(winners, ranks[rivals], part.cfg.survivor), pa.array(survivors == nodes)
    if part.cfg.license_conflicts == "strictest":
        reasons = pc.if_else(has_conflict, "none stays: licence classes differ", reasons)
        is_survivor = pc.and_not(is_survivor, has_conflict)
    columns = part.docs.read(["doc_id", "repo", "path"]).take(pa.array(rows))
    described = {
        "cluster_id": survivor.doc_ids(winners),
        "is_survivor": is_survivor,
        "reason": reasons,
        "license_class": survivor.class_names(part.arrays.open("classes")[nodes]),
        "has_license_conflict": has_conflict,
    }
    for name, column in described.items():
        columns = columns.append_column(name, column)
    return columns


def _verdicts(part: Part, members: pa.Table, rows: NDArray[np.int64], rule: str, threshold: float | None) -> Verdicts:
    """Judge one part, whose cluster members are at `rows`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    slots = np.full(part.docs.num_rows, -1, np.int64)
    slots[rows] = np.arange(len(rows))
    member = members.take(pa.array(slots, mask=slots < 0))
    is_dropped = pc.fill_null(pc.invert(member.column("is_survivor")), fill_value=False)
    missing = pa.scalar(None)
    drops: Any = rule
    if part.cfg.license_conflicts == "strictest":
        drops = pc.if_else(member.column("has_license_conflict"), "license-conflict", rule)
    has_value = is_dropped if threshold is not None else pc.and_(is_dropped, False)  # noqa: FBT003
    return part.docs.verdicts(
        pc.invert(is_dropped),
        rule=pc.if_else(member.column("is_survivor"), "survivor", drops),  # null where no member
        value=pc.if_else(has_value, member.column("jaccard"), missing),
        # Only what is dropped names the threshold: parts without duplicates keep their bytes when it moves.
        threshold=pc.if_else(has_value, pa.scalar(threshold, pa.float64()), missing),
        detail=pc.if_else(is_dropped, member.column("cluster_id"), missing),
    )
