"""Several tasks as the objectives of one environment: world i plays task i mod k, and objective j is task j's reward.

The number of the task is appended to its observation, one-hot, so one policy learns them all. An objective stands only in
the worlds that play its task (`VectorRewardVecEnv.active`): to give it the reward 0 elsewhere would not do, because its
advantages would be centred and scaled over worlds that know nothing of it, and its critic head would spend itself on them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from dibs_rl.envs.factories import factory_of
from dibs_rl.envs.first_look import REWARD_KEY, first_reward, probe
from dibs_rl.envs.gym_backend import GymVecEnv
from dibs_rl.envs.registry import TASK_SETS, bare_name, resolve_id
from dibs_rl.envs.scaling import UNTRANSFORMED_KEY
from dibs_rl.envs.worlds import EnvFactory
from dibs_rl.errors import UserError


def task_ids(env_id: str) -> dict[str, str]:
    """The tasks that `a+b+c`, or the name of a set, stands for: their ids by their names; empty for any other id."""
    if env_id in TASK_SETS:
        return dict(TASK_SETS[env_id])
    return _named(env_id.split("+")) if "+" in env_id else {}


class MultiTask(GymVecEnv):
    """One vector-reward environment out of k tasks: world i plays task i mod k.

    Observations are a task's own, filled up with zeros to the longest where `pad` says so, and then the task's number,
    one-hot. A task with a scalar reward is one objective, under the task's name; one with a vector reward is several, called
    `task/objective`.

    Args:
        tasks: Ids or factories of the tasks, by their names, or ids alone, whose names they are then. Ids whose spaces fit:
            flat observations and the same actions.
        num_envs: Worlds n, at least one a task.
        pad: Lets tasks of different sizes fit: shorter observations are filled up with zeros, a task takes the first of the
            actions' entries and leaves the others, and continuous actions are between -1 and 1 for all.
        workers: Worker processes; 0 steps the worlds here.
        device: Where the tensors are wanted.
        seed: World i's first episode is seeded with `seed + i`; None leaves it to the environments.
        **kwargs: Passed to the environments of all ids.

    Attributes:
        tasks: Names of the k tasks; world i plays `tasks[i % k]`.

    Raises:
        UserError: If there are fewer worlds than tasks, two tasks have one name, an id is unknown, or spaces do not fit.

    Example:
        >>> from dibs_rl.envs import MultiTask
        >>> MultiTask(["Pendulum-v1", "MountainCarContinuous-v0"], num_envs=4, pad=True).objectives
        ('Pendulum', 'MountainCarContinuous')
    """

    def __init__(
        self,
        tasks: Sequence[str] | Mapping[str, str | EnvFactory],
        num_envs: int = 64,
        *,
        pad: bool = False,
        workers: int = 0,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        named = tasks if isinstance(tasks, Mapping) else _named(tasks)
        if len(named) < 2 or num_envs < len(named):
            raise UserError(
                f"There are several tasks and at least a world for each; found {len(named)} and {num_envs} worlds."
            )
        plain = [factory_of(task, **kwargs) if isinstance(task, str) else task for task in named.values()]
        table = _table(named, [factory() for factory in plain], pad)
        factories = [partial(_play, factory, table, number) for number, factory in enumerate(plain)]
        first = factories[0]()
        setup = probe(first, "+".join(named))
        first.close()
        worlds = [factories[i % len(factories)] for i in range(num_envs)]
        super().__init__(worlds, setup, workers=workers, device=device, seed=seed)
        self.tasks = tuple(named)
        self.active = torch.zeros(num_envs, self.reward_dim, dtype=torch.bool, device=self.device)
        for i in range(num_envs):
            self.active[i, table.columns[i % len(factories)]] = True


class TaskTable(NamedTuple):
    """What k tasks have in common once they are one environment, and where each has its place in it.

    Attributes:
        observation_size: Numbers of a task's observation, the longest one's.
        observation_dtype: Their type.
        action_space: The policy's actions.
        objectives: Names of the m rewards.
        columns: Each task's columns of the reward.
        in_info: Whether a task's vector reward is in its info, beside a scalar.
    """

    observation_size: int
    observation_dtype: np.dtype
    action_space: spaces.Space
    objectives: tuple[str, ...]
    columns: list[slice]
    in_info: list[bool]

    @property
    def observation_space(self) -> spaces.Box:
        """Without bounds: those of the tasks differ."""
        size = self.observation_size + len(self.columns)
        return spaces.Box(-np.inf, np.inf, (size,), self.observation_dtype.type)


class OneOfManyTasks(gym.Wrapper):
    """A task in its place among k tasks.

    Args:
        env: The task.
        table: All of them.
        number: Which one it is.
    """

    def __init__(self, env: gym.Env, table: TaskTable, number: int) -> None:
        super().__init__(env)
        self.objectives = table.objectives
        self.observation_space, self.action_space = table.observation_space, table.action_space
        self.reward_space = spaces.Box(-np.inf, np.inf, (len(table.objectives),), np.float64)
        self._number, self._columns, self._in_info = number, table.columns[number], table.in_info[number]
        self._size, self._tasks = table.observation_size, len(table.columns)
        self._own_actions = env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode of the task."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observe(obs), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Steps the task; the reward is 0 in the columns of the others."""
        obs, reward, terminated, truncated, info = self.env.step(self._own(action))
        vector = np.zeros(len(self.objectives))
        vector[self._columns] = info[REWARD_KEY] if self._in_info else reward
        return self._observe(obs), vector, terminated, truncated, info

    def _observe(self, obs: np.ndarray) -> np.ndarray:
        full = np.zeros(self._size + self._tasks, self.observation_space.dtype)
        full[: len(obs)] = obs
        full[self._size + self._number] = 1
        return full

    def _own(self, action: Any) -> Any:
        own = self._own_actions
        if not isinstance(own, spaces.Box) or own == self.action_space:
            return action
        share = (action[: own.shape[0]] + 1) / 2
        return (own.low + share * (own.high - own.low)).astype(own.dtype)


def _play(factory: EnvFactory, table: TaskTable, number: int) -> gym.Env:
    return OneOfManyTasks(factory(), table, number)


def _named(tasks: Sequence[str]) -> dict[str, str]:
    """Ids by their bare names, or by themselves where bare names repeat."""
    ids = [resolve_id(task) for task in tasks]
    names = [bare_name(env_id).rpartition(":")[2] for env_id in ids]
    if len(set(names)) < len(names):
        names = ids
    if len(set(names)) < len(names):
        raise UserError(
            f"Each task needs a name of its own; found {', '.join(names)}: give them as a mapping of names to tasks."
        )
    return dict(zip(names, ids, strict=True))


def _table(names: Sequence[str] | Mapping[str, Any], envs: Sequence[gym.Env], pad: bool) -> TaskTable:
    """Looks at one environment of each task, and closes it.

    Raises:
        UserError: If they do not fit together.
    """
    observations, actions = {}, {}
    objectives: list[str] = []
    columns, in_info = [], []
    for name, env in zip(names, envs, strict=True):
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UserError(
                f"A task among several has a flat observation, to which its number is appended; {name} has {space}: "
                "wrap it in gymnasium.wrappers.FlattenObservation."
            )
        observations[name], actions[name] = space, env.action_space
        reward, key, _ = first_reward(env)
        if key == UNTRANSFORMED_KEY:
            raise UserError(
                f"{name} transforms its rewards: take the task as it is, and transform the objectives of all (--transform)."
            )
        own = [f"{name}/{objective}" for objective in probe(env, name).objectives] if reward.size > 1 else [name]
        in_info.append(key == REWARD_KEY)
        columns.append(slice(len(objectives), len(objectives) + len(own)))
        objectives += own
        env.close()
    sizes = {name: space.shape[0] for name, space in observations.items()}
    if len(set(sizes.values())) > 1 and not pad:
        raise UserError(f"The tasks' observations differ in size: {_listed(sizes)}. {_PAD}")
    dtype = np.result_type(*(space.dtype for space in observations.values()))
    return TaskTable(max(sizes.values()), dtype, _common_actions(actions, pad), tuple(objectives), columns, in_info)


_PAD = "Fill the shorter ones up with MultiTask(..., pad=True), or --pad-tasks on the command line."


def _common_actions(actions: Mapping[str, spaces.Space], pad: bool) -> spaces.Space:
    """The one space of the tasks' actions.

    Raises:
        UserError: If there is none.
    """
    first, *others = actions.values()
    if all(space == first for space in others):
        return first
    boxes = [space for space in actions.values() if isinstance(space, spaces.Box) and len(space.shape) == 1]
    if len(boxes) < len(actions):
        raise UserError(f"The tasks' actions differ: {_listed(actions)}. Only flat Box spaces can be made to fit.")
    if not pad:
        raise UserError(f"The tasks' actions differ: {_listed(actions)}. {_PAD}")
    if not all(space.is_bounded() for space in boxes):
        raise UserError(f"Actions without bounds cannot be made to fit: {_listed(actions)}. Wrap them in RescaleAction.")
    return spaces.Box(-1.0, 1.0, (max(space.shape[0] for space in boxes),), np.float32)


def _listed(things: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {thing}" for name, thing in things.items())
