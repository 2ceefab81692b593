"""SB3's `VecMonitor` for vector rewards: one column for each objective."""

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from dibs_rl.envs.sb3_adapter import names_of, vector_rewards


class MOVecMonitor(VecMonitor):
    """SB3's `VecMonitor`, counting each objective's return by name.

    Rewards pass as they are, so that it also serves SB3's own learners on environments that keep the vector in their infos (as
    MO-Gymnasium's `LinearReward` does). The info of an episode's last step has `episode`, with `r` (the return of the reward
    that the learner sees: a number, or the vector `[m]`), `l` (steps), `t` (seconds since the start) and `return/<objective>`.
    Where something below has counted the objectives' returns already, before it changed the rewards, those are taken.

    Args:
        venv: Its reward is an array `[n, m]`, or each info holds a vector under `"vector_reward"`.
        filename: Where to write a row an episode, as `<filename>.monitor.csv`; SB3's `load_results` reads it. Its column `r`
            is empty where the reward is a vector.
        info_keywords: Keys of the last step's info that are kept as well.
        objectives: Names of the m rewards; taken from the environment where it says them.

    Raises:
        UserError: If neither names nor a `reward_space` say what m is, or (at the first step) if no reward is a vector.
    """

    def __init__(
        self,
        venv: VecEnv,
        filename: str | None = None,
        info_keywords: tuple[str, ...] = (),
        objectives: Sequence[str] | None = None,
    ) -> None:
        self.objectives = tuple(objectives) if objectives else names_of(venv)
        super().__init__(venv, info_keywords=info_keywords)
        self.vector_returns = np.zeros((self.num_envs, len(self.objectives)))
        if filename:
            env_id = getattr(getattr(venv, "spec", None), "id", None)
            columns = ("r", "l", "t", *self._columns, *info_keywords)
            self.results_writer = EpisodeCSV(filename, {"t_start": self.t_start, "env_id": str(env_id)}, columns)

    @property
    def _columns(self) -> list[str]:
        return [f"return/{name}" for name in self.objectives]

    def reset(self) -> Any:
        """Starts new episodes and counts from zero."""
        self.vector_returns[:] = 0
        return super().reset()

    def step_wait(self) -> Any:
        """The environment's step, with `episode` in the infos of episodes that ended."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self.vector_returns += vector_rewards(rewards, infos, len(self.objectives))
        if np.ndim(rewards) == 1:
            self.episode_returns += rewards
        self.episode_lengths += 1
        infos = list(infos)
        for i in np.flatnonzero(dones).tolist():
            infos[i] = {**infos[i], "episode": self._end_episode(i, infos[i], is_vector=np.ndim(rewards) == 2)}
        return obs, rewards, dones, infos

    def _end_episode(self, i: int, info: dict[str, Any], *, is_vector: bool) -> dict[str, Any]:
        counted = info.get("episode", {}).get("r")
        returns = self.vector_returns[i].copy() if np.shape(counted) != (len(self.objectives),) else np.array(counted)
        episode: dict[str, Any] = {
            "r": returns if is_vector else float(self.episode_returns[i]),
            "l": int(self.episode_lengths[i]),
            "t": round(time.time() - self.t_start, 6),
            **dict(zip(self._columns, returns.tolist(), strict=True)),
            **{key: info[key] for key in self.info_keywords},
        }
        self.episode_count += 1
        self.vector_returns[i], self.episode_returns[i], self.episode_lengths[i] = 0, 0, 0
        if self.results_writer:
            row: dict[str, Any] = {**episode, "r": ""} if is_vector else episode
            self.results_writer.write_row(row)
        return episode


class EpisodeCSV(ResultsWriter):
    """SB3's monitor file (a line of JSON, then CSV) with columns of one's own.

    Args:
        filename: `.monitor.csv` is put behind it where it is not there yet.
        header: What the first line says.
        columns: Names of the columns.
    """

    def __init__(self, filename: str, header: dict[str, Any], columns: Sequence[str]) -> None:
        path = Path(filename if filename.endswith(Monitor.EXT) else f"{filename}.{Monitor.EXT}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file_handler = open(path, "w", newline="\n", encoding="utf-8")  # noqa: SIM115  open until close()
        self.file_handler.write(f"#{json.dumps(header)}\n")
        self.logger = csv.DictWriter(self.file_handler, fieldnames=columns)
        self.logger.writeheader()
        self.file_handler.flush()
