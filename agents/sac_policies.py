"""SB3's SAC policies with a Q-ensemble for each of many rewards."""

from typing import Any

import torch
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import CnnPolicy, MultiInputPolicy, SACPolicy
from torch import Tensor, nn

from dibs_rl.agents.policies import with_fastest
from dibs_rl.errors import UserError
from dibs_rl.q_ensemble import QEnsemble
from dibs_rl.vec_env import Obs


class VectorQ(BaseModel):
    """Action values of m objectives: one features extractor, and behind it an ensemble for each objective.

    Args:
        *args: SB3's spaces.
        net_arch: Widths of the hidden layers.
        features_dim: Width of the features.
        activation_fn: Between the layers.
        ensemble: Arguments of `QEnsemble`.
        **kwargs: SB3's.
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        *args: Any,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module],
        ensemble: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        inputs = features_dim + get_action_dim(self.action_space)
        self.ensemble = QEnsemble(inputs, net_arch, activation_fn, **ensemble)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        """Values `[k, b, m]` in the rewards' units, of actions `[b, a]` scaled to [-1, 1]."""
        return self.ensemble(self._inputs(obs, actions))

    def normalised(self, obs: Obs, actions: Tensor) -> Tensor:
        """Values `[m, k, b]` in the objectives' own units: what is trained."""
        return self.ensemble.normalised(self._inputs(obs, actions))

    def least(self, obs: Obs, actions: Tensor) -> Tensor:
        """The least value of each objective's members, `[m, b]`, in its own units."""
        return self.ensemble.least(self._inputs(obs, actions))

    def slopes(self, obs: Obs, actions: Tensor) -> tuple[Tensor, Tensor]:
        """`least` `[m, b]` and its derivatives by the actions, `[m, b, a]`, for all objectives in one pass back."""
        with torch.no_grad():
            features = self.extract_features(obs, self.features_extractor)
        m = self.ensemble.objectives
        of_each = actions.detach().expand(m, -1, -1).clone().requires_grad_()
        values = self.ensemble.least(torch.cat([features.expand(m, -1, -1), of_each], dim=2))
        (slopes,) = torch.autograd.grad(values.sum(), of_each)
        return values.detach(), slopes

    def _inputs(self, obs: Obs, actions: Tensor) -> Tensor:
        return torch.cat([self.extract_features(obs, self.features_extractor), actions], dim=1)


class VectorSAC(SACPolicy):
    """Mixin: makes any of SB3's SAC policies one for m rewards.

    Args:
        *args: SB3's.
        reward_dim: Number of rewards m.
        popart: Let each objective's ensemble learn in its own units (van Hasselt et al. 2016).
        **kwargs: SB3's policy arguments; `n_critics` is the number of an ensemble's members.

    Raises:
        UserError: If a shared features extractor is asked for.
    """

    critic: VectorQ  # type: ignore[assignment]
    critic_target: VectorQ  # type: ignore[assignment]

    def __init__(self, *args: Any, reward_dim: int = 1, popart: bool = True, **kwargs: Any) -> None:
        if kwargs.get("share_features_extractor"):
            raise UserError("share_features_extractor=True is not for many rewards: policy and critics share nothing.")
        self.reward_dim, self.popart = reward_dim, popart
        optimizer = with_fastest(kwargs.get("optimizer_class", torch.optim.Adam), kwargs.get("optimizer_kwargs"))
        super().__init__(*args, **{**kwargs, "optimizer_kwargs": optimizer})

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> VectorQ:  # type: ignore[override]
        """All objectives' ensembles; SB3 makes them twice, the second time as the target."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        members, _ = kwargs.pop("n_critics"), kwargs.pop("share_features_extractor")
        ensemble = {"objectives": self.reward_dim, "members": members, "popart": self.popart}
        return VectorQ(**kwargs, ensemble=ensemble).to(self.device)

    def policy_parameters(self) -> list[nn.Parameter]:
        """Parameters of the policy: those that the combiner's direction moves."""
        return [p for p in self.actor.parameters() if p.requires_grad]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "reward_dim": self.reward_dim, "popart": self.popart}


class MlpSACPolicy(VectorSAC, SACPolicy):
    """Multi-layer perceptrons on vector observations."""


class CnnSACPolicy(VectorSAC, CnnPolicy):
    """Convolutional networks on images."""


class MultiInputSACPolicy(VectorSAC, MultiInputPolicy):
    """Dictionary observations."""
