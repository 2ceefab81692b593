"""The one rollout loop that all on-policy learners share: act, step, store, then ask the critic once."""

from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from dibs_rl import ranks, sync
from dibs_rl.agents.checks import check_log_probs, check_objectives, check_observations, check_rewards
from dibs_rl.agents.engines import Engine, engine_of
from dibs_rl.agents.learner import VectorLearner
from dibs_rl.agents.policies import VectorCritic
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.buffers import VectorRolloutBuffer, chunks
from dibs_rl.lazy import as_array
from dibs_rl.returns import generalized_advantages
from dibs_rl.vec_env import Obs, VectorRewardVecEnv, map_obs


class VectorRollouts(VectorLearner, OnPolicyAlgorithm):
    """Mixin: collects rollouts of vector-reward environments."""

    policy: VectorCritic
    rollout_buffer: VectorRolloutBuffer  # type: ignore[assignment]

    def _setup_learn(self, *arguments: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As SB3's; where there are several ranks they all begin as the first one is."""
        if ranks.number() > 1:
            start = ranks.from_lead((self.get_parameters(), self.num_timesteps, self._n_updates))
            parameters, self.num_timesteps, self._n_updates = start
            self.set_parameters(parameters)
        return super()._setup_learn(*arguments, **kwargs)

    def collect_rollouts(  # type: ignore[override]
        self,
        env: VectorRewardVecEnv,
        callback: BaseCallback,
        rollout_buffer: VectorRolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fills the buffer with `n_rollout_steps` steps of every world; False if a callback stopped it."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset(env.active)
        if self.use_sde:
            self._reset_noise(env.num_envs)
        engine = engine_of(self.policy)
        callback.on_rollout_start()
        with torch_threads(1 if engine.small else torch.get_num_threads()):
            go_on = self._fill(rollout_buffer, engine, env, callback, n_rollout_steps)
            self._note_endings(env)
            if not go_on:
                return False
            self._check_rollout(rollout_buffer)
            self._compute_advantages(rollout_buffer, engine, self._to_device(self._last_obs))
            self._share_endings()
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _fill(
        self,
        rollout_buffer: VectorRolloutBuffer,
        engine: Engine,
        env: VectorRewardVecEnv,
        callback: BaseCallback,
        n_rollout_steps: int,
    ) -> bool:
        """Acts and steps; False if a callback stopped it. Callbacks see its local variables under SB3's names.

        Nobody waits for a GPU here, unless a callback looks.
        """
        obs = self._to_device(self._last_obs)
        for t in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and t % self.sde_sample_freq == 0:
                self._reset_noise(env.num_envs)
            actions, log_probs = self._act(engine, obs, rollout_buffer)
            rollout_buffer.add_decision(obs, actions, log_probs)
            step = env.step_tensors(self._inside_action_space(actions))
            rollout_buffer.add_outcome(step)
            self.num_timesteps += env.num_envs * ranks.number()
            new_obs, rewards, dones, infos = step.obs, step.reward, as_array(step.done), env.lazy_infos(step)
            self._note_successes(env)
            if not sync.waits(env.device) and dones.any():
                self._note_endings(env)
            callback.update_locals(locals())
            obs = self._to_device(new_obs)
            go_on = callback.on_step()
            if not go_on or t == n_rollout_steps - 1:
                self._last_obs = map_obs(torch.clone, obs)  # a step's tensors are only lent
            if not go_on:
                return False
        return True

    def _reset_noise(self, n: int) -> None:
        with sync.no_look(self.device):
            self.policy.reset_noise(n)

    def _act(self, engine: Engine, obs: Obs, buffer: VectorRolloutBuffer) -> tuple[Tensor, Tensor]:
        """Actions and log probabilities; where the policy cannot act, says which number was not finite."""
        try:
            return engine.act(engine.inputs(obs))
        except (ValueError, RuntimeError):  # no distribution has parameters that are not finite
            self._check_rewards(buffer)
            check_observations(obs, self._steps_of_a_world)
            raise

    def _check_rewards(self, buffer: VectorRolloutBuffer) -> None:
        first_step = self._steps_of_a_world - buffer.pos
        check_rewards(buffer.rewards[: buffer.pos], self.objectives, first_step)

    def _check_rollout(self, buffer: VectorRolloutBuffer) -> None:
        """Looks for numbers that are not finite; on a GPU also for those of `_act`, which looks at every step elsewhere."""
        if sync.waits(buffer.device) and not buffer.log_probs.isfinite().all():
            first_step = self._steps_of_a_world - buffer.pos
            t = int((~buffer.log_probs.isfinite()).any(dim=1).nonzero()[0])
            check_rewards(buffer.rewards[:t], self.objectives, first_step)
            check_observations(map_obs(lambda stored: stored[t], buffer.obs), first_step + t)
            check_log_probs(buffer.log_probs)
        self._check_rewards(buffer)

    @property
    def _steps_of_a_world(self) -> int:
        return self.num_timesteps // (self.n_envs * ranks.number())

    @torch.no_grad()
    def _compute_advantages(self, buffer: VectorRolloutBuffer, engine: Engine, last_obs: Obs) -> None:
        """Asks the critic once about the whole rollout, then GAE for all objectives."""
        values = self._values(engine, buffer.flat(buffer.obs)).view(buffer.rewards.shape)
        truncated_obs = buffer.truncated_obs()
        truncated_values = None if truncated_obs is None else self._values(engine, self._to_device(truncated_obs))
        next_values = buffer.next_values(values, self._values(engine, last_obs), truncated_values)
        buffer.advantages = generalized_advantages(
            buffer.rewards,
            values,
            next_values,
            buffer.terminated,
            buffer.terminated | buffer.truncated,
            buffer.gamma,
            buffer.gae_lambda,
        )
        check_objectives(buffer.advantages, self.objectives, f"After {self.num_timesteps} steps the advantage")
        buffer.value_targets = buffer.advantages + values
        if buffer.active is not None:
            buffer.advantages.masked_fill_(~buffer.active, 0.0)

    def _values(self, engine: Engine, obs: Obs) -> Tensor:
        head = self.policy.value_net
        return torch.cat([head.unnormalise(engine.values(engine.inputs(part)).values) for part in chunks(obs)])
