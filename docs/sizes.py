"""Lines of the code and of its tests, without blanks, comments and docstrings: `python -m docs.sizes`."""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER, tokenize.ENCODING}
NO_SOURCE = ("tests", "bench", "docs")
"""Folders that are counted by themselves; every other one is source."""


def count_lines(text: str) -> int:
    """Count the lines that hold code.

    Raises:
        SyntaxError: the text is no Python.
    """
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in LAYOUT for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - set(_docstring_lines(ast.parse(text))))


def _docstring_lines(tree: ast.Module) -> list[int]:
    """Return the lines of strings that stand alone: docstrings, of attributes too."""
    alone = [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    strings = [node for node in alone if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    return [line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)]


def count_all() -> Counter[str]:
    """Count the lines of the files that git knows: by tests, bench, docs, and source."""
    told = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - git as it is found
    lines: Counter[str] = Counter()
    for name in told.stdout.splitlines():
        top = name.partition("/")[0]
        if not (ROOT / name).is_symlink() and (ROOT / name).exists():
            lines[top if top in NO_SOURCE else "source"] += count_lines((ROOT / name).read_text())
    return lines


def main() -> None:
    """Print the table."""
    lines = count_all()
    for name in ("source", *NO_SOURCE):
        print(f"{name:<8}{lines[name]:>8,}")
    print(f"tests ÷ source {lines['tests'] / lines['source']:.2f}")


if __name__ == "__main__":
    main()
