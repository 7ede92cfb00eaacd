"""Reading packed sequences for training, shuffled, as 64-bit token ids; ours with where documents begin.

A token is a byte here: MB/s are million tokens/s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.bench._tool import Corpus, Tool

if TYPE_CHECKING:
    from pathlib import Path

    from starloom.model.data import PackedSequences

TITLE = "reading for training: million tokens a second, one core"
LENGTH, BATCH_SEQUENCES = 2048, 32


def _packed(corpus: Corpus, folder: Path) -> Path:
    """Return the corpus's bytes as a part of Packed, 16 bits a token, each of its documents an attention context."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from starloom.tasks.kernels.text.arrow_bytes import string_buffers

    begin, data = string_buffers(corpus.table.column("content"))
    rows = max(BATCH_SEQUENCES, len(data) // LENGTH // BATCH_SEQUENCES * BATCH_SEQUENCES)
    tokens = np.resize(data, rows * LENGTH).astype(np.uint16)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, tokens.size + 1, LENGTH, dtype=np.int32)), pa.array(tokens))
    starts = np.unique(begin[begin < tokens.size])
    of_row = pa.array(np.searchsorted(starts, np.arange(0, tokens.size + 1, LENGTH)).astype(np.int32))
    inside = pa.ListArray.from_arrays(of_row, pa.array(starts % LENGTH, pa.int32()))
    table = pa.table({"split": ["train"] * rows, "tokens": lists, "starts": inside})
    pq.write_table(table, folder / "packed.parquet", compression="zstd", row_group_size=1024)
    return folder / "packed.parquet"


def _sequences(corpus: Corpus, folder: Path) -> PackedSequences:
    """Return the memory map that a trainer makes of it once."""
    from starloom.model.data import PackedSequences

    (folder / "work").mkdir()
    return PackedSequences.open([_packed(corpus, folder)], folder / "work", 256)


def _ours(sequences: PackedSequences) -> int:
    """Read an epoch with the trainer's reader."""
    from starloom.model.data import Reader

    reader = Reader(sequences, 0, BATCH_SEQUENCES)
    total = sum(int(reader.read(step).tokens_BT[-1, -1]) for step in range(1, len(sequences.tokens) // BATCH_SEQUENCES + 1))
    reader.close()
    return total


def _torch(sequences: PackedSequences) -> int:
    """Read the same memory map with PyTorch's DataLoader in this process, as nanoGPT-like trainers do."""
    import numpy as np
    from torch.utils.data import DataLoader

    class Rows:
        def __len__(self) -> int:
            return len(sequences.tokens)

        def __getitem__(self, row: int) -> Any:
            return sequences.tokens[row].astype(np.int64)

    loader: Any = DataLoader(Rows(), batch_size=BATCH_SEQUENCES, shuffle=True)  # type: ignore[arg-type]
    return sum(int(batch[-1, -1]) for batch in loader)


def _parquet(path: Path) -> int:
    """Decode the Parquet file into memory, and take rows from there."""
    import numpy as np
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=True)
    table = file.read(["tokens"])
    order = np.random.default_rng(0).permutation(table.num_rows)
    column, total = table.column("tokens"), 0
    for start in range(0, len(order), BATCH_SEQUENCES):
        rows = column.take(order[start : start + BATCH_SEQUENCES])
        total += int(rows.combine_chunks().flatten().to_numpy().reshape(-1, LENGTH).astype(np.int64)[-1, -1])
    return total


TOOLS = [
    Tool("starloom", _ours, is_ours=True, prepare=_sequences),
    Tool("torch DataLoader on the same map", _torch, requires=("torch",), prepare=_sequences),
    Tool("pyarrow, all in memory", _parquet, prepare=_packed),
]
