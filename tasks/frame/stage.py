"""The declaration of a stage: its config class, its function, whose signature declares inputs and outputs.

    @stage(libraries=("datasketch",))
    def near_dedup(docs: Docs, cfg: NearDedup, runtime: Runtime) -> tuple[Verdicts, Clusters]: ...

Parameter types say what is read, the return type says what is written, the module's name is the registration. An input that
may be absent says so too: `licenses: Licenses | None` is None where nothing above writes it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import pkgutil
import re
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, GetCoreSchemaHandler, SecretStr, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from starloom.lineage import keys
from starloom.lineage.errors import ConfigError, did_you_mean

T = TypeVar("T")

StageFunction = Callable[..., Any]


class _NotIdentity:
    """A marker of a knob that says where or how fast, never what."""


class _ContentIdentity:
    """A marker of a path whose identity is the bytes it leads to."""


RuntimeOnly = Annotated[T, _NotIdentity()]
"""A knob that never enters an action's key: workers, paths, devices."""


def _absolute(value: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder", ".")
    path = Path(folder, value).expanduser()
    if not path.is_file():
        raise ValueError(f"no file at {path}")
    return str(path.absolute())


class _NamesSource:
    """A marker of a word that names a source of `ingest`."""


SourceName = Annotated[str, _NamesSource()]
"""A source by the name that a recipe gives it: a plan refuses one that no step reads."""

File = Annotated[str, AfterValidator(_absolute), _ContentIdentity()]
"""A file named in a recipe, relative to the recipe's folder; its identity is its content."""


STRICT = ("int", "float", "bool")
"""Kinds of knob that only a value of that kind may fill: a whole number is a float too."""
EXPONENT_ALONE = re.compile(r"[-+]?\d+[eE][-+]?\d+")
"""A number that YAML 1.1, which requires a decimal point, reads as a string."""


def _with_strict_numbers(schema: Any) -> Any:
    """Return a copy of a pydantic core schema whose numbers and flags accept no value of another type."""
    if isinstance(schema, list | tuple):
        return type(schema)(_with_strict_numbers(inner) for inner in schema)
    if not isinstance(schema, dict):
        return schema
    copy = {name: inner if name in ("default", "metadata") else _with_strict_numbers(inner) for name, inner in schema.items()}
    if schema.get("type") not in STRICT:
        return copy
    copy["strict"] = True
    return core_schema.no_info_before_validator_function(_number, copy) if schema["type"] == "float" else copy


def _number(value: Any) -> Any:
    """Parse `1e-4` as a number."""
    return float(value) if isinstance(value, str) and EXPONENT_ALONE.fullmatch(value) else value


class Config(BaseModel):
    """Knobs of a stage. Each field is documented by the string under it: help, docs and forms read it there."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build a schema with strict numbers: neither `yes` counts as 1 nor a quoted word as what it spells, in any knob, however deep."""
        strict: CoreSchema = _with_strict_numbers(handler(source))
        return strict

    def identity(self) -> dict[str, Any]:
        """Return the part of this configuration that shapes the output, as plain JSON values."""
        named = {name: getattr(self, name) for name in type(self).model_fields if not self._is(name, _NotIdentity)}
        return {name: _plain(value, content=self._is(name, _ContentIdentity)) for name, value in named.items()}

    def adjustable(self) -> dict[str, float]:
        """Return the numbers of these knobs that shape the output, by their paths: what a what-if may vary."""
        named = {name: getattr(self, name) for name in type(self).model_fields if not self._is(name, _NotIdentity)}
        return {name: value for name, value in named.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}

    def named_sources(self) -> list[str]:
        """Return all sources that these knobs name."""
        found: list[str] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            values = value if isinstance(value, (list, tuple)) else [value]
            found += [source for each in values if isinstance(each, Config) for source in each.named_sources()]
            found += [each for each in values if isinstance(each, str) and self._is(name, _NamesSource)]
        return found

    def continuation(self) -> dict[str, Any]:
        """Return what must be equal for unfinished work to be continued; less than the identity, where a stage says so."""
        return self.identity()

    def check_plan(self, wired: Wired) -> None:
        """Refuse what the steps above can never give, before anything runs.

        Raises:
            ConfigError: naming the knob.
        """

    def check_here(self, step: str) -> None:
        """Refuse what this machine cannot do, where the step of that name would have to run.

        Raises:
            ConfigError: naming the knob.
        """

    def _is(self, name: str, marker: type) -> bool:
        field = type(self).model_fields[name]
        return any(isinstance(item, marker) for item in (*field.metadata, *_metadata(field.annotation)))


def _metadata(annotation: Any) -> list[Any]:
    """Return all metadata of `Annotated` inside a type: `File | None` and `list[File]` hold files too."""
    inner = typing.get_args(annotation)
    return [*getattr(annotation, "__metadata__", ()), *(item for part in inner for item in _metadata(part))]


def _plain(value: Any, *, content: bool = False) -> Any:
    if content and isinstance(value, str):
        return {"sha256": keys.file_digest(Path(value))}
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, SecretStr):
        return {"scrypt": _of_secret(value.get_secret_value())}
    if isinstance(value, (list, tuple)):
        return [_plain(item, content=content) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@functools.cache
def _of_secret(secret: str) -> str:
    """Return an identity that may be published: guessing the secret from it costs 16 MiB and tens of milliseconds a try."""
    return hashlib.scrypt(secret.encode(), salt=b"starloom", n=2**14, r=8, p=1, dklen=16).hex()


@dataclass(frozen=True)
class Wired:
    """A step of a plan as the knobs below it may see it."""

    name: str
    stage: str
    config: Config
    inputs: dict[str, Wired]
    """Parameter → the step that gives it; without what no step gives."""


class Runtime:
    """A stage's access to the machine it runs on. Nothing here shapes its output."""

    def __init__(
        self,
        scratch: Path,
        *,
        workers: int = 1,
        mapper: Callable[[Callable[[Any], Any], list[Any]], list[Any]] | None = None,
        on_progress: Callable[[int, int, str, dict[str, Any]], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self.scratch = scratch
        self.workers = workers
        self.notes: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.shown: dict[str, Path] = {}
        """Files to keep beside the outputs of a stage, by name."""
        self._mapper = mapper
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled or (lambda: False)

    @classmethod
    def alone(cls, scratch: Path) -> Runtime:
        """Return a runtime with one worker and everything in this process: for tests and for a stage run by itself."""
        scratch.mkdir(parents=True, exist_ok=True)
        return cls(scratch)

    def map(self, function: Callable[[Any], Any], items: typing.Iterable[Any]) -> list[Any]:
        """Return `[function(item) for item in items]`, computed by the worker processes, in order."""
        todo = list(items)
        return [function(item) for item in todo] if self._mapper is None else self._mapper(function, todo)

    def progress(self, done: int, total: int, unit: str = "parts", **metrics: Any) -> None:
        """Report progress; metrics are shown beside it."""
        if self._on_progress is not None:
            self._on_progress(done, total, unit, metrics)

    def tell(self, sentence: str) -> None:
        """Show this message about the step in the run and in every later plan; of several parts, the messages of each."""
        self.note(told=f"{self.notes['told']}; {sentence}" if "told" in self.notes else sentence)

    def note(self, **facts: Any) -> None:
        """Put facts about the work (seconds, tokens per second) into its record."""
        self.notes.update(facts)

    def count(self, **numbers: int) -> None:
        """Put numbers into the record of the work that add up over parts (documents, tokens)."""
        self.counts.update(numbers)

    def show(self, path: Path) -> None:
        """Keep a file, or all files of a folder, for whoever looks at the run: no artifact, in no key, and collected with the run."""
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        self.shown.update((file.relative_to(path.parent).as_posix(), file) for file in files)

    def draw(self, name: str, chart: str, **numbers: Any) -> None:
        """Show a picture. A stage that says what to draw, and leaves how to the frame, is not run again for a better picture.

        Args:
            name: of the PNG file.
            chart: a name in `starloom.tasks.frame.drawing`.
            numbers: its arguments, without the path.
        """
        from starloom.tasks.frame.drawing import CHARTS

        CHARTS[chart](**numbers, path=self.scratch / name)
        self.show(self.scratch / name)

    def subprocess(
        self,
        argv: list[str],
        on_line: Callable[[str], None] | None = None,
        env: dict[str, str] | None = None,
        *,
        grace_seconds: float = 2.5,
    ) -> None:
        """Run a child in a process group of its own, line by line; ended with all its children if the run is cancelled.

        Args:
            argv: command and arguments.
            on_line: called with each line that it prints.
            env: variables beside those of this process.
            grace_seconds: how long it may go on after it was asked to end.

        Raises:
            StageError: with its last lines, if it fails.
            Cancelled: if the run was asked to stop.
        """
        from starloom.tasks.frame.child import run_child

        run_child(argv, on_line=on_line, env=env, grace_seconds=grace_seconds, is_cancelled=self._is_cancelled)


@dataclass(frozen=True)
class Stage:
    """A stage as its module declares it."""

    name: str
    function: StageFunction
    config: type[Config]
    inputs: dict[str, type]
    """Parameter name → artifact type."""
    optional: frozenset[str]
    """Names of inputs that may be absent: nothing above writes them, and the function gets None."""
    outputs: tuple[type, ...]
    over: Literal["parts", "whole"] = "parts"
    libraries: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    prepare: Stage | None = None
    document: str = field(default="", repr=False)

    @property
    def module(self) -> str:
        """The module that declares it."""
        return self.function.__module__

    @property
    def label(self) -> str:
        """Name under which its actions are kept: `near_dedup`, and `near_dedup.signatures` for its first half."""
        home = self.module.rpartition(".")[2]
        return home if home == self.name else f"{home}.{self.name}"

    def prepared_config(self, config: Config) -> Config:
        """Return the knobs of `config` that the prepare step knows. They are validated already."""
        assert self.prepare is not None
        kind = self.prepare.config
        return kind.model_construct(**{name: getattr(config, name) for name in kind.model_fields})


def stage(
    *, over: Literal["parts", "whole"] = "parts", libraries: tuple[str, ...] = (), runs: tuple[str, ...] = (), prepare: Stage | None = None
) -> Callable[[StageFunction], Stage]:
    """Declare a stage.

    Args:
        over: `parts`: called once for each part and may not depend on how the corpus was cut; `whole`: called once.
        libraries: distributions whose version shapes the output.
        runs: project modules that it runs without importing them.
        prepare: a first half whose output is cached by its own, smaller set of knobs.
    """

    def declare(function: StageFunction) -> Stage:
        return _declared(function, over=over, libraries=libraries, runs=runs, prepare=prepare)

    return declare


def prepare(*, over: Literal["parts", "whole"] = "parts", libraries: tuple[str, ...] = ()) -> Callable[[StageFunction], Stage]:
    """Declare the first half of a stage: part by part, before what sees the whole; or over the whole, before what goes part by part."""

    def declare(function: StageFunction) -> Stage:
        return _declared(function, over=over, libraries=libraries, runs=(), prepare=None)

    return declare


def _declared(
    function: StageFunction, *, over: Literal["parts", "whole"], libraries: tuple[str, ...], runs: tuple[str, ...], prepare: Stage | None
) -> Stage:
    hints = typing.get_type_hints(function)
    returned = hints.pop("return")
    config = hints.pop("cfg")
    hints.pop("runtime")
    outputs = typing.get_args(returned) if typing.get_origin(returned) is tuple else (returned,)
    if prepare is not None and not issubclass(config, prepare.config):
        raise TypeError(f"{function.__name__}: {config.__name__} must extend {prepare.config.__name__}, the knobs of its first half")
    document = importlib.import_module(function.__module__).__doc__ or ""
    optional = frozenset(name for name, hint in hints.items() if NoneType in typing.get_args(hint))
    inputs = {name: next((kind for kind in typing.get_args(hint) if kind is not NoneType), hint) for name, hint in hints.items()}
    return Stage(function.__name__, function, config, inputs, optional, outputs, over, libraries, runs, prepare, document)


def stage_names() -> list[str]:
    """Return the names of all stages, from the files of this package; imports none of them."""
    package = importlib.import_module("starloom.tasks")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)


def load_stage(name: str) -> Stage:
    """Return the stage of that name.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    known = stage_names()
    if name not in known:
        raise ConfigError(f"there is no stage {name!r}", hint=did_you_mean(name, known))
    declared = getattr(importlib.import_module(f"starloom.tasks.{name}"), name)
    assert isinstance(declared, Stage), f"starloom.tasks.{name}.{name} is not declared with @stage"
    return declared


def registry() -> dict[str, Stage]:
    """Return all stages by name."""
    return {name: load_stage(name) for name in stage_names()}
