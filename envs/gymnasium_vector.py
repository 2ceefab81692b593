"""A vector-reward environment as Gymnasium's and MO-Gymnasium's users know them."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dibs_rl.errors import UserError
from dibs_rl.vec_env import VectorRewardVecEnv, map_obs


class GymnasiumVectorEnv(VectorEnv):
    """A vector-reward environment as a Gymnasium vector environment: rewards are arrays `[n, m]`.

    Episodes follow each other in the same step (`AutoresetMode.SAME_STEP`): the last observation is in `infos["final_obs"]`,
    and `infos["final_info"]["episode"]` has each ended episode's returns `r`, `[n, m]`, and length `l`, `[n]`.

    Args:
        vec_env: What is stepped.

    Attributes:
        objectives: Names of the m rewards.
        reward_space: Space of one world's reward, `[m]`, as MO-Gymnasium's vector environments have it.
    """

    def __init__(self, vec_env: VectorRewardVecEnv) -> None:
        self.vec_env = vec_env
        self.num_envs = vec_env.num_envs
        self.objectives = vec_env.objectives
        self.reward_space = spaces.Box(-np.inf, np.inf, (vec_env.reward_dim,), np.float32)
        self.single_observation_space, self.single_action_space = vec_env.observation_space, vec_env.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = vec_env.render_mode
        self.metadata = {**vec_env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a new episode in every world; world i is seeded with `seed + i`.

        Raises:
            UserError: If only some worlds are to be reset; each is as soon as its episode ends.
        """
        if options and "reset_mask" in options:
            raise UserError("Worlds are reset in the step in which their episode ends; reset() resets all of them.")
        super().reset(seed=seed)
        self.vec_env.set_options(options)
        return self.vec_env.reset(seed), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every world with actions `[n, ...]`."""
        step = self.vec_env.step_tensors(torch.as_tensor(np.asarray(actions), device=self.vec_env.device))
        infos: dict[str, Any] = {}
        for i, info in self.vec_env.episode_infos(step).items():
            last = info.pop("terminal_observation")
            infos = self._add_info(infos, {"final_obs": last, "final_info": info}, i)
        arrays = (part.cpu().numpy().copy() for part in (step.reward, step.terminated, step.truncated))
        return map_obs(lambda obs: obs.cpu().numpy().copy(), step.obs), *arrays, infos

    def render(self) -> tuple[Any, ...]:
        """One picture of each world."""
        return tuple(self.vec_env.get_images())

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the environment."""
        self.vec_env.close()
