"""How a policy's networks are differentiated: by autograd, or by hand where they are ordinary perceptrons.

Both engines have one contract, `Engine`, and the same numbers up to rounding; `engine_of` chooses. An engine is made anew for
each rollout and each update: it takes the observation statistics as they stand.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dibs_rl import sync
from dibs_rl.agents.perceptron_engine import PerceptronEngine, is_ordinary, is_small
from dibs_rl.agents.policies import VectorCritic
from dibs_rl.gradients import objective_jacobian
from dibs_rl.vec_env import Obs


class Evaluation(Protocol):
    """What a policy makes of a batch: log probabilities of its actions, and their gradients.

    Attributes:
        log_prob: `[b]`, detached.
        entropy: Mean entropy, `[]`, detached.
    """

    log_prob: Tensor
    entropy: Tensor

    def jacobian(self, coefficients: Tensor) -> Tensor:
        """Rows `sum_b c_bi * grad log pi_b`: `[b, k]` to `[k, p]`."""

    def gradient(self, coefficients: Tensor, entropy_slope: float) -> Tensor:
        """`sum_b c_b * grad log pi_b + entropy_slope * grad mean entropy`: `[b]` to `[p]`."""


class Values(Protocol):
    """What a critic makes of a batch.

    Attributes:
        values: In the heads' own units, `[b, m]`, detached.
    """

    values: Tensor

    def gradient(self, error: Tensor) -> Tensor:
        """Gradient `[p]` of a loss, of its derivative `[b, m]` by the values."""


class Engine(Protocol):
    """A policy's networks, forward and backward.

    Attributes:
        small: Whether the networks' operations are so short that more threads make them slower.
        recordable: Whether passes may be recorded as a CUDA graph: none looks at tensors, and what is read stays in place.
    """

    small: bool
    recordable: bool

    def inputs(self, obs: Obs) -> Any:
        """What the networks are fed for observations; computed once, taken apart as often as needed."""

    def act(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Sampled actions `[b, ...]` and their log probabilities `[b]`; a ValueError where these are not finite.

        On a GPU nobody looks whether they are.
        """

    def evaluate(self, inputs: Any, actions: Tensor) -> Evaluation:
        """The policy on a batch; valid until the next one."""

    def values(self, inputs: Any) -> Values:
        """The critic on a batch; valid until the next one."""


def engine_of(policy: VectorCritic) -> Engine:
    """The fastest engine for the policy."""
    return PerceptronEngine(policy) if is_ordinary(policy) else AutogradEngine(policy)


class AutogradEngine:
    """Any policy: one pass of autograd for each gradient, through one shared forward pass."""

    recordable = False  # its networks may be anybody's

    def __init__(self, policy: VectorCritic) -> None:
        self._policy = policy
        self.small = is_small(policy)

    def inputs(self, obs: Obs) -> Obs:
        """The observations themselves."""
        return obs

    @torch.no_grad()
    def act(self, inputs: Obs) -> tuple[Tensor, Tensor]:
        """See `Engine`."""
        with sync.no_look(self._policy.device):
            return self._policy.act(inputs)

    def evaluate(self, inputs: Obs, actions: Tensor) -> "AutogradEvaluation":
        """See `Engine`."""
        with sync.no_look(self._policy.device):
            log_prob, entropy = self._policy.log_prob_and_entropy(inputs, actions)
        return AutogradEvaluation(log_prob, entropy.mean(), self._policy.policy_parameters())

    def values(self, inputs: Obs) -> "AutogradValues":
        """See `Engine`."""
        return AutogradValues(self._policy.normalised_values(inputs), self._policy.value_parameters())


class AutogradEvaluation:
    """`Evaluation` by autograd."""

    def __init__(self, log_prob: Tensor, entropy: Tensor, parameters: list[nn.Parameter]) -> None:
        self.log_prob, self.entropy = log_prob.detach(), entropy.detach()
        self._log_prob, self._entropy, self._parameters = log_prob, entropy, parameters

    def jacobian(self, coefficients: Tensor) -> Tensor:
        """See `Evaluation`."""
        return objective_jacobian(coefficients.t() @ self._log_prob, self._parameters, retain_graph=True)

    def gradient(self, coefficients: Tensor, entropy_slope: float) -> Tensor:
        """See `Evaluation`."""
        loss = self._log_prob @ coefficients
        if entropy_slope:
            loss = loss + entropy_slope * self._entropy
        return objective_jacobian(loss, self._parameters, retain_graph=True)[0]


class AutogradValues:
    """`Values` by autograd."""

    def __init__(self, values: Tensor, parameters: list[nn.Parameter]) -> None:
        self.values = values.detach()
        self._values, self._parameters = values, parameters

    def gradient(self, error: Tensor) -> Tensor:
        """See `Values`."""
        return objective_jacobian((self._values * error).sum(), self._parameters)[0]
