"""The learning rate of each step, by the two schedules."""

from pathlib import Path

import pytest

from starloom.model.train import learning_rate_at
from tests.trainings import job_of


def test_the_schedule_climbs_then_falls_to_its_minimum():
    training = job_of(Path("x"), [Path("x")]).training
    rates = [learning_rate_at(step, training) for step in range(1, 151)]
    assert rates[:10] == pytest.approx([3e-4 * step for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[79] == pytest.approx((3e-3 + 3e-4) / 2)  # half-way down at half time
    assert rates[-1] == pytest.approx(3e-4)


def test_the_other_schedule_stays_at_its_peak_and_decays_at_the_end():
    training = job_of(Path("x"), [Path("x")], schedule="wsd", decay_steps=40).training
    rates = [learning_rate_at(step, training) for step in range(1, 151)]
    assert rates[9:110] == [3e-3] * 101
    assert rates[109:] == sorted(rates[109:], reverse=True)
    assert rates[119] == pytest.approx(3e-4 + 2.7e-3 * (1 - 0.5))  # a quarter of the decay: 1 - sqrt(1/4)
    assert rates[-1] == pytest.approx(3e-4)
