"""Near-deduplication against datasketch's MinHashLSH, connected components and plain Python, on real files."""

# ruff: noqa: RUF001 - other scripts are the point

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import re
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
from pydantic import ValidationError

from starloom.tasks.common import clusters as clustering
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.workers import Workers
from starloom.tasks.kernels.duplicates import linking
from starloom.tasks.kernels.duplicates.lsh import optimal_bands
from starloom.tasks.kernels.duplicates.minhash import shingle_hash, shingles
from starloom.tasks.near_dedup import NearDedup, Shingling, near_dedup, signatures
from starloom.tasks.schemas import Clusters, Docs, Licenses, Signatures, Verdicts
from tests.sizes import ALL, examples


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
        "is_documentation": False,
    }


def decide(
    parts: list[list[dict[str, Any]]], cfg: NearDedup, runtime: Runtime, classes: dict[str, str] | None = None
) -> tuple[Verdicts, Clusters]:
    docs = Docs.of_parts([pa.Table.from_pylist(part, schema=Docs.SCHEMA) for part in parts])
    signed = [signatures.function(part, near_dedup.prepared_config(cfg), runtime) for part in docs.parts]
    verdicts, clusters = near_dedup.function(
        docs, Signatures([part.sources[0] for part in signed]), licenses_of(parts, classes), cfg, runtime
    )
    return Verdicts.of_parts(p.read() for p in verdicts.parts), Clusters.of_parts(p.read() for p in clusters.parts)


def licenses_of(parts: list[list[dict[str, Any]]], classes: dict[str, str] | None) -> Licenses | None:
    if classes is None:
        return None
    rows = [[{"doc_id": i, "license_class": classes[i]} for row in part if (i := row["doc_id"]) in classes] for part in parts]
    return Licenses.of_parts([pa.Table.from_pylist(some[::-1], schema=Licenses.SCHEMA) for some in rows])


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


def exact(one: str, other: str) -> float:
    left, right = set(shingles(one, 5)), set(shingles(other, 5))
    return len(left & right) / len(left | right)


def plain_clusters(corpus: list[dict[str, Any]], sketches: dict[str, MinHash], cfg: NearDedup) -> list[list[dict[str, Any]]]:
    """Connected components of datasketch's candidate pairs, by a search."""
    rows = {row["doc_id"]: row for row in corpus}
    lsh_of = functools.partial(MinHashLSH, threshold=cfg.threshold, num_perm=256, params=(cfg.bands, cfg.rows) if cfg.bands else None)
    indexes: dict[str | None, MinHashLSH] = defaultdict(lsh_of)
    for doc_id, row in rows.items():
        indexes[row["language"] if cfg.scope == "language" else "all"].insert(doc_id, sketches[doc_id])
    similar = {
        "none": lambda one, other: True,
        "estimated": lambda one, other: sketches[one].jaccard(sketches[other]) >= cfg.threshold,
        "exact": lambda one, other: exact(rows[one]["content"], rows[other]["content"]) >= cfg.threshold,
    }[cfg.verify]
    neighbours = {}
    for doc_id, row in rows.items():
        found = indexes[row["language"] if cfg.scope == "language" else "all"].query(sketches[doc_id])
        neighbours[doc_id] = [f for f in found if similar(doc_id, f)]
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


VERIFY: tuple[Any, ...] = ("none", "estimated", "exact")
SCOPES: tuple[Any, ...] = ("language", "global")
DECISIONS = [
    *(
        NearDedup(threshold=threshold, verify=verify, scope=scope)
        for threshold, verify, scope in itertools.product([0.5, 0.7, 0.9], VERIFY, SCOPES)
    ),
    NearDedup(bands=40, rows=6),
    NearDedup(bands=16, rows=8, verify="exact", scope="global"),
]


@pytest.mark.parametrize("cfg", DECISIONS, ids=lambda cfg: f"{cfg.threshold}-{cfg.verify}-{cfg.scope}-{cfg.bands}")
@pytest.mark.slow
def test_drops_what_datasketch_and_connected_components_drop(
    corpus: list[dict[str, Any]], sketches: dict[str, MinHash], runtime: Runtime, cfg: NearDedup
) -> None:
    rows, expected = {row["doc_id"]: row for row in corpus}, {}

    def similarity(one: str, other: str) -> float:
        return exact(rows[one]["content"], rows[other]["content"]) if cfg.verify == "exact" else sketches[one].jaccard(sketches[other])

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
            assert row == {
                "doc_id": row["doc_id"],
                "keep": False,
                "rule": "near-duplicate",
                "value": similarity(row["doc_id"], best),
                "threshold": cfg.threshold,
                "detail": best,
            }

    members = clusters.read().to_pylist()
    assert {member["doc_id"]: member["cluster_id"] for member in members} == expected
    for member in members:
        row = rows[member["doc_id"]]
        assert (member["repo"], member["path"]) == (row["repo"], row["path"])
        assert member["jaccard"] == similarity(member["doc_id"], member["cluster_id"])
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


@pytest.mark.parametrize(("verify", "pools"), [("none", [2]), ("estimated", [1]), ("exact", [8 if ALL else 3])])
@pytest.mark.slow
def test_workers_and_ranges_change_nothing(
    corpus: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Any, pools: list[int]
) -> None:
    cfg = NearDedup(verify=verify)
    expected = [
        part.read() for artifact in decide([corpus[:90], corpus[90:]], cfg, Runtime.alone(tmp_path / "alone")) for part in artifact.parts
    ]
    monkeypatch.setattr(clustering, "FEW_DOCUMENTS", 0)
    for workers in pools:
        scratch = tmp_path / f"{workers}"
        scratch.mkdir()
        (scratch / "bands").mkdir()
        (scratch / "bands" / "rows.npy").write_bytes(b"left by an attempt that was killed")
        with Workers(workers) as pool:
            found = decide([corpus[:90], corpus[90:]], cfg, Runtime(scratch, workers=workers, mapper=pool.map))
        assert [part.read() for artifact in found for part in artifact.parts] == expected
        assert len(list(scratch.rglob("starts.npy"))) == 1, "keys went to disk"


@pytest.mark.parametrize("verify", ["estimated", "exact"])
def test_large_buckets_are_cut_short_in_one_way(corpus: list[dict[str, Any]], runtime: Runtime, monkeypatch: Any, verify: Any) -> None:
    """Bands of one row make buckets of many unlike files: one comparison each finds who is alike, and the same whatever the order."""
    cfg = NearDedup(verify=verify, threshold=0.5, bands=2, rows=1, scope="global")
    everything = dropped(decide([corpus], cfg, runtime)[0])
    monkeypatch.setattr(linking, "MOST_COMPARISONS", 1)
    found = dropped(decide([corpus], cfg, runtime)[0])
    assert found <= everything
    assert len(found) > 0.9 * len(everything)
    shuffled = random.Random(3).sample(corpus, len(corpus))
    assert dropped(decide([shuffled[:50], shuffled[50:]], cfg.model_copy(update={"memory_bytes": 1 << 10}), runtime)[0]) == found


def word_hash(word: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in word:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


@pytest.mark.slow
def test_drops_what_datasketch_drops_of_real_files(runtime: Runtime) -> None:
    paths = [p for root in ("stdlib", "purelib") for p in Path(sysconfig.get_path(root)).rglob("*.py") if 200 < p.stat().st_size < 6000]
    chosen = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())  # copies of one name stand together
    texts = [text for path in chosen[:4000] if (text := path.read_bytes().decode(errors="ignore"))]
    texts = [text for text in texts if len(shingles(text, 5)) > 1][: 2000 if ALL else 500]  # of which the ASCII words stand for the text
    rows = [document(i, text) for i, text in enumerate(texts)]
    hashed, sketches = functools.cache(word_hash), {}
    for row in rows:
        words = [hashed(word.encode()) for word in re.split("[^A-Za-z_0-9]", row["content"])]
        assert len(words) >= 5, row["path"]
        sketches[row["doc_id"]] = MinHash(num_perm=256, seed=42, scheme="affine32", hashfunc=finished)
        sketches[row["doc_id"]].update_batch(set(zip(*(words[i:] for i in range(5)), strict=False)))
    expected = {
        row["doc_id"]
        for cluster in plain_clusters(rows, sketches, NearDedup())
        for row in cluster
        if row["doc_id"] != min(member["doc_id"] for member in cluster)
    }
    assert len(rows) == (2000 if ALL else 500)
    assert len(expected) > 20, "the corpus shows nothing"
    verdicts, _ = decide([rows[:200], rows[200:400], rows[400:]], NearDedup(), runtime)
    assert dropped(verdicts) == expected


def finished(words: tuple[int, ...]) -> int:
    """The hash of a shingle from those of its words: `shingle_hash`, with each word hashed once."""
    total = 0
    for word in words:
        total = (total * 0x9E3779B97F4A7C15 + word) % 2**64
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        total = (total ^ total >> 33) * multiplier % 2**64
    return (total ^ total >> 33) % 2**32


@pytest.mark.parametrize(("bands", "rows"), [(None, None), (20, 5)])
@pytest.mark.slow
def test_recall_is_what_theory_says(runtime: Runtime, bands: int | None, rows: int | None) -> None:
    num_pairs, size = 300, 200
    for tenth in range(3, 11):
        shared = round(size * tenth / 10)
        only, texts = (size - shared) // 2, []
        for pair in range(num_pairs):  # 1-grams: the set of words is the set of shingles
            common = [f"c{tenth}_{pair}_{i}" for i in range(shared)]
            texts += [" ".join(common + [f"{side}{tenth}_{pair}_{i}" for i in range(only)]) for side in "lr"]
        verdicts, _ = decide([[document(i, text) for i, text in enumerate(texts)]], NearDedup(ngram=1, bands=bands, rows=rows), runtime)
        jaccard = shared / (shared + 2 * only)
        chance = 1 - (1 - jaccard ** (rows or 10)) ** (bands or 25)
        error = (chance * (1 - chance) / num_pairs) ** 0.5
        # Sets are finite, so that the agreement of two signatures is spread a little less than theory's.
        assert abs(len(dropped(verdicts)) / num_pairs - chance) <= 4 * error + 0.01


@pytest.mark.parametrize("knobs", [{"bands": 25}, {"rows": 10}, {"bands": 26, "rows": 10}])
def test_a_banding_that_does_not_fit_is_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="bands and rows go together|26 bands of 10 rows need 260 permutations"):
        NearDedup(**knobs)


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


@pytest.mark.slow
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
    _, clusters = decide([rows], NearDedup(survivor=("stars asc",)), runtime)
    reasons = {member["doc_id"]: (member["cluster_id"], member["reason"]) for member in clusters.read().to_pylist()}
    assert reasons[rows[1]["doc_id"]] == (rows[0]["doc_id"], "stars 80 < 120")


def test_documents_dropped_before_take_no_part(runtime: Runtime) -> None:
    rows = [document(1, TEXT, stars=9), document(2, TEXT), document(3, "unlike anything else in this small corpus"), document(4, TEXT)]
    before = Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))
    live = Docs([type(s)(s.data, before.verdicts([False, True, True, True]).read()) for s in before.sources])
    signed = signatures.function(live, Shingling(), runtime)
    assert signed.num_rows == 3
    verdicts, clusters = near_dedup.function(live, signed, None, NearDedup(), runtime)
    survivor = min(rows[1]["doc_id"], rows[3]["doc_id"])
    assert verdicts.read().column("keep").to_pylist() == [None, rows[1]["doc_id"] == survivor, True, rows[3]["doc_id"] == survivor]
    assert set(clusters.read().column("cluster_id").to_pylist()) == {survivor}


GPL, MIT, NONE, UNKNOWN = "non-permissive", "permissive", "no-license", "unknown-license"


def licensed(*classes: str | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Copies of one text under the given licence classes."""
    rows = [document(i, TEXT, stars=100 - i) for i in range(len(classes))]
    return rows, {row["doc_id"]: name for row, name in zip(rows, classes, strict=True) if name is not None}


def test_the_least_strict_licence_wins(runtime: Runtime) -> None:
    rows, classes = licensed(GPL, UNKNOWN, None, NONE, MIT)
    _, clusters = decide([rows[:2], rows[2:]], NearDedup(), runtime, classes)
    members = {member["doc_id"]: member for member in clusters.read().to_pylist()}
    assert {member["cluster_id"] for member in members.values()} == {rows[4]["doc_id"]}
    assert [members[row["doc_id"]]["reason"] for row in rows] == [
        "license_class permissive before non-permissive",
        "license_class permissive before unknown-license",
        "license_class permissive before unknown",
        "license_class permissive before no-license",
        "license_class permissive before no-license",
    ]
    assert [members[row["doc_id"]]["license_class"] for row in rows] == [GPL, UNKNOWN, None, NONE, MIT]


@pytest.mark.parametrize("classes", [(MIT, GPL), (MIT, MIT, NONE), (MIT, None, UNKNOWN)])
def test_a_cluster_of_several_licence_classes_is_reported_and_by_the_strictest_policy_dropped(
    classes: tuple[str | None, ...], runtime: Runtime
) -> None:
    rows, named = licensed(*classes)
    rows.append(document(77, "a file that resembles no other file of this corpus"))
    verdicts, clusters = decide([rows], NearDedup(), runtime, named)
    assert all(clusters.read().column("has_license_conflict").to_pylist())
    assert runtime.notes["clusters_with_license_conflict"] == 1
    assert len(dropped(verdicts)) == len(classes) - 1

    verdicts, clusters = decide([rows], NearDedup(license_conflicts="strictest"), runtime, named)
    assert {(row["rule"], row["keep"]) for row in verdicts.read().to_pylist()[:-1]} == {("license-conflict", False)}
    assert verdicts.read().column("keep").to_pylist()[-1]
    assert {(member["is_survivor"], member["reason"]) for member in clusters.read().to_pylist()} == {
        (False, "none stays: licence classes differ")
    }


@pytest.mark.parametrize("classes", [(GPL, GPL), (None, MIT, MIT), (None, None)])
def test_copies_under_one_licence_class_are_no_conflict(classes: tuple[str | None, ...], runtime: Runtime) -> None:
    rows, named = licensed(*classes)
    verdicts, clusters = decide([rows], NearDedup(license_conflicts="strictest"), runtime, named)
    assert not any(clusters.read().column("has_license_conflict").to_pylist())
    assert runtime.notes["clusters_with_license_conflict"] == 0
    assert len(dropped(verdicts)) == len(classes) - 1


def test_the_report_says_what_trusting_collisions_would_cost(corpus: list[dict[str, Any]], runtime: Runtime) -> None:
    trusting, _ = decide([corpus], NearDedup(threshold=0.5), runtime)
    assert runtime.notes["duplicates"] == len(dropped(trusting))
    assert (runtime.notes["bands"], runtime.notes["rows"]) == optimal_bands(0.5, 256)
    verified, _ = decide([corpus], NearDedup(threshold=0.5, verify="exact"), runtime)
    assert runtime.notes["duplicates"] == len(dropped(verified)) < len(dropped(trusting))
    assert runtime.notes["duplicates_if_collisions_were_trusted"] == len(dropped(trusting))


OTHER_SCRIPTS = [
    "# 数据管道\n\n本项目从源代码仓库中提取文本，并去除重复的文件。每个步骤都可以单独运行，结果会被缓存。\n",
    "# 烹饪手册\n\n先把土豆洗净切块，然后放入锅中煮二十分钟。最后加盐和胡椒，趁热食用味道最好。\n",
    "# Конвейер\n\nЭта программа читает исходные тексты и удаляет повторы; каждый шаг можно запустить отдельно от других.\n",
    "# Погода\n\nЗавтра утром ожидается туман, днём облачно с прояснениями, к вечеру возможен небольшой дождь и ветер.\n",
    "用 Python 写程序，先装 Python，再学 Python 的语法，然后用 Python 读文件，最后让 Python 画图，再见 Python 朋友们。",
    "蛇有很多种，Python 是其中之一；动物园里的 Python 很大，昨天那条 Python 吃了东西，今天 Python 睡了，孩子看 Python 笑，又来 Python 了。",
    "👩👩👩 ☂☂☂☂ ⛵⛵⛵⛵⛵⛵",
    "☃☃☃☃☃☃☃☃☃ ✈✈✈ ⚓⚓⚓⚓⚓⚓",
    "++++++++++++++++",
    "----------------",
]


@pytest.mark.parametrize("words", ["ascii", "unicode", "runs"])
@pytest.mark.parametrize("verify", ["none", "estimated", "exact"])
def test_of_texts_without_words_only_copies_go(words: Any, verify: Any, runtime: Runtime) -> None:
    rows = [document(i, text, "Markdown") for i, text in enumerate(OTHER_SCRIPTS * 2)]
    verdicts, _ = decide([rows], NearDedup(words=words, verify=verify, threshold=0.5), runtime)
    kept = {row["content"] for row, keep in zip(rows, verdicts.read().column("keep").to_pylist(), strict=True) if keep}
    assert kept == set(OTHER_SCRIPTS)
    assert len(dropped(verdicts)) == len(OTHER_SCRIPTS)


@pytest.mark.slow
def test_empty_words_count_as_published_and_runs_have_none(runtime: Runtime) -> None:
    """What the published words find similar, for the many brackets that both have, is not by its words alone."""
    rows = [document(i, " ".join(f"{name}_{i}(({{[{name}]}}));" if j < 3 else name for j, name in enumerate("abcdefgh"))) for i in range(2)]
    one, other = (row["content"] for row in rows)
    expected = {}
    for words in ("ascii", "runs"):
        left, right = (set(shingles(text, 2, words)) for text in (one, other))
        expected[words] = len(left & right) / len(left | right)
        cfg = NearDedup(words=words, verify="exact", ngram=2, threshold=0.01, bands=256, rows=1)
        _, clusters = decide([rows], cfg, runtime)
        assert min(clusters.read().column("jaccard").to_pylist()) == expected[words]
    assert expected["ascii"] > expected["runs"]
    about = NearDedup.model_fields["words"].description or ""
    assert "empty words count" in about


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


@given(
    texts=st.lists(st.sampled_from(HOSTILE), max_size=12), cut=st.integers(0, 12), verify=st.sampled_from(["none", "estimated", "exact"])
)
@settings(deadline=None, max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_texts_unite_exactly_with_those_of_the_same_shingles(texts: list[str], cut: int, verify: Any, runtime: Runtime) -> None:
    rows = [document(i, text) for i, text in enumerate(texts)]
    groups = defaultdict(list)
    for row in rows:
        groups[frozenset(shingles(row["content"], 5))].append(row["doc_id"])
    verdicts, _ = decide([rows[:cut], rows[cut:]], NearDedup(threshold=0.99, verify=verify), runtime)
    assert dropped(verdicts) == {doc_id for group in groups.values() for doc_id in group if doc_id != min(group)}


@pytest.mark.parametrize("parts", [[], [[]], [[], []]])
@pytest.mark.parametrize("verify", ["none", "estimated", "exact"])
def test_an_empty_corpus_gives_empty_artifacts(parts: list[Any], verify: Any, runtime: Runtime) -> None:
    verdicts, clusters = decide(parts, NearDedup(verify=verify), runtime)
    assert len(verdicts.parts) == len(clusters.parts) == len(parts)
    assert verdicts.read().equals(Verdicts.SCHEMA.empty_table())
    assert clusters.read().equals(Clusters.SCHEMA.empty_table())
