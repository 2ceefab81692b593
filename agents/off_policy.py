"""What all off-policy learners share: act, step, store, and a replay buffer for vector rewards."""

import pickle
import zipfile
from collections import defaultdict, deque
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import should_collect_more_steps
from torch import Tensor

from dibs_rl import ranks, sync
from dibs_rl.agents.checks import all_finite, check_observations, check_rewards
from dibs_rl.agents.learner import VectorLearner
from dibs_rl.agents.records import Log
from dibs_rl.envs import as_vector_env
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write
from dibs_rl.lazy import as_array
from dibs_rl.replay import VectorReplayBuffer
from dibs_rl.vec_env import Obs, VectorRewardVecEnv, map_obs, obs_parts

_AVERAGED = 1000  # updates that a logged value is the mean of, at most


class VectorOffPolicy(VectorLearner, OffPolicyAlgorithm):
    """Mixin for SB3's off-policy learners with continuous actions: `VectorLearner` on a vector replay buffer.

    Args:
        policy: Name or class of the policy.
        env: See `dibs_rl.envs.as_vector_env`.
        gradient_steps: Updates behind each rollout; -1 for as many as it had environment steps, in all worlds together.
        **kwargs: `VectorLearner`'s and SB3's.

    Raises:
        UserError: If the environment gives no vector reward, its actions are not continuous and bounded, or an argument cannot
            be used with many rewards.
    """

    replay_buffer: VectorReplayBuffer  # type: ignore[assignment]
    _log: Log

    def __init__(self, policy: Any, env: Any, *, gradient_steps: int = -1, **kwargs: Any) -> None:
        for refused in ("replay_buffer_class", "replay_buffer_kwargs", "optimize_memory_usage"):
            if kwargs.get(refused):
                raise UserError(f"{refused} cannot be changed: SB3's replay buffers hold scalar rewards.")
        if kwargs.get("n_steps", 1) != 1:
            raise UserError(f"n_steps is 1: returns of more steps are not there for many rewards; found {kwargs['n_steps']}.")
        env = None if env is None else as_vector_env(env)
        if env is not None:
            _check_actions(env.action_space, type(self).__name__)
        super().__init__(policy, env, gradient_steps=gradient_steps, **kwargs)

    def _setup_model(self) -> None:
        assert isinstance(self.action_space, spaces.Box)  # for the type checker
        self.replay_buffer = VectorReplayBuffer(
            self.buffer_size, self.observation_space, self.action_space, self.device, self.n_envs, len(self.objectives)
        )
        self._log = defaultdict(lambda: deque(maxlen=_AVERAGED))
        super()._setup_model()

    def _setup_learn(self, *arguments: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if ranks.number() > 1:
            raise UserError(f"{type(self).__name__} trains in one process: leave torchrun out, or use PPO or A2C.")
        return super()._setup_learn(*arguments, **kwargs)

    def collect_rollouts(  # type: ignore[override]
        self,
        env: VectorRewardVecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: VectorReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Takes `train_freq` steps of every world into the buffer; a callback may stop it.

        Where that would wait for a GPU nothing is looked at before the last step, unless the next one depends on which
        episodes ended, or a callback looks.
        """
        self.policy.set_training_mode(False)
        looks = not sync.waits(env.device) or train_freq.unit is TrainFrequencyUnit.EPISODE or self.action_noise is not None
        first_episode, go_on = self._episode_num, True
        done: list[Tensor] = []
        if self.use_sde:
            self._reset_noise(env.num_envs)
        callback.on_rollout_start()
        obs = self._to_device(self._last_obs)
        while go_on and should_collect_more_steps(train_freq, len(done), self._episode_num - first_episode):
            if self.use_sde and self.sde_sample_freq > 0 and len(done) % self.sde_sample_freq == 0:
                self._reset_noise(env.num_envs)
            obs, ended, go_on = self._step_worlds(obs, env, callback, looks)
            done.append(ended)
            if looks:
                self._count_episodes(ended, log_interval)
        self._last_obs = map_obs(torch.clone, obs)  # a step's tensors are only lent
        if not looks:
            self._check_newest(len(done))
            self._note_endings(env)
            self._count_episodes(torch.stack(done), log_interval)
        if go_on:
            callback.on_rollout_end()
        return RolloutReturn(len(done) * env.num_envs, self._episode_num - first_episode, go_on)

    def _reset_noise(self, n: int) -> None:
        with sync.no_look(self.device):
            self.actor.reset_noise(n)  # type: ignore[operator]

    def _step_worlds(self, obs: Obs, env: VectorRewardVecEnv, callback: BaseCallback, looks: bool) -> tuple[Obs, Tensor, bool]:
        """Acts, steps and stores once; the next observations, which episodes ended, and False if a callback stopped it.

        `looks`: check the numbers and keep what the ended episodes were. Callbacks see its local variables under SB3's names.
        """
        number = self.num_timesteps // env.num_envs
        if looks:
            check_observations(obs, number)
        actions = self._choose_actions(obs, env.num_envs)
        self.replay_buffer.add_decision(obs, actions)
        step = env.step_tensors(self._inside_action_space(actions.view(-1, *(self.action_space.shape or ()))))
        if looks:
            check_rewards(step.reward.unsqueeze(0), self.objectives, number)
            check_observations(step.final_obs, number + 1)  # before it is stored
        self.replay_buffer.add_outcome(step, env.active)
        self.num_timesteps += env.num_envs
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        ended = step.done
        new_obs, rewards, dones, infos = step.obs, step.reward, as_array(ended), env.lazy_infos(step)
        self._note_successes(env)
        if looks and dones.any():
            self._note_endings(env)
        callback.update_locals(locals())
        go_on = callback.on_step()
        return self._to_device(new_obs), ended, go_on

    def _check_newest(self, steps: int) -> None:
        """Looks at once through what the last steps have stored; they are forgotten where a number is not finite."""
        obs, _, rewards, next_obs, *_ = self.replay_buffer.newest(steps)
        if all_finite(rewards, *obs_parts(obs), *obs_parts(next_obs)):
            return
        self.replay_buffer.forget(steps)
        rewards = rewards.unflatten(0, (-1, self.n_envs))
        number = self.num_timesteps // self.n_envs - len(rewards)
        for t in range(len(rewards)):
            at = slice(t * self.n_envs, (t + 1) * self.n_envs)
            check_observations(map_obs(itemgetter(at), obs), number + t)
            check_rewards(rewards[t : t + 1], self.objectives, number + t)
            check_observations(map_obs(itemgetter(at), next_obs), number + t + 1)

    @torch.no_grad()
    def _choose_actions(self, obs: Obs, n: int) -> Tensor:
        """Actions `[n, a]`, each entry scaled to [-1, 1]: uniform ones at first, then the policy's."""
        if self.num_timesteps < self.learning_starts and not (self.use_sde and self.use_sde_at_warmup):
            drawn = self.policy.scale_action(np.stack([self.action_space.sample() for _ in range(n)]))
            actions = sync.send(torch.as_tensor(drawn), self.device).flatten(1)
        else:
            with sync.no_look(self.device):
                actions = self.actor(obs)
        if self.action_noise is None:
            return actions
        noise = np.asarray(self.action_noise(), dtype=np.float32)
        return (actions + sync.send(torch.as_tensor(noise), self.device).reshape(n, -1)).clamp(-1, 1)

    def _count_episodes(self, done: Tensor, log_interval: int | None) -> None:
        """Counts the episodes that ended, in one step `[n]` or several `[T, n]`, and logs after every `log_interval`-th."""
        ended = done.nonzero()[:, -1].tolist()
        if not ended:
            return
        before, self._episode_num = self._episode_num, self._episode_num + len(ended)
        if isinstance(self.action_noise, VectorizedActionNoise):
            self.action_noise.reset(ended)
        elif self.action_noise is not None:
            self.action_noise.reset()
        if log_interval is not None and before // log_interval != self._episode_num // log_interval:
            self.dump_logs()

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the log: the updates since the last time, averaged, beside the last episodes."""
        if self._log:
            self._record_updates(self._log)
            self._log.clear()
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        super().dump_logs(iteration)

    def save_replay_buffer(self, path: Any) -> None:
        """Saves what the replay buffer holds, to an open file or a path, which only ever names a whole file."""
        if hasattr(path, "write"):
            torch.save(self.replay_buffer.state_dict(), path)
            return
        with atomic_write(Path(path)) as file:
            torch.save(self.replay_buffer.state_dict(), file)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Fills the replay buffer with what was saved, as far as there is room; the number of worlds may be another.

        Raises:
            UserError: If the file is not a whole replay buffer, or one of other spaces.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise UserError(f"The replay buffer {path} cannot be read: {type(error).__name__}: {error}") from None
        self.replay_buffer.load_state_dict(state)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_log"]


def _check_actions(space: spaces.Space, learner: str) -> None:
    if not isinstance(space, spaces.Box):
        raise UserError(f"{learner} acts in continuous spaces; found {space}: use PPO or A2C for it (--algo ppo, --algo a2c).")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise UserError(f"{learner} needs an action space with finite bounds; found {space}.")
