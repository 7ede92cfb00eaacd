"""Exact deduplication: by the identity that ingest has hashed already, against hashing the texts."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from starloom.bench._tool import Corpus, Tool

TITLE = "exact duplicates, by identity"


def _ours(corpus: Corpus) -> object:
    """Run the stage: elects a survivor by policy and writes verdicts; reads no text."""
    from starloom.tasks.exact_dedup import ExactDedup, exact_dedup
    from starloom.tasks.frame.stage import Runtime
    from starloom.tasks.schemas import Docs

    with tempfile.TemporaryDirectory() as folder:
        return exact_dedup.function(Docs.of(corpus.table), None, ExactDedup(), Runtime.alone(Path(folder, "scratch")))


def _hashlib(corpus: Corpus) -> list[bool]:
    """Deduplicate with a set of digests: keeps whichever comes first."""
    seen: set[bytes] = set()
    keep = []
    for text in corpus.texts:
        digest = hashlib.sha256(text.encode()).digest()
        keep.append(digest not in seen)
        seen.add(digest)
    return keep


def _group_by(corpus: Corpus) -> object:
    """Run Arrow's group_by on the same identity: keeps nothing but the count."""
    return corpus.table.select(["swhid"]).group_by("swhid").aggregate([("swhid", "count")])


TOOLS = [
    Tool("starloom", _ours, is_ours=True),
    Tool("hashlib.sha256 and a set", _hashlib),
    Tool("pyarrow group_by, no survivor", _group_by),
]
