"""How good a front is: pure functions of the returns of its policies, `[k, m]`, the greater the better.

Hypervolume and dominance are moocore's. The rest is what the fronts of published tables are measured by.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from dibs_rl.simplex import lattice_size, simplex_lattice

LEAST_WEIGHTS = 100
"""The expected utility is over so many weights, or the few more that a regular lattice needs."""


def nondominated(returns: ArrayLike) -> np.ndarray:
    """Which of k policies no other one dominates, `[k]` bool; of equal ones, all."""
    import moocore  # a compiled library that little else here needs

    return moocore.is_nondominated(np.asarray(returns, dtype=float), maximise=True, keep_weakly=True)


def front(returns: ArrayLike) -> np.ndarray:
    """The distinct nondominated points among k returns `[k, m]`, in the order in which they stand there."""
    import moocore

    points = np.asarray(returns, dtype=float)
    return points[moocore.is_nondominated(points, maximise=True)]


def normalised(returns: ArrayLike, among: ArrayLike | None = None) -> np.ndarray:
    """Returns `[k, m]` in units of the front: of each objective, 0 is the front's least and 1 its greatest return.

    An objective of which the whole front has the same return is 0 there. Positive factors on an objective and constants added
    to it leave no trace.

    Args:
        returns: `[k, m]`.
        among: Points `[n, m]` whose ranges are the units; the front of `returns` if not given.
    """
    points = np.asarray(returns, dtype=float)
    low, high = (of(front(points) if among is None else among, axis=0) for of in (np.min, np.max))
    return (points - low) / np.where(high > low, high - low, math.inf)


def hypervolume(returns: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what a front dominates above a reference point (Zitzler and Thiele 1999).

    Args:
        returns: `[k, m]`; policies that are not above the reference in every objective count nothing.
        reference: `[m]`.
    """
    import moocore

    return float(moocore.hypervolume(np.asarray(returns, dtype=float), ref=np.asarray(reference, dtype=float), maximise=True))


def expected_utility(returns: ArrayLike) -> float:
    """Mean over weights of the best policy's weighted return, `1/|W| sum_w max_k w . J_k` (Zintgraf et al. 2015).

    The weights are those of `utility_weights`, so that the number repeats itself.
    """
    points = np.asarray(returns, dtype=float)
    return float((utility_weights(points.shape[1]) @ points.T).max(axis=1).mean())


def utility_weights(m: int) -> np.ndarray:
    """Weights `[k, m]`: the smallest regular lattice with at least `LEAST_WEIGHTS` points. For two objectives, just these."""
    divisions = 1
    while lattice_size(m, divisions) < LEAST_WEIGHTS:
        divisions += 1
    return simplex_lattice(m, divisions)


def sparsity(returns: ArrayLike) -> float:
    """How far neighbours on the front lie apart, by the measure of PGMORL (Xu et al. 2020); 0 for a single point.

    `1/(n - 1) sum_i sum_j (s_i[j + 1] - s_i[j])^2`, where `s_i` are the n points' returns of objective i in rising order. The
    less, the denser. It is in squared units of the returns and says nothing about how good they are.
    """
    points = front(returns)
    if len(points) < 2:
        return 0.0
    return float(np.square(np.diff(np.sort(points, axis=0), axis=0)).sum() / (len(points) - 1))


def front_measures(returns: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """What a front is worth: `policies`, `nondominated` (distinct ones), `hypervolume`, `expected_utility`, `sparsity`.

    Args:
        returns: `[k, m]`.
        reference: Of the hypervolume, `[m]`.
    """
    points = np.asarray(returns, dtype=float)
    return {
        "policies": len(points),
        "nondominated": len(front(points)),
        "hypervolume": hypervolume(points, reference),
        "expected_utility": expected_utility(points),
        "sparsity": sparsity(points),
    }


def weight_control(preferences: ArrayLike, returns: ArrayLike) -> np.ndarray:
    """How well an objective's weight says where its return lands among other policies': Spearman's rank correlation, `[m]`.

    1 where more weight always led to more return; 0 where one of them is the same for all policies.

    Args:
        preferences: Weights that the policies were trained with, `[k, m]`.
        returns: Their returns, `[k, m]`.
    """
    weight, result = (ranks - ranks.mean(axis=0) for ranks in (rankdata(of, axis=0) for of in (preferences, returns)))
    spread = np.sqrt(np.square(weight).sum(axis=0) * np.square(result).sum(axis=0))
    return (weight * result).sum(axis=0) / np.where(spread > 0, spread, math.inf)
