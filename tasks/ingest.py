"""Read source repositories into documents, one row a file, as UTF-8.

Reads   the units of one part: repositories at their revision, as their snapshot listed them
Writes  Docs     all columns; kind = code, documentation, notebook or license
        Skipped  every other file; rule = unknown-language, too-large, binary, undecodable, lfs-pointer, unreadable, symlink,
                 submodule, unreadable-repository, not-a-regular-file, undecodable-path, outside-repository, repeated-path,
                 direct-url, no-record, language-not-listed;
                 value = what was measured (size, position of the first bad byte), threshold = the limit, detail = more
Text in another encoding is decoded where that is certain (`encoding` says from what; null: it was UTF-8 as it is), a byte-order
mark left out; `size` is of the text, `swhid` of the file as it was.
Law: files of the snapshot = rows of Docs + rows of Skipped.

A kind of source is a config class (`tasks/sources`), a lister and a reader (`kernels/sources`): the lister yields units
(`units.Unit`) and is called when a run is planned, the reader yields their files (`contents.Batch`) and is called by the worker
that does the part. Both are named here, and only here.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from starloom.lineage.errors import InputError
from starloom.tasks.frame.languages import ContentLanguages, LanguageList, label_files, libraries_of, tell_missing_model
from starloom.tasks.frame.stage import Config, Runtime, RuntimeOnly, stage
from starloom.tasks.kernels.sources.admission import admit
from starloom.tasks.kernels.sources.contents import BATCH_BYTES, with_blobs
from starloom.tasks.kernels.sources.files import RepositorySnapshot, read_listed
from starloom.tasks.kernels.sources.git import GitRevision, read_git
from starloom.tasks.kernels.sources.units import SourceError, document_id, partition
from starloom.tasks.schemas import Docs, Repositories, Skipped
from starloom.tasks.sources.environments import PythonEnvironment
from starloom.tasks.sources.folders import Directory
from starloom.tasks.sources.git import Git, default_mirrors, parse_date

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from starloom.tasks.frame.languages import Labels
    from starloom.tasks.kernels.sources.contents import Batch
    from starloom.tasks.kernels.sources.units import Cache, Unit

__all__ = ["Directory", "Ingest", "PythonEnvironment", "Source", "ingest", "partition", "snapshot"]

AnySource = PythonEnvironment | Directory | Git
Source = Annotated[AnySource, Field(discriminator="kind")]
"""A source of any kind, told by its `kind`."""


class Ingest(Config):
    """Knobs of ingest."""

    sources: RuntimeOnly[list[Source]] = Field(default=[PythonEnvironment.model_validate({"kind": "python-environment"})], min_length=1)
    """Sources of repositories. A part's key contains their contents, so a new source reruns only the parts that it reaches."""
    part_bytes: RuntimeOnly[int] = Field(default=128_000_000, gt=0)
    """Target size of a part's text, in bytes; a repository is never split."""
    seed: RuntimeOnly[int] = 42
    """Seed of samples."""
    max_file_bytes: int = Field(default=10 * 1024 * 1024, gt=0, le=1 << 30)
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


def snapshot(sources: Sequence[AnySource], seed: int, cache: Cache) -> list[Unit]:
    """List the units of the sources, ordered by (source, name); quick where `cache` knows them.

    Args:
        sources: of the recipe.
        seed: of samples.
        cache: brought up to date; keep it for the next time.

    Raises:
        InputError: a source is not there, or two of its repositories have one name.
    """
    try:
        found = [unit for source in sources for unit in _list_units(source, seed, cache)]
    except SourceError as error:
        raise InputError(str(error), hint=error.hint) from error
    repeated = [key for key, count in Counter((unit.source, unit.repo) for unit in found).items() if count > 1]
    if repeated:
        raise InputError(
            f"{repeated[0][0]} holds {repeated[0][1]} twice, so its documents would be indistinguishable", hint="remove one of the two"
        )
    return sorted(found, key=lambda unit: (unit.source, unit.repo))


def _list_units(source: AnySource, seed: int, cache: Cache) -> Iterable[Unit]:
    """Yield the units of a source: what a plan needs to know of them."""
    from starloom.tasks.kernels.sources.environments import list_environment
    from starloom.tasks.kernels.sources.folders import list_directory
    from starloom.tasks.kernels.sources.git import list_git, read_list

    if isinstance(source, Directory):
        return list_directory(source.path, cache, source=source.name, holds=source.holds)
    if isinstance(source, Git):
        words = [(word, "") for word in source.repositories]
        words += [(word, os.path.dirname(source.list_file)) for word in read_list(source.list_file)] if source.list_file else []
        date = parse_date(source.date) if source.date else None
        return list_git(words, cache, source=source.name, revision=source.revision, date=date, mirrors=source.mirrors or default_mirrors())
    return list_environment(source.prefix, cache, source=source.name, sample_bytes=source.sample_bytes, exclude=source.exclude, seed=seed)


def _read_unit(unit: Unit, max_file_bytes: int) -> Iterator[Batch]:
    """Yield the files of a unit."""
    if isinstance(unit, GitRevision):
        return read_git(unit, max_file_bytes)
    assert isinstance(unit, RepositorySnapshot)
    return read_listed(unit, max_file_bytes)


@stage(libraries=("charset-normalizer",))
def ingest(repositories: Repositories, cfg: Ingest, runtime: Runtime) -> tuple[Docs, Skipped]:
    """Read the files of one part."""
    import pyarrow as pa

    docs, skipped = [Docs.SCHEMA.empty_table()], [Skipped.SCHEMA.empty_table()]
    tell_missing_model(runtime)
    for found, left_out in _batches(repositories, cfg, runtime):
        admitted, refused = admit(found)
        taken, unwanted = _docs(admitted, cfg)
        docs.append(taken)
        skipped += [left_out, refused, unwanted]
    ordered = pa.concat_tables(skipped).sort_by([("repo", "ascending"), ("source", "ascending"), ("path", "ascending")])
    return Docs.of(pa.concat_tables(docs)), Skipped.of(ordered)


def _batches(repositories: Repositories, cfg: Ingest, runtime: Runtime) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the files of the units in their order, those of small units together."""
    import pyarrow as pa

    units = sorted(repositories.snapshots, key=lambda unit: (unit.repo, unit.source))
    gathered: list[Batch] = []
    num_bytes = 0
    swhids: dict[str, list[str]] = {}
    for done, unit in enumerate(units):
        runtime.progress(done, len(units), "repositories")
        if unit.note:
            runtime.tell(unit.note)
        if isinstance(unit, GitRevision):
            swhids[f"{unit.source}/{unit.repo}"] = unit.swhids
        try:
            for batch in _read_unit(unit, cfg.max_file_bytes):
                gathered.append(batch)
                num_bytes += batch.found.column("content").nbytes
                if num_bytes >= BATCH_BYTES:
                    yield pa.concat_tables(each.found for each in gathered), pa.concat_tables(each.left_out for each in gathered)
                    gathered, num_bytes = [], 0
        except SourceError as error:
            raise InputError(str(error), hint=error.hint) from error
    if swhids:
        runtime.note(swhids=swhids)
    if gathered:
        yield pa.concat_tables(each.found for each in gathered), pa.concat_tables(each.left_out for each in gathered)


def _docs(admitted: pa.Table, cfg: Ingest) -> tuple[pa.Table, pa.Table]:
    """Return the rows of Docs, and those of Skipped: files of no language, or of none that is wanted.

    What the source did not tell follows from path and content.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.languages.origins import are_documentation, are_generated, are_vendored

    admitted = admitted.combine_chunks()
    paths = _whole_column(admitted, "path")
    contents = _whole_column(admitted, "content").cast(pa.large_binary())
    labels = label_files(paths, contents, _whole_column(admitted, "language"), cfg.content_languages, cfg.languages)
    left_out = _unwanted(admitted, labels)
    told = admitted.set_column(admitted.schema.get_field_index("kind"), "kind", pc.coalesce(_whole_column(admitted, "kind"), labels.kinds))
    told = told.set_column(told.schema.get_field_index("language"), "language", labels.languages).filter(labels.is_taken)
    told = with_blobs(told)
    paths, contents = paths.filter(labels.is_taken), contents.filter(labels.is_taken)
    identities = (told.column(name).to_pylist() for name in ("source", "repo", "revision", "path"))
    known = {
        "doc_id": pa.array([document_id(*identity) for identity in zip(*identities, strict=True)], pa.string()),
        "size": pc.binary_length(told.column("content")).cast(pa.int64()),
        "swhid": pc.binary_join_element_wise("swh:1:cnt:", told.column("blob"), ""),
        "is_vendor": pc.coalesce(told.column("is_vendor"), are_vendored(paths)),
        "is_generated": pc.coalesce(told.column("is_generated"), are_generated(paths, contents)),
        "is_documentation": are_documentation(paths),
    }
    table = pa.table({name: known[name] if name in known else told.column(name) for name in Docs.SCHEMA.names}, schema=Docs.SCHEMA)
    return table, left_out


def _whole_column(table: pa.Table, name: str) -> pa.Array:
    """Return a column as one array."""
    import pyarrow as pa

    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _unwanted(admitted: pa.Table, labels: Labels) -> pa.Table:
    """Return the rows of Skipped of files whose language is unknown, or not wanted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.array([row for row, _, _ in labels.left_out], pa.int64())
    files = admitted.take(rows)
    columns = {
        **{name: files.column(name) for name in ("source", "repo", "path")},
        "size": pc.binary_length(files.column("content")).cast(pa.int64()),
        "rule": pa.array([rule for _, rule, _ in labels.left_out], pa.string()),
        "value": pa.nulls(len(rows), pa.float64()),
        "threshold": pa.nulls(len(rows), pa.float64()),
        "detail": pa.array([detail for _, _, detail in labels.left_out], pa.string()),
    }
    return pa.table(columns, schema=Skipped.SCHEMA)
