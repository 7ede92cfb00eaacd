"""Languages of files by name and contents: Linguist's strategies in Linguist's order, columns at a time.

Modeline, file name, shebang, extension, XML declaration, manual page, rules on contents; each narrows what those before it
left. Where several languages remain, or none, `ContentModel` (Magika) is asked if there is one, among what remains; else
the usual language of the extension stands (`linguist.py`).
Guarantee: each file's language is a function of its path, its contents and the model; time linear in the text.
Cost: a pass of RE2 over the ends of each file; rules read the first 50 KiB of files whose extension is ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from starloom.tasks.kernels.languages.first_lines import (
    MODELINE_BYTES,
    MODELINE_SCREEN,
    SHEBANG_BYTES,
    interpreter_called_by,
    interpreter_of,
    language_of_modeline,
    languages_of_shebang,
)
from starloom.tasks.kernels.languages.linguist import vocabulary
from starloom.tasks.kernels.languages.names import Names, read_names

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.tasks.kernels.languages.linguist import Rule

Strategy = Literal["modeline", "filename", "shebang", "extension", "xml", "manpage", "rules", "content", "usual", "none"]

RULES_BYTES = 50 * 1024
"""How much of a file the rules read (Linguist's HEURISTICS_CONSIDER_BYTES)."""

_XML_BYTES = 1024


class Guess(Protocol):
    """A function that tells languages by contents alone."""

    def __call__(self, contents: pa.Array, candidates: list[tuple[str, ...]]) -> list[str | None]:
        """Return the language of each of n contents, among its candidates if it has any; None: it cannot tell."""
        ...


@dataclass
class _Candidates:
    """Languages that each file may still have; a file with one is settled."""

    languages: list[tuple[str, ...]]
    settled: NDArray[np.bool_]
    strategy: list[Strategy]
    texts: pa.Array = field(repr=False)

    def set(self, row: int, languages: tuple[str, ...], strategy: Strategy) -> None:
        """Give a row its candidates; no languages leave it as it was."""
        if languages:
            self.languages[row] = languages
            self.strategy[row] = strategy
            self.settled[row] = len(languages) == 1

    def narrow(self, row: int, languages: tuple[str, ...], strategy: Strategy) -> None:
        """Keep of a row's candidates those among `languages`; if it has none yet, all of them."""
        known = self.languages[row]
        self.set(row, tuple(name for name in known if name in languages) if known else languages, strategy)

    def open_rows(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self.settled)


def identify(
    paths: pa.Array, contents: pa.Array, guess: Guess | None = None, is_asked: NDArray[np.bool_] | None = None
) -> tuple[list[str | None], list[Strategy]]:
    """Return (language, the strategy that settled it) of each file; a language of None is unknown.

    Args:
        paths: n strings.
        contents: n of large_binary.
        guess: asked about files that the rules leave open: of several languages, or of none and without an extension.
        is_asked: n; files about which it may be asked; None: all.
    """
    rows = len(paths)
    names = read_names(paths)
    candidates = _Candidates([()] * rows, np.zeros(rows, np.bool_), ["none"] * rows, contents)
    _read_modelines(candidates)
    _take_names(candidates, names)
    _read_shebangs(candidates)
    _take_extensions(candidates, names)
    _read_xml(candidates)
    _take_manpages(candidates, names)
    _apply_rules(candidates, names)
    if guess is not None:
        _ask(candidates, names, guess, is_asked)
    usual = names.usual()
    for row in candidates.open_rows().tolist():
        found = candidates.languages[row]
        if found:
            name = usual[row]
            candidates.set(row, (name if name is not None and name in found else found[0],), "usual")
    return [found[0] if found else None for found in candidates.languages], candidates.strategy


def _slice(texts: pa.Array, start: int, stop: int | None = None) -> pa.Array:
    import pyarrow.compute as pc

    return pc.binary_slice(texts, start, stop)


def _matches(texts: pa.Array, pattern: str) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return found


def _text(content: bytes) -> str:
    return content.decode("latin-1")  # as Linguist's patterns see it; the languages' names are ASCII


def _read_modelines(candidates: _Candidates) -> None:
    texts = candidates.texts
    heads, tails = _slice(texts, 0, MODELINE_BYTES), _slice(texts, -MODELINE_BYTES)
    for row in np.flatnonzero(_matches(heads, MODELINE_SCREEN) | _matches(tails, MODELINE_SCREEN)).tolist():
        whole = heads[row].as_py()
        if len(whole) == MODELINE_BYTES:
            whole = b"\n".join([*whole.splitlines()[:5], b"\n" * 5, *tails[row].as_py().splitlines()[-5:]])
        if language := language_of_modeline(_text(whole)):
            candidates.set(row, (language,), "modeline")


def _take_names(candidates: _Candidates, names: Names) -> None:
    for row in np.flatnonzero((names.by_name >= 0) & ~candidates.settled).tolist():
        candidates.set(row, names.names[names.by_name[row]], "filename")


def _read_shebangs(candidates: _Candidates) -> None:
    import pyarrow.compute as pc

    starts = pc.starts_with(candidates.texts, b"#!").to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(starts & ~candidates.settled)
    heads = _slice(candidates.texts.take(rows), 0, 4 * SHEBANG_BYTES)
    lines = pc.replace_substring_regex(_slice(heads, 0, SHEBANG_BYTES), "(?s)[\r\n].*$", "").dictionary_encode()
    known = [_text(line) for line in lines.dictionary.to_pylist()]
    answers = [languages_of_shebang(line) for line in known]
    is_sh = [interpreter_of(line) == "sh" for line in known]
    hands_over = _matches(heads, r"exec \w+[\s\"']+\$0")
    for at, (row, code) in enumerate(zip(rows.tolist(), lines.indices.to_pylist(), strict=True)):
        called = interpreter_called_by(_text(heads[at].as_py())) if hands_over[at] and is_sh[code] else None
        candidates.narrow(row, vocabulary().interpreters.get(called, ()) if called else answers[code], "shebang")


def _take_extensions(candidates: _Candidates, names: Names) -> None:
    codes, languages = names.by_extension.tolist(), [extension.languages for extension in names.extensions]
    for row in candidates.open_rows().tolist():
        if claimed := languages[codes[row]]:
            candidates.narrow(row, claimed, "extension")


def _read_xml(candidates: _Candidates) -> None:
    """Take a file of no known or of several languages for XML if it says so; Linguist asks that of the former alone."""
    open_rows = candidates.open_rows().tolist()
    rows = np.array([row for row in open_rows if not candidates.languages[row] or "XML" in candidates.languages[row]], np.int64)
    heads = _slice(candidates.texts.take(rows), 0, _XML_BYTES)
    for row in rows[_matches(heads, r"\A(?:[^\n]*\n)?[^\n]*<\?xml version=")].tolist():
        candidates.set(row, ("XML",), "xml")


def _take_manpages(candidates: _Candidates, names: Names) -> None:
    for row in candidates.open_rows().tolist():
        if not candidates.languages[row]:
            candidates.set(row, names.extensions[names.by_extension[row]].fallback, "manpage")


def _apply_rules(candidates: _Candidates, names: Names) -> None:
    """Apply to each file that is open the first rule of its extension that holds."""
    open_rows = candidates.open_rows()
    group = np.array([extension.heuristic for extension in names.extensions], np.int64)[names.by_extension[open_rows]]
    for at in np.unique(group[group >= 0]).tolist():
        rows = open_rows[group == at]
        texts = _slice(candidates.texts.take(rows), 0, RULES_BYTES)
        for rule in vocabulary().heuristics[at][1]:
            holds = _holds(rule, texts)
            for row in rows[holds].tolist():
                candidates.set(row, rule.languages, "rules")
            rest = np.flatnonzero(~holds)
            rows, texts = rows[rest], texts.take(rest)
            if not len(rows):
                break


def _holds(rule: Rule, texts: pa.Array) -> NDArray[np.bool_]:
    holds = np.ones(len(texts), np.bool_)
    for pattern in rule.every:
        holds &= _matches(texts, pattern)
    for pattern in rule.none:
        holds &= ~_matches(texts, pattern)
    return holds


def _ask(candidates: _Candidates, names: Names, guess: Guess, is_asked: NDArray[np.bool_] | None) -> None:
    missing = np.array([extension.is_missing for extension in names.extensions], np.bool_)[names.by_extension]
    some = np.array([bool(languages) for languages in candidates.languages], np.bool_)
    wanted = ~candidates.settled & (some | missing)
    rows = np.flatnonzero(wanted if is_asked is None else wanted & is_asked)
    answers = guess(candidates.texts.take(rows), [candidates.languages[row] for row in rows.tolist()])
    for row, answer in zip(rows.tolist(), answers, strict=True):
        if answer is not None:
            candidates.set(row, (answer,), "content")
