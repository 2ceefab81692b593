"""`dibs-rl benchmark` with real runs: parallel, resumable, and no job twice."""

import json
import os
import signal
import sys
from pathlib import Path

import filelock
import pytest
import yaml
from real_jobs import InThisProcess, command, learning, start, wait_for

from dibs_rl import run_folder
from dibs_rl.agents.experts import read_experts
from dibs_rl.cli import job_process
from dibs_rl.cli.benchmark import BenchmarkConfig, read_jobs
from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.job_process import JobProcess
from dibs_rl.cli.launchers import Schedule
from dibs_rl.cli.trainings import TrainingFlags
from dibs_rl.run_folder import RunFolder

TESTS = Path(__file__).parent
ENV = "deep-sea-treasure-v0"
QUICK = ["num_envs=4", "n_steps=16", "batch_size=32", "n_epochs=2", "eval_episodes=2"]
LONG = 9_600
WORLDS = """
import pathlib
import gymnasium as gym
from fake_envs import PointEnv

class Breaking(PointEnv):
    def step(self, action):
        if pathlib.Path("broken").exists() and self.total_steps == 10:
            raise RuntimeError("the world has ended")
        return super().step(action)

gym.register("Sound-v0", PointEnv)
gym.register("Breaking-v0", Breaking)
"""


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """A module with environments of one's own where the command is given, as a user has it."""
    (tmp_path / "worlds.py").write_text(WORLDS)
    (tmp_path / "broken").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return tmp_path


def test_a_crash_is_reported_and_stops_nothing_and_the_rest_is_not_done_again(worlds, capsys):
    study = ["--envs", "worlds:Breaking-v0", "worlds:Sound-v0", "--steps", 64, "--out", "study", "--jobs", 2]
    study += ["--settings", *QUICK]
    assert command("benchmark", *study) == 1
    said = capsys.readouterr().out
    assert "1 of 2 jobs done, 1 failed" in said
    breaking, sound = (worlds / "study" / f"worlds-{name}-v0/scale-1/dibs/seed0" for name in ("Breaking", "Sound"))
    why = (breaking / "error.txt").read_text().splitlines()
    assert why[0] == "RuntimeError: the world has ended"
    assert "Traceback (most recent call last):" in why
    assert f"failed: study/{breaking.relative_to(worlds / 'study')}: {why[0]}" in said

    result = json.loads((sound / "result.json").read_text())
    assert set(result) >= {"env", "algo", "combiner", "backend", "steps", "seed", "eval_seed", "episodes", "returns", "cost"}
    assert set(result["cost"]) == {"seconds", "cpu_seconds", "peak_mib", "steps_per_second"}
    assert result["cost"]["steps_per_second"] == pytest.approx(64 / result["cost"]["seconds"])
    assert 50 < result["cost"]["peak_mib"] < 5000
    assert yaml.safe_load((sound / "config.yaml").read_text())["facts"]["study"] == {"condition": "scale-1", "arm": "dibs"}

    (worlds / "broken").unlink()
    before = (sound / "result.json").stat().st_mtime_ns
    assert command("benchmark", *study) == 0
    assert "2 jobs, 1 of them done before" in capsys.readouterr().out
    assert (sound / "result.json").stat().st_mtime_ns == before
    assert not (breaking / "error.txt").exists()


def test_ctrl_c_and_kill_then_on_to_the_end(tmp_path):
    """Ctrl-C lets the jobs save; where the launcher is killed, they do so too. The same command goes on both times."""
    study = ["--envs", ENV, "--steps", LONG, "--settings", *QUICK, "--out", tmp_path, "--jobs", 1]
    run = tmp_path / ENV / "scale-1/dibs/seed0"
    process = start("benchmark", *study)
    wait_for(learning(run), process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert not RunFolder(run).in_use
    first = RunFolder(run).newest_model()
    assert first.name > "step_000000000000.zip"
    spent = RunFolder(run).cost()["seconds"]

    process = start("benchmark", *study)
    wait_for(lambda: "resumed" in (run / "config.yaml").read_text(), process)
    process.kill()
    process.communicate()
    wait_for(lambda: not RunFolder(run).in_use)
    assert RunFolder(run).newest_model().name >= first.name

    assert command("benchmark", *study) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] >= LONG
    assert result["cost"]["seconds"] > spent > 0  # added up over the resumes
    assert result["cost"]["steps_per_second"] == pytest.approx(result["steps"] / result["cost"]["seconds"])
    assert len(yaml.safe_load((run / "config.yaml").read_text())["facts"]["resumed"]) == 2


def test_two_benchmarks_at_once_share_the_jobs(tmp_path):
    """The shipped smoke study, made smaller: both come to the end, and each job was begun once."""
    study = ["smoke", "--envs", ENV, "--conditions", "treasure-x1e3", "--arms", "sb3-ppo", "dibs", "--seeds", 0]
    processes = [start("benchmark", *study, "--steps", 512, "--out", tmp_path, "--jobs", 1) for _ in range(2)]
    for process in processes:
        said = process.communicate(timeout=200)[0]
        assert process.returncode == 0, said
        assert "2 of 2 jobs done, 0 failed" in said
    for arm in ("sb3-ppo", "dibs"):
        run = tmp_path / ENV / "treasure-x1e3" / arm / "seed0"
        assert json.loads((run / "result.json").read_text())["algo"] == ("sb3-ppo" if arm == "sb3-ppo" else "ppo")
        assert len(list(run.glob("events.out.tfevents*"))) == 1
        assert "resumed" not in yaml.safe_load((run / "config.yaml").read_text())["facts"]
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["conditions"]["treasure-x1e3"] == "treasure=1e3"


def anchored(root, broken=()):
    """Runs a study with the anchored game; returns its launcher, and by arm the states."""
    _, jobs = read_jobs(BenchmarkConfig(envs=(ENV,), arms=("dibs-anchored",), trainings=TrainingFlags(128, tuple(QUICK))))
    launcher = InThisProcess(root, broken)
    schedule = Schedule(jobs, root, launcher)
    schedule.run(lambda states: None)
    return launcher, {job.arm: state for job, state in schedule.states.items()}


def test_the_anchored_game_is_played_with_the_studys_experts(tmp_path):
    launcher, states = anchored(tmp_path)
    assert launcher.started == ["expert-treasure", "expert-time", "dibs-anchored"]
    assert set(states.values()) == {"done"}
    with open(tmp_path / ENV / "scale-1/dibs-anchored/seed0/progress.csv") as file:
        assert any("distance" in column for column in file.readline().split(","))
    assert set(read_experts(tmp_path / "anchors" / ENV / "seed0")) == {"treasure", "time"}
    assert anchored(tmp_path)[0].started == []  # all of it is done


def test_without_an_expert_there_is_no_anchored_game(tmp_path):
    launcher, states = anchored(tmp_path, broken=("expert-time",))
    assert launcher.started == ["expert-treasure", "expert-time"]
    assert states["dibs-anchored"] == "failed"
    error = tmp_path / ENV / "scale-1/dibs-anchored/seed0/error.txt"
    assert error.read_text().splitlines()[0] == "A job that it needs has failed."


def test_a_job_is_no_rank_of_the_training_that_starts_it(tmp_path, monkeypatch):
    """It would wait for ranks that never come."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    started = {}
    monkeypatch.setattr(job_process.subprocess, "Popen", lambda command, **how: started.update(how))
    JobProcess(tmp_path, begin=[])._said.close()
    assert started["env"]["OMP_NUM_THREADS"] == "1"
    assert started["env"]["PATH"] == os.environ["PATH"]
    assert not [name for name in started["env"] if name.startswith(("RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC"))]


def test_a_killed_job_says_so(tmp_path):
    _, (job,) = read_jobs(BenchmarkConfig(envs=(ENV,), trainings=TrainingFlags(LONG, tuple(QUICK))))
    process = JobProcess(tmp_path / job.path, train_flags(job, tmp_path))
    os.kill(process._process.pid, signal.SIGKILL)
    wait_for(lambda: process.poll() != "running")
    assert process.poll() == "failed"
    assert process.folder.error_file.read_text().splitlines()[0] == "killed by SIGKILL"


def test_a_folder_has_one_writer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folder, "_LOCK_PATIENCE", 0.05)
    run = tmp_path / "run"
    flags = [f"--{setting.replace('_', '-')}" for setting in QUICK]
    assert command("train", "--env", ENV, *flags, "--steps", 64, "--out", run) == 0
    capsys.readouterr()
    with filelock.FileLock(run / ".lock"):
        assert RunFolder(run).in_use
        assert command("train", "--resume", run, "--steps", 128) == 2
        said = capsys.readouterr().err
        assert "Another process is writing" in said
        assert said.count("\n") == 1
    assert command("train", "--resume", run, "--steps", 128) == 0
    assert not RunFolder(run).in_use
    result = (run / "result.json").read_bytes()
    assert command("evaluate", run, "--episodes", 1) == 0
    assert (run / "result.json").read_bytes() == result, "a look at it later is kept elsewhere"


def test_a_run_that_saved_nothing_begins_anew(tmp_path):
    """Killed between its first file and its first checkpoint."""
    run = tmp_path / "run"
    flags = [f"--{setting.replace('_', '-')}" for setting in QUICK]
    command("train", "--env", ENV, *flags, "--steps", 64, "--out", run)
    for file in [*run.glob("checkpoints/*"), *run.glob("*.zip"), run / "result.json"]:
        file.unlink()
    assert command("train", "--resume", run) == 0
    assert RunFolder(run).finished


def test_other_settings_under_the_same_names(tmp_path, capsys):
    _, (job,) = read_jobs(BenchmarkConfig(envs=(ENV,), arms=("random",), trainings=TrainingFlags(settings=tuple(QUICK))))
    assert command("train", *train_flags(job, tmp_path)) == 0
    study = ["--envs", ENV, "--arms", "random", "--out", tmp_path, "--settings", *QUICK]
    assert command("benchmark", *study) == 0
    capsys.readouterr()
    assert command("benchmark", *study, "gamma=0.5") == 2
    said = capsys.readouterr().err
    assert "gamma" in said
    assert "choose another --out" in said
    assert said.count("\n") == 1


def test_without_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command("benchmark", "--envs", ENV, "--launcher", "ray", "--out", tmp_path / "study") == 2
    assert "dibs-rl[cluster]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "No study 'nowhere'"),
        ([], "at least one environment"),
        (["--envs", "mo-halfcheeta"], "Did you mean mo-halfcheetah"),
        (["--envs", "mo-hopper", "--arms", "dips"], "Did you mean dibs"),
        (["--envs", "mo-hopper", "--arms", "mine={n_epochs: "], "stands YAML"),
        (["--envs", "mo-hopper", "--conditions", "hight-x1e3"], "forward, height, energy"),
        (["--envs", "mo-hopper", "--conditions", "odd=energy=much"], "energy"),
        (["--envs", "mo-hopper", "--jobs", "-1"], "--jobs: input should be greater than or equal to 0; found -1"),
        (["--envs", "mo-hopper", "--settings", "gama=1"], "Did you mean gamma"),
        (["--envs", "mo-hopper", "--seeds", "-1"], "--seeds"),
        (["--envs", "mo-hopper", "--arms", "mine={combiner: dips}"], "Did you mean dibs"),
        (["--envs", "mo-hopper", "--ray-address", "auto"], "--launcher ray"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("benchmark", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
