"""Files of the Hugging Face Hub, from repositories pinned to a commit.

A repository is named `org/name@commit`, with all 40 digits of the commit: then the name alone pins every byte under it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starloom.lineage.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

ON_THE_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)@(.*)")
"""A repository of the Hub and its revision: never a path, which can be written with `./`."""
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_on_the_hub(value: str) -> bool:
    """Return whether a value names a repository of the Hub rather than a path.

    Raises:
        ValueError: it names one by a revision that may come to mean something else.
    """
    named = ON_THE_HUB.fullmatch(value)
    if named and not COMMIT.fullmatch(named[2]):
        raise ValueError(
            f"{named[2]!r} is not a commit of {named[1]}: branches and tags can move, and then this recipe would give another result; "
            f"give all 40 digits, as `git ls-remote https://huggingface.co/{named[1]}` prints them"
        )
    return named is not None


def fetched(named: str, file: str, instead: str) -> Path:
    """Return a local copy of a file of the Hub, downloaded unless it is in the Hub's cache on this machine.

    Args:
        named: `org/name@commit`.
        file: its path in the repository.
        instead: hint for a machine without access to the Hub.

    Raises:
        InputError: if the Hub cannot be reached, or has no such file, or the repository is gated or private.
    """
    path = fetched_if_there(named, file, instead)
    if path is None:
        raise _not_given(named, file, "there is no such file")
    return path


def fetched_if_there(named: str, file: str, instead: str) -> Path | None:
    """Do as `fetched`, but return None if the repository has no such file; the cache remembers that too.

    Raises:
        InputError: if the Hub cannot be reached, or does not know the repository, or the repository is gated or private.
    """
    from pathlib import Path

    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    repository, commit = named.split("@")
    cached = try_to_load_from_cache(repository, file, revision=commit)
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None
    try:
        return Path(hf_hub_download(repository, file, revision=commit))
    except GatedRepoError as error:
        hint = f"accept its terms at https://huggingface.co/{repository}, then set HF_TOKEN to a token of that account"
        raise InputError(f"{repository} is gated: its terms have to be accepted", hint=hint) from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{named} is not in the cache of this machine, and the Hugging Face Hub cannot be reached ({_reason(error)})",
            hint=f"once online, run this again; or {instead}",
        ) from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise _not_given(named, file, _reason(error)) from error


def _not_given(named: str, file: str, reason: str) -> InputError:
    repository, commit = named.split("@")
    return InputError(
        f"the Hugging Face Hub has no {file} of {named} for you ({reason})",
        hint=f"see https://huggingface.co/{repository}/tree/{commit}; for a private repository set HF_TOKEN",
    )


def _reason(error: Exception) -> str:
    """Return the first error, in one line."""
    import textwrap

    first = error.__cause__ or error
    return textwrap.shorten(f"{type(first).__name__}: {first}", 160, placeholder=" …")
