"""The one combined step that all on-policy learners share: m policy losses, one gradient each, one direction."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dibs_rl import ranks, sync
from dibs_rl.agents.adam import quick_step
from dibs_rl.agents.checks import check_parameters
from dibs_rl.agents.engines import Engine, Evaluation, engine_of
from dibs_rl.agents.kl_stop import KLStop, masked
from dibs_rl.agents.records import Log
from dibs_rl.agents.rollouts import VectorRollouts
from dibs_rl.agents.side_by_side import Beside, beside
from dibs_rl.buffers import Minibatch, Minibatches, chunks, slices, take
from dibs_rl.gradients import flat_gradient
from dibs_rl.losses import PolicyLosses, value_losses
from dibs_rl.returns import explained_variances, normalise_columns

Every = Literal["rollout", "epoch", "minibatch"]
Result = Callable[[], list[Tensor]]
Masks = list[Tensor | None]


class ClippedStep:
    """Steps of an optimiser along given gradients, whose norm is limited.

    Args:
        optimizer: Its parameters that are not among `parameters` stay as they are.
        parameters: What the gradients are by, in their order.
        max_norm: Largest norm of a gradient.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], max_norm: float) -> None:
        self._max_norm = max_norm
        self._flat, parts = flat_gradient(parameters)
        optimizer.zero_grad()
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part
        self._step = quick_step(optimizer)

    def along(self, gradient: Tensor, mask: Tensor | None = None) -> None:
        """One step along minus a gradient `[p]`, the same in all ranks.

        Args:
            gradient: `[p]`.
            mask: `[]` float32: no step where it is 1.

        Raises:
            ValueError: If the gradient has not as many entries as the parameters.
        """
        if gradient.shape != self._flat.shape:
            raise ValueError(f"The gradient must have {len(self._flat)} entries; found shape {list(gradient.shape)}.")
        scale = (self._max_norm / torch.linalg.vector_norm(gradient).add_(1e-6)).clamp_(max=1.0)  # as torch's clip_grad_norm_
        torch.mul(gradient, scale, out=self._flat)
        self._step(mask)


class CombinedUpdate(VectorRollouts):
    """Mixin: updates policy and critic on a rollout; the algorithm gives the policy losses.

    On a GPU nothing waits for it before the update is over: then its log is read, in one transfer.
    """

    target_kl: float | None = None
    n_epochs: int
    batch_size: int
    normalize_advantage: bool
    bargain_every: Every = "minibatch"

    def train(self) -> None:
        """Updates policy and critic on the rollout, side by side where torch may use more than one thread and that helps."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.policy.optimizer, self.policy.value_optimizer])
        log: Log = defaultdict(list)
        engine = engine_of(self.policy)
        # Ranks speak to each other in an order that two threads would not keep, and a GPU has work from one thread enough.
        alone = ranks.number() == 1 and not sync.waits(self.device)
        overlaps = alone and (self.bargain_every == "epoch" or not engine.small)
        with beside(engine.small, overlaps) as call:
            try:
                self._update(engine, call, log)
            except ValueError:  # torch's distributions and the combiners refuse what is not finite; the cause comes first
                check_parameters(self.policy, self.num_timesteps)
                raise
            check_parameters(self.policy, self.num_timesteps)
            self._record_updates(log)

    def _update(self, engine: Engine, call: Beside, log: Log) -> None:
        """All that is learnt from the rollout."""
        self._learn_from_rollout(engine, call, log)
        buffer = self.rollout_buffer
        for part in chunks(buffer.flat(buffer.obs)):
            self.policy.absorb_observations(part)
        log["explained_variance"].append(explained_variances(buffer.value_targets, buffer.advantages, buffer.active))
        if hasattr(self.policy, "log_std"):
            log["std"].append(self.policy.log_std.detach().exp().mean())

    def _learn_from_rollout(self, engine: Engine, call: Beside, log: Log) -> None:
        buffer = self.rollout_buffer
        self._measure_distances(buffer.flat(buffer.obs), buffer.active_samples(), log)
        batch = self.rollout_buffer.whole(self._policy_advantages(), self._value_targets())
        batch = batch._replace(obs=engine.inputs(batch.obs))
        critic = ClippedStep(self.policy.value_optimizer, self.policy.value_parameters(), self.max_grad_norm)
        learnt = self._train_policy(engine, batch, log, partial(call, self._train_critic, engine, critic))
        value_losses_found = [loss for losses in learnt for loss in losses()]
        if value_losses_found:  # none where the very first minibatch was too far from the old policy
            log["value_loss"] = value_losses_found

    def _train_policy(
        self, engine: Engine, rollout: Minibatch, log: Log, then: Callable[[Minibatches, Masks], Result]
    ) -> list[Result]:
        """Goes over the rollout in minibatches, epoch after epoch, until the policy has moved as far as it may.

        Args:
            engine: Differentiates the networks.
            rollout: The whole rollout.
            log: Collects what is logged.
            then: Called after each epoch with its minibatches and a mask (see `KLStop`) for each of those that the policy has
                learnt from; its results are returned.
        """
        weights = self._bargain(engine, rollout, log) if self.bargain_every == "rollout" else None
        step = ClippedStep(self.policy.optimizer, self.policy.policy_parameters(), self.max_grad_norm)
        stop = KLStop(None if self.target_kl is None else 1.5 * self.target_kl)
        results: list[Result] = []
        for _ in range(self.n_epochs):
            if self.bargain_every == "epoch":
                weights = self._bargain(engine, rollout, log)
            if engine.small and results:
                results[-1]()  # short operations of two threads wait for each other; the long ones of a bargain do not
            batches = Minibatches(rollout, list(self.rollout_buffer.indices(self.batch_size)))
            masks = self._train_epoch(engine, step, batches, weights, stop, log)
            results.append(then(batches, masks))
            self._n_updates += 1
            if len(masks) < len(batches):
                break
        return results

    def _train_epoch(
        self, engine: Engine, step: ClippedStep, batches: Minibatches, weights: Tensor | None, stop: KLStop, log: Log
    ) -> Masks:
        """Takes the policy's steps of one epoch and returns the mask of each that was taken."""
        masks: Masks = []
        for batch in batches:
            if weights is None and self.normalize_advantage:
                active = batch.active if self._sum is None else None
                batch = batch._replace(advantages=normalise_columns(batch.advantages, active))
            evaluated = engine.evaluate(batch.obs, batch.actions)
            log_ratio = evaluated.log_prob - batch.log_probs
            divergence = self._divergence(log_ratio)
            if divergence is not None:
                log["approx_kl"].append(stop.kept(divergence))
                if stop.reached(divergence):
                    break
            self._step_policy(step, evaluated, self._policy_losses(log_ratio, batch), weights, stop, log)
            masks.append(stop.mask)
        return masks

    def _train_critic(self, engine: Engine, step: ClippedStep, batches: Minibatches, masks: Masks) -> list[Tensor]:
        """Takes the critic's steps on the minibatches that the policy has taken, and returns its losses, `[m]` each."""
        found = []
        for mask, batch in zip(masks, batches, strict=False):
            values = engine.values(batch.obs)
            losses, slopes = value_losses(values.values, batch.value_targets, batch.active)
            step.along(ranks.mean(values.gradient(slopes.mul_(self.vf_coef))), mask)
            found.append(masked(losses, mask))
        return found

    def _policy_advantages(self) -> Tensor:
        """The rollout's advantages as the policy losses see them, `[N, k]`.

        They are normalised over what is combined at a time: over the rollout here, or over each minibatch (as in SB3).
        """
        advantages, active = self.rollout_buffer.advantages.flatten(0, 1), self.rollout_buffer.active_samples()
        if self._sum is not None:
            advantages, active = self._sum.scalarise(advantages, active), None
        over_rollout = self.normalize_advantage and self.bargain_every != "minibatch"
        return normalise_columns(advantages, active) if over_rollout else advantages

    def _value_targets(self) -> Tensor:
        """Lets the critic's heads take the new targets into their units and returns them in these, `[N, m]`."""
        targets = self.rollout_buffer.value_targets.flatten(0, 1)
        self.policy.value_net.absorb(targets, self.rollout_buffer.active_samples())
        return self.policy.value_net.normalise(targets)

    def _bargain(self, engine: Engine, rollout: Minibatch, log: Log) -> Tensor | None:
        """Combines the gradients of the whole rollout; the weights `[k]` are for the losses of its minibatches."""
        jacobian: Tensor | None = None
        for part in slices(rollout.obs):
            batch = take(rollout, part)
            evaluated = engine.evaluate(batch.obs, batch.actions)
            losses = self._policy_losses(evaluated.log_prob - batch.log_probs, batch)
            share = evaluated.jacobian(losses.slopes * (len(batch.log_probs) / len(rollout.log_probs)))
            jacobian = share if jacobian is None else jacobian + share
        if jacobian is None:
            raise RuntimeError("The rollout is empty.")
        return self._combine(ranks.mean(jacobian), log)[1]

    def _step_policy(
        self, step: ClippedStep, evaluated: Evaluation, losses: PolicyLosses, weights: Tensor | None, stop: KLStop, log: Log
    ) -> None:
        """One optimiser step of the policy along the combined gradient; the entropy bonus is added after combining."""
        if weights is not None:
            gradient = ranks.mean(evaluated.gradient(losses.slopes @ weights, -self.ent_coef))
        else:
            gradient, _ = self._combine(ranks.mean(evaluated.jacobian(losses.slopes)), log)
            if self.ent_coef != 0:
                of_entropy = evaluated.gradient(torch.zeros_like(evaluated.log_prob), -self.ent_coef)
                gradient = gradient + ranks.mean(of_entropy)
        step.along(gradient, stop.mask)
        log["policy_gradient_loss"].append(stop.kept(losses.losses))
        if losses.clip_fractions is not None:
            log["clip_fraction"].append(stop.kept(losses.clip_fractions))
        log["entropy_loss"].append(stop.kept(-evaluated.entropy))

    @abstractmethod
    def _policy_losses(self, log_ratio: Tensor, batch: Minibatch) -> PolicyLosses:
        """The algorithm's policy losses, from the log probability ratios `[b]`."""

    def _divergence(self, log_ratio: Tensor) -> Tensor | None:
        """How far the policy has moved, `[]`, where the algorithm asks."""
        return None
