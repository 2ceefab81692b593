"""`dibs-rl train`: the main job."""

import contextlib
import dataclasses
from typing import Any

import numpy as np
import torch
from rich.console import Console
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from dibs_rl import ranks
from dibs_rl.agents.learner import VectorLearner
from dibs_rl.agents.off_policy import VectorOffPolicy
from dibs_rl.agents.rollouts import VectorRollouts
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.cli.evaluate import evaluate_and_print
from dibs_rl.cli.experts import check_experts_physics, with_anchors
from dibs_rl.cli.flags import print_line
from dibs_rl.cli.keeper import Keeper, Stopper
from dibs_rl.cli.model import (
    Learner,
    build_model,
    choose_device,
    choose_worlds_device,
    learner_class,
    load_model,
    make_env,
)
from dibs_rl.cli.progress import TrainingDisplay
from dibs_rl.cli.signals import obeying_signals
from dibs_rl.cli.starts import new_model, start_facts
from dibs_rl.cli.train_config import read_config
from dibs_rl.config import RunConfig
from dibs_rl.cost import CostMeter
from dibs_rl.errors import UserError
from dibs_rl.progress_csv import ProgressCSV
from dibs_rl.run_folder import RunFolder
from dibs_rl.vec_env import VectorRewardVecEnv


def run(arguments: list[str]) -> int:
    """Trains, or goes on training; returns the exit code."""
    config = read_config(arguments)
    torch.set_num_threads(1)  # the networks' random start would depend on more
    with ranks.joined():
        if ranks.number() > 1 and not issubclass(learner_class(config), VectorRollouts):
            raise UserError(f"--algo {config.algo} trains in one process: leave torchrun out, or use ppo or a2c.")
        if ranks.number() > 1 and ":" in config.device:
            raise UserError(f"Each process takes a GPU of its own: --device cuda, and not {config.device}.")
        return _lead(with_anchors(config)) if ranks.leads() else _follow()


def _lead(config: RunConfig) -> int:
    """Trains in a run folder, which only the first of several ranks writes to; returns the exit code."""
    ranks.from_lead(config)
    with contextlib.ExitStack() as held:
        with contextlib.closing(_make_worlds(config)) as env:
            device = choose_device(config.device, env.observation_space, env.device)
            folder, model = _resume(config, env, device) if config.resume else _start(config, env, device)
            held.callback(folder.unlock)
            _announce(config, env, folder, model)
            with torch_threads(config.threads):
                stopped_by = _learn(config, folder, model)
        if stopped_by:
            print_line(f"Stopped at {model.num_timesteps:,} steps; go on with: dibs-rl train --resume {folder.path}")
            return 128 + stopped_by
        print_line(f"Model: {folder.newest_model()}")
        if config.eval_episodes:
            deterministic = not config.eval_stochastic
            folder.write_result(evaluate_and_print(config, model, config.eval_episodes, deterministic=deterministic))
            print_line(f"Result: {folder.result_file}")
    return 0


def _follow() -> int:
    """Learns beside the first rank, as that one says; returns the exit code."""
    config: RunConfig = ranks.from_lead(None)
    config = dataclasses.replace(config, seed=config.seed + ranks.rank() * config.num_envs)  # worlds that no other rank has
    with contextlib.closing(_make_worlds(config)) as env:
        # What it begins with is the first rank's, whether that is new or goes on.
        model = build_model(config, env, choose_device(config.device, env.observation_space, env.device))
        stopper = Stopper()
        left, before = ranks.from_lead((0, 0))
        _seed_new_episodes(env, config.seed, before)
        with torch_threads(config.threads), obeying_signals(stopper.stop):
            if left > 0:
                model.learn(left, callback=stopper, reset_num_timesteps=False)
    return 128 + stopper.stopped_by if stopper.stopped_by else 0


def _make_worlds(config: RunConfig) -> VectorRewardVecEnv:
    return make_env(config, config.num_envs, config.seed, choose_worlds_device(config))


def _start(config: RunConfig, env: VectorRewardVecEnv, device: str) -> tuple[RunFolder, Learner]:
    check_experts_physics(config, env.backend)
    model = new_model(config, env, device)
    facts: dict[str, Any] = {"backend": env.backend, "device": device, "objectives": list(env.objectives)}
    facts["transform"] = str(env.reward_transform or "")
    facts |= start_facts(config)
    if ranks.number() > 1:
        facts["processes"] = ranks.number()
    folder = RunFolder.create(config, config.env, facts)
    if not config.out and not folder.path.name.endswith(f"seed{config.seed}"):
        print_line(f"There is such a run already; this one is kept as {folder.path.name}.")
    _log_to(folder, model)
    return folder, model


def _resume(config: RunConfig, env: VectorRewardVecEnv, device: str) -> tuple[RunFolder, Learner]:
    assert config.resume is not None
    folder = RunFolder.open(config.resume)
    folder.lock()
    _check_physics(folder, env)
    file = folder.newest_model() if folder.has_model else None  # None: it was killed before it had saved anything
    model = load_model(config, file, env, device) if file else new_model(config, env, device)
    if isinstance(model, VectorOffPolicy) and model.num_timesteps < config.steps:
        _refill(model, folder)
    _seed_new_episodes(env, config.seed, model.num_timesteps)
    if model.num_timesteps < config.steps:
        for line in folder.reopen(config, file, model.num_timesteps):
            print_line(line)
    _log_to(folder, model)
    return folder, model


def _seed_new_episodes(env: VectorRewardVecEnv, seed: int, steps: int) -> None:
    """Worlds cannot be saved: after so many steps their episodes start anew, with seeds that the run has not used yet."""
    if steps:
        env.seed(int(np.random.SeedSequence([seed, steps]).generate_state(1)[0]))


def _check_physics(folder: RunFolder, env: VectorRewardVecEnv) -> None:
    """A run on one device may go on on another, where `auto` might mean physics that differ."""
    began = folder.facts().get("backend", env.backend)
    if began != env.backend and "warp" in (began, env.backend):
        raise UserError(
            f"The run began on the {began} backend, and the physics of the {env.backend} backend, which steps here, differs: "
            "go on with --device as it began."
        )


def _refill(model: VectorOffPolicy, folder: RunFolder) -> None:
    if folder.replay_file.is_file():
        model.load_replay_buffer(folder.replay_file)
        print_line(f"Replay buffer: {len(model.replay_buffer):,} transitions.")
    else:
        print_line(
            "The run kept no replay buffer (--save-replay-buffer): it fills anew, and learning goes on once it holds "
            f"{model.learning_starts:,} transitions."
        )


def _log_to(folder: RunFolder, model: Learner) -> None:
    writers = [ProgressCSV(folder.progress_file, model.num_timesteps), Curves(str(folder.path), model.num_timesteps)]
    model.set_logger(Logger(str(folder.path), writers))


class Curves(TensorBoardOutputFormat):
    """SB3's TensorBoard writer, which drops points past the step a run is resumed from: they are about to be made again."""

    def __init__(self, folder: str, resume_step: int) -> None:
        self.writer = SummaryWriter(folder, purge_step=resume_step or None)
        self._is_closed = False


def _announce(config: RunConfig, env: VectorRewardVecEnv, folder: RunFolder, model: Learner) -> None:
    parameters = model.policy.policy_parameters() if isinstance(model, VectorLearner) else model.policy.parameters()
    p = sum(part.numel() for part in parameters)
    begin = f"Going on from step {model.num_timesteps:,} with" if config.resume else "Training"
    worlds = f"{config.num_envs} worlds" + (f" in each of {ranks.number()} processes" if ranks.number() > 1 else "")
    print_line(
        f"{begin} {config.algo}/{config.combiner} on {config.env} ({env.backend} backend, {worlds}, "
        f"{model.device}): {len(env.objectives)} objectives ({', '.join(env.objectives)}), {p:,} policy parameters."
    )
    if config.anchors:
        print_line(f"The anchored game, with the experts of {config.anchors}.")
    if config.start_from and not model.num_timesteps:
        print_line(f"The networks begin as those of {folder.facts()['started_from']}.")
    if env.reward_transform is not None:
        print_line(f"Learnt from with {env.reward_transform}; returns are shown without it.")
    if isinstance(model, VectorOffPolicy) and config.steps <= model.learning_starts:
        print_line(
            f"Nothing is learnt before step {model.learning_starts:,}, and --steps is {config.steps:,}: more of these, or "
            "fewer --learning-starts."
        )
    print_line(f"Run folder: {folder.path}   (curves: tensorboard --logdir {folder.path})")


def _learn(config: RunConfig, folder: RunFolder, model: Learner) -> int:
    """Learns until the end or a signal, whose number is returned (0 for none); saves either way."""
    left = config.steps - model.num_timesteps
    ranks.from_lead((left, model.num_timesteps))
    if left <= 0:
        print_line(f"The run has its {model.num_timesteps:,} steps already; --steps makes it longer.")
        if not folder.model_file.is_file():
            model.save(folder.model_file)
        if not folder.cost():
            folder.write_cost(CostMeter({}).cost(0))
        return 0
    display = TrainingDisplay(model.objectives, config.steps, model.num_timesteps, Console())
    keeper = Keeper(folder, display, config.checkpoint_every, with_replay=getattr(config, "save_replay_buffer", False))
    with obeying_signals(keeper.stop):
        try:
            model.learn(left, callback=keeper, reset_num_timesteps=False, log_interval=1)
        except Exception:
            keeper.save_what_is_learnt()  # a NaN reward, a crash in a world or a lost rank costs a rollout, not the run
            raise
        finally:
            display.close()
            model.logger.close()
        if keeper.stopped_by:
            keeper.save_what_is_learnt()
        if model.num_timesteps >= config.steps:
            keeper.finish()
            return 0
        return keeper.stopped_by
