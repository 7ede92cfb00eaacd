"""Who stays of a cluster: only a kept file's likes go, sources before sources, none at all; and who is warned of."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.tasks.common import clusters as clustering
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.workers import Workers
from starloom.tasks.kernels.duplicates import linking
from starloom.tasks.kernels.duplicates.minhash import shingles, sign_texts
from starloom.tasks.kernels.text.arrow_bytes import string_buffers
from starloom.tasks.near_dedup import NearDedup
from tests.test_near_dedup import decide, document, dropped


@pytest.fixture
def runtime(tmp_path: Any) -> Runtime:
    return Runtime.alone(tmp_path / "scratch")


def chain(length: int, size: int, shared: int) -> list[dict[str, Any]]:
    """Files of random words, each of which shares the end of the one before."""
    draw = random.Random(5)
    words = [f"w{draw.getrandbits(60):x}" for _ in range(size + (length - 1) * (size - shared))]
    return [document(i, " ".join(words[i * (size - shared) :][:size])) for i in range(length)]


def jaccard(one: str, other: str, ngram: int = 5) -> float:
    left, right = set(shingles(one, ngram)), set(shingles(other, ngram))
    return len(left & right) / len(left | right)


def estimate(one: str, other: str, ngram: int = 5, num_perm: int = 256) -> float:
    left, right = sign_texts(*string_buffers(pa.array([one, other])), num_perm=num_perm, ngram=ngram, seed=42)[0]
    return float((left == right).mean())


@pytest.mark.parametrize("verify", ["estimated", "exact"])
def test_of_a_chain_whoever_resembles_no_kept_file_stays(verify: Any, runtime: Runtime) -> None:
    rows = chain(40, 400, 370)
    assert jaccard(rows[0]["content"], rows[1]["content"]) > 0.7
    assert jaccard(rows[0]["content"], rows[-1]["content"]) == 0
    published, _ = decide([rows], NearDedup(verify=verify), runtime)
    assert min(row["value"] for row in published.read().to_pylist() if not row["keep"]) == 0, "as published"
    verdicts, clusters = decide([rows], NearDedup(verify=verify, clusters="survivors"), runtime)
    texts = {row["doc_id"]: row["content"] for row in rows}
    judged = {row["doc_id"]: row for row in verdicts.read().to_pylist()}
    assert 10 < len(dropped(verdicts)) < 35
    alike = {"estimated": estimate, "exact": jaccard}[verify]
    for row in judged.values():
        if not row["keep"]:
            assert row["value"] == alike(texts[row["doc_id"]], texts[row["detail"]]) >= 0.7
            assert judged[row["detail"]]["keep"]
    members = {member["doc_id"]: member for member in clusters.read().to_pylist()}
    assert {doc_id for doc_id, member in members.items() if member["is_survivor"]} == members.keys() - dropped(verdicts)
    assert len({member["cluster_id"] for member in members.values()}) < 10, "a cluster is a component still"


def greedy(rows: list[dict[str, Any]], clusters: dict[str, str], alike: Any, threshold: float) -> dict[str, str]:
    """doc_id → the file for which it goes, itself if it stays: the best first, and kept unless a kept one resembles it."""
    going: dict[str, str] = {}
    kept: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["stars"] is None, -(row["stars"] or 0), row["doc_id"])):
        of_cluster = kept.setdefault(clusters.get(row["doc_id"], row["doc_id"]), [])
        for other in of_cluster:
            if alike(row["content"], other["content"]) >= threshold:
                going[row["doc_id"]] = other["doc_id"]
                break
        else:
            of_cluster.append(row)
            going[row["doc_id"]] = row["doc_id"]
    return going


TEXTS = st.lists(
    st.lists(st.integers(0, 5), min_size=1, max_size=7).map(lambda words: " ".join(f"w{word}" for word in words)), min_size=1, max_size=14
)


@given(texts=TEXTS, threshold=st.sampled_from([0.2, 0.34, 0.5, 0.75]), verify=st.sampled_from(["estimated", "exact"]), draw=st.randoms())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_survivors_are_those_of_a_plain_greedy_choice(texts: list[str], threshold: float, verify: Any, draw: Any, runtime: Runtime) -> None:
    rows = [document(i, text, stars=draw.choice([None, 0, 3])) for i, text in enumerate(texts)]
    cfg = NearDedup(ngram=1, num_perm=24, threshold=threshold, verify=verify, clusters="survivors", bands=24, rows=1)
    draw.shuffle(rows)
    cut = draw.randrange(len(rows) + 1)
    verdicts, clusters = decide([rows[:cut], rows[cut:]], cfg, runtime)
    members = clusters.read().to_pylist()
    alike = {"estimated": lambda a, b: estimate(a, b, 1, 24), "exact": lambda a, b: jaccard(a, b, 1)}[verify]
    expected = greedy(rows, {row["doc_id"]: row["cluster_id"] for row in members}, alike, threshold)
    judged = verdicts.read().to_pylist()
    assert {row["doc_id"]: row["detail"] or row["doc_id"] for row in judged} == expected
    content = {row["doc_id"]: row["content"] for row in rows}
    for row in judged:
        assert row["keep"] == (expected[row["doc_id"]] == row["doc_id"])
        assert row["value"] == (None if row["keep"] else alike(content[row["doc_id"]], content[row["detail"]]))
    assert runtime.notes["duplicates"] == len(dropped(verdicts))


@pytest.mark.parametrize("verify", ["estimated", "exact"])
def test_a_cluster_too_large_to_compare_is_searched_by_bands(verify: Any, runtime: Runtime, monkeypatch: Any, tmp_path: Any) -> None:
    """Fewer comparisons than files that stay: what goes resembles what stays, and the result depends on no order and no worker."""
    monkeypatch.setattr(linking, "MOST_COMPARISONS", 5)
    rows = chain(60, 100, 92)
    cfg = NearDedup(verify=verify, clusters="survivors", ngram=1, bands=64, rows=4)
    verdicts, _ = decide([rows], cfg, runtime)
    texts = {row["doc_id"]: row["content"] for row in rows}
    judged = {row["doc_id"]: row for row in verdicts.read().to_pylist()}
    assert 20 < len(dropped(verdicts)) < 50
    for row in judged.values():
        assert row["keep"] or (row["value"] >= 0.7 and judged[row["detail"]]["keep"])
    kept = [texts[doc_id] for doc_id, row in judged.items() if row["keep"]]
    alike = {"estimated": estimate, "exact": jaccard}[verify]
    assert max(alike(one, other, 1) for i, one in enumerate(kept) for other in kept[:i]) < 0.7
    random.Random(1).shuffle(rows)
    with Workers(1) as pool:
        monkeypatch.setattr(clustering, "FEW_DOCUMENTS", 0)
        again, _ = decide([rows[:9], rows[9:]], cfg, Runtime(runtime.scratch, workers=1, mapper=pool.map))
    assert {row["doc_id"]: row for row in again.read().to_pylist()} == judged
