"""Distributions of actions whose derivatives are written down: what a perceptron's outputs mean."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dibs_rl.agents.policies import VectorCritic


class Head(ABC):
    """A distribution of actions given by a network's outputs `[b, out]`, and perhaps by parameters of its own."""

    @abstractmethod
    def __init__(self, policy: VectorCritic, outputs: Tensor) -> None: ...

    @abstractmethod
    def sample(self) -> Tensor:
        """Actions `[b, ...]`; the random numbers are those that torch's distributions would draw."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """`[b]`; the actions are kept for `slopes`."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Mean over the batch, `[]`."""

    @abstractmethod
    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of each log probability by the outputs, `[b, out]`, and by the head's own parameters, `[b, q]`."""

    @abstractmethod
    def entropy_slopes(self) -> tuple[Tensor | None, float]:
        """Derivatives of the mean entropy by the outputs (None for 0), and by each of the head's own parameters."""


class GaussianHead(Head):
    """Independent normal distributions; the outputs are their means, and `log_std` is the policy's parameter."""

    def __init__(self, policy: VectorCritic, outputs: Tensor) -> None:
        self._mean, self._log_std = outputs, policy.log_std.detach()
        self._std = self._log_std.exp()

    def sample(self) -> Tensor:
        """See `Head`."""
        return torch.randn_like(self._mean).mul_(self._std).add_(self._mean)

    def log_prob(self, actions: Tensor) -> Tensor:
        """See `Head`."""
        self._z = (actions.flatten(1) - self._mean) / self._std
        constant = self._log_std.sum() + 0.5 * math.log(2 * math.pi) * len(self._log_std)
        return self._z.square().sum(dim=1).mul_(-0.5).sub_(constant)

    def entropy(self) -> Tensor:
        """See `Head`."""
        return self._log_std.sum() + (0.5 + 0.5 * math.log(2 * math.pi)) * len(self._log_std)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """See `Head`."""
        return self._z / self._std, self._z.square() - 1

    def entropy_slopes(self) -> tuple[Tensor | None, float]:
        """See `Head`."""
        return None, 1.0


class CategoricalHead(Head):
    """One choice; the outputs are logits."""

    def __init__(self, policy: VectorCritic, outputs: Tensor) -> None:
        self._log_p = outputs.log_softmax(dim=1)
        self._p = self._log_p.exp()

    def sample(self) -> Tensor:
        """See `Head`."""
        # As torch.multinomial does it, which would wait for a GPU to look whether these are probabilities.
        return (self._p / torch.empty_like(self._p).exponential_()).argmax(dim=1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """See `Head`."""
        self._chosen = actions.long().unsqueeze(1)
        return self._log_p.gather(1, self._chosen).squeeze(1)

    def entropy(self) -> Tensor:
        """See `Head`."""
        return self._entropies().mean()

    def slopes(self) -> tuple[Tensor, Tensor]:
        """See `Head`."""
        return (-self._p).scatter_add_(1, self._chosen, torch.ones_like(self._log_p[:, :1])), self._p[:, :0]

    def entropy_slopes(self) -> tuple[Tensor | None, float]:
        """See `Head`."""
        return -self._p * (self._log_p + self._entropies()) / len(self._p), 0.0

    def _entropies(self) -> Tensor:
        return -(self._p * self._log_p).sum(dim=1, keepdim=True)
