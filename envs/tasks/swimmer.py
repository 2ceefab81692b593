"""Swimmer-v5: three links in a viscous fluid."""

import torch
from torch import Tensor

from dibs_rl.envs.tasks.numpy_order import energy, vector_reward
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Task, uniform_start

_RESET_NOISE = 0.1  # in the units of positions and velocities
_CONTROL_COST = 1e-4  # Gymnasium's weight, which MO-Gymnasium divides out again


class Swimmer(Task):
    """Rewards.

    - 0, `forward`: velocity of the head along x in m/s.
    - 1, `energy`: minus the sum of squared actions.

    Gymnasium's scalar reward is `forward + 0.0001 * energy`.
    """

    objectives = ("forward", "energy")

    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """Uniform noise on positions and velocities."""
        return uniform_start(robot, noise, _RESET_NOISE)

    def observe(self, robot: Robot, physics: Physics) -> Tensor:
        """Positions but for x and y, and velocities."""
        return torch.cat([physics.qpos[:, 2:], physics.qvel], dim=1)

    def reward(self, robot: Robot, before: Tensor, physics: Physics, actions: Tensor) -> Tensor:
        """See the class."""
        return vector_reward((physics.qpos[:, 0] - before) / robot.dt, energy(actions, _CONTROL_COST))
