"""The DiBS bargaining step: from gradient directions to one direction.

What is played is in `dibs_rl.games`: algebra on the cosine matrix of the objectives' gradients. Gradient lengths are divided
out before, once, and loss values never enter: that is where the invariance to reward scale comes from.

On a GPU a combination does not wait for it: nobody looks whether numbers are finite there, and from one that is not come NaNs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchjd.aggregation import WeightedAggregator, Weighting
from torchjd.linalg import Matrix, PSDMatrix

from dibs_rl import games, sync
from dibs_rl.errors import UserError
from dibs_rl.games import Array, Preference, positive_weights
from dibs_rl.units import check_finite, cosines, near_one, positive_or_one, unit_rows


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
        self.steps = games.checked_steps(steps)
        self.preference = None if preference is None else games.votes_of(positive_weights(preference))

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, and for a file that opens also where there is no GPU; `weigh` brings tensors back to one."""
        return {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}

    def forward(self, gramian: Tensor, /) -> Tensor:
        """Maps the Gramian `[m, m]` to weights `[m]`: DiBS coefficient over gradient norm, 0 for a zero gradient."""
        return games.as_tensor(self.weigh(games.checked_cosine(gramian))).to(gramian.dtype)

    def weigh(self, gramian: Array) -> Array:
        """The same in float64, for a Gramian that is known to be finite."""
        divisor = positive_or_one(gramian.diagonal() ** 0.5)
        cosine = gramian / divisor / divisor[:, None]
        if self.preference is not None:
            self.preference = self.preference.to(cosine.device)  # once: it stays there
        preference = games.beside(cosine, self.preference)
        if self.distances is None:
            return games.local_game(cosine, preference, self.steps) / divisor
        return games.anchored_game(cosine, games.checked_distances(self.distances, cosine), preference) / divisor


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
            rows, shrink = near_one(rows, self.objectives)
        gramian = games.as_array(rows @ rows.T)
        if not sync.waits(jacobian.device) and not math.isfinite(sum(gramian.diagonal().tolist())):
            check_finite(jacobian, self.objectives)  # it is not, and this says whose
        weights = games.as_tensor(self.game.weigh(gramian))
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
