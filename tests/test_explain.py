"""The words in which a plan says what changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starloom.flows.explain import reasons
from starloom.lineage.records import Components

BEFORE = Components(
    stage="near_dedup",
    code={"tasks/near_dedup.py": "a", "tasks/kernels/lsh.py": "b"},
    config={"threshold": 0.7, "nested": {"knob": 1}},
    libraries={"datasketch": "2.0"},
    inputs={"docs": ["x", "y", "z"], "tokenizer": "t"},
    format=1,
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"code": {"tasks/near_dedup.py": "a", "tasks/kernels/lsh.py": "c"}}, "code: tasks/kernels/lsh.py"),
        ({"code": {"tasks/near_dedup.py": "a"}}, "code: tasks/kernels/lsh.py"),
        ({"config": {"threshold": 0.6, "nested": {"knob": 1}}}, "config.threshold 0.7 → 0.6"),
        ({"config": {"threshold": 0.7, "nested": {"knob": 2}}}, "config.nested.knob 1 → 2"),
        ({"libraries": {"datasketch": "2.1"}}, "library: datasketch 2.0 → 2.1"),
        ({"inputs": {"docs": ["x", "y", "w"], "tokenizer": "t"}}, "input: part 2 of docs"),
        ({"inputs": {"docs": ["q", "y", "w"], "tokenizer": "t"}}, "input: parts 0, 2 of docs"),
        ({"inputs": {"docs": ["x", "y", "z", "w"], "tokenizer": "t"}}, "input: docs has 4 parts, had 3 (1 new)"),
        ({"inputs": {"docs": ["x", "y", "z"], "tokenizer": "u"}}, "input: tokenizer"),
        ({"inputs": {**BEFORE.inputs, "licenses": ["l"]}}, "input: licenses was not read before"),
        ({"inputs": {"docs": ["x", "y", "z"]}}, "input: tokenizer is no longer read"),
        ({"format": 2}, "store format 1 → 2"),
    ],
)
def test_each_component_that_changed_is_named(change, said):
    now = replace(BEFORE, **change)
    assert reasons(now, BEFORE.to_json()) == (said,)
    assert now.key != BEFORE.key


def test_what_was_never_run_and_what_was_lost_are_said_apart():
    assert reasons(BEFORE, None) == ("never run with this store",)
    assert reasons(BEFORE, BEFORE.to_json()) == ("its result is no longer in the store",)


def test_reasons_are_bounded():
    now = replace(BEFORE, config={f"knob{i}": i for i in range(20)}, format=2)
    found = reasons(now, BEFORE.to_json())
    assert len(found) == 5
    assert found[-1] == "and 19 more changes"
