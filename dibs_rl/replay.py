"""Storage of what has been experienced, for learners that learn from it again and again."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dibs_rl import sync
from dibs_rl.buffers import observation_storage, rows
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Obs, Step, map_obs


class Transitions(NamedTuple):
    """Steps of any worlds and times, `[b, ...]` each.

    Attributes:
        obs: Observations acted on.
        actions: Actions taken, each entry scaled to [-1, 1], `[b, a]`.
        rewards: `[b, m]`.
        next_obs: Observations the steps led to; of an episode that ended, its last.
        terminated: Whether nothing follows, `[b]` bool. An episode that was cut off by a limit goes on behind it.
        active: Which objectives the steps are of, `[b, m]` bool; None where each is of all.
    """

    obs: Obs
    actions: Tensor
    rewards: Tensor
    next_obs: Obs
    terminated: Tensor
    active: Tensor | None = None


class VectorReplayBuffer:
    """The newest transitions of n worlds with m rewards. Where it is full, the oldest make room.

    Args:
        buffer_size: Transitions it holds, rounded down to a whole number of steps of all worlds.
        observation_space: Space of one world's observation.
        action_space: Space of one world's action.
        device: Where the tensors live.
        n_envs: Worlds n.
        reward_dim: Rewards m.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        device: torch.device | str = "cpu",
        n_envs: int = 1,
        reward_dim: int = 1,
    ) -> None:
        self.n_envs = n_envs
        self.capacity = max(buffer_size // n_envs, 1) * n_envs
        self.device = torch.device(device)
        self._stored = Transitions(
            observation_storage(observation_space, self._storage),
            self._storage(int(np.prod(action_space.shape))),
            self._storage(reward_dim),
            observation_storage(observation_space, self._storage),
            self._storage(dtype=torch.bool),
        )
        self._pos = self._size = 0

    def __len__(self) -> int:
        return self._size

    def add_decision(self, obs: Obs, actions: Tensor) -> None:
        """Copies in what was seen `[n, ...]` and decided `[n, a]`, before the worlds move on."""
        here = slice(self._pos, self._pos + self.n_envs)
        map_obs(lambda stored, new: stored[here].copy_(new), self._stored.obs, obs)
        self._stored.actions[here].copy_(actions)

    def add_outcome(self, step: Step, active: Tensor | None = None) -> None:
        """Copies in what came of it.

        Args:
            step: The step.
            active: Which objectives each world has, `[n, m]` bool; None where every world has them all.
        """
        here = slice(self._pos, self._pos + self.n_envs)
        self._stored.rewards[here].copy_(step.reward)
        map_obs(lambda stored, new: stored[here].copy_(new), self._stored.next_obs, step.final_obs)
        self._stored.terminated[here].copy_(step.terminated)
        if active is not None:
            self._with_mask().active[here].copy_(active)  # type: ignore[index]
        self._pos = (self._pos + self.n_envs) % self.capacity
        self._size = min(self._size + self.n_envs, self.capacity)

    def sample(self, size: int) -> Transitions:
        """Draws transitions at random, with replacement, by numpy's global generator, as SB3's buffers do."""
        index = sync.send(torch.from_numpy(np.random.randint(0, self._size, size=size)), self.device)
        return self._map(lambda stored: rows(stored, index))

    def newest(self, steps: int) -> Transitions:
        """Copies of the last steps of all worlds, oldest first; of as many steps as it still holds."""
        size = min(steps * self.n_envs, self._size)
        order = torch.arange(self._pos - size, self._pos, device=self.device) % self.capacity
        return self._map(lambda stored: rows(stored, order))

    def forget(self, steps: int) -> None:
        """Takes the last steps of all worlds out again; what had made room for them does not come back."""
        size = min(steps * self.n_envs, self._size)
        self._size, self._pos = self._size - size, (self._pos - size) % self.capacity

    def state_dict(self) -> dict[str, Any]:
        """What is stored, oldest first, as tensors."""
        return self.newest(self._size // self.n_envs)._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the newest transitions of another buffer, as many as fit; its worlds may have been more or fewer.

        Raises:
            UserError: If they are of other observations, actions or rewards.
        """
        given = Transitions(**state)
        if given.active is not None:
            self._with_mask()
        elif self._stored.active is not None:
            given = given._replace(active=torch.ones_like(given.rewards, dtype=torch.bool))
        size = min(len(given.rewards), self.capacity) // self.n_envs * self.n_envs
        newest = slice(len(given.rewards) - size, None)
        for name, stored, new in zip(Transitions._fields, self._stored, given, strict=True):
            if stored is None or new is None:  # both of them: there is no mask
                continue
            if _shapes(stored) != _shapes(new):
                raise UserError(f"The replay buffer holds {name} of shape {_shapes(new)}; the model has {_shapes(stored)}.")
            map_obs(lambda part, new_part: part[:size].copy_(new_part[newest]), stored, new)
        self._size, self._pos = size, size % self.capacity

    def _with_mask(self) -> Transitions:
        """What is stored, with room for which objectives it is of; what was there before is of all."""
        if self._stored.active is None:
            self._stored = self._stored._replace(active=torch.ones_like(self._stored.rewards, dtype=torch.bool))
        return self._stored

    def _map(self, function: Any) -> Transitions:
        parts: Any = (None if part is None else map_obs(function, part) for part in self._stored)
        return Transitions(*parts)

    def _storage(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Not filled: the operating system gives the memory when it is first written to."""
        return torch.empty(self.capacity, *shape, dtype=dtype, device=self.device)


def _shapes(stored: Obs) -> Any:
    """Shapes of one sample's parts."""
    return map_obs(lambda part: list(part.shape[1:]), stored)
