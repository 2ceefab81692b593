"""What makes an SB3 on-policy algorithm one for many rewards: its arguments, checked, and its parts, put together."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torchjd.aggregation import Aggregator, WeightedAggregator

from dibs_rl.agents.policies import VectorCritic
from dibs_rl.agents.update import CombinedUpdate, Every
from dibs_rl.buffers import VectorRolloutBuffer
from dibs_rl.combiners import make_combiner, split_scalarisation
from dibs_rl.envs import as_vector_env
from dibs_rl.errors import UserError

DEFAULT_EVERY: Every = "epoch"  # the choice and the table behind it: docs/results.md


class VectorOnPolicy(CombinedUpdate):
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

    def __init__(
        self,
        policy: str | type[VectorCritic],
        env: Any,
        *,
        combiner: str | Aggregator = "dibs",
        preference: Sequence[float] | Mapping[str, float] | None = None,
        bargain_every: Every = DEFAULT_EVERY,
        **kwargs: Any,
    ) -> None:
        env = None if env is None else as_vector_env(env)
        self.objectives: tuple[str, ...] = () if env is None else env.objectives
        self.combiner = combiner
        self.preference = preference
        self.bargain_every = bargain_every
        if kwargs.get("rollout_buffer_class") is not None:
            raise UserError("rollout_buffer_class cannot be changed: SB3's buffers hold scalar rewards.")
        if kwargs.get("clip_range_vf") is not None:
            raise UserError("clip_range_vf clips values in a reward's units, which breaks invariance to scale: leave it out.")
        super().__init__(policy, env, **kwargs)

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
                "minibatch: bargain_every='minibatch' (--bargain-every minibatch)."
            )
        return combiner

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_scalarise", "_aggregator", "_last_obs", "_action_bounds"]

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
