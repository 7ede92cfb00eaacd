"""The quality rules: signals measured once, limits applied to them alone."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.tasks.frame.stage import Runtime
from starloom.tasks.quality_filter import LARGEST, PRESETS, QualityFilter, Rule, TextSignals, quality_filter, signals
from starloom.tasks.schemas import Docs, Signals

RUNTIME = Runtime(Path())


def documents(rows: list[tuple[str, str | None]], *, is_generated: bool = False) -> Docs:
    """Docs of (content, language) pairs."""
    table = [
        {
            "doc_id": hashlib.md5(str(number).encode()).hexdigest(),
            "source": "s",
            "kind": "code",
            "repo": "r",
            "path": str(number),
            "language": language,
            "content": content,
            "size": len(content.encode()),
            "swhid": "",
            "is_vendor": False,
            "is_generated": is_generated,
            "is_documentation": False,
        }
        for number, (content, language) in enumerate(rows)
    ]
    return Docs.of(pa.Table.from_pylist(table, schema=Docs.SCHEMA))


def judge(docs: Docs, **knobs):
    measured = signals.function(docs, TextSignals(), RUNTIME)
    verdicts = quality_filter.function(docs, measured, QualityFilter(**knobs), RUNTIME)
    return [(v["keep"], v["rule"], v["value"], v["threshold"]) for v in verdicts.read().to_pylist()]


KEPT = (True, None, None, None)


@pytest.mark.parametrize(
    ("content", "language", "expected"),
    [
        ("x" * 1000 + "\n" * 20, "Python", KEPT),
        ("x" * 1001 + "\n" * 20, "Python", (False, "max-line-length", 1001, 1000)),
        ("x" * 1001 + "\n" * 20, None, (False, "max-line-length", 1001, 1000)),
        ("x" * 1001 + "\n" * 20, "Markdown", KEPT),
        (("x" * 100 + "\n") * 9, "C", KEPT),
        (("x" * 101 + "\n") * 9, "C", (False, "avg-line-length", 101, 100)),
        ("ab  " * 2 + "....", "C", KEPT),
        ("ab ......", "C", (False, "alnum-fraction", 2 / 9, 0.25)),
        ("", "Python", (False, "alnum-fraction", 0, 0.25)),
        ("1" * 60, "JSON", (False, "alpha-fraction", 0, 0.5)),
        ("a" * 49, "JSON", (False, "num-chars", 49, 50)),
        ("a" * 50, "YAML", KEPT),
        ("aaaa\n" * 1001, "YAML", (False, "num-chars", 5005, 5000)),
        ("<?xml version='1'?><aaaaaaaaaa/>", "Java", (False, "has-xml-declaration", 1, 0)),
        ("<?xml version='1'?><aaaaaaaaaa/>", "XSLT", KEPT),
    ],
)
def test_starcoders_rules(content, language, expected):
    assert judge(documents([(content, language)])) == [expected]


@pytest.mark.parametrize(
    ("content", "language", "expected"),
    [
        ("# This file is generated\nx = a", "Python", (False, "is-generated", 1, 0)),
        ("abc\n" * 513, "YAML", (False, "num-lines", 513, 512)),
        ("abc\n" * 513, "Python", KEPT),
        ("x" * 2000, "Text", KEPT),
        ("x" * 100_001, "Text", (False, "max-line-length", 100_001, 100_000)),
        ("a111", "C", KEPT),
        ("a1111", "C", (False, "alpha-fraction", 0.2, 0.25)),
        ("a1111", "WebAssembly", KEPT),
    ],
)
def test_starcoder2s_rules(content, language, expected):
    assert judge(documents([(content, language)]), rules="starcoder2") == [expected]


def test_a_file_generated_by_its_name_counts_as_generated():
    assert judge(documents([("x = a", "Python")], is_generated=True), rules="starcoder2") == [(False, "is-generated", 1, 0)]


def test_own_rules_replace_the_published_ones_and_more_rules_follow_them():
    docs = documents([("x" * 2000 + "\n" * 30, "Python"), ("ab", "Go")])
    assert judge(docs, rules=[Rule(signal="num_chars", min=3)]) == [KEPT, (False, "num-chars", 2, 3)]
    assert judge(docs, more_rules=[Rule(signal="num_chars", min=3, languages=["Go"])]) == [
        (False, "max-line-length", 2000, 1000),
        (False, "num-chars", 2, 3),
    ]
    assert judge(docs, rules=[]) == [KEPT, KEPT]


RULES = st.lists(
    st.builds(
        lambda signal, low, high, only, but: Rule(
            signal=signal,
            min=None if low is None else min(low, high, LARGEST.get(signal, 5)),
            max=high,
            languages=only,
            except_languages=but,
        ),
        st.sampled_from(["num_chars", "num_lines", "max_line_length", "alnum_fraction", "is_generated"]),
        st.none() | st.floats(0, 5),
        st.floats(0, 5),
        st.lists(st.sampled_from(["C", "Go"]), max_size=2),
        st.lists(st.sampled_from(["C", "Go"]), max_size=2),
    ),
    max_size=5,
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.text("a. \n", max_size=8), st.sampled_from(["C", "Go", "R", None])), max_size=8), RULES)
def test_the_first_failing_rule_is_named_as_a_loop_would(rows, rules):
    docs = documents(rows)
    measured = signals.function(docs, TextSignals(), RUNTIME).read().to_pylist()

    def first_failure(row, language):
        for rule in rules:
            if (rule.languages and language not in rule.languages) or language in rule.except_languages:
                continue
            value, name = float(row[rule.signal]), rule.signal.replace("_", "-")
            if rule.max is not None and value > rule.max:
                return False, name, value, rule.max
            if rule.min is not None and value < rule.min:
                return False, name, value, rule.min
        return KEPT

    assert judge(docs, rules=rules) == [first_failure(row, language) for row, (_, language) in zip(measured, rows, strict=True)]


def test_the_decision_reads_no_text():
    """Texts that break every rule, with signals that break none."""
    docs = documents([("." * 5000, "Python")])
    good = signals.function(documents([("x = a", "Python")]), TextSignals(), RUNTIME)
    (verdict,) = quality_filter.function(docs, good, QualityFilter(), RUNTIME).read().to_pylist()
    assert verdict["keep"]


def test_signals_hold_the_columns_that_rules_may_name():
    measured = signals.function(documents([("", None)]), TextSignals(), RUNTIME)
    assert isinstance(measured, Signals)
    names = set(Rule.model_json_schema()["properties"]["signal"]["enum"])
    assert names == set(measured.read().column_names) - {"doc_id"}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_documents_give_no_verdicts(preset):
    assert judge(documents([]), rules=preset) == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"signal": "num_lines"}, "neither min nor max"),
        ({"signal": "num_lines", "min": 5, "max": 4.5}, r"num_lines \(min 5 and max 4.5\) would drop every file"),
        ({"signal": "num_lines", "max": -1}, r"num_lines \(max -1\) would drop every file: it is 0 or more"),
        ({"signal": "alpha_fraction", "min": 25}, r"alpha_fraction \(min 25\) would drop every file: it is 0 to 1"),
        ({"signal": "num_lines", "min": True}, "min"),
        ({"signal": "num_lines", "max": float("inf")}, "max"),
        ({"signal": "num_line", "max": 1}, "signal"),
        ({"signal": "num_lines", "max": 1, "languages": ["Pyhton"]}, "unknown language 'Pyhton': did you mean 'Python'"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule, message):
    with pytest.raises(ValidationError, match=message):
        QualityFilter.model_validate({"rules": [rule]})


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValidationError, match="starcoder2"):
        QualityFilter.model_validate({"rules": "starcoder3"})
