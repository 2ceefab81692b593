"""The gym backend against plain MO-Gymnasium loops: the same bits, in this process and in worker processes."""

import copy
import functools
import multiprocessing
import os
import sys
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dibs_rl.envs import GymVecEnv, make
from dibs_rl.envs.first_look import probe
from dibs_rl.vec_env import map_obs

# Worker processes cannot import a test module by name, so its classes travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEPS, SEED = 300, 11
# A short time limit where 300 steps would not meet one: resets of the physics are to be compared as well.
CASES = {
    "mo-halfcheetah-v5": {"max_episode_steps": 70},
    "mo-hopper-v5": {},
    "mo-reacher-v5": {},
    "mo-lunar-lander-continuous-v3": {},
    "minecart-v0": {"max_episode_steps": 120},
    "deep-sea-treasure-v0": {},
    "breakable-bottles-v0": {},
    "fruit-tree-v0": {},
}
ENDS = {  # how the episodes of a recording end
    "mo-halfcheetah-v5": ["truncated"],
    "mo-hopper-v5": ["terminated"],
    "mo-reacher-v5": ["truncated"],
    "mo-lunar-lander-continuous-v3": ["terminated"],
    "minecart-v0": ["truncated"],
    "deep-sea-treasure-v0": ["terminated", "truncated"],
    "breakable-bottles-v0": ["terminated", "truncated"],
    "fruit-tree-v0": ["terminated"],
}
IN_WORKERS = ("mo-hopper-v5", "breakable-bottles-v0")
WORLDS = 5  # an odd number, so that two workers get unequal shares


class Transition(NamedTuple):
    """What one step of one world gives."""

    obs: Any
    reward: Any
    terminated: bool
    truncated: bool
    final_obs: Any


class Recording(NamedTuple):
    """A run of several worlds: first observations `[n]`, actions `[T, n, ...]` and transitions `[T][n]`."""

    first: list
    actions: np.ndarray
    transitions: list[list[Transition]]


def random_actions(space, steps, worlds, seed=0):
    draw = np.random.default_rng(seed)
    if isinstance(space, spaces.Discrete):
        return draw.integers(space.n, size=(steps, worlds))
    return draw.uniform(space.low, space.high, (steps, worlds, *space.shape)).astype(space.dtype)


def plain_step(env, action):
    """A step, and where an episode ends, the reset that follows it."""
    last, reward, terminated, truncated, _ = env.step(action)
    last = copy.deepcopy(last)  # some environments write into one array over and over
    obs = env.reset()[0] if terminated or truncated else last
    return Transition(*copy.deepcopy((obs, reward, terminated, truncated, last)))


@functools.cache
def recording(env_id):
    """The oracle: MO-Gymnasium's own environments, stepped one by one."""
    envs = [mo_gymnasium.make(env_id, **CASES[env_id]) for _ in range(WORLDS)]
    np.random.seed(SEED)  # minecart draws its ore from numpy's global generator
    first = [copy.deepcopy(env.reset(seed=SEED + i)[0]) for i, env in enumerate(envs)]
    actions = random_actions(envs[0].action_space, STEPS, WORLDS)
    transitions = [[plain_step(env, action) for env, action in zip(envs, row, strict=True)] for row in actions]
    for env in envs:
        env.close()
    return Recording(first, actions, transitions)


def started(env_id, workers=0):
    """The backend's environment, and its first observations."""
    env = make(env_id, WORLDS, backend="gym", seed=SEED, workers=workers, **CASES[env_id])
    np.random.seed(SEED)
    return env, env.reset_tensors()


def assert_same_bits(found, expected):
    """Tensors `[n, ...]` (or a dictionary of such) hold exactly what a list of n holds."""
    if isinstance(found, dict):
        for key, part in found.items():
            assert_same_bits(part, [obs[key] for obs in expected])
    else:
        np.testing.assert_array_equal(np.asarray(found), np.stack([np.asarray(part) for part in expected]))


@pytest.mark.parametrize(("env_id", "workers"), [*((env_id, 0) for env_id in CASES), *((env_id, 2) for env_id in IN_WORKERS)])
def test_same_bits_as_a_plain_loop(env_id, workers):
    plain = recording(env_id)
    env, first = started(env_id, workers)
    assert_same_bits(first, plain.first)
    for actions, expected in zip(plain.actions, plain.transitions, strict=True):
        step = env.step_tensors(torch.as_tensor(actions))
        for field in Transition._fields:
            assert_same_bits(getattr(step, field), [getattr(world, field) for world in expected])
    env.close()


@pytest.mark.parametrize("env_id", CASES)
def test_the_recordings_hold_the_ends_that_they_are_for(env_id):
    # Without this, the comparison above could go blind to resets and say nothing.
    ends = {kind: any(getattr(w, kind) for row in recording(env_id).transitions for w in row) for kind in ENDS[env_id]}
    assert all(ends.values())


@pytest.mark.parametrize("env_id", CASES)
def test_episode_statistics_are_sums_by_hand(env_id):
    plain = recording(env_id)
    env, _ = started(env_id)
    expected, running = [], [[] for _ in range(WORLDS)]
    for actions, row in zip(plain.actions, plain.transitions, strict=True):
        env.step_tensors(torch.as_tensor(actions))
        for rewards, world in zip(running, row, strict=True):
            rewards.append(np.asarray(world.reward, dtype=np.float64))
            if world.terminated or world.truncated:
                expected.append((sum(rewards), len(rewards)))
                rewards.clear()
    returns, lengths = env.pop_episodes()
    assert_same_bits(returns, [total for total, _ in expected])
    assert lengths.tolist() == [length for _, length in expected]
    env.close()


@pytest.mark.parametrize("env_id", ["mo-reacher-v5", "deep-sea-treasure-v0", "breakable-bottles-v0"])
def test_numpy_interface_is_a_view_of_the_same_step(env_id):
    tensors, arrays = (make(env_id, WORLDS, backend="gym", seed=SEED) for _ in range(2))
    map_obs(np.testing.assert_array_equal, arrays.reset(), tensors.reset_tensors())
    for actions in recording(env_id).actions:
        obs, rewards, dones, infos = arrays.step(actions)
        step = tensors.step_tensors(torch.as_tensor(actions))
        map_obs(np.testing.assert_array_equal, obs, step.obs)
        np.testing.assert_array_equal(rewards, step.reward)
        np.testing.assert_array_equal(dones, step.done)
        assert_infos_say_the_same(infos, step)
    tensors.close()
    arrays.close()


def assert_infos_say_the_same(infos, step):
    for i, info in enumerate(infos):
        assert ("episode" in info) == ("terminal_observation" in info) == bool(step.done[i])
        if step.done[i]:
            final_obs = map_obs(lambda part, i=i: part[i], step.final_obs)
            map_obs(np.testing.assert_array_equal, info["terminal_observation"], final_obs)
            assert info["TimeLimit.truncated"] == bool(step.truncated[i] and not step.terminated[i])


class Ticker(gym.Env):
    """Counts its steps, so that everything about it is known by hand.

    Observation: [a draw made at reset, steps so far]. Reward: [1, 10 x steps]. Two actions break it where it is armed; the
    one that is probed, with an action at random, is not.
    """

    GO, FAIL, DIE = range(3)
    objectives = ("one", "ten")

    def __init__(self, length=100, limit=100, armed=False):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Discrete(3)
        self.length, self.limit, self.armed, self.closed = length, limit, armed, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.draw = self.np_random.random()
        self.ticks = (options or {}).get("start", 0)
        return self.seen(), {}

    def step(self, action):
        if self.armed and action == self.FAIL:
            raise ValueError("the clock fell off the table")
        if self.armed and action == self.DIE:
            os._exit(1)
        self.ticks += 1
        reward = np.array([1.0, 10.0 * self.ticks])
        return self.seen(), reward, self.ticks >= self.length, self.ticks >= self.limit, {"note": f"tick {self.ticks}"}

    def seen(self):
        return np.array([self.draw, self.ticks])

    def add(self, number, *, times=1):
        return self.length + number * times

    def lottery(self):
        """A draw from the generator that some environments use though it has nothing to do with their seed."""
        return np.random.random()

    def render(self):
        return np.full((4, 5, 3), self.length, np.uint8)

    def close(self):
        self.closed = True


ENDED, CUT_OFF, BOTH = (2, 100), (100, 3), (4, 4)  # (length, limit) of three worlds
GO = torch.zeros(3, dtype=torch.int64)


def tickers(*kinds, workers=0, seed=None):
    factories = [functools.partial(Ticker, *kind, armed=True) for kind in kinds]
    return GymVecEnv(factories, probe(Ticker()), workers=workers, seed=seed)


def acting(**actions):
    """Every world goes on but those named: `acting(world_1=Ticker.FAIL)`."""
    return torch.tensor([actions.get(f"world_{i}", Ticker.GO) for i in range(3)])


@pytest.fixture(scope="module")
def in_process():
    env = tickers(ENDED, CUT_OFF, BOTH)
    yield env
    env.close()


@pytest.fixture(scope="module")
def in_workers():
    env = tickers(ENDED, CUT_OFF, BOTH, workers=2)
    yield env
    env.close()


@pytest.fixture(params=["in_process", "in_workers"])
def hosted(request):
    return request.getfixturevalue(request.param)


def test_an_episodes_end_and_the_next_ones_start_share_a_step(hosted):
    hosted.reset_tensors(SEED)
    obs_ticks, final_ticks, rewards = [], [], []
    for _ in range(4):
        step = hosted.step_tensors(GO)
        obs_ticks.append(step.obs[:, 1].tolist())
        final_ticks.append(step.final_obs[:, 1].tolist())
        rewards.append(step.reward[:, 1].tolist())
    assert obs_ticks == [[1, 1, 1], [0, 2, 2], [1, 0, 3], [0, 1, 0]]
    assert final_ticks == [[1, 1, 1], [2, 2, 2], [1, 3, 3], [2, 1, 4]]
    assert rewards == [[10, 10, 10], [20, 20, 20], [10, 30, 30], [20, 10, 40]]  # no zero: no reset in the data


def test_both_ways_to_end_are_told_apart(hosted):
    hosted.reset_tensors(SEED)
    steps = [hosted.step_tensors(GO) for _ in range(4)]
    assert steps[-1].terminated.tolist() == [True, False, True]
    assert steps[-1].truncated.tolist() == [False, False, True]
    assert steps[-1].done.tolist() == [True, False, True]


def test_infos_by_hand(hosted):
    hosted.reset(SEED)
    truncated, episodes, notes = {}, {}, {}
    for t in range(1, 5):
        infos = hosted.step(GO.numpy())[-1]
        for i, info in enumerate(infos):
            if info:
                truncated[t, i] = info["TimeLimit.truncated"]
                episodes[t, i] = (*info["episode"]["r"].tolist(), info["episode"]["l"])
                notes[t, i] = info["note"]
    # A world that a limit and its own rules end at once has ended: nothing is to be bootstrapped.
    assert truncated == {(2, 0): False, (3, 1): True, (4, 0): False, (4, 2): False}
    assert episodes == {(2, 0): (2, 30, 2), (3, 1): (3, 60, 3), (4, 0): (2, 30, 2), (4, 2): (4, 100, 4)}
    assert notes == {(2, 0): "tick 2", (3, 1): "tick 3", (4, 0): "tick 2", (4, 2): "tick 4"}


def test_popped_episodes_are_gone():
    env = tickers(ENDED, CUT_OFF, BOTH)
    env.reset_tensors()
    assert [tuple(part.shape) for part in env.pop_episodes()] == [(0, 2), (0,)]
    for _ in range(3):
        env.step_tensors(GO)
    returns, lengths = env.pop_episodes()
    assert returns.tolist() == [[2, 30], [3, 60]]
    assert lengths.tolist() == [2, 3]
    env.step_tensors(GO)
    returns, lengths = env.pop_episodes()
    assert returns.tolist() == [[2, 30], [4, 100]]
    assert lengths.tolist() == [2, 4]


def test_a_reset_drops_the_statistics_of_unfinished_and_unread_episodes():
    env = tickers(ENDED, CUT_OFF, BOTH)
    env.reset_tensors()
    for _ in range(3):
        env.step_tensors(GO)
    env.reset_tensors()
    assert len(env.pop_episodes()[0]) == 0
    env.step_tensors(GO)
    env.step_tensors(GO)
    assert env.pop_episodes()[0].tolist() == [[2, 30]]


def test_numpy_arrays_outlive_the_next_step(hosted):
    kept = hosted.reset(SEED)
    obs, rewards, dones, _ = hosted.step(GO.numpy())
    copies = [array.copy() for array in (kept, obs, rewards, dones)]
    hosted.step(GO.numpy())
    for array, copied in zip((kept, obs, rewards, dones), copies, strict=True):
        np.testing.assert_array_equal(array, copied)


def test_get_attr(hosted):
    assert hosted.get_attr("length") == [2, 100, 4]
    assert hosted.get_attr("length", 1) == [100]
    assert hosted.get_attr("length", [2, 0]) == [4, 2]


def test_has_attr(hosted):
    # SB3 asks with has_attr, which understands an AttributeError and nothing else.
    assert hosted.has_attr("length")
    assert not hosted.has_attr("no_such_thing")


def test_set_attr(hosted):
    hosted.set_attr("tag", "all")
    hosted.set_attr("tag", "some", [0, 2])
    assert hosted.get_attr("tag") == ["some", "all", "some"]


def test_env_method(hosted):
    assert hosted.env_method("add", 5) == [7, 105, 9]
    assert hosted.env_method("add", 5, times=2, indices=[2, 1]) == [14, 110]


def test_worlds_are_counted_from_the_end_too(hosted):
    """As SB3's own lists are; a world that is not there is an error."""
    assert hosted.get_attr("length", [-1, 0]) == [4, 2]
    assert hosted.env_method("add", 5, indices=-1) == [9]
    hosted.set_attr("mark", "last", [-1])
    assert hosted.get_attr("mark", [2]) == ["last"]
    with pytest.raises(IndexError):
        hosted.get_attr("length", [3])


def test_env_is_wrapped(hosted):
    assert hosted.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3


def test_get_images(hosted):
    assert [image[0, 0, 0] for image in hosted.get_images()] == [2, 100, 4]


def test_wrappers_are_found():
    env = make("mo-reacher-v5", 2, backend="gym")
    assert env.env_is_wrapped(gym.wrappers.TimeLimit) == [True, True]
    assert env.env_is_wrapped(gym.wrappers.RescaleAction, [1]) == [False]
    env.close()


def draws(obs):
    return obs[:, 0].tolist()


def plain_draws(seed, resets):
    """The draws of plain environments, seeded at their first reset only."""
    envs = [Ticker() for _ in range(3)]
    found = [[env.reset(seed=seed + i)[0][0] for i, env in enumerate(envs)]]
    return found + [[env.reset()[0][0] for env in envs] for _ in range(resets - 1)]


def test_a_seed_is_used_once_and_then_each_world_goes_on(hosted):
    first, second, third = plain_draws(SEED, 3)
    assert draws(hosted.reset_tensors(SEED)) == first
    hosted.step_tensors(GO)
    assert draws(hosted.reset_tensors()) == second
    assert draws(hosted.reset_tensors()) == third
    assert draws(hosted.reset_tensors(SEED)) == first


def test_a_seed_at_construction_is_the_first_resets():
    first, second = plain_draws(SEED, 2)
    env = tickers(ENDED, CUT_OFF, BOTH, seed=SEED)
    assert draws(env.reset_tensors()) == first
    assert draws(env.reset_tensors()) == second


def test_seed_of_sb3_is_the_next_resets(hosted):
    assert hosted.seed(SEED) == [SEED, SEED + 1, SEED + 2]
    assert draws(hosted.reset_tensors()) == plain_draws(SEED, 1)[0]


def test_without_a_seed_worlds_and_environments_differ():
    drawn = [draw for _ in range(2) for draw in draws(tickers(ENDED, CUT_OFF, BOTH).reset_tensors())]
    assert len(set(drawn)) == 6


def test_a_seed_reaches_numpys_global_generator_in_workers(in_workers):
    # Minecart draws its ore from it. In this process it is the user's to seed (SB3's learners do); in a worker nobody can.
    drawn = []
    for _ in range(2):
        in_workers.reset_tensors(SEED)
        drawn.append(in_workers.env_method("lottery"))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


def test_options_reach_their_world_once(hosted):
    hosted.set_options([{"start": 1}, {}, {"start": 2}])
    assert hosted.reset_tensors(SEED)[:, 1].tolist() == [1, 0, 2]
    assert hosted.reset_tensors()[:, 1].tolist() == [0, 0, 0]


def test_an_exception_in_this_process_is_raised_as_it_is():
    env = tickers(ENDED, CUT_OFF, BOTH)
    env.reset_tensors()
    with pytest.raises(ValueError, match="the clock fell off the table"):
        env.step_tensors(acting(world_1=Ticker.FAIL))


def test_an_exception_in_a_worker_reaches_the_parent_with_its_message():
    env = tickers(ENDED, CUT_OFF, BOTH, workers=1)
    env.reset_tensors()
    with pytest.raises(RuntimeError, match=r"ValueError.*the clock fell off the table"):
        env.step_tensors(acting(world_1=Ticker.FAIL))
    env.close()


def test_after_an_exception_calls_get_their_own_answers():
    env = tickers(ENDED, CUT_OFF, BOTH, workers=2)
    env.reset_tensors()
    with pytest.raises(RuntimeError, match="the clock fell off the table"):
        env.step_tensors(acting(world_0=Ticker.FAIL))  # world 1's worker has stepped and answered as well
    assert env.get_attr("length") == [2, 100, 4]
    env.close()


def test_a_dead_worker_is_reported():
    env = tickers(ENDED, CUT_OFF, BOTH, workers=1)
    env.reset_tensors()
    with pytest.raises(RuntimeError, match="worker process of the environments died"):
        env.step_tensors(acting(world_1=Ticker.DIE))
    env.close()


def no_such_file():
    raise FileNotFoundError("model.xml is not there")


def test_an_exception_while_a_worker_makes_its_environments_reaches_the_parent():
    with pytest.raises(RuntimeError, match=r"model\.xml is not there"):
        GymVecEnv([no_such_file], probe(Ticker()), workers=1)


def test_close_ends_the_processes_and_may_be_repeated():
    before = set(multiprocessing.active_children())
    env = tickers(ENDED, CUT_OFF, workers=3)
    processes = set(multiprocessing.active_children()) - before
    assert len(processes) == 2  # a process without a world would be one for nothing
    env.close()
    env.close()
    assert not any(process.is_alive() for process in processes)


def test_close_closes_the_environments():
    env = tickers(ENDED, CUT_OFF, BOTH)
    worlds = env.get_attr("unwrapped")
    env.close()
    assert all(world.closed for world in worlds)


class Echo(gym.Env):
    """Gives back the action that it was stepped with."""

    def __init__(self, action_space):
        self.observation_space, self.action_space = spaces.Box(0, 1, (1,)), action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.heard = action
        return np.zeros(1, np.float32), np.zeros(2), False, False, {}


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (spaces.Discrete(5), torch.tensor([3, 4])),
        (spaces.Box(-1, 1, (2,), np.float32), torch.tensor([[0.1, 0.2], [0.3, 0.4]])),
        (spaces.MultiDiscrete([3, 4]), torch.tensor([[2, 3], [0, 1]])),
        (spaces.MultiBinary(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])),  # SB3's policies say it in floats
    ],
    ids=["discrete", "box", "multidiscrete", "multibinary"],
)
def test_actions_reach_their_worlds_in_their_spaces_type(space, given):
    env = GymVecEnv([functools.partial(Echo, space)] * 2, probe(Echo(space)))
    env.reset_tensors()
    env.step_tensors(given)
    heard = env.get_attr("heard")
    assert all(space.contains(action) for action in heard)
    np.testing.assert_array_equal(heard, given)
    env.step_tensors(torch.zeros_like(given))
    np.testing.assert_array_equal(heard, given)  # what a world was given is its own to keep


class Camera(gym.Env):
    """Shows pictures, height x width x channels, in which each number is another one."""

    def __init__(self, in_dict=False):
        image = spaces.Box(0, 255, (5, 6, 3), np.uint8)
        self.in_dict = in_dict
        self.observation_space = spaces.Dict({"image": image, "ticks": spaces.Discrete(9)}) if in_dict else image
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.ticks = 0
        return self.seen(), {}

    def step(self, action):
        self.ticks += 1
        return self.seen(), np.ones(2), self.ticks == 3, False, {}

    def seen(self):
        image = (np.arange(5 * 6 * 3, dtype=np.uint8) + self.ticks).reshape(5, 6, 3)
        return {"image": image, "ticks": self.ticks} if self.in_dict else image


@pytest.mark.parametrize("in_dict", [False, True], ids=["image", "dictionary"])
def test_images_come_channels_first(in_dict):
    factory = functools.partial(Camera, in_dict)
    env = GymVecEnv([factory] * 2, probe(factory()))

    def image(thing):
        return thing["image"] if in_dict else thing

    def turned(ticks):
        return (torch.arange(5 * 6 * 3, dtype=torch.uint8) + ticks).reshape(5, 6, 3).permute(2, 0, 1).expand(2, -1, -1, -1)

    assert image(env.observation_space) == spaces.Box(0, 255, (3, 5, 6), np.uint8)
    assert torch.equal(image(env.reset_tensors()), turned(0))
    for ticks in (1, 2):
        assert torch.equal(image(env.step_tensors(GO[:2]).obs), turned(ticks))
    step = env.step_tensors(GO[:2])
    assert torch.equal(image(step.final_obs), turned(3))
    assert torch.equal(image(step.obs), turned(0))
    assert image(step.obs).dtype == torch.uint8
