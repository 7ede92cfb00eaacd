"""Languages as stages take them: lists of them as knobs, and the labelling of a part's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import AfterValidator

from starloom.lineage.errors import ConfigError, did_you_mean
from starloom.tasks.kernels.languages.content_model import LIBRARIES, content_model, is_installed

if TYPE_CHECKING:
    import pyarrow as pa

    from starloom.tasks.frame.stage import Runtime

_HINT = "pip install 'starloom[languages]'"


def expanded(names: list[str]) -> list[str]:
    """Return the languages that names of languages and of lists stand for, sorted."""
    from starloom.tasks.kernels.languages.linguist import known_languages
    from starloom.tasks.kernels.languages.lists import expand_languages, named_lists

    try:
        return expand_languages(names)
    except KeyError as error:
        (name,) = error.args
        raise ValueError(f"unknown language {name!r}: {did_you_mean(name, [*named_lists(), *known_languages()])}") from error


def _resolved(wanted: str) -> str:
    return wanted if wanted != "auto" else "magika" if is_installed() else "off"


LanguageList = Annotated[list[str], AfterValidator(expanded)]
"""Linguist's names of languages, or names of lists (`kernels/languages/lists.py`); validated to the languages, sorted."""

ContentLanguages = Annotated[Literal["auto", "off", "magika"], AfterValidator(_resolved)]
"""Whether Magika is asked; validated to off or magika, so that a step's key and its record say which it was."""


class Labels(NamedTuple):
    """Kinds and languages of the n files of a part."""

    kinds: pa.Array
    """Of strings."""
    languages: pa.Array
    """Of strings; null where unknown."""
    is_taken: pa.BooleanArray
    left_out: list[tuple[int, str, str | None]]
    """(row, rule, detail) of each file that is not taken, in order."""


def libraries_of(content_languages: str) -> tuple[str, ...]:
    """Return the distributions whose versions shape the languages."""
    return LIBRARIES if content_languages == "magika" else ()


def tell_missing_model(runtime: Runtime) -> None:
    """Say that Magika could be asked, were it installed."""
    if not is_installed():
        runtime.tell(f"Magika is not installed: what names and rules leave open has the usual language of its extension ({_HINT})")


def label_files(paths: pa.Array, contents: pa.Array, told: pa.Array, content_languages: str, wanted: list[str]) -> Labels:
    """Label files with language and kind, and say which are of no use.

    Args:
        paths: n strings.
        contents: n of large_binary.
        told: n strings, the languages that the source tells; null: to be found out.
        content_languages: `magika` or `off`.
        wanted: languages; none: all. Licence files are always wanted.

    Raises:
        ConfigError: Magika is to be asked and is not installed on this worker.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from starloom.tasks.kernels.languages.identify import identify
    from starloom.tasks.kernels.sources.languages import are_license_paths, kinds

    if content_languages == "magika" and not is_installed():
        raise ConfigError("magika is not installed here, and ingest.content_languages asks it", hint=_HINT)
    is_asked = pc.and_(pc.invert(are_license_paths(paths)), pc.is_null(told)).to_numpy(
        zero_copy_only=False
    )  # a licence is one, whatever it resembles
    found, _ = identify(paths, contents, content_model().guess if content_languages == "magika" else None, is_asked)
    languages = pc.coalesce(told, pa.array(found, pa.string()))
    kind = kinds(paths, languages)
    is_listed = pc.is_in(languages, pa.array(wanted, pa.string())) if wanted else pa.array([True] * len(found), pa.bool_())
    is_taken = pc.and_(pc.is_valid(kind), pc.or_(is_listed, pc.fill_null(pc.equal(kind, "license"), fill_value=False)))
    rows = [row for row, taken in enumerate(is_taken.to_pylist()) if not taken]
    names = languages.to_pylist()
    left_out = [(row, "unknown-language" if names[row] is None else "language-not-listed", names[row]) for row in rows]
    return Labels(kind, languages, is_taken, left_out)
