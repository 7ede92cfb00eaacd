r"""text-dedup's deduplication by MinHash: `python -m text_dedup.minhash` in two processes, with the faster of its hash functions.

Its defaults stand: 250 permutations, Jaccard 0.7, 5-grams of lower-case words split at `\W`; collisions are trusted.
Only its rule of at least five words is off, for it drops short files that have no duplicate. It saves the survivors,
as its command always does; the release on PyPI, 0.4.0, is the newest that runs on Python 3.11.
"""

from __future__ import annotations

from pathlib import Path

ARGUMENTS = ["--split=train", "--column=text", "--num_proc=2", "--hash_func=xxh3", "--min_length=1"]


def run(*, texts: str, scratch: str) -> list[str]:
    """Return the ids of the dropped documents; `texts` is a folder of Parquet files with the columns id and text."""
    import pyarrow.parquet as pq
    from datasets import load_from_disk  # type: ignore[import-not-found,unused-ignore]
    from text_dedup.minhash import main  # type: ignore[import-not-found,unused-ignore]

    # A cache of its own for each run: the results of the last would be found again by their fingerprint.
    folders = [f"--data_files={texts}/*.parquet", f"--cache_dir={scratch}/cache", f"--output={scratch}/output"]
    main(["--path=parquet", *folders, *ARGUMENTS], standalone_mode=False)
    kept = set(load_from_disk(str(Path(scratch, "output")))["id"])
    return [name for name in pq.read_table(texts, columns=["id"]).column("id").to_pylist() if name not in kept]
