"""SB3's actor-critic policies with what many rewards need: a critic apart from the policy, one PopArt head per objective,
and observation statistics that are saved with the networks.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from dibs_rl import ranks
from dibs_rl.errors import UserError
from dibs_rl.popart import PopArtHead
from dibs_rl.vec_env import Obs

_OTHER_ADAMS = {"fused", "foreach", "capturable", "differentiable"}  # arguments that choose among Adam's implementations


class RunningNorm(nn.Module):
    """Centres and scales each entry of an observation by the mean and standard deviation seen so far.

    Before the first `absorb` it changes nothing. The moments merge batches as in Chan et al. 1979.

    Args:
        shape: Shape of one observation.
        limit: Bound on the result's absolute value, in standard deviations.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, obs: Tensor) -> Tensor:
        """Normalises observations `[b, *shape]`. An entry that never varied is only centred."""
        return self.frozen(obs.dtype)(obs)

    def frozen(self, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
        """The normalisation by the moments as they stand, made ready for observations of a dtype."""
        std = self.variance.sqrt().to(dtype)
        std = torch.where(std > 0, std, torch.ones_like(std))  # also where the dtype holds nothing so small
        mean, limit = self.mean.to(dtype), self.limit
        return lambda obs: (obs - mean).div_(std).clamp_(-limit, limit)

    @torch.no_grad()
    def absorb(self, obs: Tensor) -> None:
        """Takes a batch of observations `[b, *shape]` of each rank into the moments."""
        obs = obs.double()
        variance, mean = torch.var_mean(obs, dim=0, correction=0)
        count, mean, variance = ranks.moments(torch.full_like(self.count, len(obs)), mean, variance)
        total = self.count + count
        share = count / total
        delta = mean - self.mean
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * delta.square())
        self.mean.add_(share * delta)
        self.count.copy_(total)


def is_vector(space: spaces.Space) -> TypeGuard[spaces.Box]:
    """Whether observations are vectors of numbers, and no images or categories."""
    return isinstance(space, spaces.Box) and not is_image_space(space)


class ObsNorm(nn.Module):
    """`RunningNorm` for each part of an observation that is a vector of numbers; images and categories pass.

    Args:
        space: The observation space.
    """

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.parts = nn.ModuleDict({f"obs_{key}": RunningNorm(part.shape) for key, part in parts.items() if is_vector(part)})

    @property
    def of_vector(self) -> RunningNorm | None:
        """The statistics of an observation that is one vector of numbers; None for any other."""
        norm = dict(self.parts.items()).get("obs_")
        return norm if isinstance(norm, RunningNorm) else None

    def forward(self, obs: Obs) -> Obs:
        """Normalises preprocessed observations."""
        return self._each(obs, lambda norm, part: norm(part))

    def absorb(self, obs: Obs) -> None:
        """Takes a batch of preprocessed observations into the moments."""
        self._each(obs, lambda norm, part: norm.absorb(part))

    def _each(self, obs: Obs, use: Callable[[Any, Tensor], Any]) -> Any:
        if isinstance(obs, dict):
            return {key: self._use(key, part, use) for key, part in obs.items()}
        return self._use("", obs, use)

    def _use(self, key: str, part: Tensor, use: Callable[[Any, Tensor], Any]) -> Any:
        name = f"obs_{key}"
        return use(self.parts[name], part) if name in self.parts else part


class NormalisedExtractor(BaseFeaturesExtractor):
    """SB3's features extractor behind observation normalisation."""

    def __init__(self, extractor: BaseFeaturesExtractor, norm: ObsNorm) -> None:
        super().__init__(extractor._observation_space, extractor.features_dim)
        self.norm = norm
        self.extractor = extractor

    def forward(self, observations: Any) -> Tensor:
        """From preprocessed observations to features `[b, features_dim]`."""
        return self.extractor(self.norm(observations))


def with_fastest(optimizer_class: type[torch.optim.Optimizer], kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """An optimiser's arguments, with the fastest of Adam's implementations unless they choose one."""
    kwargs = dict(kwargs or {})
    if optimizer_class is torch.optim.Adam and not kwargs.keys() & _OTHER_ADAMS:
        kwargs["fused"] = True  # one call for all parameters
    return kwargs


class VectorCritic(ActorCriticPolicy):
    """Mixin: makes any SB3 actor-critic policy one for m rewards.

    Policy and critic share nothing, since a shared trunk would let the scale of the value losses into the policy. Each has
    its optimiser: `optimizer` and `value_optimizer`.

    Args:
        *args: SB3's.
        reward_dim: Number of rewards m.
        popart: Normalise each objective's value targets (van Hasselt et al. 2016).
        normalize_obs: Normalise observations that are vectors.
        **kwargs: SB3's policy arguments.

    Raises:
        UserError: If a shared features extractor is asked for.
    """

    value_net: PopArtHead

    def __init__(
        self, *args: Any, reward_dim: int = 1, popart: bool = True, normalize_obs: bool = True, **kwargs: Any
    ) -> None:
        if kwargs.pop("share_features_extractor", False):
            raise UserError(
                "share_features_extractor=True would let the scale of the value losses into the policy; leave it out."
            )
        self.reward_dim, self.popart, self.normalize_obs = reward_dim, popart, normalize_obs
        super().__init__(*args, **{**kwargs, "share_features_extractor": False})

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """SB3's extractor; policy and critic share only the observation statistics before it."""
        extractor = super().make_features_extractor()
        if not self.normalize_obs:
            return extractor
        first = getattr(self, "features_extractor", None)  # the policy's is made before the critic's
        norm = first.norm if isinstance(first, NormalisedExtractor) else ObsNorm(self.observation_space)
        return NormalisedExtractor(extractor, norm)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        head = PopArtHead(self.mlp_extractor.latent_dim_vf, self.reward_dim, enabled=self.popart)
        if self.reward_dim == 1:
            head.load_state_dict(self.value_net.state_dict(), strict=False)  # SB3's own start
        elif self.ortho_init:
            self.init_weights(head, gain=1)
        self.value_net = head
        self.optimizer = self._make_optimizer(self.policy_parameters(), lr_schedule)
        self.value_optimizer = self._make_optimizer(self.value_parameters(), lr_schedule)

    def _make_optimizer(self, parameters: list[nn.Parameter], lr_schedule: Schedule) -> torch.optim.Optimizer:
        kwargs = with_fastest(self.optimizer_class, self.optimizer_kwargs)
        return self.optimizer_class(parameters, lr=lr_schedule(1), **kwargs)  # type: ignore[call-arg]

    def value_parameters(self) -> list[nn.Parameter]:
        """Parameters of the critic."""
        parts = (self.vf_features_extractor, self.mlp_extractor.value_net, self.value_net)
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def policy_parameters(self) -> list[nn.Parameter]:
        """Parameters of the policy: those that the combiner's direction moves."""
        critic = set(self.value_parameters())
        return [p for p in self.parameters() if p.requires_grad and p not in critic]

    def act(self, obs: Obs, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Actions `[b, ...]` and their log probabilities `[b]`; the critic is not asked."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions.reshape((-1, *(self.action_space.shape or ()))), distribution.log_prob(actions)

    def log_prob_and_entropy(self, obs: Obs, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities `[b]` of given actions, and entropies `[b]` (estimated where there is no closed form)."""
        distribution = self.get_distribution(obs)
        log_prob = distribution.log_prob(actions.flatten(1) if actions.dim() > 2 else actions)
        entropy = distribution.entropy()
        return log_prob, -log_prob if entropy is None else entropy

    def normalised_values(self, obs: Obs) -> Tensor:
        """Values `[b, m]` in the heads' own units: what is trained."""
        return self.value_net.normalised(self._value_features(obs))

    def predict_values(self, obs: Any) -> Tensor:
        """Values `[b, m]` in the rewards' units."""
        return self.value_net(self._value_features(obs))

    def _value_features(self, obs: Obs) -> Tensor:
        preprocessed = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        return self.mlp_extractor.forward_critic(self.vf_features_extractor(preprocessed))

    def absorb_observations(self, obs: Obs) -> None:
        """Takes a batch of observations into the statistics they are normalised by."""
        if isinstance(self.features_extractor, NormalisedExtractor) and self.features_extractor.norm.parts:
            preprocessed = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
            self.features_extractor.norm.absorb(preprocessed)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"reward_dim": self.reward_dim, "popart": self.popart, "normalize_obs": self.normalize_obs}
        return {**super()._get_constructor_parameters(), **own}


class MlpPolicy(VectorCritic, ActorCriticPolicy):
    """Multi-layer perceptrons on vector observations."""


class CnnPolicy(VectorCritic, ActorCriticCnnPolicy):
    """Convolutional networks on images."""


class MultiInputPolicy(VectorCritic, MultiInputActorCriticPolicy):
    """Dictionary observations."""
