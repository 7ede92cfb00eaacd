"""Decontamination against plain Python, and the project's own benchmark."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.lineage.errors import InputError
from starloom.tasks.decontaminate import (
    TRIVIAL_SOLUTIONS,
    Benchmark,
    Decontaminate,
    benchmark_strings,
    decontaminate,
    docstring,
    find_needles,
)
from starloom.tasks.frame.stage import Runtime
from starloom.tasks.kernels.text.substrings import all_matches, first_matches, normalised, normalised_column, prepare_patterns
from starloom.tasks.schemas import Docs
from tests.sizes import examples

ROOT = Path(__file__).parents[1]
TINY = ROOT / "conf" / "benchmarks" / "starloom_tiny.jsonl"
HUMANEVAL = ROOT.parent / "shared" / "benchmarks" / "HumanEval.jsonl.gz"

PROBLEMS = [
    {
        "task_id": "P/0",
        "prompt": 'def add_all(xs):\n    """Add all numbers of a list."""\n',
        "canonical_solution": "    total = 0\n    return total\n",
    },
    {"task_id": "P/1", "prompt": "def f(x):\n    '''Twice that.'''\n", "canonical_solution": "    return x + y\n"},
    {"task_id": 2, "prompt": "def g(x):\n", "canonical_solution": "    x\n"},
]


def docs_of(*contents: str) -> Docs:
    rows = [
        {
            "doc_id": f"{number:032x}",
            "source": "test",
            "kind": "code",
            "repo": "repo",
            "path": f"{number}.py",
            "content": content,
            "size": len(content.encode()),
            "swhid": "swh:1:cnt:" + "0" * 40,
            "is_vendor": False,
            "is_generated": False,
            "is_documentation": False,
        }
        for number, content in enumerate(contents)
    ]
    return Docs.of(pa.Table.from_pylist(rows, schema=Docs.SCHEMA))


@pytest.fixture
def benchmark_path(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    return path


def judge(docs: Docs, path: Path, tmp_path: Path, **knobs: Any) -> list[dict[str, Any]]:
    cfg = Decontaminate(benchmarks=(Benchmark(name="tiny", path=str(path)),), **knobs)
    return decontaminate.function(docs, cfg, Runtime.alone(tmp_path / "scratch")).read().to_pylist()


def test_a_leak_is_dropped_and_named(benchmark_path: Path, tmp_path: Path) -> None:
    docs = docs_of("nothing here", "# ADD all\n#\tnumbers".replace("#", "") + " of a\u3000list.", "def h():\n  total=0\n  return total")
    rows = judge(docs, benchmark_path, tmp_path)
    assert [(row["keep"], row["rule"], row["detail"]) for row in rows] == [
        (True, None, None),
        (False, "benchmark-leak", "tiny/P/0"),
        (False, "benchmark-leak", "tiny/P/0"),
    ]
    assert [row["value"] for row in rows] == [None, float(len("addallnumbersofalist.")), float(len("total=0returntotal"))]
    assert [row["threshold"] for row in rows] == [None, 10.0, 10.0]


def test_with_whitespace_kept_it_has_to_be_the_same(benchmark_path: Path, tmp_path: Path) -> None:
    docs = docs_of("ADD ALL numbers of a list.", "Add all  numbers of a list.", "twice that.")
    assert [row["keep"] for row in judge(docs, benchmark_path, tmp_path, normalise="lower")] == [False, True, False]


def test_short_and_trivial_strings_are_left_out_and_noted(benchmark_path: Path, tmp_path: Path) -> None:
    cfg = Decontaminate(benchmarks=(Benchmark(name="tiny", path=str(benchmark_path)),))
    runtime = Runtime.alone(tmp_path / "scratch")
    verdicts = decontaminate.function(docs_of("return x + y", "x"), cfg, runtime)
    assert verdicts.read().column("keep").to_pylist() == [True, True]
    assert runtime.notes == {"num_strings": 3, "left_out": ["tiny/P/1: return x + y", "tiny/2: x"], "unsought": ["tiny/2"]}
    assert [row["keep"] for row in judge(docs_of("return x + y"), benchmark_path, tmp_path, exempt=(), min_length=9)] == [False]
    assert [row["keep"] for row in judge(docs_of("x"), benchmark_path, tmp_path, min_length=1)] == [False]


def test_the_longest_string_is_the_evidence(benchmark_path: Path, tmp_path: Path) -> None:
    (row,) = judge(docs_of("Twice that. Add all numbers of a list."), benchmark_path, tmp_path)
    assert (row["detail"], row["value"]) == ("tiny/P/0", 21.0)
    (row,) = judge(docs_of("Twice that. Add all numbers of a list."), benchmark_path, tmp_path, min_length=22)
    assert row["keep"]


def test_a_prompt_without_a_docstring_is_looked_for_whole_unless_it_is_a_signature(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    prompts = ["# Say how many apples\n# are left.\ndef apples(x):\n", "def many_arguments(x, y):\n", 'def h():\n    """"""\n']
    path.write_text("".join(json.dumps({"task_id": i, "prompt": p, "canonical_solution": " "}) + "\n" for i, p in enumerate(prompts)))
    cfg = Decontaminate(benchmarks=(Benchmark(name="tiny", path=str(path)),))
    runtime = Runtime.alone(tmp_path / "scratch")
    docs = docs_of("# say how many apples\n#  are left.\ndef apples(x):\n  return 3", "def many_arguments(x, y): pass")
    rows = decontaminate.function(docs, cfg, runtime).read().to_pylist()
    assert [(row["keep"], row["detail"]) for row in rows] == [(False, "tiny/0"), (True, None)]
    assert runtime.notes["unsought"] == ["tiny/1"]


def test_fields_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"question": "How many apples are left?", "answer": "seven of them", "number": 7}\n'))
    benchmark = Benchmark(name="q", path=str(path), format="fields", fields=("question", "answer"), id_field="number")
    assert benchmark_strings(benchmark) == [("7", ["How many apples are left?", "seven of them"])]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('def f():\n    """One."""\n', "One."),
        ('def h():\n    """Helper."""\n\ndef f():\n    """Mine."""\n', "Mine."),
        ("'''One.'''", "One."),
        ("def f():", ""),
    ],
)
def test_the_last_docstring_of_a_prompt(prompt: str, expected: str) -> None:
    assert docstring(prompt) == expected


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"task_id": 1, "prompt": "x", "canonical_solution": "y"}\n{"task_id": ', "problems.jsonl, line 2 is not JSON"),
        (b"[1]\n", "the benchmark tiny cannot be used: problems.jsonl, line 1 is a list"),
        (b'{"task_id": "a", "prompt": "x"}\n', "'canonical_solution' is missing or not a string; it has prompt, task_id"),
        (b'{"prompt": "x"}\n', "'task_id' is missing"),
        (b'{"task_id": true, "prompt": "x"}\n', "'task_id' is missing or not a string"),
        (b'{"task_id": 1, "prompt": 5, "canonical_solution": "y"}\n', "line 1: 'prompt' is missing or not a string"),
        (b'{"task_id": 1, "prompt": "\\ud800", "canonical_solution": "y"}\n', "'prompt' holds half a surrogate pair ('\\ud800')"),
        (b"", "problems.jsonl holds no problem"),
        (b" \n\n", "problems.jsonl holds no problem"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'{"task_id": ' + b"1" * 5000 + b"}", "line 1 is not JSON"),
        (b"\x1f\x8b\x08\x00" + b"\0" * 6 + b"nonsense", "cannot be read"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_bad_benchmark_names_its_line(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError) as raised:
        judge(docs_of("x"), path, tmp_path)
    assert says in str(raised.value)
    assert raised.value.hint


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"task_id": 1}\n' * 1000)[:-10])
    with pytest.raises(InputError, match="cannot be read"):
        judge(docs_of("x"), path, tmp_path)


def test_knobs_that_mean_nothing_are_refused(benchmark_path: Path) -> None:
    with pytest.raises(ValidationError, match="benchmarks"):
        Decontaminate(benchmarks=())
    with pytest.raises(ValidationError, match="name the fields"):
        Benchmark(name="x", path=str(benchmark_path), format="fields")
    with pytest.raises(ValidationError, match="name the fields"):
        Benchmark(name="x", path=str(benchmark_path), fields=("a",))
    with pytest.raises(ValidationError, match="no file at"):
        Benchmark(name="x", path="missing.jsonl")


def test_no_documents(benchmark_path: Path, tmp_path: Path) -> None:
    assert judge(docs_of(), benchmark_path, tmp_path) == []


LETTERS = st.sampled_from(
    ["a", "A", "b", " ", "\n", "\t", "\x1c", "\x85", "\u3000", "é", "É", "İ", "Σ", "\u212a", "k", "ß", "\0", "例", "😀"]
)
TEXTS = st.lists(LETTERS, max_size=24).map("".join)


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(TEXTS, max_size=6), st.booleans())
@example(texts=["", "Aa", "İ", "", "bΣ", " \n"], keep_whitespace=False)
def test_columns_are_normalised_as_python_would(texts: list[str], keep_whitespace: bool) -> None:
    offsets, data = normalised_column(pa.array(texts, pa.string()), keep_whitespace=keep_whitespace)
    got = [data[a:b].tobytes().decode() for a, b in pairwise(offsets)]
    assert got == [normalised(text, keep_whitespace=keep_whitespace) for text in texts]


@settings(deadline=None, max_examples=examples(400))
@given(
    st.lists(st.binary(max_size=40).map(lambda b: bytes(97 + byte % 3 for byte in b)), max_size=5),
    st.lists(st.binary(min_size=1, max_size=14).map(lambda b: bytes(97 + byte % 3 for byte in b)), max_size=6),
)
@example([b"aaaaaaaab", b"aaaaaaaa"], [b"aaaaaaaaaa", b"aaaaaaaab"])
@example([b"xab", b"ab"], [b"xab", b"abab", b"ab"])
def test_first_matches_is_python_in(texts: list[bytes], patterns: list[bytes]) -> None:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    found = first_matches(offsets, np.frombuffer(b"".join(texts), np.uint8), prepare_patterns(patterns))
    assert found.tolist() == [next((i for i, pattern in enumerate(patterns) if pattern in text), -1) for text in texts]


@settings(deadline=None, max_examples=examples(300))
@given(
    st.binary(max_size=60) | st.text("ab", max_size=3000).map(str.encode),
    st.lists(st.text("ab", min_size=1, max_size=12).map(str.encode), max_size=6),
)
@example(b"aaaaaaaaaaaaaaaaaaaaaaaaa", [b"aaaaaaaa", b"a", b"aaaaaaaaa", b"a"])
def test_all_matches_is_python_find(text: bytes, patterns: list[bytes]) -> None:
    found: list[list[int]] = []
    for number, pattern in enumerate(patterns):
        start = text.find(pattern)
        while start >= 0:
            found.append([start, number])
            start = text.find(pattern, start + len(pattern))
    assert sorted(all_matches(text, prepare_patterns(patterns)).tolist()) == sorted(found)


@settings(deadline=None, max_examples=examples(100))
@given(
    st.lists(TEXTS, min_size=1, max_size=6),
    st.lists(TEXTS.filter(str.strip), min_size=1, max_size=4),
    st.sampled_from(["lower", "lower_no_whitespace"]),
)
def test_verdicts_are_python_in(contents: list[str], strings: list[str], normalise: Any) -> None:
    import tempfile

    keep_whitespace = normalise == "lower"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.jsonl")
        path.write_text("".join(json.dumps({"task_id": str(i), "s": s}) + "\n" for i, s in enumerate(strings)))
        benchmark = Benchmark(name="b", path=str(path), format="fields", fields=("s",))
        cfg = Decontaminate(benchmarks=(benchmark,), normalise=normalise, min_length=1, exempt=())
        rows = decontaminate.function(docs_of(*contents), cfg, Runtime.alone(Path(folder, "scratch"))).read().to_pylist()
    needles = [normalised(s.strip(), keep_whitespace=keep_whitespace) for s in strings]
    for content, row in zip(contents, rows, strict=True):
        found = [i for i, needle in enumerate(needles) if needle and needle in normalised(content, keep_whitespace=keep_whitespace)]
        assert row["keep"] == (not found)
        if found:
            assert row["value"] == max(len(needles[i]) for i in found)
            assert int(row["detail"].removeprefix("b/")) in found


def tiny_problems() -> list[dict[str, str]]:
    return [json.loads(line) for line in TINY.read_text().splitlines()]


@pytest.mark.parametrize("problem", tiny_problems(), ids=lambda problem: problem["entry_point"])
def test_our_own_solutions_pass_their_tests_and_nothing_less_does(problem: dict[str, str]) -> None:
    assert set(problem) == {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
    assert problem["prompt"].startswith(f"def {problem['entry_point']}(")
    call = f"\ncheck({problem['entry_point']})\n"
    for body, passes in ((problem["canonical_solution"], True), ("    return None\n", False)):
        program = problem["prompt"] + body + "\n" + problem["test"] + call
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode == 0) == passes, done.stderr
    function = problem["prompt"] + problem["canonical_solution"]
    doctests = f"import doctest\n{function}\nresults = doctest.testmod()\nassert results.attempted and not results.failed\n"
    subprocess.run([sys.executable, "-I", "-c", doctests], check=True, capture_output=True, timeout=60)


def test_every_string_of_our_own_benchmark_is_looked_for() -> None:
    needles, left_out, unsought = find_needles(Decontaminate(benchmarks=(Benchmark(name="tiny", path=str(TINY)),)))
    assert len(needles) == 2 * len(tiny_problems()) == 24
    assert left_out == unsought == []


def test_humaneval_has_one_docstring_and_one_solution_a_problem() -> None:
    if not HUMANEVAL.exists():
        pytest.skip(f"HumanEval is not at {HUMANEVAL}")
    benchmark = Benchmark(name="humaneval", path=str(HUMANEVAL))
    assert sum(len(strings) for _, strings in benchmark_strings(benchmark)) == 2 * 164
    needles, left_out, unsought = find_needles(Decontaminate(benchmarks=(benchmark,)))
    assert len(needles) == 2 * 164 - len(TRIVIAL_SOLUTIONS)
    assert sorted(line.split(": ")[1] for line in left_out) == sorted(TRIVIAL_SOLUTIONS)
    assert unsought == []
