"""datatrove's near-deduplication of the documents that ours reads, on one core: a peer's one stage beside our whole pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.bench.near_dedup import DATATROVE
from starloom.lineage.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from starloom.bench._peer import Environment
    from starloom.lineage.records import Run
    from starloom.lineage.store import Store

BANDS, ROWS = 14, 8
"""As in its authors' `examples/minhash_deduplication.py`, like 5-grams of words and hashes of 64 bits, which its driver sets."""
STEP, OURS = "near_dedup.signatures", ("near_dedup.signatures", "near_dedup")
WARM_UP = 8
"""Documents that the driver is given beforehand, for its imports."""


def check(steps: Iterable[str], environment: Environment = DATATROVE) -> None:
    """Refuse to begin where nothing could be compared.

    Args:
        steps: names of the steps that will run.
        environment: where the peer should be installed.

    Raises:
        InputError: its environment was not built, or for other versions; or near_dedup is not among the steps.
    """
    if not {*OURS} <= {*steps}:
        hint = "leave --until out, or name near_dedup or a step after it"
        raise InputError("--peer compares near_dedup, and the run ends before it", hint=hint)
    if not environment.is_built():
        hint = "python -m starloom.bench near_dedup --install builds it, in an environment of its own"
        raise InputError(
            f"{environment.name} is not installed: no {', '.join(environment.requirements)} in {environment.folder}", hint=hint
        )


def time_peer(store: Store, run: Run, scratch: Path, environment: Environment = DATATROVE) -> dict[str, Any]:
    """Have the peer deduplicate, from Parquet files to the documents that it drops.

    Args:
        store: where the documents are.
        run: a run of the pipeline, at least to its near_dedup.
        scratch: where the peer may write.
        environment: where the peer is installed.

    Returns:
        documents and bytes that it read, dropped (documents), and seconds: of the processors, by all of its processes.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        texts, warm = Path(folder, "texts"), Path(folder, "warm")
        num_documents, num_bytes = _write(_parts(store, run), texts, warm)
        _ask(environment, warm, Path(folder, "scratch-0"))
        before = environment.processor_seconds()
        dropped = _ask(environment, texts, Path(folder, "scratch-1"))
        seconds = environment.processor_seconds() - before
    return {"documents": num_documents, "bytes": num_bytes, "dropped": len(dropped), "seconds": seconds}


def _ask(environment: Environment, texts: Path, scratch: Path) -> list[str]:
    dropped: list[str] = environment.ask(texts=str(texts), scratch=str(scratch), bands=BANDS, rows=ROWS, workers=1)
    return dropped


def _parts(store: Store, run: Run) -> Iterator[pa.Table]:
    """Return the documents that near_dedup reads, as it reads them."""
    from starloom.tasks.frame.step import Ref
    from starloom.tasks.frame.work import opened_ref
    from starloom.tasks.schemas import Docs

    step = run.step(STEP)
    assert step is not None
    docs = step.inputs["docs"]
    view = opened_ref(store, Ref("Docs", docs["artifact"], docs["verdicts"]))
    assert isinstance(view, Docs)
    return (part.read(["doc_id", "content"]) for part in view.parts)


def _write(parts: Iterator[pa.Table], texts: Path, warm: Path) -> tuple[int, int]:
    """Write the columns id and text, part by part, and a few of them for warming up; returns documents and bytes of text."""
    import pyarrow.compute as pc

    from starloom.lineage import parquet

    texts.mkdir()
    warm.mkdir()
    num_documents = num_bytes = 0
    for number, part in enumerate(parts):
        table = part.rename_columns(["id", "text"])
        parquet.write_table(table, texts / f"part-{number:05}.parquet", max(len(table), 1))
        if not number:
            parquet.write_table(table.slice(0, WARM_UP), warm / "part-00000.parquet", WARM_UP)
        num_documents += len(table)
        num_bytes += pc.sum(pc.binary_length(table.column("text")), min_count=0).as_py()
    return num_documents, num_bytes


def lines(peer: dict[str, Any], steps: dict[str, dict[str, float]], total: float) -> str:
    """Say how many times as long as ours the peer takes, and as our whole pipeline.

    Args:
        peer: what `time_peer` found.
        steps: seconds of ours, by step and by what they were spent on; idle are not counted.
        total: processor seconds of all of our steps.
    """
    ours = sum(seconds for name in OURS for spent, seconds in steps[name].items() if spent != "idle")
    speed = peer["bytes"] / 1_000_000 / peer["seconds"]
    return (
        f"datatrove's near-deduplication of the {peer['documents']:,} documents that near_dedup read: {peer['seconds']:.1f} s, "
        f"{speed:.2f} MB/s a core; {peer['dropped']:,} dropped: {peer['seconds'] / ours:.1f} times the seconds of our near_dedup "
        f"({ours:.1f} s), {peer['seconds'] / total:.1f} times those of all of our steps ({total:.1f} s)"
    )
