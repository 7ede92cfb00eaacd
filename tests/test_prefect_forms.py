"""Every knob of every stage in Prefect's forms, in its API and in the console: shown as the recipe has it, taken back as it was shown."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from starloom.console.forms import groups_of, parameters_of
from starloom.flows.deploying import deploy
from starloom.flows.forms import knobs_of, request_of, schema_of
from starloom.flows.prefect_api import PrefectApi
from starloom.lineage.errors import ConfigError
from tests.every_knob import recipe_of, write_usual, write_varied

CHROMIUM = next(
    (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(path).exists()), None
)
PATIENCE_MS = 20_000
BUSY = 503
"""The answer of a server whose database is locked; Prefect's page has whoever clicked click again."""
FORMS = {"first": "", "second": "/v2"}
"""Prefect's two interfaces, and where their pages are."""


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knobs")
    return {plan.recipe.name: plan for plan in (recipe_of(write_usual(folder)), recipe_of(write_varied(folder)))}


def knobs(plan, parameters):
    """The knobs of a recipe as a run with these parameters has them."""
    request, _ = request_of(plan, parameters, None)
    return {step.name: knobs_of(step) for step in recipe_of(plan.recipe.path, request.settings).recipe.steps}


def test_the_two_recipes_differ_in_every_knob(plans):
    usual, varied = ({step.name: knobs_of(step) for step in plan.recipe.steps} for plan in plans.values())
    same = {(step, knob) for step in usual for knob, value in usual[step].items() if varied[step][knob] == value}
    assert same == {("near_dedup", "keep"), ("import_checkpoint", "checkpoint")}, "needed by another knob, and needed at all"


# The console


@pytest.mark.parametrize("name", ["usual", "varied"])
def test_the_console_shows_every_knob_as_the_recipe_has_it_and_takes_it_back(plans, name):
    plan = plans[name]
    groups = groups_of(schema_of(plan))
    texts = {field.name: [field.text(field.default)] for group in groups for field in group.fields}
    assert parameters_of(groups, {**texts, "force": [""]}) == {}
    for step in plan.recipe.steps:
        for knob, value in knobs_of(step).items():
            (field,) = [field for group in groups for field in group.fields if field.name == f"{step.name}.{knob}"]
            assert field.parse(field.text(value)) == value or field.text(value) == ""
            assert not field.choices or value is None or field.text(value) in field.choices


def test_the_console_changes_every_knob_to_every_other_value(plans):
    for one, other in (plans.values(), list(plans.values())[::-1]):
        groups = {field.name: field for group in groups_of(schema_of(one)) for field in group.fields}
        wanted = {step.name: knobs_of(step) for step in other.recipe.steps}
        form = {f"{step}.{knob}": [groups[f"{step}.{knob}"].text(value)] for step in wanted for knob, value in wanted[step].items()}
        assert knobs(one, parameters_of(groups_of(schema_of(one)), form)) == wanted


# Prefect


@pytest.fixture(scope="module")
def api(prefect_server):
    with contextlib.closing(PrefectApi(prefect_server.url)) as one:
        yield one


@pytest.fixture(scope="module")
def deployed(api, plans):
    return {one.name: one.deployment_id for one in deploy(api, list(plans.values()), pool="forms")}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


class Form:
    """Prefect's form of a deployment, in one of its two interfaces."""

    def __init__(self, api, browser, deployment, base):
        self.api, self.context = api, browser.new_context(viewport={"width": 1280, "height": 900})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        host = urlsplit(api.url).netloc
        self.context.route("**/*", lambda route: route.continue_() if urlsplit(route.request.url).netloc == host else route.abort())
        self.page.goto(f"{api.url.removesuffix('/api')}{base}/deployments/deployment/{deployment}/run")
        self.page.get_by_text("executor", exact=False).last.wait_for()

    def shown(self):
        """All that can be read, in texts, fields and editors."""
        fields = self.page.eval_on_selector_all("input, textarea", "all => all.map(one => one.value)")
        return "\n".join([self.page.inner_text("body"), *fields])

    def empty(self, knob):
        label = self.page.locator("label", has_text=re.compile(f"^{knob}( \\(Optional\\))?$")).first
        label.locator("xpath=ancestor::*[.//input or .//textarea][1]").locator("input, textarea").first.fill("")

    def submit(self):
        """Send it; returns the parameters of the run that it made."""
        for _ in range(3):
            with self.page.expect_response(re.compile("create_flow_run")) as answer:
                self.page.get_by_role("button", name="Submit").click()
            if answer.value.status != BUSY:
                break
        assert answer.value.status == 201, answer.value.text()
        made = self.api.flow_run(answer.value.json()["id"])
        self.api.cancel(made["id"])
        return made["parameters"]


@pytest.fixture
def form(api, browser, deployed):
    opened = []

    def open_form(name, interface):
        opened.append(Form(api, browser, deployed[name], FORMS[interface]))
        return opened[-1]

    yield open_form
    for one in opened:
        one.context.close()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("interface", list(FORMS))
@pytest.mark.parametrize("name", ["usual", "varied"])
def test_prefects_form_left_as_it_is_is_the_recipe(form, plans, name, interface):
    parameters = form(name, interface).submit()
    assert request_of(plans[name], parameters, None)[0].settings == ()


@pytest.mark.slow
@pytest.mark.parametrize("interface", list(FORMS))
def test_an_emptied_field_is_none_where_that_may_be_and_else_as_in_the_recipe(form, plans, interface):
    one = form("varied", interface)
    shown = one.shown()
    assert "[object" not in shown
    for value in ("10.0.0.1", "5000.5", "MPL-2.0", "num_chars", "python-environment", "10485761"):
        assert value in shown
    label = one.page.locator("label", has_text=re.compile("^executor")).first
    group = label.locator("xpath=ancestor::*[contains(., 'local')][1]").inner_text()
    assert "workers" not in group, "a choice of one is shown with its value, in its own place"
    none = {"near_dedup": ["bands", "rows"], "train_tokenizer": ["existing"], "train_model": ["rope_theta", "dropout", "sliding_window"]}
    for knob in [*(knob for found in none.values() for knob in found), "vocab_size"]:
        one.empty(knob)
    parameters = one.submit()
    assert "vocab_size" not in parameters["train_tokenizer"]
    wanted = {step: dict.fromkeys(emptied) for step, emptied in none.items()}
    assert knobs(plans["varied"], parameters) == knobs(plans["varied"], wanted)


def test_who_names_what_changes_leaves_the_rest_as_the_recipe_has_it(api, deployed, plans):
    """In the API and by Prefect's command, whose words are these parameters."""
    plan = plans["varied"]
    before = knobs(plan, {})
    for group in ({}, {"bands": None, "rows": None}):
        parameters = api.start(deployed["varied"], {"near_dedup": group})["parameters"]
        assert knobs(plan, parameters) == before | {"near_dedup": before["near_dedup"] | group}
    optional = {
        step: {knob: None for knob, one in group["properties"].items() if {"type": "null"} in one.get("anyOf", [])}
        for step, group in schema_of(plan)["properties"].items()
        if "properties" in group
    }
    assert len([knob for group in optional.values() for knob in group]) > 15
    assert api.start(deployed["varied"], optional)["parameters"] == optional, "null is refused for none of them"
    with pytest.raises(ConfigError, match="None is not of type 'integer'"):
        api.start(deployed["varied"], {"train_tokenizer": {"vocab_size": None}})
