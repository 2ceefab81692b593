"""`dibs-rl evaluate`: each objective's return over whole episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.model import Learner, choose_device, load_model, make_env, worlds_for
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate
from dibs_rl.run_folder import RunFolder

SEED_OFFSET = 10_000  # evaluation episodes are none of those trained on


@dataclass
class EvaluateConfig:
    """Play episodes with a trained policy and print each objective's return."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; of a run that has not finished, the newest checkpoint is taken."""
    episodes: int = 20
    """How many episodes; of several tasks, of each."""
    seed: int | None = None
    """Seed of the first world's first episode; 10000 + the run's seed if not given."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one."""
    device: str = "auto"
    """Where the networks live: cpu, cuda or auto."""


def run(arguments: list[str]) -> int:
    """Evaluates a run; returns the exit code."""
    flags = parse(EvaluateConfig, arguments, "evaluate")
    if flags.episodes < 1 or (flags.seed or 0) < 0:
        raise UserError(f"At least one episode and a seed of 0 or more; found {flags.episodes} and {flags.seed}.")
    folder = RunFolder.open(flags.run)
    config = folder.config()
    file = folder.newest_model()
    if file != folder.model_file:
        print_line(f"The run has not finished; evaluating its newest checkpoint, {file.name}.")
    model = load_model(config, file, None, "cpu")
    device = choose_device(flags.device, model.observation_space)
    if device != "cpu":
        model = load_model(config, file, None, device)
    evaluate_and_print(config, folder, model, flags.episodes, seed=flags.seed, deterministic=not flags.stochastic)
    return 0


def evaluate_and_print(
    config: Any,
    folder: RunFolder,
    model: Learner,
    episodes: int,
    *,
    seed: int | None = None,
    deterministic: bool = True,
) -> None:
    """Plays episodes, prints a table and writes `result.json`, with the cost of the training in it."""
    seed = SEED_OFFSET + config.seed if seed is None else seed
    env = make_env(config, worlds_for(config.env, episodes), seed)
    try:
        with torch.no_grad():
            found = evaluate(model, env, episodes, deterministic=deterministic).summary()
    finally:
        env.close()
    how = "deterministic" if deterministic else "stochastic"
    print_line(f"{config.env}: return over {episodes} {how} episodes")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("objective")
    for column in ("mean", "std", "min", "max"):
        table.add_column(column, justify="right")
    for name, numbers in found["returns"].items():
        table.add_row(name, *(f"{numbers[column]:,.2f}" for column in ("mean", "std", "min", "max")))
    Console().print(table)
    folder.write_result(
        {
            "env": config.env,
            "algo": config.algo,
            "combiner": config.combiner,
            "backend": env.backend,
            "steps": model.num_timesteps,
            "seed": config.seed,
            "eval_seed": seed,
            "deterministic": deterministic,
            **found,
        }
    )
    print_line(f"Result: {folder.result_file}")
