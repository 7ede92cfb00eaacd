"""Errors shown to users: what failed, with which value, why it is refused, what to do next."""

from __future__ import annotations


class StarloomError(Exception):
    """An error with a remedy. `message` says what failed and why; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log
        """What whoever mends a fault of ours reads besides: a traceback. It belongs to the log of the step, and is no part of the text."""

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.log))


def _rebuild(kind: type[StarloomError], message: str, hint: str | None, log: str) -> StarloomError:
    """Unpickle an error: keyword-only arguments do not survive the default pickling, and errors cross process borders."""
    return kind(message, hint=hint, log=log)


class ConfigError(StarloomError):
    """An invalid recipe, knob or command line. Raised before anything is written."""

    exit_code = 2


class InputError(StarloomError):
    """A source or file that cannot be used as it is."""


class StageError(StarloomError):
    """A failure of a stage on a part."""


class StoreError(StarloomError):
    """A store that cannot be read or written."""


class CorruptError(StoreError):
    """A stored object whose bytes do not match the hash in its name."""


class MissingError(CorruptError):
    """A record that names an object which is not in the store."""


class Cancelled(StarloomError):  # noqa: N818 - it is no error of anybody's
    """A run that was asked to stop."""


SHOWN_WORDS = 12


def did_you_mean(word: str, known: list[str]) -> str:
    """Suggest a fix for a misspelt word: the nearest known one, else all of them (a dozen at most)."""
    import difflib

    if not known:
        return "none exists yet"

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(sorted(known)[:SHOWN_WORDS])
    return f"known: {shown}" + (" …" if len(known) > SHOWN_WORDS else "")
