"""How results of several seeds become a number with an interval: pure functions of arrays.

Scores, interquartile means and stratified bootstrap intervals follow Agarwal et al. 2021, "Deep reinforcement learning at the
edge of the statistical precipice".
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, trim_mean

LEAST_SEEDS = 3
"""Fewer seeds have no interval: two values say next to nothing about how a third would lie."""
CONFIDENCE = 0.95
_RESAMPLES = 4_000
_BAND_RESAMPLES = 1_000  # a curve is looked at, not read to three digits

Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
    """A statistic over seeds with its bootstrap interval.

    Attributes:
        value: The statistic.
        low: Lower end of the 95% interval; NaN where there are too few seeds for one.
        high: Upper end.
        seeds: Values it is over; of several strata, the fewest in one.
    """

    value: float
    low: float
    high: float
    seeds: int

    @property
    def has_interval(self) -> bool:
        """Whether there were seeds enough for an interval."""
        return not math.isnan(self.low)


def iqm(values: ArrayLike, axis: int | None = None) -> np.ndarray:
    """Interquartile mean: the mean of what is left after a quarter of the values, rounded down, is cut off at each end.

    It is the mean for fewer than four values. All values are taken if `axis` is not given.
    """
    return trim_mean(np.asarray(values, dtype=float), 0.25, axis=axis)


def mean(values: ArrayLike, axis: int | None = None) -> np.ndarray:
    """The mean, called as `iqm` is."""
    return np.mean(np.asarray(values, dtype=float), axis=axis)


def pooled(statistic: Statistic) -> Statistic:
    """A statistic of several strata: that of all their values together."""

    def of_strata(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(np.concatenate(strata, axis=axis), axis=axis)

    return of_strata


def ratio_of_means(above: np.ndarray, below: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of one stratum by the mean of another, for `estimate_of`."""
    return above.mean(axis=axis) / below.mean(axis=axis)


def estimate(strata: Sequence[ArrayLike], statistic: Statistic = iqm, seed: int = 0) -> Estimate:
    """A statistic of all values together, with its 95% stratified bootstrap interval.

    Args:
        strata: Values over seeds, `[n]` for each stratum (an environment, say); n may differ.
        statistic: Takes an array and an axis.
        seed: Of the resampling.

    Raises:
        ValueError: If there is no stratum, or an empty one.
    """
    return estimate_of(pooled(statistic), strata, seed)


def estimate_of(statistic: Statistic, strata: Sequence[ArrayLike], seed: int = 0) -> Estimate:
    """A statistic of strata with its 95% percentile bootstrap interval; each stratum is resampled for itself.

    The percentile interval is too narrow for few seeds: of normal values, the interval of the interquartile mean holds the
    truth about 75 times of 100 with 3 seeds, 90 with 5, 94 with 10.

    Args:
        statistic: Takes the strata one by one, and an axis.
        strata: Values over seeds, `[n]` each.
        seed: Of the resampling.

    Raises:
        ValueError: If there is no stratum, or an empty one.
    """
    arrays = [np.asarray(stratum, dtype=float) for stratum in strata]
    if not arrays or min(len(array) for array in arrays) == 0:
        raise ValueError("An estimate needs at least one value in each stratum; found none.")
    value, seeds = float(statistic(*arrays, axis=-1)), min(len(array) for array in arrays)
    if seeds < LEAST_SEEDS:
        return Estimate(value, math.nan, math.nan, seeds)
    low, high = _interval(statistic, arrays, seed, _RESAMPLES)
    return Estimate(value, float(low), float(high), seeds)


def band(values: ArrayLike, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends `[k]` of the 95% bootstrap interval of the mean of curves `[n, k]` over n seeds, point by point.

    Raises:
        ValueError: If there are fewer than `LEAST_SEEDS` curves.
    """
    curves = np.asarray(values, dtype=float)
    if len(curves) < LEAST_SEEDS:
        raise ValueError(f"An interval needs at least {LEAST_SEEDS} curves; found {len(curves)}.")
    return _interval(mean, [curves.T], seed, _BAND_RESAMPLES)


def _interval(statistic: Statistic, strata: Sequence[np.ndarray], seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    found = bootstrap(
        strata,
        statistic,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        axis=-1,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def scores(returns: ArrayLike, random: ArrayLike, expert: ArrayLike) -> np.ndarray:
    """Scores `[..., m]` of returns `[..., m]`: 0 is the random policy's return, 1 that of the objective's expert.

    `(J_i - J_random_i) / (J_expert_i - J_random_i)`; NaN for an objective whose expert is no better than the random policy.

    Args:
        returns: Undiscounted returns, `[..., m]`.
        random: Return of the random policy on each objective, `[m]`.
        expert: Return on each objective of the policy trained on it alone, `[m]`.
    """
    floor = np.asarray(random, dtype=float)
    span = np.asarray(expert, dtype=float) - floor
    return (np.asarray(returns, dtype=float) - floor) / np.where(span > 0, span, math.nan)


def maximin(score: np.ndarray) -> np.ndarray:
    """The worst objective's score: `[..., m]` to `[...]`."""
    return score.min(axis=-1)


def mean_score(score: np.ndarray) -> np.ndarray:
    """The mean over objectives: `[..., m]` to `[...]`."""
    return score.mean(axis=-1)


def nash_welfare(score: np.ndarray) -> np.ndarray:
    """Geometric mean of the scores' positive parts: `[..., m]` to `[...]`; 0 where any score is not positive."""
    return np.prod(np.maximum(score, 0.0), axis=-1) ** (1 / score.shape[-1])


def invariance_gap(transformed: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """How far a change of the rewards' units moves the scores of the same seeds: `max_i |difference|`, `[n, m]` to `[n]`."""
    return np.abs(transformed - plain).max(axis=-1)


def seed_noise(score: np.ndarray) -> np.ndarray:
    """How far another seed moves the scores: of each run, the mean over the others of `max_i |difference|`, `[n, m]` to `[n]`.

    What an invariance gap is to be held against; their mean is the mean over all pairs of runs. NaN for a single run.
    """
    n = len(score)
    if n < 2:
        return np.full(n, math.nan)
    return np.abs(score[:, None] - score[None]).max(axis=-1).sum(axis=1) / (n - 1)
