"""A study's results as arrays: for each environment, returns by condition, arm and seed, and what is compared of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dibs_rl.arms import EXPERT, RANDOM
from dibs_rl.reporting.palette import in_order
from dibs_rl.statistics import invariance_gap, maximin, mean_score, nash_welfare, scores, seed_noise
from dibs_rl.study_folder import Condition, JobRecord, StudyRecord

Key = tuple[str, str]
_MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "maximin": maximin,
    "mean score": mean_score,
    "Nash welfare": nash_welfare,
}
GAP = "score"


@dataclass(frozen=True)
class Outcomes:
    """What a study found on one environment.

    Attributes:
        env: Its id.
        objectives: Names of the m rewards.
        conditions: Those with a finished job, the plain one first.
        arms: The methods that are compared, in the order of the pictures.
        returns: Mean untransformed returns `[m]` of each seed, by condition and arm.
        random: Returns of the random policy, `[m]`, mean over seeds; None where it was not run.
        expert: Return on each objective of the policy trained on it alone, `[m]`; None where one is missing.
    """

    env: str
    objectives: tuple[str, ...]
    conditions: tuple[Condition, ...]
    arms: tuple[str, ...]
    returns: Mapping[Key, Mapping[int, np.ndarray]]
    random: np.ndarray | None
    expert: np.ndarray | None

    @cached_property
    def plain(self) -> str | None:
        """Name of the condition that leaves the rewards alone, if it was run."""
        return next((condition.name for condition in self.conditions if condition.is_plain), None)

    @property
    def shown(self) -> str:
        """Name of the condition that is shown at once: the plain one, or the first where that was not run."""
        return self.conditions[0].name

    @cached_property
    def scaled(self) -> tuple[Condition, ...]:
        """The conditions that multiply rewards by factors."""
        return tuple(c for c in self.conditions if c.factors is not None and not c.is_plain)

    @cached_property
    def bent(self) -> tuple[Condition, ...]:
        """The conditions that do anything else to them."""
        return tuple(c for c in self.conditions if c.factors is None)

    @cached_property
    def scorable(self) -> tuple[str, ...]:
        """The objectives that have a score: their experts do better than the random policy."""
        if self.random is None or self.expert is None:
            return ()
        return tuple(np.array(self.objectives)[self.expert > self.random].tolist())

    @property
    def measures(self) -> tuple[str, ...]:
        """What arms are compared by: of scores where there are any, the worst first; else each objective's return."""
        return tuple(_MEASURES) if self.scorable else self.objectives

    def seeds(self, condition: str, arm: str) -> list[int]:
        """Seeds of an arm's finished jobs."""
        return sorted(self.returns.get((condition, arm), ()))

    def references(self, condition: str) -> list[str]:
        """The random policy and the experts, where they have finished jobs under a condition."""
        names = [RANDOM, *(EXPERT + name for name in self.objectives)]
        return [name for name in names if (condition, name) in self.returns]

    def raw(self, condition: str, arm: str) -> np.ndarray:
        """Untransformed returns of an arm's seeds, `[n, m]`."""
        by_seed = self.returns.get((condition, arm), {})
        return np.array([by_seed[seed] for seed in sorted(by_seed)]).reshape(-1, len(self.objectives))

    def measured(self, measure: str, condition: str, arm: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """One of `measures` for each seed, `[n]`; of all finished seeds if not given."""
        table = self._table(condition, arm, seeds)
        return _MEASURES[measure](table) if self.scorable else table[:, self.objectives.index(measure)]

    def over_conditions(self, measure: str, conditions: Sequence[Condition], arm: str) -> np.ndarray:
        """The mean over conditions of a measure, for each seed that finished all of them, `[n]`."""
        seeds = self._in_all([condition.name for condition in conditions], arm)
        values = [self.measured(measure, condition.name, arm, seeds) for condition in conditions]
        return np.mean(values, axis=0) if values else np.empty(0)

    @property
    def gap_measures(self) -> tuple[str, ...]:
        """What gaps are of: of the scores together, or of each objective's return where there are no scores."""
        return (GAP,) if self.scorable else self.objectives

    def gap(self, measure: str, conditions: Sequence[Condition], arm: str) -> np.ndarray:
        """Invariance gap for each seed that finished the plain condition too, the mean over conditions, `[n]`."""
        if self.plain is None or not conditions:
            return np.empty(0)
        seeds = self._in_all([self.plain, *(condition.name for condition in conditions)], arm)
        plain = self._gap_table(measure, self.plain, arm, seeds)
        gaps = [invariance_gap(self._gap_table(measure, c.name, arm, seeds), plain) for c in conditions]
        return np.mean(gaps, axis=0)

    def noise(self, measure: str, arm: str) -> np.ndarray:
        """How far another seed moves what `gap` is of, under the plain condition, for each seed, `[n]`; empty for one seed."""
        seeds = self.seeds(self.plain, arm) if self.plain is not None else []
        return seed_noise(self._gap_table(measure, str(self.plain), arm, seeds)) if len(seeds) > 1 else np.empty(0)

    def _gap_table(self, measure: str, condition: str, arm: str, seeds: Sequence[int]) -> np.ndarray:
        table = self._table(condition, arm, seeds)
        return table if self.scorable else table[:, [self.objectives.index(measure)]]

    def _table(self, condition: str, arm: str, seeds: Sequence[int] | None) -> np.ndarray:
        """Scores of the scorable objectives, `[n, k]`; returns of all, `[n, m]`, where there are no scores."""
        table = self.raw(condition, arm)
        if seeds is not None:
            table = table[np.isin(self.seeds(condition, arm), seeds)]
        if self.random is None or self.expert is None or not self.scorable:
            return table
        return scores(table, self.random, self.expert)[:, self.expert > self.random]

    def _in_all(self, conditions: Sequence[str], arm: str) -> list[int]:
        finished = [set(self.seeds(condition, arm)) for condition in conditions]
        return sorted(set.intersection(*finished)) if finished else []


def outcomes(study: StudyRecord) -> list[Outcomes]:
    """The results of each environment of a study that has a finished job of an arm that is compared."""
    by_env: dict[str, list[JobRecord]] = {}
    for job in study.finished():
        by_env.setdefault(job.env, []).append(job)
    found = [_outcomes_on(env, jobs) for env, jobs in by_env.items()]
    return [outcome for outcome in found if outcome.arms]


def _outcomes_on(env: str, jobs: Sequence[JobRecord]) -> Outcomes:
    objectives = jobs[0].objectives
    conditions = {job.condition.name: job.condition for job in jobs if not job.is_reference}
    returns: dict[Key, dict[int, np.ndarray]] = {}
    for job in jobs:
        returns.setdefault((job.condition.name, job.arm), {})[job.seed] = np.array([job.returns[name] for name in objectives])
    return Outcomes(
        env=env,
        objectives=objectives,
        conditions=tuple(sorted(conditions.values(), key=lambda condition: not condition.is_plain)),
        arms=tuple(in_order(job.arm for job in jobs if not job.is_reference)),
        returns=returns,
        random=_reference(jobs, objectives, lambda name: RANDOM),
        expert=_reference(jobs, objectives, lambda name: EXPERT + name),
    )


def _reference(jobs: Sequence[JobRecord], objectives: Sequence[str], arm_of: Callable[[str], str]) -> np.ndarray | None:
    """Mean return on each objective of the arm that fixes its scale; None if one was not run."""
    found = []
    for name in objectives:
        values = [job.returns[name] for job in jobs if job.arm == arm_of(name)]
        if not values:
            return None
        found.append(np.mean(values))
    return np.array(found)
