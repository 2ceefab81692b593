"""What the log says about the gradients: against closed forms, and the residual against an exhaustive search."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from dibs_rl import DiBS
from dibs_rl.diagnostics import (
    Bargain,
    conflict_fraction,
    describe_bargain,
    least_cosine,
    residual_noise_floor,
    stationarity_residual,
    summarise,
)
from dibs_rl.errors import NonFiniteError
from dibs_rl.units import unit_rows

F64 = torch.float64
properties = settings(deadline=None, max_examples=25, derandomize=True)
SOLVER_ERROR = 1e-6  # also where the residual is 0, which is where one looks at it


def random_cosine(m: int, p: int, seed: int) -> Tensor:
    units, _ = unit_rows(torch.randn(m, p, generator=torch.Generator().manual_seed(seed), dtype=F64))
    return units @ units.T


def exhaustive_residual(cosine: np.ndarray) -> float:
    """Norm of the min-norm point of the hull: on each face solve the equality-constrained problem, keep the feasible.

    On the face of the rows S the weights satisfy Q_S w = -mu 1 and sum w = 1; some face has a solution w >= 0.
    """
    m, best = len(cosine), 1.0
    for size in range(1, m + 1):
        for face in map(list, itertools.combinations(range(m), size)):
            system = np.ones((size + 1, size + 1))
            system[:size, :size], system[size, size] = cosine[np.ix_(face, face)], 0.0
            weights = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
            if (weights >= -1e-9).all():
                best = min(best, math.sqrt(max(weights @ system[:size, :size] @ weights, 0.0)))
    return best


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.5, math.pi])
def test_exhaustive_residual_of_two(angle: float) -> None:
    """The oracle itself: two unit vectors at an angle a have the min-norm point cos(a / 2), halfway between them."""
    assert exhaustive_residual(np.array([[1, math.cos(angle)], [math.cos(angle), 1]])) == pytest.approx(
        math.cos(angle / 2), abs=1e-8
    )


@properties
@given(p=st.integers(1, 8), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("m", [2, 3, 4])
def test_residual_against_exhaustive_search(m: int, p: int, seed: int) -> None:
    cosine = random_cosine(m, p, seed)
    assert stationarity_residual(cosine).item() == pytest.approx(exhaustive_residual(cosine.numpy()), abs=SOLVER_ERROR)


@pytest.mark.parametrize(
    ("rows", "residual"),
    [
        ([[1, 0]], 1.0),  # one objective alone
        ([[1, 0], [1, 0]], 1.0),  # all agree
        ([[1, 0], [0, 1]], math.sqrt(0.5)),
        ([[1, 0], [-1, 0]], 0.0),  # opposite: Pareto stationary
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], math.sqrt(1 / 3)),
        ([[1, 0], [0, 0], [0, 1]], math.sqrt(0.5)),  # a zero gradient has no vote
        ([[0, 0], [0, 0]], 0.0),  # nobody wants anything
    ],
)
def test_residual_by_hand(rows: list[list[float]], residual: float) -> None:
    units = torch.tensor(rows, dtype=F64)
    assert stationarity_residual(units @ units.T).item() == pytest.approx(residual, abs=1e-6)


def test_residual_of_a_balanced_star() -> None:
    """Three directions 120 degrees apart have 0 in their hull."""
    angles = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3], dtype=F64)
    units = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert stationarity_residual(units @ units.T).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("m", [1, 2, 4, 9])
def test_noise_floor(m: int) -> None:
    """Gradients of pure noise are nearly orthogonal; their residual is the floor that is written beside it."""
    cosine = random_cosine(m, 20_000, seed=m)
    assert stationarity_residual(cosine).item() == pytest.approx(residual_noise_floor(m), abs=0.02)


# ------------------------------------------------------------------------------------------------ conflict and cosine


def test_conflicts_by_hand() -> None:
    """Pairs: (0, 1) -0.5, (0, 2) 0, (1, 2) 0.5. One of three conflicts; orthogonal is no conflict."""
    cosine = torch.tensor([[1.0, -0.5, 0.0], [-0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])
    assert_close(conflict_fraction(cosine), torch.tensor(1 / 3))
    assert least_cosine(cosine) == -0.5


@pytest.mark.parametrize(("sign", "fraction"), [(1.0, 0.0), (-1.0, 1.0)])
def test_conflicts_of_two(sign: float, fraction: float) -> None:
    cosine = torch.tensor([[1.0, 0.3 * sign], [0.3 * sign, 1.0]])
    assert conflict_fraction(cosine) == fraction
    assert_close(least_cosine(cosine), torch.tensor(0.3 * sign))


def test_one_objective_has_nobody_to_conflict_with() -> None:
    assert conflict_fraction(torch.ones(1, 1)) == 0
    assert least_cosine(torch.ones(1, 1)) == 1


@properties
@given(m=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_conflicts_against_loops(m: int, seed: int) -> None:
    cosine = random_cosine(m, 3, seed)
    pairs = [cosine[i, j].item() for i, j in itertools.combinations(range(m), 2)]
    assert least_cosine(cosine).item() == min(pairs)
    assert conflict_fraction(cosine).item() == pytest.approx(sum(c < 0 for c in pairs) / len(pairs))


# ------------------------------------------------------------------------------------------------------------ records


def test_bargain_by_hand() -> None:
    """Rows of length 2 and 10 at a right angle, weights 3 / 2 and 1 / 10: shares 3 : 1, direction (3, 1)."""
    jacobian, weights = torch.tensor([[2.0, 0.0], [0.0, 10.0]]), torch.tensor([1.5, 0.1])
    bargain = describe_bargain(jacobian, weights @ jacobian, weights)
    assert_close(bargain.cosine, torch.eye(2, dtype=torch.float64))
    assert_close(bargain.norms, torch.tensor([2.0, 10.0]))
    assert_close(bargain.toward, torch.tensor([3.0, 1.0]) / math.sqrt(10))
    assert_close(bargain.share, torch.tensor([0.75, 0.25]))


@properties
@given(m=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_shares_sum_to_one_on_any_scale(m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(m, 7, generator=generator) * 10 ** (30 * torch.rand(m, 1, generator=generator) - 15)
    combine = DiBS()
    bargain = describe_bargain(jacobian, combine(jacobian), combine.weighting(jacobian))
    assert (bargain.share >= 0).all()
    assert_close(bargain.share.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert (bargain.toward.abs() <= 1 + 1e-5).all()


def test_shares_are_unknown_without_weights_and_zero_without_votes() -> None:
    jacobian = torch.zeros(2, 3)
    assert describe_bargain(jacobian, torch.zeros(3), None).share.isnan().all()
    nobody = describe_bargain(jacobian, torch.zeros(3), torch.zeros(2))
    assert nobody.share.tolist() == nobody.toward.tolist() == [0, 0]


def test_negative_weights_share_by_their_size() -> None:
    """Some combiners subtract a gradient; that is influence too."""
    bargain = describe_bargain(torch.eye(2), torch.tensor([1.0, -3.0]), torch.tensor([1.0, -3.0]))
    assert_close(bargain.share, torch.tensor([0.25, 0.75]))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [math.nan, 0.0]])
    with pytest.raises(NonFiniteError, match=r"of energy\.$"):
        describe_bargain(jacobian, torch.ones(2), None, ["speed", "energy"])


def bargain_of(cosine: float, norms: list[float]) -> Bargain:
    return Bargain(
        torch.tensor([[1.0, cosine], [cosine, 1.0]]),
        torch.tensor(norms),
        torch.tensor([0.5, 0.7]),
        torch.tensor([0.4, 0.6]),
    )


def test_summary_by_hand() -> None:
    """Cosines 0.5 and -0.5: half of them conflict; the residual of two units is sqrt((1 + cosine) / 2)."""
    record = summarise([bargain_of(0.5, [1.0, 10.0]), bargain_of(-0.5, [3.0, 20.0])], ["speed", "energy"])
    assert record == pytest.approx(
        {
            "gradient_norm/speed": 2.0,
            "gradient_norm/energy": 15.0,
            "share/speed": 0.4,
            "share/energy": 0.6,
            "cosine_to_step/speed": 0.5,
            "cosine_to_step/energy": 0.7,
            "least_cosine": 0.0,
            "conflict_fraction": 0.5,
            "stationarity_residual": (math.sqrt(0.75) + 0.5) / 2,
            "stationarity_noise_floor": math.sqrt(0.5),
        }
    )


def test_summary_refuses_a_wrong_number_of_names() -> None:
    with pytest.raises(ValueError, match="zip"):
        summarise([bargain_of(0.0, [1.0, 1.0])], ["only one"])
