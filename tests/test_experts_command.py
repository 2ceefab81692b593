"""`dibs-rl experts` and `train --anchors`: once trained, experts are kept, checked and used; nothing is overwritten."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from dibs_rl.cli import expert_cache
from dibs_rl.cli import experts as experts_command
from dibs_rl.cli.experts import ExpertsConfig
from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.main import dispatch
from dibs_rl.cli.train_config import read_config
from dibs_rl.config import PPOConfig
from dibs_rl.errors import UserError
from dibs_rl.provenance import versions
from dibs_rl.run_folder import RunFolder
from dibs_rl.shipped import shipped_file

ENV = ["--env", "deep-sea-treasure"]
TINY = ["--num-envs", "4", "--n-steps", "16", "--batch-size", "32", "--steps", "256", "--eval-episodes", "0", "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with experts of a few steps in its cache."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert dispatch(["experts", *ENV, "--steps", "512"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def experts(place):
    (found,) = place.glob("runs/experts/deep-sea-treasure-v0/*")
    return found


def test_the_cache_says_what_it_holds(experts):
    assert re.fullmatch(r"ppo-gym-512-seed0-[0-9a-f]{8}", experts.name)
    facts = yaml.safe_load((experts / "experts.yaml").read_text())
    assert (facts["env"], facts["backend"], facts["steps"]) == ("deep-sea-treasure-v0", "gym", 512)
    assert facts["versions"]["mo-gymnasium"]
    assert set(facts["models"]) == {"treasure", "time"}
    for name, model in facts["models"].items():
        settings = RunFolder.open((experts / model["file"]).parent).config()
        (other,) = {"treasure", "time"} - {name}
        assert settings.transform == f"{other}=0"  # each learnt from its own objective alone


def test_experts_are_trained_once(experts, capsys):
    before = {file: file.stat().st_mtime_ns for file in experts.rglob("*") if file.is_file()}
    assert dispatch(["experts", *ENV, "--steps", "512"]) == 0
    assert {file: file.stat().st_mtime_ns for file in experts.rglob("*") if file.is_file()} == before
    said = " ".join(capsys.readouterr().out.split())
    assert f"dibs-rl train --env=deep-sea-treasure --anchors={experts.relative_to(Path.cwd())}" in said.replace("- ", "-")


def test_the_command_that_is_printed_has_the_task_in_it(monkeypatch, capsys):
    monkeypatch.setattr(experts_command, "make_experts", lambda flags: (0, Path("there")))
    terms = "a=reward_forward,b=reward_ctrl"
    asked = ["--env", "HalfCheetah-v5", "--algo", "sac", "--reward-terms", terms, "--pad-tasks", "--backend", "gym"]
    assert dispatch(["experts", *asked, "--steps", "9", "--seed", "3"]) == 0
    (command,) = re.findall(r"dibs-rl (.*)\)", " ".join(capsys.readouterr().out.split()))
    config = read_config(shlex.split(command)[1:-1])  # without the folder of the experts
    assert (config.env, config.algo, config.reward_terms) == ("HalfCheetah-v5", "sac", terms)
    assert (config.pad_tasks, config.backend) == (True, "gym")


def test_policies_of_sb3_ppo_are_no_anchors():
    with pytest.raises(UserError, match="--algo ppo, a2c or sac"):
        dispatch(["experts", *ENV, "--algo", "sb3-ppo"])


def test_other_versions_and_settings_are_other_experts(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ExpertsConfig(env="deep-sea-treasure", steps=9)

    def folder():
        experts_command.make_experts(flags)
        return asked[-1][0]

    first = folder()
    assert folder() == first
    shipped = tmp_path / "shipped.yaml"
    shipped.write_text(shipped_file("ppo", "deep-sea-treasure-v0").read_text() + "gamma: 0.5\n")
    with monkeypatch.context() as patch:
        patch.setattr("dibs_rl.study.shipped_file", lambda algo, env: shipped)
        assert folder() != first
    with monkeypatch.context() as patch:
        patch.setattr(expert_cache, "versions", lambda: {**versions(), "torch": "0.1"})
        assert folder() != first
    assert folder() == first


def test_other_experts_are_not_overwritten(experts):
    with pytest.raises(UserError, match="holds experts with steps as 512, and not as 1024"):
        dispatch(["experts", *ENV, "--steps", "1024", "--out", str(experts)])
    facts = yaml.safe_load((experts / "experts.yaml").read_text())
    try:
        for torch, said in (({"torch": "0.1"}, r"'0\.1'"), ({}, "None")):
            others = {name: version for name, version in facts["versions"].items() if name != "torch"}
            (experts / "experts.yaml").write_text(yaml.safe_dump({**facts, "versions": others | torch}))
            with pytest.raises(UserError, match=f"holds experts with version of torch as {said}, and not as"):
                dispatch(["experts", *ENV, "--steps", "512", "--out", str(experts)])
    finally:
        (experts / "experts.yaml").write_text(yaml.safe_dump(facts))


def test_experts_of_other_settings_are_not_taken_for_these(experts, monkeypatch, tmp_path):
    """As when the settings that are shipped for an environment have changed since."""
    there = shutil.copytree(experts, tmp_path / "experts")
    shipped = tmp_path / "shipped.yaml"
    shipped.write_text(shipped_file("ppo", "deep-sea-treasure-v0").read_text() + "gamma: 0.5\n")
    monkeypatch.setattr("dibs_rl.study.shipped_file", lambda algo, env: shipped)
    with pytest.raises(UserError, match=r"expert-\w+/seed0 is a run with gamma as .*, and not as 0.5: .* or move it away"):
        dispatch(["experts", *ENV, "--steps", "512", "--out", str(there)])


def test_anchors_train_and_resume(experts, tmp_path, capsys):
    run = tmp_path / "run"
    assert dispatch(["train", *ENV, *TINY, "--anchors", str(experts), "--out", str(run)]) == 0
    assert f"The anchored game, with the experts of {experts}." in capsys.readouterr().out
    header = (run / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"train/anchor_distance/treasure", "train/anchor_distance/time"} <= set(header)
    assert dispatch(["train", "--resume", str(run), "--steps", "512"]) == 0


def test_foreign_experts_get_one_line(experts, tmp_path):
    with pytest.raises(UserError, match="trained in deep-sea-treasure-v0, and this is deep-sea-treasure-concave-v0"):
        dispatch(["train", "--env", "deep-sea-treasure-concave", *TINY, "--anchors", str(experts)])
    with pytest.raises(UserError, match="is no folder of experts"):
        dispatch(["train", *ENV, *TINY, "--anchors", str(tmp_path)])
    with pytest.raises(UserError, match="game of DiBS"):
        dispatch(["train", *ENV, *TINY, "--combiner", "norm-sum", "--anchors", str(experts)])


@pytest.fixture
def asked(monkeypatch):
    """What experts are asked for, without training them."""
    found = []

    def run_jobs(name, jobs, root, launcher):
        found.append((root, jobs))
        return 1

    monkeypatch.setattr(experts_command, "run_jobs", run_jobs)
    return found


def test_the_cache_names_everything_that_changes_the_task(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    terms = "forward=reward_forward,energy=reward_ctrl"
    wanted = {
        "ppo-gym-9-seed0-forward=reward_forward-energy=reward_ctrl": {"env": "HalfCheetah-v5", "reward_terms": terms},
        "ppo-gym-9-seed0-forward=reward_forward-energy=reward_ctrl-alive=reward_survive": {
            "env": "Ant-v5",
            "reward_terms": terms + ",alive=reward_survive",
        },
        "ppo-gym-9-seed0-padded": {"env": "Pendulum-v1+MountainCarContinuous-v0", "pad_tasks": True},
        "ppo-gym-9-seed0": {"env": "mo-reacher-v5"},
        "sac-batch-9-seed3": {"env": "mo-halfcheetah-v5", "algo": "sac", "seed": 3},
    }
    for start, said in wanted.items():
        backend = "batch" if "batch" in start else "gym"
        assert experts_command.make_experts(ExpertsConfig(**said, steps=9, backend=backend)) == (1, asked[-1][0])
        root, jobs = asked[-1]
        assert root.name[:-9] == start
        for job in jobs:
            assert (job.config.backend, job.config.steps) == (backend, 9)
            assert job.config.reward_terms == said.get("reward_terms", "")
            assert job.config.pad_tasks == said.get("pad_tasks", False)
            flags = train_flags(job, root)
            assert ("--pad-tasks" in flags) == job.config.pad_tasks


@pytest.mark.parametrize(("backend", "trained_with"), [("warp", "warp"), ("auto", "auto"), ("batch", "batch"), ("gym", "gym")])
def test_experts_are_trained_in_the_run_s_own_task_and_physics(backend, trained_with, monkeypatch):
    wanted = []
    monkeypatch.setattr(experts_command, "make_experts", lambda flags: (wanted.append(flags), (1, None))[1])
    monkeypatch.setattr(experts_command, "choose_worlds_device", lambda config: config.device)  # as where there is a GPU
    config = PPOConfig(env="a+b", anchors="auto", backend=backend, device="cuda", pad_tasks=True, reward_terms="x=y")
    with pytest.raises(UserError, match="not all there"):
        experts_command.with_anchors(config)
    (flags,) = wanted
    assert (flags.env, flags.backend, flags.device) == ("a+b", trained_with, "cuda")
    assert (flags.pad_tasks, flags.reward_terms) == (True, "x=y")


def test_a_signal_to_the_experts_training_is_no_mistake(monkeypatch):
    monkeypatch.setattr(experts_command, "make_experts", lambda flags: (143, None))
    with pytest.raises(SystemExit) as stop:
        experts_command.with_anchors(PPOConfig(env="mo-hopper-v5", anchors="auto"))
    assert stop.value.code == 143


def test_experts_of_another_task_get_one_line(experts):
    with pytest.raises(UserError, match="were trained with reward_terms '', and this run has 'a=b'"):
        dispatch(["train", *ENV, *TINY, "--anchors", str(experts), "--reward-terms", "a=b"])


def test_experts_of_other_physics_get_one_line(experts, tmp_path):
    """Whatever `auto` has meant: what counts is what steps the worlds."""
    config = PPOConfig(anchors=str(experts))
    for backend in ("gym", "batch"):  # they have the same physics
        experts_command.check_experts_physics(config, backend)
    with pytest.raises(UserError, match="in the physics of the gym backend, and the warp backend steps here: --backend gym"):
        experts_command.check_experts_physics(config, "warp")
    experts_command.check_experts_physics(PPOConfig(), "warp")
    there = shutil.copytree(experts, tmp_path / "experts")
    facts = yaml.safe_load((there / "experts.yaml").read_text())
    (there / "experts.yaml").write_text(yaml.safe_dump({**facts, "backend": "warp"}))
    with pytest.raises(UserError, match="of the warp backend, and the gym backend steps here"):
        dispatch(["train", *ENV, *TINY, "--anchors", str(there), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
