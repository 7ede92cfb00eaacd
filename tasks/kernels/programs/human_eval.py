"""Problems in HumanEval's format: reading them, prompting for them, and the program that judges an answer.

Chen et al. 2021, arXiv 2107.03374 (openai/human-eval: data/HumanEval.jsonl.gz, human_eval/execution.py); prompts are
stripped and answers are cut at the stop words as in bigcode-evaluation-harness, bigcode_eval/tasks/humaneval.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starloom.tasks.kernels.programs.benchmark_files import read_lines, text_of

if TYPE_CHECKING:
    from pathlib import Path

STOP_WORDS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


@dataclass(frozen=True)
class Problem:
    """A function to complete, and the tests that it must pass."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    @property
    def stripped_prompt(self) -> str:
        """The prompt that the model is shown."""
        return self.prompt.strip()

    def program(self, completion: str) -> str:
        """Return the program that ends without an exception if and only if the completion is right."""
        return f"{self.stripped_prompt}{completion}\n{self.test}\ncheck({self.entry_point})\n"


def read_problems(path: Path) -> list[Problem]:
    """Read the problems of a `.jsonl` file, gzipped or not, in its order.

    Raises:
        ValueError: if a line is no problem or repeats one, naming the line; if there is no problem at all.
    """
    problems = [_problem(fields, where) for where, fields in read_lines(path)]
    ids = [problem.task_id for problem in problems]
    if repeated := sorted({task_id for task_id in ids if ids.count(task_id) > 1}):
        raise ValueError(f"{path.name}: the task {repeated[0]!r} occurs more than once")
    return problems


def _problem(fields: dict[str, Any], where: str) -> Problem:
    problem = Problem(**{name: text_of(fields, name, where) for name in FIELDS})
    if not problem.stripped_prompt:
        raise ValueError(f"{where}: the prompt is blank")
    return problem
