"""Hopper-v5: one leg that hops and may fall."""

import torch
from torch import Tensor

from dibs_rl.envs.tasks.numpy_order import add_to_all, energy, sum_rows, vector_reward
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Task, planar_observation, uniform_start

_RESET_NOISE = 5e-3  # in the units of positions and velocities
_CONTROL_COST = 1e-3  # Gymnasium's weight, which MO-Gymnasium divides out where energy is an objective
_ALIVE = 1.0  # reward a step
_HEIGHT = 10.0  # reward a metre
_LEAST_Z = 0.7  # m
_GREATEST_ANGLE = 0.2  # rad
_GREATEST_STATE = 100.0  # of angles and velocities, in rad, m/s and rad/s
_GREATEST_OBSERVED_SPEED = 10.0  # m/s and rad/s


class Hopper(Task):
    """Rewards, each with +1 while it stands.

    - 0, `forward`: velocity along x in m/s.
    - 1, `height`: ten times the height above the start in m.
    - 2, `energy`: minus the sum of squared actions; without this objective a thousandth of it is added to the others.

    Gymnasium's scalar reward is `forward + 0.001 * energy` but for the multiple of +1 while it stands.

    Args:
        energy: Whether energy is an objective.
    """

    def __init__(self, *, energy: bool = True) -> None:
        self.objectives = ("forward", "height", "energy") if energy else ("forward", "height")

    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """Uniform noise on positions and velocities."""
        return uniform_start(robot, noise, _RESET_NOISE)

    def observe(self, robot: Robot, physics: Physics) -> Tensor:
        """Positions but for x, and velocities, clipped."""
        return planar_observation(physics, _GREATEST_OBSERVED_SPEED)

    def reward(self, robot: Robot, before: Tensor, physics: Physics, actions: Tensor) -> Tensor:
        """See the class."""
        forward = (physics.qpos[:, 0] - before) / robot.dt
        height = _HEIGHT * (physics.qpos[:, 1] - robot.init_qpos[1])
        if len(self.objectives) == 3:
            reward = vector_reward(forward, height, energy(actions, _CONTROL_COST))
        else:
            reward = add_to_all(vector_reward(forward, height), -_CONTROL_COST * sum_rows(actions.square()))
        return add_to_all(reward, _ALIVE * ~self.terminated(robot, physics))

    def terminated(self, robot: Robot, physics: Physics) -> Tensor:
        """Where it has fallen or left all bounds."""
        z, angle = physics.qpos[:, 1], physics.qpos[:, 2]
        bounded = (torch.cat([physics.qpos[:, 2:], physics.qvel], dim=1).abs() < _GREATEST_STATE).all(dim=1)
        return ~(bounded & (z > _LEAST_Z) & z.isfinite() & (angle.abs() < _GREATEST_ANGLE))
