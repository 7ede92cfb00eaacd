"""The quality rules: signals measured once, limits applied to them alone."""

import hashlib
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.lineage.errors import ConfigError, StageError
from starloom.tasks.common.clamav import signatures
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.languages.linguist import known_languages
from starloom.tasks.kernels.text.quality_rules import PRESETS, SETS
from starloom.tasks.quality_filter import BY_DOCUMENT, LARGEST, NEEDS, QualityFilter, Rule, TextSignals, published, quality_filter, signals
from starloom.tasks.schemas import Docs, Signals

RUNTIME = Runtime(Path())
KNOWN = {*known_languages(), "Maple", "Motorola 68K Assembly", "Roff Manpage"}


def documents(rows: list[tuple[str, str | None]], *, is_generated: bool = False, path: str | None = None, stars: int | None = None) -> Docs:
    """Docs of (content, language) pairs."""
    table = [
        {
            "doc_id": hashlib.md5(str(number).encode()).hexdigest(),
            "source": "s",
            "kind": "code",
            "repo": "r",
            "path": path or str(number),
            "stars": stars,
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
    cfg = QualityFilter(**knobs)
    measured = signals.function(docs, TextSignals(measure=cfg.measure), RUNTIME)
    verdicts = quality_filter.function(docs, measured, cfg, RUNTIME)
    return [(v["keep"], v["rule"], v["value"], v["threshold"]) for v in verdicts.read().to_pylist()]


KEPT = (True, None, None, None)
SEEN = "ab c\n" * 20


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
        ("x" * 1001 + "\n" * 20, "JSON", KEPT),
        ("<p>" + SEEN + "</p>", "HTML", (False, "visible-chars", 100, 101)),
        ("<p>" + SEEN + "x</p>", "HTML", KEPT),
        ("<p class='" + SEEN * 5 + "'>" + SEEN + "x</p>", "HTML", (False, "visible-fraction", 101 / 617, 0.2)),
        ("<p class='" + SEEN * 5 + "'>" + SEEN + "x</p>", "Python", KEPT),
    ],
)
def test_starcoders_rules(content, language, expected):
    assert judge(documents([(content, language)])) == [expected]


@pytest.mark.parametrize(
    ("content", "language", "expected"),
    [
        ("# This file is generated\nx = a", "Python", (False, "is-generated", 1, 0)),
        ("ab c\n" * 513, "YAML", (False, "num-lines", 513, 512)),
        ("ab c\n" * 513, "Python", KEPT),
        ("x" * 100_001, "Text", (False, "max-line-length", 100_001, 100_000)),
        ("a111", "C", KEPT),
        ("a1111", "C", (False, "alpha-fraction", 0.2, 0.25)),
        ("a1111", "WebAssembly", KEPT),
        ("a " + "A" * 1025, "C", (False, "max-line-length", 1027, 1000)),
        (SEEN * 11 + "." + ("A" * 90 + "\n") * 11, "C", KEPT),
        (". " + ("A" * 90 + "\n") * 12, "C", (False, "max-base64-length", 1092, 1024)),
        ("aa," * 30 + "\n" + ("aa," * 30 + "bb ") * 12, "C", (False, "max-line-length", 1116, 1000)),
        ("aa " * 30 + ("\n" + "aa " * 30) * 12, "C", (False, "max-hex-length", 1182, 1024)),
        (SEEN + "\\u00ea" * 9, "C", KEPT),
        ("b = '" + "\\u00ea" * 9, "C", (False, "encoded-fraction", 54 / 59, 0.5)),
        ("\n".join(["é" * 9 + "\\u00ea" * 12] * 3), "C", (False, "encoded-fraction", 216 / 245, 0.5)),
        ("<p>" + SEEN[1:], "HTML", (False, "visible-chars", 99, 100)),
        ("<p>" + SEEN, "HTML", KEPT),
        ("text", "Text", (False, "has-known-name", 0, 1)),
    ],
)
def test_starcoder2s_rules(content, language, expected):
    assert judge(documents([(content, language)]), rules="starcoder2") == [expected]


@pytest.mark.parametrize(
    ("path", "language", "rules", "rule"),
    [
        ("a/notes/x.TXT", "Text", "starcoder2", "has-known-name"),
        ("a/README.txt", "Text", "starcoder2", None),
        ("a/Requirements-dev.txt", "Text", "starcoder2", None),
        ("a/todo", "Text", "starcoder2", None),
        ("a/x.csx", "C#", "starcoder", "excluded-by-starcoder"),
        ("a/x.cs", "C#", "starcoder", None),
        ("a/x.new", "C#", "starcoder", None),
        ("a/x.svg", "SVG", "starcoder2", "excluded-by-starcoder2"),
        ("a/x.py", "Python", "starcoder2", None),
        ("a/x.y.F77", "Fortran", "starcoder", "excluded-by-starcoder"),
        ("csx", "C#", "starcoder", None),
    ],
)
def test_names_and_extensions_that_the_published_rules_know(path, language, rules, rule):
    ((keep, found, *_),) = judge(documents([("x = abc\n" * 9, language)], path=path), rules=rules)
    assert (keep, found) == (rule is None, rule)


@pytest.mark.parametrize(
    ("rule_set", "path", "language", "rule"),
    [
        ("starcoder_languages", "x.py", "Python", None),
        ("starcoder_languages", "x.pyi", "Python", "outside-starcoder"),
        ("starcoder_languages", "Makefile", "Makefile", None),
        ("starcoder_languages", "x", None, "outside-starcoder"),
        ("starcoder2_languages", "x.pyi", "Python", None),
        ("starcoder2_languages", "x.csv", "CSV", "outside-starcoder2"),
        ("santacoder_stars", "x.py", "Python", "stars"),
    ],
)
def test_rule_sets_are_judged_after_the_rules(rule_set, path, language, rule):
    ((keep, found, *_),) = judge(documents([("x = abc\n" * 9, language)], path=path, stars=None), rules=[], rule_sets=[rule_set])
    assert (keep, found) == (rule is None, rule)


def test_stars_and_comments_and_repetition_are_optional_rules():
    text = "# comment of it\n" + "\n".join(f"value_{n} = compute({n})" for n in range(9))
    docs = documents([(text, "Python"), ("x = abc\n" * 9, "Python"), ("same words here again\n" * 9, "Text")], stars=5)
    assert judge(docs, rules=[], rule_sets=["santacoder_stars"]) == [KEPT] * 3
    assert judge(docs, rules=[], rule_sets=["santacoder_comments"], measure=["comments"]) == [
        KEPT,
        (False, "comment-fraction", 0, 0.01),
        KEPT,
    ]
    rules = [rule for _, rule, *_ in judge(docs, rules=[], rule_sets=["opencoder_repetition"], measure=["ngrams"])]
    assert rules == [None, "duplicate-line-fraction", "duplicate-line-fraction"]


def test_an_extension_of_a_language_has_rules_of_its_own():
    docs = documents([("x" * 600, "GLSL")], path="a.fsh")
    rules = [Rule(signal="max_line_length", max=500, languages=["GLSL/fsh"])]
    assert judge(docs, rules=rules) == [(False, "max-line-length", 600, 500)]
    assert judge(documents([("x" * 600, "GLSL")], path="a.vert"), rules=rules) == [KEPT]
    assert judge(docs, rules=[Rule(signal="max_line_length", max=500, except_languages=["GLSL/fsh"])]) == [KEPT]


@pytest.mark.parametrize(("signal", "measure"), sorted(NEEDS.items()))
def test_a_rule_on_what_is_not_measured_is_refused(signal, measure):
    with pytest.raises(ValidationError, match=f"{signal}, which is not measured: add {measure} to `measure`"):
        QualityFilter(more_rules=[Rule(signal=signal, max=0.5)])
    assert QualityFilter(more_rules=[Rule(signal=signal, max=0.5)], measure=[measure, measure]).measure == [measure]


EICAR = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clamscan") is None, reason="ClamAV is not installed")
def test_malware_is_what_clamav_knows(tmp_path):
    docs, cfg = documents([("x = 1\n", "Python"), (EICAR, "Text")]), QualityFilter(rules=[], rule_sets=["no_malware"], measure=["malware"])
    measured = signals.function(docs, TextSignals(measure=["malware"]), Runtime.alone(tmp_path))
    kept, dropped = quality_filter.function(docs, measured, cfg, RUNTIME).read().to_pylist()
    assert kept["keep"]
    assert (dropped["rule"], "ica" in dropped["detail"]) == ("is-malware", True)


PRETENDER = """#!/bin/sh
[ "$1" = --version ] && echo "ClamAV 1.0/1" && exit 0
for folder; do :; done
grep -l VIRUS "$folder"/* | sed 's/$/: Test.Virus FOUND/'
exit ${STATUS:-1}
"""


def test_malware_by_a_program_of_clamavs_manners(tmp_path, monkeypatch):
    """A program that finds a word: what is written for it, asked of it and read of its answer."""
    program = tmp_path / "clamscan"
    program.write_text(PRETENDER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    signatures.cache_clear()
    docs, cfg = (
        documents([("x = 1\n", "Python"), ("VIRUS é", "Text")]),
        QualityFilter(rules=[], rule_sets=["no_malware"], measure=["malware"]),
    )
    assert cfg.identity()["clamav"] == "ClamAV 1.0/1"
    measured = signals.function(docs, TextSignals(measure=["malware"]), Runtime.alone(tmp_path / "s"))
    assert [(v["keep"], v["detail"]) for v in quality_filter.function(docs, measured, cfg, RUNTIME).read().to_pylist()] == [
        (True, None),
        (False, "Test.Virus"),
    ]
    monkeypatch.setenv("STATUS", "2")
    with pytest.raises(StageError, match="clamscan failed with status 2"):
        signals.function(docs, TextSignals(measure=["malware"]), Runtime.alone(tmp_path / "t"))
    signatures.cache_clear()


def test_malware_needs_clamav(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    cfg = QualityFilter(measure=["malware"])
    with pytest.raises(ConfigError, match=r"quality_filter.measure: malware is looked for by ClamAV, and there is no clamscan"):
        cfg.check_here("quality_filter")
    QualityFilter().check_here("quality_filter")


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
    assert names - set(BY_DOCUMENT) - set(NEEDS) == set(measured.read().column_names) - {"doc_id"}


def test_published_rules_name_signals_and_linguists_languages():
    for name in (*PRESETS, *SETS):
        for rule in published(name):
            again = Rule.model_validate({**rule.model_dump(), "languages": [], "except_languages": []})
            assert again.model_dump(include={"signal", "min", "max"}) == rule.model_dump(include={"signal", "min", "max"})
            assert {language.partition("/")[0] for language in rule.languages + rule.except_languages} <= KNOWN


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


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"num_line": {"max": 3}}, "no rule is on it; did you mean"),
        (
            {"max_line_length": {"max": 80}},
            r"several rules are on it: max_line_length:1 \(max 500, GLSL/fsh\); max_line_length:2 \(max 1000, all but",
        ),
        ({"avg_line_length": {"min": 80}}, "the threshold of avg_line_length is max 100: give max"),
        ({"avg_line_length": {}}, "the threshold of avg_line_length is max 100: give max"),
        ({"avg_line_length": {"max": -1}}, r"\(max -1\) would drop every file"),
        ({"num_chars": {"min": 6000}}, "would drop every file"),
    ],
)
def test_a_threshold_of_no_rule_is_refused(thresholds, message):
    with pytest.raises(ValidationError, match=message):
        QualityFilter(thresholds=thresholds)


def test_thresholds_replace_those_of_published_rules():
    docs = documents([("ab cd" * 5 + "\n", "Python"), ("ab cd" * 5 + "\n", "Markdown"), ("ab cd" * 9, "JSON")])
    given = {"max_line_length:2": {"max": 24}, "num_chars": {"min": 46, "max": 60}}
    assert judge(docs, thresholds=given) == [(False, "max-line-length", 25, 24), KEPT, (False, "num-chars", 45, 46)]
    assert QualityFilter().identity()["thresholds"] == {}
