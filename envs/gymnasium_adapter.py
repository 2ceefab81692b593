"""Vector environments of Gymnasium's and MO-Gymnasium's as vector-reward environments."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Wrapper
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from dibs_rl.envs.first_look import REWARD_KEY, check_first_action
from dibs_rl.envs.registry import objective_names
from dibs_rl.envs.sb3_adapter import SCALAR_ONLY
from dibs_rl.envs.scaling import UNTRANSFORMED_KEY
from dibs_rl.envs.worlds import channels_first_space, has_wrapper, turn_images
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Obs, Step, VectorRewardVecEnv, map_obs


class GymnasiumVecEnvAdapter(VectorRewardVecEnv):
    """Wraps a vector environment of Gymnasium's or MO-Gymnasium's, whatever it does when an episode ends.

    With next-step autoreset (Gymnasium's default, and all that `MOSyncVectorEnv` has) the step after an episode's end ignores
    its action and gives the first observation with a reward of 0: a transition that no policy made. Here the worlds whose
    episode ended are reset at once instead, by Gymnasium's partial reset, so that no such transition is ever seen:
    observations, rewards and ends are those of the worlds stepped one by one.

    Args:
        envs: Its reward is an array `[n, m]`, or its infos hold one under `"vector_reward"`.
        objectives: Names of the m rewards; taken from the environment where it says them.
        device: Where the tensors are wanted.

    Raises:
        UserError: If neither names nor a `reward_space` say what m is, or its ended episodes cannot be reset by themselves.
    """

    backend = "gymnasium"

    def __init__(self, envs: VectorEnv, objectives: Sequence[str] | None = None, device: torch.device | str = "cpu") -> None:
        self.envs = envs
        self._asked: Any = envs.unwrapped  # what it can be asked depends on its kind, and wrappers pass nothing on
        self._resets_itself = _resets_in_the_same_step(envs)
        actions = envs.single_action_space
        check_first_action(actions)
        names = tuple(objectives) if objectives else self._names()
        super().__init__(envs.num_envs, channels_first_space(envs.single_observation_space), actions, names, device)

    def _names(self) -> tuple[str, ...]:
        if hasattr(self._asked, "objectives"):
            return tuple(self._asked.objectives)
        if self.has_attr("objectives"):
            return tuple(self._asked.get_attr("objectives")[0])
        reward_space = getattr(self._asked, "reward_space", None)
        if reward_space is None and self.has_attr("reward_space"):
            reward_space = self._asked.get_attr("reward_space")[0]
        shape = getattr(reward_space, "shape", None)
        if not shape:
            raise UserError(
                "The vector environment does not say what its rewards are: give its worlds a reward_space of shape [m] and "
                f"rewards [m], or infos with {REWARD_KEY!r}; or wrap it in GymnasiumVecEnvAdapter(envs, objectives=[...])."
            )
        spec = self._asked.get_attr("spec")[0] if self.has_attr("spec") else None
        return objective_names(spec.id if spec else None, shape[0])

    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Obs:
        if any(option != options[0] for option in options):
            raise UserError("Gymnasium's vector environments are reset with the same options in every world.")
        seed = None if seeds[0] is None else int(seeds[0])  # world i takes seed + i there too
        obs, _ = self.envs.reset(seed=seed, options=dict(options[0]) or None)
        return self._tensors(obs)

    def _step_worlds(self, actions: Tensor) -> Step:
        obs, rewards, terminated, truncated, infos = self._step_envs(actions)
        reward = torch.as_tensor(self._vector_rewards(rewards, infos), device=self.device)
        before = self._in_infos(UNTRANSFORMED_KEY, infos)
        self.counted = None if before is None else torch.as_tensor(before, device=self.device)
        now = self._tensors(obs)
        final = map_obs(torch.clone, now)
        done = terminated | truncated
        last_infos = infos.get("final_info", {}) if self._resets_itself else infos
        self.own_infos = {i: _info_of(last_infos, i) for i in np.flatnonzero(done).tolist()}
        if self._resets_itself:
            for i in self.own_infos:
                map_obs(lambda stored, last, i=i: stored[i].copy_(last), final, self._tensors(infos["final_obs"][i]))
        elif done.any():
            first, _ = self.envs.reset(options={"reset_mask": done})
            now = map_obs(lambda new, last: _where_rows(done, new, last), self._tensors(first), final)
        ends = [torch.as_tensor(flag, device=self.device) for flag in (terminated, truncated)]
        return Step(now, reward, ends[0], ends[1], final)

    def _step_envs(self, actions: Tensor) -> Any:
        space = self.envs.action_space
        given = actions.cpu().numpy().reshape(space.shape).astype(space.dtype, copy=False)
        try:
            return self.envs.step(given)
        except (TypeError, ValueError) as error:
            if not any(words in str(error) for words in SCALAR_ONLY):
                raise
            raise UserError(
                "Gymnasium's vector environments keep one number a world: take MO-Gymnasium's MOSyncVectorEnv or "
                "MOAsyncVectorEnv, or wrap each environment in its LinearReward, which leaves the vector in "
                f"info[{REWARD_KEY!r}]."
            ) from error

    def _vector_rewards(self, rewards: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
        """The rewards `[n, m]`: the step's own, or those in its infos."""
        shape = (self.num_envs, self.reward_dim)
        found = np.asarray(rewards, dtype=np.float32) if np.ndim(rewards) == 2 else self._in_infos(REWARD_KEY, infos)
        if found is None or found.shape != shape:
            raise UserError(
                f"The vector environment gives a scalar reward: its step() must return rewards of shape {list(shape)}, or "
                f"each info a vector under {REWARD_KEY!r}."
            )
        return found

    def _in_infos(self, key: str, infos: dict[str, Any]) -> np.ndarray | None:
        """What each world's info has under a key, `[n, m]`; an ended world's may have moved aside. None if one has none."""
        found, seen = np.zeros((self.num_envs, self.reward_dim), np.float32), np.zeros(self.num_envs, bool)
        for source in (infos, infos.get("final_info", {})):
            if key in source and np.shape(source[key]) == found.shape:
                has = source[f"_{key}"]
                found[has] = source[key][has]
                seen |= has
        return found if seen.all() else None

    def _tensors(self, obs: Any) -> Obs:
        turned = turn_images(obs, self.envs.single_observation_space)
        return map_obs(lambda part: torch.as_tensor(part, device=self.device), turned)

    def close(self) -> None:
        """Closes the wrapped environment."""
        self.envs.close()

    def has_attr(self, attr_name: str) -> bool:
        """Whether all worlds have the attribute. They are asked first: a worker process does not survive a missing one."""
        if not hasattr(self._asked, "call"):
            return hasattr(self._asked, attr_name)
        return all(self._asked.call("has_wrapper_attr", attr_name))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each world asked for; of the vector environment itself where worlds cannot be asked."""
        if not self.has_attr(attr_name):
            raise AttributeError(f"The worlds have no attribute {attr_name!r}.")
        asks = hasattr(self._asked, "get_attr")
        values = self._asked.get_attr(attr_name) if asks else [getattr(self._asked, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets the attribute in each world named."""
        named = set(self._get_indices(indices))
        values = [value] * self.num_envs
        if len(named) < self.num_envs:
            values = [value if i in named else old for i, old in enumerate(self.get_attr(attr_name))]
        self._asked.set_attr(attr_name, values)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls the method of every world; Gymnasium has no way to call that of some."""
        if self._get_indices(indices) != list(range(self.num_envs)):
            raise UserError("Gymnasium's vector environments call a method of all worlds at once: leave out indices.")
        if not self.has_attr(method_name):
            raise AttributeError(f"The worlds have no attribute {method_name!r}.")
        return list(self._asked.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: type[Wrapper], indices: Any = None) -> list[bool]:
        """Whether each world named has this Gymnasium wrapper; False where worlds are in other processes."""
        worlds = getattr(self._asked, "envs", None)
        return [worlds is not None and has_wrapper(worlds[i], wrapper_class) for i in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture of each world."""
        return self._asked.render() or [None] * self.num_envs


def _resets_in_the_same_step(envs: VectorEnv) -> bool:
    """Whether the environment starts the next episode in the step that ends one; if not, whether it can be made to."""
    mode = envs.metadata.get("autoreset_mode")
    if mode is None:
        raise UserError(
            "The vector environment does not say what it does when an episode ends: set metadata['autoreset_mode']."
        )
    if AutoresetMode(mode) is AutoresetMode.SAME_STEP:
        return True
    base = envs.unwrapped
    if AutoresetMode(mode) is AutoresetMode.NEXT_STEP and not isinstance(base, SyncVectorEnv | AsyncVectorEnv):
        raise UserError(
            f"{type(base).__name__} resets worlds in the step after an episode's end, which puts a transition into the data "
            "that no policy made: make it with autoreset_mode=AutoresetMode.SAME_STEP."
        )
    if isinstance(base, AsyncVectorEnv) and not base.shared_memory:
        raise UserError(
            "Worlds without shared memory forget that they have been reset: make the environment with shared_memory=True or "
            "autoreset_mode=AutoresetMode.SAME_STEP."
        )
    return False


def _info_of(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """The info of one world out of Gymnasium's dictionary of arrays."""
    return {
        key: _info_of(value, i) if isinstance(value, dict) else value[i]
        for key, value in infos.items()
        if not key.startswith("_") and (f"_{key}" not in infos or infos[f"_{key}"][i])
    }


def _where_rows(rows: np.ndarray, new: Tensor, old: Tensor) -> Tensor:
    mask = torch.as_tensor(rows, device=old.device).view(-1, *[1] * (old.dim() - 1))
    return torch.where(mask, new, old)
