r"""Words of Unicode text as in Python: the characters that `\w` matches, and their lower case.

Guarantee: `word_characters` equals `re.match(r"\w", c)` and `lower_case(c)` for every code point of this interpreter's
Unicode (`unicodedata.unidata_version`): another version may know more letters, and so split words elsewhere.
Cost: 20 ms and 0.8 MB once a process.
"""

import functools
import sys

import numpy as np
from numpy.typing import NDArray


def lower_case(text: str) -> str:
    """Lower the characters of a text one by one, each to one character.

    So every sigma becomes the same letter wherever it stands, while `str.lower` knows a final one; and U+0130, the
    only character whose lower case is two, stays as it is.
    """
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


@functools.cache
def word_characters() -> NDArray[np.uint32]:
    """Return for each code point, up to the last word character, its lower case if it is a word character, else 0."""
    points = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    characters = points.view("<U1")
    is_word = np.strings.isalnum(characters)
    is_word[ord("_")] = True
    table = np.where(is_word, points, np.uint32(0))
    words = np.flatnonzero(is_word)
    has_lower_case = np.strings.isupper(characters[words]) | np.strings.istitle(characters[words])
    for point in words[has_lower_case].tolist():
        table[point] = ord(lower_case(chr(point)))
    table = table[: words[-1] + 1].copy()
    table.flags.writeable = False
    return table
