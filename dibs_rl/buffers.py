"""Storage of one rollout: preallocated tensors, `[T, n, ...]`, and minibatches of it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dibs_rl import sync
from dibs_rl.vec_env import Obs, Step, map_obs, obs_parts

_CHUNK_ENTRIES = 2**24  # observation entries that go through a network at once: 64 MiB in float32


class Minibatch(NamedTuple):
    """Samples of a rollout, `[b, ...]` each.

    Attributes:
        obs: Observations acted on.
        actions: Actions taken, before they were clipped to the action space.
        log_probs: Their log probabilities when they were taken, `[b]`.
        advantages: What the policy losses see, `[b, k]`: k = m, or 1 where the combiner summed the advantages.
        value_targets: What the critic learns, `[b, m]`, in its heads' units.
        active: Which objectives the samples are of, `[b, m]` bool; None where every sample is of all.
    """

    obs: Obs
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    value_targets: Tensor
    active: Tensor | None = None


class VectorRolloutBuffer:
    """A rollout of T steps of n worlds with m rewards. SB3 builds it in place of its own buffer.

    Args:
        buffer_size: Steps T of a world.
        observation_space: Space of one world's observation.
        action_space: Space of one world's action.
        device: Where the tensors live.
        n_envs: Worlds n.
        reward_dim: Rewards m.
        gamma: Discount factor.
        gae_lambda: GAE's lambda.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "cpu",
        n_envs: int = 1,
        reward_dim: int = 1,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
    ) -> None:
        self.buffer_size, self.n_envs, self.reward_dim = buffer_size, n_envs, reward_dim
        self.device = torch.device(device)
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.obs = observation_storage(observation_space, self._storage)
        # On a GPU nobody looks which episodes were cut off: the observations that every step led to are kept.
        self._all_final_obs = observation_storage(observation_space, self._storage) if sync.waits(self.device) else None
        categories = isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete)
        self.actions = self._storage(*(action_space.shape or ()), dtype=torch.int64 if categories else torch.float32)
        self.log_probs = self._storage()
        self.rewards = self._storage(reward_dim)
        self.terminated = self._storage(dtype=torch.bool)
        self.truncated = self._storage(dtype=torch.bool)
        self.advantages = self._storage(reward_dim)
        self.value_targets = self._storage(reward_dim)
        self.reset()

    def reset(self, active: Tensor | None = None) -> None:
        """Makes room for the next rollout.

        Args:
            active: Which objectives each world has, `[n, m]` bool; None where every world has them all.
        """
        self.pos = 0
        self.active = None if active is None else active.to(self.device).expand(self.buffer_size, *active.shape)
        self._final_obs: list[Obs] = []

    def add_decision(self, obs: Obs, actions: Tensor, log_probs: Tensor) -> None:
        """Copies in what was seen and decided, before the worlds move on."""
        map_obs(lambda stored, new: stored[self.pos].copy_(new), self.obs, obs)
        self.actions[self.pos].copy_(actions)
        self.log_probs[self.pos].copy_(log_probs)

    def add_outcome(self, step: Step) -> None:
        """Copies in what came of it."""
        self.rewards[self.pos].copy_(step.reward)
        self.terminated[self.pos].copy_(step.terminated)
        self.truncated[self.pos].copy_(step.truncated)
        cut_off = step.truncated & ~step.terminated
        if self._all_final_obs is not None:
            map_obs(lambda stored, new: stored[self.pos].copy_(new), self._all_final_obs, step.final_obs)
        elif cut_off.any():
            self._final_obs.append(map_obs(lambda obs: obs[cut_off].clone(), step.final_obs))
        self.pos += 1

    @property
    def size(self) -> int:
        """Samples in a rollout, T * n."""
        return self.buffer_size * self.n_envs

    def truncated_obs(self) -> Obs | None:
        """The last observations `[k, ...]` of the k truncated episodes, in order of step and world; None if k = 0.

        On a GPU the observations that all T * n steps led to, `[T * n, ...]`: which are wanted is not looked at.
        """
        if self._all_final_obs is not None:
            return self.flat(self._all_final_obs)
        return map_obs(lambda *parts: torch.cat(parts), *self._final_obs) if self._final_obs else None

    def next_values(self, values: Tensor, last_values: Tensor, truncated_values: Tensor | None) -> Tensor:
        """Values of what followed each step, `[T, n, m]`.

        Args:
            values: Values of the stored observations, `[T, n, m]`.
            last_values: Values of the observations after the last step, `[n, m]`.
            truncated_values: Values of `truncated_obs()`, `[k, m]` or `[T * n, m]`.
        """
        following = torch.cat([values[1:], last_values.unsqueeze(0)])
        cut_off = self.truncated & ~self.terminated
        if truncated_values is not None and self._all_final_obs is not None:
            return torch.where(cut_off.unsqueeze(-1), truncated_values.view_as(following), following)
        if truncated_values is not None:
            following[cut_off] = truncated_values
        return following

    def flat(self, tensor: Obs) -> Obs:
        """`[T, n, ...]` seen as `[T * n, ...]`."""
        return map_obs(lambda stored: stored.flatten(0, 1), tensor)

    def indices(self, size: int) -> Iterator[Tensor]:
        """Deals the rollout's samples out at random, `size` at a time; the last may be fewer.

        The order comes from numpy's global generator, as in SB3's buffers; on a GPU from the GPU's own.
        """
        if sync.waits(self.device):
            return iter(torch.randperm(self.size, device=self.device).split(size))
        return iter(torch.from_numpy(np.random.permutation(self.size)).split(size))

    def whole(self, policy_advantages: Tensor, value_targets: Tensor) -> Minibatch:
        """The whole rollout, in order, as one batch of views."""
        actions, log_probs = self.actions.flatten(0, 1), self.log_probs.flatten(0, 1)
        return Minibatch(self.flat(self.obs), actions, log_probs, policy_advantages, value_targets, self.active_samples())

    def active_samples(self) -> Tensor | None:
        """Which objectives each sample is of, `[T * n, m]` bool; None where every sample is of all."""
        return None if self.active is None else self.active.flatten(0, 1)

    def _storage(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(self.buffer_size, self.n_envs, *shape, dtype=dtype, device=self.device)


def observation_storage(space: spaces.Space, allocate: Callable[..., Tensor]) -> Obs:
    """Room for observations of a space: `allocate(*shape, dtype=...)` for each part of one observation.

    Raises:
        TypeError: If observations of the space are no arrays.
    """
    if isinstance(space, spaces.Dict):
        return {key: allocate(*_shape(part), dtype=_dtype(part)) for key, part in space.items()}
    return allocate(*_shape(space), dtype=_dtype(space))


def rows(tensor: Tensor, index: Tensor | slice) -> Tensor:
    """Picks samples by their numbers (copied), or a stretch of them (a view)."""
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)


def take(batch: Minibatch, index: Tensor | slice) -> Minibatch:
    """Picks samples out of a batch."""
    parts = (None if part is None else rows(part, index) for part in batch[1:])
    return Minibatch(map_obs(lambda part: rows(part, index), batch.obs), *parts)  # type: ignore[arg-type]


class Minibatches(Sequence[Minibatch]):
    """A batch dealt out, one minibatch for each tensor of samples' numbers.

    Where the batch is small it is shuffled once and the minibatches are views; where it is not they are picked out one by one.

    Args:
        batch: The whole.
        orders: Numbers of the samples, `[b]` each.
    """

    def __init__(self, batch: Minibatch, orders: Sequence[Tensor]) -> None:
        self._batch, self._parts = batch, list[Tensor | slice](orders)
        if orders and len(batch.log_probs) <= _samples_in_chunk(batch.obs):
            self._batch = take(batch, torch.cat(list(orders)))
            ends = list(accumulate(len(order) for order in orders))
            self._parts = [slice(end - len(order), end) for end, order in zip(ends, orders, strict=True)]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: Any) -> Any:
        return take(self._batch, self._parts[index])


def slices(obs: Obs) -> Iterator[slice]:
    """Cuts a batch of observations into slices whose networks' inputs fit in memory."""
    size, samples = _samples_in_chunk(obs), len(obs_parts(obs)[0])
    return (slice(start, start + size) for start in range(0, samples, size))


def _samples_in_chunk(obs: Obs) -> int:
    return max(1, _CHUNK_ENTRIES // max(1, sum(part[:1].numel() for part in obs_parts(obs))))


def chunks(obs: Obs) -> Iterator[Obs]:
    """A batch of observations in parts whose networks' inputs fit in memory."""
    return (map_obs(lambda stored, part=part: stored[part], obs) for part in slices(obs))


def _shape(space: spaces.Space) -> tuple[int, ...]:
    if space.shape is None:
        raise TypeError(f"Observations of space {space} cannot be stored.")
    return space.shape


def _dtype(space: spaces.Space) -> torch.dtype:
    """The space's own type, but float32 for every float: what the networks compute in."""
    kind = np.dtype(space.dtype)
    return torch.float32 if kind.kind == "f" else torch.from_numpy(np.zeros(0, kind)).dtype
