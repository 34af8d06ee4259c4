"""Means, and how far to trust them."""

import math
import statistics
from collections.abc import Iterable

from scipy import stats


def interval(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval, by Student's t; NaN for one value."""
    values = list(values)
    if len(values) < 2:
        return values[0], math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(half)


def with_interval(values: Iterable[float], sign: str = "", digits: int = 1) -> str:
    """ "22.0 ± 1.3", or "22.0" for one value."""
    mean, half = interval(values)
    half_width = "" if math.isnan(half) else f" ± {half:.{digits}f}"
    return f"{mean:{sign}.{digits}f}" + half_width
