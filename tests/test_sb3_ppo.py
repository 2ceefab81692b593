"""The arm `sb3-ppo`: that it is SB3's PPO, parameter for parameter, and what is put around it."""

import numpy as np
import pytest
import torch
from fake_envs import PointEnv, point_envs
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dibs_rl.agents import SB3PPO
from dibs_rl.envs import as_vector_env, transform_rewards
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate

SETTINGS = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "ent_coef": 0.01, "gamma": 0.97, "seed": 3, "device": "cpu"}
WEIGHTS = np.array([2.0, 0.5], np.float32)


class Summed(PointEnv):
    """The same worlds, added up by hand."""

    def step(self, action):
        obs, rewards, terminated, truncated, info = super().step(action)
        return obs, float(rewards @ WEIGHTS), terminated, truncated, info


def by_hand(normalize):
    venv = DummyVecEnv([Summed] * 4)
    return PPO("MlpPolicy", VecNormalize(venv, norm_reward=False) if normalize else venv, **SETTINGS).learn(256)


def ours(**kwargs):
    return SB3PPO("MlpPolicy", point_envs(), preference=WEIGHTS.tolist(), **{**SETTINGS, **kwargs})


@pytest.mark.parametrize("normalize", [False, True])
def test_it_is_sb3s_ppo(normalize):
    """Bit for bit the parameters of `stable_baselines3.PPO`, put together by hand on the summed reward."""
    theirs, mine = by_hand(normalize), ours(normalize_obs=normalize).learn(256)
    for name, value in theirs.policy.state_dict().items():
        assert torch.equal(mine.policy.state_dict()[name], value), name
    for method in ("train", "collect_rollouts", "learn"):
        assert getattr(SB3PPO, method) is getattr(PPO, method)


def test_it_learns_from_transformed_rewards_and_reports_them_as_they_were():
    found = []
    for transform in ("", "reward_1=8"):
        env = transform_rewards(as_vector_env(point_envs()), transform)
        model = SB3PPO("MlpPolicy", env, **{**SETTINGS, "n_steps": 32}).learn(128)
        found.append((model.policy.value_net.weight, np.stack([episode["r"] for episode in model.ep_info_buffer])))
    (plain, returns), (scaled, same_returns) = found
    assert not torch.equal(plain, scaled)
    np.testing.assert_array_equal(returns, same_returns)  # of the first rollout, which is the same one
    assert returns.shape == (4, 2)


def test_a_saved_model_acts_on_raw_observations_and_goes_on(tmp_path):
    model = ours().learn(128)
    model.save(tmp_path / "model.zip")
    alone = SB3PPO.load(tmp_path / "model.zip", device="cpu")
    obs = np.random.default_rng(0).normal(5, 3, (6, 3))
    expected = model.policy.predict(model.get_vec_normalize_env().normalize_obs(obs), deterministic=True)[0]
    np.testing.assert_array_equal(alone.predict(obs, deterministic=True)[0], expected)
    resumed = SB3PPO.load(tmp_path / "model.zip", env=as_vector_env(point_envs()), device="cpu")
    count = resumed.get_vec_normalize_env().obs_rms.count
    resumed.learn(64, reset_num_timesteps=False)
    assert resumed.num_timesteps == 192
    assert resumed.get_vec_normalize_env().obs_rms.count > count
    found = evaluate(resumed, as_vector_env(point_envs()), 4, seed=1)
    assert found.returns.shape == (4, 2)


def test_other_objectives_and_other_environments():
    model = ours()
    model.set_env(point_envs())
    model.learn(64)
    with pytest.raises(UserError, match="was made for the objectives"):
        model.set_env(point_envs(scales=(1, 1, 1)))
    with pytest.raises(UserError, match="positive"):
        SB3PPO("MlpPolicy", point_envs(), preference=[1, -1], **SETTINGS)


@pytest.mark.parametrize("obs", ["discrete", "dict"])
def test_observations_that_are_no_vectors_pass(obs):
    policy = "MultiInputPolicy" if obs == "dict" else "MlpPolicy"
    SB3PPO(policy, point_envs(obs=obs), **SETTINGS).learn(64)
