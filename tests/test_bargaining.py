"""The bargaining step against its nine oracles, then its error messages and frozen values.

Each oracle is a property that the mathematics promises, checked against something that shares no code with the library.
"""

import copy
import math
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import geometric_median
from torch import Tensor, nn
from torch.testing import assert_close
from torchjd.autojac import backward, jac_to_grad, mtl_backward

from dibs_rl import DiBS, DiBSWeighting, dibs_weights, objective_jacobian
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.units import unit_rows

F32, F64 = torch.float32, torch.float64
properties = settings(deadline=None, max_examples=60, derandomize=True)
seeds = st.integers(0, 10**6)
sizes = st.integers(1, 6)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def wild_scales(m: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    """Positive factors `[m, 1]`, spread evenly over the orders of magnitude from 1e-15 to 1e15."""
    exponents = torch.rand(m, 1, generator=torch.Generator().manual_seed(seed), dtype=F64) * 30 - 15
    return (10**exponents).to(dtype)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


# ---------------------------------------------------------------------------------------------- oracle 1: simulation


def simulate_in_parameter_space(jacobian: Tensor, steps: int, preference: Sequence[float] | None) -> np.ndarray:
    """DiBS-MTL as it is written down: a state of p parameters that walks inside the unit ball, in plain loops."""
    rows = jacobian.double().numpy()
    units = [row / math.sqrt(math.fsum(row * row)) for row in rows]
    weights = [1.0] * len(units) if preference is None else list(preference)
    alpha = 1 / math.fsum(weights)
    delta = np.zeros(rows.shape[1])
    for _ in range(steps):
        pull = sum(w * np.linalg.norm(delta + u) * u for w, u in zip(weights, units, strict=True))
        delta = delta - alpha * pull
        delta = delta / max(1.0, float(np.linalg.norm(delta)))
    return -delta


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", range(1, 13))
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5)], ids=["float64", "float32"])
def test_oracle_1_direct_simulation(m: int, weighted: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Oracle 1: algebra on the cosine matrix is the same as walking through parameter space.

    The hard cases are those of more rows than columns (or of rows that balance each other): there the coefficients grow
    with T in directions that the cosine matrix sends to zero, and any error in that matrix grows with their square.
    """
    preference = (0.1 + 3 * np.random.default_rng(m).random(m)).tolist() if weighted else None
    for p in (1, 2, 3, 17, 500):
        # In one dimension all rows lie on one line and every distance is a cancellation; scales are added in oracle 2.
        jacobian = (normal(m, p, seed=100 * m + p) * wild_scales(m, seed=p)).to(dtype)
        for steps in (1, 2, 5, 50):
            expected = torch.as_tensor(simulate_in_parameter_space(jacobian, steps, preference))
            found = DiBS(steps=steps, preference=preference)(jacobian)
            assert_close(found.double(), expected, atol=tolerance, rtol=0, msg=lambda text, s=steps: f"T={s}: {text}")


@pytest.mark.parametrize("favour", [1e2, 1e4, 1e6])
def test_oracle_1_where_the_state_comes_close_to_a_preferred_state(favour: float) -> None:
    """Oracle 1: with one objective strongly preferred, its distance is small, and no floor may hide how small."""
    jacobian, preference = normal(4, 6, seed=1), [1.0, favour, 1.0, 2.0]
    for steps in (2, 5, 50):
        expected = torch.as_tensor(simulate_in_parameter_space(jacobian, steps, preference))
        assert_close(DiBS(steps=steps, preference=preference)(jacobian), expected, atol=1e-11, rtol=0)


# ------------------------------------------------------------------------------------------------- oracle 2: scaling


@properties
@given(m=sizes, p=st.integers(2, 40), steps=st.sampled_from([1, 5, 50]), seed=seeds)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-11), (F32, 1e-4)])
def test_oracle_2_any_positive_factor(dtype: torch.dtype, tolerance: float, m: int, p: int, steps: int, seed: int) -> None:
    """Oracle 2: rescaling rows by factors from 1e-15 to 1e15 changes the direction by rounding alone."""
    jacobian = normal(m, p, seed=seed, dtype=dtype)
    combine = DiBS(steps=steps)
    rescaled = combine(jacobian * wild_scales(m, seed, dtype))
    assert_close(rescaled, combine(jacobian), atol=tolerance, rtol=0)


exponents_of_two = st.lists(st.integers(-49, 49), min_size=6, max_size=6)  # 2**49 is about 5.6e14


@properties
@given(m=sizes, p=st.integers(1, 40), exponents=exponents_of_two, steps=st.sampled_from([1, 5]), seed=seeds)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_oracle_2_powers_of_two_bit_for_bit(
    dtype: torch.dtype, m: int, p: int, exponents: list[int], steps: int, seed: int
) -> None:
    """Oracle 2: powers of two commute with rounding, so not one bit of the direction may change."""
    jacobian = normal(m, p, seed=seed, dtype=dtype)
    factors = torch.tensor([2.0**k for k in exponents[:m]], dtype=dtype)
    preference = [1.0 + i for i in range(m)]
    combine = DiBS(steps=steps, preference=preference)
    rescaled = jacobian * factors.unsqueeze(1)
    assert torch.equal(combine(rescaled), combine(jacobian))
    assert torch.equal(combine.weighting(rescaled) * factors, combine.weighting(jacobian))


@properties
@given(m=sizes, exponents=exponents_of_two, seed=seeds)
def test_oracle_2_powers_of_two_on_the_gramian(m: int, exponents: list[int], seed: int) -> None:
    """Oracle 2: the Gramian form too; in float64, where the squares of such factors have room."""
    jacobian = normal(m, 7, seed=seed)
    factors = torch.tensor([2.0**k for k in exponents[:m]], dtype=F64)
    gramian = jacobian @ jacobian.T
    weights = DiBSWeighting()
    assert torch.equal(weights(gramian * factors * factors.unsqueeze(1)) * factors, weights(gramian))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_oracle_2_rows_whose_squares_leave_the_range(scale: float, dtype: torch.dtype) -> None:
    """Oracle 2, towards the ends of float32: the square of 1e-30 is 0, that of 1e30 infinite; unit rows are not."""
    jacobian = torch.tensor([[3.0, 4.0], [4.0, -3.0]], dtype=dtype)
    units, norms = unit_rows(jacobian * scale * scale)
    assert_close(units, jacobian / 5)
    assert_close(norms / scale / scale, torch.full((2,), 5.0, dtype=dtype))


@pytest.mark.parametrize("largest", [1e-40, 3e38])
def test_oracle_2_at_the_very_ends_of_float32(largest: float) -> None:
    """Oracle 2: a row that is not exactly zero has its full vote, even below the least normal number."""
    direction = DiBS()(torch.tensor([[largest, 0.0], [0.0, 1.0]]))
    assert_close(direction, torch.full((2,), math.sqrt(0.5)), atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------------- oracle 3: one or two rows


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("cosine", [-0.99, -0.5, 0.0, 0.5, 0.99])
def test_oracle_3_bisector(cosine: float, steps: int) -> None:
    """Oracle 3: two objectives always get the bisector, whatever T and however different their lengths."""
    u = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=F64)
    direction = DiBS(steps=steps)(u * torch.tensor([[1e-15], [1e15]], dtype=F64))
    assert_close(unit(direction), unit(u.sum(dim=0)), atol=1e-12, rtol=0)
    assert direction.norm() <= 1 + 1e-15


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-15), (F32, 5e-7)])
def test_oracle_3_one_objective(scale: float, steps: int, dtype: torch.dtype, tolerance: float) -> None:
    """Oracle 3: one objective gets its own unit gradient."""
    row = normal(1, 9, dtype=dtype)
    assert_close(DiBS(steps=steps)(scale * row), unit(row[0]), atol=tolerance, rtol=0)


# ------------------------------------------------------------------------------------------- oracle 4: the fixed point


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("m", [2, 3, 5, 8])
def test_oracle_4_fixed_point(m: int, weighted: bool) -> None:
    """Oracle 4: for large T, d is proportional to sum_i p_i sqrt(1 - cos(d, u_i)) u_i."""
    jacobian = normal(m, 6, seed=m)
    jacobian[:, 0] = jacobian[:, 0].abs() + 1  # the first axis is a common descent direction
    preference = [1.0 + i for i in range(m)] if weighted else None
    direction = unit(DiBS(steps=1000, preference=preference)(jacobian * wild_scales(m, seed=m)))

    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    pull = torch.tensor(preference or [1.0] * m, dtype=F64) * (1 - units @ direction).clamp_min(0).sqrt()
    assert_close(direction, unit(pull @ units), atol=1e-8, rtol=0)
    assert (direction - unit(units.sum(dim=0))).norm() > 1e-3 or (m == 2 and not weighted)  # T = 1 is not there yet


# ---------------------------------------------------------------------------------- oracle 5: order and absent votes


@properties
@given(m=sizes, seed=seeds, permutation=st.randoms(use_true_random=False))
def test_oracle_5_permutation(m: int, seed: int, permutation: object) -> None:
    """Oracle 5: permuting the rows permutes the weights and leaves the direction."""
    jacobian, order = normal(m, 5, seed=seed) * wild_scales(m, seed), list(range(m))
    permutation.shuffle(order)
    preference = torch.arange(1.0, m + 1)
    plain, permuted = DiBS(preference=preference), DiBS(preference=preference[order])
    assert_close(permuted.weighting(jacobian[order]), plain.weighting(jacobian)[order], rtol=1e-9, atol=0)
    assert_close(permuted(jacobian[order]), plain(jacobian), atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [1, 5, 50])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_oracle_5_zero_row(position: int, steps: int) -> None:
    """Oracle 5: an objective whose gradient is exactly zero has weight 0 and changes nobody else's."""
    jacobian = normal(4, 6, seed=3) * wild_scales(4, seed=3)
    others = [i for i in range(5) if i != position]
    with_zero = torch.zeros(5, 6, dtype=F64)
    with_zero[others] = jacobian
    preference = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    bigger, smaller = DiBS(steps=steps, preference=preference), DiBS(steps=steps, preference=preference[others])
    weights = bigger.weighting(with_zero)
    assert weights[position] == 0
    assert_close(weights[others], smaller.weighting(jacobian), rtol=1e-13, atol=0)
    assert_close(bigger(with_zero), smaller(jacobian), atol=1e-14, rtol=0)


def test_oracle_5_zero_row_in_the_anchored_game() -> None:
    """Oracle 5: a zero gradient has no vote however far its preferred state is."""
    cosine = torch.diag(torch.tensor([1.0, 0.0, 1.0]))
    weights = dibs_weights(cosine, preference=[1.0, 7.0, 3.0], distances=[1.0, 100.0, 1.0])
    assert torch.equal(weights, torch.tensor([0.25, 0.0, 0.75], dtype=F64))


# ------------------------------------------------------------------------------------ oracles 6, 7: where games end


PREFERRED = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [5.0, 6.0], [-1.0, 2.0]], dtype=F64)
# Increasing functions of the distance, with vanishing, exploding and shrinking slopes.
COSTS: dict[str, Callable[[Tensor], Tensor]] = {
    "distance": lambda r: r,
    "square": lambda r: r**2,
    "fourth power": lambda r: 1e-6 * r**4,
    "logarithm": lambda r: 1e3 * torch.log1p(r),
    "exponential": torch.expm1,
}


def descend(start: Tensor, losses: Callable[[Tensor], Tensor], rule: Callable[..., Tensor], step: float, n: int) -> Tensor:
    """Follows `rule(state, units)`, coefficients on the unit gradients, for n steps; the gradients are autograd's."""
    x = start.clone().requires_grad_()
    for _ in range(n):
        units, _ = unit_rows(objective_jacobian(losses(x), [x]))
        with torch.no_grad():
            x -= step * (rule(x, units) @ units)
    return x.detach()


def isotropic_costs(x: Tensor) -> Tensor:
    distances = (x - PREFERRED).norm(dim=1)
    return torch.stack([cost(r) for cost, r in zip(COSTS.values(), distances, strict=True)])


@pytest.mark.parametrize("preference", [None, [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_oracle_6_anchored_game_ends_at_the_centroid(preference: list[float] | None) -> None:
    """Oracle 6: isotropic costs with any increasing phi_i end at the centroid, weighted by the preference."""

    def anchored(x: Tensor, units: Tensor) -> Tensor:
        return dibs_weights(units @ units.T, preference=preference, distances=(x - PREFERRED).norm(dim=1))

    end = descend(torch.tensor([3.0, -2.0], dtype=F64), isotropic_costs, anchored, step=1.0, n=150)
    weights = torch.tensor(preference or [1.0] * 5, dtype=F64)
    assert_close(end, weights @ PREFERRED / weights.sum(), atol=1e-8, rtol=0)


def test_oracle_6_one_step_local_game_ends_at_the_geometric_median() -> None:
    """Oracle 6: the mean of unit gradients minimises the sum of distances instead, a different point."""
    median = torch.as_tensor(geometric_median(PREFERRED.numpy()))
    assert (median - PREFERRED.mean(dim=0)).norm() > 0.1  # else the two rules could not be told apart

    def local(_: Tensor, units: Tensor) -> Tensor:
        return dibs_weights(units @ units.T, steps=1)

    end = descend(torch.tensor([3.0, -2.0], dtype=F64), isotropic_costs, local, step=1.0, n=200)
    assert_close(end, median, atol=1e-8, rtol=0)


def two_parabolas(x: Tensor) -> Tensor:
    return torch.cat([x**2, (x - 1) ** 2])


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_oracle_7_local_game_stays(steps: int) -> None:
    """Oracle 7: at 0.2 the unit gradients of x^2 and (x - 1)^2 cancel exactly: every Pareto-stationary point holds."""
    start = torch.tensor([0.2], dtype=F64)
    end = descend(start, two_parabolas, lambda _, units: dibs_weights(units @ units.T, steps=steps), step=0.1, n=20)
    assert torch.equal(end, start)


@pytest.mark.parametrize("start", [-10.0, 0.0, 0.2, 0.5, 0.999, 1.0, 10.0])
def test_oracle_7_anchored_game_goes_to_the_middle(start: float) -> None:
    """Oracle 7: the anchored game leaves 0.2 for 0.5, as it does any other start."""

    def anchored(x: Tensor, units: Tensor) -> Tensor:
        return dibs_weights(units @ units.T, distances=torch.cat([x.abs(), (x - 1).abs()]))

    end = descend(torch.tensor([start], dtype=F64), two_parabolas, anchored, step=0.1, n=250)
    assert_close(end, torch.tensor([0.5], dtype=F64), atol=1e-8, rtol=0)


# ------------------------------------------------------------------------------------------- oracle 8: the toy problem

TOY_STEPS = 150
# The five starting points, and where DiBS with T = 5 and step 0.05 is after that many steps: frozen.
TOY_ENDS = {
    (-8.5, 7.5): (-4.99730759, 4.42711735),
    (0.1, 0.1): (0.07047315, -6.28219096),
    (9.0, 9.0): (8.97690972, 8.35837889),
    (-7.5, -0.5): (-4.19159965, -6.48162783),
    (9.0, -1.0): (4.80532602, -6.49065194),
}


def toy_losses(x: Tensor) -> Tensor:
    """The two-objective problem of CAGrad (Liu et al. 2021, arXiv 2110.14048), also in Nash-MTL (arXiv 2202.01017).

    A logarithmic valley for x_2 > 0 and two parabolic bowls for x_2 < 0, blended by c_1 and c_2.
    """
    a, b = x
    f_1 = (0.5 * (-a - 7) - torch.tanh(-b)).abs().clamp_min(5e-6).log() + 6
    f_2 = (0.5 * (-a + 3) - torch.tanh(-b) + 2).abs().clamp_min(5e-6).log() + 6
    g_1 = ((-a + 7) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
    g_2 = ((-a - 7) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
    c_1, c_2 = torch.tanh(0.5 * b).clamp_min(0), torch.tanh(-0.5 * b).clamp_min(0)
    return torch.stack([c_1 * f_1 + c_2 * g_1, c_1 * f_2 + c_2 * g_2])


def toy_trajectory(start: tuple[float, float], combine: Callable[[Tensor], Tensor], *, transformed: bool) -> Tensor:
    x = torch.tensor(start, dtype=F64, requires_grad=True)
    path = []
    for _ in range(TOY_STEPS):
        first, second = toy_losses(x)
        if transformed:
            first = first.sign() * first**4  # increasing; its slope at 0 is 0, which no trajectory hits exactly
        jacobian = objective_jacobian([first, second], [x])
        with torch.no_grad():
            x -= 0.05 * combine(jacobian)
        path.append(x.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize(("start", "end"), list(TOY_ENDS.items()))
def test_oracle_8_toy_problem_is_blind_to_a_monotonic_transform(start: tuple[float, float], end: tuple[float, float]) -> None:
    """Oracle 8: with the first loss f replaced by sign(f) f^4, DiBS walks the same path to rounding."""
    plain = toy_trajectory(start, DiBS(), transformed=False)
    assert_close(toy_trajectory(start, DiBS(), transformed=True), plain, atol=1e-10, rtol=0)
    assert_close(plain[-1], torch.tensor(end, dtype=F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("start", list(TOY_ENDS))
def test_oracle_8_the_sum_is_not_blind(start: tuple[float, float]) -> None:
    """Oracle 8: the plain sum, even with its length divided out, walks another path."""

    def sum_direction(jacobian: Tensor) -> Tensor:
        return unit(jacobian.sum(dim=0))

    plain = toy_trajectory(start, sum_direction, transformed=False)
    transformed = toy_trajectory(start, sum_direction, transformed=True)
    assert (plain - transformed).norm(dim=1).max() > 1e-3


# ------------------------------------------------------------------------------ oracle 9: properties of an aggregator


def typical_matrices() -> dict[str, Tensor]:
    """Every shape and rank that has tripped an aggregator: low rank, parallel, opposite, zero, one row, one column."""
    found = {f"normal {m}x{n} rank {r}": _low_rank(m, n, r) for m, n, r in [(1, 1, 1), (4, 3, 1), (4, 3, 2), (9, 11, 5)]}
    found |= {f"zero {m}x{n}": torch.zeros(m, n) for m, n in [(1, 1), (4, 3), (9, 11)]}
    row = normal(1, 7, seed=1, dtype=F32)
    found["one row"] = row
    found["one column"] = normal(5, 1, seed=2, dtype=F32)
    found["parallel"] = row * torch.tensor([[1.0], [2.0], [1e6]])
    found["opposite"] = row * torch.tensor([[1.0], [-1e6]])
    found["opposite, three"] = row * torch.tensor([[1.0], [-3.0], [-1e-6]])
    found["one zero row"] = torch.cat([normal(3, 7, seed=3, dtype=F32), torch.zeros(1, 7)])
    found["more rows than columns"] = normal(20, 10, seed=4, dtype=F32)
    found["wide"] = normal(20, 100, seed=5, dtype=F32)
    return found


def _low_rank(m: int, n: int, rank: int) -> Tensor:
    return (normal(m, rank, seed=m) @ normal(rank, n, seed=n)).float()


SCALES = [0.0, 1e-15, 1e-10, 1e3, 1e5, 1e10, 1e15]
MATRICES = typical_matrices()
over_matrices = pytest.mark.parametrize("matrix", list(MATRICES.values()), ids=list(MATRICES))
over_steps = pytest.mark.parametrize("combine", [DiBS(steps=1), DiBS(), DiBS(steps=50)], ids=repr)


def assert_finite_structure(combine: DiBS, matrix: Tensor) -> None:
    direction, weights = combine(matrix), combine.weighting(matrix)
    assert direction.shape == matrix.shape[1:]
    assert weights.shape == matrix.shape[:1]
    assert direction.dtype == weights.dtype == matrix.dtype
    assert direction.isfinite().all()
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert direction.norm() <= 1 + 1e-5


def assert_permutation_invariant(combine: DiBS, matrix: Tensor) -> None:
    for seed in range(5):
        order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(seed))
        assert_close(combine(matrix[order]), combine(matrix), atol=1e-5, rtol=1e-5)


def assert_invariant_under_scaling(combine: DiBS, matrix: Tensor) -> None:
    """What DiBS has in the place of an aggregator's linearity under scaling."""
    for seed in range(5):
        factors = 1e-5 + torch.rand(len(matrix), 1, generator=torch.Generator().manual_seed(seed))
        assert_close(combine(factors * matrix), combine(matrix), atol=1e-4, rtol=1e-4)


def assert_non_differentiable(combine: DiBS, matrix: Tensor) -> None:
    assert not combine(matrix.clone().requires_grad_()).requires_grad


@over_matrices
@over_steps
@pytest.mark.parametrize("scale", SCALES)
def test_oracle_9_finite_structure(combine: DiBS, matrix: Tensor, scale: float) -> None:
    """Oracle 9: a finite vector `[p]` of norm at most 1 and finite weights, on every scale."""
    assert_finite_structure(combine, scale * matrix)


@over_matrices
@over_steps
def test_oracle_9_aggregator_properties(combine: DiBS, matrix: Tensor) -> None:
    """Oracle 9: permutation, scaling and non-differentiability."""
    assert_permutation_invariant(combine, matrix)
    assert_invariant_under_scaling(combine, matrix)
    assert_non_differentiable(combine, matrix)


@over_matrices
def test_oracle_9_three_ways_to_the_same_direction(matrix: Tensor) -> None:
    """Oracle 9: weights from the Gramian, weights from the Jacobian and the direction itself agree."""
    matrix, combine = matrix.double(), DiBS(preference=torch.arange(1.0, len(matrix) + 1))
    from_gramian = DiBSWeighting(preference=torch.arange(1.0, len(matrix) + 1))(matrix @ matrix.T)
    assert_close(from_gramian @ matrix, combine(matrix), atol=1e-7, rtol=0)
    assert_close(combine.weighting(matrix) @ matrix, combine(matrix), atol=1e-12, rtol=0)


def small_problem() -> tuple[list[nn.Parameter], Tensor]:
    """Parameters of mixed shapes and three losses of very different scales."""
    layer = nn.Linear(4, 3, dtype=F64)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed))
    outputs = torch.tanh(layer(normal(10, 4, seed=9)))
    return list(layer.parameters()), outputs.square().mean(dim=0) * torch.tensor([1e-6, 1.0, 1e6], dtype=F64)


def test_oracle_9_works_in_jac_to_grad() -> None:
    """Oracle 9: TorchJD's own backward pass puts the direction into `.grad`."""
    params, losses = small_problem()
    expected = DiBS()(objective_jacobian(losses, params, retain_graph=True))
    backward(list(losses), inputs=params)
    jac_to_grad(params, DiBS())
    assert_close(torch.cat([p.grad.flatten() for p in params]), expected, atol=1e-12, rtol=0)


def test_oracle_9_jac_to_grad_returns_the_weights() -> None:
    """Oracle 9: TorchJD promises the weights to whoever combines with an aggregator that has a weighting."""
    params, losses = small_problem()
    expected = DiBS().weighting(objective_jacobian(losses, params, retain_graph=True))
    backward(list(losses), inputs=params)
    found = jac_to_grad(params, DiBS())
    assert found is not None
    assert_close(found, expected, rtol=1e-10, atol=0)


def test_oracle_9_works_in_mtl_backward() -> None:
    """Oracle 9: shared parameters get the direction, each task's own parameters their own gradient."""
    shared, heads = nn.Linear(4, 3, dtype=F64), [nn.Linear(3, 1, dtype=F64) for _ in range(3)]
    features = torch.tanh(shared(normal(10, 4, seed=9)))
    losses = [scale * head(features).square().mean() for scale, head in zip([1e-6, 1.0, 1e6], heads, strict=True)]
    expected = DiBS()(objective_jacobian(losses, shared.parameters(), retain_graph=True))
    own = torch.autograd.grad(losses[2], heads[2].weight, retain_graph=True)[0]
    mtl_backward(losses, features=features)
    jac_to_grad(shared.parameters(), DiBS())
    assert_close(torch.cat([p.grad.flatten() for p in shared.parameters()]), expected, atol=1e-12, rtol=0)
    assert_close(heads[2].weight.grad, own)


def test_oracle_9_survives_a_round_trip_through_a_module() -> None:
    """Oracle 9: an aggregator is a module with a readable repr that builds it again."""
    combine = DiBS(steps=3, preference=[1.0, 2.0], objectives=["a", "b"])
    assert repr(combine) == "DiBS(steps=3, preference=[1.0, 2.0], objectives=['a', 'b'])"
    assert repr(DiBS()) == "DiBS(steps=5)"
    assert torch.equal(eval(repr(combine))(torch.eye(2)), combine(torch.eye(2)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda combine: pickle.loads(pickle.dumps(combine))], ids=["copy", "file"])
@pytest.mark.parametrize("distances", [None, [3.0, 1.0, 5.0]], ids=["local", "anchored"])
def test_oracle_9_a_copy_plays_the_same_game(distances: list[float] | None, again: Callable[[DiBS], DiBS]) -> None:
    """Oracle 9: all that the game depends on goes with the aggregator; distances may come from where gradients are taken."""
    jacobian, combine = normal(3, 5), DiBS(steps=3, preference=[1.0, 2.0, 1.0])
    if distances is not None:
        combine.distances = torch.tensor(distances, requires_grad=True) / 2
    found = again(combine)
    assert repr(found) == repr(combine)
    assert torch.equal(found.weighting(jacobian), combine.weighting(jacobian))
    assert torch.equal(found(jacobian), combine(jacobian))
    combine.distances = torch.ones(3)
    assert not torch.equal(found(jacobian), combine(jacobian))


# ------------------------------------------------------------------------------------------------------ frozen values


def test_one_step_by_hand() -> None:
    """T = 1 from the origin: every distance is 1, so c = p / sum p; here (3, 1) / 4 on the unit rows."""
    direction = DiBS(steps=1, preference=[3.0, 1.0])(torch.tensor([[2.0, 0.0], [0.0, 1e9]], dtype=F64))
    assert_close(direction, torch.tensor([0.75, 0.25], dtype=F64), atol=1e-15, rtol=0)


def test_two_steps_by_hand() -> None:
    """Orthogonal rows, p = (3, 1).

    c_0 = (.75, .25); |delta + u_1|^2 = (1 - .75)^2 + .25^2 = .125; |delta + u_2|^2 = .75^2 + (1 - .25)^2 = 1.125
    c_1 = (.75 + .75 sqrt(.125), .25 + .25 sqrt(1.125)) = (1.01516504, .51516504), |c_1| = 1.13840023
    """
    weights = dibs_weights(torch.eye(2), steps=2, preference=[3.0, 1.0])
    assert_close(weights, torch.tensor([0.89174705, 0.45253420], dtype=F64), atol=1e-8, rtol=0)


def test_anchored_step_by_hand() -> None:
    """c = p * dist / sum: (1 * 3, 2 * 1, 1 * 5) / 10."""
    weights = dibs_weights(torch.eye(3), preference=[1, 2, 1], distances=[3, 1, 5])
    assert_close(weights, torch.tensor([0.3, 0.2, 0.5], dtype=F64), atol=1e-15, rtol=0)


def test_anchored_game_at_every_preferred_state() -> None:
    """Nobody wants to go anywhere: no direction, and no division by the zero sum."""
    assert torch.equal(dibs_weights(torch.eye(2), distances=[0.0, 0.0]), torch.zeros(2, dtype=F64))


def test_every_form_has_the_same_default() -> None:
    units, _ = unit_rows(normal(3, 5))
    assert_close(dibs_weights(units @ units.T), DiBSWeighting()(units @ units.T))
    assert_close(dibs_weights(units @ units.T, steps=5), DiBS().weighting(units))


@pytest.mark.parametrize(
    ("steps", "direction"),
    [
        (1, (0.01017316, 0.43078362, -0.01642997)),
        (5, (0.03969217, 0.98702627, 0.15557530)),
        (50, (0.04057398, 0.98124516, 0.18844547)),
    ],
)
def test_frozen_directions(steps: int, direction: tuple[float, float, float]) -> None:
    """Frozen: what the default and its neighbours say about one badly scaled matrix of three objectives."""
    jacobian = torch.tensor([[-4.0, 1.0, 1.0], [6e6, 1e6, 1e6], [0.0, 2e-6, -1e-6]], dtype=F64)
    assert_close(DiBS(steps=steps)(jacobian), torch.tensor(direction, dtype=F64), atol=1e-7, rtol=0)


def test_not_conflict_free_for_three_objectives() -> None:
    """A badly placed minority can be worked against; nobody is to believe otherwise."""
    jacobian = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.2]], dtype=F64)
    assert (jacobian @ DiBS(steps=1)(jacobian))[2] < 0


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["direction", "weights"])
def test_non_finite_rows_are_named(bad: float, part: str) -> None:
    jacobian = normal(4, 3)
    jacobian[1, 2] = jacobian[3, 0] = bad
    combine = DiBS(objectives=["speed", "height", "grace", "energy"])
    with pytest.raises(NonFiniteError, match=r"of height, energy\.$"):
        combine(jacobian) if part == "direction" else combine.weighting(jacobian)
    with pytest.raises(NonFiniteError, match=r"of row 1, row 3\.$"):
        DiBS()(jacobian)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_cosines_are_refused(bad: float) -> None:
    cosine = torch.eye(3)
    cosine[0, 1] = bad
    with pytest.raises(NonFiniteError, match="finite"):
        dibs_weights(cosine)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 0), (2, 2, 3), (4, 0, 0), ()])
def test_wrong_cosine_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"shape \[m, m\] with m >= 1; found \["):
        dibs_weights(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_a_jacobian_is_a_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dimension 2"):
        DiBS()(torch.zeros(shape))


def test_no_parameters_give_an_empty_direction() -> None:
    assert DiBS()(torch.zeros(3, 0)).shape == (0,)


def test_no_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="m >= 1"):
        DiBS()(torch.zeros(0, 3))


@pytest.mark.parametrize("steps", [0, -1])
@pytest.mark.parametrize("make", [lambda s: DiBS(steps=s), lambda s: DiBSWeighting(steps=s)], ids=["DiBS", "DiBSWeighting"])
def test_too_few_steps(steps: int, make: Callable[[int], object]) -> None:
    with pytest.raises(UserError, match=f"at least 1 step; found steps={steps}"):
        make(steps)
    with pytest.raises(UserError, match=f"at least 1 step; found steps={steps}"):
        dibs_weights(torch.eye(2), steps=steps)


@pytest.mark.parametrize(
    ("preference", "rule"),
    [
        ([1.0], "One preference weight for each of the 2 objectives; found 1"),
        ([1.0, 2.0, 3.0], "One preference weight for each of the 2 objectives; found 3"),
        ([1.0, 0.0], "positive numbers; found"),
        ([1.0, -1.0], "positive numbers; found"),
        ([1.0, math.nan], "positive numbers; found"),
        ([1.0, math.inf], "positive numbers; found"),
    ],
)
def test_bad_preferences(preference: list[float], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        dibs_weights(torch.eye(2), preference=preference)
    with pytest.raises(UserError, match=rule):
        DiBS(preference=preference)(torch.eye(2))


@pytest.mark.parametrize(
    ("distances", "rule"),
    [
        ([1.0], "One distance for each of the 2 objectives; found 1"),
        ([1.0, -1e-9], "finite and not negative; found"),
        ([1.0, math.nan], "finite and not negative; found"),
        ([1.0, math.inf], "finite and not negative; found"),
    ],
)
def test_bad_distances(distances: list[float], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        dibs_weights(torch.eye(2), distances=distances)


@properties
@given(m=sizes, factor=st.floats(1e-6, 1e6), seed=seeds)
def test_only_ratios_of_preferences_matter(m: int, factor: float, seed: int) -> None:
    units, _ = unit_rows(normal(m, 5, seed=seed))
    preference = 0.1 + torch.rand(m, generator=torch.Generator().manual_seed(seed), dtype=F64)
    for more in ({}, {"distances": torch.arange(1.0, m + 1)}):
        plain = dibs_weights(units @ units.T, preference=preference, **more)
        assert_close(dibs_weights(units @ units.T, preference=factor * preference, **more), plain, atol=1e-7, rtol=0)


@pytest.mark.parametrize("factor", [1e-308, 1e-200, 1e200, 4e307])
def test_preferences_and_distances_have_units_of_their_own(factor: float) -> None:
    """Where a sum or a product of them would leave float64."""
    cosine = torch.tensor([[1.0, 0.3], [0.3, 1.0]], dtype=F64)
    of_ratios = {"preference": [1.0, 4.0], "distances": [2.0, 0.5]}
    plain = dibs_weights(cosine, **of_ratios)  # type: ignore[arg-type]
    scaled = {name: [factor * value for value in values] for name, values in of_ratios.items()}
    assert_close(dibs_weights(cosine, **scaled), plain, atol=1e-7, rtol=0)  # type: ignore[arg-type]
    local = dibs_weights(cosine, preference=scaled["preference"])
    assert_close(local, dibs_weights(cosine, preference=of_ratios["preference"]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("more", [{}, {"steps": 50}, {"preference": [1.0, 2.0, 0.5]}, {"distances": True}], ids=str)
def test_many_games_side_by_side(more: dict[str, object]) -> None:
    """A stack of cosine matrices is a stack of games. It is played by torch's operations, one game on a CPU by NumPy's."""
    units = unit_rows(normal(12, 5, seed=1))[0].view(2, 2, 3, 5)
    units[0, 1, 2] = 0  # one without a vote
    cosine = units @ units.mT
    distances = normal(2, 2, 3, seed=2).abs()
    together = dibs_weights(cosine, **({**more, "distances": distances} if "distances" in more else more))
    assert together.shape == (2, 2, 3)
    for i, j in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        own = {**more, "distances": distances[i, j]} if "distances" in more else more
        assert_close(together[i, j], dibs_weights(cosine[i, j], **own), atol=1e-13, rtol=0)


def test_distances_of_many_games_have_their_shape() -> None:
    with pytest.raises(UserError, match="One distance for each of the 3 objectives; found 3"):
        dibs_weights(torch.eye(3).expand(2, 3, 3), distances=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients(dtype: torch.dtype) -> None:
    """The algebra is in float64 whatever the gradients come in."""
    jacobian = (normal(4, 50, seed=3) * torch.tensor([[1e-3], [1.0], [10.0], [1e-2]])).to(dtype)
    direction = DiBS()(jacobian)
    assert direction.dtype == dtype
    assert_close(direction.double(), DiBS()(jacobian.double()), atol=2e-2, rtol=0)


def test_inputs_are_left_alone() -> None:
    jacobian, preference = normal(3, 4), torch.tensor([1.0, 2.0, 3.0])
    before = jacobian.clone()
    DiBS(preference=preference)(jacobian)
    dibs_weights(cosine := torch.eye(3), preference=preference)
    assert torch.equal(jacobian, before)
    assert torch.equal(preference, torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(cosine, torch.eye(3))
