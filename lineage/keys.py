"""Canonical bytes of values, and their hashes. Values without canonical bytes are refused."""

from __future__ import annotations

import hashlib
import json
import math
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = 1 << 20


def canonical(value: object) -> bytes:
    """Return the canonical JSON of `value`: sorted keys, no spaces, UTF-8.

    Raises:
        TypeError: for anything whose bytes would depend on the process or machine (objects, sets, paths, NaN).
    """
    _refuse_unstable(value, "value")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def digest(value: object) -> str:
    """Return the SHA-256, in hex, of the canonical bytes of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of a local file; the same as `sha256sum`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stream_digest(file: IO[bytes]) -> str:
    """Return the SHA-256, in hex, of the rest of a stream."""
    running = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        running.update(chunk)
    return running.hexdigest()


def _refuse_unstable(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}, which has no stable bytes")
        return
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _refuse_unstable(item, f"{where}[{position}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; only strings have a canonical JSON form")
            _refuse_unstable(item, f"{where}.{key}")
        return
    raise TypeError(f"{where} is a {type(value).__name__}, which has no stable bytes; give text, numbers, lists or mappings")
