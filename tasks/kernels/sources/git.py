"""Git repositories at a revision, each read from its object database: no checkout, nothing written beside a mirror.

Guarantee: a repository is pinned to a commit; equal commits of one name give equal rows. Cost: planning an unchanged repository opens it
and looks a ref up; a commit that is new is walked once for the size of its files.
"""

import datetime
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starloom.tasks.kernels.sources.contents import Batch, Collector
from starloom.tasks.kernels.sources.files import FileSnapshot, RepositorySnapshot, listed
from starloom.tasks.kernels.sources.git_places import (
    Place,
    fetch_mirror,
    find_repositories,
    open_repository,
    parse_place,
    public_address,
)
from starloom.tasks.kernels.sources.git_trees import (
    LINK,
    SUBMODULE,
    MissingObject,
    Objects,
    TreeFile,
    measure,
    resolve_link,
    walk,
)
from starloom.tasks.kernels.sources.languages import classify, may_tell_language
from starloom.tasks.kernels.sources.swhids import snapshot_id
from starloom.tasks.kernels.sources.units import Cache, SourceError, hash_of

if TYPE_CHECKING:
    import pygit2

_DETAIL = 200


@dataclass(frozen=True)
class GitRevision:
    """A repository at a commit. `path` and `mirror_of` are where it lies now, and no part of its identity."""

    source: str
    repo: str
    revision: str
    """The commit."""
    tree: str
    """Its root directory."""
    url: str | None
    """Where it is published, without user and password."""
    authored_at: int
    """Seconds since 1970, UTC."""
    num_bytes: int
    """Of the files with a known language."""
    digest: str
    path: str
    mirror_of: str | None = None
    snapshot: str | None = None
    """Hash of all its branches as they were when it was listed; no part of its identity."""
    note: str | None = None

    @property
    def swhids(self) -> list[str]:
        """Identifiers of its directory, revision and snapshot."""
        known = [f"swh:1:dir:{self.tree}", f"swh:1:rev:{self.revision}"]
        return known if self.snapshot is None else [*known, f"swh:1:snp:{self.snapshot}"]


# ---- listing


def list_git(
    words: Sequence[tuple[str, str]],
    cache: Cache,
    *,
    source: str,
    revision: str | None = None,
    date: datetime.datetime | None = None,
    mirrors: str,
) -> Iterator[GitRevision | RepositorySnapshot]:
    """Yield the repositories at some places; one that cannot be read is listed as a file "." that is left out, unless it is the only one.

    Args:
        words: paths and addresses, each with an optional `@REVISION`, and the folder that a relative path begins at.
        cache: brought up to date.
        source: what to call it.
        revision: branch, tag or commit, where a word names none; None: HEAD.
        date: take the last commit that was made before; None: the revision itself.
        mirrors: folder for the mirrors of remote repositories.

    Raises:
        SourceError: none of them can be read; the first one's reason.
    """
    first_error, num_read, failed = None, 0, []
    for place, error in _places(words):
        try:
            if error:
                raise error
            yield _listed(place._replace(revision=place.revision or revision), cache, source, date, mirrors)
            num_read += 1
        except SourceError as why:
            first_error = first_error or why
            failed.append((place, why))
    if first_error is not None and not num_read:
        raise first_error
    yield from (_left_out(place, why, source) for place, why in failed)


def read_list(path: str) -> list[str]:
    """Return the lines of a file of repositories, without empty lines and those that begin with #.

    Raises:
        SourceError: it cannot be read, or names nothing.
    """
    hint = "write a path or an address on each line, with an optional @REVISION"
    try:
        with open(path, encoding="utf-8") as stream:
            words = [line.strip() for line in stream if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the list of repositories {path} cannot be read: {error}", hint) from error
    if not words:
        raise SourceError(f"the list of repositories {path} names none", hint)
    return words


def _places(words: Sequence[tuple[str, str]]) -> Iterator[tuple[Place, SourceError | None]]:
    """Yield the repositories that words lead to, or why there is none."""
    for word, folder in words:
        place = Place(word, os.path.basename(word.rstrip("/")) or word, None, is_remote=True)
        try:
            place = parse_place(word, folder)
            found, without = ([place], []) if place.is_remote else find_repositories(place)
        except SourceError as error:
            yield place, error
            continue
        yield from ((each, None) for each in found)
        hint = "read plain folders by `kind: directory`"
        yield from ((place._replace(name=name), SourceError("no Git repository is in this folder", hint)) for name in without)


def _listed(place: Place, cache: Cache, source: str, date: datetime.datetime | None, mirrors: str) -> GitRevision:
    path, wanted, url = place.address, place.revision, place.public
    if place.is_remote:
        path, named = fetch_mirror(place, mirrors)
        wanted = named or wanted
    repository = open_repository(path)
    try:
        if not place.is_remote:
            url = _origin(repository)
        commit = _resolve(repository, place, wanted, date, cache)
        tree, authored_at, num_bytes = _facts(repository, commit, cache)
        snapshot = _snapshot_of(repository)
    finally:
        repository.free()
    digest = hash_of("git", source, place.name, commit, url).hex()
    remote = place.address if place.is_remote else None
    return GitRevision(source, place.name, commit, tree, url, authored_at, num_bytes, digest, path, remote, snapshot)


def _left_out(place: Place, why: SourceError, source: str) -> RepositorySnapshot:
    """Return a repository that cannot be read as a file that is left out; its reason without paths of this machine."""
    reason = str(why).replace(place.address, place.public or place.name)
    detail = " ".join(reason.split())[:_DETAIL]
    file = FileSnapshot(".", "", 0, None, "unreadable-repository", detail)
    unit = listed(source, place.name, [file], root="")
    return RepositorySnapshot(**{**vars(unit), "note": f"{place.name} of the source {source} is left out: {detail}"})


def _origin(repository: "pygit2.Repository") -> str | None:
    names = list(repository.remotes.names())
    name = "origin" if "origin" in names else names[0] if names else None
    url = repository.remotes[name].url if name else None
    return public_address(url) if url else None


def _resolve(repository: "pygit2.Repository", place: Place, wanted: str | None, date: datetime.datetime | None, cache: Cache) -> str:
    """Return the commit that a revision, and a date, name.

    Raises:
        SourceError: there is none.
    """
    import pygit2

    where = f"the repository {place.public or place.address}"
    if wanted is None and repository.head_is_unborn:
        raise SourceError(f"{where} has no commit at HEAD", "name a branch, a tag or a commit as its revision")
    try:
        tip = str(repository.revparse_single(wanted or "HEAD").peel(pygit2.Commit).id)
    except (KeyError, ValueError, pygit2.GitError) as error:
        raise SourceError(f"{where} has no commit {wanted or 'HEAD'}: {error}", _near(repository, wanted or "HEAD")) from error
    if date is None:
        return tip
    key = f"git:{tip}@{int(date.timestamp())}"
    if key not in cache:
        found = _last_before(repository, tip, date.timestamp())
        if found is None:
            raise SourceError(f"{where} has no commit before {date.isoformat()} at {wanted or 'HEAD'}", "give a later date")
        cache[key] = [found]
    return str(cache[key][-1])


def _near(repository: "pygit2.Repository", wanted: str) -> str:
    import difflib

    names = [name.split("/", 2)[2] for name in repository.references if name.count("/") > 1]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(names)[:6]) or 'no branches and tags'}"


def _last_before(repository: "pygit2.Repository", tip: str, seconds: float) -> str | None:
    """Return the commit that `git rev-list -1 --before` does: the newest of the history that is no newer."""
    import pygit2

    commits = repository.walk(tip, pygit2.enums.SortMode.TIME)
    return next((str(commit.id) for commit in commits if commit.commit_time <= seconds), None)


def _facts(repository: "pygit2.Repository", commit: str, cache: Cache) -> tuple[str, int, int]:
    """Return (tree, author's time, bytes) of a commit."""
    key = f"git:{commit}"
    if key not in cache:
        hint = "fetch it whole: `git fetch --refetch --filter=` brings what a partial clone lacks, `git fsck` names what is damaged"
        try:
            objects = Objects(repository)
            tree, authored_at = _parsed(objects.read(commit, "commit"))
            cache[key] = [tree, authored_at, measure(objects, tree)]
        except MissingObject as error:
            raise SourceError(f"the repository {repository.path} is not whole: {error}", hint) from error
    tree, authored_at, num_bytes = cache[key]
    return str(tree), int(authored_at), int(num_bytes)


def _parsed(commit: bytes) -> tuple[str, int]:
    """Return (tree, author's time) of a commit's text."""
    header = commit.partition(b"\n\n")[0] + b"\n"
    tree = re.match(rb"tree ([0-9a-f]{40})\n", header)
    author = re.search(rb"\nauthor [^\n]*> (-?\d{1,15}) [^\n]*\n", header)
    if tree is None:
        raise MissingObject("a commit without a tree")
    return tree[1].decode(), int(author[1]) if author else 0


def _snapshot_of(repository: "pygit2.Repository") -> str:
    """Return the hash of all branches and tags, as Software Heritage's loader of Git takes a snapshot."""
    import pygit2

    kinds = {"commit": "revision", "tag": "release", "tree": "directory", "blob": "content"}
    branches: dict[bytes, tuple[str, bytes]] = {}
    for name in ["HEAD", *repository.references]:
        if name.startswith("refs/remotes/") or name == "refs/stash":
            continue
        try:
            reference = repository.lookup_reference(name)
            target = reference.raw_target
            if isinstance(target, bytes):
                branches[name.encode()] = ("alias", target)
            else:
                branches[name.encode()] = (kinds[repository[target].type_str], target.raw)
        except (KeyError, ValueError, pygit2.GitError):
            branches[name.encode("utf-8", "surrogateescape")] = ("dangling", b"")
    return snapshot_id(branches)


# ---- reading


def read_git(unit: GitRevision, max_file_bytes: int) -> Iterator[Batch]:
    """Yield the files of a commit.

    Raises:
        SourceError: the commit, or a folder of it, is not where it was when it was listed.
    """
    if unit.mirror_of is not None:  # this may be another machine than the one that planned
        fetch_mirror(Place(unit.mirror_of, unit.repo, unit.revision, is_remote=True), os.path.dirname(unit.path))
    repository = open_repository(unit.path)
    authored = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(seconds=unit.authored_at)
    files = Collector(unit.source, unit.repo, revision=unit.revision, committed_at=authored, url=unit.url)
    try:
        objects = Objects(repository)
        modules = _modules(objects, unit.tree)
        for file in walk(objects, unit.tree):
            _take(objects, unit.tree, file, modules, files, max_file_bytes)
            if files.is_full:
                yield files.batch()
    except MissingObject as error:
        raise SourceError(f"{unit.path} lost what it had when the run was planned: {error}", "run again, or check `git fsck`") from error
    finally:
        repository.free()
    yield files.batch()


def _take(objects: Objects, root: str, file: TreeFile, modules: dict[str, str], files: Collector, max_file_bytes: int) -> None:
    """Add a file of the tree, or leave it out with its reason."""
    if file.rule is not None:
        files.leave_out(file.path, 0, file.rule, detail=file.detail)
        return
    if file.mode == SUBMODULE:
        files.leave_out(file.path, 0, "submodule", detail=f"{modules.get(file.path, 'no address')} at commit {file.id}")
        return
    kind = classify(file.path)
    try:
        name = file.id
        if file.mode == LINK:
            said, target = resolve_link(objects, root, file)
            if target is None or kind is None or kind[0] != "license":
                files.leave_out(file.path, objects.size(file.id), "symlink", detail=f"to {said[:_DETAIL]}")
                return
            name = target.id
        size = objects.size(name)
        if not may_tell_language(file.path):
            files.leave_out(file.path, size, "unknown-language")
        elif size > max_file_bytes:
            files.leave_out(file.path, size, "too-large", value=size, threshold=max_file_bytes)
        else:
            files.add(file.path, objects.read(name, "blob"), name)
    except MissingObject as error:
        files.leave_out(file.path, 0, "unreadable", detail=str(error))


_MODULE = re.compile(r"^\s*\[submodule\b[^\]]*\]|^\s*(path|url)\s*=\s*(.*?)\s*$", re.MULTILINE)


def _modules(objects: Objects, root: str) -> dict[str, str]:
    """Return path → address of the submodules that .gitmodules names."""
    entry = next((entry for entry in objects.tree(root) if entry.name == b".gitmodules"), None)
    if entry is None or entry.mode in (LINK, SUBMODULE) or objects.size(entry.id) > 1 << 20:
        return {}
    found: list[dict[str, str]] = [{}]
    for line in _MODULE.finditer(objects.read(entry.id, "blob").decode("utf-8", "replace")):
        if line[1]:
            found[-1][line[1]] = line[2]
        else:
            found.append({})
    addresses = {each["path"]: each.get("url", "") for each in found if "path" in each}
    return {path: (public_address(url) or url if "@" in url else url) or "no address" for path, url in addresses.items()}
