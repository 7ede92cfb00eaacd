"""Languages that a file declares about itself: the interpreter of its first line, the mode of an editor.

Rules: Linguist's shebang.rb and strategy/modeline.rb. A mode is looked for in the first and last five lines, as far as
`MODELINE_BYTES` from either end (Linguist: in files of up to 1 MB, without that bound).
Guarantee: time linear in the text, whatever the text: patterns are RE2's, where Linguist's look ahead and behind.
"""

from __future__ import annotations

import functools
import re

from starloom.tasks.kernels.languages.linguist import vocabulary

MODELINE_BYTES = 2048
"""How much of either end of a file may hold a modeline."""

SHEBANG_BYTES = 256
"""How much of a first line is read as a shebang."""

MODELINE_SCREEN = (
    r"(?i)-\*-[ \t]*[^:;\s]+[ \t]*-\*-|-\*-[^\n]*mode[ \t]*:"
    r"|(?:^|\s)(?:vi|vim|ex)[<=>]?[0-9]*:(?:[^\n]*[ \t:])?(?:filetype|ft|syntax)[ \t]*="
)
"""Texts without a match of this have no modeline."""

_LINES = 5
_EMACS = (
    r"(?i)-\*-(?:[ \t]*(?:([^:;\s]+)[ \t]+-\*-|([^:;\s]*[^:;\s*-])-\*-)"
    r"|(?:.*?[ \t;])?[ \t]*mode[ \t]*:[ \t]*(?:([^:;\s]+)[ \t;].*?-\*-|([^:;\s]*[^:;\s*-])-\*-))"
)
_VIM_START = r"(?m)(?:(?:^|[ \t])(?:vi(?:m[<=>]?[0-9]+|m)?|Vim(?:[<=>]?[0-9]+)?)|[ \t]ex):"
_VIM_SET = r"[ \t]*set?[ \t]"
_VIM_ENDED_SET = r"[ \t]*set?[ \t][^\r\n:]+:"
_VIM_OPTIONS = r":?(?:(?:[ \t]*:[ \t]*|[ \t])\w*(?:[ \t]*=(?:[^\\\s]|\\[^\n])*)?)*[ \t:](?:filetype|ft|syntax)[ \t]*=(\w+)(?:$|\s|:)"
_ENV_OPTIONS = re.compile(r"(?:(?:-[i0uCSv]*|--\S+)\s+)|(?:[^\s=]+=\S+\s+)")


def language_of_modeline(text: str) -> str | None:
    """Return the language that an editor's line in the first or last five lines of a text names."""
    lines = re.split(r"\r\n|\r|\n", text.removesuffix("\n"))
    head, tail = lines[:_LINES], lines[-_LINES:]
    if any("UseVimball" in line for line in head):
        return None
    mode = mode_of("\n".join(head if len(lines) <= _LINES else head + tail))
    return None if mode is None else vocabulary().aliases.get(mode.lower())


def mode_of(text: str) -> str | None:
    """Return what Emacs or Vim would be told to take a text for, by the first modeline of either."""
    patterns = _patterns()
    if found := patterns["emacs"].search(text):
        return next(group for group in found.groups() if group)
    for start in patterns["start"].finditer(text):
        line = text[start.end() - 1 :].split("\n", 1)[0]
        if patterns["set"].match(line, 1) and not patterns["ended"].match(line, 1):
            continue
        if found := patterns["options"].match(line):
            return str(found[1])
    return None


@functools.cache
def _patterns() -> dict[str, re.Pattern[str]]:
    import re2

    words = {"emacs": _EMACS, "start": _VIM_START, "set": _VIM_SET, "ended": _VIM_ENDED_SET, "options": _VIM_OPTIONS}
    return {name: re2.compile(pattern) for name, pattern in words.items()}


def interpreter_of(line: str) -> str | None:
    """Return the name of the program that a shebang calls, without a minor version; None if it is none that tells a language.

    `env` is looked through: its options (`-S`) and assignments are left out.
    """
    words = re.match(r"#!\s*(\S+)(.*)", line)
    if words is None:
        return None
    program, rest = words[1].rpartition("/")[2], words[2].lstrip()
    if program == "env":
        while option := _ENV_OPTIONS.match(rest):
            rest = rest[option.end() :]
        program = (rest.split(None, 1) or [""])[0]
    program = re.sub(r"\.\d+$", "", program)
    if program == "osascript" and re.search(r"-l\s?", rest):
        return None
    return program.rpartition("/")[2] or None


def languages_of_shebang(line: str) -> tuple[str, ...]:
    """Return the languages that the interpreter of a first line runs; none if it is no shebang."""
    interpreter = interpreter_of(line)
    return vocabulary().interpreters.get(interpreter, ()) if interpreter else ()


def interpreter_called_by(head: str) -> str | None:
    r"""Return the program that a script of `sh` hands itself over to in its first five lines: `exec tclsh "$0" "$@"`."""
    lines = head.splitlines()[:_LINES]
    found = (re.search(r"exec (\w+)[\s\"']+\$0[\s\"']+\$@", line[:SHEBANG_BYTES]) for line in lines)
    return next((match[1] for match in found if match), None)
