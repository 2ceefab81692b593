"""`MOVecMonitor`: each objective's return is the sum of its rewards, by name, for SB3's learners as for ours."""

import functools

import numpy as np
import pytest
from fake_envs import PointEnv, point_envs
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, is_vecenv_wrapped

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import MOVecMonitor, MOVecNormalize, as_vector_env, transform_rewards
from dibs_rl.errors import UserError

NAMES = ("place", "effort")


class Named(PointEnv):
    objectives = NAMES

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "is_success": self.place > 0}


def summed(weight=(0.5, 2.0)):
    """Worlds of different lengths with a scalar reward, and the vector in their infos."""
    return DummyVecEnv(
        [lambda length=length: LinearReward(Named(length=length), weight=np.array(weight)) for length in (3, 5)]
    )


def vector():
    return as_vector_env([functools.partial(Named, length=length) for length in (3, 5)])


def play(env, steps):
    """Steps at random, and yields rewards, infos, and what each ended episode's rewards add up to."""
    draw = np.random.default_rng(0)
    env.seed(0)
    env.reset()
    total: dict = {}
    for _ in range(steps):
        _, rewards, dones, infos = env.step(draw.uniform(-1, 1, (2, 2)).astype(np.float32))
        for i, (reward, info) in enumerate(zip(rewards, infos, strict=True)):
            seen = np.atleast_1d(reward), info.get("vector_reward", reward)
            total[i] = [old + new for old, new in zip(total.get(i, (0.0, 0.0)), seen, strict=True)]
            if dones[i]:
                yield i, info, total.pop(i)


def test_scalar_learners_see_their_own_return_and_each_objectives():
    """The two returns agree: the scalar one is the weighted sum of the others, and all are sums of what was given."""
    env = MOVecMonitor(summed())
    assert env.objectives == NAMES
    ends = 0
    for i, info, (scalar, vectors) in play(env, 30):
        episode = info["episode"]
        assert episode["l"] == (3, 5)[i]
        assert episode["r"] == pytest.approx(scalar.item(), rel=1e-5)
        assert [episode["return/place"], episode["return/effort"]] == pytest.approx(vectors.tolist(), rel=1e-5)
        assert 0.5 * episode["return/place"] + 2 * episode["return/effort"] == pytest.approx(episode["r"], rel=1e-4)
        ends += 1
    assert ends == env.episode_count == 10 + 6


def test_vector_rewards_pass_and_are_counted():
    env = MOVecMonitor(vector())
    ends = list(play(env, 20))
    assert len(ends) == env.episode_count == 6 + 4
    for _, info, (scalar, _) in ends:
        assert info["episode"]["r"] == pytest.approx(scalar, rel=1e-5)
        assert info["episode"]["return/effort"] == pytest.approx(scalar[1], rel=1e-5)


def test_returns_are_counted_anew_after_a_reset():
    env = MOVecMonitor(summed())
    env.reset()
    env.step(np.ones((2, 2), np.float32))
    env.reset()
    ends = list(play(env, 3))
    assert ends[0][1]["episode"]["l"] == 3
    assert ends[0][1]["episode"]["return/effort"] == pytest.approx(ends[0][2][1][1], rel=1e-5)


@pytest.mark.parametrize(
    "env",
    [lambda: transform_rewards(vector(), "place=exp,effort=1e6"), lambda: MOVecNormalize(vector())],
    ids=["transformed", "normalised"],
)
def test_what_was_changed_below_is_counted_as_it_was(env):
    """Statistics of episodes hold the rewards before any transform or normalisation, as the environment itself counts."""
    found = [info["episode"]["r"] for _, info, _ in play(MOVecMonitor(env()), 30)]
    expected = [info["episode"]["r"] for _, info, _ in play(vector(), 30)]
    np.testing.assert_allclose(found, expected)


def test_a_file_with_named_columns(tmp_path):
    env = MOVecMonitor(summed(), str(tmp_path / "run"), info_keywords=("is_success",))
    episodes = [info["episode"] for *_, info, _ in play(env, 30)]
    env.close()
    rows = load_results(str(tmp_path))
    assert set(rows.columns) >= {"r", "l", "t", "return/place", "return/effort", "is_success"}
    assert rows["return/effort"].tolist() == pytest.approx([episode["return/effort"] for episode in episodes])
    assert rows["r"].tolist() == pytest.approx([episode["r"] for episode in episodes])
    assert rows["is_success"].tolist() == [bool(episode["is_success"]) for episode in episodes]


def test_a_file_of_vector_rewards_has_no_sum(tmp_path):
    """A sum over objectives would be in no unit."""
    env = MOVecMonitor(vector(), str(tmp_path / "run.monitor.csv"))
    episodes = [info["episode"] for *_, info, _ in play(env, 10)]
    env.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.monitor.csv"]
    rows = load_results(str(tmp_path))
    assert rows["r"].isna().all()
    assert rows["return/place"].tolist() == pytest.approx([episode["return/place"] for episode in episodes])


def test_sb3s_own_ppo_trains_behind_it():
    env = MOVecMonitor(summed())
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(128)
    assert is_vecenv_wrapped(model.get_env(), VecMonitor)
    assert all(np.ndim(episode["r"]) == 0 and "return/place" in episode for episode in model.ep_info_buffer)


def test_our_ppo_trains_behind_it(tmp_path):
    env = MOVecMonitor(vector(), str(tmp_path / "run"))
    model = DiBSPPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(128)
    assert model.objectives == NAMES
    env.close()
    rows = load_results(str(tmp_path))
    returns = np.stack([episode["r"] for episode in model.ep_info_buffer])
    np.testing.assert_allclose(rows[["return/place", "return/effort"]], returns, rtol=1e-6)


def test_names_may_be_given_and_are_found_through_wrappers():
    env = MOVecMonitor(DummyVecEnv(point_envs(2)), objectives=["a", "b"])
    assert as_vector_env(VecFrameStack(env, 2)).objectives == ("a", "b")


def test_no_vector_anywhere():
    with pytest.raises(UserError, match="does not say what its rewards are"):
        MOVecMonitor(DummyVecEnv([lambda: _cart_pole()]))
    env = MOVecMonitor(DummyVecEnv([_cart_pole]), objectives=["a"])
    env.reset()
    with pytest.raises(UserError, match="gives a scalar reward"):
        env.step(np.zeros(1, int))


def _cart_pole():
    import gymnasium as gym

    return gym.make("CartPole-v1")
