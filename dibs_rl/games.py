"""The bargaining games of DiBS, as algebra on the cosine matrix of the objectives' gradients.

Papers:
    DiBS: "Cooperative Bargaining Games Without Utilities: Mediated Solutions from Direction Oracles", arXiv 2505.14817.
    DiBS-MTL: "Monotonic Transformation Invariant Multi-task Learning", arXiv 2509.23948.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dibs_rl import sync
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.units import positive_or_one, unit_power

Preference = Tensor | Sequence[float] | None
# Float64 for the m-by-m algebra, which is written so that it means the same to both: a NumPy array on the CPU, whose calls
# cost a fraction of torch's on something so small, and a tensor on any other device, where it stays.
Array = Any


def dibs_weights(
    cosine: Tensor, *, steps: int = 5, preference: Preference = None, distances: Tensor | Sequence[float] | None = None
) -> Tensor:
    """Solves one bargaining game and returns each objective's coefficient on its *unit* gradient.

    Without `distances` this is the local game of DiBS-MTL (arXiv 2509.23948): the state starts at the current parameters,
    the preferred state of objective i is one unit along its descent direction, and `steps` DiBS steps are taken inside the
    unit ball. With `distances` it is one step of the original game (arXiv 2505.14817), whose preferred states are fixed.

    Args:
        cosine: Cosines between the objectives' gradients, shape `[m, m]`. A zero on the diagonal marks an objective whose
            gradient is zero: it has no vote, and the others' coefficients are as if it were absent. Or `[..., m, m]`: many
            games, side by side.
        steps: Number of steps T of the local game. One step gives the mean of the unit gradients.
        preference: Positive preference weights p, shape `[m]`; all equal if not given. Only their ratios matter.
        distances: Distances to the preferred states, shape `[..., m]`, not negative. Given, the anchored game is played.
            Only their ratios matter.

    Returns:
        Coefficients c, shape `[..., m]`, float64, not negative. The direction is `c @ unit_gradients`; its norm is at most 1.

    Raises:
        UserError: If a shape, `steps`, a preference or a distance is not as said above.
        NonFiniteError: If `cosine` holds a NaN or an infinity (on the processor).
    """
    q = checked_cosine(cosine)
    preference = None if preference is None else beside(q, votes_of(positive_weights(preference, q.shape[-1])))
    play: Callable[..., Array] = partial(local_game, preference=preference, steps=checked_steps(steps))
    games: tuple[Array, ...] = (q,)
    if distances is not None:
        play, games = partial(anchored_game, preference=preference), (q, checked_distances(distances, q))
    for _ in range(q.ndim - 2):
        play = torch.vmap(play)
    return as_tensor(play(*games))


def local_game(cosine: Array, preference: Array | None, steps: int) -> Array:
    """Takes DiBS steps inside the unit ball: cosines `[m, m]` and preference weights `[m]` to coefficients `[m]`."""
    at_least = torch.clamp_min if isinstance(cosine, Tensor) else np.maximum
    votes = _votes(cosine, preference)
    step_size = votes / positive_or_one(votes.sum())
    opposed, own = -2 * cosine, cosine.diagonal()
    c = cross = 0 * own  # the state is delta = -U^T c, and cross is 2 u_i^T delta
    squared_length = 0.0  # of the state
    for _ in range(steps):
        # |delta + u_i|^2; rounding can leave a tiny negative number where the state sits on u_i.
        squared_distance = at_least(cross + own + squared_length, 0.0)
        c = c + step_size * squared_distance**0.5
        cross = opposed @ c
        squared_length = c @ cross / -2
        outside = at_least(squared_length, 1.0)
        shrink = outside**-0.5  # back onto the unit ball, then carry on from there
        c, cross, squared_length = c * shrink, cross * shrink, squared_length / outside
    return c


def anchored_game(cosine: Array, distances: Array, preference: Array | None) -> Array:
    """One step with the distances `[m]` as they are: cosines `[m, m]` to coefficients `[m]`."""
    pull = _votes(cosine, preference) * distances
    return pull / positive_or_one(pull.sum())


def _votes(cosine: Array, preference: Array | None) -> Array:
    """The preference `[m]` of each objective that has a gradient, 0 for the others."""
    own = cosine.diagonal()
    voting = own / positive_or_one(own)
    return voting if preference is None else voting * preference


def positive_weights(preference: Tensor | Sequence[float], m: int | None = None, names: Sequence[str] = ()) -> Tensor:
    """Preference weights as a float64 tensor `[m]`.

    Raises:
        UserError: If there is not one for each of the m objectives, or one is not a positive number.
    """
    weights = torch.as_tensor(preference, dtype=torch.float64)
    if weights.dim() != 1 or (m is not None and len(weights) != m):
        wanted = f"each of the {m} objectives" if m is not None else "each objective"
        listed = f" ({', '.join(names)})" if names else ""
        raise UserError(f"One preference weight for {wanted}{listed}; found {weights.numel()}.")
    if not ((weights > 0) & (weights < math.inf)).all():
        raise UserError(f"Preference weights are positive numbers; found {', '.join(f'{w:g}' for w in weights)}.")
    return weights


def votes_of(weights: Tensor) -> Tensor:
    """Preference weights `[m]` in a unit of their own, whose sums and products with distances stay within float64."""
    return weights * unit_power(weights.max())


def as_array(matrix: Tensor) -> Array:
    """A float64 matrix for the algebra above; a stack of them stays a tensor everywhere, for `torch.vmap`."""
    return matrix if matrix.dim() > 2 or sync.waits(matrix.device) else matrix.numpy()


def as_tensor(array: Array) -> Tensor:
    """What the algebra came to, as a tensor; of an array, on the same memory."""
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


def beside(cosine: Array, weights: Tensor | None) -> Array | None:
    """Preference weights `[m]`, checked before, as what the cosines are and where they are.

    Raises:
        UserError: If there is not one for each objective.
    """
    if weights is None:
        return None
    if len(weights) != cosine.shape[-1]:
        positive_weights(weights, cosine.shape[-1])  # says so
    return weights.to(cosine.device) if isinstance(cosine, Tensor) else weights.numpy()


def checked_steps(steps: int) -> int:
    """The number of steps, at least 1.

    Raises:
        UserError: If it is less.
    """
    if steps < 1:
        raise UserError(f"The local game takes at least 1 step; found steps={steps}.")
    return steps


def checked_cosine(cosine: Tensor) -> Array:
    """A cosine matrix or Gramian `[..., m, m]`, for the algebra.

    Raises:
        UserError: If it has another shape.
        NonFiniteError: If it holds a NaN or an infinity (on the processor).
    """
    shape = cosine.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or not shape[-1]:
        raise UserError(f"The cosine matrix has shape [m, m] with m >= 1; found {list(shape)}.")
    q = as_array(cosine.detach().double())
    if not sync.waits(cosine.device) and not math.isfinite(abs(q).sum()):
        raise NonFiniteError("The cosine matrix must be finite; found NaN or infinity.")
    return q


def checked_distances(distances: Tensor | Sequence[float], cosine: Array) -> Array:
    """Distances to the preferred states `[..., m]`, in a unit of their own, as what the cosines are and where they are.

    Raises:
        UserError: If there is not one for each objective, or one is negative or not finite (on the processor).
    """
    d = torch.as_tensor(distances, dtype=torch.float64, device=cosine.device).detach()
    if d.shape != cosine.shape[:-1]:
        raise UserError(f"One distance for each of the {cosine.shape[-1]} objectives; found {d.numel()}.")
    if not sync.waits(d.device) and not (torch.isfinite(d).all() and (d >= 0).all()):
        raise UserError(f"Distances are finite and not negative; found {d.tolist()}.")
    d = d * unit_power(d.amax(dim=-1, keepdim=True))
    return d if isinstance(cosine, Tensor) else d.numpy()
