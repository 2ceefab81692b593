"""DiBS-A2C: parity with SB3 at m = 1, invariance, what normalising the advantages is for, saving, the command line."""

import numpy as np
import pytest
import torch
from fake_envs import PointEnv, ScalarPoint, point_envs
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv
from torchjd.aggregation import ConFIG

from dibs_rl.agents import DiBSA2C
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.cli.main import main
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder

SMALL = {"seed": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):  # short operations; the results do not depend on it
        yield


def parameters(model):
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


@pytest.mark.parametrize("normalize_advantage", [False, True])
@pytest.mark.parametrize(("n_envs", "action", "use_rms_prop"), [(1, "box", True), (4, "box", False), (4, "discrete", True)])
def test_m1_without_extras_is_sb3s_a2c(n_envs, action, use_rms_prop, normalize_advantage):
    """The same parameters after 20 updates, to 1e-5; gradient clipping off, since SB3 clips policy and critic together."""
    common = {"ent_coef": 0.01, "max_grad_norm": 1e9, "use_rms_prop": use_rms_prop, "seed": 3, "device": "cpu"}
    common["normalize_advantage"] = normalize_advantage
    worlds = {"action": action, "scales": (1.0,)}
    theirs = A2C("MlpPolicy", DummyVecEnv([lambda: ScalarPoint(PointEnv(**worlds)) for _ in range(n_envs)]), **common)
    plain = {"popart": False, "normalize_obs": False}
    ours = DiBSA2C("MlpPolicy", point_envs(n_envs, **worlds), combiner="weighted-sum", policy_kwargs=plain, **common)
    for learner in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)
        learner.learn(20 * 5 * n_envs)
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=0, atol=1e-5, msg=name)


def test_preferences_are_weights_on_the_votes():
    """Ten times the preferences are the same preferences; uneven ones learn something else, and give the first more say."""
    given = [None, (1.0, 1.0), (10.0, 10.0), (8.0, 1.0)]
    models = [DiBSA2C("MlpPolicy", point_envs(3), preference=one, **SMALL).learn(5 * 3 * 4) for one in given]
    nobody, even, tenfold, uneven = [parameters(model)["action_net.weight"] for model in models]
    assert torch.equal(nobody, even)
    torch.testing.assert_close(tenfold, even, rtol=0, atol=1e-6)
    assert not torch.allclose(uneven, even, rtol=0, atol=1e-6)
    shares = [model.logger.name_to_value["train/share/reward_0"] for model in models]
    assert shares[3] > max(shares[:3])


@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_powers_of_two_change_no_bit(normalize_advantage):
    """Rewards times 2^k for 100 updates; unit gradients are free of scale whether advantages are normalised or not."""

    def trained(scales):
        envs = point_envs(3, scales=scales)
        return DiBSA2C("MlpPolicy", envs, normalize_advantage=normalize_advantage, **SMALL).learn(100 * 5 * 3)

    plain, scaled = trained((1.0, 1.0, 1.0)), trained((2.0**40, 2.0**-40, 2.0**7))
    for name, value in parameters(plain).items():
        assert torch.equal(value, scaled.policy.get_parameter(name)), name
    assert torch.equal(plain.rollout_buffer.actions, scaled.rollout_buffer.actions)


def test_weighted_sum_is_not_invariant():
    """The control: the arm that users have today does change."""
    plain, scaled = (
        DiBSA2C("MlpPolicy", point_envs(3, scales=scales), combiner="weighted-sum", **SMALL).learn(300)
        for scales in ((1.0, 1.0), (1024.0, 1.0))
    )
    assert not torch.equal(plain.policy.action_net.weight, scaled.policy.action_net.weight)


@pytest.mark.parametrize(("normalize_advantage", "votes"), [(True, False), (False, True)])
def test_only_a_normalised_constant_has_no_vote(normalize_advantage, votes):
    """The third reward is always 1 and nothing ends early: whatever its critic makes of that, it says nothing of actions."""

    class Alive(PointEnv):
        def step(self, action):
            obs, rewards, *rest = super().step(action)
            return obs, np.append(rewards, np.float32(1)), *rest

        def __init__(self):
            super().__init__(length=10**9)
            self.reward_space = type(self.reward_space)(-np.inf, np.inf, (3,))

    model = DiBSA2C("MlpPolicy", [Alive] * 2, normalize_advantage=normalize_advantage, gamma=0.0, **SMALL).learn(10)
    assert (model.logger.name_to_value["train/share/reward_2"] > 0) == votes


def test_a_direction_without_weights_is_combined_too():
    """Every update combines its own gradients, so nothing has to be kept for minibatches."""
    model = DiBSA2C("MlpPolicy", point_envs(), combiner=ConFIG(), **SMALL)
    before = parameters(model)
    model.learn(100)
    assert not torch.equal(before["action_net.weight"], model.policy.action_net.weight)


def test_save_and_load_go_on_bit_for_bit(tmp_path):
    model = DiBSA2C("MlpPolicy", point_envs(), **SMALL).learn(200)
    model.save(tmp_path / "model.zip")
    for learner in (model, DiBSA2C.load(tmp_path / "model.zip", device="cpu")):
        torch.manual_seed(0)
        np.random.seed(0)
        learner.set_env(point_envs())
        learner.env.seed(5)
        learner.learn(100, reset_num_timesteps=False)
    assert isinstance(learner.policy.optimizer, torch.optim.RMSprop)
    for name, value in parameters(model).items():
        assert torch.equal(value, learner.policy.get_parameter(name)), name


def test_one_sample_cannot_be_normalised():
    with pytest.raises(UserError, match="at least 2 samples"):
        DiBSA2C("MlpPolicy", point_envs(1), n_steps=1, **SMALL)
    DiBSA2C("MlpPolicy", point_envs(1), n_steps=1, normalize_advantage=False, **SMALL).learn(4)


def test_command_line(tmp_path):
    """`--algo a2c` has its own defaults, and a run is resumed as any other."""
    run = tmp_path / "run"
    quick = ["--env", "deep-sea-treasure-v0", "--num-envs", "4", "--eval-episodes", "0"]
    for arguments in (
        ["--algo", "a2c", *quick, "--steps", "200", "--out", str(run)],
        ["--resume", str(run), "--steps", "400"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["train", *arguments])
        assert not stop.value.code
    config = RunFolder(run).config()
    assert (config.algo, config.n_steps, config.gae_lambda) == ("a2c", 5, 1.0)
    assert DiBSA2C.load(run / "model.zip", device="cpu").num_timesteps == 400
