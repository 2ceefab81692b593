"""`MOVecNormalize`: each objective by the spread of its own discounted return, whatever its units."""

import functools

import numpy as np
import pytest
import torch
from fake_envs import PointEnv, point_envs
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dibs_rl.agents import DiBSPPO
from dibs_rl.agents.policies import RunningNorm
from dibs_rl.envs import MOVecNormalize, as_vector_env, make, normalization_of
from dibs_rl.errors import UserError
from dibs_rl.vec_env import map_obs

GAMMA = 0.9


def worlds(scales=(1.0, 1.0), **kwargs):
    return as_vector_env([functools.partial(PointEnv, scales=scales, length=length, **kwargs) for length in (3, 5, 7)])


def actions(steps):
    draw = np.random.default_rng(0)
    return [draw.uniform(-1, 1, (3, 2)).astype(np.float32) for _ in range(steps)]


def play(env, steps=30):
    """Observations, rewards and dones of a run with fixed seeds and actions."""
    env.seed(0)
    obs = [env.reset()]
    rewards, dones = [], []
    for action in actions(steps):
        seen, reward, done, _ = env.step(action)
        obs.append(seen)
        rewards.append(reward)
        dones.append(done)
    return obs, np.stack(rewards), np.stack(dones)


def test_against_moments_of_everything_seen():
    """By hand: the standard deviation over all discounted returns so far; observations by the mean and deviation so far."""
    raw_obs, raw, dones = play(worlds())
    obs, rewards, _ = play(MOVecNormalize(worlds(), gamma=GAMMA))
    running, returns = np.zeros((3, 2)), []
    for t in range(len(raw)):
        running = GAMMA * running + raw[t]
        returns.append(running.copy())
        std = np.concatenate(returns).std(axis=0)
        np.testing.assert_allclose(rewards[t], np.clip(raw[t] / std, -10, 10), rtol=1e-4, atol=1e-6)
        running[dones[t]] = 0
    for t in range(1, len(raw_obs)):
        so_far = np.concatenate(raw_obs[: t + 1])
        expected = (raw_obs[t] - so_far.mean(axis=0)) / so_far.std(axis=0)
        np.testing.assert_allclose(obs[t], np.clip(expected, -10, 10), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exponents", [(-40, 40), (30, -100)])
def test_powers_of_two_change_no_bit(exponents):
    """Neither a variance's epsilon nor a first guess of 1 is left in it: both would be in an objective's units."""
    plain_obs, plain, _ = play(MOVecNormalize(worlds()))
    obs, scaled, _ = play(MOVecNormalize(worlds([2.0**e for e in exponents])))
    np.testing.assert_array_equal(scaled, plain)
    np.testing.assert_array_equal(obs, plain_obs)


def test_sb3s_own_has_those_units_in_it():
    """The same rewards times 2^-30, through SB3's: what the epsilon and the guess are there for, and why they are not here."""

    def scalar(scale):
        venv = DummyVecEnv([lambda: LinearReward(PointEnv(scales=(scale, scale)), weight=np.array([1.0, 0.0]))])
        env = VecNormalize(venv)
        env.seed(0)
        env.reset()
        return [env.step(action[:1])[1].item() for action in actions(20)][-1]

    assert abs(scalar(2.0**-30)) < 1e-3 * abs(scalar(1.0))


def test_one_objective_after_long_is_sb3s():
    """With m = 1 and rewards of about 1, SB3's epsilon and first guess drown in the data."""
    venv = DummyVecEnv([lambda i=i: LinearReward(PointEnv(scales=(1.0,), length=9 + i)) for i in range(3)])
    ours = MOVecNormalize(as_vector_env([lambda i=i: PointEnv(scales=(1.0,), length=9 + i) for i in range(3)]))
    theirs = VecNormalize(venv)
    (obs, rewards, _), (their_obs, their_rewards, _) = play(ours, 400), play(theirs, 400)
    np.testing.assert_allclose(rewards[-50:, :, 0], their_rewards[-50:], rtol=1e-4)
    np.testing.assert_allclose(obs[-1], their_obs[-1], atol=1e-3)
    np.testing.assert_allclose(ours.ret_rms.var, theirs.ret_rms.var, rtol=1e-4)


def test_what_has_not_varied_has_no_scale():
    """One world: after its first step nothing is known of the spread of a return; a reward that stays 0 stays 0."""
    env = MOVecNormalize(as_vector_env(point_envs(1, scales=(1e6, 0.0))))
    env.reset()
    assert env.step(np.ones((1, 2), np.float32))[1].tolist() == [[0, 0]]
    rewards = [env.step(np.ones((1, 2), np.float32))[1][0] for _ in range(5)]
    assert all(reward[0] != 0 for reward in rewards)
    assert all(reward[1] == 0 for reward in rewards)


def test_a_constant_entry_of_an_observation_is_only_centred():
    class Constant(PointEnv):
        def _observe(self):
            return np.array([self.place, 7.0, 1e-9 * self.t])

    obs, _, _ = play(MOVecNormalize(as_vector_env([Constant] * 3)))
    assert all((part[:, 1] == 0).all() for part in obs)
    assert np.abs(obs[-1][:, 2]).max() > 0.1  # however small its unit


def test_clipping_is_in_standard_deviations():
    scaled, plain = (MOVecNormalize(worlds(s), clip_reward=0.5, clip_obs=1.5) for s in ((2.0**20, 2.0**-20), (1.0, 1.0)))
    (obs, rewards, _), (_, expected, _) = play(scaled), play(plain)
    assert np.abs(rewards).max() == 0.5
    assert max(np.abs(part).max() for part in obs) == 1.5
    np.testing.assert_array_equal(rewards, expected)


def test_original_and_back():
    env = MOVecNormalize(worlds((1e3, 1e-3)), clip_reward=1e9, clip_obs=1e9)
    obs, rewards, _ = play(env)
    np.testing.assert_allclose(env.unnormalize_reward(rewards[-1]), env.get_original_reward(), rtol=1e-5)
    np.testing.assert_allclose(env.unnormalize_obs(obs[-1]), env.get_original_obs(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(env.normalize_reward(env.get_original_reward()), rewards[-1])
    np.testing.assert_array_equal(env.normalize_obs(env.get_original_obs()), obs[-1])


@pytest.mark.parametrize("space", ["box", "dict", "discrete"])
def test_save_and_load(tmp_path, space):
    """Statistics go on where they stopped, in another environment of another size."""
    options = {"dict": {"norm_obs_keys": ["near"]}, "discrete": {"norm_obs": False}}.get(space, {})
    env = MOVecNormalize(worlds((1e3, 1e-3), obs=space), gamma=0.5, clip_reward=3.0, **options)
    play(env)
    env.save(tmp_path / "statistics.pkl")
    loaded = MOVecNormalize.load(tmp_path / "statistics.pkl", as_vector_env(point_envs(2, obs=space)))
    assert isinstance(loaded, MOVecNormalize)
    assert (loaded.num_envs, loaded.gamma, loaded.clip_reward, loaded.objectives) == (2, 0.5, 3.0, env.objectives)
    np.testing.assert_array_equal(loaded.ret_rms.var, env.ret_rms.var)
    reward = np.array([[100.0, 1e-4]])
    np.testing.assert_array_equal(loaded.normalize_reward(reward), env.normalize_reward(reward))
    first = env.get_original_obs()
    map_obs(np.testing.assert_array_equal, loaded.normalize_obs(first), env.normalize_obs(first))
    loaded.reset()
    assert loaded.step(np.zeros((2, 2), np.float32))[1].shape == (2, 2)


def test_other_objectives_are_refused_when_loading(tmp_path):
    MOVecNormalize(worlds()).save(tmp_path / "statistics.pkl")
    with pytest.raises(UserError, match="statistics are of the objectives reward_0, reward_1"):
        MOVecNormalize.load(tmp_path / "statistics.pkl", worlds((1.0, 1.0, 1.0)))


def test_statistics_rest_outside_training():
    env = MOVecNormalize(worlds())
    play(env)
    env.training = False
    before = env.ret_rms.var.copy(), env.obs_rms.mean.copy()
    play(env)
    np.testing.assert_array_equal((*env.ret_rms.var, *env.obs_rms.mean), (*before[0], *before[1]))


def test_rewards_may_be_left_alone():
    raw, found = play(worlds((1e3, 1e-3)))[1], play(MOVecNormalize(worlds((1e3, 1e-3)), norm_reward=False))[1]
    np.testing.assert_array_equal(found, raw)


def test_last_observations_are_normalised_and_returns_are_not():
    env, plain = MOVecNormalize(worlds((1e3, 1e-3)), clip_obs=1e9), worlds((1e3, 1e-3))
    env.training = False
    env.obs_rms.mean[:], env.obs_rms.var[:], env.obs_rms.count = 1.0, 4.0, 1
    for world in (env, plain):
        world.seed(0)
        world.reset()
    for action in actions(12):
        _, _, dones, infos = env.step(action)
        expected = plain.step(action)[3]
        for i in np.flatnonzero(dones):
            last = (expected[i]["terminal_observation"] - 1) / 2
            np.testing.assert_allclose(infos[i]["terminal_observation"], last, rtol=1e-6)
            np.testing.assert_array_equal(infos[i]["episode"]["r"], expected[i]["episode"]["r"])


def test_vectors_out_of_infos():
    """SB3's own `DummyVecEnv` of environments that sum their rewards: what comes out are vectors."""
    venv = DummyVecEnv([lambda length=length: LinearReward(PointEnv(length=length)) for length in (3, 5, 7)])
    np.testing.assert_array_equal(play(MOVecNormalize(venv))[1], play(MOVecNormalize(worlds()))[1])


def test_a_learner_behind_it_logs_the_returns_as_they_were(tmp_path):
    env = MOVecNormalize(worlds((1e3, 1e-3)))
    model = DiBSPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(96, callback=CheckpointCallback(16, str(tmp_path), save_vecnormalize=True))
    assert model.get_vec_normalize_env() is env
    assert normalization_of(model.env) is env
    pushes = [episode["r"][1] / episode["l"] for episode in model.ep_info_buffer]
    assert max(np.abs(pushes)) < 1e-2  # a square of actions times 1e-3, and not divided by its own spread
    saved = sorted(tmp_path.glob("*vecnormalize*"))
    loaded = MOVecNormalize.load(saved[-1], worlds())
    assert loaded.ret_rms.var.shape == (2,)


def test_it_may_wrap_what_is_made_by_id():
    env = as_vector_env(MOVecNormalize(make("deep-sea-treasure-v0", 2), norm_obs=False))
    assert env.objectives == ("treasure", "time")


def test_an_epsilon_is_refused():
    with pytest.raises(UserError, match="leave it out"):
        MOVecNormalize(worlds(), epsilon=1e-8)


def test_an_entry_that_hardly_varies_is_only_centred():
    """Its standard deviation may be one that float32 does not hold."""
    norm = RunningNorm((2,))
    obs = torch.zeros(4_096, 2)
    obs[0, 0] = 1e-45
    norm.absorb(obs)
    assert norm.variance[0] > 0
    assert norm(obs).isfinite().all()
