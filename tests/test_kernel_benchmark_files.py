"""Files of benchmarks: what is read is what was written, and what is no text is named by its line."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.programs.benchmark_files import read_lines, text_of

FIELDS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers() | st.text(max_size=9), max_size=4)


@given(problems=st.lists(FIELDS, min_size=1, max_size=5), is_zipped=st.booleans(), blank=st.sampled_from(["", "\n", " \n\n"]))
def test_problems_come_in_order_with_their_lines(tmp_path_factory, problems, is_zipped, blank):
    path = tmp_path_factory.getbasetemp() / "problems.jsonl"
    data = "".join(json.dumps(problem) + "\n" + blank for problem in problems).encode()
    path.write_bytes(gzip.compress(data) if is_zipped else data)
    step = 1 + blank.count("\n")
    expected = [(f"problems.jsonl, line {1 + i * step}", json.loads(json.dumps(problem))) for i, problem in enumerate(problems)]
    assert read_lines(path) == expected


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "holds no problem"),
        (b" \n\n", "holds no problem"),
        (b'{"a": 1}\n{"a":', "line 2 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b'{"a": 1}\n\n[1]', "line 3 is a list, not an object"),
        (b"null", "line 1 is a NoneType, not an object"),
        (b"\xff\xfe{}", "cannot be read"),
        (gzip.compress(b'{"a": 1}')[:-9], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
    ],
)
def test_what_is_no_benchmark_is_refused_by_line(tmp_path, data, told):
    (tmp_path / "wrong.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match=told):
        read_lines(tmp_path / "wrong.jsonl")


def test_a_file_that_is_not_there_is_refused_too(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")


def test_a_field_is_text_or_where_allowed_a_number():
    problem = {"text": "é", "number": 7, "flag": True, "list": []}
    assert text_of(problem, "text", "here") == "é"
    assert text_of(problem, "number", "here", or_number=True) == "7"
    for name, or_number in (("number", False), ("flag", True), ("list", True), ("none", True)):
        with pytest.raises(ValueError, match=f"here: '{name}' is missing or not a string; it has flag, list, number, text"):
            text_of(problem, name, "here", or_number=or_number)
    with pytest.raises(ValueError, match="it has no field"):
        text_of({}, "text", "here")


def test_half_a_pair_is_no_text():
    with pytest.raises(ValueError, match="half a surrogate pair"):
        text_of(json.loads('{"text": "a\\ud800"}'), "text", "here")
