"""Folders of this machine as repositories: each child folder one, or the folder itself.

Guarantee: nothing is followed out of the folder; Git's own files, Python's caches and stores of ours are no part of it.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from starloom.tasks.kernels.sources.files import (
    FileSnapshot,
    RepositorySnapshot,
    as_text,
    check_folder,
    listed,
    listed_file,
    skipped_entry,
)
from starloom.tasks.kernels.sources.languages import classify
from starloom.tasks.kernels.sources.units import Cache

Holds = Literal["auto", "repositories", "repository"]
"""The kind of a folder: one of repositories, or a repository itself."""

_BUILD_FILES = frozenset(
    {
        *("pyproject.toml", "setup.py", "setup.cfg", "package.json", "Cargo.toml", "go.mod", "pom.xml", "build.gradle", "build.gradle.kts"),
        *(
            "CMakeLists.txt",
            "Makefile",
            "meson.build",
            "configure.ac",
            "composer.json",
            "Gemfile",
            "Package.swift",
            "mix.exs",
            "stack.yaml",
        ),
    }
)
"""Build files: a folder that has one is a repository."""
_USUAL_IN_A_REPOSITORY = re.compile(r"li[cs]en[cs]e|copying|readme", re.IGNORECASE)


def list_directory(path: str, cache: Cache, *, source: str, holds: Holds = "auto") -> list[RepositorySnapshot]:
    """Take each child folder as a repository, or the folder itself; files beside child folders are listed under "." and skipped.

    Args:
        path: the folder.
        cache: brought up to date.
        source: what to call it.
        holds: which of the two; `auto` looks at what lies there, and notes why it takes the folder itself.

    Raises:
        SourceError: there is no such folder.
    """
    check_folder(path, "give one repository, or a folder whose child folders are repositories, as `path`")
    children = sorted(os.scandir(path), key=lambda entry: entry.name)
    sign = _sign_of_one(children) if holds == "auto" else None
    if sign or holds == "repository":
        name = as_text(os.path.basename(os.path.abspath(path))) or source
        note = f"the source {source} is taken as one repository, {name}: {sign or 'holds says so'}"
        first, *inner = _folder_snapshots(path, name, source, cache)
        return [replace(first, note=note if sign else None), *inner]
    folders = [entry for entry in children if entry.is_dir(follow_symlinks=False) and not _is_left_out(entry)]
    snapshots = [each for entry in folders for each in _folder_snapshots(entry.path, as_text(entry.name), source, cache)]
    loose = [skipped_entry(entry, "", "outside-repository") for entry in children if entry.is_symlink() or not entry.is_dir()]
    if loose:
        snapshots.insert(0, listed(source, ".", loose, root=path))
    return snapshots


def _sign_of_one(children: list[os.DirEntry[str]]) -> str | None:
    """Return why a folder is itself a repository, and not one of repositories; None if it is one of those."""
    folders = [set(_names(entry.path)) for entry in children if entry.is_dir(follow_symlinks=False) and entry.name != ".git"]
    names = {entry.name for entry in children}
    if ".git" in names:
        return "it has .git"
    built = sorted(names & _BUILD_FILES)
    if any(".git" in inside for inside in folders):
        return None
    if built:
        return f"it has {built[0]}"
    if any(inside & _BUILD_FILES or any(map(_USUAL_IN_A_REPOSITORY.match, inside)) for inside in folders):
        return None
    files = [as_text(entry.name) for entry in children if entry.is_file(follow_symlinks=False) and classify(as_text(entry.name))]
    return f"it has files, such as {files[0]}, and no repository below it" if files else None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it will be listed as unreadable
        return []


_STORE, _STORE_BYTES = re.compile(rb'\{"format": \d+\}'), 64
"""What stands in a store's store.json (`starloom.lineage.store`), and more than it ever takes."""


def _folder_snapshots(root: str, repo: str, source: str, cache: Cache) -> Iterator[RepositorySnapshot]:
    """Yield a repository, then those that lie in it (submodules and other clones), each at its own commit."""
    inner: list[str] = []
    yield listed(source, repo, _walk(root, "", cache, inner), root=root, revision=_git_commit(root))
    for above in sorted(inner):
        yield from _folder_snapshots(os.path.join(root, above), f"{repo}/{as_text(above)}", source, cache)


def _walk(root: str, above: str, cache: Cache, inner: list[str]) -> Iterator[FileSnapshot]:
    """Yield all files under `root/above`, but those of folders that are left out; nothing is followed out of the folder.

    Folders that are repositories themselves are put into `inner`.
    """
    try:
        entries = list(os.scandir(os.path.join(root, above)))
    except OSError as error:
        yield FileSnapshot(as_text(above.rstrip("/")) or ".", above, 0, None, "unreadable", error.strerror)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if os.path.lexists(os.path.join(entry.path, ".git")):
                inner.append(above + entry.name)
            elif not _is_left_out(entry):
                yield from _walk(root, f"{above}{entry.name}/", cache, inner)
        elif entry.name != ".git":
            try:
                yield _link(root, entry, above, cache) if entry.is_symlink() else _walked_file(entry, above, cache)
            except OSError as error:  # gone since the folder was listed
                yield FileSnapshot(as_text(above + entry.name), above + entry.name, 0, None, "unreadable", error.strerror)


def _link(root: str, entry: os.DirEntry[str], above: str, cache: Cache) -> FileSnapshot:
    """Return a link as a file that is not read; under the name of a licence as the file of the same repository that it leads to."""
    path = above + entry.name
    kind = classify(as_text(path))
    if kind is not None and kind[0] == "license" and as_text(path) == path:
        home, target = os.path.realpath(root), os.path.realpath(entry.path)
        local = os.path.relpath(target, home)
        if os.path.isfile(target) and not {"..", ".git"} & set(local.split(os.sep)):
            return listed_file(path, local, target, os.stat(target), cache)
    return skipped_entry(entry, above, "symlink")


def _is_left_out(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder is Git's own, Python's cache, or a store of ours, which grows while it is read."""
    if folder.name in (".git", "__pycache__"):
        return True
    try:
        with open(os.path.join(folder.path, "store.json"), "rb") as file:
            return _STORE.fullmatch(file.read(_STORE_BYTES)) is not None
    except OSError:  # it has none, or cannot be read and will be listed as such
        return False


def _walked_file(entry: os.DirEntry[str], above: str, cache: Cache) -> FileSnapshot:
    status = entry.stat(follow_symlinks=False)
    path = above + entry.name
    if not stat.S_ISREG(status.st_mode):
        return skipped_entry(entry, above, "not-a-regular-file")
    if as_text(path) != path:
        return skipped_entry(entry, above, "undecodable-path")
    return listed_file(path, path, entry.path, status, cache)


def _git_commit(root: str) -> str | None:
    """Return the commit that a work tree stands at, read from git's own files; None where there is none."""
    git = os.path.join(root, ".git")
    try:
        if os.path.isfile(git):  # a linked work tree or a submodule
            git = os.path.join(root, _read(git).removeprefix("gitdir:").strip())
        head = _read(os.path.join(git, "HEAD")).strip()
        if not head.startswith("ref:"):
            return _commit(head)
        shared = os.path.join(git, "commondir")
        common = os.path.join(git, _read(shared).strip()) if os.path.exists(shared) else git
        return _commit(_resolve(common, head.removeprefix("ref:").strip()))
    except (OSError, ValueError):  # nothing there, not ours to read, or no text of git's: all the same, no commit is known
        return None


def _resolve(git: str, ref: str) -> str:
    loose = os.path.join(git, ref)
    if os.path.isfile(loose):
        return _read(loose).strip()
    lines = (line.split() for line in _read(os.path.join(git, "packed-refs")).splitlines())
    return next((fields[0] for fields in lines if fields[1:] == [ref]), "")


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()
