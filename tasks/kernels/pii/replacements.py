"""Synthetic values to stand where personal ones stood, fixed by a seed, the document and the value.

Source: bigcode-project/bigcode-dataset, pii/pii_redaction.py, which draws ten e-mail addresses, ten keys and one of five
private IP addresses of each family at random. Here a hash of (seed, document, value) draws, so a document is rewritten
alike whatever stands beside it, and no list of random values has to be kept.
Guarantee: the same value has the same replacement throughout a document. Cost: a hash a value.
"""

from __future__ import annotations

import hashlib
import string
from functools import cache

SYNTHETIC_IPS = {
    4: ("172.16.31.10", "172.16.58.3", "172.16.17.32", "192.168.127.12", "192.168.3.11"),
    6: (
        "fd00:c2b6:b24b:be67:2827:688d:e6a1:6a3b",
        "fd00:a516:7c1b:17cd:6d81:2137:bd2a:2c5b",
        "fc00:e968:6179::de52:7100",
        "fc00:db20:35b:7399::5",
        "fdf8:f53e:61e4::18",
    ),
}
NUM_SYNTHETIC = 10
SYNTHETIC_FORMS = {
    # entity: (random characters, of which alphabet, what follows them)
    "EMAIL": (5, string.ascii_lowercase, "@example.com"),
    "KEY": (32, string.ascii_lowercase + string.digits, ""),
}


@cache
def synthetic_values(entity: str, seed: int) -> tuple[str, ...]:
    """Return the ten e-mail addresses or keys of a seed."""
    length, alphabet, end = SYNTHETIC_FORMS[entity]
    draws = [hashlib.blake2b(f"{seed} {entity} {number}".encode(), digest_size=length).digest() for number in range(NUM_SYNTHETIC)]
    return tuple("".join(alphabet[byte % len(alphabet)] for byte in draw) + end for draw in draws)


def replacement(entity: str, value: bytes, doc_id: str, *, seed: int, placeholders: bool) -> bytes:
    """Return the replacement of a value.

    Args:
        entity: EMAIL, KEY or IP_ADDRESS.
        value: what is replaced.
        doc_id: of its document.
        seed: of the draw.
        placeholders: whether e-mail addresses and keys become `<EMAIL>` and `<KEY>`, as in StarPII (IP addresses there
            are private ones as well).
    """
    if placeholders and entity in SYNTHETIC_FORMS:
        return f"<{entity}>".encode()
    pool = SYNTHETIC_IPS[6 if b":" in value else 4] if entity == "IP_ADDRESS" else synthetic_values(entity, seed)
    draw = hashlib.blake2b(f"{seed} {doc_id} ".encode() + value, digest_size=8).digest()
    return pool[int.from_bytes(draw, "little") % len(pool)].encode()
