"""Measures of a front, against hand-computed values and other ways to compute them."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from dibs_rl.metrics import (
    expected_utility,
    front,
    hypervolume,
    nondominated,
    normalised,
    sparsity,
    utility_weights,
    weight_control,
)
from dibs_rl.simplex import lattice_size, simplex_lattice

STAIRS = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]


def cloud(seed, k=8, m=3):
    """Returns without order, some of them equal."""
    found = np.random.default_rng(seed).integers(0, 6, (k, m)).astype(float)
    return np.concatenate([found, found[:2]])


@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("divisions", [1, 2, 7])
def test_a_lattice_has_every_multiple_once(m, divisions):
    found = (simplex_lattice(m, divisions) * divisions).round().astype(int)
    every = [parts for parts in itertools.product(range(divisions + 1), repeat=m) if sum(parts) == divisions]
    assert found.tolist() == sorted(map(list, every))
    assert len(found) == lattice_size(m, divisions)
    assert simplex_lattice(m, divisions).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_dominance_is_what_its_definition_says(seed):
    points = cloud(seed)
    expected = [not any((other >= point).all() and (other > point).any() for other in points) for point in points]
    assert nondominated(points).tolist() == expected
    assert {tuple(point) for point in front(points)} == {tuple(point) for point in points[expected]}
    assert len(front(points)) == len(np.unique(points[expected], axis=0))


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        (STAIRS, [0, 0], 3 + 2 + 1),
        (STAIRS, [1, 0], 2 * 1 + 1 * 1),  # 2 wide and 1 high, and 1 wide on top of it
        ([*STAIRS, [1.5, 1.5]], [0, 0], 6),
        ([[5.0, -1.0]], [0, 0], 0),
        ([[2.0, 3.0, 4.0]], [1, 1, 1], 1 * 2 * 3),
    ],
)
def test_hypervolume_by_hand(points, reference, volume):
    assert hypervolume(points, reference) == pytest.approx(volume)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_is_the_measure_of_a_union_of_boxes(m):
    """Inclusion and exclusion over all sets of points: an independent way, for any number of objectives."""
    points = np.random.default_rng(m).uniform(1, 5, (7, m))
    union = 0.0
    for size in range(1, 8):
        for chosen in itertools.combinations(points, size):
            union -= (-1) ** size * np.prod(np.min(chosen, axis=0) - 1)
    assert hypervolume(points, [1.0] * m) == pytest.approx(union)


def test_expected_utility_by_hand():
    assert expected_utility([[4.0, 2.0]]) == pytest.approx(3)  # the mean weight is a half
    assert expected_utility([[1.0, 0.0], [0.0, 1.0]]) == pytest.approx(2 * sum(range(50, 100)) / 99 / 100)
    assert expected_utility([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]]) == expected_utility([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("m", [2, 3, 4, 6])
def test_expected_utility_is_a_mean_of_maxima(m):
    weights, points = utility_weights(m), np.random.default_rng(m).normal(size=(5, m))
    assert len(weights) >= 100
    assert len(weights) == 100 or m > 2
    assert weights.mean(axis=0) == pytest.approx(1 / m)
    one_by_one = [max(sum(w * r for w, r in zip(weight, point, strict=True)) for point in points) for weight in weights]
    assert expected_utility(points) == pytest.approx(sum(one_by_one) / len(one_by_one))


def test_sparsity_by_hand():
    uneven = [[0.0, 3.0], [1.0, 1.0], [3.0, 0.0]]
    assert sparsity(uneven) == pytest.approx((1 + 4 + 1 + 4) / 2)
    assert sparsity([uneven[2], uneven[0], [0.5, 0.5], uneven[1], uneven[1]]) == pytest.approx(5)  # nothing new on the front
    assert sparsity([[2.0, 2.0], [1.0, 1.0]]) == 0


def test_weight_control_is_spearmans_correlation():
    rng = np.random.default_rng(0)
    weights, returns = rng.uniform(size=(9, 3)), rng.integers(0, 5, (9, 3)).astype(float)
    expected = [spearmanr(weights[:, i], returns[:, i]).statistic for i in range(3)]
    assert weight_control(weights, returns) == pytest.approx(expected)
    assert weight_control(weights, np.exp(9 * weights)).tolist() == pytest.approx([1, 1, 1])  # any increasing map
    assert weight_control(weights, -weights).tolist() == pytest.approx([-1, -1, -1])
    assert weight_control(weights, np.ones((9, 3))).tolist() == [0, 0, 0]


def test_normalised_returns_forget_units_and_origins():
    points = cloud(3)
    found = normalised(points)
    assert found[nondominated(points)].min(axis=0).tolist() == [0, 0, 0]
    assert found[nondominated(points)].max(axis=0).tolist() == [1, 1, 1]
    assert np.array_equal(normalised(points * [2.0**10, 2.0**-10, 1.0]), found)  # powers of two commute with rounding
    assert normalised(points * [1e3, 1e-3, 7] + [5, 0, -2]) == pytest.approx(found)
    assert normalised([[1.0, 5.0, 9.0], [2.0, 4.0, 9.0]])[:, 2].tolist() == [0, 0]  # all of the front has the same
