"""Places of Git repositories: paths and addresses as people write them, folders of repositories, mirrors of what is far away.

Guarantee: an address is recorded without user, password and query; a mirror is fetched into, never checked out, by one process at a
time, and only if the commit that is asked for is not in it.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from starloom.tasks.kernels.sources.units import SourceError

if TYPE_CHECKING:
    import pygit2

_SCHEMES = frozenset({"https", "http", "ssh", "git", "file"})
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)/(.*)", re.DOTALL)
_SCP = re.compile(r"([\w.-]+@)?([\w.-]+):(?!//)(.+)", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_DEPTH = 3


class Place(NamedTuple):
    """The place of a repository, and the revision that is wanted of it."""

    address: str
    """A path or an address."""
    name: str
    revision: str | None
    is_remote: bool

    @property
    def public(self) -> str | None:
        """The address as it may be published; None for a path."""
        return public_address(self.address) if self.is_remote else None


def parse_place(word: str, folder: str) -> Place:
    """Return the place that `PATH`, `URL`, `PATH@REVISION` or `URL@REVISION` names.

    Args:
        word: as written.
        folder: that a relative path begins at.

    Raises:
        SourceError: for an address that cannot be fetched from.
    """
    url = _URL.fullmatch(word)
    scp = None if url or os.path.exists(os.path.join(folder, word)) else _SCP.fullmatch(word)
    if url or scp:
        scheme, host, path = url.groups() if url else ("ssh", f"{scp[1] or ''}{scp[2]}" if scp else "", scp[3] if scp else "")
        if scheme.lower() not in _SCHEMES:
            raise SourceError(f"{scheme}:// is no address that Git can fetch from", f"use one of {', '.join(sorted(_SCHEMES))}, or a path")
        path, _, revision = path.partition("@")
        address = f"{scheme}://{host}/{path}" if url else f"{host}:{path}"
        inner = path.strip("/").removesuffix(".git")
        return Place(address, inner.rpartition("/")[2] if scheme == "file" else inner, revision or None, is_remote=True)
    path, revision = os.path.join(folder, os.path.expanduser(word)), ""
    if not os.path.exists(path) and "@" in word:
        path, _, revision = path.rpartition("@")
    path = os.path.abspath(path)
    return Place(path, _name_of(path), revision or None, is_remote=False)


def _name_of(path: str) -> str:
    base = os.path.basename(path)
    name = os.path.basename(os.path.dirname(path)) if base == ".git" else base.removesuffix(".git")
    return os.fsencode(name).decode("utf-8", "backslashreplace") or "root"


def public_address(address: str) -> str | None:
    """Return an address without user, password, query and `.git`; None for one that only this machine has."""
    scp = None if "://" in address else _SCP.fullmatch(address)
    if scp:
        return f"ssh://{scp[2]}/{scp[3].strip('/').removesuffix('.git')}"
    parts = urlsplit(address)
    if parts.scheme.lower() not in _SCHEMES - {"file"} or not parts.hostname:
        return None
    with contextlib.suppress(ValueError):
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme.lower()}://{parts.hostname}{port}/{parts.path.strip('/').removesuffix('.git')}"
    return None


def is_repository(path: str) -> bool:
    """Return whether a folder is a work tree or a bare repository."""
    inside = {name for name in (".git", "HEAD", "objects", "refs") if os.path.exists(os.path.join(path, name))}
    return ".git" in inside or {"HEAD", "objects", "refs"} <= inside


def find_repositories(place: Place) -> tuple[list[Place], list[str]]:
    """Return the repositories at a path, itself or those below it by their relative paths, and the child folders without any.

    Raises:
        SourceError: there is no such folder, or no repository in it.
    """
    if not os.path.isdir(place.address):
        why = "is not a folder" if os.path.exists(place.address) else "does not exist"
        raise SourceError(f"the repository {place.address} {why}", "name a clone, a bare repository, or a folder of these")
    if is_repository(place.address):
        return [place], []
    found, without = [], []
    for entry in sorted(os.scandir(place.address), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            below = list(_below(entry.path, _MAX_DEPTH))
            found += [Place(path, _relative(path, place.address), place.revision, is_remote=False) for path in below]
            without += [] if below else [os.fsencode(entry.name).decode("utf-8", "backslashreplace")]
    if not found:
        raise SourceError(
            f"no Git repository is in {place.address}", "name a clone or bare repository, or read plain folders by `kind: directory`"
        )
    return found, without


def _below(path: str, depth: int) -> Iterator[str]:
    if is_repository(path):
        yield path
    elif depth > 1:
        with contextlib.suppress(OSError):  # a folder that is not ours to read holds nothing for us
            for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(entry.path, depth - 1)


def _relative(path: str, above: str) -> str:
    return os.fsencode(os.path.relpath(path, above)).decode("utf-8", "backslashreplace").removesuffix(".git")


def open_repository(path: str) -> "pygit2.Repository":
    """Open a repository, whoever owns it: it is only read.

    Raises:
        SourceError: it cannot be opened.
    """
    import pygit2

    pygit2.settings.owner_validation = False
    try:
        return pygit2.Repository(path)
    except (pygit2.GitError, ValueError, KeyError) as error:
        raise SourceError(f"the repository {path} cannot be opened: {error}", "check it with `git fsck`, or leave it out") from error


def fetch_mirror(place: Place, mirrors: str) -> tuple[str, str | None]:
    """Bring the mirror of a remote repository up to the revision that is asked for.

    Args:
        place: a remote one.
        mirrors: folder of all mirrors.

    Returns:
        Its path, and the commit or tag object that the revision names there; None: it names none.

    Raises:
        SourceError: it cannot be reached.
    """
    import pygit2

    path = os.path.join(mirrors, hashlib.sha256(place.address.encode()).hexdigest()[:16] + ".git")
    os.makedirs(mirrors, exist_ok=True)
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        repository = open_repository(path) if is_repository(path) else pygit2.init_repository(path, bare=True)
        if place.revision and _COMMIT.fullmatch(place.revision) and place.revision in repository:
            return path, place.revision
        shown = place.public or place.address
        try:
            remote = repository.remotes.create_anonymous(place.address)
            callbacks = _callbacks()
            heads = {head.name: str(head.oid) for head in remote.list_heads(callbacks=callbacks) if head.name}
            wanted = _named(heads, place.revision)
            if wanted is None or wanted not in repository:
                remote.fetch(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"], callbacks=callbacks)
        except (pygit2.GitError, OSError, KeyError, ValueError) as error:
            hint = "check the address, or pin it as URL@COMMIT: a commit that was fetched once needs no network"
            raise SourceError(f"{shown} cannot be fetched: {_without(str(error), place.address)}", hint) from error
        return path, wanted


def _without(message: str, address: str) -> str:
    user = urlsplit(address).netloc.rpartition("@")[0] if "://" in address else ""
    return message.replace(user + "@", "") if user else message


def _named(heads: dict[str, str], revision: str | None) -> str | None:
    if revision is None:
        return heads.get("HEAD")
    if _COMMIT.fullmatch(revision):
        return revision
    return next(
        (heads[name] for name in (revision, f"refs/{revision}", f"refs/tags/{revision}", f"refs/heads/{revision}") if name in heads), None
    )


def _callbacks() -> Any:
    import pygit2

    return pygit2.RemoteCallbacks(credentials=pygit2.KeypairFromAgent("git"))
