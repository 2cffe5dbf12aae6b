"""How sure a measured share is."""

import math
from statistics import NormalDist


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
