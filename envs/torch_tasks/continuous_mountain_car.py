"""mo-mountaincarcontinuous-v0: the same hill with an engine of any strength, whose fuel is an objective.

MO-Gymnasium keeps the state in float32 except before an episode's first step, and mixes NumPy's float32 with Python's floats,
which are float64 as long as they are among themselves. Here all is float64, rounded where it would be float32 there; rounding
a float64 sum or product of two float32 numbers gives what float32 arithmetic gives.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dibs_rl.envs.tasks import UniformNoise
from dibs_rl.envs.tasks.numpy_order import vector_reward
from dibs_rl.envs.torch_tasks.same_bits import cos_sin
from dibs_rl.envs.torch_tasks.torch_task import TorchTask, WorldNoise

_START = (-0.6, -0.4)  # positions, around the valley's bottom at -pi/6
_GRAVITY = 0.0025  # velocity a step


class Car(NamedTuple):
    """State of n worlds, `[n]`: position and velocity a step, float64; and whether the episode's first step is to come."""

    position: Tensor
    velocity: Tensor
    fresh: Tensor


class ContinuousMountainCar(TorchTask[Any, Car]):
    """Rewards.

    - 0, `time`: -1 a step, but 0 at the goal.
    - 1, `fuel`: minus the squared action.
    """

    def model(self, env: Any, device: torch.device) -> Any:
        """The environment, for its numbers."""
        return env

    def start(self, model: Any, noise: UniformNoise) -> Car:
        """At rest around the bottom."""
        position = noise.uniform(*_START, 1).squeeze(1)
        return Car(position, torch.zeros_like(position), torch.ones_like(position, dtype=torch.bool))

    def advance(self, model: Any, state: Car, actions: Tensor, noise: WorldNoise) -> Car:
        """Pushed by the engine and pulled by the slope; the left wall stops the car."""
        fresh = state.fresh
        velocity = _rounded(state.velocity + _acceleration(model, state, actions[:, 0]), fresh)
        velocity = velocity.clamp(-model.max_speed, model.max_speed)
        position = _rounded(state.position + _rounded(velocity, fresh), fresh)
        position = position.clamp(model.min_position, model.max_position)
        velocity = velocity.masked_fill((position == model.min_position) & (velocity < 0), 0.0)
        return Car(_float32(position), _float32(velocity), torch.zeros_like(fresh))

    def observe(self, model: Any, state: Car) -> Tensor:
        """Position and velocity, float32."""
        return torch.stack([state.position, state.velocity], dim=1).float()

    def reward(self, model: Any, before: None, state: Car, actions: Tensor) -> Tensor:
        """See the class."""
        time = 0.0 - (~self.terminated(model, state)).float()
        return vector_reward(time, -actions[:, 0].double().square())

    def terminated(self, model: Any, state: Car) -> Tensor:
        """At the goal, which is a float32 there."""
        return (state.position.float() >= model.goal_position) & (state.velocity >= model.goal_velocity)


def _acceleration(env: Any, state: Car, force: Tensor) -> Tensor:
    """Engine and slope, `[n]`: a force within its bounds is a float32, and one beyond them makes way for Python's bound."""
    pull = _GRAVITY * cos_sin(_rounded(3 * state.position, state.fresh))[0]
    force = force.double()
    bounded = force.clamp(env.min_action, env.max_action)
    within = _float32(_float32(bounded * float(np.float32(env.power))) - _float32(pull))
    return torch.where(bounded == force, within, _rounded(bounded * env.power - pull, state.fresh))


def _rounded(values: Tensor, fresh: Tensor) -> Tensor:
    """Rounded to float32 but in an episode's first step."""
    return torch.where(fresh, values, _float32(values))


def _float32(values: Tensor) -> Tensor:
    return values.float().double()
