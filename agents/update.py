"""The one combined step that all on-policy learners share: m policy losses, one gradient each, one direction."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dibs_rl import ranks, sync
from dibs_rl.agents.checks import check_parameters
from dibs_rl.agents.clipped_step import ClippedStep
from dibs_rl.agents.engines import Engine, Evaluation, engine_of
from dibs_rl.agents.fading import Fading
from dibs_rl.agents.kl_stop import KLStop, masked
from dibs_rl.agents.recordings import Recordings
from dibs_rl.agents.records import Log
from dibs_rl.agents.side_by_side import Beside, beside
from dibs_rl.buffers import Minibatch, Minibatches, chunks, slices, take
from dibs_rl.combiners import is_recordable
from dibs_rl.diagnostics import Bargain, describe_bargain
from dibs_rl.losses import PolicyLosses, value_losses
from dibs_rl.returns import explained_variances, normalise_columns

Every = Literal["rollout", "epoch", "minibatch"]
Result = Callable[[], list[Tensor]]
Masks = list[Tensor | None]
Found = dict[str, Tensor | Bargain]  # for the log


class Learnt(NamedTuple):
    """What came of a minibatch.

    Attributes:
        found: For the log.
        taken: Whether a step was taken; not where the policy had moved too far.
        mask: See `KLStop`, of the step.
    """

    found: Found
    taken: bool
    mask: Tensor | None = None


class CombinedUpdate(Fading):
    """Mixin: updates policy and critic on a rollout; the algorithm gives the policy losses.

    On a GPU nothing waits for it before the update is over: then its log is read, in one transfer.

    Attributes:
        recordable: Whether what the class does on a minibatch may be recorded as a CUDA graph: nothing looks at tensors. A
            class says so for itself; its subclasses, whose losses may look, have to say it again.
    """

    recordable: ClassVar[bool] = False
    target_kl: float | None = None
    n_epochs: int
    batch_size: int
    bargain_every: Every = "minibatch"

    def _setup_model(self) -> None:
        self._recordings = Recordings()
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_recordings"]

    def train(self) -> None:
        """Updates policy and critic on the rollout, side by side where they gain by that."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.policy.optimizer, self.policy.value_optimizer])
        log: Log = defaultdict(list)
        engine = engine_of(self.policy)
        with beside(engine.small, self._overlaps(engine), self.device) as call:
            try:
                self._update(engine, call, log)
            except ValueError:  # torch's distributions and the combiners refuse what is not finite; the cause comes first
                check_parameters(self.policy, self.num_timesteps)
                raise
            check_parameters(self.policy, self.num_timesteps)
            self._record_updates(log)

    def _overlaps(self, engine: Engine) -> bool:
        """Whether the critic learns beside the policy."""
        if ranks.number() > 1:  # they speak to each other in an order that two threads would not keep
            return False
        if sync.waits(self.device):
            return engine.recordable and self.n_epochs > 1  # else it is the host that takes the time
        return self.bargain_every == "epoch" or not engine.small

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
        self._measure_stakes(log)
        batch = self.rollout_buffer.whole(self._policy_advantages(), self._value_targets())
        batch = batch._replace(obs=engine.inputs(batch.obs))
        step = ClippedStep(self.policy.value_optimizer, self.policy.value_parameters(), self.max_grad_norm)
        learn = self._recorded(
            "critic", partial(self._critic_step, engine, step), self._steps, engine.recordable and step.recordable
        )
        learnt = self._train_policy(engine, batch, log, partial(call, self._train_critic, learn))
        value_losses_found = [loss for losses in learnt for loss in losses()]
        if value_losses_found:  # none where the very first minibatch was too far from the old policy
            log["value_loss"] = value_losses_found

    def _recorded(self, name: str, work: Callable[..., Any], times: int, recordable: bool) -> Callable[..., Any]:
        """Work that is done so many times; on a GPU by a recording, where it may be one and speaks to no other ranks."""
        recordable = recordable and vars(type(self)).get("recordable", False) and ranks.number() == 1
        return self._recordings.of(name, work, self.device) if recordable and times > 1 else work

    @property
    def _steps(self) -> int:
        """Steps of an update, of the policy and of the critic each."""
        return self.n_epochs * -(-self.rollout_buffer.size // self.batch_size)

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
        step = ClippedStep(self.policy.optimizer, self.policy.policy_parameters(), self.max_grad_norm)
        stop = KLStop(None if self.target_kl is None else 1.5 * self.target_kl, self.device)
        bargains = self.n_epochs if self.bargain_every == "epoch" else 1
        combines = engine.recordable and is_recordable(self._aggregator)
        bargain = self._recorded("bargain", partial(self._bargain, engine, rollout), bargains, combines)
        moves = (combines if self.bargain_every == "minibatch" else engine.recordable) and step.recordable
        learn = self._recorded("policy", partial(self._policy_step, engine, step, stop), self._steps, moves)
        weights: Tensor | None = None
        results: list[Result] = []
        for epoch in range(self.n_epochs):
            if self.bargain_every == "epoch" or (self.bargain_every == "rollout" and epoch == 0):
                weights, found = bargain()
                _note(found, log)
            if engine.small and results and not sync.waits(self.device):
                results[-1]()  # short operations of two threads wait for each other; the long ones of a bargain do not
            batches = Minibatches(rollout, list(self.rollout_buffer.indices(self.batch_size)))
            masks = self._train_epoch(learn, batches, weights, log)
            results.append(then(batches, masks))
            self._n_updates += 1
            if len(masks) < len(batches):
                break
        return results

    def _train_epoch(self, learn: Callable[..., Learnt], batches: Minibatches, weights: Tensor | None, log: Log) -> Masks:
        """Takes the policy's steps of one epoch and returns the mask of each that was taken."""
        masks: Masks = []
        for batch in batches:
            learnt = learn(batch, weights)
            _note(learnt.found, log)
            if not learnt.taken:
                break
            masks.append(learnt.mask)
        return masks

    def _policy_step(
        self, engine: Engine, step: ClippedStep, stop: KLStop, batch: Minibatch, weights: Tensor | None
    ) -> Learnt:
        """Takes the policy's step of one minibatch, unless the policy has moved too far."""
        if weights is None and self.normalize_advantage:
            active = batch.active if self._sum is None else None
            batch = batch._replace(advantages=normalise_columns(batch.advantages, active))
        evaluated = engine.evaluate(batch.obs, batch.actions)
        log_ratio = evaluated.log_prob - batch.log_probs
        divergence = self._divergence(log_ratio)
        found: Found = {}
        if divergence is not None:
            found["approx_kl"] = stop.kept(divergence)
            if stop.reached(divergence):
                return Learnt(found, taken=False)
        found |= self._step_policy(step, evaluated, self._policy_losses(log_ratio, batch), weights, stop)
        return Learnt(found, taken=True, mask=None if stop.mask is None else stop.mask.clone())

    def _train_critic(self, learn: Callable[..., Tensor], batches: Minibatches, masks: Masks) -> list[Tensor]:
        """Takes the critic's steps on the minibatches that the policy has taken, and returns its losses, `[m]` each."""
        pairs = zip(masks, batches, strict=False)
        return [learn(batch.obs, batch.value_targets, batch.active, mask) for mask, batch in pairs]

    def _critic_step(
        self, engine: Engine, step: ClippedStep, obs: Any, targets: Tensor, active: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        values = engine.values(obs)
        losses, slopes = value_losses(values.values, targets, active)
        step.along(ranks.mean(values.gradient(slopes.mul_(self.vf_coef))), mask)
        return masked(losses, mask)

    def _policy_advantages(self) -> Tensor:
        """The rollout's advantages as the policy losses see them, `[N, k]`.

        They are normalised over what is combined at a time: over the rollout here, or over each minibatch (as in SB3).
        """
        advantages, active = self.rollout_buffer.advantages.flatten(0, 1), self.rollout_buffer.active_samples()
        if self._sum is not None:
            advantages, active = self._sum.scalarise(advantages, active, self._stakes), None
        over_rollout = self.normalize_advantage and self.bargain_every != "minibatch"
        return normalise_columns(advantages, active) if over_rollout else advantages

    def _value_targets(self) -> Tensor:
        """Lets the critic's heads take the new targets into their units and returns them in these, `[N, m]`."""
        targets = self.rollout_buffer.value_targets.flatten(0, 1)
        self.policy.value_net.absorb(targets, self.rollout_buffer.active_samples())
        return self.policy.value_net.normalise(targets)

    def _bargain(self, engine: Engine, rollout: Minibatch) -> tuple[Tensor | None, Found]:
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
        jacobian = ranks.mean(jacobian)
        direction, weights = self._combine(jacobian)
        return weights, {"bargain": describe_bargain(jacobian, direction, weights, self._rows)}

    def _step_policy(
        self, step: ClippedStep, evaluated: Evaluation, losses: PolicyLosses, weights: Tensor | None, stop: KLStop
    ) -> Found:
        """One optimiser step of the policy along the combined gradient; the entropy bonus is added after combining."""
        found: Found = {}
        if weights is not None:
            gradient = ranks.mean(evaluated.gradient(losses.slopes @ weights, -self.ent_coef))
        else:
            jacobian = ranks.mean(evaluated.jacobian(losses.slopes))
            gradient, bargain_weights = self._combine(jacobian)
            found["bargain"] = describe_bargain(jacobian, gradient, bargain_weights, self._rows)
            if self.ent_coef != 0:
                of_entropy = evaluated.gradient(torch.zeros_like(evaluated.log_prob), -self.ent_coef)
                gradient = gradient + ranks.mean(of_entropy)
        step.along(gradient, stop.mask)
        found["policy_gradient_loss"] = stop.kept(losses.losses)
        if losses.clip_fractions is not None:
            found["clip_fraction"] = stop.kept(losses.clip_fractions)
        found["entropy_loss"] = stop.kept(-evaluated.entropy)
        return found

    @abstractmethod
    def _policy_losses(self, log_ratio: Tensor, batch: Minibatch) -> PolicyLosses:
        """The algorithm's policy losses, from the log probability ratios `[b]`."""

    def _divergence(self, log_ratio: Tensor) -> Tensor | None:
        """How far the policy has moved, `[]`, where the algorithm asks."""
        return None


def _note(found: Found, log: Log) -> None:
    for key, value in found.items():
        log[key].append(value)
