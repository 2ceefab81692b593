"""The environment that the field learns in: steps that are counted, and observations as PGMORL's policies see them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from dibs_rl.envs import TransformedEnv, base_and_transform
from dibs_rl.envs.factories import factory_of

_CLIP = 10.0  # standard deviations; as MORL-Baselines' make_env has it


@dataclass(frozen=True)
class Task:
    """What a learner is given.

    Attributes:
        env: Environment id.
        objectives: Names of its objectives.
        transform: What the learner sees of the rewards.
        budget: Environment steps of the training.
        gamma: Discount of the training.
        reference: Reference point `[m]`, in the units that the learner sees.
        preferences: Preferences `[k, m]`, of which a learner with one policy for all is asked for k.
        settings: Arguments of the learner's constructor, over those that are said here.
        seed: Of everything that is random.
    """

    env: str
    objectives: tuple[str, ...]
    transform: str
    budget: int
    gamma: float
    reference: tuple[float, ...]
    preferences: tuple[tuple[float, ...], ...]
    settings: Mapping[str, Any]
    seed: int


class Counted(gym.Wrapper):
    """Counts steps.

    Args:
        env: The environment.
        count: Called at each step.
    """

    def __init__(self, env: gym.Env, count: Callable[[], None]) -> None:
        super().__init__(env)
        self._count = count

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's step."""
        self._count()
        return self.env.step(action)


class Counter:
    """A number of steps that is told to somebody.

    Args:
        tell: Is given the number now and then.
        every: Steps between two times.
    """

    def __init__(self, tell: Callable[[int], None], every: int = 1000) -> None:
        self.steps, self._tell, self._every = 0, tell, every

    def __call__(self) -> None:
        """One more."""
        self.steps += 1
        if self.steps % self._every == 0:
            self._tell(self.steps)


class Units(NamedTuple):
    """What observations are centred and divided by, `[d]` each."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Observations as a policy is given them, float32."""
        return np.clip((obs - self.mean) / self.std, -_CLIP, _CLIP).astype(np.float32)


def pooled_units(norms: Sequence[gym.wrappers.NormalizeObservation]) -> Units:
    """The statistics of all worlds together, which have taken as many steps each."""
    means, variances = (np.array([getattr(norm.obs_rms, of) for norm in norms]) for of in ("mean", "var"))
    return Units(means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0) + norms[0].epsilon))


def normalisers(envs: Iterable[gym.Env]) -> list[gym.wrappers.NormalizeObservation]:
    """The wrapper in each world that normalises observations."""
    found = []
    for env in envs:
        while not isinstance(env, gym.wrappers.NormalizeObservation):
            env = env.env
        found.append(env)
    return found


class SeenAsInTraining(gym.ObservationWrapper):
    """Observations through the statistics, as they stand when an episode begins, of the worlds that a policy is trained in.

    Args:
        env: The environment.
        norms: What normalises in those worlds.
    """

    def __init__(self, env: gym.Env, norms: Sequence[gym.wrappers.NormalizeObservation]) -> None:
        super().__init__(env)
        self._norms, self._units = norms, pooled_units(norms)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode."""
        self._units = pooled_units(self._norms)
        return super().reset(**kwargs)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The observation, normalised."""
        return self._units(observation)


def maker(task: Task, count: Callable[[], None]) -> Callable[..., gym.Env]:
    """A function that makes the task's environment, with steps that are counted."""
    base, own = base_and_transform(task.env)
    transform = ",".join(filter(None, (own, task.transform)))

    def make(render_mode: str | None = None) -> gym.Env:  # PGMORL asks one world for pictures, of which it takes none
        env = factory_of(base)()
        return Counted(TransformedEnv(env, transform, task.objectives) if transform else env, count)

    return make
