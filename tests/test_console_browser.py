"""The console and Prefect's form in a real browser: what an ML engineer and an auditor do, by mouse and by keyboard."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from starloom.lineage.store import Store
from starloom.queries.rows import Rows
from tests.corpus import write_recipe
from tests.serving import serving
from tests.test_end_to_end import plant

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(path).exists()), None
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
PICTURES = os.environ.get("STARLOOM_PICTURES")
"""A folder for pictures of the pages: those of the README are made so."""
PATIENCE_MS = 60_000


STAGES = """
- license_filter: {allow_classes: [permissive, no-license, unknown-license, non-permissive]}
- quality_filter
- exact_dedup
- near_dedup
- license_gate
- redact_pii
- train_tokenizer: {vocab_size: 400}
- encode
- pack_fim: {sequence_length: 64, heldout_fraction: 0.3}
- train_model: {num_layers: 1, width: 16, num_heads: 2, context_tokens: 64, num_steps: 60, batch_sequences: 4, threads: 1, warmup_steps: 1,
    validate_every_steps: 20, sample_tokens: 16}
"""


def in_more_languages(repositories: Path) -> Path:
    """Add a file of JavaScript and one of Go to each repository that has a licence."""
    for number, licence in enumerate(sorted(repositories.glob("*/LICENSE"))):
        names = [f"{word}{number}" for word in ("read", "merge", "filter", "count", "print", "order")]
        (licence.parent / "main.js").write_text(
            "".join(f"function {name}(rows) {{\n  return rows.{name}({number});\n}}\n\n" for name in names)
        )
        go = "".join(f"func {name}(rows []int) int {{\n\treturn rows[{number}] + {at}\n}}\n\n" for at, name in enumerate(names))
        (licence.parent / "main.go").write_text("package main\n\n" + go)
    return repositories


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    recipe = write_recipe(folder / "r.yaml", in_more_languages(plant(folder / "repositories")), STAGES)
    with serving(folder / "home", recipe, folder / "s") as one:
        yield one, folder / "s"


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(served, chromium):
    """A page whose every error, failed request, and request to any other place than the two servers fails the test."""
    one, _ = served
    ours = {urlsplit(one.console).netloc, urlsplit(one.prefect).netloc}
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    found = context.new_page()
    found.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    is_ours = lambda url: urlsplit(url).netloc == urlsplit(one.console).netloc  # noqa: E731 - Prefect's page asks for what it has not
    context.route("**/*", lambda route: route.continue_() if urlsplit(route.request.url).netloc in ours else route.abort())
    found.on("pageerror", lambda error: problems.append(str(error)) if is_ours(found.url) else None)
    found.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") and is_ours(found.url) else None)
    found.on("requestfailed", lambda request: problems.append(f"{request.url} {request.failure}") if _matters(request, is_ours) else None)
    found.on(
        "response",
        lambda answer: problems.append(f"{answer.url} {answer.status}") if answer.status >= 400 and is_ours(answer.url) else None,
    )
    yield found
    context.close()
    assert problems == []


def _matters(request, is_ours) -> bool:
    """Whether a request that failed was for something: an event stream ends when its page is left."""
    return is_ours(request.url) and not request.url.endswith("/events") and "ERR_ABORTED" not in (request.failure or "")


def picture(page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES, f"{name}.png"))


def newest(store: Path):
    opened = Store.open(str(store))
    return opened.run(opened.run_ids()[-1])


@pytest.fixture(scope="module")
def first_run(served, chromium):
    """A finished run that was started in the console."""
    one, store = served
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{one.console}/recipes")
    page.get_by_role("link", name="test", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/"))
    page.locator(".title .status.done").wait_for()
    context.close()
    return newest(store)


def test_an_engineer_plans_starts_and_watches_a_training(served, page, first_run):
    one, store = served
    page.goto(f"{one.console}/recipes/test")
    assert "Nothing to run" in page.locator("#plan").inner_text()
    page.locator("summary", has_text="train_model").click()
    page.get_by_label("num_steps", exact=True).fill("400")
    page.locator("#plan", has_text="config.num_steps 60 → 400").wait_for()
    assert page.locator("#plan li.run .name").all_inner_texts() == ["train_model"]
    assert page.url.endswith("?train_model.num_steps=400"), "a form that can be sent to somebody"
    assert page.locator("details", has=page.locator("summary", has_text="train_model")).locator("[data-count]").inner_text() == "1 changed"
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/"))
    page.locator("li.running .name", has_text="train_model").wait_for()
    page.locator("li.running progress").wait_for()
    page.locator(".curves .curve.c0").first.wait_for()
    seen = page.locator("li.running .bar").inner_text()
    assert re.search(r"\d+ of 400 steps", seen)
    moved = "before => document.querySelector('#now').innerText !== before"
    page.wait_for_function(moved, arg=page.locator("#now").inner_text())
    page.locator(".samples .newest mark.written").first.wait_for()
    by_language = page.locator("figure", has_text="Held-out loss by language").locator(".key-list li").all_inner_texts()
    assert {"Python", "JavaScript", "Go"} >= {each.split()[0] for each in by_language} > {"Python"}
    picture(page, "console-run")
    page.locator(".title .status.done").wait_for()
    page.evaluate("document.querySelector('.columns').scrollIntoView()")
    picture(page, "console-training")
    assert page.locator(".samples").first.locator("h4").all_inner_texts() == ["the document", "step 400 newest", "step 200", "step 20"]
    run = newest(store)
    assert run.step("train_model").config["num_steps"] == 400
    assert {step.name for step in run.steps if step.status == "cached"} >= {"ingest", "encode", "pack_fim"}


def test_an_engineer_reads_why_a_training_failed(served, page, first_run):
    one, _ = served
    page.goto(f"{one.console}/recipes/test?train_model.spike_factor=0.001&train_model.seed=7")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/"))
    page.locator(".title .status.failed").wait_for()
    log = page.get_by_role("region", name="Log of train_model")
    assert re.search(r"TrainingError: step 21: loss .* times the median", log.inner_text())
    assert page.locator(".curve").count() >= 2, "it is drawn as far as it came"
    assert page.locator(".samples .newest h4").first.inner_text() == "step 20 newest"


def test_a_wrong_knob_is_refused_beside_the_form(served, page, first_run):
    one, _ = served
    page.goto(f"{one.console}/recipes/test")
    page.locator("summary", has_text="near_dedup").first.click()
    with page.expect_response(re.compile("/plan")) as answered:
        page.get_by_label("threshold", exact=True).fill("0.8")
    assert answered.value.status == 200
    page.locator("#plan", has_text="config.threshold 0.7 → 0.8").wait_for()


def test_an_engineer_cancels_a_training_and_reruns_from_another_step(served, page, first_run):
    one, store = served
    page.goto(f"{one.console}/recipes/test?train_model.num_steps=1000000&train_model.checkpoint_every_steps=100000")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/"))
    page.locator("li.running progress").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator(".title .status.cancelled").wait_for()
    page.goto(f"{one.console}/runs/{first_run.id}")
    page.get_by_label("Rerun from").select_option("pack_fim")
    page.get_by_role("button", name="Choose knobs…").click()
    page.wait_for_url(re.compile("from=pack_fim"))
    page.locator("summary", has_text="pack_fim").click()
    page.get_by_label("fim_rate", exact=True).fill("0.9")
    page.locator("#plan", has_text="forced").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/"))
    page.locator(".title .status.done").wait_for()
    second = newest(store)
    assert {step.name for step in second.steps if step.status == "done"} >= {"pack_fim", "train_model"}
    page.goto(f"{one.console}/runs")
    for run in (first_run.id, second.id):
        page.locator(f"input[name=run][value='{run}']").check()
    page.get_by_role("button", name="Compare the chosen").click()
    page.wait_for_url(re.compile("/compare"))
    knobs = page.get_by_role("region", name="Knobs that differ").inner_text()
    assert "fim_rate" in knobs
    assert "0.9" in knobs
    assert page.locator(".curves").count() >= 1


def test_an_engineer_starts_a_run_from_prefects_form(served, page, first_run):
    one, store = served
    deployment = one.api.deployment("test")["id"]
    page.goto(f"{one.prefect}/deployments/deployment/{deployment}/run")
    label = page.locator("label", has_text="num_steps").first
    label.wait_for()
    label.locator("xpath=ancestor::*[.//input][1]//input").first.fill("70")
    before = {run["id"] for run in one.api.flow_runs()}
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(r"\\?tab=Runs|/runs/flow-run/"))
    page.goto("about:blank")  # Prefect's page asks its server all the time
    (flow_run,) = {run["id"] for run in one.api.flow_runs()} - before
    assert one.wait_until(flow_run)["state_type"] == "COMPLETED"
    run = newest(store)
    assert (run.flow_run, run.step("train_model").config["num_steps"]) == (flow_run, 70)
    page.goto(f"{one.console}/runs/{run.id}")
    page.get_by_role("link", name="In Prefect, with its log").click()
    page.wait_for_url(re.compile(f"{one.prefect}/runs/flow-run/{flow_run}"))


@pytest.fixture(scope="module")
def trained(served, first_run) -> tuple[str, str]:
    """A sequence that the training saw, and the path of a document in it."""
    one, store = served
    rows = Rows(Store.open(str(store)))
    batch = rows.table(first_run.step("train_model").outputs["Batches"]["artifact"], 0).to_pylist()[0]
    name = f"{batch['part']}:{batch['row']}"
    with urllib.request.urlopen(f"{one.console}/sequences/{name}?format=json&run={first_run.id}", timeout=30) as answer:
        spans = json.load(answer)["spans"]
    return name, next(f"{span['repo']}/{span['path']}" for span in spans if span["role"] == "text")


def test_an_auditor_goes_from_a_path_to_its_sequences_to_the_checkpoint_to_the_shares_of_licences(served, page, first_run, trained):
    one, _ = served
    page.goto(one.console)
    page.get_by_role("searchbox").fill(trained[1])
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/documents/"))
    assert page.get_by_role("heading", level=1).inner_text() == trained[1].partition("/")[2]
    picture(page, "console-document")
    page.locator("a[href*='/sequences/']").first.click()
    page.wait_for_url(re.compile("/sequences/"))
    assert page.locator(".tokens a").count() > 0
    page.goto(f"{one.console}/sequences/{trained[0]}?run={first_run.id}")
    picture(page, "console-sequence")
    page.locator("a[href*='/checkpoints/']").first.click()
    page.wait_for_url(re.compile("/checkpoints/"))
    told = page.locator("main").inner_text()
    assert "MIT" in told
    assert "Python" in told
    picture(page, "console-checkpoint")


def test_an_auditor_goes_from_a_dropped_file_to_the_rule_that_dropped_it(served, page, first_run):
    one, _ = served
    page.goto(one.console)
    page.get_by_role("searchbox").fill("copyleft/mine.py")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/documents/"))
    told = page.locator("main").inner_text()
    assert "license_gate" in told
    assert "non-permissive" in told


def addresses(run, sequence, store) -> list[str]:
    rows, clusters = Rows(Store.open(str(store))), []
    for step in ("exact_dedup", "near_dedup"):
        for _, table in rows.tables(run.step(step).outputs["Clusters"]["artifact"], ["cluster_id", "doc_id"]):
            for row in table.to_pylist()[:1]:
                clusters += [f"/clusters/{row['cluster_id']}?step={step}", f"/documents/{row['doc_id']}"]
    base = f"/runs/{run.id}"
    docs = run.step("ingest").outputs["Docs"]["artifact"]
    return [
        *(
            "/recipes",
            "/recipes/test",
            "/runs",
            base,
            f"{base}/steps/quality_filter",
            f"{base}/steps/near_dedup/sample?kept=0",
            f"{base}/steps/redact_pii/sample?kept=1",
            *clusters,
            "/conflicts",
        ),
        *(
            f"/artifacts/{docs}",
            "/checkpoints/train_model",
            f"/sequences/{sequence}",
            "/find?q=module1.py",
            "/api",
            f"/compare?run={run.id}&run={run.id}",
        ),
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_fault_of_access_and_fit_a_telephone(served, chromium, first_run, trained, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe()
    one, store = served
    context = chromium.new_context(
        viewport={"width": 400, "height": 800}, color_scheme=scheme, bypass_csp=True
    )  # axe is a script of ours, not theirs
    page = context.new_page()
    rules = {} if scheme == "light" else {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # what colours can break
    faults = {}
    for address in addresses(first_run, trained[0], store):
        answer = page.goto(one.console + address)
        assert answer.status == 200, address
        found = axe.run(page, options=rules).response["violations"]
        serious = [f"{each['id']}: {each['nodes'][0]['html'][:150]}" for each in found if each["impact"] in ("serious", "critical")]
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")
        if serious or wide:
            faults[address] = [*serious, *(["wider than the screen"] if wide else [])]
    context.close()
    assert faults == {}


def test_everything_can_be_reached_by_keyboard_alone(served, page, first_run):
    one, _ = served
    page.goto(f"{one.console}/runs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.goto(f"{one.console}/recipes/test")
    reached = set()
    focus = "(document.activeElement.tagName + ' ' + (document.activeElement.innerText || document.activeElement.name || '')).slice(0, 12)"
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focus))
    assert any(one.startswith("SUMMARY") for one in reached)
    assert "BUTTON Run" in reached
