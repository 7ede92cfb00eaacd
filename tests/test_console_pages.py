"""What the console's pages show, against the queries that they ask."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex

import pyarrow.parquet as pq
import pytest

from starloom.cli import main
from starloom.console.formats import amount
from starloom.lineage.store import Store
from starloom.queries.finding import find_all
from starloom.queries.rows import Rows
from starloom.queries.sampling import rules, sample, values
from starloom.queries.showing import show
from starloom.queries.showing_clusters import show_cluster, show_conflicts
from starloom.queries.tracing import trace
from starloom.queries.viewing import view_document, view_sequence
from tests.console_client import client_of, parse
from tests.history import EMAIL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(history):
    return Store.open(str(history / "store"))


@pytest.fixture(scope="module")
def client(store):
    return client_of(store.url)


@pytest.fixture(scope="module")
def names(store):
    """Things of the store to ask about."""
    strict = store.run("strict")
    clusters = strict.step("near_dedup").outputs["Clusters"]["artifact"]
    copied = strict.step("exact_dedup").outputs["Clusters"]["artifact"]
    copies = next(row["cluster_id"] for _, table in Rows(store).tables(copied, None) for row in table.to_pylist())
    return {
        "strict": strict.id,
        "lenient": store.run("lenient").id,
        "minified": trace(store, "repo5/src/minified.py", run_id="strict")["document"]["doc_id"],
        "kept": trace(store, "repo0/src/module1.py", run_id="strict")["document"]["doc_id"],
        "author": trace(store, "repo4/src/author.py", run_id="strict")["document"]["doc_id"],
        "swhid": trace(store, "repo0/src/module1.py", run_id="strict")["document"]["swhid"],
        "cluster": next(row["cluster_id"] for _, table in Rows(store).tables(clusters, None) for row in table.to_pylist()),
        "copies": copies,
        "checkpoint": strict.step("train_model").outputs["Checkpoint"]["artifact"],
        "docs": strict.step("ingest").outputs["Docs"]["artifact"],
        "verdicts": strict.step("quality_filter").outputs["Verdicts"]["artifact"],
        "packed": strict.step("pack_fim").outputs["Packed"]["artifact"],
    }


def plain(value):
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


ADDRESSES = [
    "/runs",
    "/runs/strict",
    "/runs/{lenient}",
    "/runs/strict/steps/ingest",
    "/runs/strict/steps/quality_filter",
    "/runs/strict/steps/near_dedup",
    "/runs/strict/steps/redact_pii",
    "/runs/strict/steps/pack_fim",
    "/runs/strict/steps/train_model",
    "/runs/strict/steps/quality_filter/sample",
    "/runs/strict/steps/license_filter/sample?rule=contradicting-header",
    "/runs/strict/steps/near_dedup/sample?kept=1&n=3",
    "/documents/{minified}?run=strict",
    "/documents/{kept}?run=strict",
    "/documents/{author}?run=strict",
    "/sequences/0:0?run=strict",
    "/checkpoints/{checkpoint}",
    "/checkpoints/train_model?run=strict&step=1",
    "/clusters/{cluster}?run=strict",
    "/conflicts?run=strict",
    "/repositories/repo0?run=strict",
    "/artifacts/{docs}",
    "/artifacts/{verdicts}",
    "/artifacts/{packed}",
    "/artifacts/{checkpoint}",
    "/find",
    "/find?q=module1.py&run=strict",
    "/api",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_page_answers_in_every_form(client, names, address):
    address = address.format(**names)
    page = client.get(address)
    assert page.status_code == 200, page.text
    seen = parse(page.text)
    assert {name for name, _ in seen.elements} >= {"html", "main", "h1", "footer", "nav"}
    assert all(href.startswith(("/", "#")) and not href.startswith("//") for href in seen.hrefs()), "only pages of ours are linked to"
    assert not [attributes for _, attributes in seen.elements if "style" in attributes or any(name.startswith("on") for name in attributes)]
    joint = "&" if "?" in address else "?"
    assert client.get(f"{address}{joint}format=json").json()
    taken = {href for href in seen.hrefs() if "format=csv" in href}
    for href in taken:
        rows = list(csv.reader(io.StringIO(client.get(href).text)))
        table = pq.read_table(io.BytesIO(client.get(href.replace("format=csv", "format=parquet")).content))
        assert rows[0] == table.column_names
        assert [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()] == rows[1:]


def test_links_of_pages_lead_to_pages(client, names):
    wanted = {address.format(**names) for address in ADDRESSES if "find" not in address}
    linked = set().union(*(parse(client.get(address).text).hrefs() for address in wanted))
    kinds = {}
    for href in sorted(linked - {"#main"}):
        kinds.setdefault(href.partition("?")[0].split("/")[1], []).append(href)
    for hrefs in kinds.values():
        for href in hrefs[:12]:
            assert client.get(href).status_code in (200, 303), href


def test_data_of_pages_is_what_the_queries_say(client, store, names):
    strict = names["strict"]
    step = {**show(store, f"{strict}/quality_filter"), "rules": rules(store, strict, "quality_filter")}
    expected = {
        "/runs/strict": show(store, "strict"),
        "/runs/strict/steps/ingest": show(store, f"{strict}/ingest"),
        "/runs/strict/steps/quality_filter": {**step, "values": values(store, strict, "quality_filter")},
        "/runs/strict/steps/quality_filter/sample?seed=3&n=2": sample(
            store, strict, "quality_filter", kept=False, rule=None, number=2, seed=3
        ),
        f"/documents/{names['author']}?run=strict": view_document(store, names["author"], "strict"),
        "/sequences/0:1?run=strict": view_sequence(store, "0:1", "strict"),
        f"/checkpoints/{names['checkpoint']}": trace(store, f"checkpoint:{names['checkpoint']}"),
        "/checkpoints/train_model?run=strict&step=2&limit=3": trace(
            store, "checkpoint:train_model", run_id="strict", until_step=2, limit=3
        ),
        f"/clusters/{names['cluster']}?run=strict": show_cluster(store, names["cluster"], "strict"),
        "/conflicts?run=strict": show_conflicts(store, "strict"),
        "/repositories/repo3?run=strict": trace(store, "repo:repo3", run_id="strict"),
    }
    for address, found in expected.items():
        joint = "&" if "?" in address else "?"
        assert client.get(f"{address}{joint}format=json").json() == plain(found), address


def test_the_foot_of_a_page_names_the_command_that_gives_the_same(client, names, capsys):
    for address in (
        "/runs/strict",
        f"/documents/{names['kept']}?run=strict",
        "/sequences/0:0?run=strict",
        "/conflicts?run=strict",
        "/runs",
    ):
        page = client.get(address)
        (command,) = [line for line in page.text.splitlines() if 'class="command"' in line]
        words = shlex.split(parse(command).text.partition("starloom ")[2])
        assert main([*words, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        joint = "&" if "?" in address else "?"
        data = client.get(f"{address}{joint}format=json").json()
        if address == "/runs":
            assert data["runs"] == told["runs"][::-1]
        elif "sequences" in address:
            assert [{name: value for name, value in span.items() if name != "tokens"} for span in data["spans"]] == told["spans"]
        else:
            assert {name: data[name] for name in told} == told


def test_the_list_of_runs_is_filtered_and_paged(client, store):
    everything = client.get("/runs?format=json").json()
    assert [row["run"] for row in everything["runs"]] == store.run_ids()[::-1]
    assert client.get("/runs?format=json&status=failed").json()["num_runs"] == 0
    assert client.get("/runs?format=json&recipe=test&page=9").json()["page"] == 1
    assert client.get("/runs?page=0").status_code == 400


def test_an_artifact_names_its_makers_and_users(client, store, names):
    found = client.get(f"/artifacts/{names['docs']}?format=json").json()
    runs = store.run_ids()
    assert found["made_by"] == [f"{run}/ingest" for run in runs[::-1]]
    assert set(found["used_by"]) >= {f"{run}/{step}" for run in runs for step in ("license_filter", "redact_pii", "near_dedup")}
    assert found["rows"] == plain(show(store, f"artifact:{names['docs']}", num_rows=10)["rows"])
    page = parse(client.get(f"/artifacts/{names['verdicts']}").text)
    assert f"/runs/{names['strict']}/steps/quality_filter" in page.hrefs()


def test_a_document_s_page_marks_why_it_was_dropped(client, names):
    page = parse(client.get(f"/documents/{names['minified']}?run=strict").text)
    (mark,) = [attributes for name, attributes in page.elements if name == "mark" and attributes["class"] == "offence"][:1]
    assert mark["title"].startswith("4,005 characters")
    assert "max-line-length" in page.text


def test_a_redaction_is_marked_where_it_stands_and_never_told(client, names, store):
    answer = client.get(f"/documents/{names['author']}?run=strict")
    page = parse(answer.text)
    marks = [attributes["title"] for name, attributes in page.elements if name == "mark"]
    assert marks
    assert all("EMAIL redacted by" in title for title in marks)
    marked = answer.text.split('<mark class="redaction"')[1].partition("</mark>")[0]
    (span,) = next(e for e in trace(store, names["author"], run_id="strict")["events"] if e["event"] == "rewritten")["redactions"]
    text = show(store, f"doc:{names['author']}", run_id="strict")["text"].encode()
    assert parse(f"<mark{marked}</mark>").text in text[span["new_start"] : span["new_end"]].decode()
    for form in ("html", "json"):
        assert EMAIL not in client.get(f"/documents/{names['author']}?run=strict&format={form}").text


def test_members_of_a_cluster_stand_side_by_side_and_say_how_alike_they_are(client, store, names):
    doc = next(each["doc_id"] for each in show_cluster(store, names["cluster"], "strict")["members"] if each["aligned"])
    found = show_cluster(store, f"near_dedup/{names['cluster']}", "strict", 0, also=doc)
    (told,) = [member for member in found["members"] if member["aligned"]]
    assert told["doc_id"] == doc, "the document that is looked at is compared, however many others there are"
    for address in (f"/documents/{doc}?run=strict", f"/clusters/{names['cluster']}?run=strict&step=near_dedup"):
        answer = client.get(address).text
        page = parse(answer)
        rows = [attributes.get("class") for name, attributes in page.elements if name == "tr"]
        assert (rows.count("come"), rows.count("gone")) == (told["aligned"]["num_come"], told["aligned"]["num_gone"])
        assert rows.count("come") + rows.count("gone") == 2
        assert "# one more line" in page.text
        assert f"Jaccard {amount(told['jaccard'])}, estimated from signatures; " in page.text
        assert not re.search(r"<(del|ins)></", answer)
        regions = [attributes for _, attributes in page.elements if attributes.get("aria-label", "").startswith("Difference of repo")]
        assert [region["tabindex"] for region in regions] == ["0"], "scrolled by keyboard"


def test_bytes_of_a_document_are_marked(client, names, store):
    text = show(store, f"doc:{names['kept']}", run_id="strict")["text"]
    answer = client.get(f"/documents/{names['kept']}?run=strict&start=4&end=9").text
    marks = "".join(parse(f"<mark{piece.partition('</mark>')[0]}</mark>").text for piece in answer.split("<mark")[1:])
    assert marks == text.encode()[4:9].decode()


def test_every_token_of_a_sequence_leads_to_its_bytes(client, store, names):
    found = view_sequence(store, "0:0", "strict")
    for span in found["spans"]:
        if span["byte_start"] is not None:
            assert "".join(token["text"] for token in span["tokens"]) == span["text"]
            assert (span["tokens"][0]["byte_start"], span["tokens"][-1]["byte_end"]) == (span["byte_start"], span["byte_end"])
            content = show(store, f"doc:{span['doc_id']}", run_id="strict")["text"].encode()
            assert all(content[t["byte_start"] : t["byte_end"]].decode() == t["text"] for t in span["tokens"])
    hrefs = parse(client.get("/sequences/0:0?run=strict").text).hrefs()
    token = next(token for span in found["spans"] if span["byte_start"] is not None for token in span["tokens"])
    assert any(f"start={token['byte_start']}&end={token['byte_end']}" in href for href in hrefs)


def test_tokens_are_told_as_their_bytes_decode_and_no_byte_alphabet_shows(client, store):
    """Ċ, Ġ and the like are the byte-level tokenizer's letters for bytes: they stand in no text of the corpus."""
    run = store.run("strict")
    num_special = num_ends = 0
    for row in range(4):
        found = view_sequence(store, f"0:{row}", run.id)
        answer = client.get(f"/sequences/0:{row}?run=strict").text
        shown = parse(answer)
        assert not {"Ċ", "Ġ", "ĉ"} & set(shown.text)
        for span in found["spans"]:
            words = [token["text"] for token in span["tokens"]]
            if span["role"] in ("metadata", "sentinel", "eod"):
                assert "".join(words) == span["text"]
            for token in span["tokens"]:
                assert token["is_special"] is (token["text"].startswith("<") and token["text"].endswith(">") and len(token["text"]) > 2)
                num_special += token["is_special"]
                num_ends += token["text"].count("\n")
        chips = [attributes for name, attributes in shown.elements if name == "span" and attributes.get("class") == "chip special"]
        assert len(chips) == sum(token["is_special"] for span in found["spans"] for token in span["tokens"])
        assert answer.count('<span class="line-end">⏎</span>\n') == sum(
            token["text"].count("\n") for span in found["spans"] for token in span["tokens"]
        )
    assert num_special
    assert num_ends


def test_checkpoints_tell_what_was_new_at_each_stretch_of_steps(client, store, names):
    found = trace(store, f"checkpoint:{names['checkpoint']}")
    assert sum(row["documents"] for row in found["steps"]) == found["num_documents"]
    assert sum(row["tokens"] for row in found["steps"]) == found["tokens"]
    firsts = [document["first_step"] for document in found["documents"]]
    for row in found["steps"]:
        first, _, last = row["name"].partition("-")
        assert row["documents"] == sum(int(first) <= step <= int(last or first) for step in firsts)


@pytest.mark.parametrize(
    ("words", "leads_to"),
    [
        ("strict", "/runs/{strict}"),
        ("{strict}", "/runs/{strict}"),
        ("strict/near_dedup", "/runs/{strict}/steps/near_dedup"),
        ("latest/ingest", "/runs/{lenient}/steps/ingest"),
        ("repo3", "/repositories/repo3?run={lenient}"),
        ("repo5/src/minified.py", "/documents/{minified}?run={lenient}"),
        ("minified.py", "/documents/{minified}?run={lenient}"),
        ("{minified}", "/documents/{minified}?run={lenient}"),
        ("  {swhid} ", "/documents/{kept}?run={lenient}"),
        ("0:0", "/sequences/0:0?run={lenient}"),
        ("seq:0:0", "/sequences/0:0?run={lenient}"),
        ("{checkpoint}", "/checkpoints/{checkpoint}"),
        ("{docs}", "/artifacts/{docs}"),
        ("conflicts", "/conflicts?run={lenient}"),
        ("cluster:exact_dedup/", "/clusters/{copies}?run={lenient}&step=exact_dedup"),
    ],
)
def test_one_box_finds_everything(client, names, words, leads_to):
    answer = client.get("/find", params={"q": words.format(**names)})
    assert (answer.status_code, answer.headers["location"]) == (303, leads_to.format(**names))
    assert client.get(answer.headers["location"]).status_code == 200


def test_words_of_several_meanings_are_listed(client, store):
    found = find_all(store, "module1.py")
    assert len(found) > 1
    answer = client.get("/find", params={"q": "module1.py", "format": "json"}).json()
    assert [{name: value for name, value in each.items() if name != "address"} for each in answer["found"]] == plain(found)
    assert {each["address"] for each in answer["found"]} <= parse(client.get("/find", params={"q": "module1.py"}).text).hrefs()
    (skipped,) = find_all(store, "blob.py")
    assert (skipped["kind"], skipped["rule"]) == ("skipped", "binary")
    assert "binary" in client.get("/find", params={"q": "blob.py"}).text


@pytest.mark.parametrize(
    "words", ["repo9/nothing.py", "ffffffffffff", "9:9999999", "swh:1:cnt:" + "0" * 40, "doc:xyz", "run:", "' OR 1=1", "\0"]
)
def test_what_is_unknown_is_told_kindly(client, words):
    page = client.get("/find", params={"q": words})
    assert page.status_code == 404
    assert 'class="hint"' in page.text
    told = client.get("/find", params={"q": words, "format": "json"})
    assert told.status_code == 404
    assert told.json()["hint"]


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("/runs/strikt", "did you mean 'strict'?"),
        ("/runs/strict/steps/near_dup", "did you mean 'near_dedup'?"),
        ("/runs/strict/steps/pack_fim/sample", "known: "),
        ("/runs/strict/steps/quality_filter/sample?rule=max-line", "did you mean 'max-line-length'?"),
        ("/documents/ffffffffffffffff", "another run"),
        ("/documents/xyz", "hexadecimal"),
        ("/sequences/0:99999999?run=strict", "count from 0"),
        ("/sequences/abc", "part and row"),
        ("/checkpoints/ffffffffffff", "with --run"),
        ("/clusters/ffffffffffff", "survivor"),
        ("/artifacts/ffffffffffff", "six digits"),
        ("/artifacts/zz", "six digits"),
        ("/repositories/repoo1?run=strict", "did you mean 'repo1'?"),
        ("/runs?store=tset", "did you mean 'test'?"),
        ("/runs/strict?format=csv&table=stepps", "did you mean 'steps'?"),
    ],
)
def test_unknown_names_are_told_with_a_hint(client, address, hint):
    page = client.get(address)
    assert page.status_code == 404
    if "format=csv" not in address:
        assert 'class="hint"' in page.text
    joint = "&" if "?" in address else "?"
    told = client.get(address if "format=csv" in address else f"{address}{joint}format=json")
    assert told.status_code == 404
    assert hint in told.json()["hint"]


def test_a_run_that_goes_on_is_read_anew_and_one_that_was_removed_is_gone(store, tmp_path):
    from starloom.lineage.records import Run

    fresh = Store.open(str(tmp_path / "store"))
    client = client_of(fresh.url)
    run = Run("20250101-000000-000-r-0000", "r", "done", "2025-01-01T00:00:00")
    fresh.write_run(run)
    assert [row["finished"] for row in client.get("/runs?format=json").json()["runs"]] == [None]
    run.finished = "2025-01-01T00:00:01"
    fresh.write_run(run)
    assert [row["finished"] for row in client.get("/runs?format=json").json()["runs"]] == [run.finished]
    fresh.tag("kept", run.id)
    assert [row["tags"] for row in client.get("/runs?format=json").json()["runs"]] == [["kept"]]
    fresh.storage.delete(f"runs/{run.id}/run.json")
    assert client.get("/runs?format=json").json()["runs"] == []


def test_two_stores_have_pages_of_their_own(store, tmp_path, names):
    from fastapi.testclient import TestClient

    from starloom.console.app import create_app
    from starloom.console.settings import Settings
    from tests.console_client import BASE

    Store.open(str(tmp_path / "other"))
    client = TestClient(create_app(Settings(stores=(("other", str(tmp_path / "other")), ("full", store.url)))), base_url=BASE)
    assert client.get("/runs?format=json").json()["runs"] == []
    assert len(client.get("/runs?format=json&store=full").json()["runs"]) == len(store.run_ids())
    hrefs = parse(client.get(f"/runs/{names['strict']}?store=full").text).hrefs()
    inner = {href for href in hrefs if href.startswith(("/runs/", "/artifacts/", "/conflicts"))}
    assert inner
    assert all("store=full" in href for href in inner)


def test_answers_about_finished_runs_are_asked_once(store, monkeypatch, names):
    import starloom.console.pages.checkpoints as pages
    from starloom.queries.tracing import trace

    asked = []

    def noted(*words, **more):
        asked.append(words)
        return trace(*words, **more)

    monkeypatch.setattr(pages, "trace", noted)
    client = client_of(store.url)
    first, second = (client.get(f"/checkpoints/{names['checkpoint']}").text for _ in range(2))
    assert first == second
    assert len(asked) == 1
    client.get(f"/checkpoints/{names['checkpoint']}?step=1")
    assert len(asked) == 2
