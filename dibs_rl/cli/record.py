"""`dibs-rl record`: a video of a trained policy, with the returns of each objective drawn over the pictures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from dibs_rl.cli.evaluate import SEED_OFFSET
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.model import load_model
from dibs_rl.config import Count, RunConfig, Seed
from dibs_rl.envs import MultiTask, as_vector_env, task_ids
from dibs_rl.envs.rendering import drawing_factory
from dibs_rl.envs.reward_terms import parse_terms
from dibs_rl.evaluation import Policy
from dibs_rl.run_folder import RunFolder
from dibs_rl.vec_env import VectorRewardVecEnv
from dibs_rl.video import ReturnsOverlay, check_video_name, mp4_installed, side_by_side, write_video

_RATE = 30.0  # pictures a second, about, of an environment with more steps a second, or that says nothing
_LAST_PICTURE = 1.0  # seconds that the end stands still, so that the numbers can be read


@dataclass
class RecordConfig:
    """Record a video of a trained policy, with the running return of each objective drawn over the pictures."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; of a run that has not finished, the newest checkpoint is taken."""
    out: Path | None = None
    """Video file, .mp4 or .gif; video.mp4 in the run folder if not given, or video.gif where PyAV is not installed."""
    episodes: Count = 1
    """How many episodes, one after the other; of several tasks, of each, side by side."""
    seed: Seed | None = None
    """Seed of the first episode; 10000 + the run's seed if not given, as in evaluate."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one; without it, as the run's own evaluation does."""


def run(arguments: list[str]) -> int:
    """Records; returns the exit code."""
    flags = parse(RecordConfig, arguments, "record")
    out = flags.out or flags.run / ("video.mp4" if mp4_installed() else "video.gif")
    check_video_name(out)
    folder = RunFolder.open(flags.run)
    config = folder.config()
    model = load_model(config, folder.newest_model(), None, "cpu")
    print_line(f"Recording {out}; a step of an episode may take a tenth of a second to draw.")
    env = _drawing_env(config, SEED_OFFSET + config.seed if flags.seed is None else flags.seed)
    try:
        film = Film(model, env, flags.episodes, deterministic=not (flags.stochastic or config.eval_stochastic))
        with torch.no_grad():
            number = write_video(out, _with_progress(film.pictures()), film.rate)
    finally:
        env.close()
    for line in film.returns():
        print_line(line)
    print_line(f"Video: {out}   ({number / film.rate:.1f} s, {number} pictures)")
    return 0


def _with_progress(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The pictures, counted on the terminal as they are drawn; how many there will be, nobody knows."""
    columns = TextColumn("{task.completed:,.0f} pictures"), TimeElapsedColumn()
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield from progress.track(pictures)


def _drawing_env(config: RunConfig, seed: int) -> VectorRewardVecEnv:
    """The run's environment with one world, or one for each task, in the gym backend."""
    tasks = task_ids(config.env)
    env: VectorRewardVecEnv
    if tasks:
        factories = {name: drawing_factory(env_id) for name, env_id in tasks.items()}
        env = MultiTask(factories, len(tasks), pad=config.pad_tasks)
    else:
        env = as_vector_env(drawing_factory(config.env, parse_terms(config.reward_terms)))
    env.seed(seed)
    return env


class Film:
    """Episodes of a policy as pictures.

    Args:
        model: What acts.
        env: Its worlds draw, and are seen side by side.
        episodes: How many each world plays.
        deterministic: Take the distribution's mode instead of a sample.

    Attributes:
        rate: Pictures a second, so that time passes as in the environment: at most about 30, whatever is left out for that.
    """

    def __init__(self, model: Policy, env: VectorRewardVecEnv, episodes: int, *, deterministic: bool) -> None:
        self._model, self._env, self._deterministic = model, env, deterministic
        self._reels = [_Reel(env, world, episodes) for world in range(env.num_envs)]
        steps_per_second = float(env.get_attr("metadata", 0)[0].get("render_fps") or _RATE)
        self._every = max(1, round(steps_per_second / _RATE))
        self.rate = steps_per_second / self._every

    def pictures(self) -> Iterator[np.ndarray]:
        """Plays until each world has played its episodes, and gives pictures `[h, w, 3]` uint8 of all of them."""
        obs = self._env.reset()
        for reel in self._reels:
            reel.start()
        yield self._picture()
        step = 0
        while any(reel.episodes_left for reel in self._reels):
            actions, _ = self._model.predict(obs, deterministic=self._deterministic)
            obs, _, dones, _ = self._env.step(actions)
            assert self._env.counted is not None  # for the type checker: a step has been made
            rewards = self._env.counted.numpy()  # before any transform, as everywhere that a person looks
            step += 1
            wanted = step % self._every == 0
            ended = [reel.add(rewards[i], dones[i], wanted) for i, reel in enumerate(self._reels)]
            if wanted or any(ended):
                yield self._picture()
        for _ in range(round(self.rate * _LAST_PICTURE)):
            yield self._picture()

    def returns(self) -> list[str]:
        """A line for each episode played, with each objective's return."""
        return [line for reel in self._reels for line in reel.lines]

    def _picture(self) -> np.ndarray:
        return side_by_side([reel.image for reel in self._reels])


class _Reel:
    """What is seen of one world: its last picture, until its episodes have been played.

    Args:
        env: The environment.
        world: The world's number.
        episodes: How many are to be played.
    """

    def __init__(self, env: VectorRewardVecEnv, world: int, episodes: int) -> None:
        self._env, self._world = env, world
        active = [True] * env.reward_dim if env.active is None else env.active[world].tolist()
        self._columns = np.flatnonzero(active)
        self._names = [env.objectives[j] for j in self._columns]
        self._overlay = ReturnsOverlay(self._names)
        self.lines: list[str] = []
        self.episodes_left = episodes
        self.image: Image.Image

    def start(self) -> None:
        """Shows the first state of an episode."""
        self._overlay.start()
        self.image = self._overlay.draw(self._env.env_method("render", indices=[self._world])[0])

    def add(self, rewards: np.ndarray, done: bool, wanted: bool) -> bool:
        """Adds the rewards `[m]` of a step, and shows what it led to if that is wanted or ended an episode; says if it did."""
        if not self.episodes_left:
            return False
        self._overlay.add(rewards[self._columns])
        if done:
            self.image = self._overlay.draw(self._env.get_attr("last_picture", [self._world])[0])
            pairs = zip(self._names, self._overlay.returns, strict=True)
            self.lines.append("  ".join(f"{name} {value:,.2f}" for name, value in pairs))
            self.episodes_left -= 1
            self._overlay.start()
        elif wanted:
            self.image = self._overlay.draw(self._env.env_method("render", indices=[self._world])[0])
        return done
