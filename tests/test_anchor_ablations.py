"""benchmarks/anchors.py: each ablation changes what it says, and the table is made of what the files hold."""

import argparse
import contextlib
import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import yaml
from fake_envs import point_envs
from scripts import load
from torch.testing import assert_close

from dibs_rl.agents import DiBSPPO
from dibs_rl.agents.anchors import Anchors
from dibs_rl.cli.model import make_env
from dibs_rl.config import PPOConfig
from dibs_rl.errors import UserError
from dibs_rl.metrics import hypervolume

NAMES = ("reward_0", "reward_1")


@pytest.fixture(scope="module")
def script():
    return load("benchmarks/anchors.py")


def learner(seed, **kwargs):
    return DiBSPPO("MlpPolicy", point_envs(2), n_steps=16, batch_size=16, n_epochs=1, seed=seed, device="cpu", **kwargs)


def experts():
    return {name: learner(seed).policy for seed, name in enumerate(NAMES, 1)}


def observations(model):
    space = model.observation_space
    draw = np.random.default_rng(0)
    return torch.as_tensor(draw.normal(size=(32, *space.shape)), dtype=torch.float32)


def distances_by(kind, model, policies, obs):
    return kind(policies, NAMES, model.observation_space, model.action_space).distances(model.policy, obs)


def test_frozen_distances_are_those_of_the_first_call(script):
    model, policies = learner(0), experts()
    obs = observations(model)
    frozen = script.Frozen(policies, NAMES, model.observation_space, model.action_space)
    first = frozen.distances(model.policy, obs)
    model.learn(2 * 16 * 3)
    assert torch.equal(frozen.distances(model.policy, obs), first)
    assert not torch.equal(distances_by(Anchors, model, policies, obs), first)


def test_divergence_of_equal_noise_is_the_distance_of_the_means_in_its_units(script):
    model, policies = learner(0), experts()
    obs, sigma = observations(model), 0.3
    with torch.no_grad():
        for policy in (model.policy, *policies.values()):
            policy.log_std.fill_(np.log(sigma))
        own, theirs = (policy.get_distribution(obs).distribution.loc.double() for policy in (model.policy, policies[NAMES[1]]))
    expected = (own - theirs).square().mean().sqrt() / sigma
    assert_close(distances_by(script.ByKL, model, policies, obs)[1], expected, rtol=1e-5, atol=0)


def test_the_noise_has_a_floor(script):
    model = learner(0)
    with torch.no_grad():
        model.policy.log_std.fill_(-5.0)
    model.learn(2 * 16, callback=script.NoiseFloor())
    assert (
        model.policy.log_std.exp().min() > 0.9 * script.LEAST_NOISE
    )  # an update may take it below, the next rollout mends it


def test_each_variant_plays_with_what_it_says(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variants = list(script.VARIANTS)
    flags = argparse.Namespace(
        env="mo-swimmer-v5", variants=variants, preferences=None, seeds=[0], steps=64, jobs=2, out=tmp_path
    )
    planned = script.plan(flags, script.train_experts(flags))
    trainings = {training.variant: training for training in planned if training.preference == (1.0, 3.0)}
    with contextlib.closing(make_env(config := trainings["local"].config, config.num_envs, 0)) as env:
        models = {variant: script.make_model(trainings[variant], env) for variant in variants}
    expert, of_half = (
        DiBSPPO.load(next(iter((tmp_path / f"experts/mo-swimmer-v5-{steps}-seed0").glob("**/expert-energy/seed0/model.zip"))))
        for steps in (64, 32)
    )
    expert, of_half = expert.policy.state_dict(), of_half.policy.state_dict()

    assert {variant for variant in variants if models[variant]._preferred is None} == {"local", "local-from-expert", "fading"}
    assert [variant for variant in variants if models[variant].fading] == ["fading"]
    anchored = [variant for variant in variants if models[variant]._preferred is not None]
    kinds = {variant: type(models[variant]._preferred) for variant in anchored}
    assert kinds == {**dict.fromkeys(anchored, Anchors), "frozen": script.Frozen, "kl": script.ByKL}
    assert not differ(models["half"]._preferred.policies["energy"].state_dict(), of_half)
    for variant in ("anchored", "frozen", "kl", "from-expert", "noise-floor"):
        assert not differ(models[variant]._preferred.policies["energy"].state_dict(), expert)
    assert differ(models["random"]._preferred.policies["energy"].state_dict(), expert)
    for variant in ("from-expert", "local-from-expert"):
        assert not differ(models[variant].policy.state_dict(), expert)  # it favours energy
    assert differ(models["anchored"].policy.state_dict(), expert)


def test_a_training_leaves_its_result(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--num-envs", "2", "--n-steps", "16", "--batch-size", "16"]
    flags = argparse.Namespace(
        env="mo-swimmer-v5", variants=["kl", "noise-floor"], preferences=None, seeds=[0], steps=32, jobs=2, out=tmp_path
    )
    monkeypatch.setattr(script, "words_of", lambda flags, seed, words=script.words_of: [*words(flags, seed), *small])
    for training in script.plan(flags, script.train_experts(flags)):
        if training.preference != (3.0, 1.0):
            continue
        assert not script.is_done(training)
        script.train(training)
        assert script.is_done(training)
        found = json.loads(training.file.read_text())
        assert found["preference"] == [3.0, 1.0]
        assert found["steps"] == 32
        assert set(found["returns"]) == {"forward", "energy"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env", "mo-halfcheeta"], "Unknown environment"),
        (["--env", "deep-sea-treasure", "--variants", "local", "kl"], "kl is for Gaussian noise"),
        (["--variants", "local", "--preferences", "1:1", "1:2:3"], "One preference weight for each of the 2 objectives"),
    ],
)
def test_mistakes_get_one_line(flags, message, script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["anchors.py", *flags, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert re.fullmatch(rf"anchors\.py: error: .*{message}.*\n", capsys.readouterr().err)


def differ(found, expected):
    assert found.keys() == expected.keys()
    return any(not torch.equal(found[name], value) for name, value in expected.items())


def result(script, folder, variant, preference, seed, returns):
    file = folder / f"{variant}{preference}{seed}.json"
    by_name = {name: {"mean": value} for name, value in zip(("forward", "energy"), returns, strict=True)}
    file.write_text(json.dumps({"returns": by_name, "discounted_returns": by_name}))
    return script.Training(variant, preference, PPOConfig(env="mo-halfcheetah-v5", seed=seed), file)


def test_the_table_is_of_what_the_files_hold(script, tmp_path):
    returns = {(1.0, 1.0): (5, 5), (3.0, 1.0): (8, 1), (1.0, 3.0): (2, 9)}
    trainings = [
        result(script, tmp_path, variant, preference, seed, [one + more * seed for one in found])
        for seed in (0, 2)
        for variant, more in (("local", 1), ("anchored", 2))
        for preference, found in returns.items()
    ]
    head, row, other = script.table(trainings)
    assert head == ["variant", "forward", "energy", "hypervolume", "weight control", "hypervolume above local"]
    volumes = [
        np.mean([hypervolume(np.array(list(returns.values())) + more * seed, [-100, -100]) for seed in (0, 2)])
        for more in (1, 2)
    ]
    assert row == ["local", "6.00", "6.00", f"{volumes[0]:,.0f}", "1.00", script.shown(None)]
    assert other == ["anchored", "7.00", "7.00", f"{volumes[1]:,.0f}", "1.00", f"{volumes[1] - volumes[0]:,.0f}"]


def test_a_result_of_other_settings_is_no_result(script, tmp_path):
    training = result(script, tmp_path, "local", (1.0, 1.0), 0, (1, 2))
    file = training.file
    assert not script.is_done(script.Training("local", (1.0, 1.0), training.config, tmp_path / "none.json"))
    file.write_text(json.dumps({"settings": script.plain_settings(training.config)}))
    assert script.is_done(training)
    longer = PPOConfig(env="mo-halfcheetah-v5", seed=0, steps=training.config.steps + 1)
    with pytest.raises(UserError, match=f"has steps as {training.config.steps}, and not as {longer.steps}: choose another"):
        script.is_done(script.Training("local", (1.0, 1.0), longer, file))


@pytest.mark.parametrize("variant", ["anchored", "local-from-expert"])
def test_a_result_of_other_experts_is_no_result(variant, script, tmp_path):
    """Whoever moves experts away and trains others in their place has new ones in the same folder."""
    training = dataclasses.replace(result(script, tmp_path, variant, (1.0, 1.0), 0, (1, 2)), experts=tmp_path / "experts")
    settings = {"settings": script.plain_settings(training.config)}
    model = {"file": "forward.zip", "sha256": "new"}
    training.experts.mkdir()
    (training.experts / "experts.yaml").write_text(yaml.safe_dump({"models": {"forward": model}}))
    for said in ({}, {"experts": {"forward": "new"}}):
        training.file.write_text(json.dumps(settings | said))
        assert script.is_done(training)
    training.file.write_text(json.dumps(settings | {"experts": {"forward": "old"}}))
    with pytest.raises(
        UserError, match="was trained with the expert of forward as 'old', and not as 'new': choose another --out"
    ):
        script.is_done(training)
