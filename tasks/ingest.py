"""Read source repositories into documents, one row a file, bytes-exact.

Reads   the repositories of one part (`python-environment`, `directory`), as their snapshot listed them
Writes  Docs     all columns; kind = code, documentation, notebook or license
        Skipped  every other file; rule = unknown-language, too-large, binary, undecodable, unreadable, symlink,
                 not-a-regular-file, undecodable-path, outside-repository, repeated-path, direct-url, no-record,
                 language-not-listed;
                 value = what was measured (size, position of the first bad byte), threshold = the limit, detail = more
Law: files of the snapshot = rows of Docs + rows of Skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from starloom.lineage.errors import InputError
from starloom.tasks.frame.languages import ContentLanguages, LanguageList, libraries_of
from starloom.tasks.frame.stage import Config, Runtime, RuntimeOnly, stage
from starloom.tasks.kernels.sources.repositories import Holds, SourceError, blob_id, document_id, partition
from starloom.tasks.schemas import Docs, Repositories, Skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from starloom.tasks.kernels.sources.repositories import Cache, FileSnapshot, RepositorySnapshot

__all__ = ["Directory", "Ingest", "PythonEnvironment", "Source", "ingest", "partition", "snapshot"]


def _from_recipe(value: str, info: ValidationInfo) -> str:
    """Return a path relative to the recipe's folder as an absolute one."""
    return str(Path((info.context or {}).get("folder", "."), value).expanduser().absolute())


LocalFolder = Annotated[str, AfterValidator(_from_recipe)]


class PythonEnvironment(Config):
    """The distributions installed in a Python environment, each one a repository."""

    kind: Literal["python-environment"]
    """Each installed distribution is a repository: name, version, declared licence, files."""
    name: str = Field(default="python-environment", min_length=1)
    """Value of the column `source`."""
    prefix: RuntimeOnly[LocalFolder | None] = None
    """Its site-packages folder; by default that of the interpreter that runs."""
    sample_bytes: int | None = Field(default=None, gt=0)
    """Sample distributions in a seeded order, up to this many bytes of known languages; by default all."""
    exclude: list[str] = Field(default=[])
    """Distributions to leave out."""


class Directory(Config):
    """A folder of repositories."""

    kind: Literal["directory"]
    """Each child folder is a repository, at its git commit if it is a work tree; or the folder itself is."""
    name: str = Field(default="directory", min_length=1)
    """Value of the column `source`."""
    path: RuntimeOnly[LocalFolder]
    """The folder, relative to the recipe's. A store of Starloom in it is left out."""
    holds: Holds = "auto"
    """Its child folders are the `repositories`, or it is itself the `repository`; auto looks for .git, build files
    (pyproject.toml, package.json …), or files with no repository below, and says so."""


Source = Annotated[PythonEnvironment | Directory, Field(discriminator="kind")]


class Ingest(Config):
    """Knobs of ingest."""

    sources: RuntimeOnly[list[Source]] = Field(default=[PythonEnvironment.model_validate({"kind": "python-environment"})], min_length=1)
    """Sources of repositories. A part's key contains their contents, so a new source reruns only the parts that it reaches."""
    part_bytes: RuntimeOnly[int] = Field(default=128_000_000, gt=0)
    """Target size of a part's text, in bytes; a repository is never split."""
    seed: RuntimeOnly[int] = 42
    """Seed of samples."""
    max_file_bytes: int = Field(default=10 * 1024 * 1024, gt=0)
    """Files over this size are skipped (StarCoder2: 10 MiB)."""
    languages: LanguageList = Field(default=[])
    """Languages to take, by name or by list (starcoder-86, starcoder2-17, starcoder2-605); by default all. Licence files
    are always taken."""
    content_languages: ContentLanguages = Field(default="auto", validate_default=True)
    """Whether Magika is asked for the language of files that names and rules leave open; auto: where it is installed."""

    def libraries(self) -> tuple[str, ...]:
        """Return what Magika's answers depend on, if it is asked."""
        return libraries_of(self.content_languages)

    @field_validator("sources")
    @classmethod
    def _distinct_names(cls, sources: list[Any]) -> list[Any]:
        repeated = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
        if repeated:
            raise ValueError(f"two sources are named {repeated[0]!r}; their documents would be indistinguishable: give each its own `name`")
        return sources


def snapshot(sources: Sequence[PythonEnvironment | Directory], seed: int, cache: Cache) -> list[RepositorySnapshot]:
    """List the files of the sources, ordered by (source, repository); quick where `cache` knows the files.

    Args:
        sources: of the recipe.
        seed: of samples.
        cache: brought up to date; keep it for the next time.

    Raises:
        InputError: a source is not there, or two of its repositories have one name.
    """
    try:
        found = [repository for source in sources for repository in _read_source(source, seed, cache)]
    except SourceError as error:
        raise InputError(str(error), hint=error.hint) from error
    repeated = [key for key, count in Counter((s.source, s.repo) for s in found).items() if count > 1]
    if repeated:
        raise InputError(
            f"{repeated[0][0]} holds {repeated[0][1]} twice, so its documents would be indistinguishable", hint="remove one of the two"
        )
    return sorted(found, key=lambda repository: (repository.source, repository.repo))


def _read_source(source: PythonEnvironment | Directory, seed: int, cache: Cache) -> list[RepositorySnapshot]:
    from starloom.tasks.kernels.sources import repositories as sources

    if isinstance(source, Directory):
        return sources.directory(source.path, cache, source=source.name, holds=source.holds)
    return sources.python_environment(
        source.prefix, cache, source=source.name, sample_bytes=source.sample_bytes, exclude=source.exclude, seed=seed
    )


@stage()
def ingest(repositories: Repositories, cfg: Ingest, runtime: Runtime) -> tuple[Docs, Skipped]:
    """Read the files of one part."""
    import pyarrow as pa

    found: list[tuple[RepositorySnapshot, FileSnapshot]] = []
    contents: list[bytes] = []
    skipped: list[dict[str, Any]] = []
    ordered = sorted(repositories.snapshots, key=lambda repository: (repository.repo, repository.source))
    for done, repository in enumerate(ordered):
        runtime.progress(done, len(ordered), "repositories")
        if repository.note:
            runtime.tell(repository.note)
        for file in repository.files:
            read = _read_file(repository, file, cfg.max_file_bytes)
            if isinstance(read, bytes):
                found.append((repository, file))
                contents.append(read)
            else:
                skipped.append(read)
    table, left_out = _docs(found, contents, cfg, runtime)
    return Docs.of(table), Skipped.of(pa.Table.from_pylist(skipped + left_out, Skipped.SCHEMA))


def _read_file(repository: RepositorySnapshot, file: FileSnapshot, max_file_bytes: int) -> bytes | dict[str, Any]:
    """Return the content of a file, which is UTF-8, or its row of Skipped."""
    if file.blob is None:
        return _skipped_row(repository, file, file.reason or "unread", detail=file.detail)
    if file.size > max_file_bytes:
        return _skipped_row(repository, file, "too-large", value=file.size, threshold=max_file_bytes)
    content = _verified_content(repository, file)
    if (position := content.find(b"\0")) >= 0:
        return _skipped_row(repository, file, "binary", value=position, detail=f"NUL byte at {position}")
    if not content.isascii():
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            detail = f"byte 0x{content[error.start]:02x} at {error.start} is not UTF-8"
            return _skipped_row(repository, file, "undecodable", value=error.start, detail=detail)
    return content


def _verified_content(repository: RepositorySnapshot, file: FileSnapshot) -> bytes:
    full = os.path.join(repository.root, file.local)
    hint = "run again: the plan will see the file as it is now"
    try:
        with open(full, "rb", buffering=0) as stream:
            content = stream.readall()
    except OSError as error:
        raise InputError(f"{full} could be read when the run was planned, and now: {error.strerror}", hint=hint) from error
    if blob_id(content) != file.blob:
        raise InputError(f"{full} changed while it was being read", hint=hint)
    return content


def _docs(
    found: list[tuple[RepositorySnapshot, FileSnapshot]], contents: list[bytes], cfg: Ingest, runtime: Runtime
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Return the rows of Docs, column by column, and those of Skipped: files of no language, or of none that is wanted."""
    import pyarrow as pa

    from starloom.tasks.frame.languages import label_files
    from starloom.tasks.kernels.languages.origins import are_documentation, are_generated, are_vendored

    paths = pa.array([file.path for _, file in found], pa.string())
    texts = pa.array(contents, pa.large_binary())
    labels = label_files(paths, texts, cfg.content_languages, cfg.languages, runtime)
    known = {
        "doc_id": [document_id(repository.source, repository.repo, repository.revision, file.path) for repository, file in found],
        "source": [repository.source for repository, _ in found],
        "kind": labels.kinds,
        "repo": [repository.repo for repository, _ in found],
        "revision": [repository.revision for repository, _ in found],
        "path": paths,
        "language": labels.languages,
        "content": contents,
        "size": [file.size for _, file in found],
        "swhid": [f"swh:1:cnt:{file.blob}" for _, file in found],
        "declared_license": [repository.declared_license for repository, _ in found],
        "is_vendor": are_vendored(paths),
        "is_generated": are_generated(paths, texts),
        "is_documentation": are_documentation(paths),
    }
    unknown = [None] * len(found)  # a folder does not tell stars, forks, dates or addresses
    table = pa.table({name: known.get(name, unknown) for name in Docs.SCHEMA.names if name != "kind"} | {"kind": labels.kinds})
    left_out = [_skipped_row(*found[row], rule, detail=detail) for row, rule, detail in labels.left_out]
    return table.filter(labels.is_taken).select(Docs.SCHEMA.names).cast(Docs.SCHEMA), left_out


def _skipped_row(
    repository: RepositorySnapshot,
    file: FileSnapshot,
    rule: str,
    *,
    value: float | None = None,
    threshold: float | None = None,
    detail: str | None = None,
) -> dict[str, Any]:
    return {
        "source": repository.source,
        "repo": repository.repo,
        "path": file.path,
        "size": file.size,
        "rule": rule,
        "value": value,
        "threshold": threshold,
        "detail": detail,
    }
