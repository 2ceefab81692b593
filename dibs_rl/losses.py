"""Losses per objective. Nothing is summed over objectives here: that is the combiner's business."""

import torch
from torch import Tensor


def ppo_policy_losses(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv 1707.06347), one for each objective, negated.

    Args:
        log_ratio: Log of the new over the old probability of the action taken, `[b]`.
        advantages: `[b, m]`. Each objective's sign decides its own clip.
        clip_range: Half-width of the interval around ratio 1.

    Returns:
        Losses `[m]`.
    """
    ratio = log_ratio.exp().unsqueeze(-1)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean(dim=0)


def clip_fractions(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Fraction of the samples whose gradient the clip removes, for each objective, `[m]`."""
    ratio = log_ratio.exp().unsqueeze(-1)
    removed = ((ratio > 1 + clip_range) & (advantages > 0)) | ((ratio < 1 - clip_range) & (advantages < 0))
    return removed.to(advantages.dtype).mean(dim=0)


def value_losses(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each critic head, `[b, m]` and `[b, m]` to `[m]`, in the head's normalised units."""
    return (predictions - targets).square().mean(dim=0)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Low-variance estimate of KL(old || new) from the log ratio `[b]` (http://joschu.net/blog/kl-approx.html)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()
