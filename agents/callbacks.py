"""Evaluation while learning: SB3's `EvalCallback` for many rewards."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback

from dibs_rl.agents.sb3_ppo import SB3PPO
from dibs_rl.envs import as_vector_env, normalization_of
from dibs_rl.errors import UserError
from dibs_rl.evaluation import Episodes, evaluate, mean_returns
from dibs_rl.selection import Rule
from dibs_rl.vec_env import VectorRewardVecEnv


class MOEvalCallback(EvalCallback):
    """SB3's `EvalCallback` for many rewards: plays episodes from time to time and keeps the best model by a rule.

    It logs `eval/return/<objective>`, `eval/mean_ep_length`, `eval/success_rate` where infos say `is_success`, and
    `eval/score`. The score takes the place of SB3's mean reward: `best_mean_reward` and `last_mean_reward` hold it, so that
    callbacks such as `StopTrainingOnRewardThreshold` work by it. `evaluations.npz` under `log_path` is SB3's, with
    `results [evaluations, episodes, m]` and the names in `objectives`.

    Args:
        eval_env: Whatever `as_vector_env` takes; not the environment that is trained in. Where that is in an SB3
            `VecNormalize`, this one must be too (with `training=False`): its statistics are brought up to date each time.
        score: The rule: from the mean returns by objective to a number (see `dibs_rl.selection`, or a function of your own).
        **kwargs: Those of SB3's `EvalCallback` but for `render` and `warn`; `n_eval_episodes` is 20 if not given.

    Attributes:
        evaluations: Environment steps and episodes of each evaluation so far.

    Raises:
        UserError: If a best model is asked for and no rule is given, or the environment gives no vector reward.

    Example:
        >>> from dibs_rl.agents import MOEvalCallback
        >>> from dibs_rl.selection import maximin
        >>> rule = maximin(low={"treasure": 0, "time": -100}, high={"treasure": 23.7, "time": -1})
        >>> callback = MOEvalCallback("deep-sea-treasure-v0", rule, eval_freq=1_000, best_model_save_path="best")
    """

    eval_env: VectorRewardVecEnv

    def __init__(self, eval_env: Any, score: Rule | None = None, **kwargs: Any) -> None:
        refused = sorted(kwargs.keys() & {"render", "warn"})
        if refused:
            raise UserError(f"MOEvalCallback neither renders nor warns of a missing Monitor: leave out {', '.join(refused)}.")
        wants_best = [key for key in ("best_model_save_path", "callback_on_new_best") if kwargs.get(key) is not None]
        if wants_best and score is None:
            raise UserError(f"{wants_best[0]} needs a score: m returns have no order of their own.")
        super().__init__(as_vector_env(eval_env), **{"n_eval_episodes": 20, **kwargs})
        self.score = score
        self.evaluations: list[tuple[int, Episodes]] = []

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            # Any environment with the same rewards will do, whatever steps it.
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            super()._init_callback()

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return True
        self._sync_normalization()
        episodes = evaluate(self.model, self.eval_env, self.n_eval_episodes, deterministic=self.deterministic)
        self.evaluations.append((self.num_timesteps, episodes))
        self._save_evaluations()
        returns = dict(zip(episodes.objectives, mean_returns(episodes.returns).tolist(), strict=True))
        if self.score is not None:
            self.last_mean_reward = float(self.score(returns))
        self._log(returns, episodes)
        go_on = self.score is None or self._note_score()
        return go_on and self._on_event()

    def _sync_normalization(self) -> None:
        """Brings the statistics of a normalised evaluation environment to those of training."""
        source, target = normalization_of(self.training_env), normalization_of(self.eval_env)
        if source is None or (target is None and isinstance(self.model, SB3PPO)):  # which normalises what it is shown itself
            return
        if target is None:
            raise UserError(f"The training environment is in {type(source).__name__}, and the one for evaluation is not.")
        for name in ("obs_rms", "ret_rms"):
            if name in vars(source):
                setattr(target, name, deepcopy(vars(source)[name]))

    def _note_score(self) -> bool:
        """Keeps the model where it is the best so far; False where a callback then stops training."""
        if not self.last_mean_reward > self.best_mean_reward:  # a NaN is never the best
            return True
        self.best_mean_reward = self.last_mean_reward
        if self.verbose >= 1:
            print("New best score!")  # noqa: T201  where SB3's prints, at the same verbosity
        if self.best_model_save_path is not None:
            self.model.save(Path(self.best_model_save_path) / "best_model")
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()

    def _log(self, returns: dict[str, float], episodes: Episodes) -> None:
        if self.verbose >= 1:
            named = ", ".join(f"{name} {value:.2f}" for name, value in returns.items())
            print(f"Eval num_timesteps={self.num_timesteps}, mean returns: {named}")  # noqa: T201
        for name, value in returns.items():
            self.logger.record(f"eval/return/{name}", value)
        self.logger.record("eval/mean_ep_length", float(episodes.lengths.mean()))
        if len(episodes.successes):
            self.logger.record("eval/success_rate", float(np.mean(episodes.successes)))
        if self.score is not None:
            self.logger.record("eval/score", self.last_mean_reward)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _save_evaluations(self) -> None:
        if self.log_path is None:
            return
        steps, episodes = zip(*self.evaluations, strict=True)
        arrays = {
            "timesteps": steps,
            "results": np.stack([found.returns for found in episodes]),
            "ep_lengths": np.stack([found.lengths for found in episodes]),
            "objectives": episodes[-1].objectives,
        }
        if all(len(found.successes) == len(found.returns) for found in episodes):
            arrays["successes"] = np.stack([found.successes for found in episodes])
        np.savez(self.log_path, **arrays)
