"""What a learner says of itself: episodes and updates, averaged, by the objectives' names."""

from abc import abstractmethod
from collections.abc import Iterable, MutableMapping, MutableSequence
from itertools import islice
from typing import Any

import torch

from dibs_rl import ranks, sync
from dibs_rl.agents.objective_log import ObjectiveLog
from dibs_rl.diagnostics import Bargain, summarise
from dibs_rl.vec_env import VectorRewardVecEnv

Log = MutableMapping[str, MutableSequence[Any]]  # what is logged, and its values since the last time it was


class Records(ObjectiveLog):
    """Mixin: keeps the statistics of episodes and updates, and hands them to SB3's logger."""

    _unshared: list[tuple[list[dict[str, Any]], list[Any]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unshared = []
        super().__init__(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_unshared"]

    @property
    @abstractmethod
    def _rows(self) -> tuple[str, ...]:
        """Names of the gradients that are combined."""

    def _note_endings(self, env: VectorRewardVecEnv) -> None:
        """Keeps the statistics of the episodes that ended since the last time, as SB3 does."""
        returns, lengths = env.pop_episodes()
        pairs = zip(returns.cpu().numpy(), lengths.tolist(), strict=True)
        self._note([{"r": total, "l": length} for total, length in pairs], [])

    def _note_successes(self, env: VectorRewardVecEnv) -> None:
        """Keeps what the infos of the worlds whose episode ended in the last step say of its success."""
        self._note([], [info["is_success"] for info in env.own_infos.values() if info.get("is_success") is not None])

    def _note(self, endings: list[dict[str, Any]], successes: list[Any]) -> None:
        if not (endings or successes):  # at most steps
            return
        self._keep(endings, successes)
        if ranks.number() > 1:
            self._unshared.append((endings, successes))

    def _share_endings(self) -> None:
        """Tells the other ranks of the episodes that ended since the last time, and hears of theirs."""
        if ranks.number() == 1:
            return
        for i, found in enumerate(ranks.gathered(self._unshared)):
            for endings, successes in found if i != ranks.rank() else ():
                self._keep(endings, successes)
        self._unshared = []

    def _keep(self, endings: Iterable[dict[str, Any]], successes: Iterable[Any]) -> None:
        self.ep_info_buffer.extend(endings)  # type: ignore[union-attr]
        self.ep_success_buffer.extend(successes)  # type: ignore[union-attr]

    def _record_updates(self, log: Log) -> None:
        """Averages what updates collected and hands it to the logger, by the objectives' names."""
        average = torch.nanmean if sync.waits(self.device) else torch.mean  # what was masked there is NaN
        bargains: MutableSequence[Bargain] = log.pop("bargain", [])
        averages = [average(torch.stack(list(values)), dim=0) for values in log.values()]
        found = iter(sync.read([*averages, *(part for bargain in bargains for part in bargain)]))  # in one transfer
        for key, mean in zip(log, islice(found, len(averages)), strict=True):
            if mean.dim() == 0:
                self.logger.record(f"train/{key}", mean.item())
                continue
            names = self.objectives if len(mean) == len(self.objectives) else self._rows
            for name, value in zip(names, mean.tolist(), strict=True):
                self.logger.record(f"train/{key}/{name}", value)
        bargains = [Bargain(*islice(found, len(bargain))) for bargain in bargains]
        for key, value in summarise(bargains, self._rows).items() if bargains else ():
            self.logger.record(f"train/{key}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
