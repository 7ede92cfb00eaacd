"""Languages that a path alone allows, by file name and extension.

Rules: Linguist's strategies Filename, Extension and Manpage. Of an extension of several dots the longest known counts.
An ending of templates (`.in`) that no language claims gives way to the name below it.
Guarantee: a pure function of the path. Cost: one look-up a distinct name or extension, 0.3 µs a path.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from starloom.tasks.kernels.languages.linguist import TEMPLATES, vocabulary

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Groups = tuple[tuple[str, ...], ...]

_MANPAGE = re.compile(r"\.(?:[1-9](?![0-9])[a-z_0-9]*|0p|n|man|mdoc)(?:\.in)?$")
_SHARED_LIBRARY = re.compile(r"\.so\.\d")
_MANPAGES = ("Roff Manpage", "Roff")


@dataclass(frozen=True)
class Extension:
    """Languages that an extension stands for."""

    languages: tuple[str, ...] = ()
    """Languages that claim it; none if it is generic."""
    fallback: tuple[str, ...] = ()
    """Languages if no other strategy finds any: those of manual pages."""
    heuristic: int = -1
    """Rules on contents that go with it (`Vocabulary.heuristics`)."""
    usual: str | None = None
    """The language by name alone."""
    is_missing: bool = False
    """The name has none."""


@dataclass(frozen=True)
class Names:
    """Names of n paths: an index into the distinct file names and extensions of each."""

    by_name: NDArray[np.int32]
    """Into `names`; -1: no language claims the file name."""
    by_extension: NDArray[np.int32]
    """Into `extensions`."""
    names: Groups
    extensions: tuple[Extension, ...]

    def usual(self) -> list[str | None]:
        """Return for each path the language by name alone."""
        usual = [extension.usual for extension in self.extensions]
        names, extensions = self.by_name.tolist(), self.by_extension.tolist()
        return [self.names[name][0] if name >= 0 else usual[extension] for name, extension in zip(names, extensions, strict=True)]


def read_names(paths: pa.Array) -> Names:
    """Return what the paths say.

    Args:
        paths: n strings, parts separated by `/`.
    """
    import pyarrow.compute as pc

    filenames = vocabulary().filenames
    known = list(filenames)
    bases = pc.replace_substring_regex(paths, r"(?s)^.*/", "")
    by_name = _index_in(bases, known)
    endings = "|".join(re.escape(ending) for ending in TEMPLATES)
    suffixes = _suffixes(bases)
    extensions = [_read_extension(suffix) for suffix in suffixes.dictionary.to_pylist()]
    below = np.array([not (read.languages or read.fallback) for read in extensions], np.bool_)[_codes(suffixes)]
    rows = np.flatnonzero((by_name < 0) & below & _booleans(pc.match_substring_regex(bases, rf"(?i)(?:{endings})$")))
    codes = _codes(suffixes).copy()
    if len(rows):
        stripped = pc.replace_substring_regex(bases.take(rows), rf"(?i)(?:{endings})$", "")
        by_name[rows] = _index_in(stripped, known)
        inner = _suffixes(stripped)
        codes[rows] = len(extensions) + _codes(inner)
        extensions += [_read_extension(suffix) for suffix in inner.dictionary.to_pylist()]
    return Names(by_name, codes, tuple(filenames[name] for name in known), tuple(extensions))


def usual_language(path: str) -> str | None:
    """Return the language of one path by name alone; that of an ambiguous extension is its usual one."""
    filenames = vocabulary().filenames
    base = path.rpartition("/")[2]
    if found := filenames.get(base):
        return found[0]
    read = _read_extension(base[len(base.partition(".")[0]) :].lower())
    if not (read.languages or read.fallback) and base.lower().endswith(TEMPLATES):
        base = base[: base.rindex(".")]
        if found := filenames.get(base):
            return found[0]
        read = _read_extension(base[len(base.partition(".")[0]) :].lower())
    return read.usual


def _suffixes(bases: pa.Array) -> pa.DictionaryArray:
    """Return what follows the first dot of each name, with it, in lower case; empty where there is none."""
    import pyarrow.compute as pc

    return pc.dictionary_encode(pc.utf8_lower(pc.replace_substring_regex(bases, r"^[^.]*", "")))


def _index_in(values: pa.Array, known: list[str]) -> NDArray[np.int32]:
    import pyarrow as pa
    import pyarrow.compute as pc

    found: NDArray[np.int32] = pc.fill_null(pc.index_in(values, pa.array(known, values.type)), -1).to_numpy(zero_copy_only=False)
    return found.astype(np.int32)


def _codes(encoded: pa.DictionaryArray) -> NDArray[np.int32]:
    codes: NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    return codes


def _booleans(values: pa.BooleanArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return found


@functools.lru_cache(maxsize=1 << 16)
def _read_extension(suffix: str) -> Extension:
    """Return what the end of a file name says, from its first dot on, in lower case."""
    words = vocabulary()
    if not suffix:
        return Extension(is_missing=True)
    if _SHARED_LIBRARY.search(suffix):
        return Extension()  # libz.so.1 is no manual page
    tails = [suffix[at:] for at, letter in enumerate(suffix) if letter == "." and at + 1 < len(suffix)]
    extension = next((tail for tail in tails if tail in words.extensions), "")
    claimed = words.extensions.get(extension, ())
    heuristic = next((at for at, (endings, _) in enumerate(words.heuristics) if suffix.endswith(endings)), -1)
    is_generic = any(suffix.endswith(ending) for ending in words.generic)
    manpage = _MANPAGES if _MANPAGE.search(suffix) else ()
    if is_generic or not claimed:
        return Extension((), manpage, heuristic, manpage[0] if manpage else words.usual.get(extension))
    return Extension(claimed, (), heuristic, words.usual[extension])
