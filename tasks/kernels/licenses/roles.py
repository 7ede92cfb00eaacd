"""Classification of evidence files by name: a licence of its folder, a notice of third parties, or the licence of a part.

Guarantee: pure functions of paths, and of the first words of a text. Cost: microseconds a file.
"""

import re
from collections.abc import Iterable
from typing import Literal

from starloom.tasks.kernels.licenses.names import debian_name, declared_expression, known_expression

Role = Literal["text", "notice"]

MARKUP_LICENSE = r"(?i)(?:^|/)(?:[^/]*[-_. ])?(?:licen[cs]es?|copying|copyright|unlicense|eula)(?:[-_. ][^/]*)?\.(?:html?|xhtml|xml|rtf)$"
"""Licence files in a markup that a classification by language calls a program or a document."""

_NOTICE_NAME = re.compile(
    r"(?i)third.{0,2}part(?:y|ies)|3rd.{0,2}part|\bbundled|bundled\b|_bundled|vendored"
    r"|(?:^|[-_. ])(?:notices?|attributions?|acknowledge?ments?|credits|disclaimer|legal)(?:[-_. ]|$)"
    r"|licen[cs]es?[-_. ]?(?:dependenc|deps|vendor|other|others|extern|libs?\b|modules?\b|components?)"
    r"|(?:dependenc\w*|deps|vendor|extern\w*|other|librar\w+|components?|oss|open.?source)[-_. ]?licen[cs]es?"
)
_NOTICE_TEXT = re.compile(
    r"(?is)\b(?:third|3rd)[- ]?party\s*(?:software|code|material|component|licen[cs]e|notice|librar|program|product)s?"
    r"|incorporates? (?:third party )?(?:material|components|code) from|\bthe following (?:open source|third|components|libraries|software)"
)
_LICENSE_WORD = re.compile(r"(?i)^(?:un)?licen[cs]es?|^copying|^copyright|^legal|^eula")
_MUST_STATE = re.compile(r"(?i)licen[cs]e|copying")
_PLAIN = re.compile(r"(?i)^(?:(?:un)?licen[cs]es?|copying|copyright)(?:\.(?:txt|md|markdown|rst|adoc|html?|rtf|xml|org|tex|in))?$")
_ENDINGS = frozenset(
    {
        "txt",
        "md",
        "markdown",
        "rst",
        "adoc",
        "html",
        "htm",
        "rtf",
        "xml",
        "org",
        "tex",
        "in",
        "docs",
        "code",
        "software",
        "main",
        "en",
        "asc",
    }
)
_FAMILY = re.compile(
    r"(?i)^(?:[al]?gpl|gnu|lesser|affero|lib|library|mit|x11|expat|bsd|apache|isc|mpl|mozilla|epl|cddl|cpl|zlib|boost|bsl|artistic|perl|cc0|cc|by|sa|nc"
    r"|unlicense|psf|python|ofl|eupl|public|domain|wtfpl|commercial|proprietary|asl|al|v?\d+(?:\.\d+)*|clause|new|only|or|later|exception|dual)$"
)
_SPDX_FOLDER = re.compile(r"(?:^|/)LICENSES/([^/]+?)(?:\.txt)?$")


def role_of(path: str, text: str, beside: Iterable[str]) -> Role:
    """Return what a licence-like file is evidence of: its folder (`text`), or others' work in it (`notice`).

    A text whose name is that of a licence, or says nothing, is the folder's; one whose name or first words speak of third parties, and
    one of a part (LICENSE.numpy) beside a plain LICENSE, is a notice; so is a text in REUSE's folder LICENSES, named by its id.

    Args:
        path: of the file.
        text: its content.
        beside: the paths of the licence-like files of the same scope, itself among them.
    """
    name = path.rpartition("/")[2]
    if _NOTICE_NAME.search(name):
        return "notice"
    if (library := _SPDX_FOLDER.search(path)) and (known_expression(library[1]) or library[1].startswith("LicenseRef-")):
        return "notice"
    if _PLAIN.match(name):
        return "text"
    if _NOTICE_TEXT.search(text[:400]) and not _LICENSE_WORD.match(name):
        return "notice"
    return "notice" if _names_part(name) and any(_PLAIN.match(other.rpartition("/")[2]) for other in beside) else "text"


def must_state(path: str) -> bool:
    """Return whether a file whose text says nothing known must still hold terms: a NOTICE need not, a LICENSE must."""
    return _MUST_STATE.search(path.rpartition("/")[2]) is not None


def _names_part(name: str) -> bool:
    """Return whether a name such as LICENSE.numpy has words that are neither of a licence nor an ending."""
    stem = _LICENSE_WORD.sub("", name)
    if stem == name:  # NUMPY_LICENSE
        stem = re.sub(r"(?i)[-_. ]?licen[cs]es?", "", name)
    words = [word for word in re.split(r"[-_. ()+]+", stem) if word]
    rest = [word for word in words if word.lower() not in _ENDINGS and not _FAMILY.match(word)]
    return bool(rest) and declared_expression(" ".join(words)) is None and debian_name("-".join(words)) is None
