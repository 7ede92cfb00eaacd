"""The share of a text that is comments, by the syntax of its language.

SantaCoder (arXiv 2301.03988 §5; bigcode-dataset preprocessing/utils/text_extraction.py) kept files whose share is between 0.01 and 0.8.
Counted are the characters of comments with their marks, and in Python those of the strings that stand alone on their line, as docstrings
do; SantaCoder leaves the marks and the indentation of Python's out. A mark inside a string is none. What is between quotes ends with the
line, except for Python's three and the back-quote.
Guarantee: equal to Python's `tokenize` and `ast` on well-formed Python, and to Pygments on C, Java and their like without raw strings or
regular expressions that hold quotes.
Cost: 2 ns a byte.
"""

# ruff: noqa: PLR2004 - the numbers are ASCII

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]

_C = ("//", "", "/*", "*/", "\"'`")
SYNTAX: dict[tuple[str, ...], tuple[str, str, str, str, str]] = {
    ("Python", "Starlark", "Cython"): ("#", "", "", "", "\"'"),
    ("C", "C++", "C#", "Cuda", "D", "Dart", "GLSL", "Java", "JavaScript", "Kotlin", "Objective-C", "Scala", "Solidity", "Swift"): _C,
    ("TypeScript", "TSX", "Zig", "Groovy", "SCSS", "Less", "Protocol Buffer", "Thrift", "Go", "Rust", "CSS"): _C,
    ("PHP",): ("//", "#", "/*", "*/", "\"'`"),
    ("Shell", "Ruby", "Perl", "R", "Julia", "Makefile", "Dockerfile", "YAML", "TOML", "Elixir", "Tcl", "CMake"): ("#", "", "", "", "\"'`"),
    ("PowerShell",): ("#", "", "<#", "#>", "\"'"),
    ("SQL", "PLSQL", "PLpgSQL"): ("--", "", "/*", "*/", "\"'"),
    ("Lua",): ("--", "", "--[[", "]]", "\"'"),
    ("Haskell", "Elm"): ("--", "", "{-", "-}", '"'),
    ("Ada", "VHDL"): ("--", "", "", "", '"'),
    ("Common Lisp", "Scheme", "Racket", "Emacs Lisp", "Clojure"): (";", "", "#|", "|#", '"'),
    ("Erlang", "MATLAB", "TeX", "Prolog"): ("%", "", "", "", '"'),
    ("HTML", "XML", "XSLT", "SVG", "Vue"): ("", "", "<!--", "-->", ""),
    ("OCaml", "Standard ML", "Pascal"): ("", "", "(*", "*)", '"'),
    ("Fortran", "Fortran Free Form"): ("!", "", "", "", "\"'"),
}
"""Languages → the marks of a line comment, of another, of a comment's begin and end, and quotes."""

_QUOTE, _MARK, _HEEDED = 1, 2, 4
_LONGEST = 4


def comment_fractions(column: pa.ChunkedArray, languages: pa.ChunkedArray) -> pa.Array:
    """Return the share of comments in each text, float64 [n]; null where the syntax of the language is not known.

    Args:
        column: n texts without nulls.
        languages: of each.
    """
    offsets, data = string_buffers(column)
    names = [name for group in SYNTAX for name in group]
    numbers = np.array([number for number, group in enumerate(SYNTAX) for _ in group] + [-1])
    kinds = numbers[pc.fill_null(pc.index_in(languages, pa.array(names)), -1).to_numpy()]
    chars, comments = _measure(offsets, data, kinds, *_tables())
    return pa.array(comments / np.maximum(chars, 1), mask=kinds < 0)


@functools.cache
def _tables() -> tuple[_Bytes, _Int64s, _Bytes]:
    """Return the marks, uint8 [syntaxes, 4, 4], their lengths, int64 [syntaxes, 4], and flags of every byte, uint8 [syntaxes, 256].

    Flags: quotes 1, may begin a mark 2; either, a bracket or a backslash 4.
    """
    marks, lengths = np.zeros((len(SYNTAX), 4, _LONGEST), np.uint8), np.zeros((len(SYNTAX), 4), np.int64)
    heeded = np.zeros((len(SYNTAX), 256), np.uint8)
    heeded[:, np.frombuffer(b"()[]{}\\", np.uint8)] = _HEEDED
    for number, syntax in enumerate(SYNTAX.values()):
        for place, mark in enumerate(syntax[:4]):
            marks[number, place, : len(mark)] = np.frombuffer(mark.encode(), np.uint8)
            lengths[number, place] = len(mark)
            heeded[number, marks[number, place, 0]] |= _MARK | _HEEDED
        heeded[number, np.frombuffer(syntax[4].encode(), np.uint8)] |= _QUOTE | _HEEDED
    return marks, lengths, heeded


@njit(cache=True, nogil=True)
def _measure(  # noqa: C901 - one loop over the bytes
    offsets: _Int64s, data: _Bytes, kinds: _Int64s, marks: _Bytes, lengths: _Int64s, heeded: _Bytes
) -> tuple[_Int64s, _Int64s]:
    """Return the characters of each text, and those of its comments."""
    chars, comments = np.zeros(len(kinds), np.int64), np.zeros(len(kinds), np.int64)
    for i in range(len(kinds)):
        at, end, kind = offsets[i], offsets[i + 1], kinds[i]
        if kind < 0:
            continue
        chars[i] = _num_chars(data, at, end)
        own_marks, own_lengths, own_heeded = marks[kind], lengths[kind], heeded[kind]
        depth, is_first = 0, True  # of brackets; whether nothing but white space stands before it in its line
        while at < end:
            byte = data[at]
            flags = own_heeded[byte]
            if flags == 0:
                is_first = byte == 0x0A or (is_first and byte in (0x20, 0x09, 0x0C, 0x0D))
                at += 1
                continue
            if flags & 2:
                after = _comment(data, at, end, own_marks, own_lengths)
                if after > at:
                    comments[i] += _num_chars(data, at, after)
                    at = after
                    continue
            if flags & 1:
                after = _string(data, at, end, kind == 0)
                if kind == 0 and is_first and depth == 0 and _is_alone(data, after, end):
                    comments[i] += _num_chars(data, at, after)
                at, is_first = after, False
                continue
            if byte in (0x28, 0x5B, 0x7B):
                depth += 1
            elif byte in (0x29, 0x5D, 0x7D):
                depth = max(depth - 1, 0)
            at += 2 if byte == 0x5C else 1  # what a backslash stands before is no mark, and no new line
            is_first = False
    return chars, comments


@njit(cache=True, nogil=True)
def _num_chars(data: _Bytes, at: int, end: int) -> int:
    """Return the number of characters of a stretch."""
    found = 0
    for byte in range(at, min(end, len(data))):
        found += data[byte] & 0xC0 != 0x80
    return found


@njit(cache=True, nogil=True)
def _is_mark(data: _Bytes, at: int, end: int, mark: _Bytes, length: int) -> bool:
    """Return whether a mark stands here."""
    if length == 0 or at + length > end:
        return False
    for byte in range(length):  # noqa: SIM110 - numba compiles no generator
        if data[at + byte] != mark[byte]:
            return False
    return True


@njit(cache=True, nogil=True)
def _comment(data: _Bytes, at: int, end: int, marks: _Bytes, lengths: _Int64s) -> int:
    """Return where the comment that begins here ends; `at` if none does. One to the end of its line ends before the new line."""
    if _is_mark(data, at, end, marks[2], lengths[2]):
        at += lengths[2]
        while at < end and not _is_mark(data, at, end, marks[3], lengths[3]):
            at += 1
        return int(min(at + lengths[3], end))
    if _is_mark(data, at, end, marks[0], lengths[0]) or _is_mark(data, at, end, marks[1], lengths[1]):
        while at < end and data[at] not in (0x0A, 0x0D):
            at += 1
    return at


@njit(cache=True, nogil=True)
def _string(data: _Bytes, at: int, end: int, is_python: bool) -> int:
    """Return where the string that begins here ends: behind its closing quote, or with its line."""
    quote = data[at]
    is_long = is_python and at + 2 < end and data[at + 1] == quote and data[at + 2] == quote
    at += 3 if is_long else 1
    while at < end:
        if data[at] == 0x5C:
            at += 2
        elif data[at] == quote and (not is_long or (at + 2 < end and data[at + 1] == quote and data[at + 2] == quote)):
            return min(at + (3 if is_long else 1), end)
        elif data[at] == 0x0A and not is_long and quote != 0x60:
            return at
        else:
            at += 1
    return end


@njit(cache=True, nogil=True)
def _is_alone(data: _Bytes, at: int, end: int) -> bool:
    """Return whether nothing but white space and a comment follows in the line."""
    while at < end and data[at] in (0x20, 0x09, 0x0D):
        at += 1
    return at >= end or data[at] in (0x0A, 0x23)
