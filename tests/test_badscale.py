"""The badly scaled suite: ids, what each of them is, and that every way to it gives the same numbers."""

import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
import torch

from dibs_rl.agents import DiBSPPO
from dibs_rl.cli.main import main
from dibs_rl.envs import BADSCALE, SPECS, TransformedEnv, as_vector_env, make, resolve_id, transform_rewards
from dibs_rl.envs.scaling import parse_transform
from dibs_rl.run_folder import RunFolder
from dibs_rl.shipped import bare_name, shipped_file

FAMILIES = ["mo-halfcheetah", "mo-hopper", "mo-walker2d", "mo-ant", "mo-swimmer", "mo-humanoid", "mo-reacher"]
FAMILIES += ["mo-lunar-lander", "mo-lunar-lander-continuous", "minecart", "deep-sea-treasure"]
INSTALLED = sorted(env_id for env_id, variant in BADSCALE.items() if SPECS[variant.base].installed)


def actions_of(env, worlds, steps):
    env.action_space.seed(0)
    return [torch.as_tensor(np.stack([env.action_space.sample() for _ in range(worlds)])) for _ in range(steps)]


def rewards_of(env, actions, seed=0):
    env.reset_tensors(seed)
    rewards = [env.step_tensors(action).reward.clone() for action in actions]
    env.close()
    return torch.stack(rewards)


def test_every_family_is_in_it_under_its_bare_name():
    assert {bare_name(variant.base) for variant in BADSCALE.values()} == set(FAMILIES)
    for family in FAMILIES:
        assert resolve_id(f"{family}-badscale") in BADSCALE
        assert BADSCALE[resolve_id(f"{family}-badscale")].base == resolve_id(family)


@pytest.mark.parametrize("env_id", BADSCALE)
def test_an_entry_is_whole(env_id):
    variant = BADSCALE[env_id]
    transform = parse_transform(variant.transform, SPECS[variant.base].objectives)
    assert all(transform[name].change in (1e-3, 1e3) for name in transform)
    assert variant.reason
    assert gym.spec(env_id).id == env_id


@pytest.mark.parametrize("env_id", INSTALLED)
def test_it_is_its_base_with_one_reward_in_bad_units(env_id):
    """Stepped as its base is; the transform in numpy on the base's rewards; the others untouched."""
    variant = BADSCALE[env_id]
    env, base = make(env_id, num_envs=2, seed=0), make(variant.base, num_envs=2, seed=0)
    assert (env.backend, env.objectives) == (base.backend, base.objectives)
    actions = actions_of(env, 2, 30)
    expected = rewards_of(base, actions).numpy()
    name, factor = variant.transform.split("=")
    column = env.objectives.index(name)
    expected[..., column] = (float(factor) * expected[..., column].astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(rewards_of(env, actions), expected)


@pytest.mark.parametrize("env_id", INSTALLED)
@pytest.mark.parametrize("maker", [gym.make, mo_gymnasium.make])
def test_gymnasiums_make_gives_the_same_bits(env_id, maker):
    env = maker(f"dibs_rl.envs:{env_id}")
    ours = make(env_id, num_envs=1, seed=0)
    actions = actions_of(ours, 1, 30)
    rewards, done = [], False
    env.reset(seed=0)
    for action in actions:
        if done:
            env.reset()
        _, reward, terminated, truncated, info = env.step(action[0].numpy() if action.dim() > 1 else int(action))
        done = terminated or truncated
        rewards.append(reward)
        assert reward.dtype == np.float32
        assert np.shape(info["untransformed_reward"]) == reward.shape
    np.testing.assert_array_equal(np.stack(rewards)[:, None], rewards_of(ours, actions))
    assert env.get_wrapper_attr("objectives") == ours.objectives
    assert env.get_wrapper_attr("reward_space").shape == (len(ours.objectives),)
    env.close()


def test_the_wrapper_agrees_with_the_vector_environment_on_every_map():
    """Per step and per episode, episodes ending in between."""
    text = "forward=exp@episode,height=sqrt,energy=power4"
    ours = make("mo-hopper", num_envs=1, backend="gym", seed=3, transform=text)
    theirs = as_vector_env(lambda: TransformedEnv(mo_gymnasium.make("mo-hopper-v5"), text, ours.objectives))
    plain = make("mo-hopper", num_envs=1, seed=3)
    actions = [torch.rand(1, 3) * 2 - 1 for _ in range(150)]
    for env in (ours, theirs, plain):
        env.reset_tensors(3)
    endings = 0
    for action in actions:
        a, b, c = (env.step_tensors(action) for env in (ours, theirs, plain))
        assert torch.equal(a.reward, b.reward)
        assert not torch.equal(a.reward, c.reward)
        endings += int(a.done)
    assert endings > 2
    returns = [env.pop_episodes()[0] for env in (ours, theirs, plain)]
    assert torch.equal(returns[0], returns[2])  # counted before the transform,
    assert torch.equal(returns[1], returns[2])  # in an environment that brought it along too


def test_a_reward_wrapper_on_top_is_obeyed():
    """Whatever changes the transformed rewards once more is what the environment gives, statistics included."""

    class Negative(gym.RewardWrapper):
        def reward(self, reward):
            return -reward

    env = as_vector_env(lambda: Negative(gym.make("dibs_rl.envs:deep-sea-treasure-badscale-v0")))
    env.reset_tensors(0)
    assert env.reward_transform is None
    assert env.step_tensors(torch.tensor([1])).reward[0, 1] == 1


def test_a_transform_on_top_holds_for_the_objective_that_it_names():
    env = make("mo-halfcheetah-badscale", num_envs=1, transform="forward=0.5")
    assert str(env.reward_transform) == "energy=1000,forward=0.5"
    env.close()
    env = make("mo-halfcheetah-badscale", num_envs=1, transform="energy=1e-3@episode")
    assert str(env.reward_transform) == "energy=0.001@episode"
    env.close()
    env = as_vector_env(gym.make("dibs_rl.envs:mo-halfcheetah-badscale-v5"))
    assert str(env.reward_transform) == "energy=1000"
    assert str(transform_rewards(env, "forward=2").reward_transform) == "forward=2"


def test_keyword_arguments_and_workers_reach_the_base():
    env = make("mo-hopper-badscale", num_envs=2, workers=1, backend="gym", seed=0, terminate_when_unhealthy=False)
    alone = make("mo-hopper", num_envs=2, backend="gym", seed=0, transform="forward=1e3", terminate_when_unhealthy=False)
    actions = actions_of(alone, 2, 40)
    assert torch.equal(rewards_of(env, actions), rewards_of(alone, actions))


def test_train_takes_what_is_shipped_for_the_base(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--steps", "256", "--num-envs", "2", "--n-steps", "64", "--batch-size", "64", "--eval-episodes", "0"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--env", "deep-sea-treasure-badscale", *flags, "--transform", "time=2", "--out", str(run)])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "deep-sea-treasure-badscale is deep-sea-treasure-badscale-v0" in said
    assert "treasure=0.001,time=2" in said
    config = RunFolder(run).config()
    shipped = shipped_file("ppo", "deep-sea-treasure-v0").read_text()
    assert f"ent_coef: {config.ent_coef}" in shipped
    assert config.env == "deep-sea-treasure-badscale-v0"


def test_the_list_shows_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["envs", "--match", "halfcheetah-badscale"])
    said = capsys.readouterr().out
    assert "mo-halfcheetah-badscale-v5" in said
    assert "energy=1e3" in said


def test_dibs_is_blind_to_the_suites_units_and_a_weighted_sum_is_not():
    """With a power of two in place of the thousand, to the last bit."""

    def trained(combiner, transform):
        env = make("mo-halfcheetah", num_envs=2, seed=0, transform=transform)
        settings = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
        model = DiBSPPO("MlpPolicy", env, combiner=combiner, **settings).learn(3 * 64)
        env.close()
        return model.policy.action_net.weight

    assert torch.equal(trained("dibs", ""), trained("dibs", "energy=1024"))
    assert not torch.equal(trained("weighted-sum", ""), trained("weighted-sum", "energy=1024"))
