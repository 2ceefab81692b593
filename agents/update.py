"""The one combined step that all on-policy learners share: m policy losses, one gradient each, one direction."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torchjd.aggregation import Aggregator, WeightedAggregator

from dibs_rl.agents.rollouts import VectorRollouts
from dibs_rl.buffers import Minibatch, chunks, slices, take
from dibs_rl.combiners import follow_jacobian
from dibs_rl.diagnostics import Bargain, describe_bargain, summarise
from dibs_rl.errors import NonFiniteError
from dibs_rl.gradients import objective_jacobian, write_gradient
from dibs_rl.losses import value_losses
from dibs_rl.returns import explained_variances, normalise_columns

Every = Literal["rollout", "epoch", "minibatch"]


class CombinedUpdate(VectorRollouts):
    """Mixin: updates policy and critic on a rollout; the algorithm gives the policy losses."""

    n_epochs: int
    batch_size: int
    normalize_advantage: bool
    bargain_every: Every
    _aggregator: Aggregator
    _scalarise: Callable[[Tensor], Tensor] | None

    def train(self) -> None:
        """Updates policy and critic on the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.policy.optimizer, self.policy.value_optimizer])
        buffer = self.rollout_buffer
        log: dict[str, list] = defaultdict(list)
        batch = buffer.whole(self._policy_advantages(), self._value_targets())
        weights = self._bargain(batch, log) if self.bargain_every == "rollout" else None
        for _ in range(self.n_epochs):
            if self.bargain_every == "epoch":
                weights = self._bargain(batch, log)
            go_on = self._train_epoch(batch, weights, log)
            self._n_updates += 1
            if not go_on:
                break
        self._check_parameters()
        for part in chunks(batch.obs):
            self.policy.absorb_observations(part)
        log["explained_variance"].append(explained_variances(buffer.value_targets, buffer.advantages))
        self._log_update(log)

    def _train_epoch(self, rollout: Minibatch, weights: Tensor | None, log: dict[str, list]) -> bool:
        """Goes once over the rollout in minibatches; False if the policy has moved as far as it may."""
        for part in self.rollout_buffer.indices(self.batch_size):
            batch = take(rollout, part)
            if weights is None and self.normalize_advantage:
                batch = batch._replace(advantages=normalise_columns(batch.advantages))
            log_prob, entropy = self._judge(batch)
            log_ratio = log_prob - batch.log_probs
            if not self._may_go_on(log_ratio.detach(), batch, log):
                return False
            losses = self._policy_losses(log_ratio, batch)
            self._step_policy(losses, -entropy.mean(), weights, log)
            self._step_critic(batch, log)
        return True

    def _judge(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Log probabilities and entropies of the batch's actions, `[b]` each."""
        try:
            return self.policy.log_prob_and_entropy(batch.obs, batch.actions)
        except ValueError:  # torch's distributions refuse parameters that are not finite
            self._check_parameters()
            raise

    def _check_parameters(self) -> None:
        std = self.policy.log_std.exp() if hasattr(self.policy, "log_std") else torch.ones(())
        if not all(torch.isfinite(part).all() for part in (std, *self.policy.parameters())):
            raise NonFiniteError(f"Training has diverged: a parameter is not finite after {self.num_timesteps} steps.")

    def _policy_advantages(self) -> Tensor:
        """The rollout's advantages as the policy losses see them, `[N, k]`.

        They are normalised over what is combined at a time: over the rollout here, or over each minibatch (as in SB3).
        """
        advantages = self.rollout_buffer.advantages.flatten(0, 1)
        if self._scalarise is not None:
            advantages = self._scalarise(advantages)
        over_rollout = self.normalize_advantage and self.bargain_every != "minibatch"
        return normalise_columns(advantages) if over_rollout else advantages

    def _value_targets(self) -> Tensor:
        """Lets the critic's heads take the new targets into their units and returns them in these, `[N, m]`."""
        targets = self.rollout_buffer.value_targets.flatten(0, 1)
        self.policy.value_net.absorb(targets)
        return self.policy.value_net.normalise(targets)

    @property
    def _rows(self) -> tuple[str, ...]:
        """Names of the k gradients that are combined."""
        return self.objectives if self._scalarise is None else ("sum",)

    def _bargain(self, rollout: Minibatch, log: dict[str, list]) -> Tensor | None:
        """Combines the gradients of the whole rollout; the weights `[k]` are for the losses of its minibatches."""
        parameters = self.policy.policy_parameters()
        jacobian: Tensor | None = None
        for part in slices(rollout.obs):
            batch = take(rollout, part)
            log_prob, _ = self._judge(batch)
            losses = self._policy_losses(log_prob - batch.log_probs, batch)
            share = len(batch.log_probs) / len(rollout.log_probs)
            rows = objective_jacobian(losses * share, parameters)
            jacobian = rows if jacobian is None else jacobian + rows
        if jacobian is None:
            raise RuntimeError("The rollout is empty.")
        return self._combine(jacobian, log)[1]

    def _combine(self, jacobian: Tensor, log: dict[str, list]) -> tuple[Tensor, Tensor | None]:
        """The direction `[p]`, and the weights `[k]` it is made with where the combiner has any."""
        follow_jacobian(self._aggregator, jacobian)
        weights: Tensor | None = None
        if isinstance(self._aggregator, WeightedAggregator):
            weights = self._aggregator.weighting(jacobian)
            direction = weights @ jacobian
        else:
            direction = self._aggregator(jacobian)
        log["bargain"].append(describe_bargain(jacobian, direction, weights, self._rows))
        return direction, weights

    def _step_policy(self, losses: Tensor, entropy_loss: Tensor, weights: Tensor | None, log: dict[str, list]) -> None:
        """One optimiser step of the policy along the combined gradient; the entropy bonus is added after combining."""
        parameters = self.policy.policy_parameters()
        self.policy.optimizer.zero_grad()
        if weights is not None:
            (weights @ losses + self.ent_coef * entropy_loss).backward(inputs=parameters)
        else:
            jacobian = objective_jacobian(losses, parameters, retain_graph=self.ent_coef != 0)
            write_gradient(parameters, self._combine(jacobian, log)[0])
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
