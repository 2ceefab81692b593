"""`dibs-rl record`: a video of a trained policy, with the returns of each objective drawn over the pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from PIL import Image

from dibs_rl.cli.evaluate import SEED_OFFSET
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.model import load_model
from dibs_rl.config import RunConfig
from dibs_rl.envs import make, task_ids
from dibs_rl.envs.rendering import get_ready_to_draw
from dibs_rl.errors import UserError
from dibs_rl.evaluation import Policy
from dibs_rl.run_folder import RunFolder
from dibs_rl.vec_env import VectorRewardVecEnv
from dibs_rl.video import ReturnsOverlay, check_video_name, mp4_installed, side_by_side, write_video

_RATE = 30.0  # pictures a second where the environment says nothing
_LAST_PICTURE = 1.0  # seconds that the end stands still, so that the numbers can be read


@dataclass
class RecordConfig:
    """Record a video of a trained policy, with the running return of each objective drawn over the pictures."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; of a run that has not finished, the newest checkpoint is taken."""
    out: Path | None = None
    """Video file, .mp4 or .gif; video.mp4 in the run folder if not given, or video.gif where PyAV is not installed."""
    episodes: int = 1
    """How many episodes, one after the other; of several tasks, of each, side by side."""
    seed: int | None = None
    """Seed of the first episode; 10000 + the run's seed if not given, as in evaluate."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one."""


def run(arguments: list[str]) -> int:
    """Records; returns the exit code."""
    flags = parse(RecordConfig, arguments, "record")
    if flags.episodes < 1 or (flags.seed or 0) < 0:
        raise UserError(f"At least one episode and a seed of 0 or more; found {flags.episodes} and {flags.seed}.")
    out = flags.out or flags.run / ("video.mp4" if mp4_installed() else "video.gif")
    check_video_name(out)
    folder = RunFolder.open(flags.run)
    config = folder.config()
    model = load_model(config, folder.newest_model(), None, "cpu")
    env = _drawing_env(config, SEED_OFFSET + config.seed if flags.seed is None else flags.seed)
    try:
        tapes = [_Tape(env, world, flags.episodes) for world in range(env.num_envs)]
        rate = float(env.get_attr("metadata", 0)[0].get("render_fps") or _RATE)
        with torch.no_grad():
            number = write_video(out, _pictures(model, env, tapes, deterministic=not flags.stochastic, rate=rate), rate)
    finally:
        env.close()
    for tape in tapes:
        tape.print_returns()
    print_line(f"Video: {out}   ({number} pictures, {number / rate:.1f} s)")
    return 0


def _drawing_env(config: RunConfig, seed: int) -> VectorRewardVecEnv:
    """The run's environment with one world, or one for each task, which collect pictures of every step."""
    tasks = task_ids(config.env)
    for env_id in tasks.values() or [config.env]:
        get_ready_to_draw(env_id)
    settings: dict[str, Any] = {"pad": True} if config.pad_tasks else {}
    env = make(config.env, max(1, len(tasks)), backend="gym", seed=seed, render_mode="rgb_array_list", **settings)
    env.set_attr("reset_clean", False)  # the last picture of an episode is still wanted when the next one has begun
    return env


def _pictures(
    model: Policy, env: VectorRewardVecEnv, tapes: list["_Tape"], *, deterministic: bool, rate: float
) -> Iterator[np.ndarray]:
    """Plays until each world has played its episodes, and gives a picture of all worlds for each step."""
    obs = env.reset()
    for tape, frames in zip(tapes, env.env_method("render"), strict=True):
        tape.start(frames[-1])
    yield side_by_side([tape.image for tape in tapes])
    while any(tape.episodes_left for tape in tapes):
        actions, _ = model.predict(obs, deterministic=deterministic)
        obs, rewards, dones, _ = env.step(actions)
        for i, (tape, frames) in enumerate(zip(tapes, env.env_method("render"), strict=True)):
            tape.add(frames, rewards[i], dones[i])
        yield side_by_side([tape.image for tape in tapes])
    for _ in range(round(rate * _LAST_PICTURE)):
        yield side_by_side([tape.image for tape in tapes])


class _Tape:
    """What is seen of one world: its last picture, until its episodes have been played.

    Args:
        env: The environment.
        world: The world's number.
        episodes: How many are to be played.
    """

    def __init__(self, env: VectorRewardVecEnv, world: int, episodes: int) -> None:
        active = [True] * env.reward_dim if env.active is None else env.active[world].tolist()
        self._columns = np.flatnonzero(active)
        self._names = [env.objectives[j] for j in self._columns]
        self._overlay = ReturnsOverlay(self._names)
        self._returns: list[np.ndarray] = []
        self.episodes_left = episodes
        self.image: Image.Image

    def start(self, frame: np.ndarray) -> None:
        """Shows the first picture of an episode."""
        self._overlay.start()
        self.image = self._overlay.draw(frame)

    def add(self, frames: list[np.ndarray], rewards: np.ndarray, done: bool) -> None:
        """Shows what a step led to.

        Args:
            frames: Its picture, and behind it, where the step ended an episode, the first of the next one.
            rewards: `[m]`.
            done: Whether it ended an episode.
        """
        if not self.episodes_left:
            return
        self._overlay.add(rewards[self._columns])
        self.image = self._overlay.draw(frames[0])
        if done:
            self.episodes_left -= 1
            self._returns.append(self._overlay.returns)
            self._overlay.start()

    def print_returns(self) -> None:
        """Prints the returns of each episode."""
        for returns in self._returns:
            print_line("  ".join(f"{name} {value:,.2f}" for name, value in zip(self._names, returns, strict=True)))
