"""GitHub Linguist's vocabulary: languages with their names, extensions, interpreters and aliases, and rules on contents.

Source: github-linguist/linguist 9.6.0 (commit 1d7ac7ed), languages.yml, heuristics.yml, vendor.yml, documentation.yml,
generic.yml and popular.yml, MIT licence (LICENSE beside this file); written by docs/linguist.py. What stands here in
Python is ours, and says so: Linguist has no answer for it, or none without its trained classifier.
Guarantee: the table is the one that this code was written for, by its digest.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE_SHA256 = "cd24554bcac79f10c90bb5edb039f3e304396dea84bdc7d7027bd8c1df0a5400"
"""Of linguist.json: a stage's key holds this line, so a new table makes new keys."""

PROSE = frozenset({"Roff", "Roff Manpage"})
"""Languages besides those of Linguist's type `prose` whose files are documentation, not code."""

_NAMES = {
    **dict.fromkeys(("README", "TODO", "CHANGES", "CHANGELOG", "AUTHORS", "CONTRIBUTORS", "THANKS", "HISTORY", "MANIFEST"), ("Text",)),
    **dict.fromkeys((".gitreview", ".style.yapf", "setup.cfg", "tox.ini"), ("INI",)),
    ".secrets.baseline": ("JSON",),
}
"""File names that Linguist does not list."""

_EXTENSIONS = {".conf": ("INI", "ApacheConf", "Nginx", "HOCON")}
"""Extensions that Linguist lists in whole file names only."""

_RULES = {
    ".conf": (
        ("ApacheConf", r"(?m:^\s*</?[A-Z]\w+(?:\s[^>\n]*)?>)"),
        ("Nginx", r"(?m:^\s*(?:server|http|events|upstream\s+\S+|location\s[^{\n]+)\s*\{)"),
        ("HOCON", r"(?m:^\s*[\w.\"-]+\s*[:=]?\s*\{\s*$|^\s*include\s+(?:required|file|classpath|url)?\(?\")"),
        ("INI", r"(?m:^\s*\[[^\]\n]+\]\s*$|^\s*[#;]|^\s*[\w.-]+\s*=)"),
    ),
    ".cls": (
        (
            "Apex",
            r"(?im:^\s*(?:@\w+(?:\([^)\n]*\))?\s+)*(?:public|global|private)\s+(?:(?:virtual|abstract|with(?:out)?\s+sharing)\s+)*class\s)",
        ),
    ),
    ".cfg": (("HAProxy", r"(?m:^(?:frontend|backend|listen)\s+\S+|^defaults\s*$)"),),
    ".sch": (("KiCad Schematic", r"\A(?:EESchema |\(kicad_sch)"), ("Eagle", "<!DOCTYPE eagle ")),
    ".sls": (("SaltStack", r"(?m:^[\w./{}-][^()\n]*:\s*$)"),),
}
"""Rules on the contents of extensions that Linguist lists without rules, or not at all."""

TEMPLATES = (".in", ".ep", ".dist", ".example", ".sample", ".template", ".tmpl", ".orig")
"""Endings of files that hold what the name below them says: `config.h.in` is C, `index.html.ep` HTML."""

_USUAL = """
.asc AsciiDoc|.bas Visual Basic 6.0|.bf Brainfuck|.cfg INI|.cl OpenCL|.cls TeX|.conf INI|.cp C++|.ddl SQL|.e Eiffel
.f Fortran|.fcgi Perl|.for Fortran|.frag GLSL|.frm Visual Basic 6.0|.fx HLSL|.g GAP|.gs JavaScript|.inc PHP|.jq jq
.m Objective-C|.mc M4|.nas Assembly|.nb Wolfram Language|.nu Nushell|.odin Odin|.p Gnuplot|.plist XML Property List
.pro Prolog|.rs Rust|.sc Scala|.scd SuperCollider|.sch Scheme|.sls Scheme|.srt SubRip Text|.t Perl|.toc TeX
.trigger Apex|.v Verilog|.vcf TSV|.x Linker Script
"""
"""The language of an ambiguous extension about whose contents nothing is known: The Stack v1's, which went by extension alone."""


@dataclass(frozen=True)
class Rule:
    """A rule on the contents of an ambiguous extension: it holds if each of `every` is found and none of `none`."""

    languages: tuple[str, ...]
    every: tuple[str, ...]
    none: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Vocabulary of Linguist. Extensions are in lower case; tuples of languages in the order of their names."""

    version: str
    types: Mapping[str, str]
    """data, markup, programming or prose, by language."""
    filenames: Mapping[str, tuple[str, ...]]
    extensions: Mapping[str, tuple[str, ...]]
    interpreters: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str]
    """Language by what a modeline may call it."""
    heuristics: tuple[tuple[tuple[str, ...], tuple[Rule, ...]], ...]
    """(extensions, rules) in Linguist's order; the first rule that holds answers."""
    generic: frozenset[str]
    """Extensions that say nothing by themselves: their rules must hold."""
    vendored: str
    documentation: str
    """Patterns of paths, in the dialect of RE2."""
    usual: Mapping[str, str]
    """The language of an extension by name alone."""


@functools.cache
def vocabulary() -> Vocabulary:
    """Return the vocabulary.

    Raises:
        ValueError: linguist.json is another one than this code was written for.
    """
    table = _read_table()
    languages: dict[str, dict[str, Any]] = table["languages"]
    extensions = {**_index(languages, "extensions"), **_EXTENSIONS}
    heuristics = (*map(_group, table["heuristics"]), *(((ext,), tuple(map(_our_rule, rules))) for ext, rules in _RULES.items()))
    return Vocabulary(
        version=table["version"],
        types=MappingProxyType({name: about["type"] for name, about in languages.items()}),
        filenames=MappingProxyType({**_NAMES, **_index(languages, "filenames")}),
        extensions=MappingProxyType(extensions),
        interpreters=MappingProxyType(_index(languages, "interpreters")),
        aliases=MappingProxyType(_aliases(languages)),
        heuristics=heuristics,
        generic=frozenset(table["generic"]),
        vendored="|".join(table["vendor"]),
        documentation="|".join(table["documentation"]),
        usual=MappingProxyType({ext: _usual(ext, found, languages, table["popular"], heuristics) for ext, found in extensions.items()}),
    )


@functools.cache
def known_languages() -> tuple[str, ...]:
    """Return the names of all languages, sorted."""
    return tuple(sorted(vocabulary().types))


def is_prose(language: str) -> bool:
    """Return whether files of this language are documentation."""
    return language in PROSE or vocabulary().types.get(language) == "prose"


def _read_table() -> Any:
    import hashlib
    import json
    from importlib.resources import files

    content = files(__package__).joinpath("linguist.json").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != TABLE_SHA256:
        raise ValueError(f"linguist.json has the SHA-256 {found}, not {TABLE_SHA256}: run `python -m docs.linguist CHECKOUT`")
    return json.loads(content)


def _index(languages: dict[str, dict[str, Any]], kind: str) -> dict[str, tuple[str, ...]]:
    """Return the languages by each of their extensions (in lower case), filenames or interpreters."""
    index: dict[str, tuple[str, ...]] = {}
    for name, about in languages.items():
        for key in dict.fromkeys(key.lower() if kind == "extensions" else key for key in about.get(kind, ())):
            index[key] = (*index.get(key, ()), name)
    return index


def _aliases(languages: dict[str, dict[str, Any]]) -> dict[str, str]:
    given = {alias.lower(): name for name, about in languages.items() for alias in about.get("aliases", ())}
    return given | {"-".join(name.lower().split()): name for name in languages}


def _group(group: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Rule, ...]]:
    rules = (Rule(tuple(rule["languages"]), tuple(rule["every"]), tuple(rule["none"])) for rule in group["rules"])
    return tuple(group["extensions"]), tuple(rules)


def _our_rule(rule: tuple[str, str]) -> Rule:
    return Rule((rule[0],), (rule[1],), ())


@functools.cache
def _usual_table() -> dict[str, str]:
    entries = (entry.partition(" ") for entry in _USUAL.strip().replace("\n", "|").split("|"))
    return {extension: language for extension, _, language in entries}


def _usual(
    extension: str,
    found: tuple[str, ...],
    languages: dict[str, dict[str, Any]],
    popular: list[str],
    heuristics: tuple[tuple[tuple[str, ...], tuple[Rule, ...]], ...],
) -> str:
    """Return the language by name alone: the usual one, else the rule without a condition, else whose first extension it is."""
    if extension in _usual_table():
        return _usual_table()[extension]
    rules = next((rules for extensions, rules in heuristics if extension in extensions), ())
    fallback = [rule.languages[0] for rule in rules if not (rule.every or rule.none) and rule.languages[0] in found]
    first = [name for name in found if languages[name].get("extensions", [""])[0].lower() == extension]
    known = [name for name in found if name in popular]
    return (fallback or first or known or list(found))[0]
