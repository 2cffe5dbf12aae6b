"""How sure a measured share is, and a difference of two runs."""

import dataclasses
import math
from statistics import NormalDist

import numpy as np

_DRAWS = 1 << 20  # of the bootstrap, at a time


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927).

    Unlike the textbook's p ± z sqrt(p (1-p) / n) it is no point at 0 or n successes, stays
    inside [0, 1], and keeps its level at small n. Trials are taken as independent.

    Args:
        successes: from 0 to n; a fraction where a trial counts in part.
        n: trials; 0 says nothing: (0, 1).
        level: how often such an interval holds the true share.

    >>> low, high = wilson(89, 95)
    >>> round(low, 4), round(high, 4)
    (0.869, 0.9707)
    """
    if not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"{successes} of {n} at level {level}: expected 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """How much higher M means are in one run than in another, and how sure that is.

    Attributes:
        a, b: [M] means.
        low, high: [M] ends of the interval of `a - b`; NaN where all examples are of one unit.
        units: how many there were.
    """

    a: np.ndarray
    b: np.ndarray
    low: np.ndarray
    high: np.ndarray
    units: int


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    units: np.ndarray,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Paired bootstrap of two means over the same examples (Efron and Tibshirani 1993, ch. 8, 13).

    Units (users) are drawn with replacement, all examples of one together; the interval has the
    quantiles of the difference over the resamples. What differs from user to user in both runs
    alike costs nothing, so it is narrower than two intervals apart. The same resamples serve
    all metrics. Draws are made a part at a time: some 30 MiB up to a million users.

    Args:
        a, b: [n M] values of n examples.
        units: [n] whose example each is.
        resamples: how many; the ends are good to about a hundredth of the interval's width.
        level: how often such an interval holds the true difference.
        seed: of the draws; the same seed gives the same interval.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or a.shape != b.shape or len(units) != len(a) or not len(a):
        raise ValueError(f"values {a.shape} and {b.shape} of {len(units)} units; expected [n M]")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(
            f"level {level}, resamples {resamples}; expected more than 0, and a level below 1"
        )
    _, unit = np.unique(units, return_inverse=True)
    count = int(unit.max()) + 1
    totals = np.zeros((count, a.shape[1] + 1))  # of each unit: differences, and its examples
    np.add.at(totals, unit, np.column_stack([a - b, np.ones(len(a))]))
    if count == 1:
        ends = np.full((2, a.shape[1]), np.nan)
    else:
        rng, differences, chunk = np.random.default_rng(seed), [], max(1, _DRAWS // count)
        for first in range(0, resamples, chunk):
            rows = min(chunk, resamples - first)
            drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
            times = np.bincount(drawn.reshape(-1), minlength=rows * count).reshape(rows, count)
            sums = times.astype(np.float64) @ totals
            differences.append(sums[:, :-1] / sums[:, -1:])
        ends = np.quantile(np.concatenate(differences), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Difference(a.mean(axis=0), b.mean(axis=0), ends[0], ends[1], count)
