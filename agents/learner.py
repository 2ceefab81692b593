"""What every learner for many rewards has: named objectives, an environment with a reward for each, and a combiner."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torchjd.aggregation import Aggregator

from dibs_rl import ranks
from dibs_rl.agents.anchors import Anchors
from dibs_rl.agents.checks import check_same_objectives
from dibs_rl.agents.experts import read_experts
from dibs_rl.agents.persistence import Persistent
from dibs_rl.agents.records import Log, Records
from dibs_rl.bargaining import DiBS
from dibs_rl.by_objective import preference_vector
from dibs_rl.combiners import AdvantageSum, combine, make_combiner, split_scalarisation
from dibs_rl.envs import as_vector_env, normalization_of
from dibs_rl.errors import UserError
from dibs_rl.popart import PopArt
from dibs_rl.vec_env import Obs, VectorRewardVecEnv, map_obs


class VectorLearner(Records, Persistent):
    """Mixin for SB3's learners: m rewards, one policy gradient for each, and a combiner between them.

    Args:
        policy: Name or class of the policy.
        env: See `dibs_rl.envs.as_vector_env`.
        combiner: A name out of `dibs_rl.combiners.COMBINERS`, or any TorchJD aggregator.
        preference: Positive weights on the objectives, in their order or by name; equal if not given.
        anchors: For the anchored game of DiBS, the policy that each objective would like best: a mapping from the objectives'
            names, or the folder that `dibs-rl experts` has made.
        **kwargs: SB3's.

    Raises:
        UserError: If the environment gives no vector reward, or an argument cannot be used with its objectives.
    """

    policy: Any
    env: VectorRewardVecEnv
    _action_bounds: tuple[Tensor, ...] | None = None
    _sum: AdvantageSum | None
    _aggregator: Aggregator
    _preferred: Anchors | None

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        combiner: str | Aggregator = "dibs",
        preference: Sequence[float] | Mapping[str, float] | None = None,
        anchors: Mapping[str, BasePolicy] | str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        env = None if env is None else as_vector_env(env)
        self.objectives: tuple[str, ...] = () if env is None else env.objectives
        self.combiner = combiner
        self.preference = preference
        self.anchors = read_experts(Path(anchors)) if isinstance(anchors, str | Path) else anchors
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        self.objectives = tuple(self.objectives)  # a saved model's come back as a list
        if self.env is not None:
            check_same_objectives(self.objectives, self.env)
        self._sum, self._aggregator = split_scalarisation(self._make_combiner())
        self._preferred = None if not self.anchors else self._make_anchors(self.anchors)
        own_kwargs = self.policy_kwargs
        self.policy_kwargs = {**own_kwargs, "reward_dim": len(self.objectives)}
        super()._setup_model()  # type: ignore[safe-super]  # SB3's own, further on in the order of resolution
        self.policy_kwargs = own_kwargs  # what is saved, and compared with what `load` is given, are the user's

    def _make_combiner(self) -> Aggregator:
        if isinstance(self.combiner, str):
            weights = preference_vector(self.preference, self.objectives)
            return make_combiner(self.combiner, preference=weights, objectives=self.objectives)
        if self.preference is not None:
            raise UserError("Give the preference to the combiner object itself, or name the combiner.")
        return self.combiner

    def _make_anchors(self, policies: Mapping[str, BasePolicy]) -> Anchors:
        if not isinstance(self._aggregator, DiBS):
            raise UserError("Anchors are for the game of DiBS: combiner='dibs' (--combiner dibs), or no anchors.")
        return Anchors(policies, self.objectives, self.observation_space, self.action_space, self.device)

    def start_from(self, other: BaseAlgorithm, factors: Sequence[float]) -> None:
        """Takes the networks of another learner of this kind, with the statistics in them; optimisers stay as they are.

        Args:
            other: The learner.
            factors: What its rewards are to be multiplied by to be in the units of this one's, `[m]`.

        Raises:
            UserError: If the networks have other shapes.
        """
        take_networks(self.policy, other.policy)
        for part in self.policy.modules():
            if isinstance(part, PopArt):
                part.multiply_units(factors)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VectorRewardVecEnv:
        return as_vector_env(env)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Sets the environment, as SB3 does; its objectives must be those of the model."""
        env = as_vector_env(env)
        check_same_objectives(self.objectives, env)
        super().set_env(env, force_reset)

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """The `VecNormalize` around the environment, if any: SB3's checkpoints keep its statistics."""
        return None if self.env is None else normalization_of(self.env)

    @property
    def _rows(self) -> tuple[str, ...]:
        """Names of the k gradients that are combined."""
        return self.objectives if self._sum is None else ("sum",)

    def _combine(self, jacobian: Tensor) -> tuple[Tensor, Tensor | None]:
        """The direction `[p]`, and the weights `[k]` it is made with where the combiner has any."""
        direction, weights = combine(self._aggregator, jacobian)
        # Some combiners draw random numbers, and each rank has its own.
        return ranks.lead_tensor(direction), None if weights is None else ranks.lead_tensor(weights)

    def _measure_distances(self, obs: Obs, active: Tensor | None, log: Log) -> None:
        """Where there are anchors: how far the policy is from each, for the bargains to come.

        Args:
            obs: Observations `[b, ...]`.
            active: Which objectives they are of, `[b, m]` bool; None where each is of all.
            log: Is told.
        """
        if self._preferred is not None and isinstance(self._aggregator, DiBS):
            self._aggregator.distances = self._preferred.distances(self.policy, obs, active)
            log["anchor_distance"].append(self._aggregator.distances)

    def _to_device(self, obs: Any) -> Obs:
        return map_obs(lambda part: torch.as_tensor(part, device=self.device), obs)

    def _inside_action_space(self, actions: Tensor) -> Tensor:
        """What the worlds are given for what the policy sampled."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self._action_bounds is None or self._action_bounds[0].device != actions.device:
            edges = self.action_space.low, self.action_space.high
            self._action_bounds = tuple(torch.as_tensor(edge, device=actions.device) for edge in edges)
        low, high = self._action_bounds
        if self.policy.squash_output:
            return low + 0.5 * (actions + 1.0) * (high - low)
        return actions.clamp(low, high)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_sum", "_aggregator", "_preferred", "_last_obs", "_action_bounds"]


def take_networks(policy: BasePolicy, other: BasePolicy) -> None:
    """Sets a policy's parameters and statistics to those of another one.

    Raises:
        UserError: If the networks have other shapes.
    """
    own, theirs = ({name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (policy, other))
    for name in {**own, **theirs}:  # first: what fits would be taken before the rest is refused
        if own.get(name) != theirs.get(name):
            raise UserError(
                f"The networks do not fit: {name} is {_shape(own.get(name))}, and theirs is {_shape(theirs.get(name))}."
            )
    policy.load_state_dict(other.state_dict())


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"
