"""Drop files whose content is, byte for byte, that of a better-placed file.

The content's identity (`swhid`, a git blob hash) is compared, over the whole corpus; no text is read. Of equal files
the survivor policy keeps one, by default that of the most starred repository.

Reads   Docs      doc_id, swhid, and the columns that the policy names (stars, forks, committed_at)
Writes  Verdicts  rule = exact-duplicate, detail = the survivor's doc_id

Memory: about 250 bytes a document (identifiers and policy columns of all documents at once).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks._stage import Config, Runtime, stage
from tasks.kernels.survivor import Preference
from tasks.schemas import Docs, Verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class ExactDedup(Config):
    """Knobs of exact deduplication."""

    survivor: tuple[Preference, ...] = ("stars desc", "forks desc", "committed_at desc")
    """Which of equal files stays: the first preference that tells two apart; a missing value loses; at last the smaller doc_id wins."""


@stage(over="whole")
def exact_dedup(docs: Docs, cfg: ExactDedup, runtime: Runtime) -> Verdicts:
    """Keep one document of each content."""
    import numpy as np
    import pyarrow as pa

    from tasks.kernels import survivor

    parts = docs.parts
    tables = []
    for part in parts:
        tables.append(part.read([*survivor.columns(cfg.survivor), "swhid"]))
        runtime.progress(len(tables), len(parts))
    if not tables:
        return Verdicts.join([])
    documents = pa.concat_tables(tables)
    survivors, _ = survivor.elect(documents, _contents(documents), cfg.survivor)
    is_dropped = survivors != np.arange(len(survivors))
    # Only what is dropped names a survivor: a kept row says the same whoever else is in the corpus.
    details = documents.column("doc_id").take(pa.array(survivors, mask=~is_dropped))
    rules = pa.array(["exact-duplicate"]).take(pa.array(np.zeros(len(survivors), np.int64), mask=~is_dropped))
    verdicts, start = [], 0
    for part, table in zip(parts, tables, strict=True):
        rows = slice(start, start + table.num_rows)
        detail, rule = details.slice(start, table.num_rows), rules.slice(start, table.num_rows)
        verdicts.append(part.verdicts(~is_dropped[rows], rule=rule, detail=detail))
        start = rows.stop
    return Verdicts.join(verdicts)


def _contents(documents: pa.Table) -> NDArray[np.int64]:
    """Number the contents: equal numbers for equal swhid."""
    import numpy as np

    encoded = documents.column("swhid").combine_chunks().dictionary_encode()
    numbers: NDArray[np.int64] = encoded.indices.to_numpy().astype(np.int64)
    return numbers
