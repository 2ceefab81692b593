"""The `torch` backend: small environments whose worlds are rows of tensors, on any device, with MO-Gymnasium's own results.

On the CPU, observations, rewards and ends of episodes equal MO-Gymnasium's bit for bit, seeded resets and enemies' luck
included. On other devices sines, cosines and lengths may differ in the last place of float64.
"""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from dibs_rl.envs.pcg64 import Streams
from dibs_rl.envs.registry import objective_names
from dibs_rl.envs.rules_vec_env import RulesVecEnv
from dibs_rl.envs.torch_tasks import TorchTask


class TorchVecEnv(RulesVecEnv):
    """A task in n worlds, moved on by torch.

    Args:
        env: One of MO-Gymnasium's environments of the task: its spaces, time limit and constants are taken.
        task: How it moves on, and what is observed and rewarded.
        num_envs: Worlds n.
        device: Where they live.
        seed: World i's first episode is seeded with `seed + i`, as MO-Gymnasium's own would be; None draws at random.
    """

    backend = "torch"
    _rules: TorchTask

    def __init__(
        self,
        env: gym.Env,
        task: TorchTask,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        base: Any = env.unwrapped
        self._model = task.model(base, torch.device(device))
        self._streams = Streams(num_envs, device)
        self._worlds = task.start(self._model, self._streams)
        names = objective_names(env.spec.id if env.spec else None, base.reward_dim)
        super().__init__(env, task, num_envs, names, device=device, home=device, seed=seed)

    def _state(self, worlds: Tensor | None = None) -> Any:
        return self._worlds if worlds is None else type(self._worlds)(*(part[worlds] for part in self._worlds))

    def _seed_worlds(self, seeds: list[int | None]) -> None:
        for world, seed in enumerate(seeds):
            if seed is not None:
                self._streams.seed(world, seed)

    def _advance(self, actions: Tensor) -> None:
        self._worlds = self._rules.advance(self._model, self._worlds, actions, self._streams)

    def _start_episodes(self, done: Tensor) -> None:
        worlds = done.nonzero().flatten()
        if not len(worlds):
            return
        begun = zip(self._worlds, self._rules.start(self._model, self._streams.worlds(worlds)), strict=True)
        self._worlds = type(self._worlds)(*(old.index_copy(0, worlds, new) for old, new in begun))
