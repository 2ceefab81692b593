"""`dibs-rl train`: the main job."""

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from dibs_rl.agents.on_policy import VectorOnPolicy
from dibs_rl.cli.evaluate import evaluate_and_print
from dibs_rl.cli.flags import parse, peek, print_line
from dibs_rl.cli.model import build_model, choose_device, load_model, make_env
from dibs_rl.cli.progress import TrainingDisplay
from dibs_rl.config import config_class, load_yaml, shipped_file, validated
from dibs_rl.envs import resolve_id
from dibs_rl.envs.registry import bare_name
from dibs_rl.errors import UserError
from dibs_rl.progress_csv import ProgressCSV
from dibs_rl.run_folder import RunFolder

_MAY_CHANGE = {"steps", "device", "workers", "threads", "checkpoint_every", "eval_episodes", "resume"}


def run(arguments: list[str]) -> int:
    """Trains, or goes on training; returns the exit code."""
    config = read_config(arguments)
    torch.set_num_threads(config.threads)
    console = Console()
    env = make_env(config, config.num_envs, config.seed)
    try:
        device = choose_device(config.device, env.observation_space)
        folder, model = _resume(config, env, device) if config.resume else _start(config, env, device)
        _announce(console, config, folder, model)
        stopped_by = _learn(config, folder, model, console)
    finally:
        env.close()
    if stopped_by:
        print_line(f"Stopped at {model.num_timesteps:,} steps; go on with: dibs-rl train --resume {folder.path}")
        return 128 + stopped_by
    _finish(config, folder, model)
    return 0


def read_config(arguments: list[str]) -> Any:
    """The settings: shipped ones, over them a YAML file's, over them the flags'.

    Raises:
        UserError: If any of them is wrong.
    """
    resume = peek(arguments, "resume")
    if resume is not None:
        saved = RunFolder.open(Path(resume)).config()
        config = _checked(parse(type(saved), arguments, "train", saved))
        changed = [f.name for f in dataclasses.fields(saved) if getattr(saved, f.name) != getattr(config, f.name)]
        fixed = [name for name in changed if name not in _MAY_CHANGE]
        if fixed:
            raise UserError(f"A resumed run keeps its {', '.join(fixed)}; it may change {', '.join(sorted(_MAY_CHANGE))}.")
        return config
    algo = peek(arguments, "algo") or "ppo"
    config = _checked(parse(config_class(algo), arguments, "train", _defaults(arguments, algo)))
    name, config.env = config.env, resolve_id(config.env)
    if name != config.env:
        print_line(f"{name} is {config.env}, the newest version.")
    return config


def _defaults(arguments: list[str], algo: str) -> Any:
    given = peek(arguments, "config")
    settings = load_yaml(Path(given)) if given else {}
    named = peek(arguments, "env") or settings.get("env") or validated(algo, {}, "the defaults").env
    if not given:
        env_id = resolve_id(named)
        shipped = shipped_file(algo, env_id, bare_name(env_id))
        given, settings = str(shipped), load_yaml(shipped) if shipped else {}
    return validated(algo, {**settings, "env": named}, given)


def _checked(config: Any) -> Any:
    """Holds what the flags set against the fields' bounds."""
    return validated(config.algo, {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, "the flags")


def _start(config: Any, env: Any, device: str) -> tuple[RunFolder, VectorOnPolicy]:
    model = build_model(config, env, device)
    facts = {"backend": env.backend, "device": device, "objectives": list(env.objectives)}
    folder = RunFolder.create(config, config.env, facts)
    _log_to(folder, model)
    return folder, model


def _resume(config: Any, env: Any, device: str) -> tuple[RunFolder, VectorOnPolicy]:
    folder = RunFolder.open(config.resume)
    file = folder.newest_model()
    model = load_model(config, file, env, device)
    # Worlds cannot be saved: their episodes start anew, with seeds that the run has not used yet.
    env.seed(int(np.random.SeedSequence([config.seed, model.num_timesteps]).generate_state(1)[0]))
    if model.num_timesteps < config.steps:
        folder.reopen(model.num_timesteps)
    _log_to(folder, model)
    return folder, model


def _log_to(folder: RunFolder, model: VectorOnPolicy) -> None:
    csv = ProgressCSV(folder.progress_file, resume_step=model.num_timesteps)
    model.set_logger(Logger(str(folder.path), [csv, TensorBoardOutputFormat(str(folder.path))]))


def _announce(console: Console, config: Any, folder: RunFolder, model: VectorOnPolicy) -> None:
    p = sum(part.numel() for part in model.policy.policy_parameters())
    begin = f"Going on from step {model.num_timesteps:,} with" if config.resume else "Training"
    print_line(
        f"{begin} {config.algo}/{config.combiner} on {config.env} ({model.env.backend} backend, {config.num_envs} worlds, "
        f"{model.device}): {len(model.objectives)} objectives ({', '.join(model.objectives)}), {p:,} policy parameters."
    )
    print_line(f"Run folder: {folder.path}   (curves: tensorboard --logdir {folder.path})")


def _learn(config: Any, folder: RunFolder, model: VectorOnPolicy, console: Console) -> int:
    """Learns until the end or a signal, whose number is returned (0 for none); saves either way."""
    left = config.steps - model.num_timesteps
    if left <= 0:
        print_line(f"The run has its {model.num_timesteps:,} steps already; --steps makes it longer.")
        return 0
    display = TrainingDisplay(model.objectives, config.steps, model.num_timesteps, console)
    keeper = Keeper(folder, display, config.checkpoint_every)
    try:
        with _signals(keeper):
            model.learn(left, callback=keeper, reset_num_timesteps=False, log_interval=1)
    except Exception:
        keeper.save_if_between_updates()  # a NaN reward or a crash in a world costs a rollout, not the run
        raise
    finally:
        display.close()
    if keeper.stopped_by:
        keeper.save()
    else:
        model.save(folder.model_file)
    return keeper.stopped_by


def _finish(config: Any, folder: RunFolder, model: VectorOnPolicy) -> None:
    print_line(f"Model: {folder.model_file}")
    if config.eval_episodes:
        evaluate_and_print(config, folder, model, config.eval_episodes)


class Keeper(BaseCallback):
    """Saves checkpoints between updates, shows progress, and stops learning when a signal has come.

    Args:
        folder: The run's.
        display: What the person sees.
        every: Environment steps between checkpoints.
    """

    def __init__(self, folder: RunFolder, display: TrainingDisplay, every: int) -> None:
        super().__init__()
        self.stopped_by = 0
        self._folder, self._display, self._every = folder, display, every
        self._consistent_steps = 0
        self._saved_at = 0
        self._between_updates = False

    def _on_training_start(self) -> None:
        self._saved_at = self._consistent_steps = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        self._between_updates = True
        self._consistent_steps = self.model.num_timesteps
        if self._consistent_steps - self._saved_at >= self._every:
            self.save()
        self._show()

    def _on_rollout_end(self) -> None:
        self._between_updates = False

    def _on_training_end(self) -> None:
        if not self.stopped_by:
            self._consistent_steps = self.model.num_timesteps
            self._show()

    def _show(self) -> None:
        episodes = self.model.ep_info_buffer
        returns = np.mean([episode["r"] for episode in episodes], axis=0).tolist() if episodes else None
        self._display.update(self._consistent_steps, returns)

    def _on_step(self) -> bool:
        return not self.stopped_by

    def save_if_between_updates(self) -> None:
        """Saves, unless an update was under way or nothing has been learnt since the last time."""
        if self._between_updates and self._consistent_steps > self._saved_at:
            self.save()

    def save(self) -> None:
        """Saves the state between two updates; steps of a rollout that was cut short are not counted."""
        self.model.num_timesteps = self._saved_at = self._consistent_steps
        self.model.save(self._folder.checkpoint_file(self._consistent_steps))
        self._folder.drop_old_checkpoints()


@contextmanager
def _signals(keeper: Keeper) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a checkpoint and the end; a second one ends at once."""

    def ask(number: int, frame: Any) -> None:
        if keeper.stopped_by:
            raise SystemExit(128 + number)
        keeper.stopped_by = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
