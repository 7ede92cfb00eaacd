"""What a manifest declares: a licence of a folder, of some files in it, or the file that holds it."""

from typing import NamedTuple

MAX_MANIFEST = 1_000_000
"""Characters of a manifest that is read: a hundred times the usual."""


class UnreadableManifestError(ValueError):
    """A manifest that is not of its own format."""


class Declaration(NamedTuple):
    """One declaration of a manifest."""

    expression: str | None
    """SPDX expression; None: what it declares is not understood, or stands in `target`."""
    line: int
    """From 1."""
    quoted: str = ""
    """Its words."""
    target: str | None = None
    """File that holds the licence, relative to the manifest."""
    paths: tuple[str, ...] = ()
    """Patterns of the files that it speaks of, relative to its scope, `*` any characters; none: all."""
    overrides: bool = False
    """Whether what the files themselves say is overruled."""
