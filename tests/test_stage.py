"""Configs: what is identity and what is not; files, secrets; stages that are declared wrongly."""

from __future__ import annotations

import json

import pytest
from pydantic import Field, SecretStr

from starloom.tasks.frame.stage import Config, File, Runtime, RuntimeOnly, load_stage, prepare, stage
from starloom.tasks.schemas import Docs, Licenses, Signals, Verdicts


class Inner(Config):
    """Knobs within knobs."""

    limit: int = 1
    """A limit."""
    place: RuntimeOnly[str] = "here"
    """Where."""


class Knobs(Config):
    """Knobs."""

    threshold: float = Field(0.5, gt=0)
    """A threshold."""
    workers: RuntimeOnly[int] = 1
    """Workers."""
    inner: tuple[Inner, ...] = ()
    """More."""
    path: File | None = None
    """A file."""
    paths: tuple[File, ...] = ()
    """Files."""
    key: SecretStr = SecretStr("public")
    """A key."""


def test_where_and_how_fast_is_no_identity():
    assert Knobs(workers=1).identity() == Knobs(workers=9).identity()
    assert Knobs(inner=(Inner(place="a"),)).identity() == Knobs(inner=(Inner(place="b"),)).identity()
    assert Knobs(inner=(Inner(limit=2),)).identity() != Knobs(inner=(Inner(),)).identity()
    assert Knobs(threshold=0.6).identity() != Knobs().identity()


def test_a_file_is_its_content_wherever_it_lies(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    found = {name: Knobs.model_validate({"path": name}, context={"folder": str(tmp_path)}).identity() for name in "abc"}
    assert found["a"] == found["b"] != found["c"]
    several = {name: Knobs.model_validate({"paths": [name]}, context={"folder": str(tmp_path)}).identity() for name in "abc"}
    assert several["a"] == several["b"] != several["c"]
    with pytest.raises(ValueError, match="no file at .*nothing"):
        Knobs.model_validate({"path": "nothing"}, context={"folder": str(tmp_path)})


def test_a_secret_is_in_no_identity_and_no_record():
    knobs = Knobs(key=SecretStr("hunter2"))
    assert knobs.identity() != Knobs().identity()
    assert "hunter2" not in json.dumps(knobs.identity()) + json.dumps(knobs.model_dump(mode="json")) + repr(knobs)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Knobs().threshold = 0.9  # type: ignore[misc]  # refused by the type checker too


def test_the_signature_is_the_declaration():
    @prepare()
    def half(docs: Docs, cfg: Inner, runtime: Runtime) -> Verdicts: ...

    with pytest.raises(TypeError, match="must extend Inner"):

        @stage(prepare=half)
        def whole(docs: Docs, verdicts: Verdicts, cfg: Knobs, runtime: Runtime) -> Verdicts: ...

    assert half.inputs == {"docs": Docs}
    assert half.optional == set()
    assert half.outputs == (Verdicts,)


def test_an_input_that_may_be_none_is_optional():
    @stage()
    def judged(docs: Docs, licenses: Licenses | None, signals: Signals | None, cfg: Inner, runtime: Runtime) -> Verdicts: ...

    assert judged.inputs == {"docs": Docs, "licenses": Licenses, "signals": Signals}
    assert judged.optional == {"licenses", "signals"}


def test_the_knobs_of_a_first_half_are_those_that_it_declares():
    near = load_stage("near_dedup")
    changed = near.config.model_validate({"threshold": 0.9})
    assert set(type(near.prepared_config(changed)).model_fields) == set(near.prepare.config.model_fields)
    assert near.prepared_config(changed) == near.prepared_config(near.config())


def test_runtime_map_keeps_order_and_notes_what_it_is_told(tmp_path):
    runtime = Runtime.alone(tmp_path)
    assert runtime.map(str, range(5)) == ["0", "1", "2", "3", "4"]
    runtime.note(seconds=1)
    runtime.progress(1, 2)
    assert runtime.notes == {"seconds": 1}
