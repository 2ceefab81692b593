"""The `gym` backend: any Gymnasium environment with a vector reward, in this process or in worker processes.

Worlds write into shared arrays: observations, rewards and flags are copied once, and no dictionary per world crosses a
process border except the last `info` of an episode.
"""

import multiprocessing
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dibs_rl import sync
from dibs_rl.envs.scaling import transform_rewards
from dibs_rl.envs.workers import LocalHost, WorkerHost
from dibs_rl.envs.worlds import EnvFactory, Worlds, WorldSetup, array_views, local_arrays, shared_memory
from dibs_rl.vec_env import Obs, Step, VectorRewardVecEnv, map_obs


class GymVecEnv(VectorRewardVecEnv):
    """Gymnasium environments stepped one by one, in this process (`workers=0`) or in worker processes.

    Args:
        factories: One function a world, returning an environment whose reward is a vector or whose info holds one under
            `"vector_reward"` (as MO-Gymnasium's `LinearReward` does).
        setup: Spaces and objectives, as `probe` found them.
        workers: Worker processes; the worlds are dealt out evenly. 0 steps them here.
        device: Where the tensors are wanted.
        seed: World i's first episode is seeded with `seed + i`; None leaves it to the environments.
    """

    backend = "gym"

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        setup: WorldSetup,
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        n = len(factories)
        hosts = max(1, min(workers, n))
        self._groups = [range(n)[i::hosts] for i in range(hosts)]
        self._hosts: list[LocalHost | WorkerHost]
        if workers == 0:
            self._arrays = local_arrays(setup, n)
            self._hosts = [LocalHost(Worlds(factories, setup, range(n), self._arrays))]
        else:
            context = _process_context()
            memory = shared_memory(setup, n, context)
            self._arrays = array_views(setup, memory, n)
            self._hosts = [WorkerHost(context, factories, setup, group, memory) for group in self._groups]
        super().__init__(n, setup.observation_space, setup.action_space, setup.objectives, device)
        transform_rewards(self, setup.transform)
        if seed is not None:
            self.seed(seed)

    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Obs:
        self._call_all("reset", [([seeds[i] for i in group], [options[i] for i in group]) for group in self._groups])
        return self._tensors(self._arrays.obs)

    def _step_worlds(self, actions: Tensor) -> Step:
        given = actions.cpu().numpy().reshape(self._arrays.actions.shape)
        # A Bernoulli policy samples the floats 0 and 1; nothing else may lose digits on its way to the worlds.
        if isinstance(self.action_space, spaces.MultiBinary):
            given = given.astype(self.action_space.dtype)
        np.copyto(self._arrays.actions, given)
        self.own_infos = {i: info for found in self._call_all("step") for i, info in found}
        a = self._arrays
        return Step(*map(self._tensors, (a.obs, a.reward, a.terminated, a.truncated, a.final_obs)))

    def close(self) -> None:
        """Closes the environments and ends the worker processes."""
        for host in self._hosts:
            host.close()
        self._hosts = []

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each world asked for."""
        return self._ask("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets the attribute in each world named."""
        self._ask("set_attr", indices, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls the method of each world named."""
        return self._ask("env_method", indices, method_name, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Whether each world named has this Gymnasium wrapper."""
        return self._ask("is_wrapped", indices, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture of each world."""
        return self.env_method("render")

    def _tensors(self, arrays: Any) -> Any:
        return map_obs(lambda array: sync.send(torch.from_numpy(array), self.device), arrays)

    def _call_all(self, method: str, arguments: Sequence[tuple] | None = None) -> list[Any]:
        """Lets all hosts work at once, then gathers what they answer."""
        for i, host in enumerate(self._hosts):
            host.send(method, *(arguments[i] if arguments else ()))
        answers, errors = [], []
        for host in self._hosts:
            try:
                answers.append(host.receive())
            except Exception as error:  # the other hosts' answers must leave their pipes first
                errors.append(error)
        if errors:
            raise errors[0]
        return answers

    def _ask(self, method: str, indices: Any, *arguments: Any) -> list[Any]:
        wanted = self._get_indices(indices)
        answers: dict[int, Any] = {}
        for host, group in zip(self._hosts, self._groups, strict=True):
            mine = [i for i in wanted if i in group]
            if mine:
                host.send(method, mine, *arguments)
                answers.update(zip(mine, host.receive(), strict=True))
        return [answers[i] for i in wanted]


def _process_context() -> Any:
    """Fresh processes: forked from a server that has the imports done, where the system can do that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dibs_rl.envs.workers"])
    return context
