"""resource-gathering-v0: fetch gold and a gem past two enemies, who kill one time in ten, and come home."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dibs_rl.envs.tasks import UniformNoise
from dibs_rl.envs.tasks.numpy_order import vector_reward
from dibs_rl.envs.torch_tasks.grid import moved, moves_on, number_of, places_of
from dibs_rl.envs.torch_tasks.torch_task import TorchTask, WorldNoise

_DEADLY = 0.1  # probability that an enemy kills, at each step beside it


class Country(NamedTuple):
    """What is constant; places are numbered row by row.

    Attributes:
        home: Number of the place where home is.
        moves: Number of the place that each action leads to, `[places, 4]`.
        places: Rows and columns, `[places, 2]` int32.
        gold: Where it is, `[places]` bool.
        gem: Where it is.
        enemies: Where they are.
    """

    home: int
    moves: Tensor
    places: Tensor
    gold: Tensor
    gem: Tensor
    enemies: Tensor


class Gatherer(NamedTuple):
    """State of n worlds.

    Attributes:
        place: Number of the gatherer's place, `[n]`.
        gold: Whether it is carried, `[n]` bool.
        gem: Whether it is carried.
        killed: Whether an enemy has killed.
    """

    place: Tensor
    gold: Tensor
    gem: Tensor
    killed: Tensor


class ResourceGathering(TorchTask[Country, Gatherer]):
    """Rewards.

    - 0, `killed`: -1 when an enemy kills, which ends the episode.
    - 1, `gold`: 1 when it is brought home; coming home ends the episode.
    - 2, `gem`: the same.
    """

    def model(self, env: Any, device: torch.device) -> Country:
        """Its map."""
        free = np.ones(env.map.shape, bool)
        where = [np.isin(env.map, names).ravel() for names in (["R1"], ["R2"], ["E1", "E2"])]
        tables = moves_on(free), places_of(free), *where
        return Country(number_of(env.initial_pos, free), *(torch.as_tensor(table, device=device) for table in tables))

    def start(self, model: Country, noise: UniformNoise) -> Gatherer:
        """At home, with nothing."""
        place = torch.full((len(noise),), model.home, device=model.moves.device)
        nothing = torch.zeros_like(place, dtype=torch.bool)
        return Gatherer(place, nothing, nothing, nothing)

    def advance(self, model: Country, state: Gatherer, actions: Tensor, noise: WorldNoise) -> Gatherer:
        """One place on, unless the map ends; only worlds beside an enemy draw a number."""
        place = moved(model.moves, state.place, actions)
        gold, gem, threatened = (part.index_select(0, place) for part in (model.gold, model.gem, model.enemies))
        facing = threatened.nonzero().flatten()
        lots = noise.worlds(facing).uniform(0.0, 1.0, 1).squeeze(1)
        killed = torch.zeros_like(threatened).index_copy(0, facing, lots < _DEADLY)
        return Gatherer(place, state.gold | gold, state.gem | gem, killed)

    def observe(self, model: Country, state: Gatherer) -> Tensor:
        """Row, column, and whether gold and gem are carried, int32."""
        carried = torch.stack([state.gold, state.gem], dim=1).int()
        return torch.cat([model.places.index_select(0, state.place), carried], dim=1)

    def reward(self, model: Country, before: None, state: Gatherer, actions: Tensor) -> Tensor:
        """See the class."""
        home = state.place == model.home
        return vector_reward(0.0 - state.killed.float(), home & state.gold, home & state.gem)

    def terminated(self, model: Country, state: Gatherer) -> Tensor:
        """Killed, or at home: where a first step bumps into the map's end is home, too."""
        return state.killed | (state.place == model.home)
