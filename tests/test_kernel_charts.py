"""Pictures: the same numbers give the same bytes, and the numbers on them are those given."""

from __future__ import annotations

import hashlib
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from starloom.tasks.reporting.charts import (
    MANY,
    SMOOTHING_SHARE,
    fertility,
    funnel,
    loss_curve,
    readable_bytes,
    readable_share,
    running_mean,
    training_curves,
)

PNG = b"\x89PNG\r\n\x1a\n"
STEPS = np.arange(1, 101)
LOSSES = 3 + 6 * np.exp(-STEPS / 20)


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_loss_curve_bytes_depend_on_the_numbers_alone(tmp_path):
    loss_curve(STEPS, LOSSES, tmp_path / "a.png", "demo")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 20}):  # somebody else's style
        loss_curve(STEPS, LOSSES, tmp_path / "b.png", "demo")
        assert mpl.rcParams["axes.facecolor"] == "red"
    loss_curve(STEPS, LOSSES + 1, tmp_path / "c.png", "demo")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert digest(tmp_path / "a.png") == digest(tmp_path / "b.png") != digest(tmp_path / "c.png")
    assert b"Software" not in (tmp_path / "a.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("losses", [[], [2.0], [np.nan, np.nan], [2.0, np.nan, 3.0]])
def test_loss_curve_of_hardly_anything(losses, tmp_path):
    loss_curve(np.arange(len(losses)), np.array(losses), tmp_path / "a.png", "demo")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_training_curves_show_each_of_their_numbers(tmp_path):
    heldout = {"step": [50, 100, 100], "language": [None, None, "C"], "loss": [4.0, 3.5, 3.0]}
    numbers: dict[str, Any] = {"steps": STEPS, "losses": LOSSES, "learning_rates": STEPS / 1e5, "heldout": heldout}
    changed: list[dict[str, Any]] = [
        {"losses": LOSSES + 1},
        {"learning_rates": STEPS[::-1] / 1e5},
        {"heldout": heldout | {"loss": [4.0, 3.5, 3.1]}},
        {"heldout": heldout | {"language": [None, None, "Go"]}},
    ]
    for number, change in enumerate([{}, {}, *changed]):
        training_curves(**(numbers | change), path=tmp_path / f"{number}.png", title="demo")
    assert digest(tmp_path / "0.png") == digest(tmp_path / "1.png")
    assert len({digest(tmp_path / f"{number}.png") for number in range(6)}) == 5


@pytest.mark.parametrize(("num_steps", "num_groups"), [(0, 0), (1, 0), (2, len(MANY) + 3)])
def test_training_curves_of_hardly_anything_and_of_many_groups(num_steps, num_groups, tmp_path):
    steps = np.arange(num_steps)
    languages = [f"language {i}" for i in range(num_groups)]
    heldout: dict[str, list[Any]] = {"step": [1] * num_groups, "language": languages, "loss": [2.0] * num_groups}
    training_curves(steps, steps + 1.0, steps + 1.0, heldout, tmp_path / "a.png", "demo")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_funnel_bytes_depend_on_the_numbers_alone(tmp_path):
    rows = (["ingest", "quality_filter", "near_dedup"], [100, 90, 60], [10_000, 9_500, 7_000])
    funnel(*rows, tmp_path / "a.png")
    funnel(*rows, tmp_path / "b.png")
    funnel(*rows[:2], [10_000, 9_500, 5_000], tmp_path / "c.png")
    assert digest(tmp_path / "a.png") == digest(tmp_path / "b.png") != digest(tmp_path / "c.png")


@pytest.mark.parametrize(("docs", "num_bytes"), [([], []), ([0], [0]), ([0, 0], [0, 0])])
def test_funnel_of_nothing(docs, num_bytes, tmp_path):
    funnel([f"step {i}" for i in range(len(docs))], docs, num_bytes, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_fertility_bytes_depend_on_the_numbers_alone(tmp_path):
    names = ["all languages", "Python", "C"]
    for name, ours, reference in (("a", [3.4, 3.5, 3.1], None), ("b", [3.4, 3.5, 3.1], None), ("c", [3.4, 3.5, 3.2], None), ("d", [3.4, 3.5, 3.1], [3.0, 3.6, 3.1])):  # fmt: skip  # noqa: E501
        fertility(names, ours, reference, tmp_path / f"{name}.png")
    assert digest(tmp_path / "a.png") == digest(tmp_path / "b.png")
    assert len({digest(tmp_path / f"{name}.png") for name in "acd"}) == 3


@pytest.mark.parametrize("reference", [None, []])
def test_fertility_of_nothing(reference, tmp_path):
    fertility([], [], reference, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


@given(hnp.arrays(np.float64, st.integers(0, 200), elements=st.floats(-1e3, 1e3) | st.just(np.nan)))
def test_running_mean_is_the_mean_of_its_window(values):
    window = max(1, round(len(values) * SMOOTHING_SHARE))
    for last, mean in enumerate(running_mean(values)):
        inside = [value for value in values[max(0, last - window + 1) : last + 1] if np.isfinite(value)]
        assert mean == pytest.approx(sum(inside) / len(inside), abs=1e-6) if inside else np.isnan(mean)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (41_300_000, "41.3 MB"), (2_500_000_000_000_000_000, "2500.0 PB")],
)
def test_readable_bytes(num_bytes, text):
    assert readable_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 10, "0.0%"), (1, 10_000, "<0.1%"), (1, 2000, "0.1%"), (47, 1000, "4.7%"), (3, 3, "100.0%"), (0, 0, "0.0%")],
)
def test_readable_share_prints_nothing_only_for_nothing(part, whole, text):
    assert readable_share(part, whole) == text
