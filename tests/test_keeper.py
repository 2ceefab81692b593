"""Wherever a training is ended, by an error or a signal, it leaves the checkpoint that was due when its rollout began."""

import signal
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stable_baselines3.common.save_util import load_from_zip_file

from dibs_rl import ranks
from dibs_rl.agents import DiBSSAC
from dibs_rl.agents.clipped_step import ClippedStep
from dibs_rl.cli.keeper import Stopper
from dibs_rl.cli.main import main
from dibs_rl.errors import LostRankError
from dibs_rl.run_folder import RunFolder
from dibs_rl.vec_env import VectorRewardVecEnv

N_STEPS, ROLLOUT = 16, 64  # of one world, of all
COMMON = ["--num-envs", 4, "--eval-episodes", 0, "--steps", 4 * ROLLOUT]
WHOLE = ["--env", "deep-sea-treasure", "--n-steps", N_STEPS]
CLIPPED = [*WHOLE, "--batch-size", 32, "--n-epochs", 2]
A_STEP, SB3S = (ClippedStep, "along"), (torch.nn.utils, "clip_grad_norm_")
WORLDS_STEP = VectorRewardVecEnv, "step_tensors"
LEARNERS = {  # their flags, what they call at every step of an optimiser, and how often in an update
    "ppo": (["--algo", "ppo", *CLIPPED], A_STEP, 8),
    "a2c": (["--algo", "a2c", *WHOLE], A_STEP, 2),
    "sb3-ppo": (["--algo", "sb3-ppo", *CLIPPED], SB3S, 4),
    "fading": (["--fading", *CLIPPED], A_STEP, 8),
    "a combiner with a memory": (["--combiner", "gradvac", "--bargain-every", "minibatch", *CLIPPED], A_STEP, 8),
}


def train(folder, *flags):
    """Trains, unless something comes between; the exit code."""
    arguments = [*COMMON, *flags, "--out", folder]
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, arguments)])
    return stop.value.code or 0


@pytest.fixture(scope="module", params=LEARNERS)
def learner(request, tmp_path_factory):
    """A learner's name, and a folder with the checkpoint of each rollout's start."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder / "run", *LEARNERS[request.param][0], "--checkpoint-every", 1) == 0
    return request.param, folder / "run"


def at_call(monkeypatch, function, number, do):
    """Does something else first when a function is called the n-th time."""
    owner, name = function
    original, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            do()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def lose():
    raise LostRankError("It is gone.")


def interrupt():
    signal.raise_signal(signal.SIGINT)


def content(file):
    """All that a checkpoint holds but the time when the training began."""
    data, *tensors = load_from_zip_file(file, device="cpu")
    del data["start_time"]
    return [data, *tensors]


def same(a, b):
    """Whether two things are equal in all they are made of."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor | np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tolist() == b.tolist()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (hasattr(a, "__dict__") and not isinstance(a, type) and same(vars(a), vars(b)))


@pytest.mark.parametrize(
    ("what", "where", "learnt"),
    [(lose, "update", 2), (lose, "rollout", 2), (interrupt, "rollout", 2), (interrupt, "update", 3)],  # it ends its update
)
def test_the_checkpoint_is_that_of_the_last_learnt_rollout(learner, what, where, learnt, tmp_path, monkeypatch):
    name, whole = learner
    flags, step, steps = LEARNERS[name]
    in_third = (step, 2 * steps + steps // 2 + 1) if where == "update" else (WORLDS_STEP, 2 * N_STEPS + 5)
    at_call(monkeypatch, *in_third, what)
    assert train(tmp_path / "run", *flags) == (2 if what is lose else 130)
    newest = RunFolder(tmp_path / "run").newest_model()
    assert newest == RunFolder(tmp_path / "run").checkpoint_file(learnt * ROLLOUT)
    for found, expected in zip(content(newest), content(RunFolder(whole).checkpoint_file(learnt * ROLLOUT)), strict=True):
        assert found.keys() == expected.keys()
        for key in expected:
            assert same(found[key], expected[key]), key


@pytest.mark.parametrize(("function", "kept"), [(WORLDS_STEP, 96), ((DiBSSAC, "train"), 0)])
def test_one_that_learns_every_few_steps(function, kept, tmp_path, monkeypatch):
    """An error in its worlds costs their last steps; one in an update leaves the newest checkpoint."""
    at_call(monkeypatch, function, 25, lose)  # each is called once for every 4 steps
    few = ["--algo", "sac", "--env", "mo-halfcheetah", "--update-ratio", 0.25, "--learning-starts", 32]
    few += ["--batch-size", 8, "--buffer-size", 1_000, "--hidden", 16, 16]
    assert train(tmp_path / "run", *few) == 2
    newest = RunFolder(tmp_path / "run").newest_model()
    assert newest == RunFolder(tmp_path / "run").checkpoint_file(kept)
    assert content(newest)[0]["num_timesteps"] == kept


def test_a_signal_that_comes_while_the_ranks_agree_is_heard_the_next_time(monkeypatch):
    """It must not be overwritten by what they agreed on before it came."""
    stopper, signals = Stopper(), iter([None, signal.SIGINT, None])
    stopper.model = SimpleNamespace(n_steps=1, device="cpu", num_timesteps=0)
    monkeypatch.setattr(ranks, "number", lambda: 2)

    def agree(own):
        number = next(signals)
        if number:
            stopper.stop(number)
        return own

    monkeypatch.setattr(ranks, "largest", agree)
    assert [stopper.on_step() for _ in range(3)] == [True, True, False]
    assert stopper.stopped_by == signal.SIGINT
