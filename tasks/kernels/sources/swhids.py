"""Software Heritage identifiers, which for files, directories and revisions are Git's hashes.

Source: SWHID specification 1.2 (ISO/IEC 18670). A content is a Git blob, a directory a tree, a revision a commit; a snapshot, all
branches of a repository as they were once, has a serialisation of its own.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal

ObjectKind = Literal["blob", "tree", "commit", "tag", "snapshot"]


def object_id(kind: ObjectKind, data: bytes) -> str:
    """Return Git's hash of an object, in hex: of its kind, its length and its bytes."""
    state = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)), usedforsecurity=False)
    state.update(data)
    return state.hexdigest()


def snapshot_id(branches: Mapping[bytes, tuple[str, bytes]]) -> str:
    """Return the hash of a snapshot, in hex.

    Args:
        branches: name → (kind of its target, target): a hash of 20 bytes for `revision`, `release`, `directory` and `content`, the
            name of another branch for `alias`, nothing for `dangling`.
    """
    lines = (
        b"%s %s\0%d:%s" % (kind.encode(), name, len(target), target)
        for name, (kind, target) in sorted(branches.items(), key=lambda b: b[0])
    )
    return object_id("snapshot", b"".join(lines))
