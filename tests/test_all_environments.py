"""The suite walks the registry: every environment that is installed resets, steps and trains for two updates."""

import numpy as np
import pytest
import torch

from dibs_rl.agents import DiBSPPO
from dibs_rl.cli.model import policy_name
from dibs_rl.envs import SPECS, make


def installed(env_id):
    spec = SPECS[env_id]
    # Only what cannot be installed beside the rest is passed over, and says so: mo-supermario needs NumPy 1.
    return pytest.param(env_id, marks=() if spec.installed else pytest.mark.skip(reason=f"{spec.needs}: {spec.install}"))


@pytest.mark.parametrize("env_id", [installed(env_id) for env_id in sorted(SPECS)])
def test_trains_for_two_updates(env_id):
    env = make(env_id, num_envs=2, seed=0)
    try:
        assert env.objectives == SPECS[env_id].objectives
        policy = policy_name(env.observation_space)
        # SB3's CNN would have 100 million weights on minecart's 480 x 480 pixels; two updates of fewer say as much.
        narrow = {"features_extractor_kwargs": {"features_dim": 8}} if policy == "CnnPolicy" else {}
        settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 0, "device": "cpu"}
        model = DiBSPPO(policy, env, policy_kwargs=narrow, **settings)
        before = {name: value.clone() for name, value in model.policy.state_dict().items()}
        model.learn(2 * 8 * 2)
        after = model.policy.state_dict()
        assert all(torch.isfinite(value).all() for value in after.values())
        assert any(not torch.equal(before[name], after[name]) for name, _ in model.policy.named_parameters())
        assert np.isfinite(model.rollout_buffer.rewards.numpy()).all()
    finally:
        env.close()
