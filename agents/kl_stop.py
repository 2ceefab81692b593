"""Where a policy stops that has moved as far as it may: at once, or under a mask."""

import torch
from torch import Tensor

from dibs_rl import ranks, sync


class KLStop:
    """Stops the steps of an update when a divergence is more than a limit.

    On the processor that is looked at, and what would follow is not done. On a GPU, where looking would wait for it, all that
    follows is done under a mask that leaves the networks as they are.

    Args:
        limit: Largest divergence; None for any.
        device: Where divergences are.

    Attributes:
        mask: `[]` float32, which is changed in place: 1 from the stop on, 0 before; None where nothing is ever masked.
    """

    def __init__(self, limit: float | None, device: torch.device) -> None:
        self._limit = limit
        self.mask = torch.zeros((), device=device) if limit is not None and sync.waits(device) else None

    def reached(self, divergence: Tensor) -> bool:
        """Takes the divergence `[]` found before a step, the mean over all ranks; whether to leave off here."""
        if self._limit is None:
            return False
        too_far = ~(ranks.mean(divergence).double() <= self._limit)  # also where it is NaN
        if self.mask is None:
            return bool(too_far)
        torch.maximum(self.mask, too_far.to(torch.float32), out=self.mask)
        return False

    def kept(self, value: Tensor) -> Tensor:
        """A value for the log: NaN, which does not count there, after the stop."""
        return value if self.mask is None else masked(value, self.mask)


def masked(value: Tensor, mask: Tensor | None) -> Tensor:
    """A value for the log, of a step that was not taken where the mask says 1: NaN then."""
    return value if mask is None else torch.where(mask > 0, torch.nan, value)
