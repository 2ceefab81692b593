"""minecart-deterministic-v0: a cart digs two ores in mines of different wealth, brings them to its base and pays for fuel.

Lengths are in sides of the square map, speeds in sides a frame, angles in degrees; an action lasts for `frames` frames.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dibs_rl.envs.tasks import UniformNoise
from dibs_rl.envs.tasks.numpy_order import vector_reward
from dibs_rl.envs.torch_tasks.same_bits import cos_sin, length
from dibs_rl.envs.torch_tasks.torch_task import TorchTask, WorldNoise

_MINE, _LEFT, _RIGHT, _ACCELERATE, _BRAKE, _NONE = range(6)
_STANDING = 0.001  # a cart that is slower does not move
_MAX_SPEED = 1.0
_ACCELERATION, _DECELERATION = 0.0075, 1.0  # a frame
_TURN = 10.0  # degrees a frame, and what a wall turns the cart by
_FIRST_ANGLE = 45.0
_MINE_RADIUS, _BASE_RADIUS = 0.14, 0.15
_IDLE, _DIGGING, _ENGINE = -0.005, -0.05, -0.025  # fuel a frame: always, and added while digging and accelerating


class Mines(NamedTuple):
    """What is constant.

    Attributes:
        places: The mines, `[k, 2]`.
        ores: What a frame of digging gives in each, `[k, 2]`.
        capacity: Of the cart.
        frames: An action's length.
        fuel: That each action takes, `[6]` float32.
        turns: By which each action turns the cart in a frame, `[6]`.
        pushes: That each action gives its speed in a frame, `[6]`.
    """

    places: Tensor
    ores: Tensor
    capacity: float
    frames: int
    fuel: Tensor
    turns: Tensor
    pushes: Tensor


class Cart(NamedTuple):
    """State of n worlds.

    Attributes:
        place: The cart's, `[n, 2]` float64; the base is at (0, 0).
        speed: Its speed, `[n]` float64.
        angle: Where it heads, `[n]` float64.
        content: Ores in it, `[n, 2]` float64.
        departed: Whether it has left the base, `[n]` bool.
        home: Whether it has come back, `[n]` bool.
        sold: Ores brought home in the last step, `[n, 2]` float64.
    """

    place: Tensor
    speed: Tensor
    angle: Tensor
    content: Tensor
    departed: Tensor
    home: Tensor
    sold: Tensor


class Minecart(TorchTask[Mines, Cart]):
    """Rewards.

    - 0, 1, `ore_1`, `ore_2`: ores brought home, which ends the episode.
    - 2, `fuel`: minus the fuel of the step.
    """

    many_worlds = 128

    def model(self, env: Any, device: torch.device) -> Mines:
        """Its mines, of which each gives the same at every dig."""
        ores = [[ore.args[0] for ore in mine.distributions] for mine in env.mines]  # their means, without deviations
        places = torch.tensor([mine.pos.tolist() for mine in env.mines], dtype=torch.float64, device=device)
        fuel = torch.full((6,), _IDLE * env.frame_skip, device=device)
        for action, cost in ((_MINE, _DIGGING), (_ACCELERATE, _ENGINE)):
            fuel[action] += cost * env.frame_skip
        turns, pushes = torch.zeros(2, 6, dtype=torch.float64, device=device).unbind()
        turns[_LEFT], turns[_RIGHT] = -_TURN, _TURN
        pushes[_ACCELERATE], pushes[_BRAKE] = _ACCELERATION, -_DECELERATION
        wealth = torch.tensor(ores, dtype=torch.float64, device=device)
        return Mines(places, wealth, env.capacity, env.frame_skip, fuel, turns, pushes)

    def start(self, model: Mines, noise: UniformNoise) -> Cart:
        """Standing at the base, empty."""
        pair = model.places.new_zeros(len(noise), 2)
        one, no = pair[:, 0], torch.zeros(len(noise), dtype=torch.bool, device=pair.device)
        return Cart(pair, one, torch.full_like(one, _FIRST_ANGLE), pair, no, no, pair)

    def advance(self, model: Mines, state: Cart, actions: Tensor, noise: WorldNoise) -> Cart:
        """An action's frames; in the frame after the one in which it came home, a cart acts and does not move."""
        turn, push = model.turns.index_select(0, actions), model.pushes.index_select(0, actions)
        turns, pushes, digs, acts = turn != 0, push != 0, actions == _MINE, torch.ones_like(state.home)
        state = state._replace(sold=torch.zeros_like(state.sold))
        for _ in range(model.frames):
            angle = torch.where(acts & turns, (state.angle + turn) % 360, state.angle)
            speed = torch.where(acts & pushes, (state.speed + push).clamp(0.0, _MAX_SPEED), state.speed)
            content = _dug(model, state, acts & digs)
            acts = acts & ~state.home
            state = _visited(_rolled(state._replace(angle=angle, speed=speed, content=content), acts), acts)
        return state

    def observe(self, model: Mines, state: Cart) -> Tensor:
        """Place, speed, sine and cosine of the angle, and shares of the capacity filled with each ore; `[n, 7]` float32."""
        cos, sin = cos_sin(state.angle * (math.pi / 180))
        rest = torch.stack([state.speed, sin, cos], dim=1)
        return torch.cat([state.place, rest, state.content / model.capacity], dim=1).float()

    def reward(self, model: Mines, before: None, state: Cart, actions: Tensor) -> Tensor:
        """See the class."""
        return vector_reward(*state.sold.unbind(dim=1), model.fuel.index_select(0, actions))

    def terminated(self, model: Mines, state: Cart) -> Tensor:
        """At home again."""
        return state.home


def _dug(model: Mines, state: Cart, digs: Tensor) -> Tensor:
    """Contents `[n, 2]` after a frame of digging in the nearest mine, where that is in reach and the cart stands."""
    distances = length(state.place.unsqueeze(1) - model.places)
    distance, nearest = distances.min(dim=1)
    digs = digs & (state.speed < _STANDING) & (distance <= _MINE_RADIUS)
    free = model.capacity - (state.content[:, 0] + state.content[:, 1])
    found = model.ores[nearest]
    total = found[:, 0] + found[:, 1]
    fitting = torch.where((total > free).unsqueeze(1), found * (free / total).unsqueeze(1), found)
    return torch.where(digs.unsqueeze(1), state.content + fitting, state.content)


def _rolled(state: Cart, acts: Tensor) -> Cart:
    """After a frame's way; a wall that is not met head-on turns the cart along it."""
    rolls = acts & (state.speed >= _STANDING)
    velocity = state.speed.unsqueeze(1) * torch.stack(cos_sin(state.angle * math.pi / 180), dim=1)
    place = (state.place + velocity).clamp(0.0, 1.0)
    along_x, along_y = _slides(state.place, velocity).unbind(dim=1)
    return state._replace(
        place=torch.where(rolls.unsqueeze(1), place, state.place),
        speed=torch.where(rolls, length(state.place - place), state.speed),
        angle=torch.where(rolls, state.angle + along_y - along_x, state.angle),
    )


def _slides(place: Tensor, velocity: Tensor) -> Tensor:
    """By how much walls across the way turn a cart that moves along x, and along y: `[n, 2]`.

    The far wall, at 1, turns it one way, and the near one, at 0, the other.
    """
    across, speed_across = place.flip(1), velocity.flip(1)
    between = (place != 0) & (place != 1) & (velocity.abs() > _STANDING)
    met = ((across == 1) & (speed_across > 0)).double() - ((across == 0) & (speed_across < 0)).double()
    return torch.full_like(place, _TURN).copysign(velocity) * met * between


def _visited(state: Cart, acts: Tensor) -> Cart:
    """After a look at whether the cart has left the base or come back, and sold what it brings."""
    at_base = length(state.place) < _BASE_RADIUS
    back = acts & at_base & state.departed
    here = back.unsqueeze(1)
    return state._replace(
        departed=state.departed | (acts & ~at_base),
        home=state.home | back,
        sold=torch.where(here, state.sold + state.content, state.sold),
        content=state.content.masked_fill(here, 0.0),
    )
