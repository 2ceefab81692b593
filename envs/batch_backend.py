"""The `batch` backend: MuJoCo steps all worlds at once in its own threads, and a task's torch functions do the rest.

Observations, rewards and ends of episodes equal MO-Gymnasium's own bit for bit, seeded resets included; only mo-reacher's
observed sines and cosines may differ in the last place of float64, since NumPy and torch compute them by different code.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch
from torch import Tensor

from dibs_rl.envs.rules_vec_env import RulesVecEnv
from dibs_rl.envs.tasks import Physics, Robot, Task

_CONTACT_FORCES = "cfrc_ext"  # the one field that a step does not compute


def batch_installed() -> bool:
    """Whether the MuJoCo that is installed steps batches (3.17 and newer do)."""
    return importlib.util.find_spec("mujoco.batch") is not None


class BatchVecEnv(RulesVecEnv):
    """A MuJoCo task in n worlds, stepped by `mujoco.batch.Batch`.

    Args:
        env: One of MO-Gymnasium's environments of the task: its model, spaces, frame skip and time limit are taken.
        task: What is observed and rewarded.
        num_envs: Worlds n.
        threads: Threads that step them; 0 takes one a core.
        device: Where the tensors are wanted.
        seed: World i's first episode is seeded with `seed + i`, as MO-Gymnasium's own would be; None draws at random.
    """

    backend = "batch"
    _rules: Task

    def __init__(
        self,
        env: gym.Env,
        task: Task,
        num_envs: int,
        *,
        threads: int = 0,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        from mujoco.batch import Batch

        base: Any = env.unwrapped
        self._frame_skip = base.frame_skip
        self._model = robot_of(base)
        # Contact forces need the whole state of a world, contacts included, after the step.
        self._with_forces = _CONTACT_FORCES in task.fields
        self._batch = Batch(base.model, num_envs, threads, persistent=self._with_forces)
        self._data = mujoco.MjData(base.model)
        self._forces = np.zeros((num_envs, base.model.nbody, 6))
        self._physics = self._bind(task.fields)
        self._controls = torch.from_numpy(self._batch.bind("ctrl"))
        self._generators: list[np.random.Generator] = [np.random.default_rng() for _ in range(num_envs)]
        super().__init__(env, task, num_envs, task.objectives, device=device, seed=seed)

    def _bind(self, fields: Sequence[str]) -> Physics:
        """Live views of the worlds' state."""
        arrays = {name: self._forces if name == _CONTACT_FORCES else self._batch.bind(name) for name in fields}
        return Physics(**{name: _view(array) for name, array in arrays.items()})

    def _state(self, worlds: Tensor | None = None) -> Physics:
        return self._physics if worlds is None else self._physics.worlds(worlds)

    def _seed_worlds(self, seeds: list[int | None]) -> None:
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i], _ = gym.utils.seeding.np_random(seed)

    def _advance(self, actions: Tensor) -> None:
        self._controls.copy_(self._rules.controls(actions))
        self._batch.step(nstep=self._frame_skip)
        if self._with_forces:
            self._compute_forces()

    def _start_episodes(self, done: Tensor) -> None:
        worlds = done.nonzero().flatten().numpy()
        if not len(worlds):
            return
        qpos, qvel = self._rules.start(self._model, _WorldNoise([self._generators[i] for i in worlds]))
        self._batch.reset(worlds, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._physics.qpos[worlds] = qpos
        self._physics.qvel[worlds] = qvel
        self._batch.forward(worlds)
        self._forces[worlds] = 0

    def _compute_forces(self) -> None:
        """Contact forces on the bodies, as Gymnasium computes them after each step."""
        model, data = self._env.unwrapped.model, self._data  # type: ignore[attr-defined]
        for i in range(self.num_envs):
            self._batch.get_data(i, data)
            mujoco.mj_rnePostConstraint(model, data)
            self._forces[i] = data.cfrc_ext


class _WorldNoise:
    """Numbers from a generator for each world, in the order in which Gymnasium draws them."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        return torch.from_numpy(np.stack([generator.uniform(low, high, size) for generator in self._generators]))

    def standard_normal(self, size: int) -> Tensor:
        return torch.from_numpy(np.stack([generator.standard_normal(size) for generator in self._generators]))


def robot_of(env: Any, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Robot:
    """What is constant about the robot of one of MO-Gymnasium's environments, as tensors of a type, on a device."""
    model = env.model
    bodies = {model.body(i).name: i for i in range(model.nbody)}
    arrays = (env.init_qpos, env.init_qvel, model.body_mass)
    init_qpos, init_qvel, body_mass = (torch.tensor(array, dtype=dtype, device=device) for array in arrays)
    return Robot(init_qpos, init_qvel, body_mass, bodies, env.dt)


def _view(array: np.ndarray) -> Tensor:
    """A tensor on the array's memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # what MuJoCo computes is only read here
        return torch.from_numpy(array)
