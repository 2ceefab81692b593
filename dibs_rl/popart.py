"""PopArt: a critic head per objective that learns in its own units, whatever those are.

van Hasselt et al. 2016, "Learning values across many orders of magnitude", arXiv 1602.07714. Two departures, both for
exact invariance to scale: statistics begin with the first batch in which an objective's targets vary (not at the constants
0 and 1), and nothing is added to a standard deviation; an objective whose targets never varied has standard deviation 0 and
value equal to the mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dibs_rl import ranks, sync
from dibs_rl.returns import own_moments, own_samples


class Moments(NamedTuple):
    """Running mean and standard deviation of the value targets of each objective, `[m]` each, and the batches seen."""

    mean: Tensor
    std: Tensor
    batches: Tensor


def update_moments(moments: Moments, targets: Tensor, rate: float, active: Tensor | None = None) -> Moments:
    """Moves the moments toward those of a batch of targets `[N, m]`, of those that are active `[N, m]` where this is given.

    The first batch is taken whole, the next ones with step size `max(rate, 1/batches)`: a plain average that turns into
    an exponential one. An objective whose targets have not varied so far has its first batch before it: a small step toward a
    sparse reward would make a unit in which that reward is huge. The variance is updated around the moving mean, which is
    stable where the mean is large. An objective of which the batch has no target keeps its moments.
    """
    batches = moments.batches + 1
    step = torch.where(moments.std > 0, torch.clamp(1.0 / batches, min=rate), 1.0)
    rounding = 8 * torch.finfo(targets.dtype).eps
    batch_mean, batch_variance, seen = _moments_of(targets.double(), active)
    step = torch.where(seen, step, 0.0)
    delta = batch_mean - moments.mean
    variance = (1 - step) * (moments.std.square() + step * delta.square()) + step * batch_variance
    mean, std = moments.mean + step * delta, variance.sqrt()
    # Targets that are constant up to rounding have no spread: the noise in their last digit is not a unit.
    std = torch.where(std > rounding * torch.maximum(mean.abs(), delta.abs()), std, 0.0)
    return Moments(mean, std, batches)


def _moments_of(targets: Tensor, active: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each column's own targets in all ranks, and whether it has any, `[m]` each."""
    if active is None:
        count = torch.full_like(targets[0], len(targets))
        count, mean, variance = ranks.moments(count, targets.mean(dim=0), targets.var(dim=0, correction=0))
        return mean, variance, count > 0
    if sync.waits(active.device):
        count, mean, variance = ranks.moments(*own_moments(targets, active))
        return mean, variance, count > 0
    own = [part if len(part) else part.new_zeros(1, 1) for part in own_samples(targets, active)]
    mean, variance = (torch.cat([moment(part) for part in own]) for moment in (_mean, _variance))
    count, mean, variance = ranks.moments(active.sum(dim=0).to(mean.dtype), mean, variance)
    return mean, variance, count > 0


def _mean(samples: Tensor) -> Tensor:
    return samples.mean(dim=0)


def _variance(samples: Tensor) -> Tensor:
    return samples.var(dim=0, correction=0)


def normalise(values: Tensor, moments: Moments) -> Tensor:
    """From the rewards' units `[..., m]` to the head's; 0 where the standard deviation is 0."""
    spread = moments.std > 0
    units = (values.double() - moments.mean) / torch.where(spread, moments.std, torch.ones_like(moments.std))
    return torch.where(spread, units, 0.0).to(values.dtype)


def unnormalise(units: Tensor, moments: Moments) -> Tensor:
    """From the head's units `[..., m]` to the rewards'."""
    return (units.double() * moments.std + moments.mean).to(units.dtype)


@torch.no_grad()
def rescale_head(weight: Tensor, bias: Tensor, old: Moments, new: Moments) -> None:
    """Changes a head `[m, h]`, `[..., m]` in place so that its outputs in the rewards' units stay what they were.

    A head that had no units before (standard deviation 0: it has only ever said the mean) keeps its weights instead.
    """
    known = (old.std > 0) & (new.std > 0)
    ratio = torch.where(known, old.std / torch.where(known, new.std, torch.ones_like(new.std)), 1.0)
    shift = torch.where(known, (old.mean - new.mean) / torch.where(known, new.std, torch.ones_like(new.std)), 0.0)
    weight.mul_(ratio.unsqueeze(1).to(weight.dtype))
    bias.copy_((bias.double() * ratio + shift).to(bias.dtype))


class PopArt(nn.Module, ABC):
    """Mixin: a critic of m objectives that learns in units of its own, the moments of its targets.

    Attributes:
        mean: Of each objective's targets, `[m]`.
        std: Likewise; 0 where the targets have never varied.
        batches: Batches absorbed, `[]`.
    """

    mean: Tensor
    std: Tensor
    batches: Tensor

    def start_units(self, objectives: int, *, rate: float, enabled: bool) -> None:
        """To be called once, at construction.

        Args:
            objectives: Their number m.
            rate: Least step size of the moments.
            enabled: Without PopArt the moments stay at mean 0 and standard deviation 1.
        """
        self.rate, self.enabled = rate, enabled
        self.register_buffer("mean", torch.zeros(objectives, dtype=torch.float64))
        self.register_buffer("std", torch.full((objectives,), 0.0 if enabled else 1.0, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64))

    @property
    def moments(self) -> Moments:
        """The moments as they stand."""
        return Moments(self.mean, self.std, self.batches)

    def unnormalise(self, units: Tensor) -> Tensor:
        """From the critic's own units `[..., m]` to the rewards'."""
        return unnormalise(units, self.moments)

    def normalise(self, values: Tensor) -> Tensor:
        """From the rewards' units `[..., m]` to the critic's own."""
        return normalise(values, self.moments)

    @torch.no_grad()
    def absorb(self, targets: Tensor, active: Tensor | None = None) -> None:
        """Takes a batch of value targets `[N, m]`, in the rewards' units, into the moments; outputs are preserved.

        Args:
            targets: The value targets.
            active: Which of them count, `[N, m]` bool; all if not given.
        """
        if self.enabled:
            self.change_units(update_moments(self.moments, targets, self.rate, active))

    @torch.no_grad()
    def change_units(self, new: Moments) -> None:
        """Takes on other moments; outputs in the rewards' units are preserved."""
        self._rescale(self.moments, new)
        for buffer, value in zip(self.moments, new, strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def multiply_units(self, factors: Sequence[float]) -> None:
        """Multiplies what the critic says in the rewards' units, as if its targets had been. Without PopArt, nothing.

        Args:
            factors: Of each objective, `[m]`.
        """
        if self.enabled:
            by = torch.as_tensor(factors, dtype=self.mean.dtype, device=self.mean.device)
            self.mean.mul_(by)
            self.std.mul_(by)

    @abstractmethod
    def _rescale(self, old: Moments, new: Moments) -> None:
        """`rescale_head` on the last layer."""


class PopArtHead(PopArt, nn.Linear):
    """A linear head `[h] -> [m]` with the moments of its targets. Called, it answers in the rewards' units.

    Args:
        features: Width h of the layer below.
        objectives: Number of objectives m.
        rate: Least step size of the moments.
        enabled: Without PopArt the moments stay at mean 0 and standard deviation 1.
    """

    def __init__(self, features: int, objectives: int, *, rate: float = 0.05, enabled: bool = True) -> None:
        super().__init__(features, objectives)
        self.start_units(objectives, rate=rate, enabled=enabled)

    def normalised(self, features: Tensor) -> Tensor:
        """Values in the head's own units, `[..., m]`: what is trained."""
        return nn.functional.linear(features, self.weight, self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Values in the rewards' units, `[..., m]`."""
        return self.unnormalise(self.normalised(features))

    def _rescale(self, old: Moments, new: Moments) -> None:
        rescale_head(self.weight, self.bias, old, new)
