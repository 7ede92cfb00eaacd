r"""What the pages show of a terminal is run: `python -m docs.transcripts` pastes in what the commands print, tests compare it.

A ```console block holds commands after `$ ` (a `\` at the end goes on in the next line) and what they print; a line `…` stands for
lines left out. A code block whose first line is `# some/file.py` is written to that file. The blocks of a page are run from top to
bottom in one folder with a copy of `conf/`, which the page calls ~/starloom. A block with a comment above it, `<!-- not run: why -->`,
is not. README.md runs nothing: what it shows is quoted from docs/getting-started.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = "~/starloom"
README, STARTING, OWN = ROOT / "README.md", ROOT / "docs" / "getting-started.md", ROOT / "docs" / "own-repositories.md"
LEFT_OUT = "…"
FENCE = re.compile(r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<name>\S+/\S+\.\w+)\n")
PROGRESS = re.compile(r"^\S+ +[\d,]+ of [\d,]+ \w+( .*)?$")
"""A line about a step that takes long: how many there are is a matter of the machine."""
VARIABLE = (
    (re.compile(r"\b\d{8}-\d{6}-\d{3}-[\w-]+"), "RUN"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\+00:00)?"), "TIME"),
    (re.compile(r"\b[\d,]+\.\d+ s\b"), "SECONDS"),
    (re.compile(r"\bcheckpoint [0-9a-f]{12,64}\b"), "checkpoint HASH"),  # another kind of processor may round other last bits
    (re.compile(r"─+"), "─"),
    (re.compile(r"\s+"), " "),
)
"""What two runs of one command may print differently, and what stands for it in a comparison."""
NUMBER = re.compile(r"\b[0-9a-f]{8,64}\b|[\d.,]*\d[\d.,]*")


@dataclass(frozen=True)
class Command:
    """A command of a page and what the page says that it prints."""

    text: str
    shown: str
    begin: int
    """Where `shown` begins in the page."""
    is_run: bool


@dataclass(frozen=True)
class Written:
    """A file that a page has its reader write."""

    name: str
    content: str


def main() -> int:
    """Run the pages and paste what came of it."""
    outputs: dict[Path, list[str]] = {}
    for page in (OWN, STARTING):
        with tempfile.TemporaryDirectory(prefix="starloom-docs-") as folder:
            print(f"running {page.relative_to(ROOT)}", flush=True)
            outputs[page] = run_page(page.read_text(), Path(folder))
        page.write_text(pasted(page.read_text(), outputs[page]))
    quotes = [quoted(command.shown, outputs[STARTING]) or command.shown for command in commands(README.read_text())]
    README.write_text(pasted(README.read_text(), quotes, is_quoting=True))
    return 0


def items(page: str) -> list[Command | Written]:
    """Return the commands and files of a page, from top to bottom."""
    found: list[Command | Written] = []
    for block in FENCE.finditer(page):
        is_run = not (block["mark"] or "").startswith("not run")
        if block["kind"] == "console":
            found += _commands(block["body"], block.start("body"), is_run=is_run)
        elif is_run and (named := FILE.match(block["body"])):
            found.append(Written(named["name"], block["body"]))
    return found


def commands(page: str) -> list[Command]:
    """Return the commands of a page."""
    return [item for item in items(page) if isinstance(item, Command)]


def _commands(body: str, begin: int, *, is_run: bool) -> list[Command]:
    found, position = [], begin
    for piece in re.split(r"^(?=\$ )", body, flags=re.MULTILINE):
        typed = re.match(r"\$ (?P<text>(?:.*\\\n)*.*)\n", piece)
        if typed:
            found.append(Command(typed["text"], piece[typed.end() :], position + typed.end(), is_run))
        position += len(piece)
    return found


def run_page(page: str, folder: Path) -> list[str]:
    """Return what each command of a page prints in a fresh folder; of those that are not run, what the page shows.

    Raises:
        RuntimeError: if a command fails.
    """
    home = folder / "starloom"
    home.mkdir()
    shutil.copytree(ROOT / "conf", home / "conf", ignore=shutil.ignore_patterns(".starloom"))
    environment = _environment(folder / "bin")
    outputs = []
    for item in items(page):
        if isinstance(item, Written):
            (home / item.name).parent.mkdir(parents=True, exist_ok=True)
            (home / item.name).write_text(item.content)
        elif item.is_run:
            outputs.append(_printed(item.text, home, environment))
        else:
            outputs.append(item.shown)
    return outputs


def _printed(command: str, home: Path, environment: dict[str, str]) -> str:
    words = ["bash", "-euo", "pipefail", "-c", f"exec 2>&1; {command}"]
    done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - a page of ours
    if done.returncode:
        raise RuntimeError(f"`{command}` ended with status {done.returncode}:\n{done.stdout}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.replace(str(home), HOME).splitlines())


def _environment(folder: Path) -> dict[str, str]:
    """Variables in which `starloom` and `python` are those of this checkout."""
    folder.mkdir()
    command = folder / "starloom"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m starloom.cli "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb"}


def aligned(shown: str, printed: str, *, is_loose: bool = False) -> list[str] | None:
    """Return the lines printed for those shown, with `…` where some were left out; None where the two do not agree.

    Args:
        shown: as a page has it.
        printed: by the command.
        is_loose: take any number, and any hash, for any other.
    """
    wanted, lines = _lines(shown), _lines(printed)
    masked = [_masked(line, is_loose=is_loose) for line in lines]
    found: list[str] = []
    position, may_skip = 0, False
    for line in wanted:
        if line.strip() == LEFT_OUT:
            may_skip = True
            found.append(line)
            continue
        mask = _masked(line, is_loose=is_loose)
        last = len(lines) if may_skip else min(position + 1, len(lines))
        here = next((i for i in range(position, last) if masked[i] == mask), None)
        if here is None:
            return None
        found.append(lines[here])
        position, may_skip = here + 1, False
    return found if may_skip or position == len(lines) else None


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines() if not PROGRESS.match(line)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _masked(line: str, *, is_loose: bool) -> str:
    for pattern, stands in VARIABLE:
        line = pattern.sub(stands, line)
    return NUMBER.sub("N", line) if is_loose else line


def quoted(shown: str, outputs: list[str]) -> str | None:
    """Find what is shown, as one of the outputs has it; None where none has."""
    found = next((lines for output in outputs if (lines := aligned(shown, output, is_loose=True)) is not None), None)
    return None if found is None else "".join(f"{line}\n" for line in found)


def pasted(page: str, outputs: list[str], *, is_quoting: bool = False) -> str:
    """Return a page with what its commands print; where lines are left out, with those that are shown, brought up to date.

    Where what is shown with lines left out is no longer printed, it stays, for somebody to mend.
    """
    for command, output in reversed(list(zip(commands(page), outputs, strict=True))):
        if not command.is_run and not is_quoting:
            continue
        text = (output if is_quoting else _brought_up_to_date(command, output)).strip("\n")
        gap = "\n" if command.shown == "\n" or command.shown.endswith("\n\n") else ""
        page = page[: command.begin] + (f"{text}\n" if text else "") + gap + page[command.begin + len(command.shown) :]
    return page


def _brought_up_to_date(command: Command, output: str) -> str:
    if LEFT_OUT not in [line.strip() for line in command.shown.splitlines()]:
        return "\n".join(_lines(output))
    kept = aligned(command.shown, output, is_loose=True)
    if kept is None:
        print(f"`{command.text}` no longer prints what is shown; it prints:\n{output}")
    return command.shown if kept is None else "\n".join(kept)


if __name__ == "__main__":
    raise SystemExit(main())
