"""How an environment's objectives are scaled: what is measured by playing without having learnt anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from dibs_rl.returns import generalized_advantages
from dibs_rl.untrained import PlayedEpisode

GAMMA, GAE_LAMBDA = 0.99, 0.95  # the learners' defaults
_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of float32, which rewards come in


class Spread(NamedTuple):
    """Mean, standard deviation, least and greatest of some numbers."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """Of values `[k]`."""
        return cls(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))


@dataclass(frozen=True)
class ObjectiveScale:
    """What was measured of one objective.

    Attributes:
        step: Of the rewards, per step.
        episode: Of the undiscounted returns, per episode.
        nonzero: Share of the steps with a reward that is not 0.
        advantage_std: Standard deviation of the advantages by a critic that has learnt the mean value and no more.
        advantage_share: Share in the sum of all objectives' advantage variances: the say in a sum with equal weights.
        by_length: Share of the returns' variance that the length of the episode explains; NaN where either never varies.
        best: Greatest reward that was seen, with one action all the time too.
        trivial_action: What to do all the time to get the greatest reward seen in each step, in episodes that could not give
            more by being longer or shorter; empty where nothing that was tried does it.
    """

    step: Spread
    episode: Spread
    nonzero: float
    advantage_std: float
    advantage_share: float
    by_length: float
    best: float
    trivial_action: str

    @property
    def varies(self) -> bool:
        """Whether what the objective says ever depended on what was done."""
        return self.advantage_std > 0 or self.episode.std > 0


@dataclass(frozen=True)
class Scales:
    """What was measured of an environment.

    Attributes:
        objectives: By name, in the reward's order.
        lengths: Of the episodes' lengths.
        ends_early: Whether an episode was ended by the task's own rules.
        episodes: How many were played at random.
        steps: How many steps these had.
        step_correlation: Between the objectives' rewards, `[m, m]`; NaN where one never varies or no world has both.
        return_correlation: Between the returns, in the same way.
    """

    objectives: dict[str, ObjectiveScale]
    lengths: Spread
    ends_early: bool
    episodes: int
    steps: int
    step_correlation: np.ndarray
    return_correlation: np.ndarray


def measure(
    objectives: Sequence[str], random: Sequence[PlayedEpisode], simple: Mapping[str, Sequence[PlayedEpisode]]
) -> Scales:
    """Measures the scales of objectives.

    Args:
        objectives: Names of the m rewards.
        random: Episodes with random actions.
        simple: Episodes with one action all the time, by what it is called.
    """
    steps = np.concatenate([episode.rewards for episode in random])
    returns = np.stack([episode.rewards.sum(axis=0) for episode in random])
    lengths = np.array([len(episode.rewards) for episode in random], dtype=float)
    advantages = _advantages(random)
    variances = np.array([0.0 if _is_constant(own) else own.var() for own in map(_own, advantages.T)])
    found = {}
    for j, name in enumerate(objectives):
        own = ~np.isnan(returns[:, j])
        best, trivial_action = _best(j, random, simple)
        found[name] = ObjectiveScale(
            step=Spread.of(_own(steps[:, j])),
            episode=Spread.of(returns[own, j]),
            nonzero=float((_own(steps[:, j]) != 0).mean()),
            advantage_std=math.sqrt(variances[j]),
            advantage_share=float(variances[j] / (variances.sum() or 1.0)),
            by_length=_correlation(returns[own, j], lengths[own]) ** 2,
            best=best,
            trivial_action=trivial_action,
        )
    return Scales(
        objectives=found,
        lengths=Spread.of(lengths),
        ends_early=any(episode.terminated for episode in random),
        episodes=len(random),
        steps=len(steps),
        step_correlation=_correlations(steps),
        return_correlation=_correlations(returns),
    )


def _advantages(episodes: Sequence[PlayedEpisode]) -> np.ndarray:
    """Advantages of all steps, `[steps, m]`, of a critic that says the mean value at each step; 0 up to its rounding."""
    sums, left = zip(*(_discounted(episode) for episode in episodes), strict=True)
    # What an episode that was cut off would still have given is worth the mean value too: mean = sums + left * mean.
    values = np.nanmean(np.concatenate(sums), axis=0) / (1 - np.nanmean(np.concatenate(left), axis=0))
    advantages = np.concatenate([_episode_advantages(episode, values) for episode in episodes])
    return np.where(np.abs(advantages) > _ROUNDING * np.abs(values), advantages, advantages * 0)


def _discounted(episode: PlayedEpisode) -> tuple[np.ndarray, np.ndarray]:
    """Discounted sums of the rewards that follow each step, and the discount of what would have followed those, `[t, m]`."""
    sums = episode.rewards.copy()
    left = np.where(np.isnan(sums), np.nan, 0.0 if episode.terminated else GAMMA)
    for t in range(len(sums) - 2, -1, -1):
        sums[t] += GAMMA * sums[t + 1]
        left[t] = GAMMA * left[t + 1]
    return sums, left


def _episode_advantages(episode: PlayedEpisode, values: np.ndarray) -> np.ndarray:
    rewards = torch.from_numpy(episode.rewards).unsqueeze(1)
    value = torch.from_numpy(values).expand_as(rewards)
    done = torch.zeros(len(rewards), 1, dtype=torch.bool)
    done[-1] = True
    return generalized_advantages(rewards, value, value, done & episode.terminated, done, GAMMA, GAE_LAMBDA).squeeze(1).numpy()


def _best(j: int, random: Sequence[PlayedEpisode], simple: Mapping[str, Sequence[PlayedEpisode]]) -> tuple[float, str]:
    """The greatest reward seen of an objective, and the action that gives it all the time, if any does."""
    played = [episode for episode in random if not np.isnan(episode.rewards[:, j]).any()]
    tried = {name: [e for e in episodes if not np.isnan(e.rewards[:, j]).any()] for name, episodes in simple.items()}
    everything = [*played, *(episode for episodes in tried.values() for episode in episodes)]
    greatest = float(max(episode.rewards[:, j].max() for episode in everything))
    shortest = min(len(episode.rewards) for episode in played)
    for name, episodes in tried.items():
        best = all((episode.rewards[:, j] == greatest).all() for episode in episodes)
        if greatest > 0:
            best = best and not any(episode.terminated for episode in episodes)  # more might be had by going on
        if greatest < 0:
            best = best and all(len(episode.rewards) <= shortest for episode in episodes)  # less is lost by ending
        if best and episodes:
            return greatest, name
    return greatest, ""


def _correlations(columns: np.ndarray) -> np.ndarray:
    """Correlations between columns of `[k, m]`, over the rows that have both, `[m, m]`."""
    m = columns.shape[1]
    found = np.full((m, m), np.nan)
    for i in range(m):
        for j in range(m):
            both = ~np.isnan(columns[:, i]) & ~np.isnan(columns[:, j])
            found[i, j] = _correlation(columns[both, i], columns[both, j])
    return found


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """NaN where one is constant up to rounding."""
    if len(a) < 2 or _is_constant(a) or _is_constant(b):
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _is_constant(values: np.ndarray) -> bool:
    return float(values.std()) <= _ROUNDING * float(np.abs(values).max(initial=0.0))


def _own(column: np.ndarray) -> np.ndarray:
    """The numbers of a column that are there."""
    return column[~np.isnan(column)]
