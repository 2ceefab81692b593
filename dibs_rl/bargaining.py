"""The DiBS bargaining step: from gradient directions to one direction.

Everything here is algebra on the cosine matrix of the objectives' gradients. Gradient lengths are divided out once, in
`unit_rows`, and loss values never enter: that is where the invariance to reward scale comes from.

On a GPU a combination does not wait for it: nobody looks whether numbers are finite there, and from one that is not come NaNs.

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
from torchjd.aggregation import WeightedAggregator, Weighting
from torchjd.linalg import Matrix, PSDMatrix

from dibs_rl import sync
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.units import unit_power

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

    Returns:
        Coefficients c, shape `[..., m]`, float64, not negative. The direction is `c @ unit_gradients`; its norm is at most 1.

    Raises:
        UserError: If a shape, `steps`, a preference or a distance is not as said above.
        NonFiniteError: If `cosine` holds a NaN or an infinity (on the processor).
    """
    q = _checked_cosine(cosine)
    preference = None if preference is None else _beside(q, positive_weights(preference, q.shape[-1]))
    play: Callable[..., Array] = partial(_local_game, preference=preference, steps=_checked_steps(steps))
    games: tuple[Array, ...] = (q,)
    if distances is not None:
        play, games = partial(_anchored_game, preference=preference), (q, _checked_distances(distances, q))
    for _ in range(q.ndim - 2):
        play = torch.vmap(play)
    return _tensor(play(*games))


def _local_game(cosine: Array, preference: Array | None, steps: int) -> Array:
    """Takes DiBS steps inside the unit ball: cosines `[m, m]` and preference weights `[m]` to coefficients `[m]`."""
    at_least = torch.clamp_min if isinstance(cosine, Tensor) else np.maximum
    votes = _votes(cosine, preference)
    step_size = votes / _positive_or_one(votes.sum())
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


def _anchored_game(cosine: Array, distances: Array, preference: Array | None) -> Array:
    """One step with the distances `[m]` as they are: cosines `[m, m]` to coefficients `[m]`."""
    pull = _votes(cosine, preference) * distances
    return pull / _positive_or_one(pull.sum())


def _votes(cosine: Array, preference: Array | None) -> Array:
    """The preference `[m]` of each objective that has a gradient, 0 for the others."""
    own = cosine.diagonal()
    voting = own / _positive_or_one(own)
    return voting if preference is None else voting * preference


def check_finite(jacobian: Tensor, objectives: Sequence[str] | None = None) -> Tensor:
    """The largest absolute value in each row of the Jacobian, `[m]`.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity; it names the objectives.
    """
    largest = _largest(jacobian)
    finite = torch.isfinite(largest)
    if finite.all():
        return largest
    bad = [i for i, good in enumerate(finite.tolist()) if not good]
    named = objectives is not None and len(objectives) == len(finite)
    names = ", ".join(objectives[i] if objectives and named else f"row {i}" for i in bad)
    raise NonFiniteError(f"The gradient of each objective must be finite; found NaN or infinity in that of {names}.")


def _largest(jacobian: Tensor) -> Tensor:
    return jacobian.abs().amax(dim=1) if jacobian.shape[1] else jacobian.new_zeros(len(jacobian))


def unit_rows(jacobian: Tensor, objectives: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Divides each row of the Jacobian by its Euclidean norm.

    Args:
        jacobian: Shape `[m, p]`, any scale.
        objectives: Names for the error message.

    Returns:
        The unit rows `[m, p]` (a row of exact zeros stays zero) and the norms `[m]`. Multiplying a row by a power of two
        changes its unit row in no bit.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity (on the processor); it names the objectives.
    """
    scaled, shrink = _near_one(jacobian, objectives)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / _positive_or_one(length), (length / shrink).flatten()


def _near_one(jacobian: Tensor, objectives: Sequence[str] | None) -> tuple[Tensor, Tensor]:
    """Rows whose squares neither vanish nor overflow, and the powers of two `[m, 1]` that they were multiplied by."""
    largest = _largest(jacobian) if sync.waits(jacobian.device) else check_finite(jacobian, objectives)
    shrink = unit_power(largest).unsqueeze(1)
    return jacobian * shrink, shrink


def cosines(units: Tensor) -> Tensor:
    """Cosine matrix `[m, m]` of unit rows `[m, p]`, in float64: long games amplify the rounding of float32."""
    units = units.double()
    return units @ units.T


class DiBSWeighting(Weighting[PSDMatrix]):
    """Weights of a game on the raw gradients, from their Gramian: of the local game, or of the anchored one.

    Args:
        steps: Steps T of the local game.
        preference: Positive preference weights, shape `[m]`; equal if not given.

    Attributes:
        distances: Distances to the preferred states, `[m]`: while there are any, the anchored game is played.
    """

    distances: Tensor | None = None

    def __init__(self, *, steps: int = 5, preference: Preference = None) -> None:
        super().__init__()
        self.steps = _checked_steps(steps)
        self.preference = None if preference is None else positive_weights(preference)

    def __getstate__(self) -> dict[str, Any]:
        """For a file that opens also where there is no GPU; distances are measured anew."""
        preference = None if self.preference is None else self.preference.cpu()
        return {**self.__dict__, "preference": preference, "distances": None}

    def forward(self, gramian: Tensor, /) -> Tensor:
        """Maps the Gramian `[m, m]` to weights `[m]`: DiBS coefficient over gradient norm, 0 for a zero gradient."""
        return _tensor(self.weigh(_checked_cosine(gramian))).to(gramian.dtype)

    def weigh(self, gramian: Array) -> Array:
        """The same in float64, for a Gramian that is known to be finite."""
        divisor = _positive_or_one(gramian.diagonal() ** 0.5)
        cosine = gramian / divisor / divisor[:, None]
        if self.preference is not None:
            self.preference = self.preference.to(cosine.device)  # once: it stays there
        preference = _beside(cosine, self.preference)
        if self.distances is None:
            return _local_game(cosine, preference, self.steps) / divisor
        return _anchored_game(cosine, _checked_distances(self.distances, cosine), preference) / divisor


class _JacobianWeighting(Weighting[Matrix]):
    """The same weights from the Jacobian itself, for rows whose Gramian would overflow or vanish."""

    def __init__(self, game: DiBSWeighting, objectives: Sequence[str] | None) -> None:
        super().__init__()
        self.game = game
        self.objectives = objectives

    def forward(self, jacobian: Tensor, /) -> Tensor:
        if not len(jacobian):
            raise UserError(f"A Jacobian has one row for each of m >= 1 objectives; found shape {list(jacobian.shape)}.")
        # Float64 has room for the squares of every float32, and the Gramian is finite where its diagonal is.
        rows, shrink = jacobian.detach().double(), None
        if rows.dtype == jacobian.dtype:
            rows, shrink = _near_one(rows, self.objectives)
        gramian = _array(rows @ rows.T)
        if not sync.waits(jacobian.device) and not math.isfinite(sum(gramian.diagonal().tolist())):
            check_finite(jacobian, self.objectives)  # it is not, and this says whose
        weights = _tensor(self.game.weigh(gramian))
        return (weights if shrink is None else weights * shrink.squeeze(1)).to(jacobian.dtype)


class DiBS(WeightedAggregator):
    """The DiBS bargaining step as a TorchJD aggregator: Jacobian `[m, p]` in, direction `[p]` of norm at most 1 out.

    Rescaling a row by any positive factor does not change the result. DiBS is not conflict-free for three or more
    objectives: it can work against a badly placed minority.

    Args:
        steps: Steps T of the local game; 1 is the mean of the unit gradients.
        preference: Positive preference weights, shape `[m]`; equal if not given.
        objectives: Names of the rows, for error messages.

    Raises:
        NonFiniteError: When called on a Jacobian with a NaN or infinite entry, on the processor. On a GPU, which nobody
            waits for, all of the direction is NaN then.

    Example:
        >>> import torch
        >>> from dibs_rl import DiBS
        >>> DiBS()(torch.tensor([[1e6, 0.0], [0.0, 1e-3]]))
        tensor([0.7071, 0.7071])
    """

    def __init__(self, *, steps: int = 5, preference: Preference = None, objectives: Sequence[str] | None = None) -> None:
        self._settings = {"steps": steps, "preference": preference, "objectives": objectives}
        game = DiBSWeighting(steps=steps, preference=preference)
        super().__init__(_JacobianWeighting(game, objectives))
        self.gramian_weighting = game
        self.objectives = objectives

    def forward(self, jacobian: Tensor, /) -> Tensor:
        """Combines the rows, in their own precision also where autocast would lower it."""
        jacobian = jacobian.detach()
        if torch.is_autocast_enabled(jacobian.device.type):
            with torch.autocast(jacobian.device.type, enabled=False):
                return self.forward(jacobian)
        weights = self.weighting(jacobian)  # called as a module: TorchJD reads the weights with a hook on it
        if not sync.waits(jacobian.device) and math.isfinite(sum(weights.tolist())):
            return weights @ jacobian
        # Right also for a row so small that its weight overflows; where nobody looks if there is one, taken always.
        units, _ = unit_rows(jacobian, self.objectives)
        return self.gramian_weighting(cosines(units)).to(units.dtype) @ units

    @property
    def distances(self) -> Tensor | None:
        """Distances to the preferred states, `[m]`: while there are any, the anchored game is played with them."""
        return self.gramian_weighting.distances

    @distances.setter
    def distances(self, distances: Tensor | None) -> None:
        self.gramian_weighting.distances = distances

    def __repr__(self) -> str:
        return f"DiBS({', '.join(f'{key}={value!r}' for key, value in self._settings.items() if value is not None)})"


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


def _array(matrix: Tensor) -> Array:
    """A float64 matrix for the algebra above; a stack of them stays a tensor everywhere, for `torch.vmap`."""
    return matrix if matrix.dim() > 2 or sync.waits(matrix.device) else matrix.numpy()


def _tensor(array: Array) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


def _beside(cosine: Array, weights: Tensor | None) -> Array | None:
    """Checked preference weights, as what the cosines are and where they are."""
    if weights is None:
        return None
    if len(weights) != cosine.shape[-1]:
        positive_weights(weights, cosine.shape[-1])  # says so
    return weights.to(cosine.device) if isinstance(cosine, Tensor) else weights.numpy()


def _positive_or_one(value: Array) -> Array:
    """A divisor that leaves an exact zero alone and adds no epsilon to anything else; for what is not negative."""
    return value + (value == 0)


def _checked_steps(steps: int) -> int:
    if steps < 1:
        raise UserError(f"The local game takes at least 1 step; found steps={steps}.")
    return steps


def _checked_cosine(cosine: Tensor) -> Array:
    shape = cosine.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or not shape[-1]:
        raise UserError(f"The cosine matrix has shape [m, m] with m >= 1; found {list(shape)}.")
    q = _array(cosine.detach().double())
    if not sync.waits(cosine.device) and not math.isfinite(abs(q).sum()):
        raise NonFiniteError("The cosine matrix must be finite; found NaN or infinity.")
    return q


def _checked_distances(distances: Tensor | Sequence[float], cosine: Array) -> Array:
    d = torch.as_tensor(distances, dtype=torch.float64, device=cosine.device).detach()
    if d.shape != cosine.shape[:-1]:
        raise UserError(f"One distance for each of the {cosine.shape[-1]} objectives; found {d.numel()}.")
    if not sync.waits(d.device) and not (torch.isfinite(d).all() and (d >= 0).all()):
        raise UserError(f"Distances are finite and not negative; found {d.tolist()}.")
    return d if isinstance(cosine, Tensor) else d.numpy()
