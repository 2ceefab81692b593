"""Soft actor-critic with one Q-ensemble and one policy gradient per reward, and the entropy outside the game."""

from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac import SAC
from torch import Tensor

from dibs_rl import sync
from dibs_rl.agents.adam import fused_adam
from dibs_rl.agents.checks import check_parameters
from dibs_rl.agents.off_policy import VectorOffPolicy
from dibs_rl.agents.records import Log
from dibs_rl.agents.sac_policies import CnnSACPolicy, MlpSACPolicy, MultiInputSACPolicy, VectorQ, VectorSAC
from dibs_rl.diagnostics import describe_bargain
from dibs_rl.errors import UserError
from dibs_rl.gradients import objective_jacobian, write_gradient
from dibs_rl.losses import ensemble_losses, own_weights, sac_policy_losses
from dibs_rl.replay import Transitions
from dibs_rl.returns import td_targets


class DiBSSAC(VectorOffPolicy, SAC):
    """SB3's SAC for m rewards, combined by DiBS (or any other combiner) instead of added up.

    The policy's optimiser is given the gradient

        DiBS(J) + alpha * grad mean log pi(a | s),    row i of J = grad of -mean Q_i(s, a),    a sampled from pi(. | s),

    so the entropy stays outside the game: alpha is a temperature relative to a direction of norm at most 1, tuned for a target
    entropy as in SAC (Haarnoja et al. 2018, arXiv 1812.05905). For the same reason no Q_i has entropy in it: each is the plain
    discounted return of objective i. A soft value would add nats to that objective's units, at a rate that does not follow
    its scale, and the entropy would vote m times over. With `weighted-sum` alpha is in the rewards' units, as in SB3.

    Each objective has an ensemble of critics, of whose values the least counts. It learns in PopArt units, the moments of its
    temporal-difference targets from the first batch on, and its target network has the same. With `dibs` and `norm-sum`,
    rescaling a reward by any positive factor does not change the policy. The anchored game's distances are measured on the
    first batch of each round of gradient steps: past states out of the replay buffer, where PPO has those of its rollout.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a class with the `VectorSAC` mixin. `policy_kwargs` takes
            `popart` (on) beside SB3's.
        env: An id, an environment, a factory or list of factories, or a vector environment, with continuous actions.
        ent_coef: The temperature alpha, or `"auto_0.1"` to start there and be tuned. SB3's start of 1 is for rewards' sizes:
            beside a direction of norm at most 1 it would drown the rewards for thousands of steps.
        **kwargs: `VectorOffPolicy`'s and those of `stable_baselines3.SAC`. SB3's replay buffers and `n_steps` are refused.

    Raises:
        UserError: If the environment gives no vector reward, its actions are not continuous, or an argument is not as said.

    Example:
        >>> from dibs_rl.agents import DiBSSAC
        >>> model = DiBSSAC("MlpPolicy", "mo-halfcheetah", seed=0, learning_starts=32, batch_size=32).learn(64)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpSACPolicy,
        "CnnPolicy": CnnSACPolicy,
        "MultiInputPolicy": MultiInputSACPolicy,
    }
    policy: VectorSAC
    critic: VectorQ  # type: ignore[assignment]
    critic_target: VectorQ  # type: ignore[assignment]

    def __init__(self, policy: str | type[VectorSAC], env: Any, *, ent_coef: str | float = "auto_0.1", **kwargs: Any) -> None:
        super().__init__(policy, env, ent_coef=ent_coef, **kwargs)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, VectorSAC):
            raise UserError(
                f"The policy {self.policy_class.__name__} has one critic for all rewards: use MlpPolicy, CnnPolicy or "
                "MultiInputPolicy, or put the mixin dibs_rl.agents.sac_policies.VectorSAC before its bases."
            )
        super()._setup_model()
        if self.log_ent_coef is not None and sync.waits(self.device):
            self.ent_coef_optimizer = fused_adam(self.log_ent_coef, self.lr_schedule(1))

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes gradient steps on batches of the replay buffer; none before it holds as much as before the first one.

        On a GPU nothing waits for it before the last step is taken.
        """
        if len(self.replay_buffer) < min(self.learning_starts, self.replay_buffer.capacity):
            return  # a resumed run's buffer may be empty
        self.policy.set_training_mode(True)
        temperature = [self.ent_coef_optimizer] if self.ent_coef_optimizer is not None else []
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer, *temperature])
        try:
            with sync.no_look(self.device):
                for step in range(gradient_steps):
                    self._update(self.replay_buffer.sample(batch_size), described=step == 0)
        except ValueError:  # torch's distributions and the combiners refuse what is not finite; the cause comes first
            check_parameters(self.policy, self.num_timesteps)
            raise
        check_parameters(self.policy, self.num_timesteps)

    def _update(self, batch: Transitions, described: bool) -> None:
        """One gradient step of temperature, critics and policy, in SB3's order; `described`: the log tells of the bargain."""
        if self.use_sde:
            self.actor.reset_noise()
        actions, log_prob = self.actor.action_log_prob(batch.obs)
        alpha = self._tune_temperature(log_prob.detach())
        self._step_critic(batch)
        if described:
            self._measure_distances(batch.obs, batch.active, self._log)
        self._step_actor(batch, actions, log_prob, alpha, self._log if described else None)
        if self._n_updates % self.target_update_interval == 0:
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        self._n_updates += 1

    def _tune_temperature(self, log_prob: Tensor) -> Tensor:
        """The temperature as it stands, `[]`; then a step toward the target entropy."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor
        alpha = self.log_ent_coef.detach().exp().squeeze()
        loss = -(self.log_ent_coef * (log_prob + float(self.target_entropy)).mean()).sum()
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        self._log["ent_coef_loss"].append(loss.detach())
        return alpha

    def _step_critic(self, batch: Transitions) -> None:
        """One step of all ensembles toward r_i + gamma * min_j Q_ij(s', a'), a' from the policy, each in its own units."""
        online, target = self.critic.ensemble, self.critic_target.ensemble
        with torch.no_grad():
            next_values = self.critic_target.least(batch.next_obs, self.actor(batch.next_obs)).t().double()
            targets = td_targets(batch.rewards, target.unnormalise(next_values), batch.terminated, self.gamma)
            online.absorb(targets, batch.active)
            target.change_units(online.moments)
            wanted = online.normalise(targets).float().t()
        losses = ensemble_losses(self.critic.normalised(batch.obs, batch.actions), wanted, batch.active)
        self.critic.optimizer.zero_grad()
        losses.sum().backward()  # the ensembles share no parameter: each follows its own loss
        self.critic.optimizer.step()
        self._log["critic_loss"].append(losses.detach())

    def _step_actor(self, batch: Transitions, actions: Tensor, log_prob: Tensor, alpha: Tensor, log: Log | None) -> None:
        """One step of the policy along the combined gradient; the entropy's is added after combining."""
        values, slopes = self.critic.slopes(batch.obs, actions)
        if batch.active is not None:
            weights = own_weights(batch.active)
            values, slopes = values * weights, slopes * weights.unsqueeze(2)
        self._log["q_value"].append(self.critic.ensemble.unnormalise(values.mean(dim=1)))
        losses = sac_policy_losses(actions, *self._counted(values, slopes))
        parameters = self.policy.policy_parameters()
        jacobian = objective_jacobian([*losses, log_prob.mean()], parameters)
        direction, shares = self._combine(jacobian[:-1])
        if log is not None:
            log["bargain"].append(describe_bargain(jacobian[:-1], direction, shares, self._rows))
        write_gradient(parameters, direction + alpha * jacobian[-1])
        self.actor.optimizer.step()
        self._log["ent_coef"].append(alpha)
        self._log["entropy"].append(-log_prob.detach().mean())

    def _counted(self, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Values `[m, b]` and their slopes `[m, b, a]` as they are combined: all k = m, or the one weighted sum of them.

        An objective whose targets have not varied yet has no vote: its critic knows nothing of actions.
        """
        units = self.critic.ensemble.std.to(values.dtype)
        if self._sum is None:
            voting = (units > 0).to(values.dtype)
            return values * voting.unsqueeze(1), slopes * voting.view(-1, 1, 1)
        weights = self._sum.weights_in(units)
        return (weights @ values).unsqueeze(0), torch.tensordot(weights, slopes, dims=1).unsqueeze(0)
