"""Simulators with tensors in and out, as small as can be: a plain one, and one with a reward manager."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

LENGTHS = (2, 3, 5, 4)  # world i's episodes; the second world's terminate, the others' are truncated


class Counter(gym.Env):
    """One of the worlds by itself: counts its steps and the actions, for `length` steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    reward_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, world):
        self.world, self.length = world, LENGTHS[world]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k, self.total = 0, 0.0
        return self._obs(), {}

    def step(self, action):
        self.k += 1
        self.total = np.float32(self.total + action[0])
        over = self.k == self.length
        reward = np.array([self.total, -(float(action[0]) ** 2)], np.float32)
        return self._obs(), reward, over and self.world == 1, over and self.world != 1, {}

    def _obs(self):
        return np.array([self.k, self.total, self.world], np.float32)


class Simulator:
    """The same worlds in tensors, which are written over in place.

    Args:
        final: Key of the extras under which the last observations are; empty for none.
        with_extras: Whether reset and step return extras.
    """

    num_envs = len(LENGTHS)
    objectives = ("total", "effort")
    single_observation_space = Counter.observation_space
    single_action_space = Counter.action_space

    def __init__(self, final="final_obs", with_extras=True):
        self.final, self.with_extras = final, with_extras
        self.obs = torch.zeros(self.num_envs, 3)
        self.obs[:, 2] = torch.arange(self.num_envs)
        self.resets = []

    def reset(self, seed=None):
        self.resets.append(seed)
        self._begin(torch.ones(self.num_envs, dtype=torch.bool))
        return (self.obs, {}) if self.with_extras else self.obs

    def step(self, actions):
        reward, terminated, truncated = self.move(actions)
        extras = {self.final: self.obs.clone()} if self.final else {}
        self._begin(terminated | truncated)
        return (self.obs, reward, terminated, truncated, *([extras] if self.with_extras else []))

    def move(self, actions):
        self.obs[:, 0] += 1
        self.obs[:, 1] += actions[:, 0]
        over = self.obs[:, 0] == torch.tensor(LENGTHS)
        second = torch.arange(self.num_envs) == 1
        return torch.stack([self.obs[:, 1], -(actions[:, 0] ** 2)], dim=1), over & second, over & ~second

    def _begin(self, done):
        self.obs[done, :2] = 0


class ManagedSimulator(Simulator):
    """The same as Isaac Lab's and mjlab's environments are seen from outside: groups of observations, rates of reward.

    Args:
        final: As in `Simulator`.
        scale_by_dt: Whether the manager multiplies rates by the step's length for the scalar reward.
        finite: Whether running out of time ends the task.
        auto_reset: Whether a step resets worlds.
        group: The policy's group of observations.
    """

    step_dt = 0.02
    objectives = None
    single_action_space = SimpleNamespace(shape=(1,), low=-np.inf, high=np.inf, dtype="float32")  # as mjlab's

    def __init__(self, final="", scale_by_dt=True, finite=False, auto_reset=True, group="policy"):
        super().__init__(final)
        self.group = group
        self.cfg = SimpleNamespace(is_finite_horizon=finite, auto_reset=auto_reset)
        bounds = {"low": -np.inf, "high": np.inf}
        parts = {group: SimpleNamespace(shape=(3,), **bounds), "critic": SimpleNamespace(shape=(4,), **bounds)}
        self.single_observation_space = SimpleNamespace(spaces=parts)
        self.reward_manager = SimpleNamespace(
            active_terms=["track_lin_vel", "alive", "torques"],
            _step_reward=torch.zeros(self.num_envs, 3),
            _scale_by_dt=scale_by_dt,
        )

    @property
    def unwrapped(self):
        return self

    def reset(self, seed=None, env_ids=None, options=None):
        self.resets.append(seed)
        done = torch.zeros(self.num_envs, dtype=torch.bool)
        done[slice(None) if env_ids is None else env_ids] = True
        self._begin(done)
        return self._groups(self.obs), {}

    def step(self, actions):
        rewards, terminated, truncated = self.move(actions)
        rates = torch.stack([3.0 * rewards[:, 0], torch.full((self.num_envs,), 0.5), 2e-4 * rewards[:, 1]], dim=1)
        self.reward_manager._step_reward[:] = rates
        extras = {self.final: self._groups(self.obs.clone())} if self.final else {}
        if self.cfg.auto_reset:
            self._begin(terminated | truncated)
        scale = self.step_dt if self.reward_manager._scale_by_dt else 1.0
        self.reward_buf = (rates * scale).sum(dim=1)
        return self._groups(self.obs), self.reward_buf, terminated, truncated, extras

    def _groups(self, obs):
        return {self.group: obs, "critic": torch.cat([obs, obs[:, :1]], dim=1)}
