"""Near-deduplication against datasketch's MinHashLSH, connected components and plain Python, on real files."""

from __future__ import annotations

import itertools
import random
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks._stage import Runtime
from tasks.kernels.minhash import shingle_hash, shingles
from tasks.near_dedup import NearDedup, Shingling, near_dedup, signatures
from tasks.schemas import Clusters, Docs, Signatures, Verdicts


def document(number: int, content: str, language: str | None = "Python", stars: int | None = None) -> dict[str, Any]:
    return {
        "doc_id": f"{number * 7919 % 10007:032x}",  # not in the order of rows
        "source": "test",
        "kind": "code",
        "repo": f"repo-{number % 3}",
        "path": f"{number}.py",
        "language": language,
        "content": content,
        "size": len(content.encode()),
        "swhid": "swh:1:cnt:" + "0" * 40,
        "stars": stars,
        "is_vendor": False,
        "is_generated": False,
    }


def decide(parts: list[list[dict[str, Any]]], cfg: NearDedup, runtime: Runtime) -> tuple[Verdicts, Clusters]:
    docs = Docs.of_parts([pa.Table.from_pylist(part, schema=Docs.SCHEMA) for part in parts])
    signed = [signatures.function(part, near_dedup.prepared_config(cfg), runtime) for part in docs.parts]
    return near_dedup.function(docs, Signatures([part.sources[0] for part in signed]), cfg, runtime)


def dropped(verdicts: Verdicts) -> set[str]:
    return {row["doc_id"] for row in verdicts.read().to_pylist() if not row["keep"]}


@pytest.fixture
def runtime(tmp_path: Any) -> Runtime:
    return Runtime.alone(tmp_path / "scratch")


def varied(text: str, share: float, seed: int) -> str:
    """The text with a share of its lines replaced."""
    draw = random.Random(seed)
    return "".join(f"line_{draw.random()}\n" if draw.random() < share else line for line in text.splitlines(keepends=True))


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, Any]]:
    """Files of the standard library, and variants of them from almost equal to hardly alike."""
    texts = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if path.stat().st_size < 12_000 and "site-packages" not in path.parts:
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                continue
    random.Random(0).shuffle(texts)
    texts = texts[:240]
    texts += [varied(texts[i], share=(i % 12) / 30, seed=i) for i in range(120)]
    languages = ["Python", "Python", "Python", "C", None]
    rows = [document(i, text, languages[i % 7 % 5], [None, 0, 3, 80][i % 4]) for i, text in enumerate(texts)]
    random.Random(1).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def sketches(corpus: list[dict[str, Any]]) -> dict[str, MinHash]:
    made = {}
    for row in corpus:
        made[row["doc_id"]] = MinHash(num_perm=256, seed=42, scheme="affine32", hashfunc=shingle_hash)
        made[row["doc_id"]].update_batch(set(shingles(row["content"], 5)))
    return made


def plain_clusters(corpus: list[dict[str, Any]], sketches: dict[str, MinHash], cfg: NearDedup) -> list[list[dict[str, Any]]]:
    """Connected components of datasketch's candidate pairs, by a search."""
    rows = {row["doc_id"]: row for row in corpus}
    indexes: dict[str | None, MinHashLSH] = defaultdict(lambda: MinHashLSH(threshold=cfg.threshold, num_perm=256))
    for doc_id, row in rows.items():
        indexes[row["language"] if cfg.scope == "language" else "all"].insert(doc_id, sketches[doc_id])
    neighbours = {}
    for doc_id, row in rows.items():
        found = indexes[row["language"] if cfg.scope == "language" else "all"].query(sketches[doc_id])
        neighbours[doc_id] = [f for f in found if cfg.verify == "none" or sketches[doc_id].jaccard(sketches[f]) >= cfg.threshold]
    clusters, seen = [], set()
    for start in rows:
        todo, cluster = [start], []
        while todo:
            doc_id = todo.pop()
            if doc_id not in seen:
                seen.add(doc_id)
                cluster.append(rows[doc_id])
                todo += neighbours[doc_id]
        if len(cluster) > 1:
            clusters.append(cluster)
    return clusters


DECISIONS = list(itertools.product([0.5, 0.7, 0.9], ["none", "estimated"], ["language", "global"]))


@pytest.mark.parametrize("decision", DECISIONS)
def test_drops_what_datasketch_and_connected_components_drop(
    corpus: list[dict[str, Any]], sketches: dict[str, MinHash], runtime: Runtime, decision: tuple[float, Any, Any]
) -> None:
    threshold, verify, scope = decision
    cfg = NearDedup(threshold=threshold, verify=verify, scope=scope)
    expected = {}
    for cluster in plain_clusters(corpus, sketches, cfg):
        best = min(cluster, key=lambda row: (row["stars"] is None, -(row["stars"] or 0), row["doc_id"]))["doc_id"]
        expected |= {row["doc_id"]: best for row in cluster}
    assert len(expected) > 20, "the corpus shows nothing"
    verdicts, clusters = decide([corpus[:100], corpus[100:300], corpus[300:]], cfg, runtime)

    for row in verdicts.read().to_pylist():
        best = expected.get(row["doc_id"])
        if best in (None, row["doc_id"]):
            rule = None if best is None else "survivor"
            assert row == {"doc_id": row["doc_id"], "keep": True, "rule": rule, "value": None, "threshold": None, "detail": None}
        else:
            jaccard = sketches[row["doc_id"]].jaccard(sketches[best])
            assert row == {
                "doc_id": row["doc_id"],
                "keep": False,
                "rule": "near-duplicate",
                "value": jaccard,
                "threshold": threshold,
                "detail": best,
            }

    rows = {row["doc_id"]: row for row in corpus}
    members = clusters.read().to_pylist()
    assert {member["doc_id"]: member["cluster_id"] for member in members} == expected
    for member in members:
        row = rows[member["doc_id"]]
        assert (member["repo"], member["path"]) == (row["repo"], row["path"])
        assert member["jaccard"] == sketches[member["doc_id"]].jaccard(sketches[member["cluster_id"]])
        assert member["is_survivor"] == (member["doc_id"] == member["cluster_id"])


def test_nothing_depends_on_the_cut_or_the_order(corpus: list[dict[str, Any]], runtime: Runtime) -> None:
    def by_id(artifact: Verdicts | Clusters) -> list[dict[str, Any]]:
        return sorted(artifact.read().to_pylist(), key=lambda row: row["doc_id"])

    verdicts, clusters = decide([corpus], NearDedup(), runtime)
    shuffled = random.Random(2).sample(corpus, len(corpus))
    for parts in ([corpus[i : i + 50] for i in range(0, len(corpus), 50)], [shuffled], [[], shuffled[:7], [], shuffled[7:], []]):
        other_verdicts, other_clusters = decide(parts, NearDedup(), runtime)
        assert by_id(other_verdicts) == by_id(verdicts)
        assert by_id(other_clusters) == by_id(clusters)
        assert [part.num_rows for part in other_verdicts.parts] == [len(part) for part in parts]
        for part, members in zip(parts, other_clusters.parts, strict=True):
            assert set(members.read(["doc_id"]).column("doc_id").to_pylist()) <= {row["doc_id"] for row in part}


def test_a_part_without_duplicates_keeps_its_bytes(corpus: list[dict[str, Any]], runtime: Runtime) -> None:
    lonely = [document(9000 + i, " ".join(f"word_{i}_{j}" for j in range(50))) for i in range(5)]
    results = [decide([lonely, corpus[:n]], NearDedup(threshold=t), runtime) for n, t in [(200, 0.7), (100, 0.7), (200, 0.9)]]
    first, *others = [(verdicts.parts[0].read(), clusters.parts[0].read()) for verdicts, clusters in results]
    assert len({frozenset(dropped(verdicts)) for verdicts, _ in results}) > 1, "nothing changed elsewhere"
    for other in others:
        assert other == first


def test_only_the_knobs_of_shingling_reach_the_signatures() -> None:
    assert near_dedup.prepare is signatures
    assert signatures.config is Shingling
    assert near_dedup.prepared_config(NearDedup(threshold=0.8, verify="estimated")) == near_dedup.prepared_config(NearDedup())
    assert near_dedup.prepared_config(NearDedup(ngram=7)) != near_dedup.prepared_config(NearDedup())


def test_signatures_on_disk_are_datasketchs(corpus: list[dict[str, Any]], sketches: dict[str, MinHash], runtime: Runtime) -> None:
    docs = Docs.of(pa.Table.from_pylist(corpus, schema=Docs.SCHEMA))
    table = signatures.function(docs, Shingling(), runtime).read()
    assert table.column("doc_id").to_pylist() == [row["doc_id"] for row in corpus]
    for row in table.to_pylist():
        np.testing.assert_array_equal(row["signature"], sketches[row["doc_id"]].hashvalues)


TEXT = "def f(a, b, c, d, e):\n    return a + b * c - d / e  # and so on, and so forth\n" * 3


def test_the_reason_names_what_decided(runtime: Runtime) -> None:
    rows = [document(1, TEXT, stars=80), document(2, TEXT, stars=120), document(3, TEXT), document(4, TEXT, stars=120)]
    rows[1]["forks"], rows[3]["forks"] = 7, 7
    winner, runner_up = sorted([rows[1], rows[3]], key=lambda row: row["doc_id"])
    _, clusters = decide([rows], NearDedup(), runtime)
    reasons = {member["doc_id"]: member["reason"] for member in clusters.read().to_pylist()}
    assert reasons == {
        rows[0]["doc_id"]: "stars 120 > 80",
        rows[2]["doc_id"]: "stars 120 > unknown",
        runner_up["doc_id"]: "smallest doc_id",
        winner["doc_id"]: "smallest doc_id",  # over the runner-up
    }
    _, clusters = decide([rows], NearDedup(survivor=["stars asc"]), runtime)
    reasons = {member["doc_id"]: (member["cluster_id"], member["reason"]) for member in clusters.read().to_pylist()}
    assert reasons[rows[1]["doc_id"]] == (rows[0]["doc_id"], "stars 80 < 120")


def test_documents_dropped_before_take_no_part(runtime: Runtime) -> None:
    rows = [document(1, TEXT, stars=9), document(2, TEXT), document(3, "unlike anything else in this small corpus"), document(4, TEXT)]
    before = Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))
    live = Docs([type(s)(s.data, before.verdicts([False, True, True, True]).read()) for s in before.sources])
    signed = signatures.function(live, Shingling(), runtime)
    assert signed.num_rows == 3
    verdicts, clusters = near_dedup.function(live, signed, NearDedup(), runtime)
    survivor = min(rows[1]["doc_id"], rows[3]["doc_id"])
    assert verdicts.read().column("keep").to_pylist() == [None, rows[1]["doc_id"] == survivor, True, rows[3]["doc_id"] == survivor]
    assert set(clusters.read().column("cluster_id").to_pylist()) == {survivor}


HOSTILE = [
    "",
    "\0",
    "\0" * 20,
    "a",
    "a b",
    "a\tb",
    "{}\n",
    "[]\n",
    "\r\n" * 9,
    "é" * 9,
    "\u202e" + TEXT,
    "x" * 10_000,
    TEXT.replace("\n", "\r\n"),
]


@given(texts=st.lists(st.sampled_from(HOSTILE), max_size=12), cut=st.integers(0, 12), verify=st.sampled_from(["none", "estimated"]))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_texts_unite_exactly_with_those_of_the_same_shingles(texts: list[str], cut: int, verify: Any, runtime: Runtime) -> None:
    rows = [document(i, text) for i, text in enumerate(texts)]
    groups = defaultdict(list)
    for row in rows:
        groups[frozenset(shingles(row["content"], 5))].append(row["doc_id"])
    verdicts, _ = decide([rows[:cut], rows[cut:]], NearDedup(threshold=0.99, verify=verify), runtime)
    assert dropped(verdicts) == {doc_id for group in groups.values() for doc_id in group if doc_id != min(group)}


@pytest.mark.parametrize("parts", [[], [[]], [[], []]])
@pytest.mark.parametrize("verify", ["none", "estimated"])
def test_an_empty_corpus_gives_empty_artifacts(parts: list[Any], verify: Any, runtime: Runtime) -> None:
    verdicts, clusters = decide(parts, NearDedup(verify=verify), runtime)
    assert len(verdicts.parts) == len(clusters.parts) == len(parts)
    assert verdicts.read().equals(Verdicts.SCHEMA.empty_table())
    assert clusters.read().equals(Clusters.SCHEMA.empty_table())
