"""DiBS-PPO: parity with SB3 at m = 1, reproducibility, spaces, errors; invariance has a file of its own."""

import numpy as np
import pytest
import torch
from fake_envs import ACTIONS, OBSERVATIONS, PointEnv, ScalarPoint, point_envs
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from torchjd.aggregation import ConFIG

from dibs_rl import DiBS
from dibs_rl.agents import DiBSPPO
from dibs_rl.combiners import COMBINERS
from dibs_rl.errors import NonFiniteError, UserError

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
PLAIN_POLICY = {"popart": False, "normalize_obs": False}


def policy_state(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_policy(a, b):
    for name, value in policy_state(a).items():
        assert torch.equal(value, b.policy.state_dict()[name]), name


@pytest.mark.parametrize(
    ("n_envs", "settings"),
    [
        # One world: our order of the samples and SB3's agree, so minibatches can be compared.
        (1, {"n_steps": 64, "batch_size": 16, "normalize_advantage": False}),
        (1, {"n_steps": 64, "batch_size": 16, "normalize_advantage": True}),
        (4, {"n_steps": 32, "batch_size": 128, "normalize_advantage": True}),
    ],
)
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_m1_without_extras_is_sb3s_ppo(n_envs, settings, action):
    """The same parameters after three updates, to 1e-5; gradient clipping off, since SB3 clips policy and critic together."""
    common = {**settings, "n_epochs": 3, "ent_coef": 0.01, "max_grad_norm": 1e9, "seed": 3, "device": "cpu"}
    worlds = {"action": action, "scales": (1.0,)}
    theirs = PPO("MlpPolicy", DummyVecEnv([lambda: ScalarPoint(PointEnv(**worlds)) for _ in range(n_envs)]), **common)
    ours = DiBSPPO(
        "MlpPolicy",
        point_envs(n_envs, **worlds),
        combiner="weighted-sum",
        policy_kwargs=PLAIN_POLICY,
        bargain_every="minibatch",
        **common,
    )
    steps = 3 * settings["n_steps"] * n_envs
    for learner in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)
        learner.learn(steps)
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=1e-5, msg=name)


def test_same_seed_same_parameters():
    a, b = (DiBSPPO("MlpPolicy", point_envs(), **SMALL).learn(256) for _ in range(2))
    assert_same_policy(a, b)


def test_one_whole_minibatch_makes_bargaining_per_epoch_and_per_minibatch_the_same():
    """With the rollout as the only minibatch, both combine the same gradients: one step for one step."""
    settings = {**SMALL, "batch_size": 64, "ent_coef": 0.01, "max_grad_norm": 1e9}
    a, b = (DiBSPPO("MlpPolicy", point_envs(), bargain_every=every, **settings).learn(192) for every in ("epoch", "minibatch"))
    for name, value in policy_state(a).items():
        torch.testing.assert_close(b.policy.state_dict()[name], value, rtol=0, atol=1e-5, msg=name)


def test_entropy_bonus_comes_after_bargaining():
    """A bonus so large that it drowns a direction of norm at most 1 raises the standard deviation, at any reward scale."""
    model = DiBSPPO("MlpPolicy", point_envs(scales=(2.0**30, 1.0)), ent_coef=1e3, **SMALL)
    before = model.policy.log_std.clone()
    model.learn(64)
    assert (model.policy.log_std > before).all()


@pytest.mark.parametrize("obs", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_spaces(obs, action):
    """Every kind of observation and action trains and predicts through SB3's own policies."""
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(obs, "MlpPolicy")
    model = DiBSPPO(policy, point_envs(2, obs=obs, action=action, length=7), **{**SMALL, "n_steps": 8})
    before = policy_state(model)
    model.learn(32)
    moved = [name for name, value in policy_state(model).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("action_net") for name in moved)
    assert any(name.startswith("value_net") for name in moved)
    actions, _ = model.predict(model.env.reset(), deterministic=True)
    assert all(ACTIONS[action].contains(a) for a in actions)


def test_state_dependent_exploration():
    DiBSPPO("MlpPolicy", point_envs(), use_sde=True, sde_sample_freq=4, **SMALL).learn(128)
    squashed = {"policy_kwargs": {"squash_output": True}}
    model = DiBSPPO("MlpPolicy", point_envs(), use_sde=True, **squashed, **SMALL).learn(128)
    assert np.abs(model.predict(model.env.reset())[0]).max() <= 1


@pytest.mark.parametrize("combiner", COMBINERS)
def test_every_combiner_trains(combiner):
    model = DiBSPPO("MlpPolicy", point_envs(scales=(1.0, 1.0, 1.0)), combiner=combiner, bargain_every="minibatch", **SMALL)
    before = policy_state(model)
    model.learn(64)
    assert not torch.equal(before["action_net.weight"], model.policy.action_net.weight)
    assert all(torch.isfinite(value).all() for value in policy_state(model).values())


def test_critic_and_policy_share_no_parameter_and_no_optimizer():
    policy = DiBSPPO("CnnPolicy", point_envs(obs="image"), **SMALL).policy
    ours, critics = set(policy.policy_parameters()), set(policy.value_parameters())
    assert not ours & critics
    assert ours | critics == set(policy.parameters())
    in_optimizers = [
        [p for group in o.param_groups for p in group["params"]] for o in (policy.optimizer, policy.value_optimizer)
    ]
    assert set(in_optimizers[0]) == ours
    assert set(in_optimizers[1]) == critics


def test_objective_without_reward_has_no_vote():
    """A reward that is always zero gives no gradient at all, not a small one that would be scaled up to length 1."""
    model = DiBSPPO("MlpPolicy", point_envs(scales=(1.0, 1.0, 0.0)), **SMALL).learn(192)
    record = model.logger.name_to_value
    assert record["train/gradient_norm/reward_2"] == 0
    assert record["train/share/reward_2"] == 0
    assert record["train/share/reward_0"] + record["train/share/reward_1"] == pytest.approx(1)
    assert (model.policy.value_net.mean[2], model.policy.value_net.std[2]) == (0, 0)


def test_preference_by_name_is_preference_by_order():
    names = {"reward_1": 3.0, "reward_0": 1.0}
    a = DiBSPPO("MlpPolicy", point_envs(), preference=names, **SMALL).learn(128)
    b = DiBSPPO("MlpPolicy", point_envs(), preference=[1.0, 3.0], **SMALL).learn(128)
    c = DiBSPPO("MlpPolicy", point_envs(), combiner=DiBS(preference=[1.0, 3.0]), **SMALL).learn(128)
    d = DiBSPPO("MlpPolicy", point_envs(), **SMALL).learn(128)
    assert_same_policy(a, b)
    assert_same_policy(a, c)
    assert not torch.equal(a.policy.action_net.weight, d.policy.action_net.weight)


def test_log_has_every_diagnostic_by_name():
    model = DiBSPPO("MlpPolicy", point_envs(), **SMALL).learn(64)
    record = model.logger.name_to_value
    by_name = ("gradient_norm", "share", "cosine_to_step", "explained_variance", "clip_fraction", "value_loss")
    for key in [f"train/{key}/{name}" for key in by_name for name in model.objectives]:
        assert key in record, key
    for key in ("least_cosine", "conflict_fraction", "stationarity_residual", "stationarity_noise_floor", "approx_kl", "std"):
        assert f"train/{key}" in record, key
    assert sum(record[f"train/share/{name}"] for name in model.objectives) == pytest.approx(1)


@pytest.mark.parametrize("every", ["epoch", "minibatch"])
def test_share_is_logged_however_often_gradients_are_combined(every):
    model = DiBSPPO("MlpPolicy", point_envs(), bargain_every=every, preference=[1.0, 3.0], **SMALL).learn(64)
    record = model.logger.name_to_value
    assert record["train/share/reward_1"] > record["train/share/reward_0"] > 0


def test_a_diverged_policy_is_an_error_and_not_a_model():
    model = DiBSPPO("MlpPolicy", point_envs(), **{**SMALL, "learning_rate": 1e30})
    with pytest.raises(NonFiniteError, match=r"diverged|not finite"):
        model.learn(640)


def test_nan_observation_names_the_world():
    class Lost(PointEnv):
        def _observe(self):
            return super()._observe() * (np.nan if self.total_steps >= 5 else 1.0)

    model = DiBSPPO("MlpPolicy", [*point_envs(1), Lost], **SMALL)
    with pytest.raises(NonFiniteError, match="observation of environment 1 is not finite before its step 5"):
        model.learn(64)


@pytest.mark.parametrize(("poison", "said"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_reward_that_is_no_number_names_objective_world_and_step(poison, said):
    envs = [*point_envs(2), lambda: PointEnv(poison=21, poison_with=poison)]
    model = DiBSPPO("MlpPolicy", envs, **SMALL)
    before = policy_state(model)
    with pytest.raises(NonFiniteError, match=f"'reward_0' is {said} in environment 2 at its step 20"):
        model.learn(16 * 3 * 2)
    assert not torch.equal(before["action_net.weight"], model.policy.action_net.weight)  # the first rollout was sound
    assert all(torch.isfinite(value).all() for value in policy_state(model).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combiner": "dips"}, "Did you mean dibs"),
        ({"preference": [1.0, 2.0, 3.0]}, "One preference weight"),
        ({"preference": {"reward_0": 1.0}}, "A preference by name"),
        ({"preference": [1.0, 0.0]}, "positive"),
        ({"combiner": DiBS(), "preference": [1.0, 2.0]}, "to the combiner object"),
        ({"combiner": ConFIG()}, "bargain_every='minibatch'"),
        ({"bargain_every": "year"}, "bargain_every is"),
        ({"clip_range_vf": 0.2}, "clip_range_vf"),
        ({"rollout_buffer_class": dict}, "rollout_buffer_class"),
        ({"rollout_buffer_kwargs": {"buffer_size": 1}}, "rollout_buffer_kwargs"),
        ({"policy_kwargs": {"share_features_extractor": True}}, "share_features_extractor"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(UserError, match=message):
        DiBSPPO("MlpPolicy", point_envs(), **{**SMALL, **settings})


def test_a_policy_class_with_one_head_is_refused():
    from stable_baselines3.common.policies import ActorCriticPolicy

    with pytest.raises(UserError, match="VectorCritic"):
        DiBSPPO(ActorCriticPolicy, point_envs(), **SMALL)


def test_kl_limit_ends_the_update():
    model = DiBSPPO("MlpPolicy", point_envs(), target_kl=1e-12, **SMALL).learn(64)
    assert model._n_updates == 1  # an epoch that was cut short counts, as in SB3
