"""MORL-Baselines' PGMORL and CAPQL for `field.py`: in the same environment, for as many steps, to the policies they end with.

Their code is left as it is; its settings are its defaults but for the discount. What is done around it:

- Both learn in the environment with the transform's rewards, in which steps are counted; PGMORL makes its environments from an
  id, so one is registered.
- PGMORL's policies see observations through running statistics of the worlds that they learn in, four of them, each with its
  own. The library keeps none with its archive, and its example chooses policies in an environment with new statistics. Here
  policies are chosen, kept and scored with the statistics of the moment, those of the worlds pooled, and on rewards that are
  not normalised, as in the authors' own code.
- The library chooses by sampled actions; what is scored here is the deterministic policy: the mean of PGMORL's Gaussian,
  squashed for CAPQL.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from field_budget import PGMORL_SIZES, pgmorl_plan
from field_worlds import Counter, SeenAsInTraining, Task, maker, normalisers, pooled_units
from morl_baselines.common.evaluation import seed_everything
from morl_baselines.common.pareto import ParetoArchive
from morl_baselines.multi_policy.capql.capql import CAPQL
from morl_baselines.multi_policy.pgmorl.pgmorl import PGMORL
from torch import Tensor

from dibs_rl.errors import UserError

_numbers = itertools.count()


class Learnt(NamedTuple):
    """What a learner ends with.

    Attributes:
        policies: As `dibs_rl.evaluation.evaluate` takes them.
        steps: Environment steps that it learnt from.
        selection_steps: Environment steps in which it compared its policies, which MORL-Baselines does not count.
    """

    policies: list["Deterministic"]
    steps: int
    selection_steps: int


class Deterministic:
    """A policy as `evaluate` asks it.

    Args:
        act: From observations `[n, d]` to actions `[n, a]`.
        space: The actions' bounds.
    """

    def __init__(self, act: Callable[[Tensor], Tensor], space: gym.spaces.Box) -> None:
        self._act, self._space = act, space

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """Actions within their bounds, never sampled."""
        with torch.no_grad():
            actions = self._act(torch.as_tensor(np.asarray(observation))).numpy()
        return np.clip(actions, self._space.low, self._space.high), None


class Archive(ParetoArchive):
    """PGMORL's archive, which keeps with each policy the statistics of observations that it was chosen with.

    Args:
        norms: See `SeenAsInTraining`.
    """

    def __init__(self, norms: Sequence[gym.wrappers.NormalizeObservation]) -> None:
        super().__init__()
        self._norms = norms

    def add(self, candidate: Any, evaluation: np.ndarray) -> None:
        """Adds a copy of the candidate unless it is dominated."""
        super().add(candidate, evaluation)
        if self.evaluations and self.evaluations[-1] is evaluation:  # it stands last, if it stands there
            self.individuals[-1].units = pooled_units(self._norms)


def train_pgmorl(task: Task, tell: Callable[[int], None]) -> Learnt:
    """Trains PGMORL; its policies are those of its archive.

    Raises:
        UserError: If the budget is too small for it, or there are more than three objectives.
    """
    if len(task.objectives) > 3:
        raise UserError(f"PGMORL is for two or three objectives; {task.env} has {len(task.objectives)}.")
    steps, iterations = pgmorl_plan(task.budget, task.settings)
    learnt_from, compared = Counter(tell), Counter(lambda _: None)
    env_id = f"dibs-rl-field/task{next(_numbers)}-v0"
    gym.register(env_id, entry_point=maker(task, learnt_from), disable_env_checker=True, order_enforce=False)
    seed_everything(task.seed)
    reference = np.array(task.reference)
    learner = PGMORL(env_id, reference, **{**PGMORL_SIZES, **iterations, **_said(task)})
    norms = normalisers(learner.env.envs)
    learner.archive = Archive(norms)
    compared_in = SeenAsInTraining(maker(task, compared)(), norms)
    compared_in.reset(seed=task.seed)
    learner.train(steps, compared_in, reference)
    policies = [_of_archive(policy, learner.action_space) for policy in learner.archive.individuals]
    return Learnt(policies, learnt_from.steps, compared.steps)


def _of_archive(policy: Any, space: gym.spaces.Box) -> Deterministic:
    mean, units = policy.networks.actor_mean, policy.units
    return Deterministic(lambda obs: mean(torch.as_tensor(units(obs.numpy()))), space)


def train_capql(task: Task, tell: Callable[[int], None]) -> Learnt:
    """Trains CAPQL; its one network, which is given preferences, is a policy for each of those of the task."""
    learnt_from = Counter(tell)
    env = maker(task, learnt_from)()
    seed_everything(task.seed)
    env.reset(seed=task.seed)
    env.action_space.seed(task.seed)
    learner = CAPQL(env, **_said(task))
    learner.train(task.budget, env, np.array(task.reference))
    return Learnt([_with(learner.policy, preference) for preference in task.preferences], learnt_from.steps, 0)


def _with(policy: Any, preference: Sequence[float]) -> Deterministic:
    weights = torch.tensor(preference, dtype=torch.float32)
    return Deterministic(lambda obs: policy.get_action(obs.float(), weights.expand(len(obs), -1)), policy.action_space)


def _said(task: Task) -> dict[str, Any]:
    """Arguments of both learners' constructors."""
    return {"gamma": task.gamma, "seed": task.seed, "log": False, "device": "cpu", **task.settings}


LEARNERS: dict[str, Callable[[Task, Callable[[int], None]], Learnt]] = {"pgmorl": train_pgmorl, "capql": train_capql}


def train(method: str, task: Task, tell: Callable[[int], None]) -> Learnt:
    """Trains one of `LEARNERS` with one thread.

    Args:
        method: Its name.
        task: What it is given.
        tell: Is given the number of steps so far, now and then.
    """
    torch.set_num_threads(1)
    print(f"{method}: {task}", file=sys.stdout, flush=True)
    return LEARNERS[method](task, tell)
