"""Evaluation while learning: the counterpart of SB3's `EvalCallback` for many rewards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from dibs_rl.envs import as_vector_env
from dibs_rl.evaluation import Episodes, evaluate


class VectorEvalCallback(BaseCallback):
    """Plays episodes in an environment of its own from time to time and logs `eval/return/<objective>`.

    Args:
        eval_env: Whatever `as_vector_env` takes; not the environment that is trained in.
        eval_freq: Calls between evaluations (one call a step of all worlds), as in SB3's `EvalCallback`.
        n_eval_episodes: Episodes each time.
        best_model_save_path: Folder for `best_model.zip`; needs `score`.
        score: From the mean returns `[m]` to the number by which the best model is chosen.
        deterministic: Take the distribution's mode instead of a sample.

    Attributes:
        evaluations: Environment steps and episodes of each evaluation so far.
    """

    def __init__(
        self,
        eval_env: Any,
        eval_freq: int,
        n_eval_episodes: int = 20,
        *,
        best_model_save_path: str | Path | None = None,
        score: Callable[[np.ndarray], float] | None = None,
        deterministic: bool = True,
    ) -> None:
        super().__init__()
        if (best_model_save_path is None) != (score is None):
            raise ValueError("best_model_save_path and score come together: m returns have no order of their own.")
        self.eval_env = as_vector_env(eval_env)
        self.eval_freq, self.n_eval_episodes, self.deterministic = eval_freq, n_eval_episodes, deterministic
        self.best_model_save_path, self.score = best_model_save_path, score
        self.best_score = -np.inf
        self.evaluations: list[tuple[int, Episodes]] = []

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self._evaluate()
        return True

    def _evaluate(self) -> None:
        episodes = evaluate(self.model, self.eval_env, self.n_eval_episodes, deterministic=self.deterministic)
        self.evaluations.append((self.num_timesteps, episodes))
        means = episodes.returns.mean(axis=0)
        for name, mean in zip(episodes.objectives, means.tolist(), strict=True):
            self.logger.record(f"eval/return/{name}", mean)
        self.logger.record("eval/ep_len_mean", float(episodes.lengths.mean()))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.score is not None and self.best_model_save_path is not None and self.score(means) > self.best_score:
            self.best_score = self.score(means)
            self.model.save(Path(self.best_model_save_path) / "best_model.zip")
