"""An SB3 `VecEnv` with a vector reward, or one in its infos, as a vector-reward environment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from dibs_rl import sync
from dibs_rl.envs.first_look import REWARD_KEY, check_first_action
from dibs_rl.envs.registry import objective_names
from dibs_rl.envs.scaling import UNTRANSFORMED_KEY
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Endings, Obs, Step, VectorRewardVecEnv, map_obs

SCALAR_ONLY = ("setting an array element with a sequence", "can be converted to Python scalars")


class SB3VecEnvAdapter(VectorRewardVecEnv):
    """Wraps an SB3 `VecEnv`; every world costs a dictionary a step, as it does in SB3.

    Args:
        venv: Its reward is an array `[n, m]`, or each info holds a vector under `"vector_reward"`.
        objectives: Names of the m rewards; taken from the environment where it says them.
        device: Where the tensors are wanted.

    Raises:
        UserError: If neither names nor a `reward_space` say what m is.
    """

    backend = "sb3"

    def __init__(self, venv: VecEnv, objectives: Sequence[str] | None = None, device: torch.device | str = "cpu") -> None:
        self.venv = venv
        check_first_action(venv.action_space)
        names = tuple(objectives) if objectives else names_of(venv)
        self._last_infos: list[dict[str, Any]] = [{} for _ in range(venv.num_envs)]
        super().__init__(venv.num_envs, venv.observation_space, venv.action_space, names, device)
        if isinstance(venv.unwrapped, VectorRewardVecEnv) and venv.unwrapped.active is not None:
            self.active = venv.unwrapped.active.to(self.device)

    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Obs:
        return self._tensors(self.venv.reset())

    def _step_worlds(self, actions: Tensor) -> Step:
        try:
            obs, rewards, dones, infos = self.venv.step(actions.cpu().numpy())
        except (TypeError, ValueError) as error:
            if not any(words in str(error) for words in SCALAR_ONLY):
                raise
            raise UserError(
                "SB3's vector environments keep one number a world: wrap each environment in MO-Gymnasium's LinearReward, "
                f"which leaves the vector in info[{REWARD_KEY!r}], or pass a list of factories instead."
            ) from error
        self._last_infos = list(infos)
        self.own_infos = {i: info for i, (info, done) in enumerate(zip(infos, dones, strict=True)) if done}
        cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        truncated = torch.as_tensor(dones, device=self.device) & torch.tensor(cut, device=self.device)
        done = torch.as_tensor(dones, device=self.device).bool()
        now = self._tensors(obs)
        reward = torch.as_tensor(vector_rewards(rewards, infos, self.reward_dim), device=self.device)
        if isinstance(self.venv.unwrapped, VectorRewardVecEnv) and self.venv.unwrapped.counted is not None:
            self.counted = self.venv.unwrapped.counted.to(self.device)
        elif all(UNTRANSFORMED_KEY in info for info in infos):
            self.counted = torch.as_tensor(np.stack([info[UNTRANSFORMED_KEY] for info in infos]), device=self.device)
        return Step(now, reward, done & ~truncated, truncated, self._final(now, infos))

    def _final(self, obs: Obs, infos: Sequence[dict]) -> Obs:
        final = map_obs(torch.clone, obs)
        for i, info in enumerate(infos):
            if info.get("terminal_observation") is not None:
                last = map_obs(lambda array: torch.as_tensor(array, device=self.device), info["terminal_observation"])
                map_obs(lambda stored, value, i=i: stored[i].copy_(value), final, last)
        return final

    def _count_endings(self, done: Tensor) -> Endings:
        """Under SB3's wrappers one of ours counts its episodes itself, before any transform of its rewards."""
        if not isinstance(self.venv.unwrapped, VectorRewardVecEnv) or not self.own_infos:
            return super()._count_endings(done)
        episodes = [info["episode"] for info in self.own_infos.values()]
        returns = torch.as_tensor(np.stack([episode["r"] for episode in episodes]), device=self.device)
        lengths = torch.tensor([episode["l"] for episode in episodes], device=self.device)
        return Endings(returns, lengths, torch.ones_like(lengths, dtype=torch.bool) if sync.waits(self.device) else None)

    def lazy_infos(self, step: Step) -> list[dict[str, Any]]:
        """The wrapped environment's own infos, with this class's where an episode ended."""
        of_ended = self.episode_infos(step) if self.own_infos else {}
        return [of_ended.get(i, own) for i, own in enumerate(self._last_infos)]

    def _tensors(self, obs: Any) -> Obs:
        return map_obs(lambda array: torch.as_tensor(array, device=self.device), obs)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Passes it on to the wrapped environment, for its next reset."""
        return self.venv.seed(seed)

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        """Passes them on to the wrapped environment, for its next reset."""
        self.venv.set_options(options)

    def close(self) -> None:
        """Closes the wrapped environment."""
        self.venv.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Asks the wrapped environment."""
        return self.venv.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Passes it on to the wrapped environment."""
        self.venv.set_attr(attr_name, value, indices)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Passes it on to the wrapped environment."""
        return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Asks the wrapped environment."""
        return self.venv.env_is_wrapped(wrapper_class, indices)

    def get_images(self) -> Any:
        """Asks the wrapped environment."""
        return self.venv.get_images()


def vector_rewards(rewards: np.ndarray, infos: Sequence[dict[str, Any]], reward_dim: int) -> np.ndarray:
    """The rewards `[n, m]` of a step, float32: its own where they are vectors, or else those in the infos.

    Raises:
        UserError: If they are neither.
    """
    found = rewards if np.ndim(rewards) == 2 else [info.get(REWARD_KEY) for info in infos]
    if any(row is None or np.shape(row) != (reward_dim,) for row in found):
        raise UserError(
            f"The vector environment gives a scalar reward: its step() must return rewards of shape "
            f"[{len(infos)}, {reward_dim}], or each info a vector under {REWARD_KEY!r}."
        )
    return np.asarray(found, dtype=np.float32)


def names_of(venv: VecEnv) -> tuple[str, ...]:
    """Names of a vector environment's rewards: of the outermost wrapper that has any, of its worlds, or the registry's.

    Raises:
        UserError: If neither names nor a `reward_space` say how many rewards there are.
    """
    layer = venv
    while isinstance(layer, VecEnvWrapper):  # asked one by one: SB3 refuses a name that two wrappers have
        if "objectives" in vars(layer):
            return tuple(vars(layer)["objectives"])
        layer = layer.venv
    if hasattr(layer, "objectives"):
        return tuple(layer.objectives)
    if venv.has_attr("objectives"):
        return tuple(venv.get_attr("objectives", 0)[0])
    if not venv.has_attr("reward_space") or not venv.get_attr("reward_space", 0)[0].shape:
        raise UserError(
            "The vector environment does not say what its rewards are: give its worlds a reward_space of shape [m] and let "
            f"step() return rewards [n, m] or infos with {REWARD_KEY!r}; or wrap it in "
            "SB3VecEnvAdapter(venv, objectives=[...])."
        )
    spec = venv.get_attr("spec", 0)[0] if venv.has_attr("spec") else None
    return objective_names(spec.id if spec else None, venv.get_attr("reward_space", 0)[0].shape[0])
