"""What the documents say holds: commands print what is shown, recipes load, tables are those of the code, links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import reference, transcripts
from starloom import cli
from starloom.cli import VERBS
from starloom.flows.plan import make_plan
from starloom.flows.recipe import load
from starloom.lineage.errors import ConfigError
from starloom.lineage.records import Action, Artifact, Components, Part, Run, StepState
from starloom.lineage.store import Store, object_name
from starloom.queries.rows import Rows
from starloom.tasks.frame.stage import stage_names
from tests.checkouts import copy_house

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOLD = [
    DOCS / f"{name}.md" for name in ("getting-started", "own-repositories", "architecture", "recipe", "stages", "store-format", "glossary")
]
"""The pages that tell how to use it."""
OURS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *TOLD]
"""Pages whose every command can be typed today; a decision or a log tells of its own day."""
NOT_THERE = {"tasks/kernels/ROOM/", "tasks/my_filter.py"}
"""A placeholder, and the stage that CONTRIBUTING has its reader write."""
PAGES = [*OURS, ROOT / "CHANGELOG.md", *sorted(set(DOCS.rglob("*.md")) - set(TOLD))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_and_target_that_a_page_names_exists(page):
    text = page.read_text()
    assert set(re.findall(r"(?:^|`|\$ )starloom ([a-z][a-z-]*)", text, re.MULTILINE)) <= set(VERBS)
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for module in re.findall(r"python -m ((?:starloom|docs)\.[\w.]+\w)", text):
        assert importlib.util.find_spec(module), f"{page.name} names {module}"


@pytest.mark.parametrize("page", [*OURS, *sorted((DOCS / "decisions").glob("*.md"))], ids=lambda page: page.name)
def test_every_file_of_ours_that_a_page_names_is_there(page):
    folders = "bench|cli|docs|flows|lineage|model|queries|tasks|tests"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text())) - NOT_THERE
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_its_heading(page):
    for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if "://" not in target:
            leads_to = page.parent / target if target else page
            assert leads_to.exists(), f"{page.name} links to {target}"
            assert not heading or heading in headings(leads_to), f"{page.name} links to {target}#{heading}"


def headings(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_leads_to_every_page_and_every_page_to_another():
    readme = (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"(docs/{page.name})" in readme
    for page in TOLD:
        others = {other.name for other in TOLD} - {page.name}
        assert others & set(re.findall(r"\]\(([\w-]+\.md)", page.read_text())), f"{page.name} leads to no other page"


def typed(page: str) -> list[list[str]]:
    """The words of every `starloom` command that a page shows, in a terminal or in a sentence."""
    in_blocks = [command.text for command in transcripts.commands(page)]
    in_text = re.findall(r"`(starloom [^`]+)`", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL))
    found = [re.split(r" (?:[|>]|&&) ", command.replace("\\\n", " "))[0] for command in [*in_blocks, *in_text]]
    words = [shlex.split(command, comments=True) for command in found]
    return [line[1:] for line in words if line[:1] == ["starloom"] and line[2:] and line[2] not in ("NAME", "…")]  # a verb alone is a name


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_can_be_typed(page):
    for words in typed(page.read_text()):
        if "--help" in words or words[0].startswith("-"):
            continue
        arguments = cli._parser(words).parse_args(words)
        recipe = ROOT / getattr(arguments, "recipe", "none")
        if recipe.is_file():
            make_plan(load(recipe, arguments.set), until=getattr(arguments, "until", None))


def test_a_command_with_a_word_that_does_not_exist_cannot_be_typed(capsys):
    (words,) = typed("```console\n$ starloom run conf/demo.yaml --no-perfect\n```\n")
    with pytest.raises(SystemExit):
        cli._parser(words).parse_args(words)
    assert "--no-perfect" in capsys.readouterr().err


@pytest.mark.parametrize("page", [reference.STAGES, reference.STORE], ids=lambda page: page.name)
def test_what_is_written_from_the_code_is_up_to_date(page):
    assert page.read_text() == reference.pages()[page], "`make docs` brings it up to date"


def test_a_knob_that_is_in_no_key_is_marked_and_no_other():
    page = reference.STAGES.read_text()
    parts = re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    knobs = {name: set(re.findall(r"^\| (`\w+`°?) \|", part, re.MULTILINE)) for name, part in parts}
    assert {"`log_every_steps`°", "`preset`°", "`precision`", "`parallel`", "`threads`"} <= knobs["train_model"]
    assert {"`sources`°", "`path`°", "`max_file_bytes`", "`holds`"} <= knobs["ingest"]
    assert {"`memory_bytes`°", "`threshold`", "`num_perm`"} <= knobs["near_dedup"]


@pytest.mark.parametrize(
    ("heading", "record"),
    [("Part", Part), ("Artifact", Artifact), ("Components", Components), ("Action", Action), ("Run", Run), ("Step", StepState)],
)
def test_every_field_of_a_record_is_told(heading, record):
    (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^##)", reference.STORE.read_text(), re.MULTILINE | re.DOTALL)
    told = [name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(field.name for field in dataclasses.fields(record))


def recipe_examples() -> list[tuple[str, str | None]]:
    """The recipes of docs/recipe.md, each with the error that it meets."""
    page = (DOCS / "recipe.md").read_text()
    example = r"(<!-- refused -->\n)?```yaml\n(.*?)```\n(?:\n```text\n(.*?)```)?"
    found = re.findall(example, page, re.DOTALL)
    assert len(found) == page.count("```yaml")
    return [(text, error if refused else None) for refused, text, error in found]


@pytest.mark.parametrize(("text", "error"), recipe_examples())
def test_every_recipe_on_its_page_is_taken_or_refused_as_it_says(tmp_path, text, error):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    if error is None:
        assert make_plan(load(path)).steps
        return
    with pytest.raises(ConfigError) as refused:
        make_plan(load(path))
    assert str(refused.value).replace(f"{tmp_path}/", "") == error.rstrip()


def test_every_setting_on_the_page_of_recipes_is_taken():
    settings = re.findall(r"^\| `--set ([^`]+)` \|", (DOCS / "recipe.md").read_text(), re.MULTILINE)
    assert len(settings) > 4
    for setting in settings:
        assert load(ROOT / "conf" / "demo.yaml", shlex.split(setting))


def test_the_glossary_has_a_line_for_each_word_in_order():
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)[1:]
    words = [word.lower() for word, _ in rows]
    assert len(words) >= 30
    assert words == sorted(set(words))
    assert all(line.endswith(".") for _, line in rows)


# What is shown of a terminal


@pytest.mark.parametrize(
    ("shown", "printed", "agrees"),
    [
        ("a  1 x\n", "a  1 x\n", True),
        ("a  1 x\n", "a  2 x\n", False),
        ("a\n…\nc\n", "a\nb\nb\nc\n", True),
        ("a\n…\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("b\n", "a\nb\n", False),
        ("…\nd\n", "a\nb\n", False),
        ("run in 3.0 s\n", "run in   14.1 s\n", True),
        ("of 20261127-223754-389-demo-189a\n", "of 20250101-000000-000-demo-ffff\n", True),
        ("checkpoint 46916efc9c7e\n", "checkpoint 000000000000\n", True),
        ("document 46916efc9c7e\n", "document 000000000000\n", False),
        ("done\n", "train_model    52 of 400 steps  loss 5.9\ndone\n", True),
    ],
)
def test_what_is_shown_agrees_with_what_is_printed_but_for_times_and_runs(shown, printed, agrees):
    assert (transcripts.aligned(shown, printed) is not None) == agrees


def test_what_is_pasted_keeps_what_is_left_out_and_all_else():
    page = "text\n\n```console\n$ one \\\n  more\nold 1\n…\n\n$ two\n```\n\n<!-- not run: why -->\n```console\n$ three\nstays\n```\n"
    commands = transcripts.commands(page)
    assert [(command.text, command.is_run) for command in commands] == [("one \\\n  more", True), ("two", True), ("three", False)]
    told = transcripts.pasted(page, ["old 2\nbetween\n", "new\n", "other\n"])
    assert told == page.replace("old 1", "old 2").replace("$ two\n", "$ two\nnew\n")
    assert transcripts.pasted(told, [command.shown for command in transcripts.commands(told)]) == told


def test_readme_quotes_what_getting_started_shows():
    outputs = [command.shown for command in transcripts.commands(transcripts.STARTING.read_text())]
    quotes = [command.shown for command in transcripts.commands((ROOT / "README.md").read_text()) if command.shown.strip()]
    assert len(quotes) > 2
    for quote in quotes:
        assert any(transcripts.aligned(quote, output) for output in outputs), f"not printed in docs/getting-started.md:\n{quote}"


def test_the_demo_that_is_shown_has_the_steps_of_the_demo():
    shown = next(command.shown for command in transcripts.commands(transcripts.STARTING.read_text()) if command.shown.startswith("demo: "))
    steps = [step.name for step in make_plan(load(ROOT / "conf" / "demo.yaml")).steps]
    assert re.findall(r"^([\w.]+) +done ", shown, re.MULTILINE) == steps
    assert shown.startswith(f"demo: {len(steps)} steps")


@pytest.mark.slow
@pytest.mark.long
def test_the_page_on_own_repositories_shows_what_its_commands_print(tmp_path):
    assert_prints(transcripts.OWN, tmp_path, is_loose=False)


@pytest.mark.slow
@pytest.mark.long
def test_getting_started_shows_what_its_commands_print(tmp_path):
    assert_prints(transcripts.STARTING, tmp_path, is_loose=True)  # other versions of the packages have other numbers of files


def assert_prints(page: Path, folder: Path, *, is_loose: bool) -> None:
    text = page.read_text()
    printed = transcripts.run_page(text, folder)
    for command, output in zip(transcripts.commands(text), printed, strict=True):
        found = transcripts.aligned(command.shown, output, is_loose=is_loose)
        assert found is not None, f"`make docs` pastes what `{command.text}` prints:\n{output}"


# A token's address, followed without Starloom


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """The script of docs/store-format.md."""
    (written,) = [item for item in transcripts.items(reference.STORE.read_text()) if isinstance(item, transcripts.Written)]
    path = tmp_path_factory.mktemp("script") / "verify_token.py"
    path.write_text(written.content)
    return path


def test_the_script_that_verifies_a_token_needs_pyarrow_alone(script):
    names = [name for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Import) for name in node.names]
    others = {name.name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert others == {"pyarrow"}
    assert "import from" not in script.read_text()


def tell(script: Path, run: Path, place: str, token: int, capsys, monkeypatch) -> str:
    monkeypatch.setattr(sys, "argv", [script.name, str(run), place, str(token)])
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_script_finds_tokens_of_every_role_in_their_files(history, script, capsys, monkeypatch):
    store = Store.open(str(history / "store"))
    run = store.run("strict")
    step = run.step("pack_fim")
    wanted = dict.fromkeys(("text", "prefix", "middle", "suffix"), 0)
    for part, (_, spans) in enumerate(Rows(store).tables(step.outputs["Spans"]["artifact"], None)):
        for span in spans.to_pylist():
            if wanted.get(span["role"], 2) < 2:
                place = f"{part}:{span['sequence']}"
                told = tell(script, history / "store" / "runs" / run.id, place, span["token_end"] - 1, capsys, monkeypatch)
                assert f"{span['role']}: bytes " in told
                assert f"-{span['byte_end']} of " in told
                wanted[span["role"]] += 1
    assert set(wanted.values()) == {2}


@pytest.mark.slow
def test_the_script_notices_a_part_that_is_not_what_its_name_says(history, script, tmp_path, capsys, monkeypatch):
    shutil.copytree(history / "store", tmp_path / "store", symlinks=True)
    store = Store.open(str(tmp_path / "store"))
    run = store.run("strict")
    part = store.artifact(run.step("pack_fim").outputs["Packed"]["artifact"]).parts[0]
    file = tmp_path / "store" / object_name("Packed", part.hash)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(AssertionError, match="is not what its name says"):
        tell(script, tmp_path / "store" / "runs" / run.id, "0:0", 0, capsys, monkeypatch)


# Files for tools


def test_hooks_are_local_and_workflows_try_every_python_that_the_readme_names():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in hooks["repos"]} == {"local"}
    assert {"ruff", "ruff-format"} <= {hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert versions == ["3.11", "3.12", "3.13"]
    for page in ("README.md", "docs/getting-started.md"):
        assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / page).read_text()


@pytest.mark.parametrize("recipe", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_wired(recipe):
    assert make_plan(load(recipe)).steps


@pytest.mark.parametrize("preset", sorted((ROOT / "conf" / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_is_a_mapping(preset):
    assert set(yaml.safe_load(preset.read_text())) >= {"architecture"}


def test_the_demo_uses_every_stage_but_those_for_what_others_trained_and_for_more_than_a_gigabyte():
    used = {line.stage.name for line in load(ROOT / "conf" / "demo.yaml").steps}
    assert used == set(stage_names()) - {"import_checkpoint", "cap_languages"}


@pytest.mark.slow
def test_the_example_of_a_new_stage_is_a_stage(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    copy_house(tmp_path)
    (tmp_path / "tasks" / "my_filter.py").write_text(source)
    script = (
        "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'content': ['short', 'long enough to stay']}), 'in.parquet')"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "starloom.cli", "stage", "my_filter", "in.parquet", "out", "--min-chars", "6", "--json"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout)["files"]["verdicts.parquet"]["rules"] == {"too-short": 1}


def test_the_lock_pins_what_the_project_asks_for():
    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    assert pins["torch"] == "2.13.0"
    assert tuple(map(int, pins["fastapi"].split(".")[:2])) < (0, 155)
    assert all(version for version in pins.values())
