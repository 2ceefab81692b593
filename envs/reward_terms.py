"""Any Gymnasium environment whose reward is made of parts becomes one with a vector reward.

Most environments add up a task reward, costs and bonuses, and tell the parts in `info`: HalfCheetah-v5 has `reward_forward`
and `reward_ctrl`. `RewardTerms` makes an objective of each part that is named; on the command line, that is
`--reward-terms forward=reward_forward,energy=reward_ctrl`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from dibs_rl.errors import UserError

OWN_REWARD = "reward"  # names the environment's own scalar reward among its terms
Terms = Callable[[Any, Any, Any, dict[str, Any]], Sequence[float] | np.ndarray]


class RewardTerms(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """An environment whose reward is a vector, made of entries of `info` or by a function.

    Args:
        env: Any Gymnasium environment.
        terms: Objective by objective, the key of its reward in `info`; `"reward"` is the environment's own reward, and a minus
            sign before a key makes a reward of a cost. Or a function of the observation that the step led to, the action, the
            reward and `info`, which returns the vector.
        objectives: Names of the rewards, where `terms` is a function.

    Raises:
        UserError: If there is no term, or a function comes without names. When stepped: if `info` lacks a term, or a term is
            no number.

    Example:
        >>> import gymnasium
        >>> from dibs_rl.envs import RewardTerms
        >>> env = gymnasium.make("HalfCheetah-v5", disable_env_checker=True)
        >>> env = RewardTerms(env, {"forward": "reward_forward", "energy": "reward_ctrl"})
        >>> env.objectives
        ('forward', 'energy')
    """

    def __init__(self, env: gym.Env, terms: Mapping[str, str] | Terms, objectives: Sequence[str] | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, terms=terms, objectives=objectives)
        gym.Wrapper.__init__(self, env)
        if isinstance(terms, Mapping):
            objectives = tuple(terms)
        if not objectives:
            raise UserError(
                "RewardTerms needs at least one term, and a function needs the names of its rewards: objectives=[...]."
            )
        self.objectives = tuple(objectives)
        self.reward_space = gym.spaces.Box(-np.inf, np.inf, (len(self.objectives),), np.float32)
        self._terms = terms
        self._name = env.spec.id if env.spec else type(env.unwrapped).__name__

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A step whose reward is float32 `[m]`."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if isinstance(self._terms, Mapping):
            given: Any = [self._look_up(key, reward, info) for key in self._terms.values()]
        else:
            given = self._terms(obs, action, reward, info)
        vector = np.asarray(given, dtype=np.float32)
        if vector.shape != (len(self.objectives),):
            raise UserError(
                f"The reward terms of {self._name} must be {len(self.objectives)} numbers ({', '.join(self.objectives)}); "
                f"found shape {list(vector.shape)}."
            )
        return obs, vector, terminated, truncated, info

    def _look_up(self, key: str, reward: Any, info: dict[str, Any]) -> float:
        sign, name = (-1.0, key[1:]) if key.startswith("-") else (1.0, key)
        if name != OWN_REWARD and name not in info:
            raise UserError(
                f"The info of {self._name} has no {name!r}; it has {', '.join(sorted(numbers_in(info))) or 'no number'}."
            )
        value = np.asarray(reward if name == OWN_REWARD else info[name])
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise UserError(f"The term {name!r} of {self._name} must be a number; found {value.tolist()!r}.")
        return sign * float(value.item())


def parse_terms(text: str) -> dict[str, str]:
    """Reads `forward=reward_forward,energy=reward_ctrl`; a bare key names its own objective.

    Raises:
        UserError: If it does not read like that, or an objective is named twice.
    """
    terms: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, key = (piece.strip() for piece in part.partition("="))
        key = key if equals else name
        if not name or not key.lstrip("-"):
            raise UserError(f"Reward terms read like forward=reward_forward,energy=reward_ctrl; found {part!r}.")
        if name in terms:
            raise UserError(f"The objective {name!r} is named twice in the reward terms {text!r}.")
        terms[name] = key
    return terms


def numbers_in(info: Mapping[str, Any]) -> list[str]:
    """Keys of the entries that could be a term."""
    return [key for key, value in info.items() if np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf"]
