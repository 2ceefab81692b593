"""The contract of a vector-reward environment: many worlds, one step, tensors in and out.

A `VectorRewardVecEnv` is a Stable-Baselines3 `VecEnv`, so that callbacks and wrappers find what they look for; the learners
use `step_tensors`, which builds no dictionary per world. The numpy interface of SB3 is a view of the same step.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from dibs_rl import sync
from dibs_rl.lazy import LazyInfos

_KEPT_ENDINGS = 4096  # steps whose finished episodes wait for pop_episodes(), if nobody calls it
_KEPT_ROWS = 2**24  # of these steps, where all their worlds are kept
Obs = Tensor | dict[str, Tensor]
RewardTransform = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From rewards `[n, m]`, the episodes' returns up to and with them `[n, m]` (float64) and whether the episode ended `[n]`, to
the rewards that are learnt from, `[n, m]`."""


class Step(NamedTuple):
    """What one step of all n worlds gives. Tensors are valid until the next step: copy what is to be kept.

    Attributes:
        obs: Observations `[n, ...]` to act on next; where an episode ended, the first of the next one.
        reward: Rewards `[n, m]`.
        terminated: Whether the task's own rules ended the episode, `[n]` bool.
        truncated: Whether a limit ended it (a time limit, mostly), `[n]` bool.
        final_obs: Observations the step led to, `[n, ...]`: equal to `obs` except where an episode ended.
    """

    obs: Obs
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Obs

    @property
    def done(self) -> Tensor:
        """Whether an episode ended, `[n]` bool."""
        return self.terminated | self.truncated


class Endings(NamedTuple):
    """Episodes that have ended: of all rows those that are marked, or every row where there are no marks.

    Attributes:
        returns: `[k, m]`, float64.
        lengths: Steps, `[k]`.
        ended: The marks, `[k]` bool; None for every row.
    """

    returns: Tensor
    lengths: Tensor
    ended: Tensor | None = None

    def picked(self) -> tuple[Tensor, Tensor]:
        """Returns and lengths of those that ended."""
        return (self.returns, self.lengths) if self.ended is None else (self.returns[self.ended], self.lengths[self.ended])


def map_obs(function: Callable[..., Any], *observations: Any) -> Any:
    """Applies a function to an observation, or to each entry of a dictionary observation."""
    if isinstance(observations[0], dict):
        return {key: function(*(obs[key] for obs in observations)) for key in observations[0]}
    return function(*observations)


def obs_parts(obs: Obs) -> list[Tensor]:
    """The tensors that observations are made of."""
    return list(obs.values()) if isinstance(obs, dict) else [obs]


class VectorRewardVecEnv(VecEnv):
    """Base of all vector-reward environments; a backend gives `_reset_worlds` and `_step_worlds`.

    Attributes:
        objectives: Names of the reward's m components.
        reward_dim: m.
        device: Where the tensors live.
        backend: Name of what steps the worlds; results carry it.
        active: Which objectives each world has, `[n, m]` bool; None where every world has them all. What a world says of an
            objective that it does not have means nothing: learners leave it out, and in statistics of episodes it is NaN.
        own_infos: Where a world's episode ended in the last step and the world has an `info` of its own: that, by the world's
            number.
        reward_transform: Changes the rewards of a step after they were counted: statistics of episodes never see it.
        counted: What statistics of episodes count of the last step, `[n, m]`: its rewards before any transform. Where worlds
            have transformed them themselves, `_step_worlds` sets it; None before the first step.
    """

    backend: str
    active: Tensor | None = None
    reward_transform: RewardTransform | None = None
    counted: Tensor | None = None

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        objectives: Sequence[str],
        device: torch.device | str = "cpu",
    ) -> None:
        self.objectives = tuple(objectives)
        self.reward_dim = len(self.objectives)
        self.device = torch.device(device)
        super().__init__(num_envs, observation_space, action_space)
        self._episode_return = torch.zeros(num_envs, self.reward_dim, dtype=torch.float64, device=self.device)
        self._episode_length = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        kept = max(1, min(_KEPT_ENDINGS, _KEPT_ROWS // num_envs)) if sync.waits(self.device) else _KEPT_ENDINGS
        self._finished: deque[Endings] = deque(maxlen=kept)
        self._ended: Endings | None = None
        self._actions: Tensor | None = None
        self.own_infos: dict[int, dict[str, Any]] = {}

    @abstractmethod
    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Obs:
        """Starts a new episode in every world and returns the first observations `[n, ...]`."""

    @abstractmethod
    def _step_worlds(self, actions: Tensor) -> Step:
        """Steps every world; where an episode ends, starts the next one in the same step."""

    def reset_tensors(self, seed: int | None = None) -> Obs:
        """Starts a new episode in every world.

        Args:
            seed: World i is seeded with `seed + i`. Without it, a seed given before to `seed()` or at construction is used
                once; after that each world goes on with its own generator.

        Returns:
            Observations `[n, ...]` on `device`.
        """
        if seed is not None:
            self.seed(seed)
        obs = self._reset_worlds(self._seeds, self._options)
        self._reset_seeds()
        self._reset_options()
        self._episode_return.zero_()
        self._episode_length.zero_()
        self._finished.clear()
        return obs

    def step_tensors(self, actions: Tensor) -> Step:
        """Steps every world with actions `[n, ...]` and keeps the statistics of the episodes."""
        self.counted = None
        step = self._step_worlds(actions)
        self.counted = step.reward if self.counted is None else self.counted
        self._episode_return += self.counted
        self._episode_length += 1
        done = step.done
        if self.reward_transform is not None:
            step = step._replace(reward=self.reward_transform(step.reward, self._episode_return, done))
        self._ended = None
        if sync.waits(self.device) or done.any():
            self._ended = self._count_endings(done)
            self._finished.append(self._ended)
            self._episode_return.masked_fill_(done.unsqueeze(1), 0)
            self._episode_length.masked_fill_(done, 0)
        return step

    def _count_endings(self, done: Tensor) -> Endings:
        """The episodes that have just ended, in order of world; on a GPU, where nobody looks which, all of them, marked."""
        waits = sync.waits(self.device)
        rows = slice(None) if waits else done
        returns = self._episode_return[rows].clone()
        if self.active is not None:
            returns.masked_fill_(~self.active[rows], torch.nan)
        return Endings(returns, self._episode_length[rows].clone(), done if waits else None)

    def pop_episodes(self) -> tuple[Tensor, Tensor]:
        """Returns `[k, m]` and lengths `[k]` of the k episodes that ended since the last call (or reset).

        A learner takes them as they come, or once a rollout on a GPU, which is waited for here. An objective that a world does
        not have is NaN.
        """
        if not self._finished:
            return self._episode_return[:0], self._episode_length[:0]
        returns, lengths, ended = zip(*self._finished, strict=True)
        self._finished.clear()
        return Endings(torch.cat(returns), torch.cat(lengths), None if ended[0] is None else torch.cat(ended)).picked()

    def episode_infos(self, step: Step) -> dict[int, dict[str, Any]]:
        """SB3's info of each world whose episode ended in a step just taken, by the world's number."""
        if self._ended is None:
            return {}
        returns, lengths = self._ended.picked()
        ended = step.done.nonzero().flatten().tolist()
        return {
            i: {
                **self.own_infos.get(i, {}),
                "terminal_observation": map_obs(lambda obs, i=i: obs[i].cpu().numpy().copy(), step.final_obs),
                "TimeLimit.truncated": bool(step.truncated[i] and not step.terminated[i]),
                "episode": {"r": returns[row].cpu().numpy(), "l": int(lengths[row])},
            }
            for row, i in enumerate(ended)
        }

    def infos(self, step: Step) -> list[dict[str, Any]]:
        """SB3's `infos` for a step just taken: empty but where an episode ended."""
        return list(self.lazy_infos(step))

    def lazy_infos(self, step: Step) -> Sequence[dict[str, Any]]:
        """The same without a dictionary for each world: what callbacks of a learner see.

        On a GPU they are made when one is asked for, which must be before the next step.
        """
        if sync.waits(self.device):
            return LazyInfos(self.num_envs, lambda: self.episode_infos(step))
        of_ended = self.episode_infos(step)
        return LazyInfos(self.num_envs, lambda: of_ended)

    def _get_indices(self, indices: int | Iterable[int] | None) -> list[int]:
        """The numbers of the worlds meant: all of them where none is named; negative ones count from the end."""
        named = range(self.num_envs) if indices is None else [indices] if isinstance(indices, int) else indices
        return [range(self.num_envs)[i] for i in named]

    # SB3's numpy interface: the same steps, copied out.

    def reset(self, seed: int | None = None) -> Any:
        """`reset_tensors` as numpy arrays."""
        return map_obs(_to_numpy, self.reset_tensors(seed))

    def step_async(self, actions: np.ndarray) -> None:
        """Takes actions `[n, ...]` as a numpy array; `step_wait` steps."""
        self._actions = torch.as_tensor(np.asarray(actions), device=self.device)

    def step_wait(self) -> Any:
        """The step as SB3 wants it: observations, rewards `[n, m]`, dones `[n]`, infos."""
        if self._actions is None:
            raise RuntimeError("step_wait() was called without step_async().")
        actions, self._actions = self._actions, None
        step = self.step_tensors(actions)
        return map_obs(_to_numpy, step.obs), _to_numpy(step.reward), _to_numpy(step.done), self.infos(step)


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy().copy()
