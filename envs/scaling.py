"""Rewards in bad units: what each objective's reward becomes, as data, and what puts it into an environment.

A transform reads `energy=1e3,forward=power4@episode`: each objective named is multiplied by a factor or sent through an
increasing map, at each step or, with `@episode`, as the return of the whole episode. It changes what a learner sees and
nothing else: observations, seeds, ends of episodes and the statistics of episodes are those of the environment as it is.

Numbers are computed in float64 and rounded to float32 once, so that every backend gives the same ones. What float32 cannot
hold becomes infinite (above 3.4e38, as exp of a reward above 88.7 does), which stops a learner with an error that names the
objective; below 1.2e-38 it loses digits, and below 1.4e-45 it becomes zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from dibs_rl.errors import UserError, did_you_mean
from dibs_rl.vec_env import VectorRewardVecEnv

MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "power4": lambda r: r.sign() * r.square().square(),
    "exp": torch.exp,
    "sqrt": lambda r: r.sign() * r.abs().sqrt(),
}
_EPISODE = "@episode"
UNTRANSFORMED_KEY = "untransformed_reward"  # where a transformed environment's info keeps the reward as it was


@dataclass(frozen=True)
class ObjectiveTransform:
    """What one objective's reward becomes.

    Attributes:
        change: A factor, not negative (0 leaves the objective without any say), or a key of `MAPS`.
        per_episode: Take the episode's return instead of each reward: 0 until the episode ends, and then what the return
            becomes. A truncated episode ends too, with its return so far; a learner still bootstraps what would have followed.
    """

    change: float | str
    per_episode: bool = False

    def __call__(self, value: Tensor) -> Tensor:
        """Rewards or returns, in float64."""
        return MAPS[self.change](value) if isinstance(self.change, str) else self.change * value

    def __str__(self) -> str:
        return str(self.change).removesuffix(".0") + (_EPISODE if self.per_episode else "")


class TransformedRewards:
    """A `RewardTransform` of named objectives.

    Args:
        objectives: Names of the m rewards, in order.
        transforms: By objective; the other objectives stay as they are.
    """

    def __init__(self, objectives: Sequence[str], transforms: Mapping[str, ObjectiveTransform]) -> None:
        self.transforms = dict(transforms)
        self._columns = [(list(objectives).index(name), transform) for name, transform in transforms.items()]

    def __call__(self, reward: Tensor, episode_return: Tensor, done: Tensor) -> Tensor:
        """Rewards to learn from, of rewards `[n, m]`, returns so far `[n, m]` (float64), and ends of episodes `[n]`."""
        seen = reward.clone()
        for i, transform in self._columns:
            if transform.per_episode:
                seen[:, i] = torch.where(done, transform(episode_return[:, i]), 0.0)
            else:
                seen[:, i] = transform(reward[:, i].double())
        return seen

    def __str__(self) -> str:
        return ",".join(f"{name}={transform}" for name, transform in self.transforms.items())


def parse_transform(text: str, objectives: Sequence[str]) -> dict[str, ObjectiveTransform]:
    """Reads `energy=1e3,forward=exp@episode`; an empty text transforms nothing.

    Raises:
        UserError: If it does not read like that, an objective is unknown or named twice, a map is unknown, or a factor is
            not a finite number of 0 or more.
    """
    transforms: dict[str, ObjectiveTransform] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, what = (piece.strip() for piece in part.partition("="))
        if not equals or not what:
            raise UserError(f"A transform reads like energy=1e3 or energy=exp@episode; found {part!r}.")
        if name not in objectives:
            hint = did_you_mean(name, objectives)
            raise UserError(f"Unknown objective {name!r} in the transform {part!r}.{hint} There is {', '.join(objectives)}.")
        if name in transforms:
            raise UserError(f"The objective {name!r} is transformed twice in {text!r}.")
        transforms[name] = _parse_one(name, what)
    return transforms


def _parse_one(name: str, what: str) -> ObjectiveTransform:
    text, per_episode = what.removesuffix(_EPISODE).strip(), what.endswith(_EPISODE)
    if text in MAPS:
        return ObjectiveTransform(text, per_episode)
    try:
        factor = float(text)
    except ValueError:
        raise UserError(
            f"Unknown transform {what!r} of {name}; it is a factor (1e3), {', '.join(MAPS)}, or one of these with {_EPISODE}."
        ) from None
    if not math.isfinite(factor) or factor < 0:
        raise UserError(f"The factor of {name} must be a finite number of 0 or more; found {text}.")
    return ObjectiveTransform(factor, per_episode)


def transform_rewards(env: VectorRewardVecEnv, *transforms: str) -> VectorRewardVecEnv:
    """Puts transforms into a vector-reward environment, whatever steps it, in place of those that it has.

    Args:
        env: The environment, which is returned.
        *transforms: See `parse_transform`; of an objective that is in several, the last one holds.

    Raises:
        UserError: See `parse_transform`; or if all objectives are switched off.
    """
    found: dict[str, ObjectiveTransform] = {}
    for text in transforms:
        found |= parse_transform(text, env.objectives)
    if all(name in found and found[name].change == 0 for name in env.objectives):
        raise UserError(f"Nothing is left to learn from: {','.join(filter(None, transforms))} switches every objective off.")
    env.reward_transform = TransformedRewards(env.objectives, found) if found else None
    return env


class TransformedEnv(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """The same for one Gymnasium environment, whose `info` then holds the reward as it was under `"untransformed_reward"`.

    It belongs above a `TimeLimit`, whose ends it would not see otherwise. A vector-reward environment made of such
    environments counts episodes before the transform too, unless another wrapper that may change rewards lies between;
    where SB3's or Gymnasium's vector environments hold them, in any case.

    Args:
        env: Gives rewards `[m]`.
        transform: See `parse_transform`.
        objectives: Names of the m rewards.

    Raises:
        UserError: See `parse_transform`.
    """

    def __init__(self, env: gym.Env, transform: str, objectives: Sequence[str]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, transform=transform, objectives=objectives)
        gym.Wrapper.__init__(self, env)
        self.objectives = tuple(objectives)
        self.reward_transform = TransformedRewards(self.objectives, parse_transform(transform, self.objectives))
        self.reward_space = gym.spaces.Box(-np.inf, np.inf, (len(self.objectives),), np.float32)
        self._episode_return = torch.zeros(1, len(self.objectives), dtype=torch.float64)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, with a return of 0."""
        self._episode_return.zero_()
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step whose reward is float32 `[m]`, transformed."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        untransformed = torch.as_tensor(np.asarray(reward, dtype=np.float32)).unsqueeze(0)
        self._episode_return += untransformed
        seen = self.reward_transform(untransformed, self._episode_return, torch.tensor([bool(terminated or truncated)]))
        info = {**info, UNTRANSFORMED_KEY: reward}
        return obs, seen.squeeze(0).numpy(), terminated, truncated, info
