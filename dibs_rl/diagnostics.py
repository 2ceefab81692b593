"""What the objectives' gradients say about each other: pure functions of the cosine matrix."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from dibs_rl.units import cosines, unit_rows


class Bargain(NamedTuple):
    """One combination of gradients, as far as the log wants to know it.

    Attributes:
        cosine: Cosines between the objectives' gradients, `[m, m]`.
        norms: Euclidean norms of the gradients, `[m]`.
        toward: Cosine of each objective's gradient with the direction taken, `[m]`.
        share: Share of each objective in the direction, `[m]`, not negative, summing to 1 (NaN if unknown).
    """

    cosine: Tensor
    norms: Tensor
    toward: Tensor
    share: Tensor


def describe_bargain(
    jacobian: Tensor, direction: Tensor, weights: Tensor | None, objectives: Sequence[str] | None = None
) -> Bargain:
    """Records how the direction `[p]` relates to the rows of the Jacobian `[m, p]`.

    Args:
        jacobian: Gradients, one a row.
        direction: What they were combined to.
        weights: The weights `[m]` on the rows, where the combiner has any.
        objectives: Names of the rows.

    Raises:
        NonFiniteError: If a gradient is not finite (on the processor); it names the objective.
    """
    units, norms = unit_rows(jacobian, objectives)
    toward = units @ unit_rows(direction.unsqueeze(0), ("the direction",))[0].squeeze(0)
    share = torch.full_like(norms, math.nan) if weights is None else _shares(weights * norms)
    return Bargain(cosines(units), norms, toward, share)


def _shares(coefficients: Tensor) -> Tensor:
    size = coefficients.abs()
    return size / torch.where(size.sum() > 0, size.sum(), torch.ones_like(size.sum()))


def conflict_fraction(cosine: Tensor) -> Tensor:
    """Fraction of the pairs of objectives whose gradients have a negative cosine; 0 for one objective."""
    pairs = _pairs(cosine)
    return (pairs < 0).to(cosine.dtype).mean() if len(pairs) else cosine.new_zeros(())


def least_cosine(cosine: Tensor) -> Tensor:
    """Least cosine between the gradients of any two objectives; 1 for one objective."""
    pairs = _pairs(cosine)
    return pairs.min() if len(pairs) else cosine.new_ones(())


def stationarity_residual(cosine: Tensor) -> Tensor:
    """Norm of the shortest vector in the convex hull of the unit gradients, in [0, 1].

    It is 0 exactly where the parameters are Pareto stationary (Desideri 2012, MGDA). The point is found exactly: among
    w >= 0, the least of |U^T w|^2 + (sum(w) - 1)^2 lies along the weights of the shortest vector in the hull, and that is
    a non-negative least-squares problem.

    Args:
        cosine: Matrix of cosines `[m, m]`; an objective without a gradient has 0 on the diagonal, and is left out.

    Returns:
        `[]` float64 on the CPU, which waits for a GPU.
    """
    q = cosine.detach().double().cpu().numpy()
    voting = np.diagonal(q) > 0
    if not voting.any():
        return torch.zeros((), dtype=torch.float64)
    q = q[np.ix_(voting, voting)]
    values, vectors = np.linalg.eigh(q)
    rows = np.sqrt(values.clip(min=0))[:, None] * vectors.T  # rows.T @ rows = q
    weights, _ = nnls(np.vstack([rows, np.ones(len(q))]), np.append(np.zeros(len(q)), 1.0))
    weights /= weights.sum()
    return torch.tensor(max(weights @ q @ weights, 0.0)).sqrt()


def residual_noise_floor(m: int) -> float:
    """About what the stationarity residual reads for m gradients of pure noise: orthogonal units give 1/sqrt(m)."""
    return 1 / math.sqrt(m)


def summarise(bargains: Sequence[Bargain], objectives: Sequence[str]) -> dict[str, float]:
    """Averages bargains over an update into a flat record, by the objectives' names."""
    mean = Bargain(*(torch.stack(parts).mean(0) for parts in zip(*bargains, strict=True)))
    record: dict[str, float] = {}
    for label, column in (("gradient_norm", mean.norms), ("share", mean.share), ("cosine_to_step", mean.toward)):
        named = zip(objectives, column.tolist(), strict=True)
        record |= {f"{label}/{name}": value for name, value in named if not math.isnan(value)}
    record["least_cosine"] = torch.stack([least_cosine(b.cosine) for b in bargains]).mean().item()
    record["conflict_fraction"] = torch.stack([conflict_fraction(b.cosine) for b in bargains]).mean().item()
    record["stationarity_residual"] = torch.stack([stationarity_residual(b.cosine) for b in bargains]).mean().item()
    record["stationarity_noise_floor"] = residual_noise_floor(len(objectives))
    return record


def _pairs(cosine: Tensor) -> Tensor:
    m = len(cosine)
    return cosine[tuple(torch.triu_indices(m, m, offset=1, device=cosine.device))]
