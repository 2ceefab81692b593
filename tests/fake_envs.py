"""Tiny environments with a vector reward, for tests that need a certain kind of space or trouble."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBSERVATIONS = {
    "box": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "discrete": spaces.Discrete(5),
    "dict": spaces.Dict({"near": spaces.Box(-1, 1, (2,), np.float32), "kind": spaces.Discrete(3)}),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
}
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(2),
}


class PointEnv(gym.Env):
    """A point on a line, pushed by the action. Rewards: place, minus effort, and (m = 3) minus distance from 1.

    Args:
        obs: Key of `OBSERVATIONS`.
        action: Key of `ACTIONS`.
        scales: What each reward is multiplied by; their number is m.
        length: Steps after which the episode is truncated.
        poison: Step at which the first reward is `poison_with`, counted over all episodes.
        poison_with: What no reward should be.
    """

    def __init__(self, obs="box", action="box", scales=(1.0, 1.0), length=20, poison=None, poison_with=np.nan):
        self.observation_space, self.action_space = OBSERVATIONS[obs], ACTIONS[action]
        self.scales = np.asarray(scales)
        self.reward_space = spaces.Box(-np.inf, np.inf, (len(scales),))
        self.length, self.poison, self.poison_with = length, poison, poison_with
        self.total_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.t = float(self.np_random.normal()), 0
        return self._observe(), {}

    def step(self, action):
        push = float(np.mean(np.asarray(action, dtype=np.float64)))
        self.place += 0.1 * push + 0.01 * float(self.np_random.normal())
        self.t += 1
        self.total_steps += 1
        rewards = np.array([self.place, -(push**2), -abs(self.place - 1)])[: len(self.scales)] * self.scales
        if self.poison is not None and self.total_steps == self.poison:
            rewards[0] = self.poison_with
        return self._observe(), rewards.astype(np.float32), abs(self.place) > 4, self.t >= self.length, {}

    def _observe(self):
        space = self.observation_space
        if isinstance(space, spaces.Discrete):
            return int(np.clip(round(self.place) + 2, 0, 4))
        if isinstance(space, spaces.Dict):
            return {"near": np.tanh([self.place, -self.place]).astype(np.float32), "kind": int(self.place > 0)}
        if space.dtype == np.uint8:
            return np.full(space.shape, int(np.clip(128 + 30 * self.place, 0, 255)), np.uint8)
        return np.array([self.place, self.place**2, self.t / self.length])


class ScalarPoint(gym.RewardWrapper):
    """Its first reward alone, as SB3's own learners want it."""

    def reward(self, reward):
        return float(reward[0])


def point_envs(n=4, **kwargs):
    """A factory for each of n worlds."""
    return [lambda: PointEnv(**kwargs) for _ in range(n)]


class TellingEnv(PointEnv):
    """Says in an episode's last info how it went, in a dictionary within as well; names its rewards where it is told to."""

    def __init__(self, objectives=None, **kwargs):
        super().__init__(**kwargs)
        if objectives:
            self.objectives = objectives

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if truncated:
            info = {"is_success": self.place > 0, "at": {"place": self.place}}
        return obs, reward, terminated, truncated, info


def linear(factory):
    """The factory's environment with its rewards added up, and the vector in its info."""
    from mo_gymnasium.wrappers import LinearReward

    return LinearReward(factory())


def mo_worker(*arguments):
    """MO-Gymnasium's worker without the last argument that Gymnasium 1.4 gives."""
    from mo_gymnasium.wrappers.vector.wrappers import _mo_async_worker

    _mo_async_worker(*arguments[:7])
