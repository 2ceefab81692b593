"""Whatever a user has becomes a vector-reward environment, or an error that says how to mend it."""

import functools

import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from dibs_rl.envs import GymVecEnv, SB3VecEnvAdapter, as_vector_env, make
from dibs_rl.errors import UserError
from dibs_rl.vec_env import VectorRewardVecEnv, map_obs

SEED = 5


def reacher():
    return mo_gymnasium.make("mo-reacher-v5")


def summed(env_id):
    """A scalar environment that keeps the vector in its info, as SB3's vector environments need it."""
    return LinearReward(mo_gymnasium.make(env_id))


def summing_venv(env_id, worlds):
    return DummyVecEnv([functools.partial(summed, env_id)] * worlds)


class Meter(gym.Env):
    """An environment of a user's own; what it says and returns is up to the test. Episodes are cut off after three steps."""

    def __init__(self, rewards=(1.0, 2.0), action_space=None, **attributes):
        self.observation_space = spaces.Box(0, 9, (2,), np.float32)
        self.action_space = action_space or spaces.Discrete(2)
        self.rewards, self.closed = rewards, False
        for name, value in attributes.items():
            setattr(self, name, value)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.ticks = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.ticks += 1
        reward = self.rewards if np.ndim(self.rewards) == 0 else np.array(self.rewards)
        return np.full(2, self.ticks, np.float32), reward, False, self.ticks == 3, {}

    def close(self):
        self.closed = True


class MatrixVecEnv(VecEnv):
    """An SB3 `VecEnv` of a user's own that returns rewards `[n, m]`: [steps so far, number of the world]."""

    LENGTH = 3
    render_mode = None

    def __init__(self, worlds, truncates=True):
        self.reward_space = spaces.Box(-9, 9, (2,))
        self.truncates = truncates
        super().__init__(worlds, spaces.Box(0, 9, (1,)), spaces.Discrete(2))

    def reset(self):
        self.ticks = 0
        return self.seen()

    def step_async(self, actions):
        assert actions.shape == (self.num_envs,)

    def step_wait(self):
        self.ticks += 1
        rewards = np.stack([np.full(self.num_envs, self.ticks), np.arange(self.num_envs)], axis=1)
        done = self.ticks == self.LENGTH
        infos = [{} for _ in range(self.num_envs)]
        if done:
            infos = [{"terminal_observation": last, "TimeLimit.truncated": self.truncates} for last in self.seen()]
            self.ticks = 0
        return self.seen(), rewards, np.full(self.num_envs, done), infos

    def seen(self):
        return np.full((self.num_envs, 1), self.ticks, np.float32)

    def get_attr(self, attr_name, indices=None):
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name, value, indices=None):
        setattr(self, attr_name, value)

    def env_method(self, method_name, *args, indices=None, **kwargs):
        return [getattr(self, method_name)(*args, **kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False for _ in self._get_indices(indices)]

    def close(self):
        pass


TARGETS = ("target_1", "target_2", "target_3", "target_4")
ACCEPTED = {
    "id": (lambda: "mo-reacher-v5", 1, TARGETS),
    "bare name": (lambda: "mo-reacher", 1, TARGETS),
    "environment": (reacher, 1, TARGETS),
    "environment with the vector in its info": (lambda: summed("mo-reacher-v5"), 1, TARGETS),
    "factory": (lambda: reacher, 1, TARGETS),
    "class": (lambda: Meter, 1, ("reward_0", "reward_1")),
    "list of factories": (lambda: [reacher] * 3, 3, TARGETS),
    "tuple of factories": (lambda: (reacher, reacher), 2, TARGETS),
    "SB3 VecEnv with the vector in its infos": (lambda: summing_venv("mo-reacher-v5", 3), 3, TARGETS),
    "the same under a wrapper": (lambda: VecMonitor(summing_venv("mo-reacher-v5", 3)), 3, TARGETS),
    "SB3 VecEnv with a matrix of rewards": (lambda: MatrixVecEnv(3), 3, ("reward_0", "reward_1")),
    "our own under SB3's wrapper": (lambda: VecFrameStack(make("mo-reacher-v5", 3), 2), 3, TARGETS),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_is_accepted(kind):
    given, worlds, objectives = ACCEPTED[kind]
    env = as_vector_env(given())
    assert isinstance(env, VectorRewardVecEnv)
    assert (env.num_envs, env.objectives, env.reward_dim) == (worlds, objectives, len(objectives))
    obs = env.reset_tensors(SEED)
    assert obs.shape == (worlds, *env.observation_space.shape)
    step = env.step_tensors(torch.zeros(worlds, dtype=torch.int64))
    assert step.obs.shape == step.final_obs.shape == obs.shape
    assert step.reward.shape == (worlds, len(objectives))
    assert step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    env.close()


def test_our_own_is_given_back_as_it_is():
    env = make("mo-reacher-v5", 2)
    assert as_vector_env(env) is env


def test_an_environment_is_the_very_one_that_was_given():
    given = Meter(objectives=("a", "b"))
    first_step(given)
    assert given.ticks == 1


@pytest.mark.parametrize(
    "given",
    ["mo-reacher-v5", reacher, lambda: reacher, lambda: [reacher] * 3, lambda: summing_venv("mo-reacher-v5", 3)],
    ids=["id", "environment", "factory", "list", "SB3 VecEnv"],
)
def test_seeds_are_the_same_by_every_way_in(given):
    env = as_vector_env(given() if callable(given) else given)
    plain = [reacher().reset(seed=SEED + i)[0] for i in range(env.num_envs)]
    np.testing.assert_array_equal(env.reset_tensors(SEED), plain)
    env.seed(SEED)  # as SB3's learners do
    np.testing.assert_array_equal(env.reset_tensors(), plain)


def step_both(ours, theirs, steps=250):
    """Steps of two environments with the same random actions."""
    draw = np.random.default_rng(0)
    space = ours.action_space
    for _ in range(steps):
        if isinstance(space, spaces.Discrete):
            actions = draw.integers(space.n, size=ours.num_envs)
        else:
            actions = draw.uniform(space.low, space.high, (ours.num_envs, *space.shape)).astype(np.float32)
        yield ours.step_tensors(torch.as_tensor(actions)), theirs.step_tensors(torch.as_tensor(actions))


def assert_equal_arrays(found, expected):
    map_obs(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "env_id", ["mo-hopper-v5", "mo-reacher-v5", "deep-sea-treasure-v0", "breakable-bottles-v0", "fishwood-v0"]
)
def test_the_adapter_gives_the_gym_backends_bits(env_id):
    adapter, gym_backend = as_vector_env(summing_venv(env_id, 3)), make(env_id, 3, backend="gym")
    assert isinstance(adapter, SB3VecEnvAdapter)
    assert_equal_arrays(adapter.reset_tensors(SEED), gym_backend.reset_tensors(SEED))
    ended = 0
    for found, expected in step_both(adapter, gym_backend):
        assert_equal_arrays(found.obs, expected.obs)
        assert_equal_arrays(found.final_obs, expected.final_obs)
        np.testing.assert_array_equal(found.reward, expected.reward)
        np.testing.assert_array_equal(found.terminated, expected.terminated)
        # SB3 does not tell an end that a limit shares with the task's own rules; it is an end either way.
        np.testing.assert_array_equal(found.truncated, expected.truncated & ~expected.terminated)
        ended += int(found.done.sum())
    assert ended > 0
    assert_equal_arrays(adapter.pop_episodes()[0], gym_backend.pop_episodes()[0])


def test_the_adapters_numpy_interface_is_a_view_of_the_same_step():
    arrays, tensors = (as_vector_env(summing_venv("mo-reacher-v5", 3)) for _ in range(2))
    np.testing.assert_array_equal(arrays.reset(SEED), tensors.reset_tensors(SEED))
    for _ in range(50):  # the time limit
        actions = np.array([0, 4, 8])
        obs, rewards, dones, infos = arrays.step(actions)
        step = tensors.step_tensors(torch.as_tensor(actions))
        np.testing.assert_array_equal(obs, step.obs)
        np.testing.assert_array_equal(rewards, step.reward)
        np.testing.assert_array_equal(dones, step.done)
        for info, reward in zip(infos, step.reward, strict=True):
            np.testing.assert_array_equal(info["vector_reward"], reward)  # the wrapped environment's own info is kept
    assert dones.all()
    for info, last, total in zip(infos, step.final_obs, tensors.pop_episodes()[0], strict=True):
        assert info["TimeLimit.truncated"]
        np.testing.assert_array_equal(info["terminal_observation"], last)
        np.testing.assert_array_equal(info["episode"]["r"], total)
        assert info["episode"]["l"] == 50


@pytest.mark.parametrize("truncates", [True, False])
def test_a_matrix_of_rewards_by_hand(truncates):
    env = as_vector_env(MatrixVecEnv(2, truncates))
    assert env.reset_tensors().tolist() == [[0], [0]]
    steps = [env.step_tensors(torch.zeros(2, dtype=torch.int64)) for _ in range(4)]
    assert [step.reward.tolist() for step in steps] == [[[k, 0], [k, 1]] for k in (1, 2, 3, 1)]
    assert [step.obs.flatten().tolist() for step in steps] == [[1, 1], [2, 2], [0, 0], [1, 1]]
    assert [step.final_obs.flatten().tolist() for step in steps] == [[1, 1], [2, 2], [3, 3], [1, 1]]
    assert [step.truncated.all().item() for step in steps] == [False, False, truncates, False]
    assert [step.terminated.all().item() for step in steps] == [False, False, not truncates, False]
    returns, lengths = env.pop_episodes()
    assert returns.tolist() == [[6, 0], [6, 3]]
    assert lengths.tolist() == [3, 3]


def test_our_own_under_sb3s_frame_stack():
    stacked, plain = as_vector_env(VecFrameStack(make("mo-reacher-v5", 3, seed=SEED), 2)), make("mo-reacher-v5", 3)
    size = plain.observation_space.shape[0]
    first = plain.reset_tensors(SEED).clone()
    assert torch.equal(stacked.reset_tensors()[:, size:], first)
    before = first
    for found, expected in step_both(stacked, plain, steps=120):
        np.testing.assert_array_equal(found.reward, expected.reward)
        np.testing.assert_array_equal(found.truncated, expected.truncated)
        np.testing.assert_array_equal(found.terminated, expected.terminated)
        assert torch.equal(found.obs[:, size:], expected.obs)
        assert torch.equal(found.final_obs, torch.cat([before, expected.final_obs], dim=1))
        before = expected.obs.clone()


WRAPPED = {
    "our own under a wrapper": lambda: VecFrameStack(make("mo-reacher-v5", 3), 2),
    "SB3's under a wrapper": lambda: VecFrameStack(summing_venv("mo-reacher-v5", 3), 2),
}


def newest_frame(obs):
    return obs[:, obs.shape[1] // 2 :]


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_seed_reaches_the_worlds_through_a_wrapper(kind):
    env = as_vector_env(WRAPPED[kind]())
    plain = [reacher().reset(seed=SEED + i)[0] for i in range(3)]
    np.testing.assert_array_equal(newest_frame(env.reset_tensors(SEED)), plain)
    env.seed(SEED)
    np.testing.assert_array_equal(newest_frame(env.reset_tensors()), plain)


def test_a_seed_given_before_wrapping_is_kept():
    venv = summing_venv("mo-reacher-v5", 3)
    venv.seed(SEED)
    plain = [reacher().reset(seed=SEED + i)[0] for i in range(3)]
    np.testing.assert_array_equal(as_vector_env(venv).reset_tensors(), plain)


class Options(Meter):
    """Shows the option that it was reset with."""

    reward_space = spaces.Box(0, 9, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(2, (options or {}).get("level", 0), np.float32), {}


@pytest.mark.parametrize("wrap", [lambda venv: venv, lambda venv: VecFrameStack(venv, 2)], ids=["bare", "wrapped"])
def test_options_reach_the_worlds_through_the_adapter(wrap):
    env = as_vector_env(wrap(DummyVecEnv([Options] * 2)))
    env.set_options([{"level": 1}, {"level": 2}])
    assert env.reset_tensors()[:, -1].tolist() == [1, 2]
    assert env.reset_tensors()[:, -1].tolist() == [0, 0]


def cart_pole():
    return gym.make("CartPole-v1")


SCALAR = {
    "id": lambda: "CartPole-v1",
    "environment": cart_pole,
    "factory": lambda: cart_pole,
    "list of factories": lambda: [cart_pole] * 2,
    "SB3 VecEnv": lambda: DummyVecEnv([cart_pole] * 2),
    "SB3 VecEnv under a wrapper": lambda: VecMonitor(DummyVecEnv([cart_pole] * 2)),
    "SB3 VecEnv that declares a number": lambda: DummyVecEnv([lambda: Meter(1.0, reward_space=spaces.Box(0, 1, ()))]),
}


def assert_one_helpful_line(caught):
    assert "\n" not in str(caught.value)
    assert "vector_reward" in str(caught.value)


@pytest.mark.parametrize("kind", SCALAR)
def test_scalar_rewards_are_refused_with_the_way_to_mend_it(kind):
    with pytest.raises(UserError) as caught:
        as_vector_env(SCALAR[kind]())
    assert_one_helpful_line(caught)


def first_step(given):
    """From what a user has to the first step of it."""
    env = as_vector_env(given)
    env.reset_tensors()
    return env.step_tensors(torch.zeros(env.num_envs, dtype=torch.int64))


@pytest.mark.parametrize("attributes", [{"objectives": ("a", "b")}, {"reward_space": spaces.Box(-9, 9, (2,))}])
def test_an_sb3_vecenv_that_promises_a_vector_and_gives_a_number_is_refused_at_its_first_step(attributes):
    with pytest.raises(UserError) as caught:
        first_step(DummyVecEnv([functools.partial(Meter, 1.0, **attributes)]))
    assert_one_helpful_line(caught)


def test_sb3s_dummy_vec_env_without_linear_reward_is_refused_with_the_way_to_mend_it():
    # It has room for one number a world, and says so in NumPy's words only.
    with pytest.raises(UserError) as caught:
        first_step(DummyVecEnv([reacher] * 2))
    assert_one_helpful_line(caught)


FROM_ONE = spaces.Discrete(2, start=1)


def test_actions_that_start_at_one_are_refused():
    with pytest.raises(UserError, match="numbers its actions from 1"):
        as_vector_env(Meter(action_space=FROM_ONE))


def test_actions_that_start_at_one_are_refused_in_an_sb3_vecenv():
    factory = functools.partial(Meter, action_space=FROM_ONE, reward_space=spaces.Box(-9, 9, (2,)))
    with pytest.raises(UserError, match="numbers its actions from"):
        as_vector_env(DummyVecEnv([factory]))


PAIR = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)])


@pytest.mark.parametrize(
    "changes", [{"observation_space": PAIR}, {"action_space": PAIR}, {"action_space": spaces.Dict({"a": spaces.Discrete(2)})}]
)
def test_spaces_that_no_policy_takes_are_refused(changes):
    env = Meter()
    for name, space in changes.items():
        setattr(env, name, space)
    with pytest.raises(UserError, match="no Tuple of observations, and neither Tuple nor Dict of actions"):
        as_vector_env(env)


class Passing(gym.Wrapper):
    """A wrapper that changes nothing, to be looked through."""


@pytest.mark.parametrize(
    "given",
    [
        lambda: Meter(objectives=["speed", "comfort"]),
        lambda: Passing(Meter(objectives=["speed", "comfort"])),
        lambda: DummyVecEnv([lambda: Passing(Meter(objectives=["speed", "comfort"]))]),
    ],
    ids=["environment", "wrapped", "SB3 VecEnv"],
)
def test_an_environments_own_names_are_taken(given):
    env = as_vector_env(given())
    assert env.objectives == ("speed", "comfort")
    assert env.reward_dim == 2


def test_own_names_go_before_the_registrys():
    env = reacher()
    env.unwrapped.objectives = ("n", "e", "s", "w")
    assert as_vector_env(env).objectives == ("n", "e", "s", "w")


def test_names_may_be_given_to_the_adapter():
    env = SB3VecEnvAdapter(MatrixVecEnv(2), objectives=["ticks", "world"])
    assert env.objectives == ("ticks", "world")


@pytest.mark.parametrize("rewards", [(1.0,), (1.0, 2.0, 3.0)])
def test_a_wrong_number_of_names_is_refused(rewards):
    # One reward under two names would be broadcast into both without a sound.
    with pytest.raises(UserError) as caught:
        as_vector_env(Meter(rewards, objectives=("speed", "comfort")))
    assert "2" in str(caught.value)
    assert str(len(rewards)) in str(caught.value)


def test_a_wrong_reward_space_is_refused():
    with pytest.raises(UserError, match="declares 3 rewards and gives 2"):
        as_vector_env(Meter(reward_space=spaces.Box(-9, 9, (3,))))


def test_one_reward_in_an_array_is_enough():
    assert as_vector_env(Meter((3.0,))).objectives == ("reward_0",)
    assert first_step(Meter((3.0,))).reward.tolist() == [[3.0]]


WRONG = {"none": None, "3": 3, "[]": [], "[1, 2]": [1, 2], "dictionary": {"env": reacher}, "mixed": [reacher, "mo-reacher-v5"]}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_type_is_refused(wrong):
    with pytest.raises(UserError, match=f"An environment is .*found {type(wrong).__name__}") as caught:
        as_vector_env(wrong)
    assert "\n" not in str(caught.value)


def test_factories_that_share_one_environment_are_refused():
    # Two worlds that step the same environment would write each other's episodes; SB3 refuses this as well.
    shared = Meter(objectives=("a", "b"))
    with pytest.raises(UserError):
        as_vector_env([lambda: shared, lambda: shared])


def test_a_factory_may_give_an_environment_that_was_there_before():
    # The idiom of SB3's DummyVecEnv([lambda: env]): looking at the environment first must not close it.
    given = Meter(objectives=("a", "b"))
    env = as_vector_env(lambda: given)
    assert not given.closed
    env.reset_tensors()
    assert env.step_tensors(torch.zeros(1, dtype=torch.int64)).reward.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("given", [lambda f: f, lambda f: [f, f]], ids=["factory", "list"])
def test_close_closes_everything_that_was_made(given):
    made = []

    def factory():
        made.append(Meter(objectives=("a", "b")))
        return made[-1]

    env = as_vector_env(given(factory))
    assert isinstance(env, GymVecEnv)
    env.close()
    assert all(one.closed for one in made)


def test_the_adapter_passes_questions_on():
    env = as_vector_env(VecFrameStack(summing_venv("mo-reacher-v5", 3), 2))
    env.set_attr("tag", "new", [1])
    assert [hasattr(world, "tag") for world in env.venv.unwrapped.envs] == [False, True, False]
    assert env.get_attr("tag", 1) == ["new"]
    assert env.env_is_wrapped(LinearReward) == [True] * 3
    env.env_method("set_weight", np.zeros(4), indices=[2])
    assert [weight.sum() for weight in env.get_attr("w")] == [4, 4, 0]


@pytest.mark.parametrize("wrapper", [VecMonitor, VecNormalize])
def test_wrappers_that_add_up_scalar_rewards_are_refused(wrapper):
    """They would fail in the middle of a step, with a broadcast error of numpy's."""
    with pytest.raises(UserError, match=f"{wrapper.__name__} adds up scalar rewards"):
        as_vector_env(wrapper(make("deep-sea-treasure-v0", num_envs=2)))
