"""Which preferences trace a front: the lattice, and what is put between neighbours that lie far apart."""

import numpy as np
import pytest

from dibs_rl.metrics import normalised
from dibs_rl.preferences import FLOOR, lattice, refined, with_finer_lattice
from dibs_rl.simplex import lattice_size

THREE = np.array([[0.01, 0.99], [0.5, 0.5], [0.99, 0.01]])
WIDE_ON_THE_RIGHT = np.array([[0.0, 10.0], [1.0, 9.0], [10.0, 0.0]])


def arc(k, m, seed):
    """k returns, none of which dominates another, with units of their own; and preferences for them."""
    rng = np.random.default_rng(seed)
    direction = rng.dirichlet(np.ones(m), k) + 0.05
    units = 10.0 ** rng.integers(-3, 4, m)
    weights = rng.dirichlet(np.ones(m), k).round(4)
    return weights, direction / np.linalg.norm(direction, axis=1, keepdims=True) * units


@pytest.mark.parametrize("m", [2, 3, 4, 6])
@pytest.mark.parametrize("points", [6, 7, 11, 40])
def test_a_lattice_is_as_fine_as_it_may_be(m, points):
    found = lattice(m, points)
    assert m <= len(found) <= points
    assert len(found) == max(size for size in (lattice_size(m, h) for h in range(1, 60)) if size <= points)
    assert len(np.unique(found, axis=0)) == len(found)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert found.min() == FLOOR  # every objective has a vote
    assert found.max() == pytest.approx(1 - (m - 1) * FLOOR)
    assert len(found) == points or m > 2


@pytest.mark.parametrize(
    ("m", "coarse", "fine", "grows"), [(2, 3, 5, True), (2, 6, 11, True), (2, 3, 4, False), (3, 6, 15, True)]
)
def test_a_finer_lattice_that_has_all_points_of_the_coarser_one_adds_its_own(m, coarse, fine, grows):
    known = lattice(m, coarse)[::-1]
    found = with_finer_lattice(known, fine)
    assert found[: len(known)].tolist() == known.tolist()
    assert sorted(found.tolist()) == sorted(lattice(m, fine if grows else coarse).tolist())


def test_where_the_finest_lattice_has_not_all_points_the_next_one_that_has_them_is_taken():
    assert sorted(with_finer_lattice(lattice(2, 5), 10).tolist()) == sorted(lattice(2, 9).tolist())
    assert sorted(with_finer_lattice(lattice(2, 3), 6).tolist()) == sorted(lattice(2, 5).tolist())
    assert sorted(with_finer_lattice(lattice(3, 6), 27).tolist()) == sorted(lattice(3, 15).tolist())


def test_two_objectives_are_spaced_evenly():
    assert lattice(2, 3).tolist() == THREE.tolist()
    assert np.diff(lattice(2, 6)[:, 0]) == pytest.approx(0.98 / 5)


def test_the_widest_gap_is_halved_and_its_halves_are_gaps():
    """On the normalised front the gaps are 0.1 and 0.9 of its length, so that halves of the latter come first."""
    assert refined(THREE, WIDE_ON_THE_RIGHT, 1).tolist() == [[0.745, 0.255]]
    assert refined(THREE, WIDE_ON_THE_RIGHT, 3)[1:, 0].tolist() == pytest.approx([0.6225, 0.8675])
    assert refined(THREE, WIDE_ON_THE_RIGHT, 7)[:, 0].min() > 0.5
    assert 0.255 in refined(THREE, WIDE_ON_THE_RIGHT, 16)[:, 0]  # in the end the narrow one has its turn


def test_no_gap_is_filled_below_the_reference_point():
    """By its own ranges the front's wider gap is on the right; above -1 in the second objective there is little of it."""
    returns = np.array([[0.0, 0.0], [4.0, -0.8], [10.0, -50.0]])
    assert refined(THREE, returns, 1).tolist() == refined(THREE, returns, 1, [-100, -100]).tolist() == [[0.745, 0.255]]
    assert refined(THREE, returns, 2, [-1, -1]).tolist() == [[0.255, 0.745], [0.745, 0.255]]
    # Both of the right gap's ends lie below: nothing goes there, and the other gap gets everything.
    assert refined(THREE, returns, 3, [-100, -0.5]).tolist() == [[0.255, 0.745], [0.1325, 0.8675], [0.3775, 0.6225]]
    # Nobody is above it: there is no front to fill, but preferences to try.
    assert refined(THREE, returns, 2, [20, 20]).tolist() == [[0.255, 0.745], [0.745, 0.255]]


def test_policies_below_the_reference_point_are_neighbours_all_the_same():
    """Some stand still, some waste energy: what counts lies between the two kinds, whoever wastes the most."""
    weights = lattice(2, 6)
    returns = np.array([[0, 0], [0.1, -0.1], [17, -8], [82, -110], [94, -160], [146, -408]])
    assert refined(weights, returns, 2)[:, 0].tolist() == [0.892, 0.5]
    assert refined(weights, returns, 5, [-100, -100])[:, 0].tolist() == [0.5, 0.451, 0.549, 0.4265, 0.4755]


def test_units_do_not_matter():
    """Raw returns would call the left gap the wider one: its energy is counted in thousands."""
    returns = WIDE_ON_THE_RIGHT * [1.0, 1e3]
    assert np.array_equal(refined(THREE, returns, 5), refined(THREE, WIDE_ON_THE_RIGHT, 5))


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_positive_factors_constants_and_order_do_not_matter(m, seed):
    weights, returns = arc(9, m, seed)
    plain = refined(weights, returns, 6)
    assert len(plain) == 6
    factors = 2.0 ** np.random.default_rng(seed).integers(-20, 20, m)
    assert np.array_equal(refined(weights, returns * factors, 6), plain)
    assert np.array_equal(refined(weights, returns * (1.7, 900, *[0.01] * (m - 2)) + 5, 6), plain)
    order = np.random.default_rng(seed + 1).permutation(9)
    assert np.array_equal(refined(weights[order], returns[order], 6), plain)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_of_two_objectives_are_those_in_order(seed):
    weights, returns = arc(8, 2, seed)
    order = np.argsort(returns[:, 0])
    places = normalised(returns)[order]
    widest = int(np.argmax(np.linalg.norm(np.diff(places, axis=0), axis=1)))
    between = weights[order][widest : widest + 2].mean(axis=0)
    assert refined(weights, returns, 1)[0] == pytest.approx(between, abs=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_the_widest_gap_of_many_objectives_is_what_keeps_the_front_in_one_piece(seed):
    """The longest edge of a minimum spanning tree is the least distance at which all points hang together."""
    weights, returns = arc(9, 3, seed)
    places = normalised(returns)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    together = next(d for d in np.sort(distances[np.triu_indices(9, 1)]) if hangs_together(distances <= d))
    i, j = np.argwhere(np.triu(distances == together))[0]
    expected = np.maximum(weights[[i, j]].mean(axis=0) - FLOOR, 0)
    assert refined(weights, returns, 1)[0] == pytest.approx(FLOOR + (1 - 3 * FLOOR) * expected / expected.sum(), abs=1e-4)


def hangs_together(near):
    reached = {0}
    while (more := {int(j) for i in reached for j in np.flatnonzero(near[i])} | reached) != reached:
        reached = more
    return len(reached) == len(near)


def test_dominated_policies_are_no_neighbours_and_their_preferences_not_taken_again():
    returns = np.array([[0.0, 10.0], [1.0, 1.0], [10.0, 0.0]])
    assert refined(THREE, returns, 2).tolist() == [[0.255, 0.745], [0.745, 0.255]]


def test_a_front_of_one_point_is_refined_in_preference():
    returns = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert refined(THREE[[0, 2, 1]], returns, 2).tolist() == [[0.255, 0.745], [0.745, 0.255]]


def test_experts_are_neighbours_too_and_nobody_loses_the_vote():
    """An expert's preference is 1 and 0. What goes between keeps its floor; where nothing new can go, the search ends."""
    weights = np.array([[0.0, 1.0], [0.01, 0.99], [0.03, 0.97]])
    returns = np.array([[0.0, 10.0], [9.0, 9.0], [10.0, 0.0]])
    found = refined(weights, returns, 1_000)
    assert 100 < len(found) < 1_000
    assert found.min() >= FLOOR
    assert len(np.unique(np.concatenate([weights, found]), axis=0)) == len(found) + 3
    three = refined(np.eye(3), np.eye(3), 7)
    assert three.min() >= FLOOR
    assert three.sum(axis=1) == pytest.approx(1, abs=2e-4)
