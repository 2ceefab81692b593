"""The quick engine: ordinary perceptrons, differentiated by hand."""

import torch
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from dibs_rl import sync
from dibs_rl.agents.checks import check_log_probs
from dibs_rl.agents.heads import CategoricalHead, GaussianHead, Head
from dibs_rl.agents.policies import MlpPolicy, NormalisedExtractor, VectorCritic, is_vector
from dibs_rl.gradients import flat_gradient
from dibs_rl.perceptron import Perceptron, is_perceptron
from dibs_rl.popart import PopArtHead
from dibs_rl.vec_env import Obs

_SMALL = 50_000  # parameters; two threads help from here on


class PerceptronEngine:
    """The ordinary case: perceptrons on a vector observation, and a Gaussian or categorical policy.

    Gradients are written into buffers of the engine: what `gradient` returns is valid until the next call.
    """

    recordable = True

    def __init__(self, policy: VectorCritic) -> None:
        self._policy = policy
        self.small = is_small(policy)
        extractor = policy.features_extractor
        norm = extractor.norm.of_vector if isinstance(extractor, NormalisedExtractor) else None
        self._frozen_norm = norm.frozen() if norm is not None else None
        actor, critic = _layers(policy)
        self._actor, self._critic = Perceptron(actor), Perceptron(critic)
        self._policy_gradient, self._policy_parts = flat_gradient(policy.policy_parameters())
        self._value_gradient, self._value_parts = flat_gradient(self._critic.parameters)
        self._head = GaussianHead if isinstance(policy.action_dist, DiagGaussianDistribution) else CategoricalHead

    def inputs(self, obs: Obs) -> Tensor:
        """Normalised observations, `[b, d]`."""
        features = preprocess_obs(obs, self._policy.observation_space, normalize_images=self._policy.normalize_images)
        assert isinstance(features, Tensor)  # for the type checker: a dictionary is no ordinary case
        features = self._frozen_norm(features) if self._frozen_norm is not None else features
        return features.flatten(1)

    @torch.no_grad()
    def act(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine`."""
        head = self._head(self._policy, self._actor.forward(inputs))
        actions = head.sample()
        log_prob = head.log_prob(actions)
        actions = actions.reshape((-1, *(self._policy.action_space.shape or ())))
        if not sync.waits(log_prob.device):
            check_log_probs(log_prob)
        return actions, log_prob

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, actions: Tensor) -> "PerceptronEvaluation":
        """See `Engine`."""
        head = self._head(self._policy, self._actor.forward(inputs))
        return PerceptronEvaluation(self._actor, head, actions, self._policy_gradient, self._policy_parts)

    @torch.no_grad()
    def values(self, inputs: Tensor) -> "PerceptronValues":
        """See `Engine`."""
        return PerceptronValues(self._critic, self._critic.forward(inputs), self._value_gradient, self._value_parts)


class PerceptronEvaluation:
    """`Evaluation` by hand: the head's errors, sent back through the network once."""

    def __init__(self, net: Perceptron, head: Head, actions: Tensor, flat: Tensor, parts: list[Tensor]) -> None:
        self.log_prob, self.entropy = head.log_prob(actions), head.entropy()
        self._net, self._head, self._flat, self._parts = net, head, flat, parts

    def jacobian(self, coefficients: Tensor) -> Tensor:
        """See `Evaluation`."""
        error, own_slopes = self._head.slopes()
        jacobian = self._flat.new_empty(coefficients.shape[1], len(self._flat))
        own = own_slopes.shape[1]
        torch.mm(coefficients.t(), own_slopes, out=jacobian[:, :own])
        self._net.write_jacobian(error, coefficients, jacobian[:, own:])
        return jacobian

    def gradient(self, coefficients: Tensor, entropy_slope: float) -> Tensor:
        """See `Evaluation`."""
        error, own_slopes = self._head.slopes()
        error, own = error * coefficients.unsqueeze(1), coefficients @ own_slopes
        if entropy_slope:
            by_outputs, by_own = self._head.entropy_slopes()
            error = error if by_outputs is None else error + entropy_slope * by_outputs
            own += entropy_slope * by_own
        self._flat[: len(own)] = own
        self._net.write_gradient(error, self._parts[-len(self._net.parameters) :])
        return self._flat


class PerceptronValues:
    """`Values` by hand."""

    def __init__(self, net: Perceptron, values: Tensor, flat: Tensor, parts: list[Tensor]) -> None:
        self.values = values
        self._net, self._flat, self._parts = net, flat, parts

    def gradient(self, error: Tensor) -> Tensor:
        """See `Values`."""
        self._net.write_gradient(error, self._parts)
        return self._flat


def is_small(policy: VectorCritic) -> bool:
    """Whether the policy's operations on a minibatch are a matter of microseconds."""
    return max(sum(p.numel() for p in part) for part in (policy.policy_parameters(), policy.value_parameters())) < _SMALL


def is_ordinary(policy: VectorCritic) -> bool:
    """Whether the policy is exactly what `PerceptronEngine` computes: no module, parameter or method more or other."""
    # Images and one-hot categories may not fit in memory all at once.
    if type(policy) is not MlpPolicy or policy.use_sde or policy.squash_output or not is_vector(policy.observation_space):
        return False
    extractors = [policy.pi_features_extractor, policy.vf_features_extractor]
    if any(type(e.extractor if isinstance(e, NormalisedExtractor) else e) is not FlattenExtractor for e in extractors):
        return False
    actor, critic = _layers(policy)
    if not (is_perceptron(actor) and is_perceptron(critic, last=PopArtHead)):
        return False
    gaussian = type(policy.action_dist) is DiagGaussianDistribution
    own = [policy.log_std] if gaussian else []
    return (
        (gaussian or type(policy.action_dist) is CategoricalDistribution)
        and _same([*own, *Perceptron(actor).parameters], policy.policy_parameters())
        and _same(Perceptron(critic).parameters, policy.value_parameters())
    )


def _layers(policy: VectorCritic) -> tuple[list[nn.Module], list[nn.Module]]:
    """Layers of the policy and of the critic, in order."""
    extractor = policy.mlp_extractor
    return [*extractor.policy_net, policy.action_net], [*extractor.value_net, policy.value_net]


def _same(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> bool:
    return len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))
