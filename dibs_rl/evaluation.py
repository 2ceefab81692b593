"""Returns of a policy, per objective, over whole episodes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dibs_rl.errors import NonFiniteError
from dibs_rl.vec_env import VectorRewardVecEnv


class Policy(Protocol):
    """Whatever acts: SB3's models do."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[np.ndarray, Any]:
        """Actions for a batch of observations, and a state that is not used here."""


class Episodes(NamedTuple):
    """Episodes that were played to their end.

    Attributes:
        objectives: Names of the m rewards.
        returns: Undiscounted sums of the rewards, before any transform, `[episodes, m]`; NaN for an objective that the
            world does not have.
        lengths: Steps, `[episodes]`.
        discounted: The same sums discounted, `sum_t gamma^t r_t`, `[episodes, m]`.
        gamma: The discount.
        successes: Whether each succeeded, `[episodes]`, where the environment says so (`is_success` in the last info).
    """

    objectives: tuple[str, ...]
    returns: np.ndarray
    lengths: np.ndarray
    discounted: np.ndarray
    gamma: float
    successes: np.ndarray = np.zeros(0, bool)

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation, least and greatest return of each objective, as plain numbers."""
        return {
            "episodes": len(self.returns),
            "mean_length": float(self.lengths.mean()),
            "returns": _by_objective(self.objectives, self.returns),
            "gamma": self.gamma,
            "discounted_returns": _by_objective(self.objectives, self.discounted),
        }


def _by_objective(objectives: Sequence[str], returns: np.ndarray) -> dict[str, dict[str, float]]:
    columns = zip(objectives, (column[~np.isnan(column)] for column in returns.T), strict=True)
    return {
        name: {
            "mean": float(column.mean()),
            "std": float(column.std()),
            "min": float(column.min()),
            "max": float(column.max()),
        }
        for name, column in columns
    }


def mean_returns(returns: np.ndarray) -> np.ndarray:
    """Means `[m]` of the returns of k episodes `[k, m]`, over those that have the objective; NaN where none has."""
    counts = (~np.isnan(returns)).sum(axis=0)
    return np.divide(np.nansum(returns, axis=0), counts, out=np.full(returns.shape[1], np.nan), where=counts > 0)


def evaluate(
    policy: Policy,
    env: VectorRewardVecEnv,
    episodes: int,
    *,
    deterministic: bool = True,
    seed: int | None = None,
    gamma: float = 1.0,
) -> Episodes:
    """Plays episodes and adds up each objective's rewards.

    Every world plays the same number of episodes (one more in the first ones where they do not divide evenly), so short
    episodes do not crowd out long ones; where worlds have different objectives, all those that have the same do.

    Args:
        policy: What acts.
        env: Reset at the start.
        episodes: How many; where worlds have different objectives, how many for each of them.
        deterministic: Take the distribution's mode instead of a sample.
        seed: World i is seeded with `seed + i`.
        gamma: Of the discounted returns that are counted beside the plain ones.

    Raises:
        NonFiniteError: If a return is not finite.
    """
    quota = episode_quota(env, episodes)
    played = np.zeros(env.num_envs, dtype=int)
    returns: list[Sequence[float]] = []
    discounted: list[np.ndarray] = []
    lengths: list[int] = []
    successes: list[bool] = []
    sums = _DiscountedSums(env, gamma)
    obs = env.reset(seed)
    while (played < quota).any():
        actions, _ = policy.predict(obs, deterministic=deterministic)
        obs, _, dones, infos = env.step(actions)
        ended = sums.add(dones)
        for i in np.flatnonzero(dones & (played < quota)):
            episode = infos[i]["episode"]
            _check_returns(env, int(i), episode["r"])
            returns.append(episode["r"])
            discounted.append(np.where(np.isnan(episode["r"]), np.nan, ended[i]))
            lengths.append(episode["l"])
            if "is_success" in infos[i]:
                successes.append(bool(infos[i]["is_success"]))
            played[i] += 1
    arrays = np.array(returns), np.array(lengths), np.array(discounted)
    return Episodes(env.objectives, *arrays, gamma, np.array(successes, dtype=bool))


class _DiscountedSums:
    """Discounted sums of the untransformed rewards of the episodes that the worlds are in.

    Args:
        env: Just about to be reset.
        gamma: The discount.
    """

    def __init__(self, env: VectorRewardVecEnv, gamma: float) -> None:
        self._env, self._gamma = env, gamma
        self._sums = np.zeros((env.num_envs, env.reward_dim))
        self._discounts = np.ones((env.num_envs, 1))

    def add(self, dones: np.ndarray) -> np.ndarray:
        """Takes the step just made, which ended the episodes in `dones [n]`; returns the sums with it, `[n, m]`."""
        assert self._env.counted is not None  # for the type checker: a step has been made
        sums = self._sums + self._discounts * self._env.counted.cpu().numpy()
        self._sums = np.where(dones[:, None], 0.0, sums)
        self._discounts = np.where(dones[:, None], 1.0, self._discounts * self._gamma)
        return sums


def episode_quota(env: VectorRewardVecEnv, episodes: int) -> np.ndarray:
    """Episodes that each world plays, `[n]`: worlds with the same objectives share so many out among them."""
    quota = np.zeros(env.num_envs, dtype=int)
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for i in range(env.num_envs):
        kinds.setdefault(() if env.active is None else tuple(env.active[i].tolist()), []).append(i)
    for worlds in kinds.values():
        quota[worlds] = episodes // len(worlds)
        quota[worlds[: episodes % len(worlds)]] += 1
    return quota


def _check_returns(env: VectorRewardVecEnv, world: int, returns: np.ndarray) -> None:
    has = [True] * env.reward_dim if env.active is None else env.active[world].tolist()
    for name, value, counts in zip(env.objectives, returns, has, strict=True):
        if counts and not np.isfinite(value):
            raise NonFiniteError(f"The return of {name!r} is {value} in environment {world}: rewards must be finite.")
