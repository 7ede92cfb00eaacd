"""Docstrings say directly what a function does: "Return whether…", not "Whether…"; and classes are nouns."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bench", "cli", "console", "docs", "flows", "lineage", "model", "queries", "tasks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
QUESTION_WORDS = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Whose", "Why"}


def opening_words(source: str) -> list[tuple[str, str]]:
    """(name, first word) of every docstring of a function or class."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return [(node.name, text.split()[0].strip(",.:;—")) for node in nodes if (text := ast.get_docstring(node))]


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Whether it is."""',
        'async def f():\n    """What, if any."""',
        'class C:\n    def f(self):\n        """Where it lies."""',
    ],
)
def test_a_question_word_is_found_wherever_a_function_stands(source):
    assert [word for _, word in opening_words(source) if word in QUESTION_WORDS]


def test_no_docstring_of_a_function_or_class_opens_with_a_question_word():
    assert len(FILES) > 150
    found = [
        f"{path.relative_to(ROOT)}: {name}: {word} …"
        for path in FILES
        for name, word in opening_words(path.read_text())
        if word in QUESTION_WORDS
    ]
    assert found == []


def test_docstrings_of_functions_open_with_a_verb_and_not_an_article():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
            if not is_property and (ast.get_docstring(node) or "-").split()[0] in {"A", "All", "An", "Each", "Every", "The", "Those"}:
                found.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert found == []
