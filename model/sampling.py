"""The next token of every row of a batch: its likeliest, or a draw of its own from the nucleus.

Nucleus sampling is that of Holtzman et al. 2020 (arXiv 1904.09751). Sums are taken in fp64 on the CPU, where their order is always the
same. Where the nucleus ends is read off the sorted probabilities; the tokens are not sorted with them, which is ten times the work.

Shapes: B rows, R of them drawn, V tokens of the vocabulary.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def choose(logits_BV: Tensor, temperature_B: Sequence[float], top_p_B: Sequence[float], uniform_B: Sequence[float]) -> list[int]:
    """Choose the next token of every row.

    Args:
        logits_BV: scores of the tokens.
        temperature_B: 0 takes the likeliest token.
        top_p_B: a draw is from the fewest tokens that hold this share of the probability.
        uniform_B: the number in [0, 1) that decides the draw.
    """
    drawn = [row for row, temperature in enumerate(temperature_B) if temperature]
    if len(drawn) == len(temperature_B):
        return draw(logits_BV, temperature_B, top_p_B, uniform_B)
    tokens: list[int] = logits_BV.argmax(-1).tolist()
    if drawn:
        knobs = ([values[row] for row in drawn] for values in (temperature_B, top_p_B, uniform_B))
        for row, token in zip(drawn, draw(logits_BV[drawn], *knobs), strict=True):
            tokens[row] = token
    return tokens


def draw(logits_RV: Tensor, temperature_R: Sequence[float], top_p_R: Sequence[float], uniform_R: Sequence[float]) -> list[int]:
    """Draw a token of the nucleus of each row.

    The number drawn is laid along the tokens in the order of their ids, so that two tokens as likely as each other but for rounding
    cannot change places under it.
    """
    temperature_R1 = torch.tensor(temperature_R, dtype=torch.float64)[:, None]
    probability_RV = (logits_RV.cpu().double() / temperature_R1).softmax(-1).numpy()
    tokens = []
    for probability_V, top_p, number in zip(probability_RV, top_p_R, uniform_R, strict=True):
        inside = np.flatnonzero(in_nucleus(probability_V, top_p))
        cumulative = probability_V[inside].cumsum()
        tokens.append(int(inside[cumulative.searchsorted(number * cumulative[-1], side="right")]))
    return tokens


def in_nucleus(probability_V: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Return the smallest set of likeliest tokens that holds `top_p`; of equally likely tokens the lower id comes first."""
    if top_p == 1:
        return probability_V > 0
    likeliest_V = np.sort(probability_V)[::-1]
    size = np.count_nonzero(likeliest_V.cumsum() - likeliest_V < top_p)
    is_inside_V: NDArray[np.bool_] = probability_V >= likeliest_V[size - 1]
    num_equal_too_many = np.count_nonzero(is_inside_V) - size
    if num_equal_too_many:
        is_inside_V[np.flatnonzero(probability_V == likeliest_V[size - 1])[-num_equal_too_many:]] = False
    return is_inside_V


def uniform(seed: int, task_id: str, sample: int, position: int) -> float:
    """Return a number in [0, 1) that depends on this seed, task, sample and position alone."""
    name = repr((seed, task_id, sample, position))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big") / 2**48
