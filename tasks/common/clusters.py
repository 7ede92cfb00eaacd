"""Clusters, survivors and verdicts from shared keys: the common code of the deduplication stages.

A stage writes keys of its documents, band by band; documents that share one are connected. From then on only documents that
are connected with another are read. They are numbered anew, in the order of the corpus: nodes. The facts about
nodes lie in arrays with a row each, which all workers map from files (`kernels/duplicates/workspace.py`).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from starloom.lineage.errors import InputError
from starloom.tasks.frame.stage import Config, Runtime, RuntimeOnly, SourceName
from starloom.tasks.kernels.duplicates.workspace import DocumentParents, Elected, Nodes
from starloom.tasks.schemas import Clusters, Docs, Licenses, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.lineage.views import Tabular
    from starloom.tasks.kernels.duplicates.array_files import ArrayFiles
    from starloom.tasks.kernels.duplicates.band_files import BandFiles
    from starloom.tasks.kernels.duplicates.connecting import Mapper
    from starloom.tasks.kernels.duplicates.survivor import Preference as Ranking

    Jaccard = Callable[["Part[Any]", NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]

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
"""Threshold: below this many documents, no worker process is used, as starting one would take longer."""
ALONE = "resembles none that stays and is preferred to it"
"""Why a member of a cluster stays for which none goes."""
SPARED = "its source is not in drop_from"
SHOWN_LOSERS = 5
"""Names listed in a warning."""


def _listed(value: Any) -> Any:
    """Take one name for a list of one."""
    return [value] if isinstance(value, str) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is named twice")
    return names


Sources = Annotated[tuple[SourceName, ...], BeforeValidator(_listed), AfterValidator(_each_once)]


class SourceOrder(Config):
    """A preference by source."""

    source: Sources = Field(min_length=1)
    """Names of sources, the most preferred first; documents of other sources come after them."""


def _kind(value: Any) -> str:
    return "column" if isinstance(value, str) else "sources"


Rank = Annotated[Annotated[Preference, Tag("column")] | Annotated[SourceOrder, Tag("sources")], Discriminator(_kind)]
"""A preference of a policy."""


class Election(Config):
    """Knobs of the choice of each cluster's survivor."""

    survivor: tuple[Rank, ...] = (
        "license_class asc",
        "stars desc",
        "forks desc",
        "committed_at desc",
        "visited_at desc",
    )
    """Criteria of the survivor: the first that differs decides (`source: [A, B]` prefers A to B and B to all others); a missing
    value loses; on a tie the smaller doc_id wins."""
    keep: Literal["best", "none"] = "best"
    """Keep the best of each cluster of two or more, or `none`."""
    drop_from: Sources = ()
    """Sources whose documents may be dropped; those of all other sources are kept and preferred, whatever the policy. By default all."""
    license_conflicts: Literal["report", "strictest"] = "report"
    """Treatment of a cluster with different licence classes: it is reported, or also dropped as a whole."""
    memory_bytes: RuntimeOnly[int] = Field(default=1 << 30, ge=1 << 20)
    """Memory of a worker process for candidate search; with less, it reads smaller ranges of keys at a time."""

    def policy(self) -> tuple[Ranking, ...]:
        """Return the criteria by which documents are ranked, the most important first."""
        from starloom.tasks.kernels.duplicates.survivor import BySource, Spared

        named = tuple(BySource(each.source) if isinstance(each, SourceOrder) else each for each in self.survivor)
        return (Spared(self.drop_from), *named) if self.drop_from else named


C = TypeVar("C", bound=Election)


@dataclass(frozen=True)
class Part(Generic[C]):
    """One part of the corpus, as a worker is given it."""

    number: int
    docs: Docs
    licenses: Licenses | None
    beside: Tabular | None
    """Other inputs of the stage."""
    cfg: C
    files: BandFiles

    @property
    def arrays(self) -> ArrayFiles:
        """The arrays of nodes."""
        return self.files.arrays

    @property
    def first_row(self) -> int:
        """The number of its first document in the corpus."""
        return self.files.first_rows[self.number]

    def nodes(self) -> tuple[int, int]:
        """Return its first node, and the first of the next part."""
        import numpy as np

        low, high = np.searchsorted(self.arrays.get(Nodes).rows, self.files.first_rows[self.number : self.number + 2])
        return int(low), int(high)

    def rows(self) -> NDArray[np.int64]:
        """Return the rows of its nodes, counted in the part."""
        low, high = self.nodes()
        rows: NDArray[np.int64] = self.arrays.get(Nodes).rows[low:high] - self.first_row
        return rows


@dataclass(frozen=True)
class Work(Generic[C]):
    """A corpus laid out in an empty folder."""

    parts: list[Part[C]]
    files: BandFiles
    is_small: bool
    mapper: Mapper


def lay_out(docs: Docs, licenses: Licenses | None, beside: Tabular | None, cfg: C, num_bands: int, runtime: Runtime) -> Work[C]:
    """Cut the work into parts."""
    import numpy as np

    from starloom.tasks.kernels.duplicates.band_files import BandFiles, ranges_for

    warn(runtime, absent_sources(docs, cfg))
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


def connect(work: Work[C], write_keys: Callable[[Part[C]], NDArray[np.int64]], on_band: Callable[[int], None]) -> NDArray[np.int64]:
    """Connect documents that share a key, and collect what an election needs of them: nodes.

    Args:
        work: laid out anew.
        write_keys: writes the keys of a part to its files; a function of a module.
        on_band: is told how many bands are done.

    Returns:
        For each node the first of its component.

    Raises:
        InputError: if two nodes are of one doc_id.
    """
    import numpy as np

    from starloom.tasks.kernels.duplicates import connecting, survivor, union_find

    files, policy = work.files, work.parts[0].cfg.policy()
    files.seal(work.mapper(write_keys, work.parts))
    documents = files.arrays.make(DocumentParents, parents=(union_find.width(files.num_rows), files.num_rows))
    union_find.part(documents.parents)
    connecting.connect(files, DocumentParents, work.mapper, on_band=on_band)
    rows = union_find.connected_nodes(documents.parents)
    ranks, classes = (np.uint64, len(rows), survivor.num_lanes(policy)), (np.uint8, len(rows))
    nodes = files.arrays.make(Nodes, rows=(np.int64, len(rows)), ranks=ranks, classes=classes)
    nodes.rows[:] = rows
    work.mapper(_gather, work.parts)
    twice = survivor.repeated_id(nodes.ranks)
    if twice is not None:
        raise InputError(
            f"two documents have the doc_id {twice!r}: one would be both kept and dropped",
            hint="give each document an id of its own",
        )
    groups: NDArray[np.int64] = np.searchsorted(rows, documents.parents[rows])
    return groups


def _gather(part: Part[Any]) -> None:
    """Rank the nodes of a part."""
    import pyarrow as pa

    from starloom.tasks.kernels.duplicates import survivor

    (low, high), policy, nodes = part.nodes(), part.cfg.policy(), part.arrays.get(Nodes, writable=True)
    named = [name for name in survivor.columns(policy) if name != "license_class"]
    documents = part.docs.read(named).take(pa.array(part.rows()))
    documents = documents.append_column("license_class", _license_classes(part.licenses, documents.column("doc_id")))
    nodes.ranks[low:high] = survivor.rank(documents, policy)
    nodes.classes[low:high] = survivor.class_numbers(documents.column("license_class"))


def _license_classes(licenses: Licenses | None, doc_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Look up the licence class of documents; null where it is unknown."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if licenses is None:
        return pa.chunked_array([pa.nulls(len(doc_ids), pa.string())])
    table = licenses.read(["doc_id", "license_class"])
    return table.column("license_class").take(pc.index_in(doc_ids, table.column("doc_id").combine_chunks()))


def elect(work: Work[Any], groups: NDArray[np.int64], runtime: Runtime, keepers: NDArray[np.int64] | None = None) -> None:
    """Elect the survivors.

    Args:
        work: whose nodes are connected.
        groups: for each node the first of its component: its cluster.
        runtime: takes the figures of the report.
        keepers: for each node the one for which it goes; by default the best of its cluster. What the policy spares stays in any case.
    """
    import numpy as np

    from starloom.tasks.kernels.duplicates import survivor

    arrays, itself, cfg = work.files.arrays, np.arange(len(groups)), work.parts[0].cfg
    nodes = arrays.get(Nodes)
    heads, seconds = survivor.elect(groups, nodes.ranks)
    is_member = (heads != itself) | (seconds != itself)
    is_spared = survivor.are_spared(nodes.ranks, cfg.policy())
    survivors, rivals = heads, seconds
    if keepers is not None or is_spared.any():
        survivors, rivals = survivor.elect(np.where(is_spared, itself, heads if keepers is None else keepers), nodes.ranks)
    has_conflict = survivor.disagree(groups, nodes.classes)
    arrays.put(Elected(heads, survivors, rivals, is_member, has_conflict))
    is_cluster, goes = (groups == itself) & is_member, survivors != itself if cfg.keep == "best" else is_member & ~is_spared
    runtime.note(
        documents_that_collide=len(groups),
        duplicates=int(np.count_nonzero(goes)),
        clusters=int(np.count_nonzero(is_cluster)),
        clusters_with_license_conflict=int(np.count_nonzero(is_cluster & has_conflict)),
    )


@dataclass(frozen=True)
class _Judged:
    verdicts: Verdicts
    clusters: Clusters
    losses: dict[str, list[tuple[str, int, int]]]
    """Source, repository, language → name, documents, of them dropped."""


def judge(work: Work[C], judge_part: Callable[[Part[C]], tuple[Verdicts, Clusters]], runtime: Runtime) -> tuple[Verdicts, Clusters]:
    """Judge every part, by a function of a module that calls `judged`, and warn of each group that loses more than half."""
    done = work.mapper(_Judge(judge_part, in_memory=work.is_small), work.parts)
    warn(runtime, losing(each.losses for each in done))
    return Verdicts.join([each.verdicts for each in done]), Clusters([each.clusters.sources[0] for each in done])


@dataclass(frozen=True)
class _Judge(Generic[C]):
    """A judge of parts; unless in memory, it leaves the tables on disk, where those of the others need none."""

    judge: Callable[[Part[C]], tuple[Verdicts, Clusters]]
    in_memory: bool

    def __call__(self, part: Part[C]) -> _Judged:
        verdicts, clusters = self.judge(part)
        losses = _losses(part.docs, verdicts)
        if self.in_memory:
            return _Judged(verdicts, clusters, losses)
        folder = part.files.folder / f"part-{part.number:05}"
        folder.mkdir()
        return _Judged(Verdicts.in_files(verdicts.local_paths(folder)), Clusters.in_files(clusters.local_paths(folder)), losses)


def _losses(docs: Docs, verdicts: Verdicts) -> dict[str, list[tuple[str, int, int]]]:
    """Count by source, repository and language; of repositories, each of which is in one part, those that lose more than half."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = docs.read(["source", "repo", "language"])
    keep = verdicts.read(["keep"]).column("keep").drop_null()
    repositories = pc.binary_join_element_wise(table.column("source"), table.column("repo"), "/")
    names = {
        "source": table.column("source"),
        "repository": repositories,
        "language": pc.fill_null(table.column("language"), "no language"),
    }
    found = {}
    for kind, column in names.items():
        counted = pa.table({"name": column, "kept": keep.cast(pa.int64())}).group_by("name").aggregate([("kept", "count"), ("kept", "sum")])
        seen, kept = counted.column("kept_count"), counted.column("kept_sum")
        counted = counted.append_column("dropped", pc.subtract(seen, kept))
        if kind == "repository":
            counted = counted.filter(pc.greater(pc.multiply(counted.column("dropped"), 2), seen))
        found[kind] = list(zip(*(counted.column(name).to_pylist() for name in ("name", "kept_count", "dropped")), strict=True))
    return found


def absent_sources(docs: Docs, cfg: Election) -> list[str]:
    """Return warnings about sources that the knobs name and no document has: dropped before, or a wrong name."""
    import pyarrow.compute as pc

    named = dict.fromkeys(cfg.named_sources())
    if not named:
        return []
    found = {name for part in docs.parts for name in pc.unique(part.read(["source"]).column("source")).to_pylist()}
    return [f"no document has the source {name!r}, which survivor or drop_from names" for name in named if name not in found]


def losing(parts: Iterable[dict[str, list[tuple[str, int, int]]]]) -> list[str]:
    """Return warnings about sources, repositories and languages that lose more than half of their documents, the largest by name."""
    totals: dict[str, dict[str, tuple[int, int]]] = {"source": {}, "repository": {}, "language": {}}
    for losses in parts:
        for kind, counted in losses.items():
            for name, seen, dropped in counted:
                before = totals[kind].get(name, (0, 0))
                totals[kind][name] = (before[0] + seen, before[1] + dropped)
    told = []
    for (kind, counts), plural in zip(totals.items(), ("sources", "repositories", "languages"), strict=True):
        losers = sorted((-dropped, name, seen) for name, (seen, dropped) in counts.items() if 2 * dropped > seen)
        shown = ", ".join(f"{name} ({-lost:,} of {seen:,})" for lost, name, seen in losers[:SHOWN_LOSERS])
        if losers:
            who = f"a {kind} loses" if len(losers) == 1 else f"{len(losers):,} {plural} lose"
            told.append(f"{who} more than half of the documents: {shown}" + (" …" if len(losers) > SHOWN_LOSERS else ""))
    return told


def warn(runtime: Runtime, sentences: list[str]) -> None:
    """Add warnings to the record of the step, after those that are there."""
    if sentences:
        runtime.note(warnings=[*runtime.notes.get("warnings", []), *sentences])


def judged(part: Part[C], rule: str, threshold: float | None, jaccard: Jaccard | None) -> tuple[Verdicts, Clusters]:
    """Return the verdicts and cluster members of one part.

    Args:
        part: of a work whose survivors are elected.
        rule: that drops a duplicate.
        threshold: of the similarity.
        jaccard: compares nodes with those for which they go; None where they are equal.
    """
    import numpy as np
    import pyarrow as pa

    (low, high), elected = part.nodes(), part.arrays.get(Elected)
    is_member = elected.is_member[low:high]
    nodes = np.arange(low, high)[is_member]
    partners = _partners(part, nodes)
    similarity = pa.array(np.ones(len(nodes)) if jaccard is None else jaccard(part, nodes, partners))
    rows = part.rows()[is_member]
    members = _members(part, rows, nodes).append_column("jaccard", similarity)
    return _verdicts(part, members, rows, nodes, partners, rule, threshold), Clusters.of(members)


def _stays(part: Part[C], nodes: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which members are kept, and whose clusters are dropped for their licences."""
    import numpy as np

    from starloom.tasks.kernels.duplicates import survivor

    elected = part.arrays.get(Elected)
    is_quarantined = elected.has_conflict[nodes] if part.cfg.license_conflicts == "strictest" else np.zeros(len(nodes), np.bool_)
    is_best = elected.survivors[nodes] == nodes if part.cfg.keep == "best" else np.zeros(len(nodes), np.bool_)
    is_spared = survivor.are_spared(part.arrays.get(Nodes).ranks[nodes], part.cfg.policy())
    return is_spared | is_best & ~is_quarantined, is_quarantined & ~is_spared


def _partners(part: Part[C], nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the member that each is compared with: the one kept for it; where none is kept, the best with the runner-up."""
    import numpy as np

    elected = part.arrays.get(Elected)
    stays, is_quarantined = _stays(part, nodes)
    goes_alone = ~stays & ~is_quarantined & (elected.survivors[nodes] == nodes)
    partners: NDArray[np.int64] = np.where(goes_alone, elected.rivals[nodes], elected.survivors[nodes])
    return partners


def _members(part: Part[C], rows: NDArray[np.int64], nodes: NDArray[np.int64]) -> pa.Table:
    """Describe the members of clusters that lie in one part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.duplicates import survivor

    known, elected = part.arrays.get(Nodes), part.arrays.get(Elected)
    survivors, rivals = elected.survivors[nodes], elected.rivals[nodes]
    stays, is_quarantined = _stays(part, nodes)
    policy = part.cfg.policy()
    is_spared, goes_for_spared = (survivor.are_spared(known.ranks[each], policy) for each in (nodes, survivors))
    reasons = survivor.reasons(known.ranks[survivors], known.ranks[rivals], policy)
    reasons = pc.if_else(pa.array((survivors == nodes) & (rivals == nodes)), ALONE, reasons)
    reasons = pc.if_else(pa.array(is_spared & (rivals == nodes)), SPARED, reasons)
    if part.cfg.keep == "none":
        reasons = pc.if_else(pa.array(goes_for_spared), reasons, "none stays: keep is none")
    reasons = pc.if_else(pa.array(is_quarantined), "none stays: licence classes differ", reasons)
    columns = part.docs.read(["doc_id", "repo", "path"]).take(pa.array(rows))
    described = {
        "cluster_id": survivor.doc_ids(known.ranks[elected.heads[nodes]]),
        "is_survivor": pa.array(stays),
        "reason": reasons,
        "license_class": survivor.class_names(known.classes[nodes]),
        "has_license_conflict": pa.array(elected.has_conflict[nodes]),
    }
    for name, column in described.items():
        columns = columns.append_column(name, column)
    return columns


def _verdicts(
    part: Part[C],
    members: pa.Table,
    rows: NDArray[np.int64],
    nodes: NDArray[np.int64],
    partners: NDArray[np.int64],
    rule: str,
    threshold: float | None,
) -> Verdicts:
    """Judge one part, whose cluster members are at `rows`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.duplicates import survivor

    is_quarantined = pa.array(_stays(part, nodes)[1])
    partner_ids = survivor.doc_ids(part.arrays.get(Nodes).ranks[partners])
    # Whoever goes for the licences of all goes for nobody's sake: the cluster is named.
    members = members.append_column("named", pc.if_else(is_quarantined, members.column("cluster_id"), partner_ids))
    members = members.append_column("rule", pc.if_else(is_quarantined, "license-conflict", rule))
    slots = np.full(part.docs.num_rows, -1, np.int64)
    slots[rows] = np.arange(len(rows))
    member = members.take(pa.array(slots, mask=slots < 0))
    is_dropped = pc.fill_null(pc.invert(member.column("is_survivor")), fill_value=False)
    missing = pa.scalar(None)
    has_value = is_dropped if threshold is not None else pc.and_(is_dropped, False)  # noqa: FBT003
    return part.docs.verdicts(
        pc.invert(is_dropped),
        rule=pc.if_else(member.column("is_survivor"), "survivor", member.column("rule")),  # null where no member
        value=pc.if_else(has_value, member.column("jaccard"), missing),
        # Only what is dropped names the threshold: parts without duplicates keep their bytes when it moves.
        threshold=pc.if_else(has_value, pa.scalar(threshold, pa.float64()), missing),
        detail=pc.if_else(is_dropped, member.column("named"), missing),
    )
