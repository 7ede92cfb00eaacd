"""Questions put to a model, and the judging of its answers.

Two kinds: a line of a document to infill (`infilling`), right if it is the line; and a function to complete (`human_eval`), right if
its program passes (`execution`). Cost: of judging, one process for each different program.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from starloom.tasks.kernels.programs.execution import Limits, run_programs
from starloom.tasks.kernels.programs.human_eval import STOP_WORDS, Problem
from starloom.tasks.kernels.programs.infilling import Infill, fit, is_exact_match

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

INFILLING = "infilling"
FIM_STOP_WORDS = ("<|endoftext|>", "<|filename|>", "<file_sep>")
"""Of bigcode-evaluation-harness, bigcode_eval/tasks/santacoder_fim.py."""
MAX_CHARS_PER_TOKEN = 16
"""Of code, on average; text farther from the line than that many characters a token of room is not encoded."""
EXACT_MATCH, MISMATCH, PASSED = "exact-match", "mismatch", "passed"


@dataclass(frozen=True)
class Decoding:
    """The settings of sampling; the names are those of `starloom.model.config.Prompt`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


class Sentinels(NamedTuple):
    """Token ids of the marks of fill-in-the-middle."""

    prefix: int
    suffix: int
    middle: int


@dataclass(frozen=True)
class Question:
    """One prompt, and the test that judges the answer."""

    benchmark: str
    task_id: str
    sample: int
    language: str
    prompt: str
    """As text, for people."""
    reference: str
    request: dict[str, Any]
    """As the model is asked: a `starloom.model.config.Prompt`."""
    problem: Problem | None = None
    """Whose tests judge the answer; without one it is compared with the reference."""


def infill_question(
    doc_id: str, language: str, infill: Infill, model: Tokenizer, marks: Sentinels, room_tokens: int, how: Decoding
) -> Question:
    """Ask for the line between as much of both sides as fits into `room_tokens`."""
    near = room_tokens * MAX_CHARS_PER_TOKEN
    left, right = (model.encode(text, add_special_tokens=False).ids for text in (infill.prefix[-near:], infill.suffix[:near]))
    prefix, suffix = fit(left, right, room_tokens - len(marks))
    tokens = [marks.prefix, *prefix, marks.suffix, *suffix, marks.middle]
    task_id = f"{doc_id}#L{infill.line_number}"
    request = {"task_id": task_id, "prompt_tokens": tokens, "stop": FIM_STOP_WORDS, **asdict(how)}
    return Question(INFILLING, task_id, 0, language, model.decode(tokens, skip_special_tokens=False), infill.line, request)


def problem_questions(benchmark: str, problem: Problem, num_samples: int, how: Decoding) -> list[Question]:
    """Ask for a function, so many times."""
    prompt = problem.stripped_prompt
    request = {"task_id": problem.task_id, "prompt": prompt, "stop": STOP_WORDS, **asdict(how)}
    return [
        Question(benchmark, problem.task_id, sample, "Python", prompt, problem.canonical_solution, {**request, "sample": sample}, problem)
        for sample in range(num_samples)
    ]


def judge(questions: Sequence[Question], answers: Sequence[str], limits: Limits, workers: int) -> list[str]:
    """Return the outcome of each answer; a program that several answers make is run once."""
    asked = list(zip(questions, answers, strict=True))
    programs = list(dict.fromkeys(question.problem.program(answer) for question, answer in asked if question.problem is not None))
    outcomes = dict(zip(programs, run_programs(programs, limits, workers), strict=True))
    return [
        (EXACT_MATCH if is_exact_match(answer, question.reference) else MISMATCH)
        if question.problem is None
        else str(outcomes[question.problem.program(answer)])
        for question, answer in asked
    ]
