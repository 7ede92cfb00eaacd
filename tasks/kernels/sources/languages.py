"""What a file is to a corpus, by its path and language: licence, documentation, notebook or code.

Languages are GitHub Linguist's (`tasks/kernels/languages`). What a path alone says decides whether a file is read at all;
what it is then in is asked of its contents too.
Guarantee: pure functions of path and language. Cost: a few microseconds a path; of `kinds` a fraction of one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starloom.tasks.kernels.languages.linguist import TEMPLATES, is_prose, known_languages
from starloom.tasks.kernels.languages.names import usual_language

if TYPE_CHECKING:
    import pyarrow as pa

_LICENSE_NAME_PATTERN = (
    r"(|[^/]*[-_. ])(li[cs]en[cs]e(s?)|legal|copy(left|right|ing)|unlicense|[al]?gpl([-_ v]?)(\d\.?\d?)?|bsd(l?)|mit(x?)"
    r"|apache|artistic|copying(v?)(\d?)|disclaimer|eupl|gfdl|[cm]pl|cc0|al([-_ v]?)(\d\.?\d)?|notice)(|[-_. ][^/]*)$"
)
"""The Stack v2's pattern of licence-like names, less about, readme and guidelines, which are documentation to us."""

_LICENSE_NAME = re.compile(_LICENSE_NAME_PATTERN, re.IGNORECASE)

_DIST_INFO = re.compile(r"^(.*/|)([^/]+?)-[^/-]+\.dist-info/(?:licenses/|license_files/)?(.*/|)[^/]*$")

_LICENSE_FOLDERS = frozenset({"license", "licenses", "licence", "licences"})


def classify(path: str) -> tuple[str, str | None] | None:
    """Return (kind, language) of a file by its path; None if its name says neither language nor licence.

    Kinds: license, documentation, notebook, code. A licence file may have no language.
    """
    language = usual_language(path)
    if (language is None or is_prose(language)) and _is_license_path(path):
        return "license", language
    if language is None:
        return None
    if is_prose(language):
        return "documentation", language
    return ("notebook" if language == "Jupyter Notebook" else "code"), language


def may_tell_language(path: str) -> bool:
    """Return whether a file is worth reading: its name tells something, or it has no extension and its contents may."""
    if classify(path) is not None:
        return True
    name = path.rpartition("/")[2].lower()
    while name.endswith(TEMPLATES):
        name = name[: name.rindex(".")]
    return bool(name) and "." not in name


def are_license_paths(paths: pa.Array) -> pa.BooleanArray:
    """Return for each path whether it is named like a licence file, or lies in a folder of them."""
    import pyarrow.compute as pc

    folders = pc.match_substring_regex(paths, rf"(?i)(?:^|/)(?:{'|'.join(sorted(_LICENSE_FOLDERS))})/[^/]*$")
    return pc.or_(folders, pc.match_substring_regex(paths, f"(?i)(?:^|/){_LICENSE_NAME_PATTERN}"))


def kinds(paths: pa.Array, languages: pa.Array) -> pa.Array:
    """Return the kind of each file; null: neither language nor licence is known, so it is of no use.

    Args:
        paths: n strings.
        languages: n names, null where unknown.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    prose = pa.array([language for language in known_languages() if is_prose(language)])
    is_documentation = pc.is_in(languages, prose)
    is_unknown = pc.is_null(languages)
    is_license = pc.and_(pc.or_(is_documentation, is_unknown), are_license_paths(paths))
    by_language = pc.if_else(pc.equal(languages, "Jupyter Notebook"), "notebook", "code")
    return pc.if_else(is_license, "license", pc.if_else(is_documentation, "documentation", by_language))


def license_scope(path: str) -> str:
    """Return the folder ("" or "a/b/") that a licence file applies to: its own, or the one above a `licenses` folder.

    In the metadata of a vendored wheel (`_vendor/x-1.0.dist-info/LICENSE`) it applies to the package, `_vendor/x/`.
    """
    if vendored := _DIST_INFO.match(path):
        above, name, below = vendored.groups()
        return above + (below or name.replace(".", "/") + "/")
    folder, _, _ = path.rpartition("/")
    above, _, name = folder.rpartition("/")
    folder = above if name.lower() in _LICENSE_FOLDERS else folder
    return folder + "/" if folder else ""


def _is_license_path(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder.rpartition("/")[2].lower() in _LICENSE_FOLDERS or _LICENSE_NAME.match(name) is not None
