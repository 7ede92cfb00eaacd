"""Drop files whose content is, byte for byte, that of a better-placed file, with the cluster as evidence.

The content's identity (`swhid`, a git blob hash) is compared, over the whole corpus; no text is read.

Reads   Docs      doc_id, swhid, source, repo, path, language, and the columns that the policy names (stars, forks, committed_at …)
        Licenses  license_class, where a step above judged it
Writes  Verdicts  dropped: rule = exact-duplicate or license-conflict, detail = the survivor's doc_id;
                  a kept member of a cluster: rule = survivor
        Clusters  every member of a cluster of two or more, with the reason why the survivor was preferred to it
Warns   of sources, repositories and languages that lose more than half of their documents

Memory: `memory_bytes` a worker to find equal contents; in all 4 bytes a document, and 100 for each that has a copy; what
else is known of those is mapped from files, and paged as the system can. Disk: 12 bytes a document; 8 for each preference, and 70, for
each that has a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.tasks.common.clusters import Election, Part, Work, connect, elect, judge, judged, lay_out
from starloom.tasks.frame.stage import Runtime, stage
from starloom.tasks.schemas import Clusters, Docs, Licenses, Verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_PREFIX, _DIGITS, _KEY_BYTES = "swh:1:cnt:", 40, 8


class ExactDedup(Election):
    """Knobs of exact deduplication."""


@stage(over="whole")
def exact_dedup(docs: Docs, licenses: Licenses | None, cfg: ExactDedup, runtime: Runtime) -> tuple[Verdicts, Clusters]:
    """Keep one document of each content."""
    if not docs.parts:
        return Verdicts.join([]), Clusters.of_parts([])
    work = lay_out(docs, licenses, None, cfg, 1, runtime)
    connect(work, _write_keys, lambda done: runtime.progress(done, 1, "rounds"))
    elect(work, _equal_contents(work), runtime)
    return judge(work, _judge, runtime)


def _write_keys(part: Part[ExactDedup]) -> NDArray[np.int64]:
    """Write the first 64 bits of each content's identity."""
    import numpy as np

    hashes = _hashes(part.docs.read(["swhid"]))
    return part.files.write(part.number, np.ascontiguousarray(hashes[:, :_KEY_BYTES]).view(np.uint64).T)


def _hashes(table: pa.Table) -> NDArray[np.uint8]:
    from starloom.lineage.errors import InputError
    from starloom.tasks.kernels.text.hex_digits import from_hex

    try:
        return from_hex(table.column("swhid"), _DIGITS, _PREFIX)
    except ValueError as error:
        raise InputError(f"invalid swhid: {error}", hint="leave the column out, and it is made from the content") from error


def _equal_contents(work: Work[ExactDedup]) -> NDArray[np.int64]:
    """Group nodes by the whole identity: for each the first that has the same. Half of 2^32 contents, and 64 bits are not enough."""
    import numpy as np

    hashes = np.concatenate(work.mapper(_node_hashes, work.parts))
    _, first, number = np.unique(hashes.view(f"V{hashes.shape[1]}").ravel(), return_index=True, return_inverse=True)
    groups: NDArray[np.int64] = first[number]
    return groups


def _node_hashes(part: Part[ExactDedup]) -> NDArray[np.uint8]:
    import pyarrow as pa

    return _hashes(part.docs.read(["swhid"]).take(pa.array(part.rows())))


def _judge(part: Part[ExactDedup]) -> tuple[Verdicts, Clusters]:
    return judged(part, "exact-duplicate", None, None)
