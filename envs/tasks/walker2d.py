"""Walker2d-v5: two legs in a plane that walk and may fall."""

from torch import Tensor

from dibs_rl.envs.tasks.numpy_order import add_to_all, energy, vector_reward
from dibs_rl.envs.tasks.task import Noise, Physics, Robot, Task, planar_observation, uniform_start

_RESET_NOISE = 5e-3  # in the units of positions and velocities
_CONTROL_COST = 1e-3  # Gymnasium's weight, which MO-Gymnasium divides out again
_ALIVE = 1.0  # reward a step
_LEAST_Z, _GREATEST_Z = 0.8, 2.0  # m
_GREATEST_ANGLE = 1.0  # rad
_GREATEST_OBSERVED_SPEED = 10.0  # m/s and rad/s


class Walker2d(Task):
    """Rewards, each with +1 while it stands.

    - 0, `forward`: velocity along x in m/s.
    - 1, `energy`: minus the sum of squared actions.

    Gymnasium's scalar reward is `forward + 0.001 * energy` but for the multiple of +1 while it stands.
    """

    objectives = ("forward", "energy")

    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """Uniform noise on positions and velocities."""
        return uniform_start(robot, noise, _RESET_NOISE)

    def observe(self, robot: Robot, physics: Physics) -> Tensor:
        """Positions but for x, and velocities, clipped."""
        return planar_observation(physics, _GREATEST_OBSERVED_SPEED)

    def reward(self, robot: Robot, before: Tensor, physics: Physics, actions: Tensor) -> Tensor:
        """See the class."""
        reward = vector_reward((physics.qpos[:, 0] - before) / robot.dt, energy(actions, _CONTROL_COST))
        return add_to_all(reward, _ALIVE * ~self.terminated(robot, physics))

    def terminated(self, robot: Robot, physics: Physics) -> Tensor:
        """Where it has fallen."""
        z, angle = physics.qpos[:, 1], physics.qpos[:, 2]
        return ~((z > _LEAST_Z) & (z < _GREATEST_Z) & (angle.abs() < _GREATEST_ANGLE))
