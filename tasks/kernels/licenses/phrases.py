"""Names and standard phrases by which a text that is no reference text states a licence, as ScanCode does for references.

Texts are given in normalised words: lower case, without punctuation, one space between. Guarantee: every id is a current SPDX
id. Cost: about 60 regular expressions over each text.
"""

import functools
import re
from collections.abc import Callable, Iterable

from starloom.tasks.kernels.licenses.policy import canonical_id

WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)*|\+")
RESTRICTED = "LicenseRef-scancode-proprietary-license"
"""Stands for every condition that takes back what a permissive licence beside it gives."""

_GNU = re.compile(
    r"\bgnu (?:(affero|lesser|library) )?(?:or lesser )?general public licen[cs]e\b(?: as published by the free software foundation)?"
    r"(?:[a-z() ]{0,40}?\b(?:version|v) ?(\d(?:\.\d)?))?((?: \S+){0,12})"
)
_GPL = re.compile(r"\b([al]?)gpl(?: version| v|v)? ?(\d(?:\.\d)?)((?: \S+){0,4})")
_BARE_GPL = re.compile(
    r"\b(?:licen[cs]ed?|released|distributed|available|covered)(?: is)?(?: under)?(?: the)?(?: terms of)?(?: the)?(?: gnu)? ([al]?)gpl\b"
)
_LATER = re.compile(r"or later|or newer|any later|\+")

PHRASES: tuple[tuple[str, str], ...] = (
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
    (r"\beclipse public licen[cs]e (?:epl )?(?:version |v )?1", "EPL-1.0"),
    (r"\beclipse public licen[cs]e(?! (?:epl )?(?:version |v )?1)", "EPL-2.0"),
    (r"\bcommon public licen[cs]e", "CPL-1.0"),
    (r"\bredistributions in any form must be accompanied by information on how to obtain", "Sleepycat"),
    (r"\ball advertising materials mentioning features", "BSD-4-Clause"),
    (r"\bcopying and distribution of this file with or without modification are permitted in any medium", "FSFAP"),
    (r"\bfree software foundation gives unlimited permission to copy and or distribute it with or without modifications", "FSFULLR"),
    (r"\bgives unlimited permission to copy distribute and modify it\b", "FSFUL"),
    (r"\bthe beer ware licen[cs]e", "Beerware"),
    (r"\bto the extent possible under law the \S+(?: \S+){0,4} (?:has|have) (?:dedicated|waived) all copyright", "CC0-1.0"),
    (r"\bgnu free documentation licen[cs]e", "GFDL-1.1-or-later"),
    (r"\beuropean union public licen[cs]e|\beupl\b", "EUPL-1.2"),
    (r"\bopen software licen[cs]e", "OSL-3.0"),
    (r"\bmicrosoft public licen[cs]e|\bms pl\b", "MS-PL"),
    (r"\buniversal permissive licen[cs]e", "UPL-1.0"),
    (r"\bacademic free licen[cs]e", "AFL-3.0"),
    (r"\bdo what the fuck you want to public licen[cs]e|\bwtfpl\b", "WTFPL"),
    (r"\bsame terms as perl\b", "Artistic-1.0-Perl"),
    (r"\bmulan psl v ?2|\bmulan permissive software licen[cs]e version 2", "MulanPSL-2.0"),
    (r"\bcommon development and distribution licen[cs]e", "CDDL-1.0"),
    (r"\bsil open font licen[cs]e", "OFL-1.1"),
    (r"\bserver side public licen[cs]e", "SSPL-1.0"),
    (r"\bbusiness source licen[cs]e", "BUSL-1.1"),
    (r"\belastic licen[cs]e", "Elastic-2.0"),
    (r"\bpolyform noncommercial", "PolyForm-Noncommercial-1.0.0"),
    (
        r"\bconfidential (?:and )?(?:\w+ )?proprietary|\btrade secrets? of|\bunauthori[sz]ed (?:copying|use|reproduction|distribution)\b",
        RESTRICTED,
    ),
    (r"\bproprietary and confidential|\bproprietary licen[cs]e|software is (?:\w+ ){0,2}proprietary", RESTRICTED),
    (r"^license (?:\w+ ){0,2}proprietary(?: software)?$", RESTRICTED),
    (r"\bend user licen[cs]e agreement|\beula\b|(?:may|shall|agree) not (?:to )?(?:\S+ ){0,12}reverse engineer", RESTRICTED),
    (r"\bcommons clause|commercial use is (?:\w+ )?(?:prohibited|forbidden|not permitted|not allowed)", RESTRICTED),
    (r"\bnon ?commercial (?:use |purposes? )?only|\bfor (?:\w+ ){0,2}non ?commercial (?:use|purposes?)", RESTRICTED),
    (r"\bresearch (?:use |purposes? )?only", RESTRICTED),
)
"""Names and standard phrases, in normalised words → SPDX id. Only what no reference text covers is searched for them."""

ASIDES = re.compile(
    r"material that was previously distributed under the gnu general public license|gpl compatible"
    r"|other software that is released under the gpl"
    r"|software that is licensed under the gplv 2|conditions of the gplv 2|gnu general public license gpl compatible"
    r"|the rest of \w+ is licensed under the terms of the gnu general public license"
)
"""Clauses (CNRI's licence of Python, LLVM's exception, Valgrind's headers) that name the GPL without being under it."""


def conjunction(ids: Iterable[str]) -> str | None:
    """Return an expression of which all ids hold; None for no id."""
    return " AND ".join(sorted(set(ids))) or None


def phrase_licenses(words: str) -> set[str]:
    """Return the SPDX ids of all licences that words name or state by a standard phrase."""
    return set(phrase_places(words))


def phrase_places(words: str) -> dict[str, int]:
    """Return the same ids, each with the first place in `words` that says so (of a GNU licence: the first GNU name there is)."""
    words = ASIDES.sub(lambda found: " " * len(found[0]), words)
    gnu = gnu_licenses(words)
    place = min((found.start() for found in (_GNU.search(words), _GPL.search(words), _BARE_GPL.search(words)) if found), default=0)
    places = dict.fromkeys(gnu, place)
    for number in _screen()(words):
        pattern, spdx_id = PHRASES[number]
        if found := re.search(pattern, words):
            places[spdx_id] = min(places.get(spdx_id, len(words)), found.start())
    for longer, shorter in _CONTAINED:
        if longer in places:
            places.pop(shorter, None)
    return places


@functools.cache
def _screen() -> Callable[[str], Iterable[int]]:
    """Return what finds the phrases that may be in a text, all in one pass: looking ahead is left to the search itself."""
    import re2

    phrases = re2.Set.SearchSet()
    for pattern, _ in PHRASES:
        phrases.Add(_AHEAD.sub("", pattern))
    always = phrases.Add("")
    phrases.Compile()

    def candidates(words: str) -> Iterable[int]:
        found = phrases.Match(words) or []
        return (
            sorted(number for number in found if number != always) if always in found else range(len(PHRASES))
        )  # else it ran out of memory

    return candidates


_CONTAINED = (
    ("BSD-4-Clause", "BSD-3-Clause"),
    ("BSD-4-Clause", "BSD-2-Clause"),
    ("BSD-3-Clause", "BSD-2-Clause"),
    ("Sleepycat", "BSD-2-Clause"),
)
"""Licences, and those whose clauses they repeat."""

_AHEAD = re.compile(r"\(\?!(?:[^()]|\([^()]*\))*\)")


def gnu_licenses(words: str) -> set[str]:
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
