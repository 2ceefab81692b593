"""What a task is: pure torch functions of the worlds' state, the same for every backend that steps them.

`Rules` is the contract; a `Task` has MuJoCo's physics for its state, a `dibs_rl.envs.torch_tasks.TorchTask` one of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

_NOT_BOUND = torch.empty(0)


class Robot(NamedTuple):
    """What is constant about a robot's model.

    Attributes:
        init_qpos: Joint positions the model starts from, `[nq]`.
        init_qvel: Joint velocities the model starts from, `[nv]`.
        body_mass: Masses in kg, `[nbody]`.
        bodies: Index of each body by its name.
        dt: Seconds between two actions.
    """

    init_qpos: Tensor
    init_qvel: Tensor
    body_mass: Tensor
    bodies: Mapping[str, int]
    dt: float


class Physics(NamedTuple):
    """State of n worlds in MuJoCo's fields and units; only those among a task's `fields` are filled.

    As after `mj_step`, what is derived from positions (`xpos`, `xipos`, `cinert`, `cvel`) lags one substep behind `qpos`.

    Attributes:
        qpos: Joint positions, `[n, nq]`, in m and rad.
        qvel: Joint velocities, `[n, nv]`, in m/s and rad/s.
        ctrl: Controls, `[n, nu]`.
        xpos: Positions of the bodies' frames, `[n, nbody, 3]`, in m.
        xipos: Positions of the bodies' centres of mass, `[n, nbody, 3]`, in m.
        cinert: Bodies' inertia and mass about the robot's centre of mass, `[n, nbody, 10]`.
        cvel: Bodies' velocities, rotation before translation, `[n, nbody, 6]`.
        qfrc_actuator: Actuators' forces on the joints, `[n, nv]`.
        cfrc_ext: Contact forces on the bodies, torque before force, `[n, nbody, 6]`.
    """

    qpos: Tensor
    qvel: Tensor
    ctrl: Tensor = _NOT_BOUND
    xpos: Tensor = _NOT_BOUND
    xipos: Tensor = _NOT_BOUND
    cinert: Tensor = _NOT_BOUND
    cvel: Tensor = _NOT_BOUND
    qfrc_actuator: Tensor = _NOT_BOUND
    cfrc_ext: Tensor = _NOT_BOUND

    def worlds(self, index: Tensor) -> "Physics":
        """Some of the worlds, copied."""
        return Physics(*(part if part is _NOT_BOUND else part[index] for part in self))


class UniformNoise(Protocol):
    """Random numbers for k worlds, those that start an episode mostly; successive calls go on in each world's own stream."""

    def __len__(self) -> int:
        """How many worlds, k."""

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        """Uniform numbers `[k, size]`."""


class Noise(UniformNoise, Protocol):
    """The same with normal numbers."""

    def standard_normal(self, size: int) -> Tensor:
        """Standard normal numbers `[k, size]`."""


def uniform_start(robot: Robot, noise: Noise, scale: float) -> tuple[Tensor, Tensor]:
    """The model's positions and velocities with uniform noise in +-scale, in their units: m, rad, m/s, rad/s."""
    qpos = robot.init_qpos + noise.uniform(-scale, scale, len(robot.init_qpos))
    return qpos, robot.init_qvel + noise.uniform(-scale, scale, len(robot.init_qvel))


def normal_velocity_start(robot: Robot, noise: Noise, scale: float) -> tuple[Tensor, Tensor]:
    """The same with normal noise of that standard deviation on the velocities."""
    qpos = robot.init_qpos + noise.uniform(-scale, scale, len(robot.init_qpos))
    return qpos, robot.init_qvel + scale * noise.standard_normal(len(robot.init_qvel))


def planar_observation(physics: Physics, greatest_speed: float) -> Tensor:
    """Positions but for x, and velocities clipped to +-`greatest_speed`, `[n, nq - 1 + nv]`."""
    return torch.cat([physics.qpos[:, 1:], physics.qvel.clamp(-greatest_speed, greatest_speed)], dim=1)


Model = TypeVar("Model")
State = TypeVar("State")


class Rules(ABC, Generic[Model, State]):
    """What n worlds are observed to be, what they earn and when they end: functions of what is constant and of their state."""

    @abstractmethod
    def observe(self, model: Model, state: State, /) -> Tensor:
        """Observations `[n, d]`."""

    def remember(self, model: Model, state: State, /) -> Any:
        """What the reward needs of the state before the step, copied."""
        return None

    @abstractmethod
    def reward(self, model: Model, before: Any, state: State, actions: Tensor, /) -> Tensor:
        """Rewards `[n, m]` in float32, of what was remembered, the state after the step, and the actions."""

    @abstractmethod
    def terminated(self, model: Model, state: State, /) -> Tensor:
        """Whether the task's own rules end the episode, `[n]` bool."""


class Task(Rules[Robot, Physics]):
    """One of MO-Gymnasium's robots, whose state is MuJoCo's.

    Attributes:
        objectives: Names of the reward's m components.
        fields: The fields of `Physics` that the functions read.
    """

    objectives: tuple[str, ...]
    fields: tuple[str, ...] = ("qpos", "qvel")

    @abstractmethod
    def start(self, robot: Robot, noise: Noise) -> tuple[Tensor, Tensor]:
        """Positions `[k, nq]` and velocities `[k, nv]` that k episodes start from."""

    def controls(self, actions: Tensor) -> Tensor:
        """Controls `[n, nu]` of actions `[n, ...]`."""
        return actions

    def remember(self, robot: Robot, physics: Physics) -> Tensor:
        """Where the root is along x before the step, `[n]`, in m."""
        return physics.qpos[:, 0].clone()

    def terminated(self, robot: Robot, physics: Physics) -> Tensor:
        """Never, if a robot does not say otherwise."""
        return torch.zeros(len(physics.qpos), dtype=torch.bool, device=physics.qpos.device)
