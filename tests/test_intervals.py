"""Intervals of scores and differences of two models, against scipy and against drawing questions one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from starloom.tasks.kernels.programs import intervals
from starloom.tasks.kernels.programs.intervals import clopper_pearson, difference_of, interval_of, mcnemar_exact
from tests.sizes import examples

SHARES = st.lists(st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]), min_size=1, max_size=40)


@pytest.mark.parametrize("trials", [1, 2, 10, 164, 1000])
def test_the_exact_interval_is_scipys(trials):
    for right in {0, 1, trials // 3, trials // 2, trials - 1, trials}:
        wanted = stats.binomtest(right, trials).proportion_ci(0.95, "exact")
        assert clopper_pearson(right, trials) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@pytest.mark.parametrize(("right", "trials"), [(-1, 3), (4, 3), (0, 0)])
def test_what_is_no_share_is_refused(right, trials):
    with pytest.raises(ValueError, match="is no share"):
        clopper_pearson(right, trials)


@settings(max_examples=examples(40))
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_test_of_a_fair_coin(better, worse):
    wanted = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert mcnemar_exact(better, worse) == pytest.approx(wanted, rel=1e-9)


@settings(max_examples=examples(30))
@given(SHARES, st.randoms(use_true_random=False))
def test_an_interval_holds_its_score_and_no_order_changes_it(shares, random):
    found = interval_of(np.array(shares))
    assert found.value == pytest.approx(np.mean(shares))
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1
    mixed = random.sample(shares, len(shares))
    assert interval_of(np.array(mixed)) == found


def test_the_bootstrap_is_that_of_questions_drawn_one_by_one():
    shares = np.random.default_rng(1).choice([0.0, 0.1, 0.45, 0.8, 1.0], 60)
    drawn = np.random.default_rng(2).choice(shares, (20_000, 60)).mean(axis=1)
    found = interval_of(shares)
    assert found.method == "bootstrap over questions"
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.012)
    assert interval_of(shares) == found


def test_nothing_right_is_not_surely_nothing():
    none, every = interval_of(np.zeros(10)), interval_of(np.ones(10))
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025**0.1))
    assert (every.low, every.high) == pytest.approx((0.025**0.1, 1))
    assert none.method == every.method == "Clopper-Pearson"


def test_the_paired_bootstrap_is_that_of_differences_drawn_one_by_one():
    rng = np.random.default_rng(3)
    first = rng.choice([0.0, 0.2, 0.5], 80)
    second = np.clip(first + rng.choice([-0.1, 0.0, 0.2], 80), 0, 1)
    drawn = rng.choice(second - first, (20_000, 80)).mean(axis=1)
    found = difference_of(first, second)
    assert found.value == pytest.approx((second - first).mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert found.num_better == np.count_nonzero(second > first)
    assert found.num_worse == np.count_nonzero(second < first)
    assert found.is_shown is (found.p_value < 0.05)


@settings(max_examples=examples(30))
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_of_right_and_wrong_it_is_mcnemars(pairs):
    first, second = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    found = difference_of(first, second)
    better, worse = int(((first == 0) & (second == 1)).sum()), int(((first == 1) & (second == 0)).sum())
    assert (found.num_better, found.num_worse, found.method) == (better, worse, "McNemar, exact")
    assert found.p_value == mcnemar_exact(better, worse)
    assert found.value == pytest.approx((better - worse) / len(pairs))


def test_a_model_does_not_differ_from_itself():
    shares = np.array([0.1, 0.3, 0.3, 1.0])
    found = difference_of(shares, shares)
    assert (found.value, found.low, found.high, found.is_shown) == (0, 0, 0, False)
    assert found.p_value == 1


def test_the_frozen_stream_gives_these_numbers():
    found = interval_of(np.array([0.0, 0.5, 0.5, 1.0, 0.25]))
    assert (intervals.NUM_DRAWS, found.value) == (10_000, 0.45)
    assert (round(found.low, 6), round(found.high, 6)) == (0.15, 0.75)
