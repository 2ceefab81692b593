"""What every learner writes to its log: each objective's return by name."""

import math
import sys
import time

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from dibs_rl.evaluation import mean_returns


class ObjectiveLog(BaseAlgorithm):
    """Mixin for SB3 learners whose episodes' returns are vectors."""

    objectives: tuple[str, ...]

    def dump_logs(self, iteration: int = 0) -> None:
        """Writes the log: mean return of the last episodes for each objective, lengths and speed."""
        if self.ep_info_buffer:
            returns = mean_returns(np.stack([episode["r"] for episode in self.ep_info_buffer]))
            for name, value in zip(self.objectives, returns.tolist(), strict=True):
                if not math.isnan(value):
                    self.logger.record(f"rollout/return/{name}", value)
            self.logger.record("rollout/ep_len_mean", np.mean([episode["l"] for episode in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", np.mean(self.ep_success_buffer))
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if iteration:
            self.logger.record("time/iterations", iteration, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", elapsed, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)
