"""The string of a benchmark that a document was dropped for, found again in both: in the benchmark's file, and in the document.

A verdict names the problem and how long the string is, normalised. Both texts are normalised as the step did, character by character with
its place, so that what is found has a place in the text as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from starloom.lineage.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Leak(NamedTuple):
    """A string of a benchmark in a document."""

    source: str
    """<benchmark>/<task_id>."""
    string: str | None
    """As the benchmark's file has it; None where that cannot be told."""
    start: int
    end: int
    """Its characters in the document."""
    note: str | None
    """Why there is no string."""


def find_leak(config: Mapping[str, Any], text: str, detail: str | None, value: float | None) -> Leak:
    """Return the string that a verdict of decontaminate is about.

    Args:
        config: of the step.
        text: of the document, as the step read it.
        detail: of the verdict: <benchmark>/<task_id>.
        value: of the verdict: characters of the string, normalised.
    """
    source, keeps_whitespace = detail or "", config.get("normalise") == "lower"
    try:
        strings = _strings(config, source)
    except InputError as error:
        return Leak(source, None, 0, 0, f"its file cannot be read now: {error.message}")
    spelt, starts = _normalised(text, keeps_whitespace=keeps_whitespace)
    for string in strings:
        needle, _ = _normalised(string, keeps_whitespace=keeps_whitespace)
        at = spelt.find(needle) if value is None or len(needle) == value else -1
        if needle and at >= 0:
            return Leak(source, string, starts[at], starts[at + len(needle) - 1] + 1, None)
    return Leak(source, None, 0, 0, "its file, as it is now, has no such string: it has changed since")


def _strings(config: Mapping[str, Any], source: str) -> list[str]:
    """Return the strings of a problem, from the benchmark's file."""
    from pydantic import ValidationError

    from starloom.tasks.decontaminate import Benchmark, benchmark_strings

    for given in config.get("benchmarks", ()):
        task_id = source.removeprefix(f"{given['name']}/")
        if task_id != source:
            try:
                benchmark = Benchmark.model_validate(given)
            except ValidationError as error:
                raise InputError(f"there is no file {given['path']}") from error
            return [string for found, strings in benchmark_strings(benchmark) if found == task_id for string in strings]
    return []


def _normalised(text: str, *, keeps_whitespace: bool) -> tuple[str, list[int]]:
    """Return a normalised text, and the character of the text that each of its characters came from."""
    folded = text.lower()
    if len(folded) == len(text) or text.isascii():
        starts: list[int] = list(range(len(text)))
    else:  # lower case may be longer: İ
        starts = [at for at, character in enumerate(text) for _ in character.lower()]
    if keeps_whitespace:
        return folded, starts
    kept = [at for at, character in enumerate(folded) if not character.isspace()]
    return "".join(folded[at] for at in kept), [starts[at] for at in kept]
