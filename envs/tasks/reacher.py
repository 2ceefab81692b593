"""mo-reacher-v5: an arm of two links among four targets; discrete torques, no way to fail."""

import torch
from torch import Tensor

from dibs_rl.envs.tasks.numpy_order import vector_reward
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Task

_RESET_NOISE = 5e-3  # of the arm's velocities
_UNUSED_NOISE = 0.1  # on positions that are all set; drawn so that the random numbers after it are the same
_START = (0.0, 3.1415 / 2)  # rad
_TARGETS = (0.14, 0.0, -0.14, 0.0, 0.0, 0.14, 0.0, -0.14)  # x and y of each in m
_LINKS = 2
_TORQUES = torch.tensor([-1.0, 0.0, 1.0])
_DISTANCE_COST = 4.0
_OBSERVED_SPEED = 0.1


class Reacher(Task):
    """Rewards: 1 minus four times the distance in m of the fingertip from each of four targets, before the step."""

    objectives = ("target_1", "target_2", "target_3", "target_4")
    fields = ("qpos", "qvel", "xpos")

    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """The arm always starts from the same angles, with uniform noise on its velocities."""
        qpos = noise.uniform(-_UNUSED_NOISE, _UNUSED_NOISE, len(robot.init_qpos)) + robot.init_qpos
        qpos[:, :_LINKS] = torch.tensor(_START, dtype=qpos.dtype, device=qpos.device)
        qpos[:, -len(_TARGETS) :] = torch.tensor(_TARGETS, dtype=qpos.dtype, device=qpos.device)
        qvel = robot.init_qvel + noise.uniform(-_RESET_NOISE, _RESET_NOISE, len(robot.init_qvel))
        qvel[:, -len(_TARGETS) :] = 0
        return qpos, qvel

    def observe(self, robot: Robot, physics: Physics) -> Tensor:
        """Cosines and sines of the two angles, and their velocities in units of 10 rad/s."""
        angles = physics.qpos[:, :_LINKS]
        return torch.cat([angles.cos(), angles.sin(), physics.qvel[:, :_LINKS] * _OBSERVED_SPEED], dim=1)

    def controls(self, actions: Tensor) -> Tensor:
        """Controls `[n, 2]`: action 3 i + j turns the links with torques i - 1 and j - 1."""
        torques = torch.cartesian_prod(_TORQUES, _TORQUES).to(actions.device)
        return torques.index_select(0, actions)  # refuses numbers that are no action

    def remember(self, robot: Robot, physics: Physics) -> Tensor:
        """Distances of the fingertip from the targets, `[n, 4]`, in m."""
        targets = physics.xpos[:, [robot.bodies[f"target{i}"] for i in range(1, 5)], :2]
        apart = physics.xpos[:, [robot.bodies["fingertip"]], :2] - targets
        return apart.square().sum(dim=2).sqrt()

    def reward(self, robot: Robot, before: Tensor, physics: Physics, actions: Tensor) -> Tensor:
        """See the class."""
        return vector_reward(*(1 - _DISTANCE_COST * before).unbind(dim=1))
