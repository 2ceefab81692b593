"""`dibs-rl evaluate`: each objective's return over whole episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from dibs_rl.by_objective import parse_preference
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.model import Learner, choose_device, load_model, make_env, worlds_for
from dibs_rl.config import Count, RunConfig, Seed
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate
from dibs_rl.files import check_exists, write_json
from dibs_rl.front_folder import FrontPolicy, choose, front_file, read_front
from dibs_rl.front_study import has_begun
from dibs_rl.run_folder import RunFolder

SEED_OFFSET = 10_000  # evaluation episodes are none of those trained on


@dataclass
class EvaluateConfig:
    """Play episodes with a trained policy and print each objective's return."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; of a run that has not finished, the newest checkpoint is taken. Or the folder of a front."""
    preference: str = ""
    """Of a front: which of its policies, by weights on the objectives, as 3,1 or forward=3,energy=1."""
    episodes: Count = 20
    """How many episodes; of several tasks, of each."""
    seed: Seed | None = None
    """Seed of the first world's first episode; 10000 + the run's seed if not given."""
    stochastic: bool = False
    """Sample actions instead of taking the most likely one; without it, as the run's own evaluation does."""
    device: str = "auto"
    """Where the networks live: cpu, cuda or auto."""


def run(arguments: list[str]) -> int:
    """Evaluates a run; returns the exit code."""
    flags = parse(EvaluateConfig, arguments, "evaluate")
    of_front = pick(flags.run, flags.preference)
    folder = RunFolder.open(flags.run / of_front.folder if of_front else flags.run)
    config = folder.config()
    file = folder.newest_model()
    if file != folder.model_file:
        print_line(f"The run has not finished; evaluating its newest checkpoint, {file.name}.")
    model = load_model(config, file, None, "cpu")
    device = choose_device(flags.device, model.observation_space)
    if device != "cpu":
        model = load_model(config, file, None, device)
    deterministic = not (flags.stochastic or config.eval_stochastic)
    result = evaluate_and_print(config, model, flags.episodes, seed=flags.seed, deterministic=deterministic)
    write_json(folder.evaluation_file, result)
    print_line(f"Evaluation: {folder.evaluation_file}")
    return 0


def pick(path: Path, preference: str) -> FrontPolicy | None:
    """The policy of a front that a preference is for, which is announced; None if the folder is no front.

    Raises:
        UserError: If it is a front and the preference does not say which of its policies, or a run and there is one.
    """
    if not front_file(path).is_file():
        check_exists(path)
        if has_begun(path):
            raise UserError(f"{path} has no {front_file(path).name} yet: the command that began this front goes on with it.")
        if preference:
            remedy = (
                f"give its folder, {path.parent}"
                if path.name == front_file(path).name
                else f"it has no {front_file(path).name}"
            )
            raise UserError(f"A preference picks a policy of a front, and {path} is none: {remedy}.")
        return None
    weights = parse_preference(preference)
    if weights is None:
        raise UserError(f"{path} is a front: say which of its policies with --preference, by weights on its objectives.")
    policies = read_front(path)
    best, utility = choose(policies, weights)
    if not (path / best.folder).is_dir():
        raise UserError(f"{path} lists the policies of a front, and their runs are not there: {best.folder} is missing.")
    trained = ", ".join(f"{name}={weight:g}" for name, weight in best.preference.items())
    over = "the weighted mean of its discounted returns, each from 0 to 1 over the front"
    worth = f"Its utility is {utility:.3f} of at most 1: {over}."
    if len(policies) > 1 and len({tuple(policy.discounted.values()) for policy in policies}) == 1:
        worth = "All of them have the same returns."
    print_line(f"For {preference}, of {len(policies)} policies: {best.folder}, trained with {trained}. {worth}")
    return best


def evaluate_and_print(
    config: RunConfig, model: Learner, episodes: int, *, seed: int | None = None, deterministic: bool = True
) -> dict[str, Any]:
    """Plays episodes and prints a table; returns what belongs into a file of them."""
    result = evaluated(config, model, episodes, seed=seed, deterministic=deterministic)
    print_line(f"{config.env}: return over {episodes} {'deterministic' if deterministic else 'stochastic'} episodes")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("objective")
    for column in ("mean", "std", "min", "max"):
        table.add_column(column, justify="right")
    for name, numbers in result["returns"].items():
        table.add_row(name, *(f"{numbers[column]:,.2f}" for column in ("mean", "std", "min", "max")))
    Console().print(table)
    return result


def evaluated(
    config: RunConfig, model: Learner, episodes: int, *, seed: int | None = None, deterministic: bool = True
) -> dict[str, Any]:
    """Plays episodes with a learner, in worlds of its run's: their returns, and how they were found."""
    seed = SEED_OFFSET + config.seed if seed is None else seed
    env = make_env(config, worlds_for(config.env, episodes), seed, str(model.device))
    try:
        with torch.no_grad():
            gamma = config.gamma if config.eval_gamma is None else config.eval_gamma
            found = evaluate(model, env, episodes, deterministic=deterministic, gamma=gamma).summary()
    finally:
        env.close()
    return {
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
