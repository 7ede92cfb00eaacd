"""The place that a verdict is about: every rule that a stage can name has an entry, and what is marked is what the rule found."""

from __future__ import annotations

import ast
import json
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import starloom.tasks
from starloom.lineage.store import Store
from starloom.queries.leaks import _normalised
from starloom.queries.offences import NOT_NAMED, RULES, Case, offence
from starloom.queries.sampling_redactions import redacted_types, sample_redactions
from starloom.queries.texts import characters_of
from starloom.tasks.kernels.text.substrings import normalised
from starloom.tasks.quality_filter import SignalName
from starloom.tasks.schemas import LicenseClass
from tests.console_client import client_of, parse
from tests.corpus import make_repositories, run_recipe, write_recipe
from tests.history import EMAIL
from tests.sizes import examples

TASKS = Path(starloom.tasks.__file__).parent
_RULE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+|survivor|unjudged")


def words_of(node):
    """The texts that an expression can give, as far as they stand in it: whatever looks like the name of a rule."""
    texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return {text for text in texts if _RULE.fullmatch(text)}


def named_in(path):
    """The rules of verdicts that a module names: as `rule=`, as `rule = …`, as the column `rule`, or as the argument of that name."""
    tree, found = ast.parse(path.read_text()), set()
    takes_rule = {
        each.name: [argument.arg for argument in each.args.args].index("rule")
        for each in ast.walk(ast.parse((TASKS / "common" / "clusters.py").read_text()))
        if isinstance(each, ast.FunctionDef) and "rule" in [argument.arg for argument in each.args.args]
    }
    for each in ast.walk(tree):
        if isinstance(each, ast.Call):
            found |= {word for keyword in each.keywords if keyword.arg == "rule" for word in words_of(keyword.value)}
            name = each.func.id if isinstance(each.func, ast.Name) else getattr(each.func, "attr", "")
            if name in takes_rule and len(each.args) > takes_rule[name]:
                found |= words_of(each.args[takes_rule[name]])
            if name in ("append_column", "equal") and any(isinstance(a, ast.Constant) and a.value == "rule" for a in each.args):
                found |= {word for argument in each.args for word in words_of(argument)}
        if isinstance(each, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "rule" for t in each.targets):
            found |= words_of(each.value)
        if isinstance(each, ast.Return) and isinstance(each.value, ast.Constant) and path.name == "license_filter.py":
            found |= words_of(each.value)
    documented = re.search(r"Verdicts  (?:dropped: )?rule = (.*?)(?:;|value =|detail =)", ast.get_docstring(tree) or "", re.DOTALL)
    if documented is not None and "signal" not in documented[1]:
        found |= set(re.findall(r"[a-z]+(?:-[a-z]+)+|\b(?:permissive|survivor|unjudged)\b", documented[1]))
    return found


def rules_of_stages():
    """Every rule that a stage can name, by the module that names it."""
    modules = [path for path in [*TASKS.glob("*.py"), *(TASKS / "common").glob("*.py")] if "Verdicts" in path.read_text()]
    found = {path.name: named_in(path) for path in modules if path.name != "ingest.py"}  # which drops files, before there is a text
    found["quality_filter.py"] |= {name.replace("_", "-") for name in typing.get_args(SignalName)}
    found["license_filter.py"] |= set(typing.get_args(LicenseClass))
    return found


def test_the_walk_finds_the_rules_that_are_known():
    found = rules_of_stages()
    assert {"benchmark-leak"} <= found["decontaminate.py"]
    assert {"near-duplicate"} <= found["near_dedup.py"]
    assert {"exact-duplicate"} <= found["exact_dedup.py"]
    assert {"license-conflict", "survivor"} <= found["clusters.py"]
    assert {"license-text", "permissive"} <= found["license_filter.py"]
    assert {"unjudged"} <= found["license_gate.py"]
    assert {"alnum-fraction"} <= found["quality_filter.py"]


@pytest.mark.parametrize("module", sorted(rules_of_stages()))
def test_every_rule_that_a_stage_can_name_says_where_its_place_is_or_that_it_has_none(module):
    for rule in sorted(rules_of_stages()[module] - {"starcoder-v1", "utf-8"}):
        assert rule in RULES, f"{module} names {rule}: say in queries/offences.py how its place is found"
        finder = RULES[rule]
        assert finder.find is not None or finder.how.startswith("no single place"), rule
        told = offence(Case("", rule))
        assert told["how"] != NOT_NAMED
        assert told["places"] == [] or all(place["start"] <= place["end"] for place in told["places"])


def test_a_rule_that_nobody_named_is_told_as_such():
    assert offence(Case("x", "brand-new"))["how"] == NOT_NAMED


GPL = "/* This program is free software: you can redistribute it under the terms of the\n * GNU General Public License.\n */\nint x;\n"


@pytest.mark.parametrize(
    ("text", "rule", "detail", "marked"),
    [
        ("a\nbcd\ne", "max-line-length", None, ["bcd"]),
        ("<a>\n<?xml version='1.0'?>\n", "has-xml-declaration", None, ["<?xml version='1.0'?>"]),
        ("none", "has-xml-declaration", None, []),
        ("# This file is generated.\nx\n", "is-generated", None, ["This file is generated"]),
        ("# by path only\n", "is-generated", None, []),
        ("ab\n{{{{}}}}\n", "alpha-fraction", None, ["\n{{{{}}}}\n"]),
        ("x\n# SPDX-License-Identifier: GPL-3.0\n", "non-permissive", "GPL-3.0 (header, line 2)", ["SPDX-License-Identifier: GPL-3.0"]),
        (GPL, "non-permissive", "GPL-3.0-only (header notice, line 1)", [GPL.partition("\n */")[0]]),
        ("x = 1\n", "non-permissive", "GPL-3.0-only (COPYING)", []),
        ("x = 1\n", "near-duplicate", "0" * 32, []),
    ],
)
def test_what_a_rule_is_about_is_marked(text, rule, detail, marked):
    told = offence(Case(text, rule, None, detail))
    assert [text[place["start"] : place["end"]] for place in told["places"]] == marked


def test_a_share_is_told_with_what_it_is_a_share_of():
    assert offence(Case("ab1 ?", "alnum-fraction"))["measured"] == "letters and digits are 3 of 5 characters"
    assert offence(Case("ab1 ?", "alpha-fraction"))["measured"] == "letters are 2 of 5 characters"
    assert offence(Case("x", "non-permissive", None, "GPL-3.0 (COPYING)"))["measured"] == "stated outside of this file: GPL-3.0 (COPYING)"


# Benchmarks


@settings(max_examples=examples(80))
@given(st.text(alphabet="aAİß \t\n\u3000ΣςB.", max_size=25), st.booleans())
def test_places_are_kept_as_texts_are_normalised(text, keeps):
    spelt, starts = _normalised(text, keeps_whitespace=keeps)
    assert spelt == normalised(text, keep_whitespace=keeps)
    assert len(starts) == len(spelt)
    assert starts == sorted(starts)
    assert all(0 <= at < len(text) for at in starts)


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "b.jsonl"
    prompt = 'def f(x):\n    """Return the sum of all even numbers below a limit that is given."""\n'
    path.write_text(json.dumps({"task_id": "T/1", "prompt": prompt, "canonical_solution": "    return sum(range(0, x, 2))", "test": ""}))
    return path


def leaky(benchmark, text, normalise="lower_no_whitespace", value=None):
    config = {"benchmarks": [{"name": "own", "path": str(benchmark)}], "normalise": normalise}
    return offence(Case(text, "benchmark-leak", value, "own/T/1", config))


@pytest.mark.parametrize(
    ("text", "normalise", "marked"),
    [
        ("İx\ny = 1\nRETURN  sum(range(0,x,2))\nz", "lower_no_whitespace", "RETURN  sum(range(0,x,2))"),
        ("a\n  return sum(range(0, x, 2)) # b", "lower", "return sum(range(0, x, 2))"),
        ("# return the\n# Return the sum of all even numbers below a limit that is given.", "lower", None),
    ],
)
def test_a_leak_is_marked_in_the_document_and_told_beside_it(benchmark, text, normalise, marked):
    told = leaky(benchmark, text, normalise)
    (place,) = told["places"]
    assert told["other"]["title"] == "own/T/1"
    assert text[place["start"] : place["end"]] == (marked or text.splitlines()[1][2:])
    strip = lambda words: "".join(words.lower().split())  # noqa: E731
    assert strip(told["other"]["text"]) == strip(text[place["start"] : place["end"]])


def test_a_benchmark_that_is_gone_or_changed_is_told(benchmark):
    assert "it has changed since" in leaky(benchmark, "return sum(range(0, x, 2))", value=99.0)["measured"]
    benchmark.unlink()
    assert f"there is no file {benchmark}" in leaky(benchmark, "return sum(range(0, x, 2))")["measured"]


@pytest.mark.slow
def test_pages_show_a_leak_in_both_texts(tmp_path, benchmark):
    root = make_repositories(tmp_path / "repositories")
    (root / "repo0" / "src" / "leak.py").write_text("import this\n\n\ndef g(x):\n    return sum(range(0, x, 2))\n")
    recipe = write_recipe(tmp_path / "r.yaml", root, f"- decontaminate: {{benchmarks: [{{name: own, path: {benchmark}}}]}}\n")
    run = run_recipe(recipe, tmp_path / "s")
    client = client_of(tmp_path / "s")
    sample = client.get(f"/runs/{run.id}/steps/decontaminate/sample?format=json").json()
    (document,) = sample["documents"]
    for address in (f"/runs/{run.id}/steps/decontaminate/sample", f"/documents/{document['doc_id']}"):
        answer = client.get(address).text
        marks = [parse(f"<mark{each.partition('</mark>')[0]}</mark>").text for each in answer.split("<mark")[1:]]
        assert marks[0] == "return sum(range(0, x, 2))", "the benchmark's, without the white space around it"
        assert "".join(marks[1:]) == "return sum(range(0, x, 2))", "the document's, in pieces of its colours"
        assert "stands in own/T/1" in parse(answer).text


# Redactions


@settings(max_examples=examples(40))
@given(st.text(alphabet="aé😀\n", max_size=20))
def test_bytes_are_characters(text):
    ends = [len(text[:at].encode()) for at in range(len(text) + 1)]
    assert characters_of(text, ends) == {end: at for at, end in enumerate(ends)}


@pytest.mark.slow
def test_a_sample_of_redactions_marks_each_and_tells_no_value(history):
    store = Store.open(str(history / "store"))
    run = store.run("strict").id
    assert redacted_types(store, run, "redact_pii") == [{"kept": True, "rule": "EMAIL", "documents": 1}]
    told = sample_redactions(store, run, "redact_pii", rule="EMAIL", number=3, seed=1)
    (document,) = told["documents"]
    assert document["path"] == "src/author.py"
    (place,) = document["offence"]["places"]
    client = client_of(store.url)
    step = client.get(f"/runs/{run}/steps/redact_pii")
    sample = client.get(f"/runs/{run}/steps/redact_pii/sample?rule=EMAIL&kept=1")
    assert f"/runs/{run}/steps/redact_pii/sample?rule=EMAIL&kept=1" in parse(step.text).hrefs()
    marks = [attributes for name, attributes in parse(sample.text).elements if name == "mark"]
    assert {attributes["class"] for attributes in marks} == {"redaction"}
    assert place["label"] in {attributes["title"] for attributes in marks}
    assert client.get(f"/runs/{run}/steps/redact_pii/sample?rule=KEY").status_code == 404
    for form in ("html", "json", "csv"):
        assert EMAIL not in client.get(f"/runs/{run}/steps/redact_pii/sample?format={form}").text


@pytest.mark.slow
def test_every_rule_of_a_whole_run_is_known(history):
    store = Store.open(str(history / "store"))
    for run in ("strict", "lenient"):
        for step in store.run(run).steps:
            if "Verdicts" in step.outputs:
                assert set(step.outputs["Verdicts"]["counts"]["rules"]) <= RULES.keys()
