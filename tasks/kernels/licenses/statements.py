"""The licences that a text, a header or a declaration states.

Licence texts are recognised by the reference texts that they contain; what no reference covers is searched for names and
standard phrases, as ScanCode does for references to a licence.
Guarantee: a copy of a reference text is recognised as that licence. Cost: about 5 ms for 10 kB of licence text; headers of a
corpus at over 1 GB/s.
"""

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from starloom.tasks.kernels.licenses.policy import canonical_id, parse_expression
from starloom.tasks.kernels.licenses.references import WORD, covering_references, license_words

HEADER_LINES = 30
HEADER_BYTES = 4096
_RESTRICTED = "LicenseRef-scancode-proprietary-license"
"""Stands for every condition that takes back what a permissive licence beside it gives."""

_CLASSIFIERS = {
    "Academic Free License (AFL)": "AFL-3.0",
    "Apache Software License": "Apache-2.0",
    "Artistic License": "Artistic-2.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "BSD License": "BSD-3-Clause",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Common Development and Distribution License 1.0 (CDDL-1.0)": "CDDL-1.0",
    "Eclipse Public License 1.0 (EPL-1.0)": "EPL-1.0",
    "Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "Free For Educational Use": _RESTRICTED,
    "Free For Home Use": _RESTRICTED,
    "Free for non-commercial use": _RESTRICTED,
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License (GPL)": "GPL-1.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL-2.0-or-later",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": _RESTRICTED,
    "Public Domain": "LicenseRef-scancode-public-domain",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "University of Illinois/NCSA Open Source License": "NCSA",
    "Zero-Clause BSD (0BSD)": "0BSD",
    "Zope Public License": "ZPL-2.1",
    "zlib/libpng License": "Zlib",
}
"""Last field of the package index's licence classifiers → SPDX id; where it leaves the version open, ScanCode's choice."""

_SHORT_NAMES = {
    "all rights reserved": _RESTRICTED,
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "artistic": "Artistic-2.0",
    "bsd": "BSD-3-Clause",
    "bsd like": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "cc 0": "CC0-1.0",
    "closed source": _RESTRICTED,
    "commercial": _RESTRICTED,
    "isc": "ISC",
    "expat": "MIT",
    "mit": "MIT",
    "mpl": "MPL-2.0",
    "proprietary": _RESTRICTED,
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "python": "PSF-2.0",
    "python foundation": "PSF-2.0",
    "public domain": "LicenseRef-scancode-public-domain",
    "unlicense": "Unlicense",
    "zlib": "Zlib",
    "zpl": "ZPL-2.1",
}
"""Common declarations other than SPDX ids, in normalised words."""

_GNU = re.compile(
    r"\bgnu (?:(affero|lesser|library) )?(?:or lesser )?general public licen[cs]e\b(?: as published by the free software foundation)?"
    r"(?:[a-z() ]{0,40}?\b(?:version|v) ?(\d(?:\.\d)?))?((?: \S+){0,12})"
)
_GPL = re.compile(r"\b([al]?)gpl(?: version| v|v)? ?(\d(?:\.\d)?)((?: \S+){0,4})")
_BARE_GPL = re.compile(
    r"\b(?:licen[cs]ed?|released|distributed|available|covered)(?: is)?(?: under)?(?: the)?(?: terms of)?(?: the)?(?: gnu)? ([al]?)gpl\b"
)
_LATER = re.compile(r"or later|or newer|any later|\+")

_PHRASES: tuple[tuple[str, str], ...] = (
    (r"apache (?:software )?licen[cs]e (?:version )?2|apache 2\.0|licensed under the apache license", "Apache-2.0"),
    (r"apache software license version 1\.1", "Apache-1.1"),
    (r"permission is hereby granted free of charge to any person obtaining a copy|\bmit licen[cs]e|\bexpat licen[cs]e", "MIT"),
    (r"\b(?:new|modified|revised|3 clause) bsd|bsd (?:style )?licen[cs]e|bsd (?:3|three) clause", "BSD-3-Clause"),
    (r"endorse or promote products derived from this software", "BSD-3-Clause"),
    (r"redistributions? and use in source and binary forms|\b(?:simplified|2 clause) bsd|bsd (?:2|two) clause", "BSD-2-Clause"),
    (r"\bisc licen[cs]e|permission to use copy modify and (?:or )?distribute this software for any purpose", "ISC"),
    (r"permission to use copy modify (?:and )?distribute (?:and sell )?this software and its documentation", "HPND"),
    (r"python software foundation license version 2|\bpsf licen[cs]e|psf license agreement", "PSF-2.0"),
    (r"\bboost software license", "BSL-1.0"),
    (r"\bzlib (?:libpng )?licen[cs]e|this software is provided as is without any express or implied warranty", "Zlib"),
    (r"\bthe unlicense\b|unlicense\.org|unlicense org", "Unlicense"),
    (r"\bcc0\b|creative commons (?:cc )?zero", "CC0-1.0"),
    (r"(?:placed|released|is|put) (?:in|into|to) the public domain|public domain dedication", "LicenseRef-scancode-public-domain"),
    (r"\bunicode inc license agreement|unicode license v3", "Unicode-3.0"),
    (r"\bzope public license", "ZPL-2.1"),
    (r"\bbitstream vera", "Bitstream-Vera"),
    (r"\bw3c software (?:notice|and document)", "W3C"),
    (r"\bartistic licen[cs]e", "Artistic-2.0"),
    (r"\bcreative commons attribution (?:licen[cs]e|\d|international)|\bcc by \d", "CC-BY-4.0"),
    (r"\bcreative commons attribution share ?alike|\bcc by sa\b", "CC-BY-SA-4.0"),
    (r"\battribution non ?commercial|\bcc by nc\b", "CC-BY-NC-4.0"),
    (r"\bmozilla public licen[cs]e (?:version |v )?1\.1", "MPL-1.1"),
    (r"\bmozilla public licen[cs]e(?! (?:version |v )?1)|\bmpl (?:v )?2", "MPL-2.0"),
    (r"\beclipse public licen[cs]e", "EPL-2.0"),
    (r"\bcommon development and distribution licen[cs]e", "CDDL-1.0"),
    (r"\bsil open font licen[cs]e", "OFL-1.1"),
    (r"\bserver side public licen[cs]e", "SSPL-1.0"),
    (r"\bbusiness source licen[cs]e", "BUSL-1.1"),
    (r"\belastic licen[cs]e", "Elastic-2.0"),
    (r"\bpolyform noncommercial", "PolyForm-Noncommercial-1.0.0"),
    (r"\bproprietary and confidential|\bproprietary licen[cs]e|software is (?:\w+ ){0,2}proprietary", _RESTRICTED),
    (r"^license (?:\w+ ){0,2}proprietary(?: software)?$", _RESTRICTED),
    (r"\bend user licen[cs]e agreement|\beula\b|(?:may|shall|agree) not (?:to )?(?:\S+ ){0,12}reverse engineer", _RESTRICTED),
    (r"\bcommons clause|commercial use is (?:\w+ )?(?:prohibited|forbidden|not permitted|not allowed)", _RESTRICTED),
    (r"\bnon ?commercial (?:use |purposes? )?only|\bfor (?:\w+ ){0,2}non ?commercial (?:use|purposes?)", _RESTRICTED),
    (r"\bresearch (?:use |purposes? )?only", _RESTRICTED),
)
"""Names and standard phrases, in normalised words → SPDX id. Only what no reference text covers is searched for them."""

_ASIDES = re.compile(
    r"material that was previously distributed under the gnu general public license|gpl compatible"
    r"|other software that is released under the gpl"
    r"|software that is licensed under the gplv 2|conditions of the gplv 2|gnu general public license gpl compatible"
    r"|the rest of \w+ is licensed under the terms of the gnu general public license"
)
"""Clauses (CNRI's licence of Python, LLVM's exception, Valgrind's headers) that name the GPL without being under it."""

_HEADER_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]*)", re.IGNORECASE)
_TAG_END = re.compile(r"(?:(?<!\*)\*+/|-->|#\}|\*\)|\]\]|-\}|%>|(?<!\")\"+|(?<!')'+|(?<!`)`+|;;|\\n.*)$")
_HEADER_SCREEN = r"(?i:SPDX-License-Identifier:|(?:General|Mozilla)[^A-Za-z]+Public[^A-Za-z]+Licen|licen[cs]ed?\b[^\n]{0,40}\b[al]?gpl)"
_NOTICE = re.compile(
    r"redistribute it|under the terms|subject to the terms|(?:licensed|released|distributed|covered|available) under"
    r"|\blicen[cs]e (?:is )?(?:the )?(?:gnu )?[al]?gpl"
)
_ALTERNATIVE = re.compile(r"\bdual(?:ly)? licen[cs]ed|\b(?:mit|bsd|apache)(?: \S+){0,3} (?:or|and) (?:the )?(?:gnu )?[al]?gpl")
"""A choice between licences, as jQuery's plugins offer: the notice settles nothing, the repository's licence does."""


def declared_expression(text: str) -> str | None:
    """Return the SPDX expression of a declaration: an expression, classifiers, or words; None if it is not understood."""
    if "License ::" in text:
        names = [part.rpartition(" :: ")[2].strip() for part in text.split("; ")]
        ids = {_CLASSIFIERS.get(name) for name in names if name != "OSI Approved"}
        return None if None in ids else _conjunction(str(spdx_id) for spdx_id in ids)
    for expression in (text, text.replace("/", " OR ")):  # MIT/Apache-2.0 is how Rust wrote it
        parsed = parse_expression(expression)
        if parsed is not None:
            return str(parsed.render())
    words = " ".join(WORD.findall(text.lower()))
    core = re.sub(r"\b(?:the|licen[cs]e|licensed|software|version|v)\b", " ", words)
    short = _SHORT_NAMES.get(" ".join(core.split()))
    return short or _conjunction(_phrases(f"license {words}"))


def text_licenses(text: str) -> tuple[str, ...]:
    """Return the SPDX ids of all licences that a licence file states, sorted."""
    tags = {str(parsed.render()) for tag in _HEADER_TAG.findall(text) if (parsed := parse_expression(_tag_value(tag))) is not None}
    words = license_words(text)
    found, covered = covering_references(words)
    rest = " ".join(word for word, is_covered in zip(words, covered, strict=True) if not is_covered)
    return tuple(sorted({*found, *_phrases(rest), *tags}))


def header_licenses(column: pa.ChunkedArray) -> dict[int, tuple[str, int, str]]:
    """Return row → (SPDX expression, line from 1, "header" or "header notice") for texts that state their own licence at the top.

    A tag `SPDX-License-Identifier:` counts before the standard notices of the GNU and Mozilla licences. One regular
    expression screens the first 4 kB of every text; only those that it hits are looked at.
    """
    kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    heads = pc.binary_slice(column.cast(kind), 0, HEADER_BYTES)
    rows = pc.indices_nonzero(pc.match_substring_regex(heads, _HEADER_SCREEN))
    stated = (
        (row, _header(head.decode("utf-8", "ignore"))) for row, head in zip(rows.to_pylist(), heads.take(rows).to_pylist(), strict=True)
    )
    return {row: found for row, found in stated if found is not None}


def _header(head: str) -> tuple[str, int, str] | None:
    head = "\n".join(head.splitlines()[:HEADER_LINES])
    tags = list(_HEADER_TAG.finditer(head))
    if tags:
        values = [_tag_value(tag[1]) for tag in tags]
        return " AND ".join(f"({v})" if len(values) > 1 else v for v in values), _line(head, tags[0].start()), "header"
    words = " ".join(WORD.findall(head.lower()))
    words = _ASIDES.sub(" ", words)
    expression = _conjunction(_gnu_ids(words) | _phrase_ids(words, only="MPL-"))
    if expression is None or _NOTICE.search(words) is None or _ALTERNATIVE.search(words):
        return None
    found = re.search(r"(?i)(?:General|Mozilla)[^A-Za-z]+Public|\b[al]?gpl", head)
    return expression, _line(head, found.start() if found else 0), "header notice"


def _tag_value(rest_of_line: str) -> str:
    """Return the expression, without the end of the comment that it stands in."""
    return _TAG_END.sub("", rest_of_line.strip()).strip()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _conjunction(ids: Iterable[str]) -> str | None:
    return " AND ".join(sorted(set(ids))) or None


def _phrases(words: str) -> set[str]:
    words = _ASIDES.sub(" ", words)
    return _gnu_ids(words) | _phrase_ids(words)


def _phrase_ids(words: str, only: str = "") -> set[str]:
    return {spdx_id for pattern, spdx_id in _PHRASES if spdx_id.startswith(only) and re.search(pattern, words)}


def _gnu_ids(words: str) -> set[str]:
    """Return the GNU licences that words name; a mention without version counts only where none of its family has one."""
    named = [({"": "", "affero": "A"}.get(kind, "L"), version, after) for kind, version, after in _GNU.findall(words)]
    named += [(kind.upper(), version, after) for kind, version, after in _GPL.findall(words)]
    named += [(kind.upper(), "", "") for kind in _BARE_GPL.findall(words)]
    versioned = {family for family, version, _ in named if version}
    return {_gnu_id(*mention) for mention in named if mention[1] or mention[0] not in versioned}


def _gnu_id(family: str, version: str, after: str) -> str:
    oldest = {"": "1.0", "A": "3.0", "L": "2.0"}[family]
    number = oldest if not version else version if "." in version else f"{version}.0"
    spdx_id = f"{family}GPL-{number}-" + ("or-later" if not version or _LATER.search(after) else "only")
    return canonical_id(spdx_id) or f"{family}GPL-{oldest}-or-later"
