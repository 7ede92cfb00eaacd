"""datatrove's DocumentTokenizer, one worker: a Parquet file read, token ids and an index written.

As `examples/tokenize_c4.py` sets it up, save that documents are not shuffled, and that none is ended by a token. Special
tokens are matched inside text: there is no way to say otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


def run(*, step: Literal["load", "encode"], folder: str, scratch: str, wants_ids: bool) -> object:
    """Import, or encode; the ids of each text, where they are wanted."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found,unused-ignore]
    from datatrove.pipeline.readers import ParquetReader  # type: ignore[import-not-found,unused-ignore]
    from datatrove.pipeline.tokens import DocumentTokenizer  # type: ignore[import-not-found,unused-ignore]

    if step == "load":
        return None
    steps = [
        ParquetReader(f"{folder}/docs"),
        DocumentTokenizer(f"{scratch}/tokens", tokenizer_name_or_path=f"{folder}/tokenizer.json", shuffle_documents=False),
    ]
    LocalPipelineExecutor(steps, tasks=1, logging_dir=f"{scratch}/logs").run()
    return _ids(Path(scratch, "tokens")) if wants_ids else None


def _ids(folder: Path) -> list[list[int]]:
    import numpy as np

    (tokens,), (index,) = folder.glob("*.ds"), folder.glob("*.ds.index")
    ends = np.fromfile(index, np.uint64).astype(np.int64)
    return [ids.tolist() for ids in np.split(np.fromfile(tokens, np.uint16), ends[:-1])]
