"""Meta-World's ten tasks, where the package is there: it needs MuJoCo 3.3.0, and so a Python environment of its own."""

import json

import numpy as np
import pytest
import torch

from dibs_rl.cli.main import main
from dibs_rl.envs import make
from dibs_rl.envs.metaworld import MT10

pytest.importorskip("metaworld", reason="metaworld needs MuJoCo 3.3.0 and no other")


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def test_ten_tasks_an_objective_each():
    """The same seed gives the same goals and episodes; each world has its own task's reward, untransformed in statistics."""
    env, again = (make("metaworld-mt10", 10, seed=3, transform=change) for change in ("", "reach=power4,window-open=exp"))
    assert env.objectives == tuple(MT10)
    assert env.observation_space.shape == (39 + 10,)
    first, same = env.reset_tensors(), again.reset_tensors()
    assert torch.equal(first, same)
    assert torch.equal(first[:, 39:], torch.eye(10, dtype=first.dtype))
    actions = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (500, 10, 4)))
    for t, action in enumerate(actions):
        step, changed = env.step_tensors(action), again.step_tensors(action)
        assert torch.equal(step.obs, changed.obs)
        assert not step.reward[~torch.eye(10, dtype=torch.bool)].any()
        assert torch.allclose(changed.reward[0, 0], step.reward[0, 0] ** 4)
        assert torch.allclose(changed.reward[8, 8], step.reward[8, 8].exp())
        assert step.truncated.all() == (t == 499)
    returns, lengths = env.pop_episodes()
    assert lengths.tolist() == [500] * 10
    assert torch.equal(returns.isnan(), ~torch.eye(10, dtype=torch.bool))
    assert torch.equal(returns.nan_to_num(), again.pop_episodes()[0].nan_to_num())
    assert {"success", "is_success"} <= env.own_infos[0].keys()


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_the_shipped_configuration_runs(algo, tmp_path):
    """Some hundred steps of it, with the paper's transforms, and an evaluation."""
    short = {"ppo": ["--n-steps", 20, "--batch-size", 100, "--n-epochs", 1], "sac": ["--learning-starts", 100]}[algo]
    flags = ["--num-envs", 10, "--steps", 400, "--workers", 0, "--eval-episodes", 1, "--out", tmp_path / "run", *short]
    change = ["--transform", "reach=power4,window-open=exp"]
    assert command("train", "--env", "metaworld-mt10", "--algo", algo, *change, *flags) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["returns"]) == set(MT10)
    assert all(numbers["mean"] > 0 for numbers in result["returns"].values())


def test_the_shipped_study_starts_and_runs(tmp_path):
    """Two of its jobs, cut down to nothing: as it is, and transformed."""
    small = ["num_envs=10", "learning_starts=100", "hidden=[32]", "batch_size=64", "eval_episodes=1", "workers=0"]
    flags = ["--conditions", "both=reach=power4,window-open=exp", "--arms", "dibs", "random", "--seeds", 0, "--steps", 200]
    assert command("benchmark", "metaworld-mt10", *flags, "--settings", *small, "--out", tmp_path / "study") == 0
    assert len(list((tmp_path / "study").rglob("result.json"))) == 2
