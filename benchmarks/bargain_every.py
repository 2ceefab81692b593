"""How often to combine the gradients: once a rollout, once an epoch, or on every minibatch?

    python benchmarks/bargain_every.py

Trains each setting on mo-halfcheetah (1,000,000 steps) and mo-hopper (500,000) with three seeds, two runs at a time with one
thread each, through the command line. Runs are kept under `runs/bargain_every/`; started again, it goes on where it stopped.
Ends with the table that stands in docs/results.md: 20 deterministic episodes at the end of each run, no checkpoint picked.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np

ENVS = {"mo-halfcheetah-v5": 1_000_000, "mo-hopper-v5": 500_000}
SETTINGS = ("epoch", "rollout", "minibatch")
SEEDS = (0, 1, 2)
ROOT = Path("runs/bargain_every")


def folder(env: str, every: str, seed: int) -> Path:
    """Where a run is kept."""
    return ROOT / env / f"{every}-seed{seed}"


def train(env: str, every: str, seed: int) -> None:
    """Trains one run, or what is left of it."""
    out = folder(env, every, seed)
    if (out / "result.json").is_file():
        return
    if out.is_dir():
        arguments = ["--resume", out]
    else:
        arguments = ["--env", env, "--bargain-every", every, "--seed", seed, "--steps", ENVS[env], "--out", out]
    command = [sys.executable, "-m", "dibs_rl", "train", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"{out} done", flush=True)


def table(env: str) -> list[str]:
    """Markdown rows for one environment: a seed's mean returns, and their mean over the seeds; "-" for a missing run."""
    rows = []
    for every in SETTINGS:
        found = [_returns(folder(env, every, seed)) for seed in SEEDS]
        done = [returns for returns in found if returns is not None]
        cells = [_cell(returns) for returns in [*found, np.mean(done, axis=0) if done else None]]
        rows.append(f"| {env} | {every} | {' | '.join(cells)} |")
    return rows


def _returns(run: Path) -> np.ndarray | None:
    file = run / "result.json"
    if not file.is_file():
        return None
    return np.array([numbers["mean"] for numbers in json.loads(file.read_text())["returns"].values()])


def _cell(returns: np.ndarray | None) -> str:
    return "-" if returns is None else "(" + ", ".join(f"{value:.0f}" for value in returns) + ")"


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    jobs = list(product(ENVS, SETTINGS, SEEDS))
    if not parser.parse_args().table:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(lambda job: train(*job), sorted(jobs, key=lambda job: job[2])))
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    print(f"| environment | combined once a | {seeds} | mean |")
    print("|---|---|" + "---|" * (len(SEEDS) + 1))
    for env in ENVS:
        print("\n".join(table(env)))


if __name__ == "__main__":
    main()
