"""Playing without having learnt anything: at random, or with one action all the time."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from dibs_rl.evaluation import Policy, episode_quota
from dibs_rl.vec_env import VectorRewardVecEnv

_LONGEST = 20_000  # steps of a world; an episode that is longer is cut there
_MOST_ACTIONS = 18  # of a Discrete space, each of which is tried as the only action


class PlayedEpisode(NamedTuple):
    """The rewards of an episode.

    Attributes:
        rewards: `[t, m]` float64; NaN in the columns of objectives that its world does not have.
        terminated: Whether the task's own rules ended it, and no limit.
    """

    rewards: np.ndarray
    terminated: bool


class RandomActions:
    """A policy: actions drawn uniformly from the action space.

    Args:
        env: Whose actions.
        seed: Of the draws.
    """

    def __init__(self, env: VectorRewardVecEnv, seed: int) -> None:
        self._space, self._worlds = env.action_space, env.num_envs
        self._space.seed(seed)

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[np.ndarray, Any]:
        """An action for each world."""
        return np.stack([self._space.sample() for _ in range(self._worlds)]), None


class OneAction:
    """A policy: the same action all the time.

    Args:
        env: Whose worlds.
        action: The action.
    """

    def __init__(self, env: VectorRewardVecEnv, action: Any) -> None:
        self._actions = np.stack([np.asarray(action)] * env.num_envs)

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[np.ndarray, Any]:
        """The action for each world."""
        return self._actions, None


def simple_actions(space: spaces.Space) -> dict[str, Any]:
    """What one can do without thinking, by its name: nothing where that is an action, or each of a few actions."""
    if isinstance(space, spaces.Discrete):
        return {f"action {i}": i for i in range(min(int(space.n), _MOST_ACTIONS))}
    if isinstance(space, spaces.Box):
        return {"doing nothing": np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)}
    return {"doing nothing": np.zeros(space.shape or (), space.dtype)}


def play(policy: Policy, env: VectorRewardVecEnv, episodes: int, seed: int | None = None) -> list[PlayedEpisode]:
    """Plays whole episodes and keeps their rewards.

    Args:
        policy: What acts.
        env: Reset at the start.
        episodes: How many, dealt out over the worlds as `evaluate` does.
        seed: World i is seeded with `seed + i`.
    """
    quota = episode_quota(env, episodes)
    ended = np.zeros(env.num_envs, dtype=int)
    obs = env.reset(seed)
    steps: list[tuple[np.ndarray, ...]] = []
    while (ended < quota).any() and len(steps) < _LONGEST:
        actions, _ = policy.predict(obs)
        step = env.step_tensors(torch.as_tensor(actions, device=env.device))
        obs = step.obs
        steps.append(tuple(part.cpu().numpy().copy() for part in (step.reward.double(), step.terminated, step.done)))
        ended += steps[-1][-1]
    rewards, terminated, done = map(np.stack, zip(*steps, strict=True))
    if env.active is not None:
        rewards = np.where(env.active.cpu().numpy(), rewards, np.nan)
    worlds = [_cut(rewards[:, i], terminated[:, i], done[:, i]) for i in range(env.num_envs)]
    return [episode for world, number in zip(worlds, quota, strict=True) for episode in world[:number]]


def _cut(rewards: np.ndarray, terminated: np.ndarray, done: np.ndarray) -> list[PlayedEpisode]:
    """The episodes of one world, of its rewards `[T, m]` and flags `[T]`; what is not finished is one only if nothing is."""
    ends = np.flatnonzero(done) + 1 if done.any() else np.array([len(rewards)])
    pairs = zip([0, *ends[:-1]], ends, strict=True)
    return [PlayedEpisode(rewards[start:end], bool(terminated[end - 1])) for start, end in pairs]
