"""The vocabulary of GitHub Linguist, written from a checkout of it: `python -m docs.linguist CHECKOUT`.

tasks/kernels/languages/linguist.json   languages, names, extensions, interpreters, aliases, heuristics, vendored and documentation paths
tasks/kernels/languages/LICENSE         Linguist's notice (MIT), which goes where its data goes

Patterns are written in the dialect of RE2, which is linear in the text. Of about 400, four look ahead or behind, or
recurse; they stand below in RE2's words. Afterwards put the printed digest into `linguist.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "tasks" / "kernels" / "languages"

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ADBLOCK = r"(?:[Aa]d[Bb]lock(?:[ \t][Pp]lus)?|u[Bb]lock(?:[ \t][Oo]rigin)?|[Aa]d[Gg]uard)(?:[ \t][0-9]+(?:\.[0-9]+)*)?"
_BY_HAND = {
    "Smarty": r"(?:^|[^{])\{(?:\*\s|\$|/)?\w*\b",
    "Vim Help File": r"(?:^|[ \t])(?:vi(?:m(?:[<=>]?[0-9]+)?)?|Vim(?:[<=>]?[0-9]+)?|ex):"
    r"[^\n]*[ \t:](?:filetype|ft|syntax)[ \t]*=help(?:$|\s|:)",
    "Hosts File": rf"^(?:{_OCTET}\.){{3}}{_OCTET}\b(?:/(?:3[0-2]|[12]?[0-9])\b)?(?:[ \t]+\w[-\w]*(?:\.\w[-\w]*)*)*(?:$|\s)",
    "Adblock Filter List": rf"\A\[{_ADBLOCK}(?:[ \t]?;[ \t]?{_ADBLOCK})*\]",
}
"""Patterns that RE2 cannot say as published, by the language that they stand for."""


def main(checkout: Path) -> None:
    """Write the vocabulary and the notice."""
    import yaml

    library = checkout / "lib" / "linguist"
    read = {name: yaml.safe_load((library / f"{name}.yml").read_text("utf-8")) for name in _FILES}
    version = (library / "VERSION").read_text("utf-8").strip()
    entries = {
        "version": json.dumps(version),
        "languages": _lines({name: _language(about) for name, about in sorted(read["languages"].items())}),
        "heuristics": _lines(_heuristics(read["heuristics"])),
        **{name: json.dumps(value, indent=0) for name, value in _lists(read).items()},
    }
    text = "{\n" + ",\n".join(f'"{name}": {value}' for name, value in entries.items()) + "\n}\n"
    (FOLDER / "linguist.json").write_text(text, "utf-8")
    (FOLDER / "LICENSE").write_text((checkout / "LICENSE").read_text("utf-8"), "utf-8")
    print(version, hashlib.sha256(text.encode()).hexdigest())


_FILES = ("languages", "heuristics", "vendor", "documentation", "generic", "popular")


def _lists(read: dict[str, Any]) -> dict[str, list[str]]:
    paths = {name: [_to_re2(pattern) for pattern in read[name]] for name in ("vendor", "documentation")}
    return {**paths, "generic": sorted(read["generic"]["extensions"]), "popular": sorted(read["popular"])}


def _language(about: dict[str, Any]) -> dict[str, Any]:
    lists = {name: about[name] for name in ("extensions", "filenames", "interpreters", "aliases") if about.get(name)}
    return {"type": about["type"], **lists}


def _heuristics(read: dict[str, Any]) -> list[dict[str, Any]]:
    named = {name: _alternatives(pattern) for name, pattern in read["named_patterns"].items()}
    return [
        {"extensions": group["extensions"], "rules": [_rule(rule, named) for rule in group["rules"]]} for group in read["disambiguations"]
    ]


def _rule(rule: dict[str, Any], named: dict[str, list[str]]) -> dict[str, Any]:
    """Return (languages, patterns that must each be found, patterns that must not)."""
    language = rule["language"]
    languages = [language] if isinstance(language, str) else language
    every: list[str] = []
    none: list[str] = []
    for block in rule.get("and", [rule]):
        if "named_pattern" in block:
            every.append("|".join(named[block["named_pattern"]]))
        if "pattern" in block:
            every.append("|".join(_alternatives(block["pattern"], languages[0])))
        if "negative_pattern" in block:
            none.append("|".join(_alternatives(block["negative_pattern"])))
    return {"languages": languages, "every": every, "none": none}


def _alternatives(pattern: str | list[str], language: str = "") -> list[str]:
    patterns = [pattern] if isinstance(pattern, str) else pattern
    return [f"(?m:{_BY_HAND.get(language) or _to_re2(each)})" for each in patterns]


def _to_re2(pattern: str) -> str:
    """Return a pattern of Ruby in RE2's dialect: Ruby's flag m is s elsewhere, and its `^` and `$` always mean lines."""
    return re.sub(r"\(\?([a-z]*)(-?)m([a-z]*)([:)])", r"(?\1\2s\3\4", pattern)


def _lines(entries: dict[str, Any] | list[Any]) -> str:
    """Return JSON with one entry a line, so that a reader can hold it against its source."""
    if isinstance(entries, list):
        return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items()) + "\n}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
