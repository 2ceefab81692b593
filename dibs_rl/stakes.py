"""Stakes: how much the advantages of an objective vary, beside what they used to.

Unit gradients, and advantages that are normalised in each rollout, give an objective as much say when there is hardly
anything left to win or lose in it as when there was most. The spread of its advantages tells how much there is, in the
reward's unit; their root mean square over the training so far has the same unit, and their ratio none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from dibs_rl.returns import spreads
from dibs_rl.units import positive_or_one


@dataclass(frozen=True, eq=False)
class Stakes:
    """What the rollouts so far say; the next one makes another object.

    Attributes:
        rollouts: In how many of them each objective's advantages varied, `[m]` float64. The others do not count: a reward that
            is found late would have the only vote for long.
        mean_square: Of the spreads of its advantages in these, `[m]` float64.
        votes: Of each objective, `[m]` float64, from 0 to 1: the spread in the last rollout, in units of the root mean square
            of all that count; the largest is 1. All are 0 where no advantage varies.
    """

    rollouts: Tensor | None = None
    mean_square: Tensor | None = None
    votes: Tensor | None = None

    def after(self, advantages: Tensor, active: Tensor | None = None) -> Self:
        """The stakes once another rollout is known.

        Args:
            advantages: The rollout's, `[N, m]`, in the rewards' units.
            active: Which of them count for which objective, `[N, m]` bool; all if not given.
        """
        spread = spreads(advantages, active)
        nothing = torch.zeros_like(spread)
        count, before = (nothing if part is None else part.to(spread.device) for part in (self.rollouts, self.mean_square))
        varies = spread > 0
        count = count + varies
        mean_square = before + torch.where(varies, (spread.square() - before) / count.clamp(min=1), 0.0)
        votes = spread / positive_or_one(mean_square.sqrt())
        return type(self)(count, mean_square, votes / positive_or_one(votes.max()))

    def in_units(self, factors: Sequence[float]) -> Self:
        """The same, had each reward been multiplied by a factor, `[m]`."""
        if self.mean_square is None:
            return self
        return replace(self, mean_square=self.mean_square * self.mean_square.new_tensor(factors).square())

    def __getstate__(self) -> dict[str, Any]:
        """For a file that opens also where there is no GPU; the next rollout brings tensors back to one."""
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in self.__dict__.items()}
