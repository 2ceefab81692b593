"""Humanoid-v5: seventeen actuated joints in three dimensions, with inertia and forces in the observation."""

import torch
from torch import Tensor

from dibs_rl.envs.tasks.numpy_order import add_to_all, energy, sum_rows, vector_reward
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Task, uniform_start

_RESET_NOISE = 1e-2  # in the units of positions and velocities
_CONTROL_COST = 0.1  # Gymnasium's weight, which MO-Gymnasium divides out again
_CONTACT_COST = 5e-7
_GREATEST_CONTACT_COST = 10.0
_ALIVE = 5.0  # reward a step
_LEAST_Z, _GREATEST_Z = 1.0, 2.0  # m
_FREE_JOINT = 6  # velocities of the root, which no actuator moves


class Humanoid(Task):
    """Rewards, each with +5 while it stands and minus a cost of contact forces of at most 10.

    - 0, `forward`: velocity of the centre of mass along x in m/s.
    - 1, `energy`: minus the sum of squared actions.

    Gymnasium's scalar reward is `1.25 * forward + 0.1 * energy` but for the multiples of what is in each.
    """

    objectives = ("forward", "energy")
    fields = ("qpos", "qvel", "ctrl", "xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")

    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """Uniform noise on positions and velocities."""
        return uniform_start(robot, noise, _RESET_NOISE)

    def observe(self, robot: Robot, physics: Physics) -> Tensor:
        """Positions but for x and y, velocities, inertia, body velocities, actuator forces, and contact forces."""
        of_bodies = [part[:, 1:].flatten(1) for part in (physics.cinert, physics.cvel, physics.cfrc_ext)]
        inertia, velocities, contact_forces = of_bodies
        actuators = physics.qfrc_actuator[:, _FREE_JOINT:]
        return torch.cat([physics.qpos[:, 2:], physics.qvel, inertia, velocities, actuators, contact_forces], dim=1)

    def remember(self, robot: Robot, physics: Physics) -> Tensor:
        """Position along x of the centre of mass in m."""
        return _centre_of_mass_x(robot, physics)

    def reward(self, robot: Robot, before: Tensor, physics: Physics, actions: Tensor) -> Tensor:
        """See the class."""
        forward = (_centre_of_mass_x(robot, physics) - before) / robot.dt
        contact_cost = _CONTACT_COST * sum_rows(physics.cfrc_ext.flatten(1).square())
        reward = vector_reward(forward, energy(physics.ctrl, _CONTROL_COST))
        reward = add_to_all(reward, _ALIVE * ~self.terminated(robot, physics))
        return add_to_all(reward, -contact_cost.clamp(max=_GREATEST_CONTACT_COST))

    def terminated(self, robot: Robot, physics: Physics) -> Tensor:
        """Where the torso is too low or too high."""
        z = physics.qpos[:, 2]
        return ~((z > _LEAST_Z) & (z < _GREATEST_Z))


def _centre_of_mass_x(robot: Robot, physics: Physics) -> Tensor:
    # A cumulative sum adds the bodies one after the other, as NumPy's einsum does.
    weighted = (robot.body_mass * physics.xipos[:, :, 0]).cumsum(dim=1)[:, -1]
    return weighted / sum_rows(robot.body_mass.unsqueeze(0))
