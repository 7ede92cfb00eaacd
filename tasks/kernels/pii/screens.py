r"""Cheap screens that find where in a text an e-mail address, an IP address or a key could stand.

A screen is a necessary condition of a detector, so slow detectors read only what it lets through:

    screen            lets through                               for
    email_tokens      runs of address characters around an `@`   Presidio EmailRecognizer
    ip_tokens         runs with a dotted quad, `::` or 7 colons  Presidio IpRecognizer (without the bare `::`)
    quoted_entropy    quoted strings of high Shannon entropy     detect-secrets' two high-entropy plugins
    assigned_entropy  the same without quotes, `name = ...`      the same plugins after its transformer of settings files
    key_marks         marks of known kinds of key (KEY_MARKS)    detect-secrets' 16 plugins of regular expressions

Guarantee: superset. Where the detector finds something in a text that ends in a newline, the screen returns a span
that overlaps it; the tests hold this against the detectors' own expressions. A token of the first two is closed: the
detector finds in it alone what it finds there in the whole text, because no character just outside can be part of a
match or change a word boundary. (Runs are cut REACH bytes before their first sign and, for e-mail, after their last, and
at MAX_TOKEN; RFC 5321 ends an address at 320.)
Cost: one pass each over the flat bytes of all texts, 0.7 to 1.1 GB/s a core; nothing happens per document.

Bytes from 0x80 up are let through wherever a detector has a Unicode class (`\w`, `\d`) or ignores case: no table of
characters of one Unicode version is copied here.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]

REACH = 512
"""Bytes that a token extends beyond its outermost sign."""

MAX_TOKEN = 1 << 14
"""Bytes of a token; a longer run is cut, so that work on a file that is one run stays in proportion to it."""

MAX_KEY_CONTEXT = 4096
"""Bytes of its line shown to a key detector on either side of what the screen found: bounds work on minified files."""

MIN_KEY_CONTEXT = 512
"""Bytes of its line at least, where there are as many."""

ENTROPY_SLACK = 1e-9
"""Summing logarithms in another order than the detector may differ in the last bits; this much is let through."""

DIGIT, WORD, HEX, ADDRESS, LOCAL_END, BASE64, HOST = 1, 2, 4, 8, 16, 32, 64
"""Bits of the classes of bytes. LOCAL_END: may stand right before the `@`; HOST: may belong to an IP address's run."""


BEYOND_ASCII, CONTINUATION_MASK = 0x80, 0xC0
NUM_QUAD_DOTS, NUM_IPV6_COLONS = 3, 7


def _classes() -> _Bytes:
    """Return the classes of each of the 256 bytes, uint8."""
    digits, lower = "0123456789", "abcdefghijklmnopqrstuvwxyz"
    word = digits + lower + lower.upper() + "_"
    table = np.zeros(256, np.uint8)
    for bit, members in (
        (DIGIT, digits),
        (WORD, word),
        (HEX, digits + "abcdefABCDEF"),
        (ADDRESS, word + "!#$%&'*+-/=?^`{|}~.@"),
        (LOCAL_END, word + "!#$%&'*+-/=?^`{|}~"),
        (BASE64, word + "+/\\-="),
        (HOST, word + ":.%/"),
    ):
        for character in members:
            table[ord(character)] |= bit
    table[BEYOND_ASCII:] |= WORD | ADDRESS | LOCAL_END | HOST
    return table


CLASSES = _classes()
AT, DOT, COLON, NEWLINE, HYPHEN = ord("@"), ord("."), ord(":"), ord("\n"), ord("-")
QUOTE, APOSTROPHE, EQUALS, SPACE, TAB, RETURN = (ord(character) for character in "\"'= \t\r")


@njit(cache=True, nogil=True)
def _at_characters(data: _Bytes, start: int, stop: int) -> tuple[int, int]:
    """Move the ends of a span forward to where characters of UTF-8 begin."""
    while start < stop and data[start] & CONTINUATION_MASK == BEYOND_ASCII:
        start += 1
    while stop < len(data) and data[stop] & CONTINUATION_MASK == BEYOND_ASCII:
        stop += 1
    return start, stop


@njit(cache=True, nogil=True)
def _has_domain(data: _Bytes, classes: _Bytes, at: int) -> bool:
    """Return whether a dotted name follows the `@` at `at`."""
    here, end = at + 1, len(data)
    if here >= end or not classes[data[here]] & WORD:
        return False
    while here < end and here - at <= REACH and (classes[data[here]] & WORD or data[here] == HYPHEN):
        here += 1
    return here + 1 < end and data[here] == DOT and classes[data[here + 1]] & WORD != 0


@njit(cache=True, nogil=True)
def _email_tokens(data: _Bytes, classes: _Bytes, found: _Int64s) -> int:
    num, here, end, floor = 0, 0, len(data), 0
    while here < end:
        if data[here] != AT or here == 0 or not classes[data[here - 1]] & LOCAL_END:
            here += 1
            continue
        start, stop, last, wanted = here, here, here, False
        while start > floor and here - start < REACH and classes[data[start - 1]] & ADDRESS:
            start -= 1
        while stop < end and stop - last <= REACH and stop - start < MAX_TOKEN and classes[data[stop]] & ADDRESS:
            if data[stop] == AT:
                last = stop
                wanted = wanted or _has_domain(data, classes, stop)
            stop += 1
        start, stop = _at_characters(data, start, stop)
        if wanted:
            if num < len(found):
                found[num, 0], found[num, 1] = start, stop
            num += 1
        here = floor = stop
    return num


@njit(cache=True, nogil=True)
def _is_quad(data: _Bytes, classes: _Bytes, dot: int) -> bool:
    """Return whether the dot at `dot` is the first of three between four numbers."""
    if dot == 0 or not classes[data[dot - 1]] & DIGIT:
        return False
    here, end, dots = dot, len(data), 0
    while here + 1 < end and data[here] == DOT and classes[data[here + 1]] & DIGIT:
        dots += 1
        here += 1
        if dots == NUM_QUAD_DOTS:
            return True
        while here < end and classes[data[here]] & DIGIT:
            here += 1
    return False


@njit(cache=True, nogil=True)
def _after_colons(data: _Bytes, classes: _Bytes, first: int) -> tuple[int, bool]:
    """Return the end of the run of hexadecimal digits and colons, and whether it can be an IPv6 address.

    The detector's match starts after no word character and ends before none, so it is all of the run.

    Args:
        data: the texts.
        classes: of the bytes.
        first: where the first colon of the run stands.
    """
    start, here, end, colons, double = first, first, len(data), 0, False
    while start > 0 and classes[data[start - 1]] & HEX:
        start -= 1
    while here < end and (data[here] == COLON or classes[data[here]] & HEX):
        colons += data[here] == COLON
        double = double or (data[here] == COLON and data[here - 1] == COLON and here > first)
        here += 1
    free_before = start == 0 or data[start - 1] >= BEYOND_ASCII or not classes[data[start - 1]] & WORD
    free_after = here == end or data[here] >= BEYOND_ASCII or not classes[data[here]] & WORD
    has_digits = here - start > colons
    return here, has_digits and free_before and free_after and (double or colons >= NUM_IPV6_COLONS)


@njit(cache=True, nogil=True)
def _ip_tokens(data: _Bytes, classes: _Bytes, found: _Int64s) -> int:
    num, here, end, floor = 0, 0, len(data), 0
    while here < end:
        byte, after, wanted = data[here], here + 1, False
        if byte == DOT:
            wanted = _is_quad(data, classes, here)
        elif byte == COLON:
            after, wanted = _after_colons(data, classes, here)
        if not wanted:
            here = after
            continue
        start = here
        while start > floor and here - start < REACH and classes[data[start - 1]] & HOST:
            start -= 1
        while here < end and here - start < MAX_TOKEN and classes[data[here]] & HOST:
            here += 1
        start, here = _at_characters(data, start, here)
        if num < len(found):
            found[num, 0], found[num, 1] = start, here
        num += 1
        floor = here
    return num


@njit(cache=True, nogil=True)
def _is_random(data: _Bytes, classes: _Bytes, start: int, stop: int, base64_limit: float, hex_limit: float) -> bool:
    """Return whether a string passes the entropy limit of the hexadecimal or of the Base64 plugin."""
    length = stop - start
    all_hex, all_digits = True, True
    counts = np.zeros(128, np.int64)
    for at in range(start, stop):
        counts[data[at]] += 1
        all_hex = all_hex and classes[data[at]] & HEX != 0
        all_digits = all_digits and classes[data[at]] & DIGIT != 0
    entropy = 0.0
    for count in counts:
        if count:
            entropy -= count / length * np.log2(count / length)
    of_hex = entropy - 1.2 / np.log2(length) if all_digits and length > 1 else entropy
    return entropy > base64_limit - ENTROPY_SLACK or (all_hex and of_hex > hex_limit - ENTROPY_SLACK)


@njit(cache=True, nogil=True)
def _quoted_entropy(data: _Bytes, classes: _Bytes, base64_limit: float, hex_limit: float, found: _Int64s) -> int:
    shortest = int(2.0 ** min(base64_limit, hex_limit))  # n characters have at most log2(n) bits each
    num, here, end = 0, 0, len(data)
    while here < end:
        quote = data[here]
        here += 1
        if quote not in (QUOTE, APOSTROPHE):
            continue
        start = here
        while here < end and classes[data[here]] & BASE64:
            here += 1
        if here in (start, end) or data[here] != quote or here - start < shortest:
            continue
        if _is_random(data, classes, start, here, base64_limit, hex_limit):
            if num < len(found):
                found[num, 0], found[num, 1] = start, here
            num += 1
    return num


@njit(cache=True, nogil=True)
def _assigned_entropy(data: _Bytes, classes: _Bytes, base64_limit: float, hex_limit: float, found: _Int64s) -> int:
    shortest = int(2.0 ** min(base64_limit, hex_limit))
    num, here, end = 0, 0, len(data)
    while here < end:
        sign = data[here]
        here += 1
        if sign not in (EQUALS, COLON):
            continue
        while here < end and data[here] in (SPACE, TAB):
            here += 1
        start = here
        while here < end and classes[data[here]] & BASE64:
            here += 1
        after = here
        while after < end and data[after] in (SPACE, TAB, RETURN):
            after += 1
        if after == end or data[after] != NEWLINE or here - start < shortest or here == start:
            continue
        if _is_random(data, classes, start, here, base64_limit, hex_limit):
            if num < len(found):
                found[num, 0], found[num, 1] = start, here
            num += 1
    return num


def _spans(kernel: Any, *arguments: Any) -> _Int64s:
    """Call a kernel with room for its spans; again with more if it says that it found more."""
    found = np.empty((1024, 2), np.int64)
    num = kernel(*arguments, found)
    if num > len(found):
        found = np.empty((num, 2), np.int64)
        kernel(*arguments, found)
    return found[:num]


def email_tokens(data: _Bytes) -> _Int64s:
    """Find the runs in which an e-mail address could stand: int64 [k, 2] spans of `data`, ordered and disjoint.

    Args:
        data: uint8, UTF-8 texts one after another, each ended by a newline.
    """
    return _spans(_email_tokens, data, CLASSES)


def ip_tokens(data: _Bytes) -> _Int64s:
    """Find the runs in which an IP address could stand: int64 [k, 2] spans of `data`, ordered and disjoint."""
    return _spans(_ip_tokens, data, CLASSES)


def quoted_entropy(data: _Bytes, base64_limit: float, hex_limit: float) -> _Int64s:
    """Find the insides of quoted strings above either limit in bits a character: int64 [k, 2] spans, ordered."""
    return _spans(_quoted_entropy, data, CLASSES, base64_limit, hex_limit)


def assigned_entropy(data: _Bytes, base64_limit: float, hex_limit: float) -> _Int64s:
    """Find the bare strings above either limit that end a line after `=` or `:`: int64 [k, 2] spans, ordered."""
    return _spans(_assigned_entropy, data, CLASSES, base64_limit, hex_limit)


def _caseless(word: str) -> str:
    """Spell a word so that RE2, reading bytes, accepts what Python's IGNORECASE does.

    Beside the other case these are U+0130 and U+0131 for i, U+212A for k and U+017F for s.
    """
    beyond_ascii = {"i": r"|\xc4[\xb0\xb1]", "k": r"|\xe2\x84\xaa", "s": r"|\xc5\xbf"}
    return "".join(f"(?:[{c}{c.upper()}]{beyond_ascii.get(c, '')})" if c.isalpha() else re.escape(c) for c in word)


_HIGH = r"\x80-\xff"
_NAME = r"a-zA-Z0-9_\-"
_KEYWORD = "(?:" + "|".join(_caseless(word) for word in ("key", "pwd", "pw", "pass", "password", "token")) + ")"
_ASSIGNED = r"""["']?\]? *(?::=|=>|::|=|:| ) *["']?"""
_CLOUDANT = f"{_caseless('cl')}(?:{_caseless('ou')}(?:{_caseless('dant')})?)?[_-]?(?:{_caseless('api')})?{_KEYWORD}"

KEY_MARKS = {
    # detect-secrets plugin: what every match of its expressions contains, as an RE2 expression over bytes
    "ArtifactoryDetector": rf"AKC[a-zA-Z0-9]{{10}}|AP[0-9A-F{_HIGH}][a-zA-Z0-9{_HIGH}]{{8}}",
    "AWSKeyDetector": rf"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{{16}}|{_caseless('aws')}[^\n]*?['\"]",
    "AzureStorageKeyDetector": r"AccountKey=[a-zA-Z0-9+/=]{8}",
    "CloudantDetector": rf"{_CLOUDANT}{_ASSIGNED}[0-9a-zA-Z{_HIGH}]{{24}}|{_caseless('cloudant.com')}",
    "DiscordBotTokenDetector": rf"\.(?:[{_NAME}]{{6}}|[{_NAME}]*[{_HIGH}][{_NAME}{_HIGH}]*)\.[{_NAME}{_HIGH}]{{27}}",
    "GitHubTokenDetector": r"gh[opusr]_[A-Za-z0-9_]{10}",
    # One mark serves three: their secrets are 44, 48 and 64 characters after a keyword and a sign of assignment.
    "IbmCloudIamDetector, IbmCosHmacDetector, SoftlayerDetector": rf"{_KEYWORD}{_ASSIGNED}[{_NAME}{_HIGH}]{{44}}",
    "SoftlayerDetector": rf"{_caseless('softlayer')}[^\n]{{1,4}}{_caseless('com/soap/')}",
    "JwtTokenDetector": r"eyJ[A-Za-z0-9_=-]+\.",
    "MailchimpDetector": r"[0-9a-z]-us[0-9]",
    "NpmDetector": r"/:_authToken=",
    "SendGridDetector": r"SG\.[a-zA-Z0-9_-]{22}\.",
    "SlackDetector": rf"{_caseless('xox')}[^\n]{{1,2}}-[0-9{_HIGH}]+-|{_caseless('hooks.slack.com/services/')}",
    "StripeDetector": r"k_live_[0-9a-zA-Z]{8}",
    "TwilioKeyDetector": r"(?:AC|SK)[a-z0-9]{32}",
}


@cache
def _key_marks_expression() -> Any:
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # a byte a character: text need not be decoded
    options.never_capture = True
    options.max_mem = 64 << 20
    return re2.compile("|".join(KEY_MARKS.values()).encode(), options)


def key_marks(data: _Bytes) -> _Int64s:
    """Find the marks of known kinds of key: int64 [k, 2] spans of `data`, ordered and disjoint.

    A mark swallowed by another on the same line is not told apart: a line is what a key detector is shown. Of a mark
    longer than MAX_KEY_CONTEXT its beginning is given.
    """
    matches = [match.span() for match in _key_marks_expression().finditer(data.data)]
    spans = np.array(matches, np.int64).reshape(-1, 2)
    return np.minimum(spans, spans[:, :1] + MAX_KEY_CONTEXT)


@njit(cache=True, nogil=True)
def _lines_around(data: _Bytes, spans: _Int64s, lines: _Int64s) -> None:
    for row in range(len(spans)):
        start, stop = spans[row]
        if row > 0:
            seen_start, seen_stop = lines[row - 1]
            ends_there = seen_stop < len(data) and data[seen_stop] == NEWLINE
            if seen_start <= start and (stop + MIN_KEY_CONTEXT <= seen_stop or (ends_there and stop <= seen_stop)):
                lines[row, 0], lines[row, 1] = seen_start, seen_stop
                continue
        first, last = max(start - MAX_KEY_CONTEXT, 0), min(stop + MAX_KEY_CONTEXT, len(data))
        while start > first and data[start - 1] != NEWLINE:
            start -= 1
        while stop < last and data[stop] != NEWLINE:
            stop += 1
        start, stop = _at_characters(data, start, stop)
        lines[row, 0], lines[row, 1] = start, stop


def lines_around(data: _Bytes, spans: _Int64s) -> _Int64s:
    """Widen ordered spans to the lines they stand on, or to MAX_KEY_CONTEXT bytes of it: int64 [m, 2], ordered, no two equal.

    A span with MIN_KEY_CONTEXT bytes after it in the window of the one before is shown there: no text is read often.
    """
    lines = np.empty_like(spans)
    _lines_around(data, spans, lines)
    return np.unique(lines, axis=0) if len(lines) else lines
