"""HumanEval's format, and the judging of answers: canonical solutions pass, empty ones do not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from starloom.tasks.kernels.programs.execution import Limits
from starloom.tasks.kernels.programs.human_eval import read_problems
from starloom.tasks.kernels.programs.questions import Decoding, judge, problem_questions

SHARED = Path(__file__).parents[1].parent / "shared" / "benchmarks" / "HumanEval.jsonl.gz"
OWN = Path(__file__).parents[1] / "conf" / "benchmarks" / "starloom_tiny.jsonl"
PROBLEM = {
    "task_id": "t/0",
    "prompt": "def add(a, b):\n    '''Add.'''\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
HOW = Decoding(16, 0.2, 0.95, 0)


def written(folder, *lines):
    path = folder / "problems.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_reads_plain_and_gzipped_files_alike(tmp_path):
    plain = written(tmp_path, PROBLEM, "", {**PROBLEM, "task_id": "t/1", "more": 1})
    zipped = tmp_path / "problems.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert [problem.task_id for problem in read_problems(plain)] == ["t/0", "t/1"]
    assert read_problems(plain) == read_problems(zipped)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no problem"),
        ([PROBLEM, PROBLEM], "'t/0' occurs more than once"),
        ([PROBLEM, "{"], "line 2 is not JSON"),
        (["[]"], "line 1 is a list, not an object"),
        (["{}"], "line 1: 'task_id' is missing or not a string; it has no field"),
        ([{**PROBLEM, "test": "x = '\ud800'"}], "'test' holds half a surrogate pair"),
        ([PROBLEM, "[" * 100_000], "line 2 is not JSON"),
        ([{**PROBLEM, "test": None}], "'test' is missing or not a string"),
        ([{**PROBLEM, "prompt": " \n"}], "prompt is blank"),
    ],
)
def test_refuses_what_is_no_problem(lines, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_problems(written(tmp_path, *lines))


def test_judges_answers_and_runs_equal_ones_once(tmp_path):
    (problem,) = read_problems(written(tmp_path, PROBLEM))
    log = tmp_path / "log"
    noisy = type(problem)(**{**PROBLEM, "test": PROBLEM["test"] + f"open({str(log)!r}, 'a').write('x')\n"})
    questions = problem_questions("own", noisy, 4, HOW)
    assert [question.sample for question in questions] == [0, 1, 2, 3]
    assert {question.request["prompt"] for question in questions} == {problem.prompt.strip()}
    answers = ["\n    return a + b\n", "\n    return a - b\n", "\n    return a + b\n", "\n    return ("]
    outcomes = judge(questions, answers, Limits(), 2)
    assert outcomes[0] == outcomes[2] == "passed"
    assert outcomes[1] == "failed: AssertionError"
    assert outcomes[3].startswith("syntax-error")
    assert log.read_text() == "xx"


@pytest.mark.slow
@pytest.mark.parametrize("path", [OWN, SHARED], ids=["own", "HumanEval"])
def test_canonical_solutions_pass_and_empty_ones_do_not(path):
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    problems = read_problems(path)[:40]
    questions = [problem_questions("x", problem, 1, HOW)[0] for problem in problems]
    # The prompt is stripped, so an answer begins with the line feed.
    right = [f"\n{problem.canonical_solution}" for problem in problems]
    assert set(judge(questions, right, Limits(cpu_seconds=10), 2)) == {"passed"}
    assert "passed" not in judge(questions, [""] * len(problems), Limits(cpu_seconds=10), 2)
