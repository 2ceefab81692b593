"""Worlds that a task's functions step all at once: what the backends have in common that keep no environment for each."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from dibs_rl import sync
from dibs_rl.envs.tasks import Rules
from dibs_rl.envs.worlds import has_wrapper
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Step, VectorRewardVecEnv


class RulesVecEnv(VectorRewardVecEnv):
    """A task in n worlds; a backend keeps their state, moves it on, starts episodes and seeds worlds.

    Args:
        env: One of MO-Gymnasium's environments of the task: its spaces and time limit are taken, and what is constant.
        rules: What is observed and rewarded.
        num_envs: Worlds n.
        objectives: Names of the m rewards.
        device: Where the tensors are wanted.
        home: Where the state is kept.
        seed: World i's first episode is seeded with `seed + i`, as MO-Gymnasium's own would be; None draws at random.
    """

    _model: Any  # what is constant about the worlds, of the type that the task's functions take

    def __init__(
        self,
        env: gym.Env,
        rules: Rules,
        num_envs: int,
        objectives: Sequence[str],
        *,
        device: torch.device | str = "cpu",
        home: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        self._env, self._rules = env, rules
        limit = env.spec.max_episode_steps if env.spec else None
        self._time_limit = float("inf") if limit is None else limit
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64, device=home)
        super().__init__(num_envs, env.observation_space, env.action_space, objectives, device)
        if seed is not None:
            self.seed(seed)

    @abstractmethod
    def _state(self, worlds: Tensor | None = None) -> Any:
        """The state of the worlds numbered, copied, or of all of them."""

    @abstractmethod
    def _advance(self, actions: Tensor) -> None:
        """Moves every world on by one step."""

    @abstractmethod
    def _start_episodes(self, done: Tensor) -> None:
        """Starts an episode in the worlds `[n]` bool, and leaves the others as they are."""

    @abstractmethod
    def _seed_worlds(self, seeds: list[int | None]) -> None:
        """Seeds the random numbers of each world that has a seed."""

    def _observe(self, worlds: Tensor | None = None) -> Tensor:
        """What the worlds numbered show, or all of them, `[n, d]`."""
        return self._rules.observe(self._model, self._state(worlds))

    def _reset_worlds(self, seeds: list[int | None], options: list[dict]) -> Tensor:
        if any(options):
            raise UserError(f"The {self.backend} backend takes no options of a reset: use backend='gym'.")
        self._seed_worlds(seeds)
        self._start_episodes(torch.ones_like(self._elapsed, dtype=torch.bool))
        self._elapsed.zero_()
        return self._observe().to(self.device)

    def _step_worlds(self, actions: Tensor) -> Step:
        actions = actions.to(self._elapsed.device)
        if actions.shape != (self.num_envs, *self.action_space.shape):  # type: ignore[misc]
            raise UserError(f"Actions must be one for each of {self.num_envs} worlds; found shape {list(actions.shape)}.")
        before = self._rules.remember(self._model, self._state())
        self._advance(actions)
        self._elapsed += 1
        final_obs, reward, terminated = self._outcome(before, actions)
        truncated = self._elapsed >= self._time_limit
        done = terminated | truncated
        self._start_episodes(done)
        self._elapsed.masked_fill_(done, 0)
        obs = self._next_obs(done, final_obs)
        return Step(*(sync.send(part, self.device) for part in (obs, reward, terminated, truncated, final_obs)))

    def _outcome(self, before: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations `[n, d]`, rewards `[n, m]` and terminations `[n]` after a step, of what was remembered before it."""
        rules, model, state = self._rules, self._model, self._state()
        return self._observe(), rules.reward(model, before, state, actions), rules.terminated(model, state)

    def _next_obs(self, done: Tensor, final_obs: Tensor) -> Tensor:
        """Observations `[n, d]` to act on next, where episodes were started in the worlds that were done."""
        ended = done.nonzero().flatten()  # mostly none, and observing a few worlds is cheaper than observing all
        return final_obs.index_copy(0, ended, self._observe(ended)) if len(ended) else final_obs

    def close(self) -> None:
        """Closes the environment that the worlds were made after."""
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the environment that the worlds were made after, for each world asked for."""
        return [self._env.get_wrapper_attr(attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raises a UserError: the worlds have no environments of their own."""
        raise UserError(self._no_environments)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Raises a UserError: the worlds have no environments of their own."""
        raise UserError(self._no_environments)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """Whether that environment has this Gymnasium wrapper, for each world asked for."""
        return [has_wrapper(self._env, wrapper_class) for _ in self._get_indices(indices)]

    @property
    def _no_environments(self) -> str:
        return f"The {self.backend} backend steps worlds without an environment for each: use backend='gym'."
