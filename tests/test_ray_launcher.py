"""A study on a Ray cluster of two nodes, one of which dies in the middle."""

import contextlib
import csv
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="Ray is not installed: pip install 'dibs-rl[cluster]'"
)
ENV = "deep-sea-treasure-v0"
STEPS = 10_000
QUICK = ["num_envs=4", "n_steps=16", "batch_size=32", "n_epochs=2", "eval_episodes=2", "checkpoint_every=640"]


@contextlib.contextmanager
def process(*words, **pipes):
    """Starts Python; closing its standard input asks it to end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **pipes}
    with subprocess.Popen([sys.executable, *map(str, words)], text=True, **pipes) as started:
        try:
            yield started
        finally:
            started.stdin.close()
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                started.kill()


def steps_of(run):
    with open(run / "progress.csv", newline="") as file:
        return [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]


def has_learnt(run):
    """Whether there is a checkpoint of something learnt."""
    return any(file.name > "step_000000000000.zip" for file in run.glob("checkpoints/step_*.zip"))


def test_a_node_dies_in_the_middle_and_every_job_ends_once(tmp_path):
    runs = [tmp_path / ENV / "scale-1/dibs" / f"seed{seed}" for seed in (0, 1)]
    with process(Path(__file__).with_name("two_ray_nodes.py"), stderr=subprocess.DEVNULL) as cluster:
        address = cluster.stdout.readline().strip()
        study = ["--envs", ENV, "--seeds", 0, 1, "--steps", STEPS, "--settings", *QUICK, "--out", tmp_path]
        ray = ["--launcher", "ray", "--ray-address", address]
        with process("-m", "dibs_rl", "benchmark", *study, *ray, stderr=subprocess.STDOUT) as benchmark:
            while not all(map(has_learnt, runs)):  # both nodes are in the middle of their jobs
                assert benchmark.poll() is None, benchmark.communicate()[0]
                time.sleep(0.05)
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            said = benchmark.communicate(timeout=120)[0]
        assert benchmark.returncode == 0, said
    assert "2 of 2 jobs done, 0 failed" in said
    resumed = [yaml.safe_load((run / "config.yaml").read_text())["facts"].get("resumed", []) for run in runs]
    assert sorted(map(len, resumed)) == [0, 1]  # one job was cut off, and went on elsewhere from its checkpoint
    (step,) = (part[0]["step"] for part in resumed if part)
    assert 0 < step < STEPS
    for run in runs:
        assert json.loads((run / "result.json").read_text())["steps"] >= STEPS
        assert steps_of(run) == list(range(64, STEPS + 64, 64))
        assert not (run / "error.txt").exists()
