"""Simulators whose worlds are rows of torch tensors, on a GPU mostly, as vector-reward environments."""

import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dibs_rl.envs.first_look import check_first_action
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Obs, Step, VectorRewardVecEnv, map_obs

_UNBOUNDED = 100.0
_FINAL_OBS = ("final_obs", "final_observation")


class TensorVecEnvAdapter(VectorRewardVecEnv):
    """Wraps an environment of n worlds with tensors in and out; nothing leaves its device.

    `env.reset()` returns observations `[n, ...]`, or a pair of these and extras. `env.step(actions)` returns observations,
    rewards `[n, m]`, whether episodes terminated `[n]` and were truncated `[n]`, and perhaps a dictionary of extras. Images
    are to have their channels first.

    Such environments start the next episode in the step that ends one, and return its first observation. The observation
    that ended the episode is taken from the extras, where `final_obs` (Gymnasium's and Isaac Lab's name) or
    `final_observation` (ManiSkill's) holds one for each world, of which those are read whose episode ended. Where the extras
    have none, the observation that the last action was chosen in takes its place: the value of a truncated episode is then
    bootstrapped from the last state but one, as in rsl_rl, and not from the next episode's first state.

    A seed is passed to the environment's `reset(seed=...)`, where it has such an argument.

    Args:
        env: It has `num_envs`, and `device` unless its tensors are on the CPU.
        objectives: Names of the m rewards; `env.objectives` if not given.
        observation_space: Of what the policy sees of one world; `env.single_observation_space` or else `env.observation_space`
            if not given.
        action_space: Of one world; `env.single_action_space` or else `env.action_space` if not given. SB3 needs bounds: where
            there are none they are -100 and 100, as in Isaac Lab's wrapper for SB3. SAC should be given the real ones.
        group: Where observations are dictionaries, which entry the policy sees; it sees them all if not given.
        device: Where the tensors are wanted; the environment's own if not given.

    Raises:
        UserError: If a name, a space or the group is missing.
    """

    backend = "tensor"

    def __init__(
        self,
        env: Any,
        objectives: Sequence[str] = (),
        *,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        group: str = "",
        device: torch.device | str | None = None,
    ) -> None:
        self.env = env
        base = self._base
        names = tuple(objectives) or tuple(getattr(base, "objectives", ()))
        if not names:
            raise UserError(
                "The environment does not name its rewards: give it objectives, or use TensorVecEnvAdapter(env, [...])."
            )
        self._group = group
        observed = observation_space or self._part(gym_space(_space_of(base, "observation_space")))
        acted = action_space or _bounded(gym_space(_space_of(base, "action_space")))
        check_first_action(acted)
        self._home = torch.device(getattr(base, "device", "cpu"))
        parameters = inspect.signature(env.reset).parameters.values()
        self._takes_seed = any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters)
        self._last_obs: Obs | None = None
        super().__init__(base.num_envs, observed, acted, names, self._home if device is None else device)

    @property
    def _base(self) -> Any:
        """The environment under Gymnasium's wrappers, which pass no attributes on."""
        return getattr(self.env, "unwrapped", self.env)

    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Obs:
        if any(options):
            raise UserError("A simulator with tensors in and out is reset without options: leave set_options out.")
        seeded = seeds[0] is not None and self._takes_seed
        found = self.env.reset(seed=seeds[0]) if seeded else self.env.reset()
        return self._seen(found[0] if isinstance(found, tuple) else found)

    def _step_worlds(self, actions: Tensor) -> Step:
        if self._last_obs is None:
            raise UserError("The environment is stepped before it was reset.")
        before = map_obs(torch.clone, self._last_obs)  # simulators write into the same tensors again
        obs, rewards, terminated, truncated, *extras = self.env.step(actions.to(self._home))
        reward = self._vector_rewards(rewards).to(self.device)
        terminated, truncated = self._ends(terminated.bool(), truncated.bool())
        now, final = self._seen_at_ends(obs, terminated | truncated, before, extras[0] if extras else {})
        return Step(now, reward, terminated.to(self.device), truncated.to(self.device), final)

    def _ends(self, terminated: Tensor, truncated: Tensor) -> tuple[Tensor, Tensor]:
        """What the environment's ends mean to a learner, `[n]` bool each."""
        return terminated, truncated

    def _seen_at_ends(self, obs: Any, done: Tensor, before: Obs, extras: dict[str, Any]) -> tuple[Obs, Obs]:
        """Observations to act on next, and those that the step led to."""
        now = self._seen(obs)
        last = next((self._to_device(self._part(extras[key])) for key in _FINAL_OBS if key in extras), before)
        return now, map_obs(lambda new, old: self._at_ends(done, old, new), now, last)

    def _at_ends(self, done: Tensor, ended: Tensor, others: Tensor) -> Tensor:
        """Rows of `ended` in the worlds that are done, and of the others in the rest."""
        if ended.shape != others.shape:
            raise UserError(
                f"Last observations must be there for all worlds, with shape {list(others.shape)}; found {list(ended.shape)}."
            )
        return torch.where(done.to(self.device).view(-1, *[1] * (others.dim() - 1)), ended, others)

    def _vector_rewards(self, rewards: Tensor) -> Tensor:
        """Rewards `[n, m]` in float32."""
        found = rewards.unsqueeze(1) if rewards.dim() == 1 and self.reward_dim == 1 else rewards
        if found.shape != (self.num_envs, self.reward_dim):
            raise UserError(
                f"Rewards must have a column for each of {', '.join(self.objectives)}: shape "
                f"{[self.num_envs, self.reward_dim]}; found {list(rewards.shape)}."
            )
        return found.float()

    def _seen(self, obs: Any) -> Obs:
        self._last_obs = self._to_device(self._part(obs))
        return self._last_obs

    def _to_device(self, obs: Any) -> Obs:
        return map_obs(lambda part: part.to(self.device), obs)

    def _part(self, whole: Any) -> Any:
        """Of a dictionary of observations, or of its space, what the policy sees."""
        if not self._group:
            return whole
        try:
            return whole[self._group]
        except (IndexError, KeyError, TypeError):
            found = ", ".join(whole) if hasattr(whole, "keys") else "none"
            raise UserError(
                f"Observations have no group {self._group!r}; found {found}: name another one (group=...)."
            ) from None

    def close(self) -> None:
        """Closes the environment."""
        if hasattr(self.env, "close"):
            self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The environment's attribute, for each world asked for; its `render_mode` is None where it says nothing of one."""
        default = (None,) if attr_name == "render_mode" else ()
        return [getattr(self._base, attr_name, *default)] * len(self._get_indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets the environment's attribute, for all worlds."""
        self._refuse_some(indices)
        setattr(self._base, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls the environment's method once, for all worlds; its answer for each of them."""
        self._refuse_some(indices)
        return [getattr(self._base, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """False: a world has no wrapper of its own."""
        return [False for _ in self._get_indices(indices)]

    def _refuse_some(self, indices: Any) -> None:
        if self._get_indices(indices) != list(range(self.num_envs)):
            raise UserError("All worlds are one environment: leave out indices.")


def gym_space(space: Any) -> spaces.Space:
    """A space as Gymnasium's own, also one of a simulator's that only looks like it (mjlab's have `shape`, `low`, `high`).

    Raises:
        UserError: If it is neither.
    """
    if isinstance(space, spaces.Space):
        return space
    if hasattr(space, "spaces"):
        return spaces.Dict({key: gym_space(part) for key, part in space.spaces.items()})
    if not all(hasattr(space, name) for name in ("shape", "low", "high")):
        raise UserError(f"A space is one of Gymnasium's, or has shape, low and high; found {space!r}.")
    dtype = np.dtype(getattr(space, "dtype", "float32"))
    low, high = (np.broadcast_to(np.asarray(bound, dtype), space.shape) for bound in (space.low, space.high))
    return spaces.Box(low, high, tuple(space.shape), dtype.type)


def _bounded(space: spaces.Space) -> spaces.Space:
    if not isinstance(space, spaces.Box) or space.is_bounded():
        return space
    return spaces.Box(space.low.clip(min=-_UNBOUNDED), space.high.clip(max=_UNBOUNDED), space.shape, space.dtype.type)


def _space_of(env: Any, name: str) -> Any:
    found = getattr(env, f"single_{name}", None) or getattr(env, name, None)
    if found is None:
        raise UserError(f"The environment has no single_{name}: give it one, or TensorVecEnvAdapter(env, ..., {name}=...).")
    return found


def has_tensor_worlds(env: Any) -> bool:
    """Whether this is one environment of several worlds."""
    return not isinstance(env, type) and hasattr(getattr(env, "unwrapped", env), "num_envs")
