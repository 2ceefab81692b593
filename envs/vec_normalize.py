"""SB3's `VecNormalize` for vector rewards: no objective is measured in another's units."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from dibs_rl.envs.sb3_adapter import SB3VecEnvAdapter
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write
from dibs_rl.vec_env import VectorRewardVecEnv, map_obs


class MOVecNormalize(VecNormalize):
    """SB3's `VecNormalize` for vector rewards: each objective by the running standard deviation of its own discounted return.

    Unlike SB3's it adds no epsilon to a variance and starts from the data alone, so that an objective's units divide out:
    rewards times a power of two give the same numbers, bit for bit. What has not varied yet has no scale: an entry of an
    observation is only centred, and a reward is 0 until its return has varied (for the first steps at most).

    Clipping comes after the division, so `clip_obs` and `clip_reward` are in standard deviations, whatever the units. The
    infos' `episode` holds the returns as they were before.

    Args:
        venv: See `dibs_rl.envs.SB3VecEnvAdapter`; what it gives afterwards are rewards `[n, m]`.
        objectives: Names of the m rewards; taken from the environment where it says them.
        **kwargs: Those of SB3's `VecNormalize`: `training`, `norm_obs`, `norm_reward`, `clip_obs`, `clip_reward`, `gamma` and
            `norm_obs_keys`.

    Raises:
        UserError: If the environment has no vector reward, or an `epsilon` is given.
    """

    def __init__(self, venv: VecEnv, objectives: Sequence[str] | None = None, **kwargs: Any) -> None:
        if "epsilon" in kwargs:
            raise UserError(
                "An epsilon in the variance is in an objective's units, which breaks invariance to scale: leave it out."
            )
        venv = _with_vector_rewards(venv, objectives)
        self.objectives = venv.objectives
        super().__init__(venv, epsilon=0.0, **kwargs)
        if self.norm_obs:
            self.obs_rms = map_obs(_from_data, self.obs_rms)
        self.ret_rms = RunningMeanStd(epsilon=0.0, shape=(len(self.objectives),))
        self.returns = np.zeros((self.num_envs, len(self.objectives)))

    def set_venv(self, venv: VecEnv) -> None:
        """Sets the environment to wrap, after loading.

        Raises:
            UserError: If its objectives are not those of the statistics.
        """
        venv = _with_vector_rewards(venv, self.objectives)
        if venv.objectives != self.objectives:
            raise UserError(
                f"The statistics are of the objectives {', '.join(self.objectives)}; "
                f"the environment has {', '.join(venv.objectives)}."
            )
        super().set_venv(venv)
        self.returns = np.zeros((self.num_envs, len(self.objectives)))

    def reset(self) -> Any:
        """Starts new episodes, whose returns are counted from zero."""
        obs = super().reset()
        self.returns = np.zeros((self.num_envs, len(self.objectives)))
        return obs

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Rewards `[..., m]` in standard deviations of the objectives' returns, clipped; statistics stay as they are."""
        if not self.norm_reward:
            return reward.astype(np.float32)
        std, varies = _std(self.ret_rms)
        scaled = np.where(varies, reward / std, 0.0)
        return np.clip(scaled, -self.clip_reward, self.clip_reward).astype(np.float32)

    def unnormalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """What `normalize_reward` was given, where nothing was clipped."""
        return reward * _std(self.ret_rms)[0] if self.norm_reward else reward

    def _normalize_obs(self, obs: np.ndarray, obs_rms: RunningMeanStd) -> np.ndarray:
        return np.clip((obs - obs_rms.mean) / _std(obs_rms)[0], -self.clip_obs, self.clip_obs)

    def _unnormalize_obs(self, obs: np.ndarray, obs_rms: RunningMeanStd) -> np.ndarray:
        return obs * _std(obs_rms)[0] + obs_rms.mean

    def save(self, save_path: str | Path) -> None:
        """Saves statistics and settings, for `MOVecNormalize.load(path, venv)`; the path only ever names a whole file."""
        with atomic_write(Path(save_path)) as file:
            pickle.dump(self, file)


def normalization_of(env: Any) -> VecNormalize | None:
    """The outermost `VecNormalize` or `MOVecNormalize` around a vector environment, also behind adapters; None without any."""
    while env is not None and not isinstance(env, VecNormalize):
        env = vars(env).get("venv")
    return env


def _with_vector_rewards(venv: VecEnv, objectives: Sequence[str] | None) -> VectorRewardVecEnv:
    return venv if isinstance(venv, VectorRewardVecEnv) else SB3VecEnvAdapter(venv, objectives)


def _from_data(rms: RunningMeanStd) -> RunningMeanStd:
    """Statistics without SB3's first guess of variance 1, which outlives many steps where data are small."""
    return RunningMeanStd(epsilon=0.0, shape=rms.mean.shape)


def _std(rms: RunningMeanStd) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations, 1 for what has not varied but by rounding, and what has."""
    std = np.sqrt(rms.var)
    varies = (std > 8 * np.finfo(np.float64).eps * np.abs(rms.mean)) & (np.asarray(rms.count) > 0)
    return np.where(varies, std, 1.0), varies
