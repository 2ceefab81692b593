"""Objectives that fade: less say while there is less to win in them."""

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from torchjd.aggregation import Aggregator

from dibs_rl import ranks
from dibs_rl.agents.records import Log
from dibs_rl.agents.rollouts import VectorRollouts
from dibs_rl.combiners import check_fading
from dibs_rl.errors import UserError
from dibs_rl.returns import spreads
from dibs_rl.stakes import StakeHistory


class Fading(VectorRollouts):
    """Mixin: multiplies an objective's weight by what is at stake in it, where that is asked for.

    Args:
        policy: Name or class of the policy.
        env: See `dibs_rl.envs.as_vector_env`.
        fading: Multiply an objective's weight in each rollout by what is at stake in it, beside the others (see
            `dibs_rl.stakes`): the spread of its advantages over their root mean square in the training so far.
        **kwargs: `VectorLearner`'s and SB3's.

    Raises:
        UserError: If nothing could fade: the combiner has no weights, or advantages are not normalised.
    """

    normalize_advantage: bool
    _stakes: Tensor | None = None

    def __init__(self, policy: Any, env: Any, *, fading: bool = False, **kwargs: Any) -> None:
        self.fading = fading
        self._stake_history = StakeHistory()
        super().__init__(policy, env, **kwargs)

    def _make_combiner(self) -> Aggregator:
        combiner = super()._make_combiner()
        if self.fading:
            check_fading(combiner)
            if not self.normalize_advantage:
                raise UserError("Fading is for normalised advantages: leave fading out, or normalize_advantage at True.")
        return combiner

    def start_from(self, other: BaseAlgorithm, factors: Sequence[float]) -> None:
        """As `VectorLearner.start_from`; of one whose objectives have faded it takes what it knows of their stakes, too."""
        super().start_from(other, factors)
        assert isinstance(other, Fading)  # else its networks would not have fitted
        self._stake_history = other._stake_history.in_units(factors)

    def _setup_learn(self, *arguments: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Where there are several ranks they all know what the first one does of the stakes, of a run that goes on."""
        if ranks.number() > 1:
            self._stake_history = ranks.from_lead(self._stake_history)
        return super()._setup_learn(*arguments, **kwargs)

    def _measure_stakes(self, log: Log) -> None:
        """Where objectives fade: what is at stake for each in this rollout, for the weights to come."""
        if self.fading:
            buffer = self.rollout_buffer
            spread = spreads(buffer.advantages.flatten(0, 1), buffer.active_samples())
            self._stake_history = self._stake_history.after(spread)
            self._stakes = self._stake_history.stakes(spread)
            log["stake"].append(self._stakes)

    def _combine(self, jacobian: Tensor) -> tuple[Tensor, Tensor | None]:
        direction, weights = super()._combine(jacobian)
        if weights is None or self._stakes is None or self._sum is not None:  # a sum has them in its advantages
            return direction, weights
        weights = weights * self._stakes.to(weights.dtype)
        return weights @ jacobian, weights

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_stakes"]
