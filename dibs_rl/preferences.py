"""Preference vectors that trace a front: a lattice on the simplex first, then more where the front that it led to is sparse.

A preference weight is positive: an objective with weight 0 would have no vote at all. So the simplex is shrunk a little, and
its corners leave `FLOOR` to each other objective.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform

from dibs_rl.errors import UserError
from dibs_rl.metrics import nondominated, normalised
from dibs_rl.simplex import lattice_size, simplex_lattice

FLOOR = 0.01
"""Least weight of an objective, where all weights sum to 1."""
_DIGITS = 4  # of a weight: they name folders
Vector = tuple[float, ...]
"""A preference that can be looked up."""
Gap = tuple[float, Vector, Vector]
"""How far two neighbours lie apart, and their preferences."""


def lattice(m: int, points: int) -> np.ndarray:
    """The finest lattice of preferences that has at most so many points, `[k, m]`; one for each objective at the least.

    Args:
        m: Objectives, at least 2.
        points: How many, at least m.
    """
    divisions = 1
    while lattice_size(m, divisions + 1) <= points:
        divisions += 1
    return np.round(FLOOR + (1 - m * FLOOR) * simplex_lattice(m, divisions), _DIGITS)


def on_simplex(weights: ArrayLike) -> np.ndarray:
    """Positive weights `[m]` as preferences are written here: their sum is 1, to four digits.

    Raises:
        UserError: If one of them is below `FLOOR`.
    """
    given = np.asarray(weights, dtype=float)
    given = given / given.max()
    found = given / given.sum()
    if found.min() < FLOOR - 0.5 * 10**-_DIGITS:
        raise UserError(
            f"A front's preferences leave each objective at least {FLOOR} of the weight, and not {found.min():.3g}: take a "
            "larger weight for the least."
        )
    return np.array(_vector(_above_floor(found)))


def lattice_from(start: np.ndarray | None, m: int, points: int) -> np.ndarray:
    """The finest lattice that has at most so many preferences, counting one `[m]` that comes first, of it or beside it.

    Args:
        start: The one that comes first; a lattice alone if None.
        m: Objectives, at least 2.
        points: How many, at least m, and one more where there is a start beside it.
    """
    even = lattice(m, points)
    if start is None:
        return even
    if _vector(start) not in set(map(_vector, even)):
        even = lattice(m, points - 1)
    return np.array([start, *(weights for weights in even if _vector(weights) != _vector(start))])


def with_finer_lattice(preferences: ArrayLike, points: int, start: np.ndarray | None = None) -> np.ndarray:
    """Preferences `[k, m]`; behind them what the finest lattice has more that has all of them and at most so many points.

    Args:
        preferences: Those that there are.
        points: How many there may be in all.
        start: See `lattice_from`.
    """
    known = np.asarray(preferences, dtype=float)
    vectors = set(map(_vector, known))
    for room in range(points, len(known), -1):
        finer = lattice_from(start, known.shape[1], room)
        if vectors <= set(map(_vector, finer)):
            return np.concatenate([known, *(weights[None] for weights in finer if _vector(weights) not in vectors)])
    return known


def refined(preferences: ArrayLike, returns: ArrayLike, count: int, reference: ArrayLike | None = None) -> np.ndarray:
    """Preferences to add where neighbours on the front lie furthest apart.

    Returns are normalised by the front's own ranges, and the front's points joined by their minimum spanning tree: for two
    objectives this is the front from one end to the other. The longest edge gets the preference in the middle of those at its
    ends; its halves are then taken to be half as long. Where the front has no gap, the preferences take its place.

    Args:
        preferences: Those that there are, `[k, m]`; their sums are 1.
        returns: What they led to, `[k, m]`.
        count: How many to add.
        reference: Point above which volume counts, `[m]`: between two that lie below it in the same objective there is no
            gap, since there is no volume to be won, and of others only what lies above it counts.

    Returns:
        `[count, m]`, fewer where there is nothing left between neighbours. None of them is there already.
    """
    weights = np.asarray(preferences, dtype=float)
    gaps = _gaps_of_front(weights, np.asarray(returns, dtype=float), reference) or _gaps(weights, weights)
    known, found = set(map(_vector, weights)), list[Vector]()
    while gaps and len(found) < count:
        length, one, other = gaps.pop(max(range(len(gaps)), key=lambda k: gaps[k][0]))
        middle = _between(one, other)
        if middle in (one, other):
            continue
        if middle not in known:
            known.add(middle)
            found.append(middle)
        gaps += [(length / 2, one, middle), (length / 2, middle, other)]
    return np.array(found).reshape(len(found), weights.shape[1])


def _gaps_of_front(preferences: np.ndarray, returns: np.ndarray, reference: ArrayLike | None) -> list[Gap]:
    """Those between neighbours on the front; none where it is a single point, or no part of it counts."""
    on_it = nondominated(returns)
    least = -np.inf if reference is None else np.asarray(reference, dtype=float)
    counted = np.maximum(returns[on_it], least)
    return _gaps(preferences[on_it], normalised(returns)[on_it], normalised(counted, counted), returns[on_it] <= least)


def _gaps(
    preferences: np.ndarray, places: np.ndarray, measured: np.ndarray | None = None, outside: np.ndarray | None = None
) -> list[Gap]:
    """Neighbours: how far they lie apart, and their preferences.

    They are sorted, so that the order in which the policies stand decides nothing where lengths are equal.

    Args:
        preferences: `[k, m]`.
        places: Where they lie, `[k, m]`: what decides who are neighbours.
        measured: Where they lie for the lengths, `[k, m]`; `places` if not given.
        outside: `[k, m]`; two that are outside in the same objective have no gap between them.
    """
    measured = places if measured is None else measured
    _, first = np.unique(places, axis=0, return_index=True)
    chosen = np.sort(first)
    tree = minimum_spanning_tree(squareform(pdist(places[chosen]))).tocoo()
    found = []
    for i, j in zip(chosen[tree.row], chosen[tree.col], strict=True):
        if outside is None or not (outside[i] & outside[j]).any():
            one, other = sorted(_vector(preferences[k]) for k in (i, j))
            found.append((float(np.linalg.norm(measured[i] - measured[j])), one, other))
    return sorted(found)


def _between(one: Vector, other: Vector) -> Vector:
    return _vector(_above_floor((np.array(one) + np.array(other)) / 2))


def _above_floor(weights: np.ndarray) -> np.ndarray:
    above = np.maximum(weights - FLOOR, 0.0)
    return FLOOR + (1 - len(above) * FLOOR) * above / above.sum()


def _vector(weights: np.ndarray) -> Vector:
    return tuple(np.round(weights, _DIGITS).tolist())
