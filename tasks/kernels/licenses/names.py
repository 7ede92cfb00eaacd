"""The licences that declarations name: SPDX expressions, classifiers, addresses, and the words and short names of each ecosystem.

Guarantee: what is not understood is None, never a guess. Cost: microseconds, each declaration once.
"""

import functools
import re

from starloom.tasks.kernels.licenses.phrases import RESTRICTED, WORD, conjunction, phrase_licenses
from starloom.tasks.kernels.licenses.policy import parse_expression

CLASSIFIERS = {
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
    "Free For Educational Use": RESTRICTED,
    "Free For Home Use": RESTRICTED,
    "Free for non-commercial use": RESTRICTED,
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
    "Other/Proprietary License": RESTRICTED,
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

SHORT_NAMES = {
    "all rights reserved": RESTRICTED,
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "artistic": "Artistic-2.0",
    "bsd": "BSD-3-Clause",
    "bsd like": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "cc 0": "CC0-1.0",
    "closed source": RESTRICTED,
    "commercial": RESTRICTED,
    "isc": "ISC",
    "expat": "MIT",
    "agpl": "AGPL-3.0-or-later",
    "artistic or gpl": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "artistic 1": "Artistic-1.0",
    "artistic 2": "Artistic-2.0",
    "boost": "BSL-1.0",
    "boost 1": "BSL-1.0",
    "bsd 2": "BSD-2-Clause",
    "bsd 2 clause": "BSD-2-Clause",
    "bsd 3": "BSD-3-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 4": "BSD-4-Clause",
    "bsd 4 clause": "BSD-4-Clause",
    "cddl": "CDDL-1.0",
    "new bsd": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "eclipse public 1": "EPL-1.0",
    "eclipse public 2": "EPL-2.0",
    "epl 1": "EPL-1.0",
    "epl 2": "EPL-2.0",
    "allrightsreserved": RESTRICTED,
    "unlicensed": RESTRICTED,
    "publicdomain": "LicenseRef-scancode-public-domain",
    "pd": "LicenseRef-scancode-public-domain",
    "perl": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "perl 5": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "same terms as perl": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "mit x 11": "MIT",
    "x 11": "X11",
    "mozilla": "MPL-1.1",
    "mozilla 1.1": "MPL-1.1",
    "ofl 1.1": "OFL-1.1",
    "wtfpl": "WTFPL",
    "wtfpl 2": "WTFPL",
    "zlib libpng": "Zlib",
    "postgresql": "PostgreSQL",
    "mit": "MIT",
    "mpl": "MPL-2.0",
    "proprietary": RESTRICTED,
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

_MAX_DECLARATION = 2000
"""Characters of a declaration that are read."""

_FILLER = re.compile(r"\b(?:the|licen[cs]e|licen[cs]ed|software|version|v|under|file)\b")

_URLS: tuple[tuple[str, str | None], ...] = (
    (r"opensource\.org/licen[cs]es?/(?:licen[cs]e/)?([\w.+-]+?)(?:-license)?(?:\.php|\.html|\.txt)?/?$", None),
    (r"(?:spdx\.org/licenses|licenses\.nuget\.org)/([\w.+-]+?)(?:\.html|\.json)?/?$", None),
    (r"apache\.org/licenses/license-2\.0", "Apache-2.0"),
    (r"mozilla\.org/(?:en-us/)?mpl/(?:mpl-)?2\.0", "MPL-2.0"),
    (r"mozilla\.org/mpl/(?:mpl-)?1\.1", "MPL-1.1"),
    (r"eclipse\.org/(?:legal/epl-v10|org/documents/epl-v10)", "EPL-1.0"),
    (r"eclipse\.org/legal/epl-(?:v20|2\.0)", "EPL-2.0"),
    (r"boost\.org/license_1_0", "BSL-1.0"),
    (r"creativecommons\.org/publicdomain/zero/1\.0", "CC0-1.0"),
    (r"unlicense\.org", "Unlicense"),
    (r"wtfpl\.net", "WTFPL"),
)
"""Addresses of licences, in lower case → SPDX id; None: the id is in the address."""
_CREATIVE_COMMONS_URL = re.compile(r"creativecommons\.org/licenses/(by(?:-nc)?(?:-nd|-sa)?)/(\d\.\d)")
_GNU_URL = re.compile(r"gnu\.org/(?:licenses|copyleft)/(?:old-licenses/)?([al]?gpl)(?:-(\d\.\d))?")

_OPERATOR = re.compile(r"\s*(?:,\s*)?(?:\b(and/or|or|and)\b|(\|)|(,))\s*", re.IGNORECASE)
_DEBIAN_GNU = re.compile(r"(?i)([al]?gpl|gfdl)(?:-niv|-nv)?[- ]?v?(\d+(?:\.\d+)?)?(\+|-or-later|-only)?")
_DEBIAN_NAMES = {
    "apache": "Apache-2.0",
    "artistic": "Artistic-1.0",
    "boost": "BSL-1.0",
    "bsd-2-clauses": "BSD-2-Clause",
    "bsd-3-clauses": "BSD-3-Clause",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsd-4": "BSD-4-Clause",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    "ofl": "OFL-1.1",
    "pd": "LicenseRef-scancode-public-domain",
    "perl": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "psf": "PSF-2.0",
    "psf-2": "PSF-2.0",
    "public-domain": "LicenseRef-scancode-public-domain",
    "wtfpl-2": "WTFPL",
}
"""Short names of Debian's machine-readable format (copyright-format 1.0, section 7.1), in lower case, that are no SPDX ids."""


@functools.lru_cache(maxsize=4096)
def declared_expression(text: str) -> str | None:
    """Return the SPDX expression of a declaration: an expression, classifiers, an address or words; None if it is not understood."""
    text = text.strip()[:_MAX_DECLARATION]
    if "License ::" in text:
        names = [part.rpartition(" :: ")[2].strip() for part in text.split("; ")]
        ids = {CLASSIFIERS.get(name) for name in names if name != "OSI Approved"}
        return None if None in ids else conjunction(str(spdx_id) for spdx_id in ids)
    if text.upper() in ("MIT/X11", "X11/MIT"):  # one licence by two names
        return "MIT"
    for expression in (text, text.replace("/", " OR ")):  # MIT/Apache-2.0 is how Rust wrote it
        if known := known_expression(expression):
            return known
    if text.lower().startswith(("http://", "https://")):
        return url_license(text)
    return _short_name(text) or conjunction(phrase_licenses("license " + " ".join(WORD.findall(text.lower()))))


def known_expression(text: str) -> str | None:
    """Return an expression in its current spelling if all its ids are known; None otherwise."""
    parsed = parse_expression(text)
    return None if parsed is None else str(parsed.render())


def url_license(address: str) -> str | None:
    """Return the SPDX expression of the licence at a well-known address; None for another."""
    address = address.lower().strip()
    if found := _CREATIVE_COMMONS_URL.search(address):
        return known_expression(f"CC-{found[1].upper()}-{found[2]}")
    if found := _GNU_URL.search(address):
        return conjunction(phrase_licenses(f"license {found[1]} {found[2] or ''}"))
    for pattern, spdx_id in _URLS:
        if found := re.search(pattern, address):
            return spdx_id or known_expression(found[1]) or _short_name(found[1])
    return None


def debian_expression(text: str) -> str | None:
    """Return the SPDX expression of Debian's or R's short names, such as `GPL-2+ or Artistic`; None if one is not understood.

    `and` binds closer than `or`, as in Debian's format; an exception (`with OpenSSL exception`) only loosens its licence and is left out.
    """
    text = " ".join(text.split())[:_MAX_DECLARATION]
    spelt, position = "", 0
    for operator in [*_OPERATOR.finditer(text), None]:
        name = debian_name(text[position : operator.start() if operator else len(text)])
        if name is None:
            return None
        spelt += f"({name})"
        if operator is not None:
            spelt += " OR " if (operator[1] or operator[2] or "").lower() in ("or", "and/or", "|") else " AND "
            position = operator.end()
    return known_expression(spelt)


def debian_name(name: str) -> str | None:
    """Return the SPDX expression of one of Debian's short names; None for what is no known licence."""
    name = re.sub(r"\s+with\s.*", "", name.strip(), flags=re.IGNORECASE)
    if name.lower() in _DEBIAN_NAMES:
        return _DEBIAN_NAMES[name.lower()]
    if gnu := _DEBIAN_GNU.fullmatch(name):
        family, number = gnu[1].upper(), gnu[2]
        later = "-or-later" if gnu[3] in ("+", "-or-later") or number is None else "-only"
        oldest = {"GPL": "1.0", "LGPL": "2.0", "AGPL": "3.0", "GFDL": "1.1"}[family]
        return known_expression(f"{family}-{oldest if number is None else number if '.' in number else number + '.0'}{later}")
    return known_expression(name) or known_expression(re.sub(r"(?<=-)(\d)$", r"\1.0", name))


def _short_name(text: str) -> str | None:
    core = " ".join(_FILLER.sub(" ", " ".join(WORD.findall(text.lower()))).split())
    return SHORT_NAMES.get(core) or SHORT_NAMES.get(re.sub(r"(?<= )(\d)\.0\b", r"\1", core))
