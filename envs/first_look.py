"""What an environment gives, found out before worlds are made of it: spaces, rewards, their names and transform."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from dibs_rl.envs.registry import objective_names
from dibs_rl.envs.reward_terms import numbers_in
from dibs_rl.envs.scaling import UNTRANSFORMED_KEY, TransformedEnv
from dibs_rl.envs.worlds import WorldSetup, channels_first_space
from dibs_rl.errors import UserError

REWARD_KEY = "vector_reward"  # where MO-Gymnasium's LinearReward keeps the vector it has summed


def probe(env: gym.Env, name: str | None = None) -> WorldSetup:
    """Finds out what an environment gives, if need be by taking one step in it.

    Args:
        env: The environment; it is reset before it is used again.
        name: What to call it in an error.

    Raises:
        UserError: If its reward is a scalar and no vector is in `info`, or a space is none that SB3's policies take.
    """
    declared = _declared_reward_dim(env)
    called = name or (env.spec.id if env.spec else type(env.unwrapped).__name__)
    if isinstance(env.observation_space, spaces.Tuple) or isinstance(env.action_space, spaces.Tuple | spaces.Dict):
        raise UserError(
            f"{called} observes {env.observation_space} and is acted on in {env.action_space}: SB3's policies take no Tuple "
            "of observations, and neither Tuple nor Dict of actions; wrap the environment to flatten it."
        )
    found, key, info = first_reward(env)
    if found.ndim != 1:
        raise UserError(
            f"{called} gives a scalar reward, and dibs-rl needs a vector with one entry for each objective: let step() "
            f"return a 1-D array (for one objective: np.array([reward])), put one into info[{REWARD_KEY!r}], or name parts of "
            f"the reward in info: RewardTerms(env, ...), --reward-terms NAME=KEY,... (here: {_reward_like(info)})."
        )
    if declared is not None and declared != len(found):
        raise UserError(f"{called} declares {declared} rewards and gives {len(found)}: mend its reward_space.")
    check_first_action(env.action_space, called)
    names = _declared_names(env) or objective_names(env.spec.id if env.spec else None, len(found))
    if len(names) != len(found):
        raise UserError(f"{called} names {len(names)} objectives and gives {len(found)} rewards: mend its objectives.")
    return WorldSetup(channels_first_space(env.observation_space), env.action_space, names, key, _transform_of(env))


def first_reward(env: gym.Env) -> tuple[np.ndarray, str, dict[str, Any]]:
    """Takes a first step: its reward, `[m]` or a scalar `[]`, where in `info` that is (empty for nowhere), and the `info`."""
    env.reset()
    _, reward, _, _, info = env.step(env.action_space.sample())
    found = np.asarray(reward)
    if _transform_of(env):  # episodes are counted before it
        return found, UNTRANSFORMED_KEY, info
    if found.ndim == 0 and REWARD_KEY in info:
        return np.asarray(info[REWARD_KEY]), REWARD_KEY, info
    return found, "", info


def _reward_like(info: dict[str, Any]) -> str:
    return ", ".join(sorted(numbers_in(info))) or "info has no number"


class LastPicture(gym.Wrapper):
    """Keeps a picture of an episode's last state, which is gone once the next episode has begun.

    Attributes:
        last_picture: `[h, w, 3]` uint8; None before an episode has ended.
    """

    last_picture: Any = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.last_picture = self.env.render()
        return obs, reward, terminated, truncated, info


_LEAVE_REWARDS = (LastPicture, gym.ObservationWrapper, gym.ActionWrapper, OrderEnforcing, PassiveEnvChecker, TimeLimit)


def _transform_of(env: gym.Env) -> str:
    """The transform of a `TransformedEnv` below wrappers that leave rewards alone; empty where there is none."""
    while isinstance(env, _LEAVE_REWARDS):
        env = env.env
    return str(env.reward_transform) if isinstance(env, TransformedEnv) else ""


def _declared_reward_dim(env: gym.Env) -> int | None:
    space = env.get_wrapper_attr("reward_space") if env.has_wrapper_attr("reward_space") else None
    shape = getattr(space, "shape", None)
    return int(shape[0]) if shape else None


def _declared_names(env: gym.Env) -> tuple[str, ...]:
    return tuple(env.get_wrapper_attr("objectives")) if env.has_wrapper_attr("objectives") else ()


def check_first_action(space: spaces.Space, name: str = "The environment") -> None:
    """Raises a UserError if the numbers of actions do not start at 0, where policies' choices do."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise UserError(
            f"{name} numbers its actions from {space.start}, and choices of policies start at 0: wrap it, as in "
            f"gymnasium.wrappers.TransformAction(env, lambda a: a + {space.start}, gymnasium.spaces.Discrete({space.n}))."
        )
