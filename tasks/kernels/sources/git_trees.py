"""Trees and files of a Git repository, read from its object database without a checkout, each object checked against its hash.

Guarantee: objects that are damaged, missing or hostile (a tree that names itself ten times at each of ten levels, names with slashes,
the same name twice) are left out or refused with the reason; nothing is followed out of the tree. Cost: 60 MB/s a core and
more, most of it inflating deltas; memory of one file and the trees on the way to it.
"""

import posixpath
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from starloom.tasks.kernels.sources.languages import may_tell_language
from starloom.tasks.kernels.sources.swhids import ObjectKind, object_id
from starloom.tasks.kernels.sources.units import SourceError

if TYPE_CHECKING:
    import pygit2

TREE, LINK, SUBMODULE = 0o040000, 0o120000, 0o160000
_FORMAT = 0o170000
_MAX_PATH_BYTES = 4096
_MAX_FILES = 10_000_000
_MAX_LINKS = 8
_KINDS: dict[int, ObjectKind] = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_LINK_BYTES = 4096


class Entry(NamedTuple):
    """An entry of a tree."""

    name: bytes
    mode: int
    id: str


class TreeFile(NamedTuple):
    """A file, link or submodule of a tree, or whatever else stands in it; `rule` says why it cannot be one."""

    path: str
    mode: int
    id: str
    rule: str | None = None
    detail: str | None = None


class MissingObject(Exception):  # noqa: N818 - an object that is not there: how bad that is depends on which
    """An object that is not in the repository, or damaged."""


class Objects:
    """The objects of an open repository."""

    def __init__(self, repository: "pygit2.Repository") -> None:
        import pygit2

        pygit2.settings.enable_strict_hash_verification(False)  # noqa: FBT003 - done below, ten times as fast
        self._read = repository.read
        self._header = repository.odb.read_header
        self._errors = (KeyError, ValueError, pygit2.GitError)
        self._id = pygit2.Oid

    def read(self, name: str, kind: ObjectKind) -> bytes:
        """Return the bytes of an object.

        Raises:
            MissingObject: it is not there, damaged, or of another kind.
        """
        try:
            number, data = self._read(self._id(hex=name))
        except self._errors as error:
            raise MissingObject(f"{kind} {name} is not in the repository, or cannot be read") from error
        if _KINDS.get(int(number)) != kind or object_id(kind, data) != name:
            raise MissingObject(f"{kind} {name} is damaged")
        return data

    def size(self, name: str) -> int:
        """Return the bytes of an object, without reading it.

        Raises:
            MissingObject: it is not there.
        """
        try:
            return int(self._header(self._id(hex=name))[1])
        except self._errors as error:
            raise MissingObject(f"object {name} is not in the repository, or cannot be read") from error

    def tree(self, name: str) -> list[Entry]:
        """Return the entries of a tree, in its order.

        Raises:
            MissingObject: it is not there, or no tree.
        """
        data, entries, start = self.read(name, "tree"), [], 0
        try:
            while start < len(data):
                end = data.index(b"\0", start)
                mode, _, label = data[start:end].partition(b" ")
                start = end + 21
                entries.append(Entry(label, int(mode, 8) & _FORMAT, data[end + 1 : start].hex()))
        except ValueError as error:
            raise MissingObject(f"tree {name} is damaged") from error
        return entries


def measure(objects: Objects, root: str) -> int:
    """Return the bytes of files with a known language, by their names alone, of a tree: what parts are cut by.

    Raises:
        SourceError: it has more files than a repository may.
        MissingObject: a tree or the size of a file is not there.
    """
    found: dict[str, tuple[int, int]] = {}
    todo = [root]
    while todo:
        entries = objects.tree(todo[-1])
        below = [entry.id for entry in entries if entry.mode == TREE and entry.id not in found]
        if below:
            todo += below
            continue
        files = [entry for entry in entries if entry.mode not in (TREE, SUBMODULE)]
        known = (entry.id for entry in files if may_tell_language(_text(entry.name)))
        inner = [found[entry.id] for entry in entries if entry.mode == TREE]
        found[todo.pop()] = sum(map(objects.size, known)) + sum(size for size, _ in inner), len(files) + sum(count for _, count in inner)
    num_bytes, num_files = found[root]
    if num_files > _MAX_FILES:
        raise SourceError(f"a tree with {num_files:,} files is more than {_MAX_FILES:,}", "leave the repository out")
    return num_bytes


def walk(objects: Objects, root: str) -> Iterator[TreeFile]:
    """Yield all that stands in a tree and the trees below it, in the order of paths, but the trees themselves.

    Raises:
        MissingObject: a tree is not there.
    """
    todo = [TreeFile("", TREE, root)]
    while todo:
        file = todo.pop()
        if file.mode != TREE or file.rule is not None:
            yield file
            continue
        seen: set[bytes] = set()
        above = file.path + "/" if file.path else ""
        inner = []
        for entry in objects.tree(file.id):
            inner.append(_placed(above, entry, seen))
            seen.add(entry.name)
        todo += reversed(inner)


def _placed(above: str, entry: Entry, seen: set[bytes]) -> TreeFile:
    path = above + _text(entry.name)
    rule, detail = None, None
    if len(path) > _MAX_PATH_BYTES:
        path, rule, detail = path[:_MAX_PATH_BYTES], "undecodable-path", f"a path of more than {_MAX_PATH_BYTES} characters"
    elif b"/" in entry.name or entry.name in (b"", b".", b".."):
        rule, detail = "undecodable-path", "a name that no file can have"
    elif entry.name in seen:
        rule = "repeated-path"
    elif path != above + entry.name.decode("utf-8", "replace"):
        rule = "undecodable-path"
    return TreeFile(path, entry.mode, entry.id, rule, detail)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def resolve_link(objects: Objects, root: str, link: TreeFile) -> tuple[str, TreeFile | None]:
    """Return what a link says, and the file of the same tree that it leads to, through other links too; None if none.

    Raises:
        MissingObject: an object on the way is not there.
    """
    said, file = "", link
    for _ in range(_MAX_LINKS):
        if objects.size(file.id) > _LINK_BYTES:
            return said, None
        target = _text(objects.read(file.id, "blob"))
        said = said or target
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), target))
        inner = None if target.startswith("/") or path.startswith("..") else _find(objects, root, path)
        if inner is None or inner.mode in (TREE, SUBMODULE):
            return said, None
        if inner.mode != LINK:
            return said, inner
        file = inner
    return said, None


def _find(objects: Objects, root: str, path: str) -> TreeFile | None:
    mode, name = TREE, root
    for step in path.encode("utf-8", "surrogateescape").split(b"/"):
        entries = {entry.name: entry for entry in objects.tree(name)} if mode == TREE else {}
        if step not in entries:
            return None
        _, mode, name = entries[step]
    return TreeFile(path, mode, name)
