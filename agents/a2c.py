"""Advantage actor-critic with one gradient per reward."""

from typing import Any, ClassVar

from stable_baselines3.a2c import A2C
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from dibs_rl.agents.on_policy import POLICIES, VectorOnPolicy
from dibs_rl.agents.policies import VectorCritic
from dibs_rl.buffers import Minibatch
from dibs_rl.errors import UserError
from dibs_rl.losses import PolicyLosses, a2c_policy_losses


class DiBSA2C(VectorOnPolicy, A2C):
    """SB3's A2C for m rewards, combined by DiBS (or any other combiner) instead of added up.

    It is the on-policy update with one epoch of one minibatch, the whole rollout, whose gradients are combined once.

    Advantages are normalised per objective, which SB3's A2C does not do. DiBS would be free of scale without, since it sees
    unit gradients, and so would the size of a step; but only a centred advantage leaves an objective that is constant (no
    reward seen yet) without a gradient, and so without a vote: a constant advantage times grad log pi is noise, which would be
    scaled up to a unit. Other combiners that see gradients' lengths are free of scale by the normalisation alone.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"` or a class with the `VectorCritic` mixin. `policy_kwargs`
            takes `popart` and `normalize_obs` (both on) beside SB3's.
        env: An id, an environment, a factory or list of factories, or a vector environment.
        normalize_advantage: Centre and scale each objective's advantages over the rollout.
        **kwargs: `combiner`, `preference`, `fading` (see `dibs_rl.agents.fading`), and those of `stable_baselines3.A2C`.

    Raises:
        UserError: If the environment gives no vector reward, or an argument is not as said above.

    Example:
        >>> from dibs_rl.agents import DiBSA2C
        >>> model = DiBSA2C("MlpPolicy", "deep-sea-treasure-v0", seed=0).learn(64)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**POLICIES}
    n_epochs = 1

    def __init__(self, policy: str | type[VectorCritic], env: Any, *, normalize_advantage: bool = True, **kwargs: Any) -> None:
        super().__init__(policy, env, normalize_advantage=normalize_advantage, **kwargs)

    def _setup_model(self) -> None:
        self.batch_size = self.n_steps * self.n_envs
        if self.normalize_advantage and self.batch_size < 2:
            raise UserError(
                "A rollout has at least 2 samples (n_steps times the number of environments) where advantages are normalised; "
                f"found {self.batch_size}."
            )
        super()._setup_model()

    def _policy_losses(self, log_ratio: Tensor, batch: Minibatch) -> PolicyLosses:
        return a2c_policy_losses(log_ratio + batch.log_probs, batch.advantages)
