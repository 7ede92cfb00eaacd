"""The console's what-if page: the answer that the command gives, its form, curve and data."""

from __future__ import annotations

import csv
import io

import pytest

from starloom.flows.what_if import ask_run, parse_range
from starloom.lineage.store import Store
from tests.console_client import client_of, parse

pytestmark = pytest.mark.slow

PAGE = "/runs/strict/steps/quality_filter/what-if"
SET = "rules.0.max=60"


@pytest.fixture(scope="module")
def store(history):
    return Store.open(str(history / "store"))


@pytest.fixture(scope="module")
def client(store):
    return client_of(store.url)


def test_the_page_tells_what_the_query_does(client, store):
    found, drawn = ask_run(store, "strict", "quality_filter", [SET], parse_range("rules.0.max=20..200:7"), limit=10)
    asked = {"set": SET, "sweep": "rules.0.max=20..200:7"}
    assert client.get(PAGE, params={**asked, "format": "json"}).json() == {**found, "sweep": drawn}
    assert found["newly_dropped"]["documents"] > 0
    page = parse(client.get(PAGE, params=asked).text)
    assert f"{found['newly_dropped']['documents']} documents newly dropped" in page.text
    assert next(attributes for name, attributes in page.elements if name == "polyline")["points"].count(",") == 7
    assert {attributes.get("name") for name, attributes in page.elements if name in ("textarea", "input")} >= {"set", "sweep"}
    assert not [attributes for _, attributes in page.elements if "style" in attributes or any(name.startswith("on") for name in attributes)]
    rows = list(csv.DictReader(io.StringIO(client.get(PAGE, params={**asked, "format": "csv", "table": "points"}).text)))
    assert [int(row["documents"]) for row in rows] == [point["documents"] for point in drawn["points"]]


def test_the_step_leads_to_it_and_it_to_its_numbers(client):
    step = parse(client.get("/runs/strict/steps/quality_filter").text)
    (address,) = [href for href in step.hrefs() if "what-if" in href]
    page = client.get(address)
    assert page.status_code == 200
    numbers = [href for href in parse(page.text).hrefs() if "what-if?" in href]
    assert numbers
    for href in numbers:
        assert client.get(href).status_code == 200, href


@pytest.mark.parametrize(
    ("step", "asked", "status", "told"),
    [
        ("quality_filter", {"set": "rule=[]"}, 400, "quality_filter.rule"),
        ("quality_filter", {"set": "rules"}, 400, "not of the form knob=value"),
        ("quality_filter", {"set": "rules.7.max=1"}, 400, "the list has 1 items"),
        ("quality_filter", {"set": "rules=[{signal: num_lines}]"}, 400, "neither min nor max"),
        ("quality_filter", {"sweep": "rules.0.max=1..x"}, 400, "not of the form"),
        ("quality_filter", {"set": "<script>alert(1)</script>=1"}, 400, "<script>alert(1)</script>"),
        ("redact_pii", {}, 404, "judged no documents"),
        ("nothing", {}, 404, "has no step 'nothing'"),
    ],
)
def test_what_cannot_be_answered_says_so_on_the_page_and_in_data(client, step, asked, status, told):
    address = f"/runs/strict/steps/{step}/what-if"
    page = client.get(address, params=asked)
    assert page.status_code == status
    seen = parse(page.text)
    assert told in seen.text
    assert not [name for name, attributes in seen.elements if name == "script" and "src" not in attributes]
    assert told in client.get(address, params={**asked, "format": "json"}).json()["error"]
