"""Machine-readable licences by file: Debian's copyright format (DEP-5), which REUSE took over as `.reuse/dep5`, and REUSE.toml.

Of several stanzas that match a file, the last counts. Source: Debian's copyright-format 1.0; the REUSE Specification 3.3.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any

from starloom.tasks.kernels.licenses.declarations import Declaration, UnreadableManifestError
from starloom.tasks.kernels.licenses.names import debian_expression, declared_expression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FORMAT = re.compile(r"(?im)^format(?:-specification)?:.*(?:copyright-format|dep[- ]?5)")
_MAX_STANZAS = 10_000


def stanzas(text: str) -> Iterator[dict[str, tuple[str, int]]]:
    """Yield the stanzas of a file of Debian's control format: field name in lower case → (value, line from 1)."""
    fields: dict[str, tuple[str, int]] = {}
    last = ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                value, begin = fields[last]
                fields[last] = (value + "\n" + line.strip(), begin)
        elif not line.startswith("#"):
            name, colon, value = line.partition(":")
            last = name.strip().lower() if colon else ""
            if last:
                fields[last] = (value.strip(), number)


def is_dep5(text: str) -> bool:
    """Return whether a copyright file is of the machine-readable format."""
    return _FORMAT.search(text[:2000]) is not None


def dep5_declarations(text: str) -> Iterator[Declaration]:
    """Yield what each `Files` stanza declares of its files; nothing of a text that is not of the format."""
    if not is_dep5(text):
        return
    for count, fields in enumerate(stanzas(text)):
        if count > _MAX_STANZAS:
            raise UnreadableManifestError(f"more than {_MAX_STANZAS} stanzas")
        if "files" in fields and "license" in fields:
            name, line = fields["license"]
            short = name.split("\n", 1)[0]
            yield Declaration(debian_expression(short), line, quoted=short, paths=tuple(fields["files"][0].split()))


def reuse_declarations(text: str) -> Iterator[Declaration]:
    """Yield what each annotation of a REUSE.toml declares of its files."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableManifestError(str(error)) from error
    places = [number for number, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith("[[annotations]]")]
    annotations = found.get("annotations")
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else []):
        if not isinstance(annotation, dict):
            continue
        paths, names = (_listed(annotation.get(key)) for key in ("path", "SPDX-License-Identifier"))
        if paths and names:
            expression = declared_expression(" AND ".join(f"({name})" for name in names) if len(names) > 1 else names[0])
            line = places[number] if number < len(places) else 1
            yield Declaration(expression, line, ", ".join(names), paths=tuple(paths), overrides=annotation.get("precedence") == "override")


def _listed(value: Any) -> Sequence[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and each]


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Return whether a path, relative to the scope of the declaration, is one of those that the patterns name."""
    return any(_pattern(each).fullmatch(path) is not None for each in patterns)


@cache
def _pattern(glob: str) -> Any:
    r"""Return a glob as a linear-time expression: `*` and `**` are any characters, as in practice, `?` is one, `\` escapes."""
    import re2

    def spelt(piece: str) -> str:
        if piece[0] == "*":
            return ".*"
        return "." if piece == "?" else str(re2.escape(piece.removeprefix("\\") or piece))

    return re2.compile("(?s)" + "".join(map(spelt, re.findall(r"\\.|\*+|\?|[^*?\\]+|\\", glob.removeprefix("./")))))
