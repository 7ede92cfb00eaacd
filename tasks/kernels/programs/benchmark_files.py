"""Files of benchmarks: JSON lines, gzipped or not, one problem a line.

Guarantee: what is read is text; for anything else a `ValueError` names the line and the reason.
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"
SHOWN_FIELDS = 12


def read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the problems of a file in its order, each with its place: (`name, line n`, problem).

    Raises:
        ValueError: if it cannot be read, a line is no JSON object, or it holds none.
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    problems = [_object(line, f"{path.name}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def _object(line: str, where: str) -> tuple[str, dict[str, Any]]:
    try:
        problem = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter where brackets nest a thousand deep
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(problem, dict):
        raise ValueError(f"{where} is a {type(problem).__name__}, not an object")  # noqa: TRY004 - a wrong file, not a wrong call
    return where, problem


def text_of(problem: dict[str, Any], name: str, where: str, *, or_number: bool = False) -> str:
    """Return a field that is text; with `or_number` an integer is accepted too.

    Raises:
        ValueError: if it is missing, anything else, or holds half a surrogate pair, which JSON can spell and UTF-8 cannot.
    """
    value = problem.get(name)
    if or_number and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        has = ", ".join(sorted(problem)[:SHOWN_FIELDS]) or "no field"
        raise ValueError(f"{where}: {name!r} is missing or not a string; it has {has}")  # noqa: TRY004 - likewise
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {name!r} holds half a surrogate pair ({value[error.start]!r}), which is no text") from error
    return value
