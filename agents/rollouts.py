"""The one rollout loop that all on-policy learners share: act, step, store, then ask the critic once."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from dibs_rl.agents.engines import Engine, engine_of
from dibs_rl.agents.objective_log import ObjectiveLog
from dibs_rl.agents.persistence import Persistent
from dibs_rl.agents.policies import VectorCritic
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.buffers import VectorRolloutBuffer, chunks
from dibs_rl.envs import as_vector_env
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.returns import generalized_advantages
from dibs_rl.vec_env import Obs, VectorRewardVecEnv, map_obs


class VectorRollouts(ObjectiveLog, Persistent, OnPolicyAlgorithm):
    """Mixin: collects rollouts of vector-reward environments."""

    policy: VectorCritic
    env: VectorRewardVecEnv
    rollout_buffer: VectorRolloutBuffer  # type: ignore[assignment]
    _action_bounds: tuple[Tensor, ...] | None = None

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VectorRewardVecEnv:
        return as_vector_env(env)

    def _check_objectives(self, env: VectorRewardVecEnv) -> None:
        if env.objectives != self.objectives:
            raise UserError(
                f"The model was made for the objectives {', '.join(self.objectives)}; "
                f"the environment has {', '.join(env.objectives)}."
            )

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Sets the environment, as SB3 does; its objectives must be those of the model."""
        env = as_vector_env(env)
        self._check_objectives(env)
        super().set_env(env, force_reset)

    def collect_rollouts(  # type: ignore[override]
        self,
        env: VectorRewardVecEnv,
        callback: BaseCallback,
        rollout_buffer: VectorRolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fills the buffer with `n_rollout_steps` steps of every world; False if a callback stopped it."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        engine = engine_of(self.policy)
        callback.on_rollout_start()
        with torch_threads(1 if engine.small else torch.get_num_threads()):
            if not self._fill(rollout_buffer, engine, env, callback, n_rollout_steps):
                return False
            self._check_rewards(rollout_buffer)
            self._compute_advantages(rollout_buffer, engine, self._to_device(self._last_obs))
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
        """Acts and steps; False if a callback stopped it. Callbacks see its local variables under SB3's names."""
        obs = self._to_device(self._last_obs)
        for t in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and t % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            actions, log_probs = self._act(engine, obs, rollout_buffer)
            rollout_buffer.add_decision(obs, actions, log_probs)
            step = env.step_tensors(self._inside_action_space(actions))
            rollout_buffer.add_outcome(step)
            self.num_timesteps += env.num_envs
            rewards, dones, infos = step.reward, step.done.cpu().numpy(), env.lazy_infos(step)
            if dones.any():
                self._note_endings(env)
            callback.update_locals(locals())
            obs = self._to_device(step.obs)
            go_on = callback.on_step()
            if not go_on or t == n_rollout_steps - 1:
                self._last_obs = map_obs(torch.clone, obs)  # a step's tensors are only lent
            if not go_on:
                return False
        return True

    def _note_endings(self, env: VectorRewardVecEnv) -> None:
        """Keeps the statistics of the episodes that ended, as SB3 does."""
        returns, lengths = env.pop_episodes()
        pairs = zip(returns.cpu().numpy(), lengths.tolist(), strict=True)
        self.ep_info_buffer.extend({"r": total, "l": length} for total, length in pairs)  # type: ignore[union-attr]
        successes = (info["is_success"] for info in env.own_infos.values() if info.get("is_success") is not None)
        self.ep_success_buffer.extend(successes)  # type: ignore[union-attr]

    def _act(self, engine: Engine, obs: Obs, buffer: VectorRolloutBuffer) -> tuple[Tensor, Tensor]:
        """Actions and log probabilities; where the policy cannot act, says which number was not finite."""
        try:
            return engine.act(engine.inputs(obs))
        except (ValueError, RuntimeError) as error:  # no distribution has parameters that are not finite
            self._check_rewards(buffer)
            step = self.num_timesteps // buffer.n_envs
            for part in obs.values() if isinstance(obs, dict) else [obs]:
                bad = (~torch.isfinite(part)).flatten(1).any(dim=1).nonzero().flatten().tolist()
                if bad:
                    raise NonFiniteError(
                        f"The observation of environment {bad[0]} is not finite before its step {step}; mend the environment."
                    ) from error
            raise

    def _to_device(self, obs: Any) -> Obs:
        return map_obs(lambda part: torch.as_tensor(part, device=self.device), obs)

    def _inside_action_space(self, actions: Tensor) -> Tensor:
        """What the worlds are given for what the policy sampled."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self._action_bounds is None or self._action_bounds[0].device != actions.device:
            edges = self.action_space.low, self.action_space.high
            self._action_bounds = tuple(torch.as_tensor(edge, device=actions.device) for edge in edges)
        low, high = self._action_bounds
        if self.policy.squash_output:
            return low + 0.5 * (actions + 1.0) * (high - low)
        return actions.clamp(low, high)

    def _check_rewards(self, buffer: VectorRolloutBuffer) -> None:
        rewards = buffer.rewards[: buffer.pos]
        if torch.isfinite(rewards).all():
            return
        t, world, i = (~torch.isfinite(rewards)).nonzero()[0].tolist()
        step = self.num_timesteps // buffer.n_envs - buffer.pos + t
        raise NonFiniteError(
            f"The reward {self.objectives[i]!r} is {buffer.rewards[t, world, i].item()} in environment {world} at its step "
            f"{step}: rewards must be finite; mend the environment, or the transform of its rewards."
        )

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
        if not torch.isfinite(buffer.advantages).all():
            bad = (~torch.isfinite(buffer.advantages)).flatten(0, 1).any(dim=0).tolist()
            names = ", ".join(name for name, is_bad in zip(self.objectives, bad, strict=True) if is_bad)
            raise NonFiniteError(f"The advantages of {names} are not finite after {self.num_timesteps} steps.")
        buffer.value_targets = buffer.advantages + values

    def _values(self, engine: Engine, obs: Obs) -> Tensor:
        head = self.policy.value_net
        return torch.cat([head.unnormalise(engine.values(engine.inputs(part)).values) for part in chunks(obs)])
