"""Reward transforms: what a learner sees against numpy, on every backend, and statistics that never see it."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from mo_gymnasium.wrappers import LinearReward
from mo_gymnasium.wrappers.vector import MOSyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from dibs_rl.envs import as_vector_env, make, transform_rewards
from dibs_rl.envs.scaling import MAPS, TransformedEnv, TransformedRewards, parse_transform
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate

SEED = 3
IN_NUMPY = {
    "1000": lambda r: 1e3 * r,
    "power4": lambda r: np.sign(r) * r**4,
    "exp": np.exp,
    "sqrt": lambda r: np.sign(r) * np.sqrt(np.abs(r)),
    "0": lambda r: 0 * r,
}


class Counter(gym.Env):
    """Rewards (k, -k) at step k of an episode of three steps; the second world's episodes have two and terminate."""

    def __init__(self, length=3, terminates=False):
        self.observation_space, self.action_space = spaces.Box(0, 9, (1,), np.float32), spaces.Discrete(2)
        self.objectives, self.reward_space = ("up", "down"), spaces.Box(-9, 9, (2,))
        self.length, self.terminates = length, terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.k += 1
        over = self.k == self.length
        reward = np.array([self.k, -self.k], np.float32)
        return np.full(1, self.k, np.float32), reward, over and self.terminates, over and not self.terminates, {}


def counters():
    return [Counter, lambda: Counter(2, terminates=True)]


def transformed(text):
    """The worlds' factories, each with the transform in the world itself."""
    return [lambda make=make: TransformedEnv(make(), text, ("up", "down")) for make in counters()]


def scalar(factories):
    return [lambda make=make: LinearReward(make()) for make in factories]


HOSTS = {
    "gym": lambda text: transform_rewards(as_vector_env(counters()), text),
    "sb3": lambda text: transform_rewards(as_vector_env(DummyVecEnv(scalar(counters()))), text),
    "under SB3's wrapper": lambda text: as_vector_env(VecFrameStack(HOSTS["gym"](text), 2)),
    "in gym's worlds": lambda text: as_vector_env(transformed(text)),
    "in SB3's worlds": lambda text: as_vector_env(DummyVecEnv(scalar(transformed(text)))),
    "in MO-Gymnasium's worlds": lambda text: as_vector_env(MOSyncVectorEnv(transformed(text))),
    "in Gymnasium's worlds": lambda text: as_vector_env(
        SyncVectorEnv(scalar(transformed(text)), autoreset_mode=AutoresetMode.SAME_STEP)
    ),
}


def play(env, steps, act=lambda env: torch.zeros(env.num_envs, dtype=torch.int64)):
    """Rewards `[steps, n, m]`, whether episodes ended `[steps, n]`, and the episodes' returns `[k, m]`."""
    env.reset_tensors(SEED)
    taken = [(step.reward.clone(), step.done.clone()) for step in (env.step_tensors(act(env)) for _ in range(steps))]
    rewards, done = (torch.stack(part).numpy() for part in zip(*taken, strict=True))
    return rewards, done, env.pop_episodes()[0].numpy()


@pytest.mark.parametrize("what", IN_NUMPY)
@pytest.mark.parametrize("backend", ["batch", "gym"])
def test_a_step_is_what_numpy_says_and_statistics_are_untransformed(backend, what):
    """A real task's steps, episodes ending in between: one column changed, everything else as without the transform."""
    torch.manual_seed(0)
    given = list(torch.rand(240, 4, 3) * 2 - 1)

    def played(transform):
        env = make("mo-hopper", num_envs=4, backend=backend, seed=SEED, transform=transform)
        queue = iter(given)
        found = play(env, len(given), lambda env: next(queue))
        assert (env.backend, env.objectives) == (backend, ("forward", "height", "energy"))
        env.close()
        return found

    plain, seen = played(""), played(f"forward={what}")
    expected = plain[0].copy()
    expected[..., 0] = IN_NUMPY[what](plain[0][..., 0].astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(seen[0], expected)
    np.testing.assert_array_equal(seen[1], plain[1])
    assert plain[1].sum() > 4
    np.testing.assert_array_equal(seen[2], plain[2])


def test_both_backends_see_the_same_bits():
    text = "forward=exp@episode,height=sqrt,energy=0.3"
    torch.manual_seed(0)
    given = list(torch.rand(100, 4, 3) * 2 - 1)
    rewards = []
    for backend in ("batch", "gym"):
        env, queue = make("mo-hopper", num_envs=4, backend=backend, transform=text), iter(given)
        rewards.append(play(env, len(given), lambda env, queue=queue: next(queue))[0])
        env.close()
    np.testing.assert_array_equal(*rewards)


@pytest.mark.parametrize("host", HOSTS)
def test_per_episode_by_hand(host):
    """World 0's episodes are truncated with returns (6, -6), world 1's terminate with (3, -3); each pays at its end, anew."""
    env = HOSTS[host]("up=power4@episode,down=2@episode")
    rewards, done, returns = play(env, 6)
    assert rewards[:, 0].tolist() == [[0, 0], [0, 0], [1296, -12]] * 2
    assert rewards[:, 1].tolist() == [[0, 0], [81, -6]] * 3
    assert done[:, 0].tolist() == [False, False, True] * 2
    assert sorted(returns.tolist()) == [[3, -3]] * 3 + [[6, -6]] * 2
    # A reset in the middle of an episode starts its return anew.
    rewards, _, _ = play(env, 1)
    assert rewards.tolist() == [[[0, 0], [0, 0]]]
    assert play(env, 3)[0][2, 0].tolist() == [1296, -12]


@pytest.mark.parametrize("host", HOSTS)
def test_what_else_an_environment_says_is_as_before(host):
    env = HOSTS[host]("up=1e3")
    assert env.objectives == ("up", "down")
    assert env.get_attr("length") == [3, 2]
    env.reset(SEED)
    for _ in range(2):
        _, rewards, dones, infos = env.step(np.zeros(2, np.int64))
    assert rewards.tolist() == [[2000, -2], [2000, -2]]  # SB3's interface shows what is learnt from
    assert dones.tolist() == [False, True]
    assert infos[1]["episode"]["r"].tolist() == [3, -3]
    assert not infos[1]["TimeLimit.truncated"]
    env.close()


def test_no_number_leaves_its_device():
    """On torch's meta device there are no numbers to look at."""
    transform = TransformedRewards(("a", "b"), parse_transform("a=exp@episode,b=0.5", ("a", "b")))
    on_meta = [torch.empty(4, 2, dtype=dtype, device="meta") for dtype in (torch.float32, torch.float64)]
    seen = transform(*on_meta, torch.empty(4, dtype=torch.bool, device="meta"))
    assert (seen.device.type, seen.dtype, seen.shape) == ("meta", torch.float32, (4, 2))


class Idle:
    def predict(self, observation, *, deterministic=False):
        return np.zeros(len(observation), np.int64), None


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("text", ["up=1e3", "up=exp@episode,down=0"])
def test_evaluation_is_untransformed(host, text):
    found = evaluate(Idle(), HOSTS[host](text), 4, gamma=0.5)
    assert sorted(found.returns.tolist()) == [[3, -3]] * 2 + [[6, -6]] * 2
    assert sorted(found.discounted.tolist()) == [[2, -2]] * 2 + [[2.75, -2.75]] * 2  # 1 + 2/2, 1 + 2/2 + 3/4
    assert found.gamma == 0.5


def test_returns_add_up_in_float64():
    """Where float32 would lose the ones beside 2^24: the return is 2^24 + 3."""

    class Uneven(Counter):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, np.array([2.0**24 if self.k == 1 else 1.0, 0.0]), terminated, truncated, info

    env = transform_rewards(as_vector_env(lambda: Uneven(4)), "up=1@episode")
    rewards, _, _ = play(env, 4)
    assert rewards[:, 0, 0].tolist() == [0, 0, 0, np.float32(2**24 + 3)]
    assert np.float32(2**24 + 3) != np.float32(2**24)


def test_what_float32_cannot_hold_is_infinite_and_statistics_stay_finite():
    env = transform_rewards(as_vector_env(counters()), "up=1e39,down=1e-60")
    rewards, _, returns = play(env, 3)
    assert np.isposinf(rewards[..., 0]).all()
    assert (rewards[..., 1] == 0).all()
    assert np.isfinite(returns).all()


def test_a_transform_prints_as_it_is_read():
    env = transform_rewards(as_vector_env(counters()), " up = 0.1@episode , down=power4")
    assert str(env.reward_transform) == "up=0.1@episode,down=power4"
    assert parse_transform(str(env.reward_transform), env.objectives) == env.reward_transform.transforms
    assert transform_rewards(env, "").reward_transform is None


@pytest.mark.parametrize("shape", MAPS)
def test_maps_increase(shape):
    values = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert (MAPS[shape](values).diff() > 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "enrgy=1e3",
            r"Unknown objective 'enrgy' in the transform 'enrgy=1e3'. Did you mean energy\? There is forward, energy\.",
        ),
        ("energy=cube", r"Unknown transform 'cube' of energy; it is a factor \(1e3\), power4, exp, sqrt, or one of these"),
        ("energy=exp@step", "Unknown transform 'exp@step' of energy"),
        ("energy=-1", "factor of energy must be a finite number of 0 or more; found -1"),
        ("energy=nan", "found nan"),
        ("energy=inf@episode", "found inf"),
        ("energy=2,energy=3", "'energy' is transformed twice"),
        ("1e3", "A transform reads like energy=1e3 or energy=exp@episode; found '1e3'"),
        ("energy=", "found 'energy='"),
    ],
)
def test_mistakes_get_one_line(text, message):
    with pytest.raises(UserError, match=message) as caught:
        make("mo-halfcheetah", num_envs=1, transform=text)
    assert "\n" not in str(caught.value)
