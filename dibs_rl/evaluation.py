"""Returns of a policy, per objective, over whole episodes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dibs_rl.vec_env import VectorRewardVecEnv


class Policy(Protocol):
    """Whatever acts: SB3's models do."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[np.ndarray, Any]:
        """Actions for a batch of observations, and a state that is not used here."""


class Episodes(NamedTuple):
    """Episodes that were played to their end.

    Attributes:
        objectives: Names of the m rewards.
        returns: Undiscounted sums of the rewards, before any transform, `[episodes, m]`.
        lengths: Steps, `[episodes]`.
        successes: Whether each succeeded, `[episodes]`, where the environment says so (`is_success` in the last info).
    """

    objectives: tuple[str, ...]
    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray = np.zeros(0, bool)

    def summary(self) -> dict[str, Any]:
        """Mean, standard deviation, least and greatest return of each objective, as plain numbers."""
        columns = zip(self.objectives, self.returns.T, strict=True)
        return {
            "episodes": len(self.returns),
            "mean_length": float(self.lengths.mean()),
            "returns": {
                name: {
                    "mean": float(column.mean()),
                    "std": float(column.std()),
                    "min": float(column.min()),
                    "max": float(column.max()),
                }
                for name, column in columns
            },
        }


def evaluate(
    policy: Policy, env: VectorRewardVecEnv, episodes: int, *, deterministic: bool = True, seed: int | None = None
) -> Episodes:
    """Plays episodes and adds up each objective's rewards.

    Every world plays the same number of episodes (one more in the first ones where they do not divide evenly), so short
    episodes do not crowd out long ones.

    Args:
        policy: What acts.
        env: Reset at the start.
        episodes: How many.
        deterministic: Take the distribution's mode instead of a sample.
        seed: World i is seeded with `seed + i`.
    """
    quota = np.full(env.num_envs, episodes // env.num_envs)
    quota[: episodes % env.num_envs] += 1
    played = np.zeros(env.num_envs, dtype=int)
    returns: list[Sequence[float]] = []
    lengths: list[int] = []
    successes: list[bool] = []
    obs = env.reset(seed)
    while (played < quota).any():
        actions, _ = policy.predict(obs, deterministic=deterministic)
        obs, _, dones, infos = env.step(actions)
        for i in np.flatnonzero(dones & (played < quota)):
            episode = infos[i]["episode"]
            returns.append(episode["r"])
            lengths.append(episode["l"])
            if "is_success" in infos[i]:
                successes.append(bool(infos[i]["is_success"]))
            played[i] += 1
    return Episodes(env.objectives, np.array(returns), np.array(lengths), np.array(successes, dtype=bool))
