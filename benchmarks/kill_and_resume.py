"""Kills a training run at random moments, resumes it each time, and compares its end with an undisturbed run's.

    python benchmarks/kill_and_resume.py --kills 20

Every kill is a SIGKILL: nothing gets to clean up. After each, the newest model file must be whole and load.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dibs_rl.agents import DiBSPPO
from dibs_rl.run_folder import RunFolder

FLAGS = ["--env", "mo-reacher-v5", "--num-envs", "16", "--n-steps", "50", "--batch-size", "400", "--checkpoint-every", "800"]


def start(*arguments: object) -> subprocess.Popen:
    """Starts `dibs-rl train`."""
    words = [sys.executable, "-m", "dibs_rl", "train", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_updates(folder: Path, process: subprocess.Popen) -> None:
    """Waits until the run has started to learn, so that a kill falls into its work and not into its start."""
    progress = folder / "progress.csv"
    before = progress.stat().st_mtime_ns if progress.is_file() else 0
    while process.poll() is None and not (progress.is_file() and progress.stat().st_mtime_ns > before):
        time.sleep(0.01)


def check(folder: Path, kill: int) -> bool:
    """Loads the newest model file, says so, and returns whether a file that has a model's name is not whole."""
    files = sorted(folder.rglob("*.zip"))
    newest = RunFolder(folder).newest_model()
    steps = DiBSPPO.load(newest, device="cpu").num_timesteps
    print(f"kill {kill}: {newest.name} loads, {steps} steps", flush=True)
    return newest != files[-1]


def finish(process: subprocess.Popen) -> None:
    """Waits for the end of a run that nobody kills."""
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed with {process.returncode}: {said}")


def returns(folder: Path) -> dict[str, float]:
    """Mean return of each objective in `result.json`."""
    return {name: numbers["mean"] for name, numbers in json.loads((folder / "result.json").read_text())["returns"].items()}


def main() -> None:
    """Runs both and prints what they reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        calm, killed = Path(scratch) / "calm", Path(scratch) / "killed"
        finish(start(*FLAGS, "--steps", options.steps, "--out", calm))
        arguments: list[object] = [*FLAGS, "--steps", options.steps, "--out", killed]
        kills = corrupt = 0
        while kills < options.kills:
            process = start(*arguments)
            wait_for_updates(killed, process)
            time.sleep(2 * moments.random())
            if process.poll() is not None:
                sys.exit(f"the run came to its end after {kills} kills; give it more --steps")
            process.kill()
            process.communicate()
            kills += 1
            corrupt += check(killed, kills)
            arguments = ["--resume", killed]
        finish(start(*arguments))
        print(f"{kills} kills, {corrupt} corrupt files")
        print(f"undisturbed: {returns(calm)}")
        print(f"killed:      {returns(killed)}")


if __name__ == "__main__":
    main()
