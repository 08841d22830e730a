"""Quantiles of the beta distribution, for schedules that are spaced by it."""

import math

_TINY = 1e-300


def beta_quantile(probability: float, alpha: float, beta: float) -> float:
    """The x in [0, 1] below which a Beta(alpha, beta) variable falls with this probability.

    By bisection: it cannot diverge, and 200 halvings reach the smallest quantiles too.
    """
    if probability <= 0 or probability >= 1:
        return 0.0 if probability <= 0 else 1.0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if beta_cdf(middle, alpha, beta) < probability:
            low = middle
        else:
            high = middle
    return low


def beta_cdf(x: float, alpha: float, beta: float) -> float:
    """The regularised incomplete beta function I_x(alpha, beta), to about 1e-14."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    # The fraction converges fast below the mean; I_x(a, b) = 1 - I_{1-x}(b, a) covers the rest.
    if x > (alpha + 1) / (alpha + beta + 2):
        return 1 - beta_cdf(1 - x, beta, alpha)
    log_factor = (
        math.lgamma(alpha + beta)
        - math.lgamma(alpha)
        - math.lgamma(beta)
        + alpha * math.log(x)
        + beta * math.log1p(-x)
    )
    return math.exp(log_factor) / (alpha * _continued_fraction(x, alpha, beta))


def _continued_fraction(x: float, a: float, b: float) -> float:
    """The value of 1 + d1 x/(1 + d2 x/(1 + ...)) (DLMF 8.17.22) by Lentz's method."""
    value = numerator = 1.0
    denominator = 0.0
    for m in range(500):
        even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)) if m else None
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        before = value
        for d in (odd,) if even is None else (even, odd):
            denominator = 1 / (1 + d * x * denominator or _TINY)
            numerator = 1 + d * x / numerator or _TINY
            value *= numerator * denominator
        if abs(value - before) < 1e-16 * abs(value):
            break
    return value
