"""Stable-Baselines3's own PPO on the weighted sum of the rewards: what dibs-rl is measured against."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.ppo import PPO

from dibs_rl.agents.checks import check_same_objectives
from dibs_rl.agents.learner import take_networks
from dibs_rl.agents.objective_log import ObjectiveLog
from dibs_rl.agents.persistence import Persistent
from dibs_rl.agents.policies import is_vector
from dibs_rl.by_objective import preference_vector
from dibs_rl.envs import as_vector_env
from dibs_rl.games import positive_weights
from dibs_rl.vec_env import VectorRewardVecEnv


class VecLinearReward(VecEnvWrapper):
    """A vector-reward environment with the weighted sum of its rewards, as SB3's own learners want it.

    The counterpart of MO-Gymnasium's `LinearReward`. Infos pass: `episode["r"]` holds each objective's own return `[m]`.

    Args:
        venv: The environment.
        weights: One for each reward, `[m]`; all 1 if not given.
    """

    def __init__(self, venv: VectorRewardVecEnv, weights: Sequence[float] | None = None) -> None:
        super().__init__(venv)
        self._weights = np.ones(venv.reward_dim, np.float32) if weights is None else np.asarray(weights, np.float32)

    def reset(self) -> Any:
        """Observations `[n, ...]` of new episodes."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Observations, weighted sums of the rewards `[n]`, ends of episodes `[n]`, infos."""
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, rewards @ self._weights, dones, infos


class SB3PPO(ObjectiveLog, Persistent, PPO):
    """SB3's PPO, its rollouts, its losses and its update untouched, in an environment whose rewards are added up.

    What differs is around it: files are written atomically, the log has each objective's return by name, and observations are
    normalised by SB3's `VecNormalize`, whose statistics are saved in the model.

    Args:
        policy: SB3's policy, by name or class.
        env: See `dibs_rl.envs.as_vector_env`.
        preference: Positive weights on the rewards, in their order or by name; all 1 if not given.
        normalize_obs: Normalise observations that are vectors.
        **kwargs: SB3's.

    Raises:
        UserError: If the environment gives no vector reward, or the preference is not positive or not of its objectives.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        preference: Sequence[float] | Mapping[str, float] | None = None,
        normalize_obs: bool = True,
        **kwargs: Any,
    ) -> None:
        env = None if env is None else as_vector_env(env)
        self.objectives: tuple[str, ...] = () if env is None else env.objectives
        self.preference, self.normalize_obs = preference, normalize_obs
        self._normaliser: VecNormalize | None = None
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        self.objectives = tuple(self.objectives)  # a saved model's come back as a list
        if self.env is not None:
            self._add_up_rewards(self.env)
        super()._setup_model()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Sets the environment, as SB3 does; its objectives must be those of the model."""
        super().set_env(as_vector_env(env), force_reset)
        assert self.env is not None
        self._add_up_rewards(self.env)

    def start_from(self, other: BaseAlgorithm, factors: Sequence[float]) -> None:
        """Takes the networks and the observations' statistics of another of these; the optimiser stays as it is.

        Args:
            other: The learner.
            factors: Not used: the critic is of the sum, in whatever units it was learnt.

        Raises:
            UserError: If the networks have other shapes.
        """
        take_networks(self.policy, other.policy)
        assert isinstance(other, SB3PPO)  # for the type checker
        assert self._normaliser is not None
        assert other._normaliser is not None
        if self._normaliser.norm_obs:
            self._normaliser.obs_rms = copy.deepcopy(other._normaliser.obs_rms)

    def predict(self, observation: Any, *arguments: Any, **kwargs: Any) -> Any:
        """Actions for observations as the vector-reward environment gives them."""
        if self._normaliser is not None:
            observation = self._normaliser.normalize_obs(observation)
        return super().predict(observation, *arguments, **kwargs)

    def _add_up_rewards(self, env: VecEnv) -> None:
        """Puts SB3's wrappers around a vector-reward environment; statistics of the observations so far stay."""
        assert isinstance(env, VectorRewardVecEnv)
        check_same_objectives(self.objectives, env)
        weights = preference_vector(self.preference, env.objectives)
        if weights is not None:
            weights = positive_weights(weights, env.reward_dim, env.objectives).tolist()
        linear = VecLinearReward(env, weights)
        if self._normaliser is None:
            self._normaliser = VecNormalize(linear, norm_reward=False, **self._what_to_normalise(env.observation_space))
        else:
            self._normaliser.venv = None  # type: ignore[assignment]
            self._normaliser.set_venv(linear)
        self.env = self._vec_normalize_env = self._normaliser

    def _what_to_normalise(self, space: spaces.Space) -> dict[str, Any]:
        """`VecNormalize`'s arguments: vectors of numbers, as the other learners do."""
        if isinstance(space, spaces.Dict):
            keys = [key for key, part in space.spaces.items() if is_vector(part)]
            return {"norm_obs": self.normalize_obs and bool(keys), "norm_obs_keys": keys}
        return {"norm_obs": self.normalize_obs and is_vector(space)}
