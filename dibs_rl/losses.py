"""Losses per objective. Nothing is summed over objectives here: that is the combiner's business."""

from typing import NamedTuple

import torch
from torch import Tensor

from dibs_rl import ranks


class PolicyLosses(NamedTuple):
    """Policy losses of k objectives on b samples.

    Attributes:
        losses: `[k]`.
        slopes: Derivatives by each sample's log probability, `[b, k]`: gradient i is `sum_b slopes[b, i] * grad log pi_b`.
        clip_fractions: Fraction whose gradient is clipped away, of the samples that have an advantage, `[k]`; None where
            nothing is clipped.
    """

    losses: Tensor
    slopes: Tensor
    clip_fractions: Tensor | None = None


def ppo_policy_losses(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> PolicyLosses:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347), one for each objective, negated.

    Args:
        log_ratio: Log of the new over the old probability of the action taken, `[b]`.
        advantages: `[b, k]`. Each objective's sign decides its own clip.
        clip_range: Half-width of the interval around ratio 1.
    """
    ratio = log_ratio.exp().unsqueeze(-1)
    surrogate = ratio * advantages
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    followed = surrogate <= clipped
    slopes = torch.where(followed, surrogate, 0.0).div_(-len(log_ratio))
    # An advantage of 0 is never clipped; it is that of a world that does not have the objective.
    fractions = (~followed).sum(dim=0, dtype=advantages.dtype) / advantages.count_nonzero(dim=0).clamp(min=1)
    return PolicyLosses(-torch.minimum(surrogate, clipped).mean(dim=0), slopes, fractions)


def a2c_policy_losses(log_prob: Tensor, advantages: Tensor) -> PolicyLosses:
    """The policy gradient's loss -A log pi (A2C: Mnih et al. 2016, arXiv 1602.01783), one for each objective.

    Args:
        log_prob: Log probability of the action taken, `[b]`.
        advantages: `[b, k]`.
    """
    return PolicyLosses(-(log_prob @ advantages) / len(log_prob), advantages / -len(log_prob))


def value_losses(predictions: Tensor, targets: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean squared error of each critic head, in the head's normalised units.

    Args:
        predictions: `[b, m]`.
        targets: `[b, m]`.
        active: Which samples count for which head, `[b, m]` bool: the mean is over them alone. All count if not given.

    Returns:
        Losses `[m]`, and their derivatives by the predictions, `[b, m]`.
    """
    error = predictions - targets
    if active is not None:
        # Gradients are averaged over ranks, so each head's samples are counted in all of them.
        counts = ranks.mean(active.sum(dim=0).to(error.dtype)).clamp(min=1 / ranks.number())
        error = torch.where(active, error, 0.0)
        return error.square().sum(dim=0) / counts, error.mul(2 / counts)
    return error.square().mean(dim=0), error.mul(2 / len(error))


def sac_policy_losses(actions: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """Minus the mean value of the policy's own actions, one for each objective (SAC: Haarnoja et al. 2018, arXiv 1801.01290).

    Each is linear in the actions, and agrees with -mean Q_i in value and gradient where they are: so m gradients by the policy
    take one pass back through all critics at once, and not m.

    Args:
        actions: Of the policy, `[b, a]`, differentiable by its parameters.
        values: Of these actions, `[k, b]`.
        slopes: Derivatives of the values by the actions, `[k, b, a]`.

    Returns:
        `[k]`, differentiable by the policy's parameters.
    """
    change = (slopes * (actions - actions.detach())).sum(dim=2)
    return -(values + change).mean(dim=1)


def ensemble_losses(predictions: Tensor, targets: Tensor, active: Tensor | None = None) -> Tensor:
    """Half the mean squared error of each critic, summed over each objective's k critics, in its normalised units.

    Args:
        predictions: `[m, k, b]`.
        targets: `[m, b]`.
        active: Which samples count for which objective, `[b, m]` bool: the mean is over them alone. All count if not given.

    Returns:
        `[m]`.
    """
    squares = (predictions - targets.unsqueeze(1)).square()
    if active is not None:
        squares = squares * own_weights(active).unsqueeze(1)
    return 0.5 * squares.mean(dim=2).sum(dim=1)


def own_weights(active: Tensor) -> Tensor:
    """Weights `[m, b]` that make a mean over the batch one over each objective's own samples, `active [b, m]` bool."""
    own = active.t()
    return own * (own.shape[1] / own.sum(dim=1, keepdim=True).clamp(min=1))


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Low-variance estimate of KL(old || new) from the log ratio `[b]` (http://joschu.net/blog/kl-approx.html)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()
