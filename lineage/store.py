"""The store: immutable parts named by their hash, and the records of what made them.

    objects/<type>/<aa>/<hash>.parquet   parts            actions/<stage>/<aa>/<key>.json   what made them
    objects/files/<aa>/<hash>            files            artifacts/<hash>.json             manifests
    runs/<run id>/run.json               runs             index/<name>.json                 caches, safe to delete
    tags/<tag>.json                      names of runs

Commit protocol: objects first, then the manifest, then the action's record, each aside and renamed; so a reader sees all
of an action or nothing, and a crash loses at most the part in hand. Of two processes that do one action at once, the
first record stands and both use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from starloom.lineage import keys, parquet
from starloom.lineage.errors import CorruptError, InputError, MissingError, StoreError, did_you_mean
from starloom.lineage.records import Action, Artifact, Part, Run
from starloom.lineage.storage import Storage, open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa

T = TypeVar("T")
_RUN_ID = re.compile(r"\d{8}-[A-Za-z0-9._-]+")
FORMAT = 1
"""Of the store's layout and of how the frame reads, writes and keys; it is part of every key. Raise it when those change."""


class Store:
    """An open store."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.url = storage.url
        self.named = f" --store {shlex.quote(self.url)}"
        """The option that makes a command use this store."""
        self._kept: dict[str, Any] | None = None
        """Caches that are not written yet: of a store that is only read."""

    @classmethod
    def look(cls, url: str) -> Store:
        """Open the store at a folder or URL, whether or not it exists: nothing is written before `make`.

        Raises:
            StoreError: if it was written by a newer version.
        """
        storage = open_storage(url)
        if storage.exists("store.json"):
            _check_format(storage)
        store = cls(storage)
        store._kept = {}
        return store

    def make(self) -> None:
        """Create the store if it does not exist, and write the caches that were kept while it was only read.

        Raises:
            StoreError: if it cannot be made.
        """
        if not self.storage.exists("store.json"):
            self.storage.write("store.json", json.dumps({"format": FORMAT}).encode())
        kept, self._kept = self._kept or {}, None
        for name, content in kept.items():
            self.put_index(name, content)

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """Open the store at a folder or URL; create it if it does not exist.

        Raises:
            StoreError: if it was written by a newer version, or is missing and may not be made.
        """
        storage = open_storage(url)
        if storage.exists("store.json"):
            _check_format(storage)
        elif not create:
            raise StoreError(f"there is no store at {storage.url}", hint="run a recipe first, or name the store with --store")
        store = cls(storage)
        if create:
            store.make()
        return store

    # Objects

    def put_table(
        self, kind: str, table: pa.Table, rows_per_group: int, counts: dict[str, Any] | None = None, mask: str | None = None
    ) -> Part:
        """Write a table as a part."""
        with self.storage.making(".parquet") as aside:
            parquet.write_table(table, aside, rows_per_group)
            name, size = keys.file_digest(aside), aside.stat().st_size
            self.storage.put(object_name(kind, name), aside)
        return Part(name, table.num_rows, size, counts or {}, mask)

    def put_files(self, folder: Path) -> tuple[Part, ...]:
        """Copy the files of a folder in, each under its hash."""
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return tuple(self.put_file(file, file.relative_to(folder).as_posix()) for file in files)

    def put_file(self, file: Path, name: str) -> Part:
        """Copy a file in, under its hash."""
        with self.storage.making() as aside:
            shutil.copyfile(file, aside)
            digest, size = keys.file_digest(aside), aside.stat().st_size
            self.storage.put(object_name("files", digest), aside)
        return Part(digest, 0, size, name=name)

    def folder(self, artifact: Artifact) -> Path:
        """Return a local folder with the files of an artifact under their names: links, inside the store where it can be written."""
        folder = self.storage.shelf() / "folders" / artifact.hash
        if not folder.exists():
            aside = folder.parents[1] / uuid.uuid4().hex
            for part in artifact.parts:
                assert part.name is not None
                file = aside / part.name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.symlink_to(self.storage.local(object_name("files", part.hash)).absolute())
            aside.mkdir(parents=True, exist_ok=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another process was first: its folder is the same
                aside.rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
        return folder

    # Manifests and actions

    def put_artifact(self, artifact: Artifact) -> str:
        """Write a manifest; returns its hash."""
        name = artifact.hash
        if not self.storage.exists(f"artifacts/{name}.json"):
            self.storage.write(f"artifacts/{name}.json", keys.canonical(artifact.to_json()))
        return name

    def artifact(self, name: str) -> Artifact:
        """Return the artifact of that hash.

        Raises:
            MissingError: if it is not there.
            CorruptError: if it cannot be read.
        """
        try:
            return self._record(f"artifacts/{name}.json", Artifact.from_json)
        except FileNotFoundError as error:
            raise MissingError(
                f"the artifact {name} is no longer in {self.url}",
                hint=f"`starloom verify --repair{self.named}` removes the records that name it; then run the recipe again",
            ) from error

    def action(self, stage: str, key: str) -> Action | None:
        """Return the record of an action, if it was ever finished."""
        try:
            return self._record(action_name(stage, key), Action.from_json)
        except FileNotFoundError:
            return None

    def commit(self, stage: str, action: Action) -> Action:
        """Record an action, after everything that it made. Returns the record that stands."""
        name = action_name(stage, action.key)
        if self.storage.create(name, json.dumps(action.to_json(), sort_keys=True).encode()):
            return action
        return self._record(name, Action.from_json)

    def forget(self, stage: str, key: str) -> None:
        """Remove the record of an action, so that it is done again."""
        self.storage.delete(action_name(stage, key))

    # Runs

    def write_run(self, run: Run) -> None:
        """Write the state of a run."""
        self.storage.write(f"runs/{run.id}/run.json", json.dumps(run.to_json(), sort_keys=True, indent=1).encode())

    def run_ids(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        return self.storage.holders("runs", "run.json")

    def last_run_ids(self) -> Iterator[str]:
        """Return the ids of all runs, newest first, each when it is asked for."""
        return self.storage.last_holders("runs", "run.json")

    def run(self, run_id: str) -> Run:
        """Return the run of that id or tag, or of an unambiguous prefix or suffix of an id; `latest` is the newest.

        Raises:
            InputError: if there is no such run, or several.
        """
        if _RUN_ID.fullmatch(run_id) and self.storage.exists(f"runs/{run_id}/run.json"):
            return self._record(f"runs/{run_id}/run.json", Run.from_json)
        if run_id == "latest" and (newest := next(self.last_run_ids(), None)) is not None:
            return self._record(f"runs/{newest}/run.json", Run.from_json)
        known, tags = self.run_ids(), self.tags()
        wanted = [name for name in known if name.startswith(run_id) or name.endswith(run_id)]
        wanted = [tags[run_id]] if run_id in tags else [run_id] if run_id in known else wanted
        if len(wanted) != 1:
            problem = f"{run_id!r} could be {', '.join(wanted[:5])}" if wanted else f"there is no run {run_id!r} in {self.url}"
            raise InputError(problem, hint=did_you_mean(run_id, [*known, *tags]) if known else "run a recipe first")
        return self._record(f"runs/{wanted[0]}/run.json", Run.from_json)

    # Tags

    def tags(self) -> dict[str, str]:
        """Return tag → id of the run that it names and keeps from garbage collection."""
        names = sorted(name for name in self.storage.names("tags") if name.endswith(".json"))
        return {name.removeprefix("tags/").removesuffix(".json"): self._tagged(name) for name in names}

    def _tagged(self, name: str) -> str:
        document = self._json(name)
        if not isinstance(document, dict) or not isinstance(document.get("run"), str):
            raise self._damaged(name, "it names no run")
        return str(document["run"])

    def tag(self, tag: str, run_id: str) -> None:
        """Tag a run; an existing tag moves.

        Raises:
            InputError: if the tag could be mistaken for something else.
        """
        if tag == "latest" or tag in self.run_ids() or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag):
            raise InputError(f"{tag!r} cannot be a tag", hint="use letters, digits, dots, hyphens and underscores, such as v1.0")
        self.storage.write(f"tags/{tag}.json", json.dumps({"run": self.run(run_id).id}).encode())

    def untag(self, tag: str) -> None:
        """Remove a tag; the run stays.

        Raises:
            InputError: if there is no such tag.
        """
        known = self.tags()
        if tag not in known:
            raise InputError(
                f"there is no tag {tag!r} in {self.url}", hint=did_you_mean(tag, list(known)) if known else "there are no tags yet"
            )
        self.storage.delete(f"tags/{tag}.json")

    # Caches and work in hand

    def index(self, name: str) -> dict[str, Any]:
        """Return the cache of that name; empty if there is none, or if it cannot be read."""
        if self._kept is not None and name in self._kept:
            return dict(self._kept[name])
        try:
            found = self._json(f"index/{name}.json")
        except (FileNotFoundError, CorruptError):
            return {}
        return found if isinstance(found, dict) else {}

    def put_index(self, name: str, content: dict[str, Any]) -> None:
        """Write a cache."""
        if self._kept is not None:
            self._kept[name] = content
            return
        self.storage.write(f"index/{name}.json", json.dumps(content, separators=(",", ":")).encode())

    @contextlib.contextmanager
    def work(self, key: str) -> Iterator[Path]:
        """Yield a private folder for an action. After a kill, the next action with its key finds what was left there."""
        root = self.storage.scratch / "work"
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{key}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder = root / key
            except BlockingIOError:  # another process is at the same action: work beside it
                folder = root / f"{key}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            folder.mkdir(exist_ok=True)
            yield folder
            shutil.rmtree(folder)
            (root / f"{key}.lock").unlink(missing_ok=True)

    def _json(self, name: str) -> Any:
        data = self.storage.read(name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise self._damaged(name, str(error)) from error

    def _record(self, name: str, read: Callable[[Any], T]) -> T:
        document = self._json(name)
        try:
            return read(document)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise self._damaged(name, f"{type(error).__name__}: {error}") from error

    def _damaged(self, name: str, problem: str) -> CorruptError:
        hint = f"`starloom verify --repair{self.named}` removes damaged files; the next run makes them again"
        return CorruptError(f"{name} in {self.url} is damaged: {problem}", hint=hint)


def object_name(kind: str, name: str) -> str:
    """Return the name of an object in the store."""
    return f"objects/files/{name[:2]}/{name}" if kind == "files" else f"objects/{kind.lower()}/{name[:2]}/{name}.parquet"


def action_name(stage: str, key: str) -> str:
    """Return the name of an action's record in the store."""
    return f"actions/{stage}/{key[:2]}/{key}.json"


def _check_format(storage: Storage) -> None:
    try:
        found = json.loads(storage.read("store.json"))["format"]
    except (ValueError, KeyError, TypeError):
        found = None
    if type(found) is not int or found < 1:
        raise StoreError(
            f"{storage.url}/store.json does not give the format of the store",
            hint="restore the file, or choose another store",
        )
    if found > FORMAT:
        raise StoreError(
            f"the store {storage.url} has format {found}; this Starloom reads up to {FORMAT}",
            hint="install the Starloom that wrote it, or a newer one",
        )
