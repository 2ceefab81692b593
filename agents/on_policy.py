"""What makes an SB3 on-policy algorithm one for many rewards: its parts, put together, and its arguments, checked."""

from typing import Any, get_args

from torchjd.aggregation import Aggregator, WeightedAggregator

from dibs_rl.agents.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, VectorCritic
from dibs_rl.agents.update import CombinedUpdate, Every
from dibs_rl.buffers import VectorRolloutBuffer
from dibs_rl.combiners import split_scalarisation
from dibs_rl.errors import UserError

POLICIES = {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy, "MultiInputPolicy": MultiInputPolicy}


class VectorOnPolicy(CombinedUpdate):
    """Mixin for SB3's on-policy learners: `VectorLearner` on the shared rollout loop and update.

    Args:
        policy: `"MlpPolicy"`, `"CnnPolicy"`, `"MultiInputPolicy"`, or a policy class with the `VectorCritic` mixin.
        env: See `dibs_rl.envs.as_vector_env`.
        **kwargs: `Fading`'s, `VectorLearner`'s and SB3's.

    Raises:
        UserError: If the environment gives no vector reward, or an argument cannot be used with many rewards.
    """

    def __init__(self, policy: str | type[VectorCritic], env: Any, **kwargs: Any) -> None:
        for refused in ("rollout_buffer_class", "rollout_buffer_kwargs"):
            if kwargs.get(refused):
                raise UserError(f"{refused} cannot be changed: the buffer is one for many rewards, and takes no arguments.")
        super().__init__(policy, env, **kwargs)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, VectorCritic):
            raise UserError(
                f"The policy {self.policy_class.__name__} has one critic head: use MlpPolicy, CnnPolicy or "
                "MultiInputPolicy, or put the mixin dibs_rl.agents.policies.VectorCritic before its bases."
            )
        if self.bargain_every not in get_args(Every):
            raise UserError(f"bargain_every is {', '.join(get_args(Every))}; found {self.bargain_every!r}.")
        self.rollout_buffer_class = VectorRolloutBuffer  # type: ignore[assignment]
        self.rollout_buffer_kwargs = {"reward_dim": len(self.objectives)}
        super()._setup_model()

    def _make_combiner(self) -> Aggregator:
        combiner = super()._make_combiner()
        _, aggregator = split_scalarisation(combiner)
        if self.bargain_every != "minibatch" and not isinstance(aggregator, WeightedAggregator):
            raise UserError(
                f"{type(combiner).__name__} gives a direction and no weights on the objectives, so it has to combine every "
                "minibatch: bargain_every='minibatch' (--bargain-every minibatch)."
            )
        return combiner

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "policy.value_optimizer"], tensors
