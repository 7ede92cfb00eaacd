"""Intervals of scores, and whether two models differ on the same questions.

Questions are the sample: what is asked is how far the score would be another with other questions of the same kind.
- Right or wrong: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial" (Biometrika 26,
  1934): at least 95 % whatever the share, and wide for few questions, so that none right of ten is not "0, surely".
- Shares between (pass@k of several samples): the percentile bootstrap over questions (Efron, Annals of Statistics 7, 1979). Of few
  questions it is too narrow: the count stands beside it.
- Two models, right or wrong: McNemar's test, exact (Biometrika 12, 1947): of the questions that only one of them got right, a coin.
- Two models, shares: the bootstrap over the differences, question by question.
Guarantee: the same numbers for the same questions in any order, and on any machine: draws are of numpy's legacy generator, whose stream
is frozen. Cost: the bootstrap draws how often each distinct value occurs, not questions, so that it takes milliseconds for any number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
NUM_DRAWS = 10_000
SEED = 0
_BISECTIONS = 60
"""Halvings of [0, 1]: more than the digits of a float64."""
_DIGITS = 12
"""Of a share, so that sums in another order are the same value."""

Shares = NDArray[np.float64]


class Interval(NamedTuple):
    """A score with the ends of its interval, and the method that gave them."""

    value: float
    low: float
    high: float
    method: str


class Difference(NamedTuple):
    """The second model's score less the first's on the same questions."""

    value: float
    low: float | None
    """Ends of the interval; None of a test that has none."""
    high: float | None
    p_value: float
    num_better: int
    """Questions on which the second is better."""
    num_worse: int
    method: str

    @property
    def is_shown(self) -> bool:
        """True where chance alone would rarely (one time in twenty) differ as much."""
        return self.p_value < 1 - CONFIDENCE


def interval_of(shares: Shares) -> Interval:
    """Return the mean of questions' shares of right answers, [n] in [0, 1], n > 0, with its interval."""
    ordered, counts = _distinct(shares)
    value = float(np.sum(ordered * counts) / counts.sum())
    if _is_binary(ordered):
        low, high = clopper_pearson(int(np.sum(ordered * counts)), int(counts.sum()))
        return Interval(value, low, high, "Clopper-Pearson")
    low, high = _percentiles(_draws(ordered, counts))
    return Interval(value, low, high, "bootstrap over questions")


def difference_of(first: Shares, second: Shares) -> Difference:
    """Return how the second model differs from the first, [n] shares each of the same n > 0 questions in the same order."""
    gains = np.round(second - first, _DIGITS)
    better, worse = int(np.count_nonzero(gains > 0)), int(np.count_nonzero(gains < 0))
    ordered, counts = _distinct(gains)
    value = float(np.sum(ordered * counts) / counts.sum())
    if _is_binary(np.concatenate([first, second])):
        return Difference(value, None, None, mcnemar_exact(better, worse), better, worse, "McNemar, exact")
    drawn = _draws(ordered, counts)
    rarer = min(int(np.count_nonzero(drawn <= 0)), int(np.count_nonzero(drawn >= 0)))
    low, high = _percentiles(drawn)
    return Difference(value, low, high, min(1.0, 2 * (rarer + 1) / (NUM_DRAWS + 1)), better, worse, "paired bootstrap over questions")


def clopper_pearson(num_right: int, num_questions: int) -> tuple[float, float]:
    """Return the exact interval of a share, from `num_right` of `num_questions`.

    Raises:
        ValueError: unless 0 <= num_right <= num_questions and there is a question.
    """
    if not 0 <= num_right <= num_questions or num_questions == 0:
        raise ValueError(f"{num_right} right of {num_questions} is no share")
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if num_right == 0 else _where_tail_is(tail, num_right, num_questions)
    high = 1.0 if num_right == num_questions else 1.0 - _where_tail_is(tail, num_questions - num_right, num_questions)
    return low, high


def mcnemar_exact(num_better: int, num_worse: int) -> float:
    """Return the two-sided p-value of a fair coin that fell `num_better` times on one side and `num_worse` on the other."""
    tosses, rarer = num_better + num_worse, min(num_better, num_worse)
    if num_better == num_worse:
        return 1.0
    return min(1.0, 2 * _tail(0.5, tosses - rarer, tosses))


def _where_tail_is(tail: float, at_least: int, trials: int) -> float:
    """Return the share for which `at_least` or more of `trials` have the probability `tail`; it grows with the share."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(middle, at_least, trials) < tail else (low, middle)
    return (low + high) / 2


def _tail(share: float, at_least: int, trials: int) -> float:
    """Return the probability of `at_least` or more right of `trials`, 0 < share < 1."""
    logs = _log_factorials(trials)
    numbers = np.arange(at_least, trials + 1)
    terms = logs[trials] - logs[numbers] - logs[trials - numbers] + numbers * math.log(share) + (trials - numbers) * math.log1p(-share)
    return min(1.0, math.fsum(np.exp(terms)))


def _log_factorials(last: int) -> Shares:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, last + 1)))])


def _distinct(values: Shares) -> tuple[Shares, NDArray[np.int64]]:
    """Return the distinct values, ascending, and how often each occurs."""
    rounded = np.asarray(np.round(values, _DIGITS), np.float64)
    ordered, counts = np.unique(rounded, return_counts=True)
    return ordered.astype(np.float64), counts.astype(np.int64)


def _is_binary(values: Shares) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _draws(ordered: Shares, counts: NDArray[np.int64]) -> Shares:
    """Return means of NUM_DRAWS samples of as many questions, drawn with replacement."""
    generator = np.random.RandomState(SEED)  # the one whose stream numpy promises never to change
    drawn = generator.multinomial(int(counts.sum()), counts / counts.sum(), NUM_DRAWS)
    means: Shares = np.round(drawn @ ordered / counts.sum(), _DIGITS)
    return means


def _percentiles(drawn: Shares) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)
