"""Recipes, plans, runs under way and comparisons in the console, without a Prefect server: with one, see test_console_browser."""

from __future__ import annotations

import json
import threading
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from starloom.cli import main
from starloom.console.app import create_app
from starloom.console.settings import Settings
from starloom.flows import live
from starloom.flows.live import watched
from starloom.flows.run import NoWatcher, Request, execute, prepare
from starloom.lineage.store import Store
from starloom.queries.compare import compare
from starloom.queries.curves import loss_rows
from tests.console_client import BASE, client_of, hidden_token, parse
from tests.corpus import make_repositories, run_recipe, write_recipe

pytestmark = pytest.mark.slow

STAGES = "- license_filter\n- exact_dedup\n- near_dedup\n"
ORIGIN = {"origin": "http://127.0.0.1:8765"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    recipe = write_recipe(folder / "r.yaml", make_repositories(folder / "repositories"), STAGES)
    first = run_recipe(recipe, folder / "s")
    second = run_recipe(recipe, folder / "s", "near_dedup.threshold=0.9")
    return folder, recipe, first, second


@pytest.fixture(scope="module")
def client(place):
    folder, recipe, *_ = place
    return client_of(folder / "s", recipes=(recipe,), run_store=str(folder / "s"))


def told(capsys, *words):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_recipes_are_listed_with_their_newest_run(client, place):
    _, recipe, _, second = place
    (row,) = client.get("/recipes?format=json").json()["recipes"]
    assert (row["recipe"], row["file"], row["last"], row["status"], row["problem"]) == ("test", str(recipe), second.id, "done", None)


@pytest.mark.parametrize(
    "setting", [(), ("near_dedup.threshold=0.8",), ("license_filter.allow_classes=[permissive]", "near_dedup.num_perm=128")]
)
def test_the_plan_beside_the_form_is_the_plan_of_the_command(client, place, capsys, setting):
    folder, recipe, *_ = place
    words = [word for each in setting for word in ("--set", each)]
    expected = told(capsys, "plan", str(recipe), "--store", str(folder / "s"), *words)
    query = "&".join(setting)
    assert client.get(f"/recipes/test/plan?format=json&{query}").json() == expected
    page = client.get(f"/recipes/test?{query}")
    seen = parse(page.text)
    for step in expected["steps"]:
        assert step["step"] in seen.text
        assert all(reason in seen.text for reason in step["reasons"])
    values = {attributes.get("name"): attributes.get("value") for name, attributes in seen.elements if name == "input"}
    for each in setting:
        name, _, value = each.partition("=")
        assert name not in values or values[name] == value


def test_a_wrong_knob_is_told_beside_what_was_filled_in(client):
    answer = client.get("/recipes/test?near_dedup.threshold=2")
    assert answer.status_code == 400
    assert "less than or equal to 1" in parse(answer.text).text
    assert ("input", "2") in [(name, attributes.get("value")) for name, attributes in parse(answer.text).elements]
    answer = client.get("/recipes/test/plan?near_dedup.threshold=2")
    assert answer.status_code == 400
    assert client.get("/recipes/test/plan?near_dedup.threshold=2&format=json").json()["kind"] == "ConfigError"
    assert client.get("/recipes/tset").status_code == 404
    assert "test" in client.get("/recipes/tset?format=json").json()["hint"]


def test_without_a_server_nothing_is_started_and_the_page_says_how(client):
    page = client.get("/recipes/test")
    (button,) = [attributes for name, attributes in parse(page.text).elements if name == "button" and attributes.get("class") == "primary"]
    assert "disabled" in button
    assert "starloom serve" in parse(page.text).text
    form = {"csrf_token": hidden_token(page.text), "near_dedup.threshold": "0.8"}
    answer = client.post("/recipes/test/runs", data=form, headers=ORIGIN)
    assert answer.status_code == 400
    assert "no Prefect server to start runs with" in parse(answer.text).text
    answer = client.post("/recipes/test/preview", data=form, headers=ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/recipes/test?near_dedup.threshold=0.8")


def test_a_recipe_that_becomes_invalid_says_why_and_one_that_is_mended_is_back(tmp_path, place):
    folder, recipe, *_ = place
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe.read_text().replace("name: test", "name: mine"))
    client = client_of(folder / "s", recipes=(mine, recipe))
    assert client.get("/recipes/mine").status_code == 200
    text = mine.read_text()
    mine.write_text(text.replace("near_dedup", "near_dup"))
    rows = client.get("/recipes?format=json").json()["recipes"]
    assert [row["problem"] is None for row in rows] == [False, True]
    assert "no stage 'near_dup'" in rows[0]["problem"]
    assert client.get("/recipes/mine").status_code == 400
    assert client.get("/recipes/test").status_code == 200
    mine.unlink()
    assert client.get("/recipes/mine").status_code == 400
    mine.write_text(text)
    assert client.get("/recipes/mine").status_code == 200


def test_a_run_is_followed_from_its_first_step_to_its_end(tmp_path, place, monkeypatch):
    folder, recipe, *_ = place
    monkeypatch.setattr(live, "WRITE_SECONDS", 0)
    client = client_of(folder / "s", recipes=(recipe,))
    goes_on, arrived = threading.Event(), threading.Event()

    class Stopping(NoWatcher):
        def progressed(self, step, done, total, unit, metrics):
            if step == "near_dedup":
                arrived.set()
                assert goes_on.wait(60)

    prepared = prepare(Request(str(recipe), ("near_dedup.threshold=0.81",), str(folder / "s")))
    failures = []

    def work():
        try:
            execute(prepared, Stopping(), workers=0)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert arrived.wait(60)
    store = Store.open(str(folder / "s"))
    run = store.run("latest")
    page = client.get(f"/runs/{run.id}")
    assert any(attributes.get("data-events") == f"/runs/{run.id}/events" for _, attributes in parse(page.text).elements)
    now = client.get(f"/runs/{run.id}/now?format=json").json()
    assert now["status"] == "running"
    assert {row["name"]: row["status"] for row in now["steps"]}["near_dedup"] == "running"
    goes_on.set()
    thread.join(60)
    assert failures == []
    with client.stream("GET", f"/runs/{run.id}/events") as answer:
        events = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [line for line in events if line.startswith("event: ")] == ["event: now", "event: end"]
    assert events[-1] == 'data: "done"'
    html = json.loads(next(line for line in events if line.startswith("data: ")).removeprefix("data: "))
    assert all(row["name"] in parse(html).text for row in watched(store, store.run(run.id)))


def test_runs_are_compared_as_the_command_does(client, place, capsys):
    folder, _, first, second = place
    expected = told(capsys, "diff", first.id, second.id, "--store", str(folder / "s"))
    found = client.get(f"/compare?run={first.id}&run={second.id}&format=json").json()
    assert found["runs"] == [first.id, second.id]
    (one,) = found["comparisons"]
    assert one == json.loads(json.dumps(compare(Store.open(str(folder / "s")), first.id, second.id, None)))
    assert one["settings"] == expected["settings"]
    page = parse(client.get(f"/compare?run={first.id}&run={second.id}&run={first.id}").text)
    assert "threshold" in page.text
    assert "0.9" in page.text
    rows = client.get(f"/compare?run={first.id}&run={second.id}&format=csv&table=funnel").text.splitlines()
    assert rows[0] == "step,A,B"
    assert client.get(f"/compare?run={first.id}").status_code == 400
    assert client.get("/compare").status_code == 400
    assert client.get(f"/compare?run={first.id}&run=nothing").status_code == 404


def test_the_losses_of_a_training_are_drawn_as_they_were_recorded(history):
    store = Store.open(str(history / "store"))
    step = store.run("strict").step("train_model")
    client = client_of(store.url)
    page = client.get("/runs/strict")
    if "Losses" in step.outputs:
        (line,) = [attributes["points"] for name, attributes in parse(page.text).elements if attributes.get("class") == "curve c0"]
        assert len(line.split()) == len(loss_rows(store, step, 200))
    else:
        assert "curve" not in page.text


def test_a_run_is_rerun_with_the_knobs_that_it_was_given(place, tmp_path):
    _, recipe, *_ = place
    settings = ('near_dedup.words="unicode"', "near_dedup.threshold=0.85", "ingest.sources.0.name=other", "exact_dedup.keep=best")
    store = tmp_path / "s"
    run = run_recipe(recipe, store, *settings, until="exact_dedup")
    opened = Store.open(str(store))
    given = [word for each in settings[:-1] for word in ("--set", each)]
    run.command = ["run", str(recipe), *given, f"--set={settings[-1]}", "--until", "exact_dedup"]
    opened.write_run(run)
    client = client_of(store, recipes=(recipe,), run_store=str(store))
    seen = parse(client.get(f"/runs/{run.id}").text)
    fields = [(each["name"], each["value"]) for name, each in seen.elements if name == "input" and each.get("type") == "hidden"]
    address = "/recipes/test?" + urlencode([("from", "license_filter"), *fields])
    answer = client.get(f"{address}&format=json")
    assert answer.status_code == 200
    parameters = answer.json()["parameters"]
    assert (parameters["near_dedup"], parameters["until"]) == ({"threshold": 0.85, "words": "unicode"}, "exact_dedup")
    assert parameters["ingest"]["sources"][0]["name"] == "other"
    steps = client.get(f"/recipes/test/plan?{urlencode(fields)}&format=json").json()["steps"]
    assert {step["status"] for step in steps} == {"cached"}


def test_what_was_chosen_is_still_chosen_after_a_refusal(client):
    answer = client.get("/recipes/test?force=license_filter&force=exact_dedup&near_dedup.threshold=7")
    assert answer.status_code == 400
    boxes = [each["value"] for name, each in parse(answer.text).elements if name == "input" and "checked" in each]
    assert boxes == ["license_filter", "exact_dedup"]


def test_runs_of_recipes_with_stores_of_their_own_are_found(tmp_path, place):
    folder, recipe, *_ = place
    other = tmp_path / "other"
    other.mkdir()
    mine = other / "mine.yaml"
    mine.write_text(recipe.read_text().replace("name: test", "name: mine"))
    run = run_recipe(mine, other / ".starloom", until="license_filter")
    settings = Settings(stores=(("s", str(folder / "s")), ("other", str(other / ".starloom"))), recipes=(recipe, mine))
    client = TestClient(create_app(settings), base_url=BASE, follow_redirects=False)
    answer = client.get(f"/runs/{run.id}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run.id}?store=other")
    assert client.get(f"/runs/{run.id}?store=other").status_code == 200
    rows = {row["recipe"]: (row["last"], row["store"]) for row in client.get("/recipes?format=json").json()["recipes"]}
    assert rows["mine"] == (run.id, "other")


def test_a_killed_run_has_no_step_at_work(tmp_path, place):
    _, recipe, *_ = place
    run = run_recipe(recipe, tmp_path / "s", until="license_filter")
    store = Store.open(str(tmp_path / "s"))
    run.status, run.finished = "running", None
    store.write_run(run)
    told = {"at": 100.0, "steps": {"exact_dedup": {"done": 1, "total": 2, "unit": "parts", "metrics": {}, "curve": [], "started": 90.0}}}
    store.storage.write(live.progress_name(run.id), json.dumps(told).encode())
    run.plan.append({"name": "exact_dedup", "reads": []})
    (row,) = [row for row in watched(store, run) if row["name"] == "exact_dedup"]
    assert (row["status"], row["seconds"]) == ("killed", 10.0)


def test_a_viewer_sees_no_button_and_may_press_none(place):
    folder, recipe, *_ = place
    client = client_of(folder / "s", recipes=(recipe,), viewer_password="look", operator_password="do")
    page = client.get("/login")
    client.post("/login", data={"csrf_token": hidden_token(page.text), "password": "look"}, headers=ORIGIN)
    page = client.get("/recipes/test")
    assert "Viewers start no runs" in parse(page.text).text
    for address in ("/recipes/test/runs", "/triggered/00000000-0000-0000-0000-000000000000/cancel", "/triggered/x/retry"):
        assert client.post(address, data={"csrf_token": hidden_token(page.text)}, headers=ORIGIN).status_code == 403
