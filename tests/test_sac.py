"""DiBS-SAC: parity with SB3 at m = 1, the combined step by brute force, invariance, replay, saving, the command line."""

import os
import signal

import numpy as np
import pytest
import torch
from fake_envs import OBSERVATIONS, PointEnv, ScalarPoint, point_envs
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv
from torchjd.aggregation import ConFIG

from dibs_rl import DiBS, objective_jacobian
from dibs_rl.agents import DiBSSAC
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.cli.main import main
from dibs_rl.combiners import COMBINERS
from dibs_rl.envs import as_vector_env
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.evaluation import evaluate
from dibs_rl.run_folder import RunFolder

NETS = {"net_arch": [16, 16]}
SMALL = {"learning_starts": 40, "batch_size": 32, "seed": 0, "device": "cpu", "policy_kwargs": NETS, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):  # short operations; the results do not depend on it
        yield


def make(n=4, *, scales=(1.0, 1.0), envs=None, **settings):
    """A learner whose gradient steps are few: one for each step of all worlds."""
    given = {**SMALL, "gradient_steps": 1, **settings}
    return DiBSSAC("MlpPolicy", point_envs(n, scales=scales) if envs is None else envs, **given)


def state(model):
    return {name: value.detach().clone() for name, value in model.policy.state_dict().items()}


def assert_same_policy(a, b):
    for name, value in state(a).items():
        assert torch.equal(value, b.policy.state_dict()[name]), name


class Rows(KVWriter):
    """Keeps what is logged."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(dict(key_values))

    def close(self):
        pass


def logged(model, steps):
    writer = Rows()
    model.set_logger(Logger(None, [writer]))
    model.learn(steps, log_interval=1)
    return writer.rows


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize(
    "settings",
    [{"gamma": 0.9, "ent_coef": 0.0}, {"gamma": 0.0, "ent_coef": "auto"}, {"gamma": 0.0, "ent_coef": 0.3, "tau": 0.1}],
)
def test_m1_without_extras_is_sb3s_sac(settings):
    """The same actor, critics, targets and temperature after 60 updates, to 1e-5, wherever both mean the same.

    SB3's Q has the entropy to come in it and ours has not: they agree without entropy, and where nothing is to come.
    """
    common = {**SMALL, "gradient_steps": 1, **settings}
    theirs = SAC("MlpPolicy", DummyVecEnv([lambda: ScalarPoint(PointEnv(scales=(1.0,)))]), **common)
    plain = {"combiner": "weighted-sum", "policy_kwargs": {**NETS, "popart": False}}
    ours = make(1, scales=(1.0,), **{**settings, **plain})
    for learner in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)
        learner.action_space.seed(0)
        learner.learn(100)
    for ours_part, theirs_part in zip(ours.actor.parameters(), theirs.actor.parameters(), strict=True):
        torch.testing.assert_close(ours_part, theirs_part, rtol=0, atol=1e-5)
    for ours_net, theirs_net in ((ours.critic, theirs.critic), (ours.critic_target, theirs.critic_target)):
        for i, (weight, bias) in enumerate(zip(ours_net.ensemble.weights, ours_net.ensemble.biases, strict=True)):
            for j, q_net in enumerate(theirs_net.q_networks):
                torch.testing.assert_close(weight[j], q_net[2 * i].weight, rtol=0, atol=1e-5)
                torch.testing.assert_close(bias[j], q_net[2 * i].bias, rtol=0, atol=1e-5)
    if settings["ent_coef"] == "auto":
        torch.testing.assert_close(ours.log_ent_coef, theirs.log_ent_coef, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ent_coef", [0.0, 0.7])
@pytest.mark.parametrize("combiner", ["dibs", "weighted-sum", "norm-sum"])
def test_the_step_by_brute_force(combiner, ent_coef):
    """The policy's gradient: each Q_i differentiated by itself through its own networks, combined, and then the entropy."""
    model = make(scales=(100.0, 0.01), combiner=combiner, ent_coef=ent_coef, preference=[3.0, 1.0]).learn(200)
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        optimizer.param_groups[0]["lr"] = 0.0
    batch = model.replay_buffer.sample(32)
    torch.manual_seed(1)
    model._update(batch, described=False)
    found = torch.cat([p.grad.flatten() for p in model.actor.parameters()])

    torch.manual_seed(1)
    actions, log_prob = model.actor.action_log_prob(batch.obs)
    q = model.critic.normalised(batch.obs, actions).amin(dim=1).mean(dim=1)  # [m], in each objective's own units
    parameters, weights = list(model.actor.parameters()), torch.tensor([3.0, 1.0])
    units = {"weighted-sum": model.critic.ensemble.std.float(), "norm-sum": torch.ones(2)}
    if combiner == "dibs":
        expected = DiBS(preference=[3.0, 1.0])(objective_jacobian(-q, parameters, retain_graph=True))
    else:
        expected = objective_jacobian(-(weights * units[combiner]) @ q, parameters, retain_graph=True)[0]
    expected = expected + ent_coef * objective_jacobian(log_prob.mean(), parameters)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * expected.abs().max().item())


# --------------------------------------------------------------------------------------------------------- invariance


def test_powers_of_two_change_no_bit():
    """Rewards times 2^k for 200 updates: policy, temperature, actions and critics; of the units only mean and std follow."""
    scale = torch.tensor([2.0**40, 2.0**-40, 2.0**7], dtype=torch.float64)
    plain, scaled = (make(scales=s).learn(4 * 210) for s in ((1.0, 1.0, 1.0), tuple(scale.tolist())))
    assert plain._n_updates == 200
    for name, value in state(plain).items():
        value = value * scale if name.endswith(("ensemble.mean", "ensemble.std")) else value
        assert torch.equal(value, scaled.policy.state_dict()[name]), name
    assert torch.equal(plain.log_ent_coef, scaled.log_ent_coef)
    for part in ("obs", "actions"):
        assert torch.equal(plain.replay_buffer.state_dict()[part], scaled.replay_buffer.state_dict()[part])


def test_weighted_sum_is_not_invariant():
    """The control: the arm that users have today does change."""
    a, b = (make(combiner="weighted-sum", scales=scales).learn(200) for scales in ((1.0, 1.0), (1024.0, 1.0)))
    assert not torch.equal(a.actor.mu.weight, b.actor.mu.weight)


def test_entropy_comes_after_bargaining():
    """A temperature that drowns a direction of norm at most 1 keeps the policy random, at any reward scale."""
    entropies = {}
    for ent_coef in (0.0, 1e3):
        rows = logged(make(scales=(2.0**30, 1.0), ent_coef=ent_coef), 480)
        entropies[ent_coef] = rows[-1]["train/entropy"]
    assert entropies[1e3] > 1.2  # of at most log 4 = 1.39 for two actions in [-1, 1]
    assert entropies[1e3] > entropies[0.0] + 0.15


def test_objective_without_reward_has_no_vote():
    """A reward that is always zero has an untrained critic; its gradient would be noise, scaled up to length 1."""
    with_it = make(scales=(1.0, 1.0, 0.0))
    rows = logged(with_it, 400)
    assert rows[-1]["train/share/reward_2"] == rows[-1]["train/gradient_norm/reward_2"] == 0
    assert rows[-1]["train/share/reward_0"] + rows[-1]["train/share/reward_1"] == pytest.approx(1)
    assert with_it.critic.ensemble.std[2] == with_it.critic.ensemble.mean[2] == 0


def test_a_late_reward_starts_with_units_of_its_own():
    """A reward seen for the first time after a thousand batches of zeros is of the order of its unit, not hundreds of them."""
    ensemble = make().critic.ensemble
    for _ in range(1000):
        ensemble.absorb(torch.stack([torch.randn(256), torch.zeros(256)], dim=1))
    sparse = torch.zeros(256)
    sparse[3] = 5.0
    ensemble.absorb(torch.stack([torch.randn(256), sparse], dim=1))
    assert ensemble.normalise(torch.tensor([[0.0, 5.0]]))[0, 1] < 17  # sqrt(256) and a little


# ----------------------------------------------------------------------------------------------------------- learning


class Targets(PointEnv):
    """Rewards: minus a thousand times the distance from 1, and minus a thousandth of that from 1.5."""

    def __init__(self):
        super().__init__(length=30)

    def step(self, action):
        obs, _, *rest = super().step(3 * np.asarray(action))
        return obs, np.float32([-1e3 * abs(self.place - 1), -1e-3 * abs(self.place - 1.5)]), *rest


def test_it_learns():
    """The point is brought between its two targets, whatever the distances are counted in."""
    model = make(envs=[Targets] * 4, learning_starts=200, batch_size=64, learning_rate=3e-3, gamma=0.9)
    env = as_vector_env([Targets] * 4)
    before = evaluate(model, env, 20, seed=5).returns.mean(axis=0)
    after = evaluate(model.learn(1000), env, 20, seed=5).returns.mean(axis=0)
    assert (after > 0.7 * before).all()  # 0.39 and 0.19 when this was written


@pytest.mark.parametrize("combiner", [name for name in COMBINERS if name != "dibs"])
def test_every_combiner_trains(combiner):
    model = make(scales=(1.0, 1.0, 1.0), combiner=combiner)
    before = state(model)
    model.learn(80)
    assert not torch.equal(before["actor.mu.weight"], model.actor.mu.weight)
    assert all(torch.isfinite(value).all() for value in state(model).values())


def test_one_objective_follows_its_unit_gradient():
    rows = logged(make(scales=(1e9,)), 200)
    assert rows[-1]["train/cosine_to_step/reward_0"] == pytest.approx(1)


@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_spaces(obs):
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(obs, "MlpPolicy")
    action = "matrix" if obs == "box" else "box"
    settings = {**SMALL, "learning_starts": 8, "batch_size": 4}
    model = DiBSSAC(policy, point_envs(2, obs=obs, action=action, length=7), gradient_steps=1, **settings)
    before = state(model)
    model.learn(16)
    moved = [name for name, value in state(model).items() if not torch.equal(value, before[name])]
    for part in ("actor.", "critic.ensemble", "critic_target.ensemble"):
        assert any(name.startswith(part) for name in moved), part
    actions, _ = model.predict(model.env.reset(), deterministic=True)
    assert all(model.action_space.contains(a) for a in actions)


def test_an_action_space_that_is_not_from_minus_1_to_1():
    """The buffer holds scaled actions, and the worlds see their own."""

    class Wide(PointEnv):
        def __init__(self):
            super().__init__()
            self.action_space = type(self.action_space)(np.float32([-3, 0]), np.float32([1, 10]))

        def step(self, action):
            assert self.action_space.contains(np.asarray(action, dtype=np.float32))
            return super().step(action)

    model = make(envs=[Wide] * 2).learn(120)
    stored = model.replay_buffer.state_dict()["actions"]
    assert stored.abs().max() <= 1
    assert (stored.amax(dim=0) > 0.5).all()
    assert (stored.amin(dim=0) < -0.5).all()


def test_noise_state_dependent_exploration_and_episodes():
    noise = NormalActionNoise(np.zeros(2), 0.5 * np.ones(2))
    assert not torch.equal(make(action_noise=noise).learn(80).actor.mu.weight, make().learn(80).actor.mu.weight)
    make(use_sde=True, sde_sample_freq=4, use_sde_at_warmup=True).learn(80)
    model = make(1, envs=point_envs(1, length=7), train_freq=(2, "episode"), gradient_steps=-1).learn(56)
    assert model._n_updates == 28  # rollouts of 14 steps, of which the last two end behind 40 learning starts


@pytest.mark.parametrize("n", [1, 3])
def test_as_many_updates_as_steps_in_all_worlds(n):
    """The default: one gradient step for each environment step, however many worlds there are."""
    model = DiBSSAC("MlpPolicy", point_envs(n), **{**SMALL, "learning_starts": 11}).learn(24)
    assert model._n_updates == 24 - 12 + n  # from the step at which there are 12 transitions


# ---------------------------------------------------------------------------------------------- episodes and the log


def test_log_has_everything_by_name():
    rows = logged(make(2, envs=point_envs(2, length=10)), 100)
    assert [row["time/total_timesteps"] for row in rows] == [20, 40, 60, 80, 100]
    assert [row["time/episodes"] for row in rows] == [2, 4, 6, 8, 10]
    names = ("rollout/return", "train/critic_loss", "train/q_value", "train/gradient_norm", "train/share")
    for key in [f"{name}/reward_{i}" for name in names for i in (0, 1)]:
        assert key in rows[-1], key
    for key in ("ent_coef", "ent_coef_loss", "entropy", "learning_rate", "least_cosine", "n_updates"):
        assert f"train/{key}" in rows[-1], key
    assert "rollout/ep_rew_mean" not in rows[-1]


def test_a_time_limit_is_no_end():
    """With a reward of 1 a step and no end but the limit, Q is 1 / (1 - gamma) = 10 everywhere."""

    class Clock(PointEnv):
        def step(self, action):
            obs, _, _, cut, info = super().step(action)
            return obs, np.float32([1.0, self.place]), False, cut, info

    model = make(envs=[lambda: Clock(length=3)] * 4, gamma=0.9, tau=0.5).learn(400)
    assert model.critic.ensemble.mean[0] == pytest.approx(10, rel=0.05)


def test_callbacks(tmp_path):
    class Stop(BaseCallback):
        def _on_step(self):
            assert self.locals["rewards"].shape == (4, 2)
            assert len(self.locals["infos"]) == len(self.locals["dones"]) == 4
            return self.num_timesteps < 100

    model = make().learn(1000, callback=[Stop(), CheckpointCallback(10, str(tmp_path), save_replay_buffer=True)])
    assert model.num_timesteps == len(model.replay_buffer) == 100
    assert len(list(tmp_path.glob("*.zip"))) == 2


# ------------------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("ent_coef", ["auto", 0.2])
def test_save_and_load_go_on_bit_for_bit(tmp_path, ent_coef):
    """Networks, PopArt, three optimisers, temperature, generators, and the replay buffer from its own file."""
    model = make(ent_coef=ent_coef).learn(200)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "replay.pt")
    loaded = DiBSSAC.load(tmp_path / "model.zip", env=point_envs(), device="cpu")
    assert loaded.objectives == model.objectives
    loaded.load_replay_buffer(tmp_path / "replay.pt")
    for learner in (model, loaded):
        torch.manual_seed(0)
        np.random.seed(0)
        learner.set_env(point_envs())
        learner.env.seed(5)
        learner.learn(100, reset_num_timesteps=False)
    assert_same_policy(model, loaded)
    assert model._n_updates == loaded._n_updates


def test_an_empty_buffer_fills_before_learning_goes_on(tmp_path):
    """Without the buffer a loaded model acts by its policy and does not learn from a handful of steps."""
    make().learn(200).save(tmp_path / "model.zip")
    loaded = DiBSSAC.load(tmp_path / "model.zip", env=point_envs(2), device="cpu")
    before, updates = state(loaded), loaded._n_updates
    loaded.learn(38, reset_num_timesteps=False)
    assert (loaded._n_updates, len(loaded.replay_buffer)) == (updates, 38)
    for name, value in before.items():
        assert torch.equal(value, loaded.policy.state_dict()[name])
    loaded.learn(4, reset_num_timesteps=False)
    assert loaded._n_updates == updates + 2


def test_load_without_env_predicts(tmp_path):
    model = make().learn(60)
    model.save(tmp_path / "model.zip")
    obs = model.env.reset()
    expected, _ = model.predict(obs, deterministic=True)
    found, _ = DiBSSAC.load(tmp_path / "model.zip", device="cpu").predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, expected)


def test_a_broken_replay_file_is_said(tmp_path):
    (tmp_path / "replay.pt").write_bytes(b"PK\x03\x04 not a buffer")
    with pytest.raises(UserError, match=r"replay\.pt cannot be read"):
        make().load_replay_buffer(tmp_path / "replay.pt")


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"envs": point_envs(action="discrete")}, r"continuous spaces; found Discrete\(3\): use PPO or A2C"),
        ({"n_steps": 3}, "n_steps is 1"),
        ({"replay_buffer_class": ReplayBuffer}, "replay_buffer_class cannot be changed"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage cannot be changed"),
        ({"policy_kwargs": {"share_features_extractor": True}}, "share_features_extractor"),
        ({"combiner": "dips"}, "Did you mean dibs"),
        ({"combiner": ConFIG(), "preference": [1.0, 2.0]}, "to the combiner object"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_unbounded_actions_and_other_policies_are_refused():
    class Unbounded(PointEnv):
        def __init__(self):
            super().__init__()
            self.action_space = type(self.action_space)(-np.inf, np.inf, (2,))

    with pytest.raises(UserError, match="finite bounds"):
        make(envs=[Unbounded])
    with pytest.raises(UserError, match="VectorSAC"):
        DiBSSAC(SAC.policy_aliases["MlpPolicy"], point_envs(), **SMALL)


def test_numbers_that_are_not_finite_are_named():
    class Lost(PointEnv):
        def _observe(self):
            return super()._observe() * (np.nan if self.total_steps >= 5 else 1.0)

    model = make(envs=[PointEnv, Lost])
    with pytest.raises(NonFiniteError, match="observation of environment 1 is not finite before its step 5"):
        model.learn(64)
    assert all(part.isfinite().all() for part in model.replay_buffer.state_dict().values() if part is not None)
    with pytest.raises(NonFiniteError, match="'reward_0' is nan in environment 2 at its step 20"):
        make(envs=[*point_envs(2), lambda: PointEnv(poison=21)]).learn(100)
    with pytest.raises(NonFiniteError, match=r"diverged|gradient of each objective must be finite"):
        make(learning_rate=1e30).learn(100)


# ------------------------------------------------------------------------------------------------------- command line

QUICK = ["--algo", "sac", "--env", "mo-halfcheetah", "--num-envs", "2", "--hidden", "8", "8", "--batch-size", "16"]
QUICK += ["--learning-starts", "20", "--eval-episodes", "0", "--threads", "1", "--workers", "1"]


def command(*arguments):
    """Runs `dibs-rl train` in this process and returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, arguments)])
    return stop.value.code or 0


@pytest.mark.parametrize("kept", [True, False])
def test_resume_with_and_without_the_replay_buffer(tmp_path, capsys, kept):
    run = tmp_path / "run"
    assert command(*QUICK, "--update-ratio", "0.25", "--steps", 60, *["--save-replay-buffer"] * kept, "--out", run) == 0
    first = DiBSSAC.load(run / "model.zip", device="cpu")
    assert (first.train_freq.frequency, first.gradient_steps, first._n_updates) == (2, 1, 10)
    assert RunFolder(run).replay_file.is_file() == kept
    capsys.readouterr()
    assert command("--resume", run, "--steps", 100) == 0
    assert ("Replay buffer: 60 transitions" if kept else "kept no replay buffer") in capsys.readouterr().out
    assert DiBSSAC.load(run / "model.zip", device="cpu")._n_updates == (20 if kept else 16)
    assert command("--resume", run, "--steps", 100) == 0
    said = capsys.readouterr().out
    assert "has its 100 steps already" in said
    assert "eplay buffer" not in said  # nothing goes on


def test_too_few_steps_to_learn_anything_are_told(tmp_path, capsys):
    for steps, learns in ((20, False), (24, True)):
        run = tmp_path / str(steps)
        assert command(*QUICK, "--update-ratio", "0.25", "--steps", steps, "--out", run) == 0
        told = "Nothing is learnt before step 20, and --steps is 20" in capsys.readouterr().out
        assert (told, DiBSSAC.load(run / "model.zip", device="cpu")._n_updates > 0) == (not learns, learns)


def test_ctrl_c_leaves_a_checkpoint_and_its_replay_buffer(tmp_path):
    run = tmp_path / "run"
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        assert command(*QUICK, "--steps", 10**7, "--save-replay-buffer", "--out", run) == 130
    finally:
        signal.signal(signal.SIGALRM, before)
    steps = DiBSSAC.load(RunFolder(run).newest_model(), device="cpu").num_timesteps
    assert steps > 0
    stored = len(torch.load(RunFolder(run).replay_file, weights_only=True)["rewards"])
    assert stored - steps in (0, 2, 4)  # an update needs two steps of two worlds; those it was stopped in are not counted
    assert command("--resume", run, "--steps", steps + 4) == 0


def test_discrete_actions_end_with_one_line(tmp_path, capsys):
    assert command("--algo", "sac", "--env", "deep-sea-treasure", "--out", tmp_path / "run") == 2
    assert "use PPO or A2C for it (--algo ppo, --algo a2c)" in capsys.readouterr().err
