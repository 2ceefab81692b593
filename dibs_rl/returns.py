"""Advantages and their normalisation, for all objectives at once."""

import torch
from torch import Tensor

from dibs_rl import ranks, sync
from dibs_rl.units import unit_power

_ROUNDINGS = 8  # of its largest number: a column that varies by less is constant


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438), per objective.

    Args:
        rewards: `[T, n, m]`.
        values: Values of the observations acted on, `[T, n, m]`, in the rewards' units.
        next_values: Values of the observations that followed, `[T, n, m]`: of the episode's last observation where it
            ended, so that a truncated episode is bootstrapped.
        terminated: Whether the step ended the episode by the task's own rules, `[T, n]` bool: nothing follows.
        done: Whether the step ended the episode in any way, `[T, n]` bool: the sum stops here.
        gamma: Discount factor.
        gae_lambda: Trade-off between bias (0) and variance (1).

    Returns:
        Advantages `[T, n, m]`. They scale exactly with each objective's rewards and values.
    """
    follows = (~terminated).unsqueeze(-1).to(rewards.dtype)
    carries_on = gamma * gae_lambda * (~done).unsqueeze(-1).to(rewards.dtype)
    advantages = rewards + gamma * next_values * follows - values
    for t in range(len(rewards) - 2, -1, -1):
        advantages[t] += carries_on[t] * advantages[t + 1]
    return advantages


def td_targets(rewards: Tensor, next_values: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """One-step targets r + gamma V(s') of the discounted return, per objective.

    Args:
        rewards: `[b, m]`.
        next_values: Values of what followed, `[b, m]`, in the rewards' units.
        terminated: Whether the step ended the episode by the task's own rules, `[b]` bool: nothing follows.
        gamma: Discount factor.
    """
    return rewards + gamma * torch.where(terminated.unsqueeze(1), 0.0, next_values)


def own_samples(columns: Tensor, active: Tensor) -> list[Tensor]:
    """The samples of each column of `[..., k]` that count for it, a column `[c, 1]` each.

    Args:
        columns: Values of k objectives.
        active: Which of them count, `[..., k]` bool.
    """
    columns, active = columns.flatten(0, -2), active.flatten(0, -2)
    return [columns[active[:, i], i].unsqueeze(1) for i in range(columns.shape[1])]


def own_moments(columns: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and variance (divided by the number) of the samples of each column of `[N, k]` that count for it.

    What `own_samples` would say, without a look at how many there are; the last two are 0 where there is none.

    Args:
        columns: Values of k objectives.
        active: Which of them count, `[N, k]` bool.
    """
    count = active.sum(dim=0).to(columns.dtype)
    at_least_one = count.clamp(min=1)
    mean = torch.where(active, columns, 0.0).sum(dim=0) / at_least_one
    variance = torch.where(active, columns - mean, 0.0).square().sum(dim=0) / at_least_one
    return count, mean, variance


def explained_variances(targets: Tensor, residuals: Tensor, active: Tensor | None = None) -> Tensor:
    """Share of the variance of the value targets that the critic foresaw, `[..., m]` twice to `[m]`; NaN where there is none.

    Args:
        targets: Value targets.
        residuals: Targets minus predictions, which are the advantages.
        active: Which samples count for which objective, `[..., m]` bool; all if not given.
    """
    if active is not None and not sync.waits(active.device):
        own = zip(own_samples(targets, active), own_samples(residuals, active), strict=True)
        return torch.cat([explained_variances(target, residual) for target, residual in own])
    targets, residuals = targets.flatten(0, -2), residuals.flatten(0, -2)
    if active is not None:
        active = active.flatten(0, -2)
        targets, residuals = torch.where(active, targets, 0.0), torch.where(active, residuals, 0.0)
    units = unit_power(torch.maximum(targets.abs().amax(dim=0), residuals.abs().amax(dim=0)))
    spread, unforeseen = (_variances(values * units, active) for values in (targets, residuals))
    return torch.where(spread > 0, 1 - unforeseen / spread, torch.nan)


def _variances(columns: Tensor, active: Tensor | None) -> Tensor:
    return columns.var(dim=0, correction=0) if active is None else own_moments(columns, active)[2]


def spreads(columns: Tensor, active: Tensor | None = None) -> Tensor:
    """Standard deviation (divided by the number) of each column of `[N, k]` over all ranks' rows, `[k]` float64.

    It is 0 where a column is constant up to rounding, as in `normalise_columns`.

    Args:
        columns: Values of k objectives.
        active: Which of them count, `[N, k]` bool; all if not given. 0 where none does.
    """
    counted = torch.ones_like(columns, dtype=torch.bool) if active is None else active
    own = torch.where(counted, columns, 0.0).double()
    largest = _largest(own)
    _, _, variance = ranks.moments(*own_moments(own, counted))
    std = variance.sqrt()
    return torch.where(std > _ROUNDINGS * torch.finfo(columns.dtype).eps * largest, std, 0.0)


def normalise_columns(advantages: Tensor, active: Tensor | None = None) -> Tensor:
    """Centres and scales each column of `[N, k]` on its own.

    No epsilon is added to the standard deviation, and squares are taken of numbers next to 1 (in float32 those of 1e-20
    vanish), so a column's units divide out exactly. A column that is constant, or constant up to rounding, becomes zero: an
    objective that has seen no reward yet gives no direction. Mean and spread are those of all ranks' rows.

    Args:
        advantages: `[N, k]`.
        active: Which samples count for which column, `[N, k]` bool; the others become zero. All count if not given.
    """
    if active is not None and sync.waits(active.device):
        return _normalise_own(advantages, active)
    if active is not None:
        normalised = torch.zeros_like(advantages)
        for i, own in enumerate(own_samples(advantages, active)):
            normalised[active[:, i], i] = normalise_columns(own).squeeze(1)
        return normalised
    if len(advantages) < 2 and ranks.number() == 1:  # of several, none may leave before the others
        return torch.zeros_like(advantages)
    largest = _largest(advantages)
    units = unit_power(largest)
    advantages = advantages * units
    std, mean = ranks.std_mean(advantages)
    return _standardise(advantages, mean, std, largest * units)


def _largest(columns: Tensor) -> Tensor:
    """The largest absolute value of each column, over all ranks' rows; a rank may have none."""
    return ranks.largest(columns.abs().amax(dim=0) if len(columns) else columns.new_zeros(columns.shape[1]))


def _standardise(columns: Tensor, mean: Tensor, std: Tensor, largest: Tensor) -> Tensor:
    rounding = _ROUNDINGS * torch.finfo(columns.dtype).eps * largest
    varies = std > rounding
    return torch.where(varies, (columns - mean) / torch.where(varies, std, torch.ones_like(std)), 0.0)


def _normalise_own(advantages: Tensor, active: Tensor) -> Tensor:
    """`normalise_columns` of each column's own samples, without a look at how many there are."""
    own = torch.where(active, advantages, 0.0)
    largest = _largest(own)
    units = unit_power(largest)
    own = own * units
    count, mean, variance = ranks.moments(*own_moments(own, active))
    std = (variance * count / (count - 1).clamp(min=1)).sqrt()
    return torch.where(active, _standardise(own, mean, std, largest * units), 0.0)
