"""deep-sea-treasure-v0 and its variants: a submarine dives for treasures that are worth more the farther away they are."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dibs_rl.envs.tasks import UniformNoise
from dibs_rl.envs.tasks.numpy_order import vector_reward
from dibs_rl.envs.torch_tasks.grid import moved, moves_on, number_of, places_of
from dibs_rl.envs.torch_tasks.torch_task import TorchTask, WorldNoise

_ROCK = -10.0
_MIRRORED_START = 10  # the column in the middle of the mirrored map; the others start at the left


class Sea(NamedTuple):
    """What is constant; places are numbered row by row.

    Attributes:
        start: Number of the place that episodes start from.
        moves: Number of the place that each action leads to, `[places, 4]`.
        places: Rows and columns, `[places, 2]` int32.
        treasures: Value of the treasure at each place, 0 where there is none, `[places]`.
    """

    start: int
    moves: Tensor
    places: Tensor
    treasures: Tensor


class Submarine(NamedTuple):
    """State of n worlds: numbers of the places where the submarines are, `[n]`."""

    place: Tensor


class DeepSeaTreasure(TorchTask[Sea, Submarine]):
    """Rewards.

    - 0, `treasure`: value of the treasure found, which ends the episode.
    - 1, `time`: -1 a step.
    """

    many_worlds = 32

    def model(self, env: Any, device: torch.device) -> Sea:
        """Its map."""
        water = env.sea_map != _ROCK
        start = number_of((0, _MIRRORED_START if env.map_name == "mirrored" else 0), water)
        tables = moves_on(water), places_of(water), env.sea_map.clip(min=0).ravel()
        return Sea(start, *(torch.as_tensor(table, device=device) for table in tables))

    def start(self, model: Sea, noise: UniformNoise) -> Submarine:
        """At the surface."""
        return Submarine(torch.full((len(noise),), model.start, device=model.moves.device))

    def advance(self, model: Sea, state: Submarine, actions: Tensor, noise: WorldNoise) -> Submarine:
        """One place on, unless there is rock or the map ends."""
        return Submarine(moved(model.moves, state.place, actions))

    def observe(self, model: Sea, state: Submarine) -> Tensor:
        """Row and column, int32."""
        return model.places.index_select(0, state.place)

    def reward(self, model: Sea, before: None, state: Submarine, actions: Tensor) -> Tensor:
        """See the class."""
        treasure = model.treasures.index_select(0, state.place)
        return vector_reward(treasure, torch.full_like(treasure, -1.0))

    def terminated(self, model: Sea, state: Submarine) -> Tensor:
        """At a treasure."""
        return model.treasures.index_select(0, state.place) > 0
