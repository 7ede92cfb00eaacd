"""The unbiased estimate of pass@k: the chance that one of k samples of a model solves a problem.

Chen et al., "Evaluating Large Language Models Trained on Code" (2021), arXiv 2107.03374, §2.1, in the numerically
stable form of its figure 3. Of n samples c are right; k are drawn without replacement:

    pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1 .. n} (1 - k / i),    and 1 where n - c < k

Guarantee: equal to the exact fraction to a few units in the last place. Cost: c multiplications for each problem.
"""

from __future__ import annotations

import numpy as np


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the estimate for one problem.

    Raises:
        ValueError: unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples: with fewer than k samples
            there is no unbiased estimate.
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_correct} right among {num_samples} samples is not defined")
    if num_samples - num_correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(num_samples - num_correct + 1, num_samples + 1)))
