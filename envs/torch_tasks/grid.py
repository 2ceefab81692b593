"""Moves between the places of a map, as a table."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right: rows and columns


def places_of(free: np.ndarray) -> np.ndarray:
    """Row and column of each place of a map `[rows, columns]`, in order: `[places, 2]` int32."""
    return np.stack(np.unravel_index(np.arange(free.size), free.shape), axis=1).astype(np.int32)


def number_of(place: Sequence[int] | np.ndarray, free: np.ndarray) -> int:
    """Number of the place with this row and column."""
    return int(np.ravel_multi_index(tuple(place), free.shape))


def moves_on(free: np.ndarray) -> np.ndarray:
    """Number of the place that each action leads to, `[places, 4]`: the same place if there the map ends or is not free."""
    table = np.repeat(np.arange(free.size)[:, None], len(_MOVES), axis=1)
    for place, (row, column) in enumerate(places_of(free)):
        for action, (down, right) in enumerate(_MOVES):
            there = row + down, column + right
            if all(0 <= i < size for i, size in zip(there, free.shape, strict=True)) and free[there]:
                table[place, action] = number_of(there, free)
    return table


def moved(table: Tensor, places: Tensor, actions: Tensor) -> Tensor:
    """Numbers of the places after the actions, `[n]`.

    Raises:
        RuntimeError: If an action is none (on the CPU).
    """
    return table.index_select(0, places).gather(1, actions.long().unsqueeze(1)).squeeze(1)
