"""Meta-World's manipulation tasks (Yu et al. 2019, arXiv 1910.10897; version 3: McLean et al. 2025, arXiv 2505.11289).

Each is an id of its own, `metaworld-reach-v3` for example, with the goal in the observation; `metaworld-mt10` is the set of
ten that multi-task learning is compared on. They need the package `metaworld`, which needs MuJoCo 3.3.0 and no other.
"""

import functools
import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np

from dibs_rl.errors import UserError

_EPISODE_STEPS = 500
_GOALS_SEED = 0  # the 50 goals of a task are the same in all worlds, processes and runs
_MT10 = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
)
INSTALL = "pip install 'dibs-rl[metaworld]', in an environment of its own, since it brings MuJoCo 3.3.0"
MT10 = {task: f"metaworld-{task}-v3" for task in _MT10}
"""Ids of the ten tasks by their names."""


class MetaWorldTask(gym.Wrapper):
    """A task with a goal drawn for each episode; info says under `is_success` whether the goal was ever reached in it.

    Args:
        env: One of Meta-World's environments.
        goals: Meta-World's descriptions of the goals.
    """

    def __init__(self, env: gym.Env, goals: list[Any]) -> None:
        super().__init__(env)
        self._goals = goals
        self._draw = np.random.default_rng()
        self._reached = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode with a goal that depends on the seed; without one, with the next goal drawn."""
        if seed is not None:
            self._draw = np.random.default_rng(seed)
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]  # its reset takes no notice of one
        self.unwrapped.set_task(self._goals[self._draw.integers(len(self._goals))])  # type: ignore[attr-defined]
        self._reached = False
        return self.env.reset()

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the task."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._reached = self._reached or bool(info["success"])
        return obs, reward, terminated, truncated, {**info, "is_success": self._reached}


def metaworld_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("metaworld") is not None


def make_task(task: str, render_mode: str | None = None) -> gym.Env:
    """One environment of a task, under Meta-World's own name.

    Raises:
        UserError: If `metaworld` is not installed.
    """
    if not metaworld_installed():
        raise UserError(f"{task} needs the package metaworld, which is not installed: {INSTALL}.")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return MetaWorldTask(ALL_V3_ENVIRONMENTS[task](render_mode=render_mode), _goals(task))


@functools.cache
def _goals(task: str) -> list[Any]:
    import metaworld

    return metaworld.MT1(task, seed=_GOALS_SEED).train_tasks


def _register() -> None:
    for task, env_id in MT10.items():
        gym.register(
            env_id,
            entry_point="dibs_rl.envs.metaworld:make_task",
            kwargs={"task": f"{task}-v3"},
            max_episode_steps=_EPISODE_STEPS,
        )


_register()
