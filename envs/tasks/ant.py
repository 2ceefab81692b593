"""Ant-v5: four legs in three dimensions, with contact forces in the observation."""

import torch
from torch import Tensor

from dibs_rl.envs.tasks.numpy_order import add_to_all, energy, sum_rows, vector_reward
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Task, normal_velocity_start

_RESET_NOISE = 0.1  # in the units of positions and velocities
_CONTROL_COST = 0.5  # Gymnasium's weight, which MO-Gymnasium divides out where energy is an objective
_CONTACT_COST = 5e-4
_GREATEST_CONTACT_FORCE = 1.0  # N and N m
_ALIVE = 1.0  # reward a step
_LEAST_Z, _GREATEST_Z = 0.2, 1.0  # m
_TORSO = 1


class Ant(Task):
    """Rewards, each with +1 while it stands and minus 0.0005 times the sum of squared, clipped contact forces.

    - 0, `x_velocity`: velocity of the torso along x in m/s.
    - 1, `y_velocity`: velocity of the torso along y in m/s.
    - 2, `energy`: minus the sum of squared actions; without this objective half of it is added to the others.

    Gymnasium's scalar reward is `x_velocity + 0.5 * energy` but for the multiples of what is in each.

    Args:
        energy: Whether energy is an objective.
    """

    fields = ("qpos", "qvel", "xpos", "cfrc_ext")

    def __init__(self, *, energy: bool = True) -> None:
        self.objectives = ("x_velocity", "y_velocity", "energy") if energy else ("x_velocity", "y_velocity")

    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """Uniform noise on positions, normal noise on velocities."""
        return normal_velocity_start(robot, noise, _RESET_NOISE)

    def observe(self, robot: Robot, physics: Physics) -> Tensor:
        """Positions but for x and y, velocities, and the clipped contact forces on the bodies but the world."""
        forces = _contact_forces(physics)[:, 1:].flatten(1)
        return torch.cat([physics.qpos[:, 2:], physics.qvel, forces], dim=1)

    def remember(self, robot: Robot, physics: Physics) -> Tensor:
        """Position along x and y of the torso in m."""
        return physics.xpos[:, _TORSO, :2].clone()

    def reward(self, robot: Robot, before: Tensor, physics: Physics, actions: Tensor) -> Tensor:
        """See the class."""
        x_velocity, y_velocity = ((physics.xpos[:, _TORSO, :2] - before) / robot.dt).unbind(dim=1)
        if len(self.objectives) == 3:
            reward = vector_reward(x_velocity, y_velocity, energy(actions, _CONTROL_COST))
        else:
            reward = add_to_all(vector_reward(x_velocity, y_velocity), -_CONTROL_COST * sum_rows(actions.square()))
        reward = add_to_all(reward, _ALIVE * ~self.terminated(robot, physics))
        return add_to_all(reward, -_CONTACT_COST * sum_rows(_contact_forces(physics).flatten(1).square()))

    def terminated(self, robot: Robot, physics: Physics) -> Tensor:
        """Where the torso is too low or too high, or a number is not finite."""
        z = physics.qpos[:, 2]
        finite = torch.cat([physics.qpos, physics.qvel], dim=1).isfinite().all(dim=1)
        return ~(finite & (z >= _LEAST_Z) & (z <= _GREATEST_Z))


def _contact_forces(physics: Physics) -> Tensor:
    return physics.cfrc_ext.clamp(-_GREATEST_CONTACT_FORCE, _GREATEST_CONTACT_FORCE)
