"""pass@k against exact combinatorics, and against drawing every subset."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.programs.pass_at_k import pass_at_k


@st.composite
def counts(draw, max_samples=200):
    num_samples = draw(st.integers(1, max_samples))
    return num_samples, draw(st.integers(0, num_samples)), draw(st.integers(1, num_samples))


@given(counts())
def test_is_the_exact_fraction(case):
    num_samples, num_correct, k = case
    exact = 1 - Fraction(comb(num_samples - num_correct, k), comb(num_samples, k))
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(float(exact), abs=1e-12)


@given(counts(max_samples=8))
def test_is_the_share_of_subsets_that_hold_a_right_one(case):
    num_samples, num_correct, k = case
    draws = list(combinations(range(num_samples), k))
    share = sum(min(draw) < num_correct for draw in draws) / len(draws)
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(share)


def test_of_one_sample_each_it_is_the_share_of_right_ones():
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)


@pytest.mark.parametrize("case", [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0), (0, 0, 1)])
def test_refuses_what_is_not_defined(case):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(*case)
