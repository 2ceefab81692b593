"""The one rollout loop and the one combined step that all on-policy learners share."""

import sys
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn
from torchjd.aggregation import Aggregator, WeightedAggregator

from dibs_rl.agents.persistence import Persistent
from dibs_rl.agents.policies import VectorCritic
from dibs_rl.buffers import Minibatch, VectorRolloutBuffer, take
from dibs_rl.combiners import make_combiner, split_scalarisation
from dibs_rl.diagnostics import Bargain, describe_bargain, summarise
from dibs_rl.envs import as_vector_env
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.gradients import objective_jacobian, write_gradient
from dibs_rl.losses import value_losses
from dibs_rl.returns import explained_variances, generalized_advantages, normalise_columns
from dibs_rl.vec_env import Obs, VectorRewardVecEnv, map_obs

Every = Literal["rollout", "epoch", "minibatch"]
_CHUNK_ENTRIES = 2**24  # observation entries that go through a network at once: 64 MiB in float32


class Bargained(NamedTuple):
    """What came of combining the whole rollout's gradients: the weights `[k]` on the losses of its minibatches."""

    weights: Tensor


class VectorOnPolicy(Persistent, OnPolicyAlgorithm):
    """Mixin for SB3's on-policy learners: m rewards, one policy gradient for each, and a combiner between them.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"`, or a policy class with the `VectorCritic` mixin.
        env: See `dibs_rl.envs.as_vector_env`.
        combiner: A name out of `dibs_rl.combiners.COMBINERS`, or any TorchJD aggregator.
        preference: Positive weights on the objectives, in their order or by name; equal if not given.
        bargain_every: How often the gradients are combined anew: on the whole rollout once a `"rollout"` or once an
            `"epoch"` (the minibatches then follow the weighted sum of the losses), or on every `"minibatch"`.
        **kwargs: SB3's.

    Raises:
        UserError: If the environment gives no vector reward, or an argument cannot be used with many rewards.
    """

    policy: VectorCritic
    env: VectorRewardVecEnv
    rollout_buffer: VectorRolloutBuffer  # type: ignore[assignment]
    n_epochs: int
    batch_size: int
    normalize_advantage: bool
    target_kl: float | None

    def __init__(
        self,
        policy: str | type[VectorCritic],
        env: Any,
        *,
        combiner: str | Aggregator = "dibs",
        preference: Sequence[float] | Mapping[str, float] | None = None,
        bargain_every: Every = "rollout",
        **kwargs: Any,
    ) -> None:
        env = None if env is None else as_vector_env(env)
        self.objectives: tuple[str, ...] = () if env is None else env.objectives
        self.combiner = combiner
        self.preference = preference
        self.bargain_every = bargain_every
        if kwargs.get("rollout_buffer_class") is not None:
            raise UserError("rollout_buffer_class cannot be changed: SB3's buffers hold scalar rewards.")
        super().__init__(policy, env, **kwargs)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VectorRewardVecEnv:
        return as_vector_env(env)

    def _setup_model(self) -> None:
        self.objectives = tuple(self.objectives)  # a saved model's come back as a list
        if self.env is not None:
            self._check_objectives(self.env)
        if not issubclass(self.policy_class, VectorCritic):
            raise UserError(
                f"The policy {self.policy_class.__name__} has one critic head: use MlpPolicy, CnnPolicy or "
                "MultiInputPolicy, or put the mixin dibs_rl.agents.policies.VectorCritic before its bases."
            )
        if self.bargain_every not in get_args(Every):
            raise UserError(f"bargain_every is {', '.join(get_args(Every))}; found {self.bargain_every!r}.")
        self._scalarise, self._aggregator = split_scalarisation(self._make_combiner())
        self.policy_kwargs = {**self.policy_kwargs, "reward_dim": len(self.objectives)}
        self.rollout_buffer_class = VectorRolloutBuffer  # type: ignore[assignment]
        self.rollout_buffer_kwargs = {"reward_dim": len(self.objectives)}
        super()._setup_model()

    def _make_combiner(self) -> Aggregator:
        if not isinstance(self.combiner, str):
            if self.preference is not None:
                raise UserError("Give the preference to the combiner object itself, or name the combiner.")
            combiner = self.combiner
        else:
            weights = preference_vector(self.preference, self.objectives)
            combiner = make_combiner(self.combiner, preference=weights, objectives=self.objectives)
        _, aggregator = split_scalarisation(combiner)
        if self.bargain_every != "minibatch" and not isinstance(aggregator, WeightedAggregator):
            raise UserError(
                f"{type(combiner).__name__} gives a direction and no weights on the objectives, so it has to combine every "
                "minibatch: bargain_every='minibatch'."
            )
        return combiner

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
        obs = self._to_device(self._last_obs)
        callback.on_rollout_start()
        for t in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and t % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with torch.no_grad():
                actions, log_probs = self.policy.act(obs)
            rollout_buffer.add_decision(obs, actions, log_probs)
            step = env.step_tensors(self._inside_action_space(actions))
            rollout_buffer.add_outcome(step)
            self.num_timesteps += env.num_envs
            rewards, dones, infos = step.reward, step.done.cpu().numpy(), env.infos(step)
            if dones.any():
                self._update_info_buffer(infos, dones)
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            obs = self._to_device(step.obs)
        self._last_obs = map_obs(torch.clone, obs)
        self._check_rewards(rollout_buffer)
        self._compute_advantages(rollout_buffer, obs)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _to_device(self, obs: Any) -> Obs:
        return map_obs(lambda part: torch.as_tensor(part, device=self.device), obs)

    def _inside_action_space(self, actions: Tensor) -> Tensor:
        """What the worlds are given for what the policy sampled."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        low, high = (torch.as_tensor(edge, device=actions.device) for edge in (self.action_space.low, self.action_space.high))
        if self.policy.squash_output:
            return low + 0.5 * (actions + 1.0) * (high - low)
        return actions.clamp(low, high)

    def _check_rewards(self, buffer: VectorRolloutBuffer) -> None:
        if torch.isfinite(buffer.rewards).all():
            return
        t, world, i = (~torch.isfinite(buffer.rewards)).nonzero()[0].tolist()
        step = self.num_timesteps // buffer.n_envs - buffer.buffer_size + t
        raise NonFiniteError(
            f"The reward {self.objectives[i]!r} is {buffer.rewards[t, world, i].item()} in environment {world} at its step "
            f"{step}: rewards must be finite; mend the environment."
        )

    @torch.no_grad()
    def _compute_advantages(self, buffer: VectorRolloutBuffer, last_obs: Obs) -> None:
        """Asks the critic once about the whole rollout, then GAE for all objectives."""
        values = self._values(buffer.flat(buffer.obs)).view(buffer.rewards.shape)
        truncated_obs = buffer.truncated_obs()
        truncated_values = None if truncated_obs is None else self._values(self._to_device(truncated_obs))
        next_values = buffer.next_values(values, self._values(last_obs), truncated_values)
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

    def _values(self, obs: Obs) -> Tensor:
        return torch.cat([self.policy.predict_values(part) for part in _chunks(obs)])

    def train(self) -> None:
        """Updates policy and critic on the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.policy.optimizer, self.policy.value_optimizer])
        buffer = self.rollout_buffer
        log: dict[str, list] = defaultdict(list)
        batch = buffer.whole(self._policy_advantages(), self._value_targets())
        bargained = self._bargain(batch, log) if self.bargain_every == "rollout" else None
        for _ in range(self.n_epochs):
            if self.bargain_every == "epoch":
                bargained = self._bargain(batch, log)
            if not self._train_epoch(batch, bargained, log):
                break
            self._n_updates += 1
        for part in _chunks(batch.obs):
            self.policy.absorb_observations(part)
        log["explained_variance"].append(explained_variances(buffer.value_targets, buffer.advantages))
        self._log_update(log)

    def _train_epoch(self, rollout: Minibatch, bargained: Bargained | None, log: dict[str, list]) -> bool:
        """Goes once over the rollout in minibatches; False if the policy has moved as far as it may."""
        for part in self.rollout_buffer.indices(self.batch_size):
            batch = take(rollout, part)
            log_prob, entropy = self.policy.log_prob_and_entropy(batch.obs, batch.actions)
            log_ratio = log_prob - batch.log_probs
            if not self._may_go_on(log_ratio.detach(), batch, log):
                return False
            losses = self._policy_losses(log_ratio, batch)
            self._step_policy(losses, -entropy.mean(), bargained, log)
            self._step_critic(batch, log)
        return True

    def _policy_advantages(self) -> Tensor:
        """The advantages that the policy losses see, `[N, k]`."""
        advantages = self.rollout_buffer.advantages.flatten(0, 1)
        if self._scalarise is not None:
            advantages = self._scalarise(advantages)
        return normalise_columns(advantages) if self.normalize_advantage else advantages

    def _value_targets(self) -> Tensor:
        """Lets the critic's heads take the new targets into their units and returns them in these, `[N, m]`."""
        targets = self.rollout_buffer.value_targets.flatten(0, 1)
        self.policy.value_net.absorb(targets)
        return self.policy.value_net.normalise(targets)

    @property
    def _rows(self) -> tuple[str, ...]:
        """Names of the k gradients that are combined."""
        return self.objectives if self._scalarise is None else ("sum",)

    def _bargain(self, rollout: Minibatch, log: dict[str, list]) -> Bargained:
        """Combines the gradients of the whole rollout."""
        parameters = self.policy.policy_parameters()
        jacobian: Tensor | None = None
        for part in _slices(rollout.obs):
            batch = take(rollout, part)
            log_prob, _ = self.policy.log_prob_and_entropy(batch.obs, batch.actions)
            losses = self._policy_losses(log_prob - batch.log_probs, batch)
            share = len(batch.log_probs) / len(rollout.log_probs)
            rows = objective_jacobian(losses * share, parameters)
            jacobian = rows if jacobian is None else jacobian + rows
        if jacobian is None:
            raise RuntimeError("The rollout is empty.")
        weights = self._aggregator.weighting(jacobian)  # type: ignore[operator]
        log["bargain"].append(describe_bargain(jacobian, weights @ jacobian, weights, self._rows))
        return Bargained(weights)

    def _step_policy(self, losses: Tensor, entropy_loss: Tensor, bargained: Bargained | None, log: dict[str, list]) -> None:
        """One optimiser step of the policy along the combined gradient; the entropy bonus is added after combining."""
        parameters = self.policy.policy_parameters()
        self.policy.optimizer.zero_grad()
        if bargained is not None:
            (bargained.weights @ losses + self.ent_coef * entropy_loss).backward(inputs=parameters)
        else:
            jacobian = objective_jacobian(losses, parameters, retain_graph=self.ent_coef != 0)
            direction = self._aggregator(jacobian)
            log["bargain"].append(describe_bargain(jacobian, direction, None, self._rows))
            write_gradient(parameters, direction)
            if self.ent_coef != 0:
                (self.ent_coef * entropy_loss).backward(inputs=parameters)
        nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        self.policy.optimizer.step()
        log["policy_gradient_loss"].append(losses.detach())
        log["entropy_loss"].append(entropy_loss.detach())

    def _step_critic(self, batch: Minibatch, log: dict[str, list]) -> None:
        losses = value_losses(self.policy.normalised_values(batch.obs), batch.value_targets)
        self.policy.value_optimizer.zero_grad()
        (self.vf_coef * losses.sum()).backward()
        nn.utils.clip_grad_norm_(self.policy.value_parameters(), self.max_grad_norm)
        self.policy.value_optimizer.step()
        log["value_loss"].append(losses.detach())

    @abstractmethod
    def _policy_losses(self, log_ratio: Tensor, batch: Minibatch) -> Tensor:
        """The algorithm's policy losses, `[k]`, from the log probability ratios `[b]`."""

    @abstractmethod
    def _may_go_on(self, log_ratio: Tensor, batch: Minibatch, log: dict[str, list]) -> bool:
        """Logs how far the policy has moved; False where that is too far."""

    def _log_update(self, log: dict[str, list]) -> None:
        """Averages what the update collected and hands it to the logger, by the objectives' names."""
        bargains: list[Bargain] = log.pop("bargain", [])
        for key, value in summarise(bargains, self._rows).items() if bargains else ():
            self.logger.record(f"train/{key}", value)
        for key, values in log.items():
            mean = torch.stack(values).mean(dim=0)
            if mean.dim() == 0:
                self.logger.record(f"train/{key}", mean.item())
                continue
            names = self.objectives if len(mean) == len(self.objectives) else self._rows
            for name, value in zip(names, mean.tolist(), strict=True):
                self.logger.record(f"train/{key}/{name}", value)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the log: mean return of the last episodes for each objective, lengths and speed."""
        if self.ep_info_buffer:
            returns = np.stack([episode["r"] for episode in self.ep_info_buffer]).mean(axis=0)
            for name, value in zip(self.objectives, returns.tolist(), strict=True):
                self.logger.record(f"rollout/return/{name}", value)
            self.logger.record("rollout/ep_len_mean", np.mean([episode["l"] for episode in self.ep_info_buffer]))
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if iteration:
            self.logger.record("time/iterations", iteration, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", elapsed, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_scalarise", "_aggregator"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "policy.value_optimizer"], tensors


def preference_vector(
    preference: Sequence[float] | Mapping[str, float] | None, objectives: Sequence[str]
) -> list[float] | None:
    """Preference weights in the objectives' order.

    Raises:
        UserError: If they are given by name and a name is unknown or missing.
    """
    if preference is None or not isinstance(preference, Mapping):
        return None if preference is None else list(preference)
    if set(preference) != set(objectives):
        raise UserError(
            f"A preference by name has a weight for each of {', '.join(objectives)}; found {', '.join(preference)}."
        )
    return [preference[name] for name in objectives]


def _slices(obs: Obs) -> Iterator[slice]:
    """Cuts a batch of observations into slices whose networks' inputs fit in memory."""
    parts = list(obs.values()) if isinstance(obs, dict) else [obs]
    entries = sum(part[:1].numel() for part in parts)
    size = max(1, _CHUNK_ENTRIES // max(1, entries))
    return (slice(start, start + size) for start in range(0, len(parts[0]), size))


def _chunks(obs: Obs) -> Iterator[Obs]:
    return (map_obs(lambda stored, part=part: stored[part], obs) for part in _slices(obs))
