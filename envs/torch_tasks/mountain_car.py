"""mo-mountaincar-v0 and its variants with other objectives: a car too weak for the hill has to swing up."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dibs_rl.envs.tasks import UniformNoise
from dibs_rl.envs.tasks.numpy_order import vector_reward
from dibs_rl.envs.torch_tasks.same_bits import cos_sin
from dibs_rl.envs.torch_tasks.torch_task import TorchTask, WorldNoise

_START = (-0.6, -0.4)  # positions, around the valley's bottom at -pi/6
_REVERSE, _COAST, _FORWARD = range(3)
_SPEED_SCALE = 15.0


class Hill(NamedTuple):
    """What is constant: the environment's own numbers, and the push in velocity a step that each action means, `[3]`."""

    env: Any
    pushes: Tensor


class Car(NamedTuple):
    """State of n worlds: position and velocity a step, `[n]` float64."""

    position: Tensor
    velocity: Tensor


class MountainCar(TorchTask[Hill, Car]):
    """Rewards, each of them only where the variant has it.

    - `time`: -1 a step, but 0 at the goal.
    - `reverse`, `forward`: -1 when the engine pushes that way; or `move`: -1 when it pushes.
    - `speed`: 15 times the speed.
    """

    many_worlds = 32

    def model(self, env: Any, device: torch.device) -> Hill:
        """The environment's constants, and which objectives it has."""
        return Hill(env, torch.tensor([(action - 1) * env.force for action in range(3)], dtype=torch.float64, device=device))

    def start(self, model: Hill, noise: UniformNoise) -> Car:
        """At rest around the bottom."""
        position = noise.uniform(*_START, 1).squeeze(1)
        return Car(position, torch.zeros_like(position))

    def advance(self, model: Hill, state: Car, actions: Tensor, noise: WorldNoise) -> Car:
        """Pushed by the engine and pulled by the slope; the left wall stops the car."""
        env = model.env
        pull = cos_sin(3 * state.position)[0] * -env.gravity
        velocity = state.velocity + (model.pushes.index_select(0, actions) + pull)
        velocity = velocity.clamp(-env.max_speed, env.max_speed)
        position = (state.position + velocity).clamp(env.min_position, env.max_position)
        return Car(position, velocity.masked_fill((position == env.min_position) & (velocity < 0), 0.0))

    def observe(self, model: Hill, state: Car) -> Tensor:
        """Position and velocity, float32."""
        return torch.stack(state, dim=1).float()

    def reward(self, model: Hill, before: None, state: Car, actions: Tensor) -> Tensor:
        """See the class."""
        env = model.env
        rewards = [_cost(~self.terminated(model, state))]
        if env.merge_move_penalty and not env.remove_move_penalty:
            rewards.append(_cost(actions != _COAST))
        elif not env.remove_move_penalty:
            rewards += [_cost(actions == _REVERSE), _cost(actions == _FORWARD)]
        if env.add_speed_objective:
            rewards.append(_SPEED_SCALE * state.velocity.abs())
        return vector_reward(*rewards)

    def terminated(self, model: Hill, state: Car) -> Tensor:
        """At the goal."""
        return (state.position >= model.env.goal_position) & (state.velocity >= model.env.goal_velocity)


def _cost(where: Tensor) -> Tensor:
    """-1 where it is so, else 0."""
    return 0.0 - where.float()
