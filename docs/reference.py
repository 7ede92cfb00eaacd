"""The reference pages, written from the code: `python -m docs.reference` brings them up to date, a test keeps them so.

docs/stages.md        whole: every stage of the registry, every knob of its config class
docs/store-format.md  the part between the marks: the columns of every artifact
"""

from __future__ import annotations

import json
import re
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, SecretStr, ValidationError

from starloom.cli.stages import describe
from starloom.lineage.views import Files
from starloom.tasks.frame.stage import Config, File, RuntimeOnly, registry
from starloom.tasks.schemas import ARTIFACTS

if TYPE_CHECKING:
    import pyarrow as pa
    from pydantic.fields import FieldInfo

    from starloom.tasks.frame.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
STAGES, STORE = ROOT / "docs" / "stages.md", ROOT / "docs" / "store-format.md"
BEGIN, END = "<!-- written by docs/reference.py -->", "<!-- end -->"
SIGNS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "at least {} long", "max_length": "at most {} long"}
NOT_IDENTITY, CONTENT = type(typing.get_args(RuntimeOnly[str])[1]), type(typing.get_args(File)[2])
"""What marks a knob that is in no key, and one that is a file."""
WORDS = {int: "int", float: "float", bool: "bool", str: "str", types.NoneType: "null", SecretStr: "str, kept secret", Any: "any"}
"""Kinds of knob as YAML's readers know them."""
INTRODUCTION = """\
# Stages

Every stage, what it reads and writes, and every knob. `make docs` writes this page from the code: it says what
`starloom stage NAME --help` says. The artifacts (`Docs`, `Verdicts`, …) are in [store-format.md](store-format.md), how a recipe names
stages and knobs in [recipe.md](recipe.md), the words in [glossary.md](glossary.md).

- A stage works *part by part*, or *over the whole corpus* at once. A *first half* is cached by its own, fewer knobs: a change of the others
  does not run it again.
- A knob marked ° says where or how fast, never what: its value is in no key, and changing it alone runs nothing again.
- `required` has no default; for `train_model` and its `preset`, that is where the preset gives none.
- The table has the limits of each knob. What several knobs owe one another is checked when a recipe is read, and refused with its reason.
"""


def main() -> int:
    """Write what is out of date."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


def pages() -> dict[Path, str]:
    """Page → its text as the code would have it."""
    return {STAGES: stages_page(registry()), STORE: _between_marks(STORE.read_text(), artifacts_section())}


def _between_marks(page: str, section: str) -> str:
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{section}\n{END}{rest.partition(END)[2]}"


# Stages


def stages_page(stages: dict[str, Stage]) -> str:
    """Return the page of all stages, in the order of their names."""
    rows = []
    for name, stage in stages.items():
        told = describe(stage)
        reads = [kind + " (optional)" * (parameter in told["optional"]) for parameter, kind in told["reads"].items()]
        rows.append([f"[{name}](#{name})", ", ".join(reads), ", ".join(told["writes"])])
    return "\n".join([INTRODUCTION, _table(["stage", "reads", "writes"], rows), "", *map(_stage, stages.values())])


def _stage(stage: Stage) -> str:
    sentence, _, rest = stage.document.strip().partition("\n")
    how = "over the whole corpus" if stage.over == "whole" else "part by part"
    facts = [f"Works {how}."]
    if stage.prepare is not None:
        half, way = stage.prepare, "over the whole corpus" if stage.prepare.over == "whole" else "part by part"
        writes = ", ".join(kind.__name__ for kind in half.outputs)
        knobs = ", ".join(f"`{name}`" for name in half.config.model_fields) or "none"
        facts.append(f"First half: `{half.label}`, {way}, writes {writes}; its knobs: {knobs}.")
    libraries = sorted({*stage.libraries, *(stage.prepare.libraries if stage.prepare else ())})
    if libraries:
        facts.append(f"In its key: the {'version' if len(libraries) == 1 else 'versions'} of {', '.join(libraries)}.")
    detail = f"\n```text\n{rest.strip()}\n```\n" if rest.strip() else ""
    return f"## {stage.name}\n\n{sentence}\n{detail}\n{' '.join(facts)}\n\n{_knobs(stage.config)}"


def _knobs(config: type[BaseModel]) -> str:
    """Return the table of a config's knobs, and one of each config that is nested in it."""
    if not config.model_fields:
        return "It has no knobs.\n"
    found, todo = [], [config]
    while todo:
        one = todo.pop(0)
        heading = "" if one is config else f"A `{one.__name__}`: {_sentence(one.__doc__)}\n\n"
        identity = _identity(one)
        rows = [_knob(name, field, is_identity=name in identity) for name, field in one.model_fields.items()]
        found.append(heading + _table(["knob", "type", "default", "limits", "what it says"], rows) + "\n")
        inner = [kind for field in one.model_fields.values() for kind in _nested(field.annotation)]
        todo += [kind for kind in dict.fromkeys(inner) if kind not in todo]
    return "\n".join(found)


def _identity(config: type[BaseModel]) -> set[str]:
    """Names of the knobs that are in a key."""
    if not issubclass(config, Config):  # it stands within a knob, and counts as a whole
        return set(config.model_fields)
    try:
        return set(config.model_validate({}).identity())
    except ValidationError:  # it has knobs without a default; then those are left out that are marked
        marks = {name: [*field.metadata, *_annotated(field.annotation)] for name, field in config.model_fields.items()}
        return {name for name, found in marks.items() if not any(isinstance(mark, NOT_IDENTITY) for mark in found)}


def _knob(name: str, field: FieldInfo, *, is_identity: bool) -> list[str]:
    metadata = [*field.metadata, *_annotated(field.annotation)]
    limits = dict.fromkeys([*_limits(field.metadata), *_limits_inside(field.annotation, each="")])
    mark = "" if is_identity else "°"
    kind = "file" if any(isinstance(item, CONTENT) for item in metadata) and field.annotation is str else spelled(field.annotation)
    return [f"`{name}`{mark}", kind, _default(field), ", ".join(limits), _sentence(field.description)]


def spelled(kind: Any) -> str:
    """Return a type as a reader of recipes would say it; choices are spelt out."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return "file" if any(isinstance(item, CONTENT) for item in inner) else spelled(inner[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    each = list(dict.fromkeys(spelled(one) for one in inner if one is not Ellipsis))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(each)
    if origin in (list, set, tuple):
        return f"list of {', '.join(each)}"
    if origin is dict:
        return f"mapping of {each[0]} to {each[-1]}"
    return WORDS.get(kind, f"`{kind.__name__}`")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json", exclude_defaults=True)
    elif isinstance(default, (list, tuple)):
        default = [one.model_dump(mode="json", exclude_defaults=True) if isinstance(one, BaseModel) else one for one in default]
    text = (
        json.dumps(default, ensure_ascii=False, default=lambda secret: secret.get_secret_value()).replace(f"{ROOT}/", "").replace('"', "")
    )
    return f"`{text}`"


def _limits(metadata: list[Any]) -> list[str]:
    found = []
    for item in metadata:
        found += [sign.format(f"{limit:,}") for name, sign in SIGNS.items() if (limit := getattr(item, name, None)) is not None]
        found += [f"matches `{item.pattern}`"] if getattr(item, "pattern", None) else []
        found += _limits(getattr(item, "metadata", []))
    return found


def _limits_inside(annotation: Any, each: str) -> list[str]:
    """Limits that stand inside a type: of `float | None` those of the knob, of a list those of each that it holds."""
    origin = typing.get_origin(annotation)
    own = [f"{each}{limit}" for limit in _limits(list(getattr(annotation, "__metadata__", ())))]
    inner = "each " if origin in (list, set, tuple, dict) else each
    return own + [limit for part in typing.get_args(annotation) for limit in _limits_inside(part, inner)]


def _annotated(annotation: Any) -> list[Any]:
    inner = typing.get_args(annotation)
    return [*getattr(annotation, "__metadata__", ()), *(item for part in inner for item in _annotated(part))]


def _nested(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in typing.get_args(annotation) for kind in _nested(part)]


# Artifacts


def artifacts_section() -> str:
    """Describe every artifact and its columns."""
    found = []
    for name, kind in ARTIFACTS.items():
        text = _paragraphs(kind.__doc__)
        if issubclass(kind, Files):
            found.append(
                f"### {name}\n\n{text}\n\nFiles, not Parquet: each object lies under `objects/files/`, its `name` is in the manifest.\n"
            )
            continue
        loose = f" The width of {' and '.join(f'`{column}`' for column in sorted(kind.LOOSE))} may be less: `uint16` where ids fit."
        more = (loose if kind.LOOSE else "") + (" A writer may add columns of its own." if kind.OPEN else "")
        rows = [[f"`{field.name}`", _arrow(field.type), "yes" if field.nullable else ""] for field in kind.SCHEMA]
        told = f"Row groups of {kind.ROWS_PER_GROUP:,} rows.{more}"
        found.append(f"### {name}\n\n{text}\n\n{_table(['column', 'type', 'may be null'], rows)}\n\n{told}\n")
    return "\n".join(found)


def _arrow(kind: pa.DataType) -> str:
    return f"`{re.sub('item: | not null', '', str(kind))}`"


# Markdown


def _table(headers: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(headers), "|" + "---|" * len(headers), *map(line, rows)])


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(_sentence(paragraph) for paragraph in (text or "").split("\n\n"))


if __name__ == "__main__":
    raise SystemExit(main())
