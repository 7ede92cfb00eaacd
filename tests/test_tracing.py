"""What `trace` says, against plain loops over the same artifacts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.lineage.errors import InputError
from starloom.lineage.records import Artifact
from starloom.lineage.store import Store
from starloom.queries.rows import Rows
from starloom.queries.showing import show
from starloom.queries.showing_clusters import COMPARED_LINES, SHOWN_DIFFERENCES, differences
from starloom.queries.tracing import trace
from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES
from tests.history import EMAIL
from tests.sizes import examples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(history):
    return Store.open(str(history / "store"))


def rows_of(store, run, step, kind):
    """All rows of an output, as dictionaries; where they have no `part` and `row` of their own, with those that they lie in."""
    reader, artifact = Rows(store), store.run(run).step(step).outputs[kind]["artifact"]
    return [{"part": part, "row": at, **row} for part, table in reader.tables(artifact, None) for at, row in enumerate(table.to_pylist())]


def reference_fates(store, run):
    """doc_id → (step, rule) that dropped it, or None."""
    fates: dict[str, Any] = {row["doc_id"]: None for row in rows_of(store, run, "ingest", "Docs")}
    for step in store.run(run).steps:
        if "Verdicts" in step.outputs:
            for row in rows_of(store, run, step.name, "Verdicts"):
                if row["keep"] is False:
                    assert fates[row["doc_id"]] is None, "dropped twice"
                    fates[row["doc_id"]] = (step.name, row["rule"])
    return fates


def event(story, name):
    (found,) = [e for e in story["events"] if e["event"] == name]
    return found


# Rows


@settings(max_examples=examples(30))
@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_rows_are_taken_by_position_however_the_part_is_grouped(tmp_path_factory, num_rows, rows_per_group, data):
    store = Store.open(str(tmp_path_factory.mktemp("s")))
    table = pa.table({"doc_id": [f"{i % 7:032x}" for i in range(num_rows)], "n": list(range(num_rows))})
    empty = store.put_table("Docs", table.slice(0, 0), rows_per_group)
    name = store.put_artifact(Artifact("Docs", (empty, store.put_table("Docs", table, rows_per_group))))
    positions = sorted(data.draw(st.sets(st.integers(0, num_rows - 1))))
    rows = Rows(store)
    assert rows.take(name, 1, positions, ["n"]).column("n").to_pylist() == positions
    wanted = data.draw(st.sets(st.integers(0, 7)))
    found = rows.of_documents(name, pa.array([f"{i:032x}" for i in wanted], pa.string()), ["doc_id", "n"]).to_pylist()
    assert [(row["part"], row["row"], row["n"]) for row in found] == [(1, n, n) for n in range(num_rows) if n % 7 in wanted]
    for doc in wanted:
        assert [row["n"] for row in rows.of_document(name, f"{doc:032x}", ["n"], None)] == [n for n in range(num_rows) if n % 7 == doc]


# Documents


@pytest.mark.parametrize("run", ["strict", "lenient"])
def test_every_document_has_the_fate_that_its_verdicts_say(store, run):
    fates = reference_fates(store, run)
    assert len({fate for fate in fates.values() if fate}) >= 4, "the planted corpus lost its variety"
    for doc_id, fate in fates.items():
        story = trace(store, doc_id, run_id=run)
        assert (story["kind"], story["document"]["doc_id"]) == ("document", doc_id)
        assert story["fate"].get("kept") == (fate is None)
        assert fate is None or (story["fate"]["step"], story["fate"]["rule"]) == fate


def test_a_dropped_document_s_story_ends_where_it_was_dropped(store):
    for doc_id, fate in reference_fates(store, "strict").items():
        if fate:
            story = trace(store, doc_id, run_id="strict")
            assert (story["events"][-1]["event"], story["events"][-1]["step"]) == ("dropped", fate[0])


@pytest.mark.parametrize(
    ("what", "step", "rule"),
    [
        ("repo3/src/copyleft.py", "license_filter", "contradicting-header"),
        ("repo5/src/minified.py", "quality_filter", "max-line-length"),
        ("repo0/LICENSE", "license_filter", "license-text"),
    ],
)
def test_planted_things_are_traced_to_the_step_that_caught_them(store, what, step, rule):
    fate = trace(store, what, run_id="strict")["fate"]
    assert (fate["step"], fate["rule"]) == (step, rule)


def test_a_limit_that_was_crossed_is_told_with_the_value(store):
    dropped = event(trace(store, "minified.py", run_id="strict"), "dropped")
    assert dropped["threshold"] == 2000 < dropped["value"]
    assert event(trace(store, "minified.py", run_id="strict"), "measured")["signals"]["max_line_length"] == dropped["value"]


@pytest.mark.parametrize(("rule", "step"), [("exact-duplicate", "exact_dedup"), ("near-duplicate", "near_dedup")])
def test_a_duplicate_names_its_survivor(store, rule, step):
    twins = {"src/module0.py", "src/copied.py", "src/resembling.py"}
    (doc_id,) = [d for d, fate in reference_fates(store, "strict").items() if fate == (step, rule)]
    story = trace(store, doc_id, run_id="strict")
    survivor = event(story, "dropped")["survivor"]
    assert {story["document"]["path"], survivor["path"]} < twins
    assert story["document"]["repo"] != survivor["repo"]


def test_a_cluster_is_shown_with_its_members_and_their_differences(store):
    clusters = rows_of(store, "strict", "near_dedup", "Clusters")
    (survivor,) = [row for row in clusters if row["is_survivor"]]
    shown = show(store, f"cluster:{survivor['cluster_id'][:10]}", run_id="strict")
    assert [m["doc_id"] for m in shown["members"]] == [survivor["doc_id"], *(r["doc_id"] for r in clusters if not r["is_survivor"])]
    assert any("one more line" in line for line in shown["members"][1]["differences"])
    assert event(trace(store, survivor["doc_id"], run_id="strict"), "clustered")["num_members"] == len(clusters) == 2
    with pytest.raises(InputError, match="found no cluster"):
        show(store, f"cluster:{survivor['cluster_id'][:10]}", run_id="lenient")


def test_a_cluster_tells_of_each_member_what_the_steps_wrote(store):
    licenses = {row["doc_id"]: row for row in rows_of(store, "strict", "license_filter", "Licenses")}
    for step in ("exact_dedup", "near_dedup"):
        clusters = {row["doc_id"]: row for row in rows_of(store, "strict", step, "Clusters")}
        (name,) = {row["cluster_id"] for row in clusters.values()}
        shown = show(store, f"cluster:{step}/{name}", run_id="strict")
        assert (shown["step"], shown["license_classes"], shown["license_conflict"]) == (step, {"permissive": len(clusters)}, None)
        assert shown["members"][0]["doc_id"] == shown["survivor"] == name
        assert {m["doc_id"] for m in shown["members"]} == clusters.keys()
        for member in shown["members"]:
            row = clusters[member["doc_id"]]
            assert all(member[column] == row[column] for column in row if column not in ("part", "row"))
            assert member["license_evidence"] == licenses[member["doc_id"]]["evidence"] == "MIT (LICENSE, line 1)"
            events = trace(store, member["doc_id"], run_id="strict")["events"]
            (told,) = [e for e in events if (e["event"], e["step"]) == ("clustered", step)]
            assert all(told[column] == row[column] for column in ("license_class", "has_license_conflict", "jaccard", "reason"))
            assert told["license_classes"] == shown["license_classes"]


_LINE = st.text(st.sampled_from("ab \r\t\f\x85\u2028"), max_size=3)
_TEXTS = st.lists(_LINE, max_size=8).map("\n".join)


@given(_TEXTS, _TEXTS)
def test_differences_are_told_exactly_where_texts_differ(old, new):
    lines, has_more = differences(old, new, ("old", "new"))
    assert (lines == []) == (old == new)
    assert not has_more
    changed = [line for line in lines[2:] if not line.startswith("@@")]
    gone, come = ([line[1:] for line in changed if line[0] == sign] for sign in "-+")
    before, after = Counter(old.split("\n")), Counter(new.split("\n"))
    assert before - Counter(gone) == after - Counter(come), "what is neither taken away nor added is in both"


@pytest.mark.parametrize(("changed_line", "told"), [(0, True), (COMPARED_LINES - 1, True), (COMPARED_LINES, False)])
def test_long_texts_are_compared_as_far_as_is_said(changed_line, told):
    old = [f"line {i}" for i in range(COMPARED_LINES + 5)]
    new = [*old]
    new[changed_line] = "x" * 10_000
    lines, has_more = differences("\n".join(old), "\n".join(new), ("old", "new"))
    assert (lines != [], has_more) == (told, not told)
    assert max(map(len, lines), default=0) < 300
    lines, has_more = differences("\n".join(old), "\n".join(line.upper() for line in old), ("old", "new"))
    assert (len(lines), has_more) == (SHOWN_DIFFERENCES, True)


def test_a_redaction_is_told_by_place_and_never_by_value(store):
    for run in ("strict", "lenient"):
        story = trace(store, "repo4/src/author.py", run_id=run)
        (redaction,) = event(story, "rewritten")["redactions"]
        original = f'AUTHOR = "{EMAIL}"\n'
        assert (redaction["entity"], original[redaction["start"] : redaction["end"]]) == ("EMAIL", EMAIL)
        assert EMAIL not in json.dumps(story, default=str)
        assert EMAIL not in show(store, f"doc:{story['document']['doc_id']}", run_id=run)["text"]


def test_a_file_that_never_became_a_document_is_told_with_the_reason(store):
    found = trace(store, "repo4/src/blob.py")
    assert found["kind"] == "skipped"
    assert [(file["repo"], file["path"], file["rule"]) for file in found["skipped"]] == [("repo4", "src/blob.py", "binary")]


def test_sequences_and_training_steps_of_a_document_are_those_of_its_spans(store):
    spans, batches = rows_of(store, "strict", "pack_fim", "Spans"), rows_of(store, "strict", "train_model", "Batches")
    seen_any = 0
    for doc_id, fate in reference_fates(store, "strict").items():
        story = trace(store, doc_id, run_id="strict")
        mine = {(span["part"], span["sequence"]) for span in spans if span["doc_id"] == doc_id}
        packed = [e for e in story["events"] if e["event"] == "packed"]
        assert bool(packed) == (fate is None)
        if fate is None:
            assert {s["sequence"] for s in packed[0]["sequences"]} == {f"{part}:{row}" for part, row in mine}
            expected = [(b["step"], f"{b['part']}:{b['row']}") for b in batches if (b["part"], b["row"]) in mine]
            assert sorted((s["step"], s["sequence"]) for s in event(story, "trained")["seen"]) == sorted(expected)
            seen_any += len(expected)
    assert seen_any


# Names


def test_a_name_is_taken_for_the_first_thing_that_it_can_be(store):
    doc_id = trace(store, "repo0/src/module1.py")["document"]["doc_id"]
    assert trace(store, doc_id[:8])["document"]["doc_id"] == doc_id
    assert trace(store, f"doc:{doc_id[:8]}")["document"]["doc_id"] == doc_id
    assert trace(store, "repo0")["kind"] == trace(store, "repo:repo0")["kind"] == "repository"
    assert trace(store, "0:0")["kind"] == trace(store, "seq:0:0")["kind"] == "sequence"
    assert trace(store, "copyleft.py")["document"]["path"] == "src/copyleft.py"
    assert trace(store, "path:src/copyleft.py")["document"]["path"] == "src/copyleft.py"


def test_a_path_of_several_documents_lists_them_with_their_fates(store):
    found = trace(store, "src/module0.py", run_id="strict")
    assert (found["kind"], found["num_documents"]) == ("documents", 6)
    fates = reference_fates(store, "strict")
    for document in found["documents"]:
        fate = fates[document["doc_id"]]
        assert document["dropped"] == (f"{fate[0]} {fate[1]}" if fate else None)
    assert len(trace(store, "src/module0.py", run_id="strict", limit=2)["documents"]) == 2


def test_a_path_matches_at_a_border_of_folders_only(store):
    with pytest.raises(InputError):
        trace(store, "yleft.py")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("repoo3", "did you mean 'repo3'"),
        ("nothing/like/this.py", "has nothing named"),
        ("seq:99:0", "no sequence 99:0"),
        ("seq:0:100000", "no sequence 0:100000"),
        ("seq:first", "names no sequence"),
        ("doc:xyz", "is not a doc_id"),
        ("deadbeefdeadbeef", "has nothing named"),
        ("checkpoint:feedfeed", "no checkpoint"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_remedy(store, what, words):
    with pytest.raises(InputError) as caught:
        trace(store, what)
    assert words in str(caught.value)
    assert caught.value.hint


# Repositories


@pytest.mark.parametrize("run", ["strict", "lenient"])
def test_a_repository_s_counts_are_those_of_its_documents(store, run):
    fates, docs = reference_fates(store, run), rows_of(store, run, "ingest", "Docs")
    spans = rows_of(store, run, "pack_fim", "Spans")
    for repo in sorted({doc["repo"] for doc in docs}):
        story, mine = trace(store, repo, run_id=run), {doc["doc_id"] for doc in docs if doc["repo"] == repo}
        left = len(mine)
        for step in story["steps"]:
            gone = [fates[d] for d in mine if fates[d] and fates[d][0] == step["step"]]
            left -= len(gone)
            assert (step["documents"], step["dropped"]) == (left, len(gone))
            assert step["rules"] == {rule: [g[1] for g in gone].count(rule) for _, rule in gone}
        assert (story["num_documents"], story["num_kept"]) == (len(mine), left)
        assert {d["doc_id"] for d in story["dropped"]} == {d for d in mine if fates[d]}
        text = [s for s in spans if s["doc_id"] in mine and s["role"] in DOCUMENT_ROLES]
        (packing,) = story["training"]
        assert packing["tokens"] == sum(s["token_end"] - s["token_start"] for s in text)
        assert packing["sequences"] == len({(s["part"], s["sequence"]) for s in text})


def test_files_of_a_repository_that_were_skipped_are_counted(store):
    assert trace(store, "repo4")["skipped"] == {"num_files": 1, "rules": {"binary": 1}}


# Training


@pytest.mark.parametrize("until", [None, 0, 3, 10_000])
def test_a_checkpoint_s_documents_are_those_of_the_sequences_seen_by_then(store, until):
    spans = rows_of(store, "strict", "pack_fim", "Spans")
    batches = [b for b in rows_of(store, "strict", "train_model", "Batches") if until is None or b["step"] <= until]
    steps = {}
    for batch in batches:
        steps.setdefault((batch["part"], batch["row"]), []).append(batch["step"])
    expected = {}
    for span in spans:
        seen = steps.get((span["part"], span["sequence"]), [])
        if seen and span["role"] in DOCUMENT_ROLES:
            entry = expected.setdefault(span["doc_id"], {"tokens": 0, "tokens_seen": 0, "sequences": set(), "steps": []})
            tokens = span["token_end"] - span["token_start"]
            entry["tokens"] += tokens
            entry["tokens_seen"] += tokens * len(seen)
            entry["sequences"].add(span["sequence"])
            entry["steps"] += seen
    found = trace(store, "checkpoint", until_step=until)
    told = {d["doc_id"]: d for d in found["documents"]}
    assert told.keys() == expected.keys()
    assert expected
    for doc_id, entry in expected.items():
        document = told[doc_id]
        assert (document["tokens"], document["tokens_seen"]) == (entry["tokens"], entry["tokens_seen"])
        assert document["sequences"] == len(entry["sequences"])
        assert (document["first_step"], document["last_step"]) == (min(entry["steps"]), max(entry["steps"]))
        assert document["license"] == "MIT (LICENSE, line 1)"
    assert found["num_sequences"] == len(steps)
    assert found["num_documents"] == len(expected)
    assert sum(total["tokens"] for total in found["repositories"]) == found["tokens"]
    assert found["checkpoint"]["last_step"] == max(b["step"] for b in batches)


def test_held_out_documents_are_not_in_the_checkpoint(store):
    heldout = {(r["part"], r["row"]) for r in rows_of(store, "strict", "pack_fim", "Packed") if r["split"] == "heldout"}
    assert heldout
    ids = {s["doc_id"] for s in rows_of(store, "strict", "pack_fim", "Spans") if (s["part"], s["sequence"]) in heldout} - {None}
    assert not ids & {d["doc_id"] for d in trace(store, "checkpoint")["documents"]}
    assert event(trace(store, next(iter(ids)), run_id="strict"), "trained")["seen"] == []


def test_a_checkpoint_is_found_by_its_hash_and_its_run_by_itself(store):
    artifact = store.run("strict").step("train_model").outputs["Checkpoint"]["artifact"]
    for what in ("checkpoint", "checkpoint:", artifact[:8], f"checkpoint:{artifact[:12]}"):
        assert trace(store, what)["checkpoint"]["artifact"] == artifact  # although `lenient` is newer, and never trained
    with pytest.raises(InputError, match="no checkpoint"):
        trace(store, "checkpoint", run_id="lenient")


def test_a_sequence_s_text_is_the_bytes_of_its_documents(store):
    texts = {d["doc_id"]: d["content"].encode() for d in rows_of(store, "strict", "redact_pii", "Docs")}
    batches = rows_of(store, "strict", "train_model", "Batches")
    packed = rows_of(store, "strict", "pack_fim", "Packed")
    for sequence in packed[:: max(1, len(packed) // 12)]:
        part, row = sequence["part"], sequence["row"]
        found = trace(store, f"{part}:{row}", run_id="strict")
        edges = [0, *(span["token_end"] for span in found["spans"])]
        assert [span["token_start"] for span in found["spans"]] == edges[:-1]
        assert edges[-1] == len(sequence["tokens"]) == found["sequence"]["num_tokens"]
        for span in found["spans"]:
            if span["byte_start"] is not None:
                assert span["text"] == texts[span["doc_id"]][span["byte_start"] : span["byte_end"]].decode("utf-8", "replace")
                assert span["repo"]
                assert span["path"]
        assert [s["step"] for s in found["seen"]] == [b["step"] for b in batches if (b["part"], b["row"]) == (part, row)]
