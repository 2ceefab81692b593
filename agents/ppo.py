"""Proximal policy optimisation with one gradient per reward."""

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.ppo import PPO
from torch import Tensor

from dibs_rl.agents.on_policy import POLICIES, VectorOnPolicy
from dibs_rl.agents.policies import VectorCritic
from dibs_rl.agents.update import Every
from dibs_rl.buffers import Minibatch
from dibs_rl.errors import UserError
from dibs_rl.losses import PolicyLosses, approximate_kl, ppo_policy_losses

DEFAULT_EVERY: Every = "epoch"  # the choice and the table behind it: docs/results.md


class DiBSPPO(VectorOnPolicy, PPO):
    """SB3's PPO for m rewards, combined by DiBS (or any other combiner) instead of added up.

    Each objective has its own critic head, advantages, clipped surrogate and policy gradient. The policy's parameters move
    along the combination of the gradients; with `dibs` and `norm-sum`, rescaling a reward by any positive factor does not
    change it.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a class with the `VectorCritic` mixin. `policy_kwargs`
            takes `popart` and `normalize_obs` (both on) beside SB3's.
        env: An id, an environment, a factory or list of factories, or a vector environment.
        combiner: `"dibs"`, `"norm-sum"`, `"weighted-sum"`, another name out of `dibs_rl.combiners.COMBINERS`, or any TorchJD
            aggregator, such as `DiBS(steps=50)`.
        preference: Positive weights on the objectives, in their order or by name.
        fading: Let an objective have less say while there is less to win in it: see `dibs_rl.agents.fading`.
        bargain_every: How often the gradients are combined anew: on the whole rollout once a `"rollout"` or once an
            `"epoch"` (the minibatches then follow the weighted sum of the losses), or on every `"minibatch"`.
        **kwargs: Those of `stable_baselines3.PPO`. `clip_range_vf` must stay None: it is in a reward's units.

    Raises:
        UserError: If the environment gives no vector reward, or an argument is not as said above.

    Example:
        >>> from dibs_rl.agents import DiBSPPO
        >>> model = DiBSPPO("MlpPolicy", "deep-sea-treasure-v0", n_steps=64, batch_size=64, seed=0).learn(64)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**POLICIES}
    recordable = True

    def __init__(
        self, policy: str | type[VectorCritic], env: Any, *, bargain_every: Every = DEFAULT_EVERY, **kwargs: Any
    ) -> None:
        if kwargs.get("clip_range_vf") is not None:
            raise UserError("clip_range_vf clips values in a reward's units, which breaks invariance to scale: leave it out.")
        self.bargain_every = bargain_every
        super().__init__(policy, env, **kwargs)

    def _policy_losses(self, log_ratio: Tensor, batch: Minibatch) -> PolicyLosses:
        return ppo_policy_losses(log_ratio, batch.advantages, self._clip_range_now)

    @property
    def _clip_range_now(self) -> float:
        return self.clip_range(self._current_progress_remaining)  # type: ignore[operator]

    def _divergence(self, log_ratio: Tensor) -> Tensor:
        return approximate_kl(log_ratio)

    def train(self) -> None:
        """Updates policy and critic on the rollout; logs the clip range beside what every learner logs."""
        super().train()
        self.logger.record("train/clip_range", self._clip_range_now)
