"""datatrove's deduplication by MinHash: its four stages on two workers, or as many as asked, set up as `examples/minhash_deduplication.py`.

Normalisation is its own (TextNormConfig: lower case, no punctuation, no diacritics, numbers as 0), words are spaCy's.
What the example does beyond a verdict is left out: it counts tokens, and writes the survivors. Workers are forked, so
that they need not import again; datatrove's own choice, a fork server, would add seconds to each of the four stages.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

WORKERS = 2


def run(*, texts: str, scratch: str, bands: int, rows: int, workers: int = WORKERS) -> list[str]:
    """Return the ids of the dropped documents; `texts` is a folder of Parquet files with the columns id and text."""
    import spacy.lang.en  # type: ignore[import-not-found,unused-ignore]  # noqa: F401 - before the fork, not in every worker
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found,unused-ignore]
    from datatrove.pipeline.dedup.minhash import (  # type: ignore[import-not-found,unused-ignore]
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader  # type: ignore[import-not-found,unused-ignore]
    from datatrove.pipeline.writers.jsonl import JsonlWriter  # type: ignore[import-not-found,unused-ignore]
    from datatrove.utils.hashing import HashConfig  # type: ignore[import-not-found,unused-ignore]
    from datatrove.utils.typeshelper import Languages  # type: ignore[import-not-found,unused-ignore]

    config = MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=bands, hashes_per_bucket=rows)
    reader, num_parts = ParquetReader(texts), len(list(Path(texts).glob("*.parquet")))
    signatures, buckets, removed, excluded = (f"{scratch}/{name}" for name in ("signatures", "buckets", "remove_ids", "removed"))
    stages: list[tuple[int, list[Any]]] = [
        (num_parts, [reader, MinhashDedupSignature(signatures, config=config, language=Languages.english)]),
        (bands, [MinhashDedupBuckets(signatures, buckets, config=config)]),
        (1, [MinhashDedupCluster(buckets, removed, config=config)]),
        (num_parts, [reader, MinhashDedupFilter(removed, exclusion_writer=JsonlWriter(excluded))]),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        logs = f"{scratch}/logs-{number}"
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=logs, start_method="fork").run()
    lines = [line for file in Path(excluded).glob("*.jsonl.gz") for line in gzip.decompress(file.read_bytes()).splitlines()]
    return [json.loads(line)["id"] for line in lines]
