"""Parts of a scalar reward as a vector: from info, by a function, and on the command line."""

import doctest

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dibs_rl.cli.main import main
from dibs_rl.envs import RewardTerms, as_vector_env, make, reward_terms
from dibs_rl.envs.reward_terms import parse_terms
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder

TEXT = "forward=reward_forward,energy=reward_ctrl"


class Shop(gym.Env):
    """A scalar reward of 3 - 2 = 1, whose info has its parts, and an entry that is no number."""

    observation_space, action_space = spaces.Box(-1, 9, (1,), np.float32), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        info = {"gain": np.float64(3), "cost": [2.0], "lucky": True, "name": "shop", "place": np.zeros(2)}
        return np.full(1, action, np.float32), 1.0, False, False, info


def first_reward(env, action=2):
    env = as_vector_env(env)
    env.reset_tensors(0)
    return env.objectives, env.step_tensors(torch.tensor([action])).reward.tolist()


def test_entries_of_info_are_rewards_in_the_order_given():
    terms = {"loss": "-cost", "gain": "gain", "luck": "lucky", "all": "reward", "back": "-reward"}
    names, rewards = first_reward(RewardTerms(Shop(), terms))
    assert names == ("loss", "gain", "luck", "all", "back")
    assert rewards == [[-2, 3, 1, 1, -1]]


def test_a_function_may_make_them():
    def split(obs, action, reward, info):
        return obs.item(), action, reward, info["gain"]

    assert first_reward(RewardTerms(Shop(), split, ["a", "b", "c", "d"])) == (("a", "b", "c", "d"), [[2, 2, 1, 3]])


def test_gymnasiums_own_environment_adds_up_again():
    """HalfCheetah-v5's scalar reward is the sum of the two terms; worker processes make them too."""
    plain = gym.make("HalfCheetah-v5", disable_env_checker=True)
    for workers in (0, 1):
        env = make("HalfCheetah-v5", num_envs=1, seed=0, workers=workers, reward_terms=TEXT)
        assert (env.objectives, env.backend) == (("forward", "energy"), "gym")
        plain.reset(seed=0)
        env.reset_tensors()
        for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32):
            _, scalar, _, _, _ = plain.step(action)
            assert env.step_tensors(torch.as_tensor(action)[None]).reward.sum() == pytest.approx(scalar, abs=1e-5)
        env.close()


def test_terms_can_be_transformed():
    env = make("HalfCheetah-v5", num_envs=1, reward_terms=TEXT, transform="energy=0")
    env.reset_tensors()
    forward, energy = env.step_tensors(torch.ones(1, 6)).reward[0]
    assert forward != 0
    assert energy == 0
    env.close()


def test_train_on_terms(tmp_path):
    run = tmp_path / "run"
    flags = ["--num-envs", "2", "--n-steps", "32", "--batch-size", "32", "--steps", "128", "--eval-episodes", "0"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--env", "HalfCheetah-v5", "--reward-terms", TEXT, *flags, "--out", str(run)])
    assert stop.value.code == 0
    assert RunFolder(run).objectives() == ["forward", "energy"]
    assert RunFolder(run).config().reward_terms == TEXT
    assert "train/share/energy" in RunFolder(run).progress_file.read_text()


def test_terms_read_as_they_are_written():
    assert parse_terms(" forward = reward_forward , safety=-cost, gain ") == {
        "forward": "reward_forward",
        "safety": "-cost",
        "gain": "gain",
    }
    assert parse_terms("") == {}


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"a": "gian"}, r"The info of Shop has no 'gian'; it has cost, gain, lucky\."),
        ({"a": "place"}, r"The term 'place' of Shop must be a number; found \[0.0, 0.0\]"),
        ({"a": "name"}, "The term 'name' of Shop must be a number; found 'shop'"),
        ({}, "at least one term"),
        (lambda *_: [1.0], "needs the names of its rewards"),
    ],
)
def test_mistakes_get_one_line(terms, message):
    with pytest.raises(UserError, match=message) as caught:
        first_reward(RewardTerms(Shop(), terms))
    assert "\n" not in str(caught.value)


def test_a_function_of_another_length_is_told():
    with pytest.raises(UserError, match=r"must be 2 numbers \(a, b\); found shape \[3\]"):
        first_reward(RewardTerms(Shop(), lambda *_: [1, 2, 3], ["a", "b"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a=", "found 'a='"), ("=b", "found '=b'"), ("a=-", "found 'a=-'"), ("a=b,a=c", "'a' is named twice")],
)
def test_mistakes_in_the_text(text, message):
    with pytest.raises(UserError, match=message):
        make("HalfCheetah-v5", num_envs=1, reward_terms=text)


def test_a_scalar_reward_is_refused_with_what_its_info_has():
    with pytest.raises(UserError, match=r"--reward-terms NAME=KEY.*reward_ctrl, reward_forward"):
        make("HalfCheetah-v5", num_envs=1)
    with pytest.raises(UserError, match=r"The batch backend.*no reward terms; found reward_terms"):
        make("mo-halfcheetah-v5", num_envs=1, backend="batch", reward_terms="a=reward_ctrl")


def test_the_docstrings_example_is_true():
    assert doctest.testmod(reward_terms).failed == 0
