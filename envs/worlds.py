"""Gymnasium environments writing into preallocated arrays: what the `gym` backend does inside one process."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array, create_shared_memory, read_from_shared_memory
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from dibs_rl.errors import UserError

EnvFactory = Callable[[], gym.Env]


class WorldSetup(NamedTuple):
    """What is the same for all worlds.

    Attributes:
        observation_space: Space of an observation, images with channels first.
        action_space: Space of an action.
        objectives: Names of the reward's components.
        reward_key: Where in `info` the vector is; empty where it is the reward itself.
        transform: What becomes of the rewards when they have been counted, where the environment says so.
    """

    observation_space: spaces.Space
    action_space: spaces.Space
    objectives: tuple[str, ...]
    reward_key: str = ""
    transform: str = ""

    @property
    def layout(self) -> "WorldArrays":
        """One world's space for each array."""
        flag = spaces.Box(0, 1, (), np.bool_)  # type: ignore[arg-type]
        reward = spaces.Box(-np.inf, np.inf, (len(self.objectives),), np.float32)
        return WorldArrays(self.observation_space, self.observation_space, reward, flag, flag, self.action_space)


class WorldArrays(NamedTuple):
    """What passes between the worlds and the vector environment, `[n, ...]` each; observations may be dictionaries."""

    obs: Any
    final_obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    actions: Any


def local_arrays(setup: WorldSetup, n: int) -> WorldArrays:
    """Arrays for n worlds in this process."""
    return WorldArrays(*(create_empty_array(space, n) for space in setup.layout))


def shared_memory(setup: WorldSetup, n: int, context: Any) -> WorldArrays:
    """Memory for n worlds that worker processes can write to; `array_views` looks into it."""
    return WorldArrays(*(create_shared_memory(space, n, context) for space in setup.layout))


def array_views(setup: WorldSetup, memory: WorldArrays, n: int) -> WorldArrays:
    """The arrays that lie in shared memory."""
    pairs = zip(setup.layout, memory, strict=True)
    return WorldArrays(*(read_from_shared_memory(space, part, n) for space, part in pairs))


class Worlds:
    """Some of a vector environment's worlds; each writes to its own row of the arrays.

    An episode that ends is followed by the next one in the same step, so no transition of a reset enters the data.

    Args:
        factories: One a world, for all worlds of the vector environment.
        setup: What `probe` found.
        rows: Which of them live here.
        arrays: The arrays of all worlds.
    """

    def __init__(self, factories: Sequence[EnvFactory], setup: WorldSetup, rows: Sequence[int], arrays: WorldArrays) -> None:
        self._envs = {row: channels_first(factories[row]()) for row in rows}
        if len({id(env.unwrapped) for env in self._envs.values()}) < len(self._envs):
            raise UserError("Factories must make a new environment at each call; found the same one for two worlds.")
        self._setup = setup
        self._arrays = arrays
        discrete = isinstance(setup.action_space, spaces.Discrete)
        self._to_action: Callable[[Any], Any] = int if discrete else np.array

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict]) -> None:
        """Starts a new episode in each world here."""
        for (row, env), seed, option in zip(self._envs.items(), seeds, options, strict=True):
            obs, _ = env.reset(seed=seed, options=option or None)
            _write(self._arrays.obs, row, obs)

    def step(self) -> list[tuple[int, dict]]:
        """Steps each world with its row of `actions`; returns the last `info` of the episodes that ended."""
        arrays = self._arrays
        last_infos = []
        for row, env in self._envs.items():
            obs, reward, terminated, truncated, info = env.step(self._to_action(arrays.actions[row]))
            arrays.reward[row] = info[self._setup.reward_key] if self._setup.reward_key else reward
            arrays.terminated[row] = terminated
            arrays.truncated[row] = truncated
            _write(arrays.final_obs, row, obs)
            if terminated or truncated:
                last_infos.append((row, info))
                obs, _ = env.reset()
            _write(arrays.obs, row, obs)
        return last_infos

    def get_attr(self, rows: Sequence[int], name: str) -> list[Any]:
        """The attribute of the worlds named."""
        return [self._envs[row].get_wrapper_attr(name) for row in rows]

    def set_attr(self, rows: Sequence[int], name: str, value: Any) -> list[bool]:
        """Sets the attribute in the worlds named; says in which it was there."""
        return [self._envs[row].set_wrapper_attr(name, value) for row in rows]

    def env_method(self, rows: Sequence[int], name: str, args: tuple, kwargs: dict) -> list[Any]:
        """Calls the method of the worlds named."""
        return [self._envs[row].get_wrapper_attr(name)(*args, **kwargs) for row in rows]

    def is_wrapped(self, rows: Sequence[int], wrapper: type[gym.Wrapper]) -> list[bool]:
        """Whether the worlds named have the wrapper."""
        return [has_wrapper(self._envs[row], wrapper) for row in rows]

    def close(self) -> None:
        """Closes the worlds here."""
        for env in self._envs.values():
            env.close()


def channels_first_space(space: spaces.Space) -> spaces.Space:
    """The space with images turned to channels first, as SB3's networks take them."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: channels_first_space(part) for key, part in space.items()})
    if isinstance(space, spaces.Box) and _shows_channels_last(space):
        return spaces.Box(space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1), dtype=np.uint8)
    return space


def channels_first(env: gym.Env) -> gym.Env:
    """The environment with its images turned to channels first; the environment itself where it shows none."""
    space = channels_first_space(env.observation_space)
    if space == env.observation_space:
        return env
    return gym.wrappers.TransformObservation(env, lambda obs: turn_images(obs, env.observation_space), space)


def turn_images(obs: Any, space: spaces.Space) -> Any:
    """An observation of the space, or a batch of them, with images turned to channels first."""
    if isinstance(space, spaces.Dict):
        return {key: turn_images(obs[key], part) for key, part in space.items()}
    return np.moveaxis(obs, -1, -3) if _shows_channels_last(space) else obs


def _shows_channels_last(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space)


def _write(arrays: Any, row: int, obs: Any) -> None:
    if isinstance(arrays, dict):
        for key, array in arrays.items():
            array[row] = obs[key]
    else:
        arrays[row] = obs


def has_wrapper(env: gym.Env, wrapper: type[gym.Wrapper]) -> bool:
    """Whether an environment is wrapped in a Gymnasium wrapper."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper):
            return True
        env = env.env
    return False
