"""Gymnasium's vector environments, in and out: what the worlds do one by one, whatever happens when an episode ends."""

import functools
import inspect

import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
import torch
from fake_envs import PointEnv, TellingEnv, linear, mo_worker
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from mo_gymnasium.wrappers import LinearReward
from mo_gymnasium.wrappers.vector import MOAsyncVectorEnv, MORecordEpisodeStatistics, MOSyncVectorEnv, wrappers

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import GymnasiumVecEnvAdapter, GymnasiumVectorEnv, as_vector_env, make
from dibs_rl.errors import UserError
from dibs_rl.vec_env import map_obs

SEED = 3
SAME, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
FRESH = {"context": "forkserver"}  # a process with threads, as that of the tests, is not safely forked


@pytest.fixture(autouse=True)
def _mo_gymnasiums_worker(monkeypatch):
    """MO-Gymnasium 1.3.2's worker takes one argument less than Gymnasium 1.4 gives it: no `MOAsyncVectorEnv` can be made."""
    if len(inspect.signature(wrappers._mo_async_worker).parameters) == 7:
        monkeypatch.setattr(wrappers, "_mo_async_worker", mo_worker)


def staggered(**kwargs):
    """Worlds whose episodes end at different steps."""
    return [functools.partial(TellingEnv, length=length, **kwargs) for length in (3, 5, 7)]


def summed(factories):
    return [functools.partial(linear, factory) for factory in factories]


KINDS = {
    "MOSyncVectorEnv": MOSyncVectorEnv,
    "MOSyncVectorEnv, not copying": lambda fns: MOSyncVectorEnv(fns, copy=False),
    "MOAsyncVectorEnv": lambda fns: MOAsyncVectorEnv(fns, **FRESH),
    "MOAsyncVectorEnv, not copying": lambda fns: MOAsyncVectorEnv(fns, copy=False, **FRESH),
    "MOAsyncVectorEnv, same step": lambda fns: MOAsyncVectorEnv(fns, autoreset_mode=SAME, **FRESH),
    "AsyncVectorEnv": lambda fns: AsyncVectorEnv(fns, **FRESH),
    "AsyncVectorEnv, same step": lambda fns: AsyncVectorEnv(fns, autoreset_mode=SAME, **FRESH),
    "SyncVectorEnv, in infos": lambda fns: SyncVectorEnv(summed(fns)),
    "SyncVectorEnv, in infos, same step": lambda fns: SyncVectorEnv(summed(fns), autoreset_mode=SAME),
    "SyncVectorEnv, in infos, disabled": lambda fns: SyncVectorEnv(summed(fns), autoreset_mode=DISABLED),
    "AsyncVectorEnv, in infos": lambda fns: AsyncVectorEnv(summed(fns), **FRESH),
    "under a wrapper": lambda fns: gym.wrappers.vector.TransformAction(MOSyncVectorEnv(fns), lambda actions: actions),
    "ours, there and back": lambda fns: GymnasiumVectorEnv(as_vector_env(fns)),
}


class ByHand:
    """The oracle: the worlds stepped one by one, each reset as soon as its episode ends."""

    def __init__(self, factories):
        self.envs = [factory() for factory in factories]

    def reset(self, seed):
        return [env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)]

    def step(self, actions):
        rows = []
        for env, action in zip(self.envs, actions, strict=True):
            final, reward, terminated, truncated, info = env.step(action)
            obs = env.reset()[0] if terminated or truncated else final
            rows.append((obs, reward, terminated, truncated, final, info))
        return zip(*rows, strict=True)


def rows_of(observations):
    """A list of observations as arrays with a row a world."""
    return map_obs(lambda *parts: np.stack(parts), *observations)


def assert_same_obs(found, expected):
    map_obs(np.testing.assert_array_equal, found, rows_of(expected))


def assert_steps_as_by_hand(env, by_hand, steps=40):
    draw = np.random.default_rng(0)
    assert_same_obs(env.reset_tensors(SEED), by_hand.reset(SEED))
    ended = 0
    for _ in range(steps):
        if isinstance(env.action_space, spaces.Discrete):
            actions = draw.integers(env.action_space.n, size=env.num_envs)
        else:
            actions = draw.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32)
        found = env.step_tensors(torch.as_tensor(actions))
        obs, reward, terminated, truncated, final, infos = by_hand.step(actions)
        assert_same_obs(found.obs, obs)
        assert_same_obs(found.final_obs, final)
        np.testing.assert_array_equal(found.reward, np.stack(reward).astype(np.float32))
        assert found.reward.dtype == torch.float32
        np.testing.assert_array_equal(found.terminated, terminated)
        np.testing.assert_array_equal(found.truncated, truncated)
        for i in np.flatnonzero(found.done):
            own = env.own_infos[i]
            assert own.get("is_success") == infos[i].get("is_success")
            assert own.get("at") == infos[i].get("at")
        ended += int(found.done.sum())
    assert ended > steps // 4
    env.close()


@pytest.mark.parametrize("kind", KINDS)
def test_parity_with_the_worlds_stepped_by_hand(kind):
    """Same seeds: same observations, rewards, ends, last observations and infos, and no transition of a reset in between."""
    assert_steps_as_by_hand(as_vector_env(KINDS[kind](staggered())), ByHand(staggered()))


@pytest.mark.parametrize("kind", ["MOSyncVectorEnv", "MOAsyncVectorEnv, same step", "SyncVectorEnv, in infos, same step"])
@pytest.mark.parametrize("space", ["dict", "discrete"])
def test_parity_in_other_spaces(kind, space):
    factories = staggered(obs=space, action="discrete")
    assert_steps_as_by_hand(as_vector_env(KINDS[kind](factories)), ByHand(factories), steps=20)


@pytest.mark.parametrize("kind", ["MOSyncVectorEnv", "MOAsyncVectorEnv"])
def test_parity_where_episodes_terminate(kind):
    factories = [functools.partial(mo_gymnasium.make, "deep-sea-treasure-v0")] * 3
    env = as_vector_env(KINDS[kind](factories))
    assert env.objectives == ("treasure", "time")
    assert_steps_as_by_hand(env, ByHand(factories), steps=60)


def test_images_are_turned_to_channels_first():
    env = as_vector_env(MOSyncVectorEnv(staggered(obs="image")))
    plain = as_vector_env(staggered(obs="image"))
    assert env.observation_space == plain.observation_space
    assert torch.equal(env.reset_tensors(SEED), plain.reset_tensors(SEED))
    actions = torch.zeros(3, 2)
    for _ in range(6):
        found, expected = env.step_tensors(actions), plain.step_tensors(actions)
        assert torch.equal(found.obs, expected.obs)
        assert torch.equal(found.final_obs, expected.final_obs)


@pytest.mark.parametrize("kind", ["MOSyncVectorEnv", "MOAsyncVectorEnv, same step", "ours, there and back"])
def test_a_learner_learns_the_same_on_it(kind):
    """Bit for bit the parameters that the same worlds give as a list of factories."""
    small = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
    plain = DiBSPPO("MlpPolicy", staggered(), **small).learn(96)
    found = DiBSPPO("MlpPolicy", KINDS[kind](staggered()), **small).learn(96)
    for name, parameter in plain.policy.named_parameters():
        assert torch.equal(parameter, found.policy.get_parameter(name)), name
    found.env.close()


# --------------------------------------------------------------------------------------------------------- as Gymnasium's


def test_ours_as_a_gymnasium_vector_environment():
    """The contract of same-step autoreset, against the worlds by hand; statistics are the sums of the rewards."""
    envs, by_hand = GymnasiumVectorEnv(as_vector_env(staggered())), ByHand(staggered())
    assert (envs.num_envs, envs.metadata["autoreset_mode"]) == (3, SAME)
    assert envs.reward_space.shape == (2,)
    assert envs.objectives == ("reward_0", "reward_1")
    obs, infos = envs.reset(seed=SEED)
    assert infos == {}
    np.testing.assert_array_equal(obs, by_hand.reset(SEED))
    assert envs.observation_space.contains(obs)
    total = np.zeros((3, 2))
    for t in range(1, 16):
        actions = np.full((3, 2), 0.5, np.float32)
        obs, rewards, terminated, truncated, infos = envs.step(actions)
        expected = list(by_hand.step(actions))
        for array, rows in zip((obs, rewards, terminated, truncated), expected, strict=False):
            np.testing.assert_array_equal(array, np.stack(rows))
        total += rewards
        done = terminated | truncated
        assert done.tolist() == [t % 3 == 0, t % 5 == 0, t % 7 == 0]
        assert ("final_obs" in infos) == done.any()
        if done.any():
            final = expected[4]
            np.testing.assert_array_equal(infos["_final_obs"], done)
            np.testing.assert_array_equal(infos["final_info"]["_episode"], done)
            for i in np.flatnonzero(done):
                np.testing.assert_array_equal(infos["final_obs"][i], final[i])
                np.testing.assert_allclose(infos["final_info"]["episode"]["r"][i], total[i], rtol=1e-6)
                assert infos["final_info"]["episode"]["l"][i] == (3, 5, 7)[i]
            total[done] = 0
    envs.close()


def test_mo_gymnasiums_statistics_take_it():
    """A wrapper that asks for `reward_space` and arrays of vectors."""
    envs = MORecordEpisodeStatistics(GymnasiumVectorEnv(make("deep-sea-treasure-v0", 2)))
    envs.reset(seed=0)
    for _ in range(3):
        *_, infos = envs.step(np.array([1, 1]))  # down, to the first treasure
        if "episode" in infos:
            break
    assert infos["episode"]["r"].shape == (2, 2)


def test_some_worlds_alone_are_not_reset_through_it():
    envs = GymnasiumVectorEnv(as_vector_env(staggered()))
    with pytest.raises(UserError, match="reset in the step in which their episode ends"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})


def test_options_reach_all_worlds():
    class Options(PointEnv):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = float((options or {}).get("place", 0))
            return self._observe(), {}

    env = as_vector_env(MOSyncVectorEnv([Options] * 2))
    env.set_options({"place": 2.0})
    assert env.reset_tensors()[:, 0].tolist() == [2.0, 2.0]
    env.set_options([{"place": 1.0}, {"place": 2.0}])
    with pytest.raises(UserError, match="same options in every world"):
        env.reset_tensors()
    both = GymnasiumVectorEnv(as_vector_env([Options] * 2))
    assert both.reset(options={"place": 3.0})[0][:, 0].tolist() == [3.0, 3.0]


# ----------------------------------------------------------------------------------------------------- names and questions


@pytest.mark.parametrize("kind", ["MOSyncVectorEnv", "MOAsyncVectorEnv", "SyncVectorEnv, in infos", "ours, there and back"])
def test_names_are_the_worlds(kind):
    env = as_vector_env(KINDS[kind]([functools.partial(TellingEnv, objectives=("place", "effort"))] * 2))
    assert env.objectives == ("place", "effort")
    env.close()


def test_names_may_be_given():
    env = GymnasiumVecEnvAdapter(MOSyncVectorEnv([PointEnv] * 2), objectives=["a", "b"])
    assert env.objectives == ("a", "b")


@pytest.mark.parametrize("kind", ["MOSyncVectorEnv", "MOAsyncVectorEnv"])
def test_questions_are_passed_on(kind):
    env = as_vector_env(KINDS[kind](staggered()))
    assert env.get_attr("length") == [3, 5, 7]
    assert env.get_attr("length", [2, 0]) == [7, 3]
    env.set_attr("length", 4)
    env.set_attr("length", 9, [1])
    assert env.get_attr("length") == [4, 9, 4]
    assert not env.has_attr("no_such_thing")
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    assert env.env_method("has_wrapper_attr", "length") == [True] * 3  # the worlds have survived the question
    with pytest.raises(UserError, match="all worlds at once"):
        env.env_method("has_wrapper_attr", "length", indices=[1])
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    env.close()


def test_wrappers_of_worlds_in_this_process_are_seen():
    env = as_vector_env(SyncVectorEnv(summed(staggered())))
    assert env.env_is_wrapped(LinearReward) == [True] * 3
    assert env.env_is_wrapped(LinearReward, [1]) == [True]


# ----------------------------------------------------------------------------------------------------------------- errors


def cart_pole():
    return gym.make("CartPole-v1")


def without_metadata():
    envs = MOSyncVectorEnv([PointEnv])
    del envs.metadata["autoreset_mode"]
    return envs


class FromOne(PointEnv):
    def __init__(self):
        super().__init__(action="discrete")
        self.action_space = spaces.Discrete(3, start=1)


REFUSED = {
    "scalar": (lambda: SyncVectorEnv([cart_pole]), "does not say what its rewards are"),
    "resets itself late": (
        lambda: gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"),
        r"CartPoleVectorEnv resets worlds in the step after .*SAME_STEP",
    ),
    "no shared memory": (lambda: MOAsyncVectorEnv([PointEnv], shared_memory=False, **FRESH), "shared_memory=True"),
    "no mode": (without_metadata, r"set metadata\['autoreset_mode'\]"),
    "actions from 1": (lambda: MOSyncVectorEnv([FromOne]), "start at 0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind):
    given, message = REFUSED[kind]
    envs = given()
    with pytest.raises(UserError, match=message):
        as_vector_env(envs)
    envs.close()


def test_gymnasiums_own_without_linear_reward_says_what_to_do():
    """It has room for one number a world, and says so in NumPy's words only."""
    env = as_vector_env(SyncVectorEnv([PointEnv] * 2))
    env.reset_tensors()
    with pytest.raises(UserError, match="MOSyncVectorEnv or MOAsyncVectorEnv, or wrap each environment in its LinearReward"):
        env.step_tensors(torch.zeros(2, 2))


def test_a_scalar_in_the_place_of_a_promised_vector():
    class Promises(PointEnv):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, float(reward.sum()), *rest

    env = as_vector_env(SyncVectorEnv([Promises] * 2))
    env.reset_tensors()
    with pytest.raises(UserError, match=r"gives a scalar reward: its step\(\) must return rewards of shape \[2, 2\]"):
        env.step_tensors(torch.zeros(2, 2))
