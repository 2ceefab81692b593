"""Keeps what a run has learnt: checkpoints between updates, and an orderly end when a signal comes."""

from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from dibs_rl import ranks
from dibs_rl.agents.persistence import Snapshot
from dibs_rl.cli.progress import TrainingDisplay
from dibs_rl.cost import CostMeter
from dibs_rl.evaluation import mean_returns
from dibs_rl.run_folder import RunFolder


class Stopper(BaseCallback):
    """Stops learning when a signal has come: at the next step or, where there are several ranks, in all of them together.

    Attributes:
        stopped_by: Number of the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped_by = 0

    def _on_step(self) -> bool:
        if ranks.number() == 1:
            return not self.stopped_by
        if self.n_calls % self.model.n_steps:  # type: ignore[attr-defined]  # only on-policy learners have several ranks
            return True
        together = int(ranks.largest(torch.tensor(self.stopped_by, device=self.model.device)))
        if together:  # else a signal may have come to this rank while it waited for the others: it is for the next time
            self.stopped_by = together
        return not together

    def stop(self, number: int) -> None:
        """Takes note of a signal."""
        self.stopped_by = number


class Keeper(Stopper):
    """Saves checkpoints between updates and what they cost, shows progress, and stops learning when a signal has come.

    Whatever ends the training, in a rollout or in an update, a learner goes back to the last rollout that it has learnt from,
    of which a copy is kept. One that learns every few steps would be copied as often: without a copy it can only forget the
    steps since its last update, and where something goes wrong in an update the newest checkpoint is what is left.

    Args:
        folder: The run's.
        display: What the person sees.
        every: Environment steps between checkpoints.
        with_replay: Whether the replay buffer is kept too.
    """

    def __init__(self, folder: RunFolder, display: TrainingDisplay, every: int, *, with_replay: bool = False) -> None:
        super().__init__()
        self._folder, self._display, self._every, self._with_replay = folder, display, every, with_replay
        self._meter = CostMeter(folder.cost())
        self._learnt_steps = 0  # steps of the rollouts that have been learnt from
        self._learnt: Snapshot | None = None  # as it was before a rollout that is not yet learnt from
        self._between_updates = False
        self._saved_at = -1

    def _on_training_start(self) -> None:
        self._learnt_steps = self.model.num_timesteps
        if not self._folder.checkpoint_file(self._learnt_steps).is_file():
            self.save()  # so that a run that is killed early can go on too

    def _on_rollout_start(self) -> None:
        self._between_updates = True
        self._learnt_steps = self.model.num_timesteps
        if isinstance(self.model, OnPolicyAlgorithm):
            self._learnt = Snapshot(self.model)
        if self._learnt_steps - self._saved_at >= self._every:
            self.save()
        if self._display.due:
            self._show()

    def _on_rollout_end(self) -> None:
        self._between_updates = False

    def _on_training_end(self) -> None:
        if not self._between_updates:  # it does not end in a rollout that was cut short
            self._between_updates, self._learnt = True, None
            self._learnt_steps = self.model.num_timesteps
            self._show()

    def _show(self) -> None:
        episodes = self.model.ep_info_buffer
        returns = mean_returns(np.stack([episode["r"] for episode in episodes])).tolist() if episodes else None
        self._display.update(self._learnt_steps, returns)

    def save_what_is_learnt(self) -> None:
        """Goes back to the last rollout that was learnt from, as if the next one had not begun, and saves that.

        Without a copy to go back to, after something went wrong in an update or before the first rollout, it saves nothing.
        """
        if self._learnt is not None:
            self._learnt.put_back()
        elif not self._between_updates:
            return
        self.model.num_timesteps = self._learnt_steps
        if self._learnt_steps > self._saved_at:
            self.save()

    def save(self) -> None:
        """Saves a checkpoint between two updates."""
        self._saved_at = self._learnt_steps
        self._write(self._folder.checkpoint_file(self._learnt_steps))
        self._folder.drop_old_checkpoints()

    def finish(self) -> None:
        """Saves the finished model."""
        self._write(self._folder.model_file)

    def _write(self, file: Path) -> None:
        """Saves the model, what goes with it, and what the training has taken so far."""
        self.model.save(file)
        if self._with_replay:
            self.model.save_replay_buffer(self._folder.replay_file)  # type: ignore[attr-defined]
        self._folder.write_cost(self._meter.cost(self._learnt_steps))
