"""MORL-Baselines' methods in `field.py`: processes that train one each, and how their policies are scored."""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from field_rows import Contest, write_row
from field_worlds import Task
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dibs_rl.cli.evaluate import SEED_OFFSET
from dibs_rl.cli.job import tie_to
from dibs_rl.cli.model import worlds_for
from dibs_rl.cost import CostMeter
from dibs_rl.envs import base_and_transform, make
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate, mean_returns
from dibs_rl.files import atomic_write
from dibs_rl.preferences import lattice
from dibs_rl.provenance import versions

THEIRS = ("pgmorl", "capql")
_PAUSE = 0.5  # seconds between looks at the processes
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
Unit = tuple[str, int]
"""A method and a seed."""


def run_theirs(contest: Contest, units: Sequence[Unit], settings: Mapping[str, dict[str, Any]], root: Path, jobs: int) -> int:
    """Trains methods with seeds, so many at a time; returns 0, or 1 if one has failed.

    Args:
        contest: What is the same for all.
        units: Methods and seeds.
        settings: Of each method.
        root: Folder of the results.
        jobs: Processes at a time, each with one thread.
    """
    context = multiprocessing.get_context("spawn")
    told, code = context.Queue(), 0
    waiting, running = list(units), dict[Unit, BaseProcess]()
    with Progress(*_COLUMNS) as progress, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(_end, running)
        bars = {unit: progress.add_task("{} seed {}".format(*unit), total=contest.budget) for unit in units}
        while waiting or running:
            while waiting and len(running) < jobs:
                unit = waiting.pop(0)
                arguments = (os.getpid(), told, contest, *unit, settings[unit[0]], root)
                running[unit] = context.Process(target=_process, args=arguments, daemon=True)
                running[unit].start()
            with contextlib.suppress(queue.Empty):
                method, seed, steps = told.get(timeout=_PAUSE)
                progress.update(bars[method, seed], completed=steps)
            for unit in [unit for unit, process in running.items() if not process.is_alive()]:
                if exit_code := running.pop(unit).exitcode:
                    code = 1
                    progress.print("{} seed {} failed".format(*unit) + f" with exit code {exit_code}: {_reason(root, *unit)}")
    return code


def _end(running: Mapping[Unit, BaseProcess]) -> None:
    for process in running.values():
        process.terminate()
        process.join()


def _folder(root: Path, method: str, seed: int) -> Path:
    return root / method / f"seed{seed}"


def _reason(root: Path, method: str, seed: int) -> str:
    file = _folder(root, method, seed) / "error.txt"
    return f"{file.read_text().splitlines()[-1]} ({file})" if file.is_file() else "nothing was said"


def _process(parent: int, told: Any, contest: Contest, method: str, seed: int, settings: dict[str, Any], root: Path) -> None:
    """What a process does; where it fails, `error.txt` says why."""
    tie_to(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started this process ends it
    os.environ["WANDB_MODE"] = "disabled"
    error_file = _folder(root, method, seed) / "error.txt"
    error_file.unlink(missing_ok=True)
    try:
        run_one(contest, method, seed, settings, root, lambda steps: told.put((method, seed, steps)))
    except Exception:
        with atomic_write(error_file) as file:
            file.write(traceback.format_exc().encode())
        sys.exit(1)


def run_one(
    contest: Contest, method: str, seed: int, settings: dict[str, Any], root: Path, tell: Callable[[int], None]
) -> None:
    """Trains a method, evaluates its policies, and writes its row; what it prints goes to `log.txt`.

    Args:
        contest: What is the same for all.
        method: One of `THEIRS`.
        seed: Of the training.
        settings: Arguments of its constructor.
        root: Folder of the results.
        tell: Is given the number of steps so far, now and then.

    Raises:
        UserError: If MORL-Baselines is not installed, or the method cannot take the environment or the budget.
    """
    try:
        import field_learners
    except ImportError as error:
        raise UserError(f"{method} needs MORL-Baselines ({error}): see the top of field.py.") from None
    preferences = tuple(tuple(weights) for weights in lattice(len(contest.objectives), contest.points).tolist())
    given = (contest.env, contest.objectives, contest.transform, contest.budget, contest.gamma, contest.seen_reference)
    folder = _folder(root, method, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        meter = CostMeter({})
        learnt = field_learners.train(method, Task(*given, preferences, settings, seed), tell)
        cost = meter.cost(learnt.steps)
    row = {"method": method, "seed": seed, "settings": settings, "returns": score(contest, learnt.policies, seed)}
    steps = {"steps": learnt.steps, "selection_steps": learnt.selection_steps}
    write_row(
        root, contest, {**row, **steps, **{key: cost[key] for key in ("seconds", "cpu_seconds")}, "versions": versions()}
    )


def score(contest: Contest, policies: Sequence[Any], seed: int) -> list[list[float]]:
    """Discounted mean returns `[k, m]` of policies, in the episodes that a front's policies of this seed are given."""
    seed += SEED_OFFSET
    env = make(base_and_transform(contest.env)[0], num_envs=worlds_for(contest.env, contest.episodes), seed=seed)
    with contextlib.closing(env):
        played = [evaluate(policy, env, contest.episodes, seed=seed, gamma=contest.gamma) for policy in policies]
    return [mean_returns(episodes.discounted).tolist() for episodes in played]
