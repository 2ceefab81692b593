"""Weights that are not negative and sum to 1: regular lattices on the simplex (Das and Dennis 1998)."""

import itertools
import math

import numpy as np


def simplex_lattice(m: int, divisions: int) -> np.ndarray:
    """All weights `[m]` that are multiples of 1 / divisions and sum to 1.

    Returns:
        `[lattice_size(m, divisions), m]`, in lexical order.
    """
    bars = itertools.combinations(range(divisions + m - 1), m - 1)
    edges = np.array([(-1, *places, divisions + m - 1) for places in bars])
    return (np.diff(edges, axis=1) - 1) / divisions


def lattice_size(m: int, divisions: int) -> int:
    """Points of a lattice: `binomial(divisions + m - 1, m - 1)`."""
    return math.comb(divisions + m - 1, m - 1)
