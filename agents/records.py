"""What a learner says of itself: episodes and updates, averaged, by the objectives' names."""

from abc import abstractmethod
from collections.abc import MutableMapping, MutableSequence
from typing import Any

import torch

from dibs_rl.agents.objective_log import ObjectiveLog
from dibs_rl.diagnostics import Bargain, summarise
from dibs_rl.vec_env import VectorRewardVecEnv

Log = MutableMapping[str, MutableSequence[Any]]  # what is logged, and its values since the last time it was


class Records(ObjectiveLog):
    """Mixin: keeps the statistics of episodes and updates, and hands them to SB3's logger."""

    @property
    @abstractmethod
    def _rows(self) -> tuple[str, ...]:
        """Names of the gradients that are combined."""

    def _note_endings(self, env: VectorRewardVecEnv) -> None:
        """Keeps the statistics of the episodes that ended, as SB3 does."""
        returns, lengths = env.pop_episodes()
        pairs = zip(returns.cpu().numpy(), lengths.tolist(), strict=True)
        self.ep_info_buffer.extend({"r": total, "l": length} for total, length in pairs)  # type: ignore[union-attr]
        successes = (info["is_success"] for info in env.own_infos.values() if info.get("is_success") is not None)
        self.ep_success_buffer.extend(successes)  # type: ignore[union-attr]

    def _record_updates(self, log: Log) -> None:
        """Averages what updates collected and hands it to the logger, by the objectives' names."""
        bargains: MutableSequence[Bargain] = log.pop("bargain", [])
        for key, value in summarise(bargains, self._rows).items() if bargains else ():
            self.logger.record(f"train/{key}", value)
        for key, values in log.items():
            mean = torch.stack(list(values)).mean(dim=0)
            if mean.dim() == 0:
                self.logger.record(f"train/{key}", mean.item())
                continue
            names = self.objectives if len(mean) == len(self.objectives) else self._rows
            for name, value in zip(names, mean.tolist(), strict=True):
                self.logger.record(f"train/{key}/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
