"""The licences that the manifests of the ecosystems declare: package.json, Cargo.toml, pom.xml, *.cabal, META.json and others.

No manifest is executed, none is parsed as XML (so no entity is ever expanded), and none over a megabyte is read. Each field's
meaning follows its ecosystem's documentation: a list is a choice in package.json, composer.json and pom.xml, and all of it elsewhere.
Guarantee: what cannot be parsed, or is not understood, but speaks of a licence is a declaration of an unknown one, never of none.
Cost: a fraction of a millisecond a manifest.
"""

from __future__ import annotations

import json
import re
import tomllib
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from starloom.tasks.kernels.licenses.deb822 import dep5_declarations, reuse_declarations
from starloom.tasks.kernels.licenses.declarations import MAX_MANIFEST, Declaration, UnreadableManifestError
from starloom.tasks.kernels.licenses.names import debian_expression, declared_expression
from starloom.tasks.kernels.licenses.statements import line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MAX_MANIFEST", "Declaration", "is_manifest", "manifest_scope", "read_manifest"]

_LICENSE_KEY = re.compile(r"licen[cs]e", re.IGNORECASE)
_SEE = re.compile(
    r"\s*see (?:the )?(?:licen[cs]e|copyright)(?: notice)?(?: file)? (?:in|at) (?:the )?(?:file )?[\"'`<]?([^\"'`<>]+)", re.IGNORECASE
)


def _joined(found: list[str | None], operator: str) -> str | None:
    """Return one expression of several; None if one is not understood."""
    if not found or None in found:
        return None
    known = list(dict.fromkeys(str(expression) for expression in found))
    return known[0] if len(known) == 1 else f" {operator} ".join(f"({expression})" for expression in known)


def _declared(text: str, line: int) -> Declaration:
    """Return what one word or expression declares: a licence, another file that holds it, or something unknown."""
    if see := _SEE.match(text):
        return Declaration(None, line, target=see[1].strip())
    if text.strip().upper() == "UNLICENSED":
        return Declaration(declared_expression("Proprietary"), line)
    return Declaration(declared_expression(text), line, quoted=text.strip())


def _one_or_more(value: Any, line: int, operator: str) -> Iterator[Declaration]:
    """Yield what a value declares that is a name, an object with a name, or a list of such."""
    values = value if isinstance(value, list) else [value]
    texts = [each.get("type") or each.get("name") or each.get("url") if isinstance(each, dict) else each for each in values]
    names = [text for text in texts if isinstance(text, str) and text.strip()]
    if len(names) == 1:
        yield _declared(names[0], line)
    elif names:
        yield Declaration(_joined([declared_expression(name) for name in names], operator), line, quoted=", ".join(names))


def _line_of_key(text: str, key: str = r"licen[cs]es?") -> int:
    found = re.search(rf"(?i)[\"']?{key}[\"']?\s*[:=>]", text) or _LICENSE_KEY.search(text)
    return line_of(text, found.start()) if found else 1


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableManifestError(str(error)) from error
    return found if isinstance(found, dict) else {}


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableManifestError(str(error)) from error


def _table(found: Any, *names: str) -> dict[str, Any]:
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _package_json(text: str) -> Iterator[Declaration]:
    found = _json(text)
    for key in ("license", "licence", "licenses"):
        if found.get(key):
            yield from _one_or_more(found[key], _line_of_key(text), "OR")
            return


def _meta_json(text: str) -> Iterator[Declaration]:
    names = _json(text).get("license")
    names = [name for name in (names if isinstance(names, list) else [names]) if name not in ("unknown", "unrestricted")]
    yield from _one_or_more(names, _line_of_key(text), "AND")


def _cargo(text: str) -> Iterator[Declaration]:
    found = _toml(text)
    for table in (_table(found, "package"), _table(found, "workspace", "package")):
        if isinstance(table.get("license"), str):
            yield _declared(table["license"], _line_of_key(text, r"licen[cs]e"))
        elif isinstance(table.get("license-file"), str):
            yield Declaration(None, _line_of_key(text, "license-file"), target=table["license-file"])


def _pyproject(text: str) -> Iterator[Declaration]:
    found = _toml(text)
    for table in (_table(found, "project"), _table(found, "tool", "poetry"), _table(found, "tool", "flit", "metadata")):
        declared, line = table.get("license"), _line_of_key(text, "license")
        classifiers = _classifiers(table.get("classifiers"))
        if isinstance(declared, dict) and isinstance(declared.get("text"), str) and len(declared["text"]) <= _LONG_NAME:
            declared = declared["text"]
        if isinstance(declared, str) and declared.strip():
            yield _declared(declared, line)
        elif classifiers:
            yield Declaration(declared_expression(classifiers), _line_of_key(text, "classifiers"), quoted=classifiers)
        elif isinstance(declared, dict) and isinstance(declared.get("file"), str):
            yield Declaration(None, line, target=declared["file"])


_LONG_NAME = 200
_MAX_FIELDS = 20
"""Fields of one name that are read: a manifest has one."""


def _classifiers(listed: Any) -> str:
    return "; ".join(each for each in listed if isinstance(each, str) and each.startswith("License ::")) if isinstance(listed, list) else ""


def _setup(text: str) -> Iterator[Declaration]:
    """Yield what setup.cfg or setup.py declares; a program is read as text, never run."""
    classifiers = "; ".join(dict.fromkeys(found.strip() for found in re.findall(r"License ::[^\"'\n]+", text)))
    found = re.search(r"(?m)^[ \t]*licen[cs]e[ \t]*=[ \t]*[\"']?([^\"'\n(\[{#]{2,120}?)[\"']?[ \t]*,?[ \t]*$", text)
    if found and not found[1].lower().startswith(("file:", "attr:")) and declared_expression(found[1]):
        yield _declared(found[1], line_of(text, found.start(1)))
    elif classifiers:
        yield Declaration(declared_expression(classifiers), line_of(text, text.index("License ::")), quoted=classifiers)
    elif found and '"' in text[found.start() : found.end()] + "'":
        yield _declared(found[1], line_of(text, found.start(1)))


def _field(*names: str, read: Callable[[str], str | None] = declared_expression) -> Callable[[str], Iterator[Declaration]]:
    """Return a reader of manifests whose fields are lines `Name: value`, continued by indented lines."""
    pattern = re.compile(rf"(?im)^[ \t]*(?:{'|'.join(names)})[ \t]*:[ \t]*([^\n]*(?:\n[ \t]+[^\s:][^:\n]*$)*)")

    def declarations(text: str) -> Iterator[Declaration]:
        for found in islice(pattern.finditer(text), _MAX_FIELDS):
            value = " ".join(found[1].split()).strip("\"'")
            if value:
                yield Declaration(read(value) or declared_expression(value), line_of(text, found.start(1)), quoted=value)

    return declarations


def _r_expression(value: str) -> str | None:
    """Return what R's License field means: `GPL (>= 2) | MIT + file LICENSE`."""
    value = re.sub(r"\+?\s*file LICEN[CS]E", "", value)
    value = re.sub(r"\(\s*>=?\s*([\d.]+)\s*\)", r"-\1+", value)
    value = re.sub(r"\(\s*==\s*([\d.]+)\s*\)", r"-\1", value)
    value = re.sub(r"BSD_(\d)_clause", r"BSD-\1-Clause", value)
    return debian_expression(re.sub(r"\s+(?=-\d)", "", value).strip())


def _description(text: str) -> Iterator[Declaration]:
    if re.search(r"(?m)^Package:", text):
        yield from _field("Licen[cs]e", read=_r_expression)(text)


def _metadata(text: str) -> Iterator[Declaration]:
    """Yield what Python's PKG-INFO declares: License-Expression, else License, else the classifiers."""
    head = text.partition("\n\n")[0]
    for name in ("License-Expression", "License"):
        if (found := re.search(rf"(?m)^{name}: *(\S.*)$", head)) and declared_expression(found[1]):
            yield _declared(found[1], line_of(head, found.start()))
            return
    if classifiers := "; ".join(re.findall(r"(?m)^Classifier: *(License ::.*?)\s*$", head)):
        yield Declaration(declared_expression(classifiers), line_of(head, head.index("License ::")), quoted=classifiers)


def _tagged(pattern: str, text: str) -> list[tuple[int, str]]:
    """Return (position, first group) of all matches in a text of tags, in linear time: a file of unclosed tags costs one pass."""
    import re2

    return [(found.start(), found.group(1)) for found in re2.finditer(f"(?s){pattern}", text)]


def _without_comments(text: str) -> str:
    """Return a text of tags without its comments, its lines where they were."""
    for _, comment in reversed(_tagged(r"(<!--.*?-->)", text)):
        text = text.replace(comment, "\n" * comment.count("\n"), 1)
    return text


def _pom(text: str) -> Iterator[Declaration]:
    """Yield what a POM declares, from its tags alone."""
    text = _without_comments(text)
    for position, block in _tagged(r"<licenses>(.*?)</licenses>", text)[:1]:
        names: list[str] = []
        found: list[str | None] = []
        for _, each in _tagged(r"<license>(.*?)</license>", block):
            words = [word.strip() for tag in ("name", "url") for _, word in _tagged(rf"<{tag}>([^<]*)</{tag}>", each)]
            found.append(next((known for word in words if (known := declared_expression(word))), None))
            names += words[:1]
        if found:
            yield Declaration(_joined(found, "OR"), line_of(text, position), quoted=", ".join(names))


def _nuspec(text: str) -> Iterator[Declaration]:
    """Yield what a package of NuGet declares, from its tags alone."""
    text = _without_comments(text)
    for kind, target in (("expression", False), ("file", True)):
        for position, value in _tagged(rf"<license\s+type=[\"']{kind}[\"'][^<>]*>([^<]*)</license>", text)[:1]:
            line = line_of(text, position)
            yield Declaration(None, line, target=value.strip()) if target else _declared(value.strip(), line)
            return
    for position, value in _tagged(r"<licenseUrl>([^<]*)</licenseUrl>", text)[:1]:
        yield _declared(value.strip(), line_of(text, position))


def _assigned(key: str, operator: str = "AND") -> Callable[[str], Iterator[Declaration]]:
    """Return a reader of programs that assign a string or a list of strings to `key`; the first such place is read as text."""
    pattern = re.compile(
        rf"(?m)^[^#\n]*?{key}\s{{0,20}}(?::|=>?|\s)\s{{0,20}}(?:(\[[^\]]{{0,400}}\]|%w[\[(][^\])]{{0,400}}[\])]|\{{[^}}]{{0,400}}\}})|\"([^\"\n]+)\"|'([^'\n]+)')"
    )

    def declarations(text: str) -> Iterator[Declaration]:
        if found := pattern.search(text):
            listed, line = found[1], line_of(text, found.start())
            names = [name for name in (found[2] or found[3],) if name]
            if listed and listed.startswith("{"):
                names = re.findall(r":?type[\"']?\s*(?:=>|:)\s*[\"']([^\"']+)", listed)
            elif listed:
                names = re.findall(r"[\"']([^\"']+)[\"']", listed) if listed.startswith("[") else listed[3:-1].split()
            yield from _one_or_more(list(names), line, operator)

    return declarations


def _dune(text: str) -> Iterator[Declaration]:
    if found := re.search(r"\(license\s+\"?([^\")]+)\"?\s*\)", text):
        yield from _one_or_more(found[1].split(), line_of(text, found.start()), "AND")


class _Manifest(NamedTuple):
    """Files of one name and how to read them."""

    name: re.Pattern[str]
    read: Callable[[str], Iterator[Declaration]]


_CABAL = _field("license", read=lambda value: declared_expression(re.sub(r"^([AL]?GPL)-(\d(?:\.\d)?)$", r"\1 v\2", value)))

_MANIFESTS = tuple(
    _Manifest(re.compile(name), read)
    for name, read in (
        (r"(?:package|bower|component|composer|elm|vcpkg|deno|jsr)\.json", _package_json),
        (r"META6?\.json", _meta_json),
        (r"META\.ya?ml|CITATION\.cff|shard\.yml", _field("licen[cs]e")),
        (r"Cargo\.toml", _cargo),
        (r"pyproject\.toml", _pyproject),
        (r"setup\.(?:cfg|py)", _setup),
        (r"PKG-INFO|METADATA", _metadata),
        (r".+\.cabal", _CABAL),
        (r"pom\.xml|.+\.pom", _pom),
        (r".+\.nuspec", _nuspec),
        (r".+\.gemspec", _assigned(r"\.licen[cs]es?")),
        (r".+\.podspec", _assigned(r"\.licen[cs]e")),
        (r"mix\.exs", _assigned(r"\blicen[cs]es")),
        (r".+\.rockspec", _assigned(r"\blicen[cs]e")),
        (r".+\.opam|opam", _assigned(r"^licen[cs]e")),
        (r"dune-project", _dune),
        (r"DESCRIPTION", _description),
        (r"REUSE\.toml", reuse_declarations),
    )
)
"""Manifests by file name; `.reuse/dep5` and `debian/copyright` go by their folder as well."""

_DEP5_PATH = re.compile(r"(?:^|/)(?:\.reuse/dep5|debian/copyright)$")
_ANY_NAME = re.compile("|".join(f"(?:{manifest.name.pattern})" for manifest in _MANIFESTS))


def is_manifest(path: str) -> bool:
    """Return whether a file of that path may declare licences."""
    return _ANY_NAME.fullmatch(path.rpartition("/")[2]) is not None or _DEP5_PATH.search(path) is not None


def manifest_scope(path: str) -> str:
    """Return the folder ("" or "a/b/") that a manifest speaks for: its own; of `.reuse/dep5` and `debian/copyright` the one above."""
    folder, _, _ = path.rpartition("/")
    folder = folder.rpartition("/")[0] if _DEP5_PATH.search(path) else folder
    return folder + "/" if folder else ""


def read_manifest(path: str, text: str) -> list[Declaration]:
    """Return what a manifest declares; nothing of one that does not speak of a licence.

    Args:
        path: in its repository.
        text: its content; over a megabyte, it is not read.
    """
    name = path.rpartition("/")[2]
    dep5 = _DEP5_PATH.search(path) is not None
    read = dep5_declarations if dep5 else next((manifest.read for manifest in _MANIFESTS if manifest.name.fullmatch(name)), None)
    if read is None or not _LICENSE_KEY.search(text[:MAX_MANIFEST]):
        return []
    if len(text) > MAX_MANIFEST:
        return [Declaration(None, 1, quoted="too large to read")]
    try:
        return list(read(text))
    except UnreadableManifestError:
        found = re.search(r"[\"']?licen[cs]e[\"']?\s*[:=]\s*[\"']([^\"'\n]{1,100})[\"']", text)
        return [
            _declared(found[1], line_of(text, found.start())) if found else Declaration(None, _line_of_key(text), quoted="cannot be parsed")
        ]
