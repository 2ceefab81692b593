"""Stakes: how much the advantages of an objective vary, beside what they used to.

Unit gradients, and advantages that are normalised in each rollout, give an objective as much say when there is hardly
anything left to win or lose in it as when there was most. The spread of its advantages tells how much there is, in the
reward's unit; their root mean square over the training so far has the same unit, and their ratio none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from dibs_rl.units import positive_or_one


@dataclass(frozen=True, eq=False)
class StakeHistory:
    """What the rollouts so far say; the next one makes another object.

    Attributes:
        rollouts: In how many of them each objective's advantages varied, `[m]` float64. The others do not count: a reward that
            is found late would have the only say for long.
        mean_square: Of the spreads of its advantages in these, `[m]` float64. Both are `[]` before the first rollout.
    """

    rollouts: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    mean_square: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def after(self, spread: Tensor) -> Self:
        """What is known once the spreads `[m]` of another rollout's advantages are."""
        varies = spread > 0
        rollouts, before = self.rollouts.to(spread.device) + varies, self.mean_square.to(spread.device)
        step = torch.where(varies, (spread.square() - before) / rollouts.clamp(min=1), 0.0)
        return type(self)(rollouts, before + step)

    def stakes(self, spread: Tensor) -> Tensor:
        """What is at stake for each objective in a rollout that counts already, `[m]` float64, the largest 1.

        Args:
            spread: Of its advantages, `[m]`, in units of whose root mean square the stakes are; 0 where nothing varies.
        """
        found = spread / positive_or_one(self.mean_square.sqrt())
        return found / positive_or_one(found.max())

    def in_units(self, factors: Sequence[float]) -> Self:
        """The same, had each reward been multiplied by a factor, `[m]`; of one that is off now nothing is known."""
        by = torch.as_tensor(factors, dtype=torch.float64, device=self.mean_square.device)
        return replace(self, rollouts=torch.where(by != 0, self.rollouts, 0.0), mean_square=self.mean_square * by.square())

    def __getstate__(self) -> dict[str, Any]:
        """For a file that opens also where there is no GPU; `after` brings tensors back to one."""
        return {name: tensor.cpu() for name, tensor in self.__dict__.items()}
