"""The DiBS bargaining step: from gradient directions to one direction.

Everything here is algebra on the cosine matrix of the objectives' gradients. Gradient lengths are divided out once, in
`unit_rows`, and loss values never enter: that is where the invariance to reward scale comes from.

Papers:
    DiBS: "Cooperative Bargaining Games Without Utilities: Mediated Solutions from Direction Oracles", arXiv 2505.14817.
    DiBS-MTL: "Monotonic Transformation Invariant Multi-task Learning", arXiv 2509.23948.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchjd.aggregation import WeightedAggregator, Weighting
from torchjd.linalg import Matrix, PSDMatrix

from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.units import unit_power

Preference = Tensor | Sequence[float] | None


def dibs_weights(
    cosine: Tensor, *, steps: int = 5, preference: Preference = None, distances: Tensor | Sequence[float] | None = None
) -> Tensor:
    """Solves one bargaining game and returns each objective's coefficient on its *unit* gradient.

    Without `distances` this is the local game of DiBS-MTL (arXiv 2509.23948): the state starts at the current parameters,
    the preferred state of objective i is one unit along its descent direction, and `steps` DiBS steps are taken inside the
    unit ball. With `distances` it is one step of the original game (arXiv 2505.14817), whose preferred states are fixed.

    Args:
        cosine: Cosines between the objectives' gradients, shape `[m, m]`. A zero on the diagonal marks an objective whose
            gradient is zero: it has no vote, and the others' coefficients are as if it were absent.
        steps: Number of steps T of the local game. One step gives the mean of the unit gradients.
        preference: Positive preference weights p, shape `[m]`; all equal if not given. Only their ratios matter.
        distances: Distances to the preferred states, shape `[m]`, not negative. Given, the anchored game is played.

    Returns:
        Coefficients c, shape `[m]`, float64, not negative. The direction is `c @ unit_gradients`; its norm is at most 1.

    Raises:
        UserError: If a shape, `steps`, a preference or a distance is not as said above.
        NonFiniteError: If `cosine` holds a NaN or an infinity.
    """
    q = _checked_cosine(cosine)
    voting = q.diagonal() > 0
    p = _checked_preference(preference, q) * voting
    if distances is not None:
        pull = p * _checked_distances(distances, q)
        return pull / _positive_or_one(pull.sum())
    if steps < 1:
        raise UserError(f"The local game takes at least 1 step; found steps={steps}.")

    step_size = p / _positive_or_one(p.sum())
    c = torch.zeros_like(p)
    for _ in range(steps):
        q_c = q @ c
        # |delta + u_i|^2 with delta = -U^T c; rounding can leave a tiny negative number where the state sits on u_i.
        distance = (c @ q_c - 2 * q_c + q.diagonal()).clamp_min(0).sqrt()
        c = c + step_size * distance
        c = c / (c @ q @ c).clamp_min(1).sqrt()  # back onto the unit ball, then carry on from there
    return c


def unit_rows(jacobian: Tensor, objectives: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Divides each row of the Jacobian by its Euclidean norm.

    Args:
        jacobian: Shape `[m, p]`, any scale.
        objectives: Names for the error message.

    Returns:
        The unit rows `[m, p]` (a row of exact zeros stays zero) and the norms `[m]`. Multiplying a row by a power of two
        changes its unit row in no bit.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity; it names the objectives.
    """
    largest = check_finite(jacobian, objectives).unsqueeze(1)
    shrink = unit_power(largest)  # squares of 1e-30 vanish in float32
    scaled = jacobian * shrink
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / _positive_or_one(length), (length / shrink).flatten()


def check_finite(jacobian: Tensor, objectives: Sequence[str] | None = None) -> Tensor:
    """The largest absolute value in each row of the Jacobian, `[m]`.

    Raises:
        NonFiniteError: If a row holds a NaN or an infinity; it names the objectives.
    """
    largest = jacobian.abs().amax(dim=1) if jacobian.shape[1] else jacobian.new_zeros(len(jacobian))
    finite = torch.isfinite(largest)
    if finite.all():
        return largest
    bad = [i for i, good in enumerate(finite.tolist()) if not good]
    named = objectives is not None and len(objectives) == len(finite)
    names = ", ".join(objectives[i] if objectives and named else f"row {i}" for i in bad)
    raise NonFiniteError(f"The gradient of each objective must be finite; found NaN or infinity in that of {names}.")


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
        if steps < 1:
            raise UserError(f"The local game takes at least 1 step; found steps={steps}.")
        self.steps = steps
        self.preference = None if preference is None else positive_weights(preference)

    @torch.no_grad()
    def forward(self, gramian: Tensor, /) -> Tensor:
        """Maps the Gramian `[m, m]` to weights `[m]`: DiBS coefficient over gradient norm, 0 for a zero gradient."""
        norms = gramian.diagonal().sqrt()
        divisor = _positive_or_one(norms)
        cosine = gramian / divisor / divisor.unsqueeze(1)
        coefficients = dibs_weights(cosine, steps=self.steps, preference=self.preference, distances=self.distances)
        return coefficients.to(gramian.dtype) / divisor


class _JacobianWeighting(Weighting[Matrix]):
    """The same weights from the Jacobian itself, for rows whose Gramian would overflow or vanish."""

    def __init__(self, game: DiBSWeighting, objectives: Sequence[str] | None) -> None:
        super().__init__()
        self.game = game
        self.objectives = objectives

    @torch.no_grad()
    def forward(self, jacobian: Tensor, /) -> Tensor:
        units, norms = unit_rows(jacobian, self.objectives)
        return self.game(cosines(units)).to(norms.dtype) / _positive_or_one(norms)


class DiBS(WeightedAggregator):
    """The DiBS bargaining step as a TorchJD aggregator: Jacobian `[m, p]` in, direction `[p]` of norm at most 1 out.

    Rescaling a row by any positive factor does not change the result. DiBS is not conflict-free for three or more
    objectives: it can work against a badly placed minority.

    Args:
        steps: Steps T of the local game; 1 is the mean of the unit gradients.
        preference: Positive preference weights, shape `[m]`; equal if not given.
        objectives: Names of the rows, for error messages.

    Raises:
        NonFiniteError: When called on a Jacobian with a NaN or infinite entry.

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

    @torch.no_grad()
    def forward(self, jacobian: Tensor, /) -> Tensor:
        """Combines the rows, in their own precision also where autocast would lower it."""
        with torch.autocast(jacobian.device.type, enabled=False):
            weights = self.weighting(jacobian)  # called as a module: TorchJD reads the weights with a hook on it
            if weights.isfinite().all():
                return weights @ jacobian
            units, _ = unit_rows(jacobian, self.objectives)  # a row so small that its weight overflows
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
    if not (torch.isfinite(weights).all() and (weights > 0).all()):
        raise UserError(f"Preference weights are positive numbers; found {', '.join(f'{w:g}' for w in weights)}.")
    return weights


def _positive_or_one(value: Tensor) -> Tensor:
    """A divisor that leaves an exact zero alone and adds no epsilon to anything else."""
    return torch.where(value > 0, value, torch.ones_like(value))


def _checked_cosine(cosine: Tensor) -> Tensor:
    if cosine.dim() != 2 or cosine.shape[0] != cosine.shape[1] or not len(cosine):
        raise UserError(f"The cosine matrix has shape [m, m] with m >= 1; found {list(cosine.shape)}.")
    if not torch.isfinite(cosine).all():
        raise NonFiniteError("The cosine matrix must be finite; found NaN or infinity.")
    return cosine.detach().double()


def _checked_preference(preference: Preference, cosine: Tensor) -> Tensor:
    if preference is None:
        return cosine.new_ones(len(cosine))
    return positive_weights(preference, len(cosine)).to(cosine.device)


def _checked_distances(distances: Tensor | Sequence[float], cosine: Tensor) -> Tensor:
    d = torch.as_tensor(distances, dtype=cosine.dtype, device=cosine.device)
    if d.shape != (len(cosine),):
        raise UserError(f"One distance for each of the {len(cosine)} objectives; found {d.numel()}.")
    if not (torch.isfinite(d).all() and (d >= 0).all()):
        raise UserError(f"Distances are finite and not negative; found {d.tolist()}.")
    return d
