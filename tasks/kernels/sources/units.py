"""Units of sources: what is planned, cut into parts and read as a whole.

A unit is a repository at a revision, an archive, or a piece of a table. What a plan must know of it is small, whatever lies in it:
its name, the digest of what will be read, about how many bytes that is. How it is found again on this machine is a matter of
its kind and no part of its identity.
Guarantee: equal digests, equal rows; parts are a pure function of the set of units.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

Cache = dict[str, list[Any]]
"""What was found out before, so that it is not read again: a key of the kind's own → JSON values, the last of which is the fact.

Of a local file: its path → [size, mtime_ns, ctime_ns, inode, blob hash]. Other kinds begin their keys with their name and a colon."""


class SourceError(Exception):
    """A source that cannot be read; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Unit(Protocol):
    """A thing that is read as a whole, by the reader of its class; a frozen dataclass that can be sent to another process."""

    @property
    def source(self) -> str:
        """Name of the source, as its rows bear it."""

    @property
    def repo(self) -> str:
        """Name of the repository, or of the piece of a table; with `source` it is unique, and decides the part."""

    @property
    def num_bytes(self) -> int:
        """Bytes that will be read, or nearly: parts are cut by it."""

    @property
    def digest(self) -> str:
        """Hash of the contents, or of the revision that pins them, and of whatever else shapes its rows; no path of this machine."""

    @property
    def note(self) -> str | None:
        """Message for whoever plans or runs, on how it was taken; no part of its identity."""


def partition(units: Iterable[Unit], part_bytes: int) -> list[list[Unit]]:
    """Partition units into parts: a part is a prefix of the hash of (source, name); one over the limit splits in two.

    A pure function of the set: adding a unit changes only the part that it falls into. A unit is never cut, so one that is
    over the limit by itself is a part by itself.
    """
    keyed = sorted(((hash_of(unit.source, unit.repo), unit) for unit in units), key=lambda pair: (pair[0], pair[1].digest))
    return list(_split(keyed, 0, part_bytes)) if keyed else []


def _split(keyed: Sequence[tuple[bytes, Unit]], depth: int, part_bytes: int) -> Iterator[list[Unit]]:
    """Return parts of units that share the first `depth` bits of their hash."""
    if sum(unit.num_bytes for _, unit in keyed) <= part_bytes or keyed[0][0] == keyed[-1][0]:
        yield [unit for _, unit in keyed]
        return
    ones = [pair for pair in keyed if pair[0][depth // 8] >> (7 - depth % 8) & 1]
    for half in (keyed[: len(keyed) - len(ones)], ones):
        if half:
            yield from _split(half, depth + 1, part_bytes)


def document_id(source: str, repo: str, revision: str | None, path: str) -> str:
    """Return the first 128 bits of the SHA-256 of the four, in hex."""
    return hash_of(source, repo, revision, path).hex()[:32]


def hash_of(*fields: str | None) -> bytes:
    """Return the SHA-256 of fields, each with its length in front, so that no two lists of fields are written alike."""
    encoded = (None if field is None else field.encode() for field in fields)
    return hashlib.sha256(b"".join(b"-1:" if field is None else b"%d:%b" % (len(field), field) for field in encoded)).digest()
