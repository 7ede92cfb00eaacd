r"""Rules that decide which finding of a detector is personal, and where exactly in the text it lies.

The detectors (Presidio, detect-secrets) are made for prose and for audits by people; run on source code they find
array slices, format strings, test vectors and checksums. These rules are StarCoder's (bigcode-project/bigcode-dataset:
pii/utils/emails_ip_addresses_detection.py, pii/utils/keys_detection.py, pii/pii_redaction.py) with these differences:

- The gibberish score uses the model of letter pairs that detect-secrets ships (`rfc.model`) at its limit of 3.7, in
  place of one trained on `big.txt` at 4.0. Of random Base64 strings of 40 characters it recognises 98.9 % (97.8 %), of
  AWS key ids 92 % (80 %), with the same false alarms. `gibberish-detector`, the package that evaluates such models,
  is a ten-line sum without a release since 2021.
- Hexadecimal digits have too few letters to tell: both models accept 32 to 54 % of random ones. They are not scored
  (as in detect-secrets itself).
- Keys of a kind that names itself (`ghp_...`, `AKIA...`) need no further evidence: see WEAK_KINDS.
- A file that mentions hashes loses only what looks like a digest, not every key, and `shape` is no longer `sha`.
- Only a day and a month that exist make a date: 12.34.56.78 is an address.
- Addresses are cut out of the code around them: `email=jane@...`, `f'jane@...`, `\njane@...`.

Cost: called for the few findings, not for the text.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import string
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

POPULAR_DNS_SERVERS = (
    "8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "76.76.19.19", "76.223.122.150", "9.9.9.9", "149.112.112.112",
    "208.67.222.222", "208.67.220.220", "8.26.56.26", "8.20.247.20", "94.140.14.14", "94.140.15.15",
)  # fmt: skip
"""Addresses of public services, kept (bigcode-dataset: pii/pii_redaction.py)."""

RESERVED_EMAIL_DOMAINS = ("example.com", "example.net", "example.org", "example.edu")
"""Domains reserved for documentation (RFC 2606), never PII; StarCoder's own replacements among them."""

SERVICE_EMAILS = ("git@github.com", "git@gitlab.com", "git@bitbucket.org", "noreply@github.com")
"""What stands before the colon of an SSH remote is a shared login, not PII."""

WEAK_KINDS = frozenset(
    {"Base64HighEntropyString", "HexHighEntropyString", "ArtifactoryDetector", "DiscordBotTokenDetector", "IbmCloudIamDetector"}
)
"""Plugins of detect-secrets that also accept identifiers and checksums: the gibberish and the hash rule judge them."""

WHOLE_MATCH_KINDS = frozenset({"GitHubTokenDetector"})
"""Plugins whose expression has a group that is not the secret: detect-secrets 1.5 reports `ghp` for a whole token."""

SECRET_WITHIN = {
    "ArtifactoryDetector": re.compile(r"A[KP]\w+"),
    "AzureStorageKeyDetector": re.compile(r"(?<=AccountKey=).+"),
    "NpmDetector": re.compile(r"[\w-]+"),
}
"""Plugins that report delimiters, the name or the rest of the line with the secret: where in it the secret lies."""

SECRET_GOES_ON = {"JwtTokenDetector": re.compile(r"[\w-]*", re.ASCII)}
"""Plugins whose expression ends too early: detect-secrets 1.5 leaves the signature of a JSON web token behind."""

BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
"""Ends an address as a space does: Chinese puts none there, and Presidio's expressions ask for a word's end."""

HASH_WORDS = ("sha", "md5", "hash", "byte", "checksum", "digest", "rev", "commit", "etag")
"""The first four are StarCoder's."""
STARCODER_DIGEST_LENGTHS = (32, 40, 64)
HEX_DIGEST_LENGTHS = (32, 40, 48, 56, 64, 96, 128)
BASE64_DIGEST_LENGTHS = (24, 28, 44, 88)

_HASH_WORD = re.compile(rb"(?<![a-z])(?:sha[0-9]*|md5|hash(?:es)?|checksums?|digests?)(?![a-z])", re.IGNORECASE)
_SUBRESOURCE_INTEGRITY = re.compile(r"sha\d{3}-")
_DAY, _MONTH = r"(?:0[1-9]|[12][0-9]|3[01])", r"(?:0[1-9]|1[0-2])"
_DATE = re.compile(rf"(?:{_DAY}[./]{_MONTH}|{_MONTH}[./]{_DAY})[./](?:[0-9]{{2}}|[12][0-9]{{3}})(?:$|[.:])")
"""Of a day and a month that exist; StarCoder's also takes 12.34.56.78 for a date."""
_VERSION = re.compile(r"\d\.\d\.\d\.\d")
_TEMPLATE_END = re.compile(r"(?:\}|%[a-z])$")
_LOCAL_PART = re.compile(r"[\w.+-]*$")
_ESCAPE_REST = re.compile(r"u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[abfnrtv0]")

PairScores = dict[str, dict[str, float]]


def email_span(text: str, start: int, end: int, *, after_backslash: bool) -> tuple[int, int] | None:
    """Cut an address out of what Presidio matched, or refuse it.

    Presidio follows RFC 5322, where `email=jane` and `f'jane` are fine names of mailboxes.

    Args:
        text: the token.
        start: of the match in the token.
        end: of the match in the token.
        after_backslash: whether a backslash stands right before the token, so that its first letters are an escape's.

    Returns:
        The span of the address, or None for a placeholder such as `{user}@host` and `%s@host`.
    """
    at = text.index("@", start, end)
    if _TEMPLATE_END.search(text[:at]):
        return None
    name = _LOCAL_PART.search(text[start:at])
    assert name is not None
    start += name.start()
    if start == 0 and after_backslash and (escape := _ESCAPE_REST.match(text)):
        start = min(escape.end(), at)
    start = at - len(text[start:at].lstrip(".+-"))
    return (start, end) if start < at else None


CONFIG_PATHS = r"(?:^|/)\.?env(?:\.[^/]*)?$|(?:\.|/\.?)(?:env|ini|cfg|conf|cnf|properties|ya?ml|toml|npmrc|pypirc|netrc)$"
"""Paths of settings files, where values need no quotes, as an RE2 expression."""


def is_kept_email(address: str, kept: tuple[str, ...], kept_domains: tuple[str, ...]) -> bool:
    """Return whether an address is no PII: a service's, or of a reserved domain or one below it."""
    address = address.lower()
    domain = address.rpartition("@")[2]
    return address in kept or any(domain == reserved or domain.endswith("." + reserved) for reserved in kept_domains)


def bare_address(value: str) -> str:
    """Take the mask and the zone off an IP address: only the address identifies."""
    return value.partition("/")[0].partition("%")[0]


def is_personal_ip(value: str, around: str, kept: tuple[str, ...]) -> bool:
    """Return whether an IP address can identify a person.

    Args:
        value: the address, bare.
        around: 100 characters either side.
        kept: addresses of public services.
    """
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    nobodys = address.is_private or address.is_reserved or address.is_multicast or address.is_loopback or address.is_link_local
    if nobodys or str(address) in kept or _DATE.match(value):
        return False
    is_version = _VERSION.fullmatch(value) is not None
    return not is_version or any(word in around.lower() for word in ("dns", "server"))


def pair_scores(model: str) -> PairScores:
    """Read a model of letter pairs: letter → next letter → negative logarithm of its probability.

    Args:
        model: JSON as `gibberish-detector` writes it, with "counts".
    """
    counts: Mapping[str, Mapping[str, int]] = json.loads(model)["counts"]
    return {a: {b: -math.log(count / sum(row.values())) for b, count in row.items()} for a, row in counts.items()}


def gibberish_score(value: str, scores: PairScores) -> float:
    """Average over pairs of neighbouring letters, others left out; the higher, the less like words."""
    letters = [character for character in value.lower() if character in scores]
    pairs = [scores[a][b] for a, b in pairwise(letters)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def is_hex(value: str) -> bool:
    """Return whether there are only hexadecimal digits (and hyphens)."""
    return not set(value) - set(string.hexdigits + "-")


def is_hash(value: str, line_before: str, *, file_speaks_of_hashes: bool) -> bool:
    """Return whether a string is a digest rather than a key, by its length and the words around it."""
    if _SUBRESOURCE_INTEGRITY.match(value):
        return True
    if len(value) in STARCODER_DIGEST_LENGTHS and any(word in line_before.lower() for word in HASH_WORDS):
        return True
    is_digest = len(value) in HEX_DIGEST_LENGTHS if is_hex(value) else len(value) in BASE64_DIGEST_LENGTHS and value.endswith("=")
    return is_digest and file_speaks_of_hashes


def mentions_hashes(content: bytes, max_fraction: float) -> bool:
    """Return whether words for hashes are more frequent than this fraction of the number of lines."""
    return len(_HASH_WORD.findall(content)) > max_fraction * (content.count(b"\n") + 1)


def is_word_like(value: str, scores: PairScores, gibberish_limit: float, min_hex_length: int) -> bool:
    """Return whether a string is like words, or is hexadecimal and short like an identifier."""
    if is_hex(value):
        return len(value) < min_hex_length
    return gibberish_score(value, scores) <= gibberish_limit
