"""The torch backend against plain MO-Gymnasium environments: the same bits."""

from types import SimpleNamespace

import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import SPECS, TorchVecEnv, make
from dibs_rl.envs.pcg64 import Streams
from dibs_rl.envs.torch_tasks import TORCH_TASKS
from dibs_rl.envs.torch_tasks.resource_gathering import Gatherer, ResourceGathering
from dibs_rl.errors import UserError

STEPS, WORLDS, SEED = 1_020, 4, 7


def swinging(obs, draw):
    """The way the car rolls already, most of the time; the last world coasts, so that its episodes are truncated."""
    actions = np.where(obs[:, 1] < 0, 0, 2)
    actions = np.where(draw.random(len(obs)) < 0.1, draw.integers(3, size=len(obs)), actions)
    actions[-1] = 1
    return actions


def swinging_hard(obs, draw):
    """The same with forces, also on and beyond their bounds."""
    force = np.sign(obs[:, 1]) * draw.choice([0.3, 0.8, 1.0, 1.2], len(obs)) + draw.choice([0.0, 0.1], len(obs))
    force[-1] *= 0.01
    return force[:, None].astype(np.float32)


class Commuting:
    """Out to a mine and back, with detours; the last world idles into its truncation."""

    def __init__(self):
        self.t = 0

    def __call__(self, obs, draw):
        self.t += 1
        out_and_back = [3, 3, 3, 3, 4, 0, 1, 1, 1, 1, 5, 3, 3, 3, 3, 5]
        actions = np.array([out_and_back[(self.t + 3 * i) % 16] for i in range(len(obs))])
        actions = np.where(draw.random(len(obs)) < 0.3, draw.integers(6, size=len(obs)), actions)
        actions[-1] = draw.choice([1, 2, 5])
        return actions


def wandering(obs, draw):
    """Anywhere; the last world only up and down."""
    actions = draw.integers(4, size=len(obs))
    actions[-1] = draw.integers(2)
    return actions


def policy_of(env_id):
    if env_id == "mo-mountaincarcontinuous-v0":
        return swinging_hard
    if env_id.startswith("mo-mountaincar"):
        return swinging
    return Commuting() if env_id.startswith("minecart") else wandering


def same(found, expected):
    expected = torch.as_tensor(np.asarray(expected))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.numpy().tobytes() == expected.numpy().tobytes()  # signs of zeros, too


@pytest.mark.parametrize("env_id", TORCH_TASKS)
def test_more_than_a_thousand_steps_are_mo_gymnasiums_bit_for_bit(env_id):
    """Observations, rewards, terminations, truncations, last observations and what follows a reset."""
    worlds = [mo_gymnasium.make(env_id) for _ in range(WORLDS)]
    env = make(env_id, WORLDS, backend="torch", seed=SEED)
    assert isinstance(env, TorchVecEnv)
    assert env.observation_space == worlds[0].observation_space
    assert env.action_space == worlds[0].action_space
    obs, ends = np.stack([world.reset(seed=SEED + i)[0] for i, world in enumerate(worlds)]), set()
    same(env.reset_tensors(), obs)
    act, draw = policy_of(env_id), np.random.default_rng(1)
    earned = np.zeros(env.reward_dim)
    for _ in range(STEPS):
        actions = act(obs, draw)
        step = env.step_tensors(torch.as_tensor(actions))
        stepped = [world.step(action) for world, action in zip(worlds, actions, strict=True)]
        last, rewards, terminated, truncated, _ = zip(*stepped, strict=True)
        last = np.stack(last)
        obs = np.stack(
            [
                world.reset()[0] if over or cut else seen
                for world, seen, over, cut in zip(worlds, last, terminated, truncated, strict=True)
            ]
        )
        same(step.final_obs, last)
        same(step.obs, obs)
        same(step.reward, rewards)
        assert step.terminated.tolist() == [bool(flag) for flag in terminated]
        assert step.truncated.tolist() == [bool(flag) for flag in truncated]
        ends |= {name for name, flags in (("terminated", terminated), ("truncated", truncated)) if any(flags)}
        earned += np.abs(rewards).sum(axis=0)
    assert ends == {"terminated", "truncated"}
    assert (earned > 0).all()  # no objective that the comparison was blind to


class Given:
    """Noise that is handed over, one number a world and step."""

    def __init__(self, numbers):
        self.numbers = numbers

    def worlds(self, which):
        return Given(self.numbers[which])

    def uniform(self, low, high, size):
        return self.numbers[:, None]


def test_an_enemy_kills_on_the_same_numbers():
    """Beside an enemy in every world, with numbers around the limit; the last world is elsewhere and draws none."""
    numbers = torch.tensor([0.0, 0.09999999, 0.1, 0.5, 0.0], dtype=torch.float64)
    world = mo_gymnasium.make("resource-gathering-v0").unwrapped
    world.reset(seed=0)
    task = ResourceGathering()
    model = task.model(world, torch.device("cpu"))
    enemies = [(0, 3), (1, 2)]
    for row, column in enemies:
        below = (row + 1) * 5 + column
        no = torch.zeros(5, dtype=torch.bool)
        before = Gatherer(torch.tensor([below] * 4 + [20]), no, no, no)
        up = torch.zeros(5, dtype=torch.int64)
        state = task.advance(model, before, up, Given(numbers))
        for i, number in enumerate(numbers[:4].tolist()):
            world.current_pos, world.has_gold, world.has_gem = np.array([row + 1, column], np.int32), 0, 0
            world.np_random = SimpleNamespace(random=lambda number=number: number)
            obs, reward, terminated, _, _ = world.step(0)
            assert obs.tolist() == task.observe(model, state)[i].tolist()
            assert reward.tolist() == task.reward(model, None, state, up)[i].tolist()
            assert terminated == task.terminated(model, state)[i]
        assert state.killed.tolist() == [True, True, False, False, False]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**40), st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=60))
def test_streams_are_numpys(seed, turns):
    """Any worlds draw at any time: each of them gets its own generator's numbers, in order."""
    streams, generators = Streams(3), [gym.utils.seeding.np_random(seed + i)[0] for i in range(3)]
    for i in range(3):
        streams.seed(i, seed + i)
    for turn, draws in enumerate(turns):
        found = streams.worlds(torch.tensor(draws).nonzero().flatten()).uniform(-0.6, -0.4, 1 + turn % 2)
        expected = [generators[i].uniform(-0.6, -0.4, 1 + turn % 2) for i in range(3) if draws[i]]
        assert found.tolist() == [numbers.tolist() for numbers in expected]


def test_two_thousand_numbers_of_a_stream_are_numpys():
    """Every bit pattern of the rotation comes up."""
    streams = Streams(2)
    streams.seed(0, 11)
    streams.seed(1, 12)
    found = torch.cat([streams.uniform(0.0, 1.0, 1) for _ in range(2_000)], dim=1)
    assert found.tolist() == [gym.utils.seeding.np_random(seed)[0].random(2_000).tolist() for seed in (11, 12)]


def test_streams_that_are_not_seeded_differ():
    numbers = [Streams(50).uniform(0.0, 1.0, 2) for _ in range(2)]
    assert len(set(torch.cat(numbers).flatten().tolist())) == 200


def test_a_seed_repeats_and_none_goes_on():
    env = make("mo-mountaincar-v0", 3, backend="torch", seed=5)
    first, second = env.reset_tensors(), env.reset_tensors()
    assert not torch.equal(first, second)
    assert torch.equal(env.reset_tensors(seed=5), first)
    assert torch.equal(env.reset_tensors(), second)
    assert not torch.equal(make("mo-mountaincar-v0", 3, backend="torch", seed=None).reset_tensors(), first)


@pytest.mark.parametrize("env_id", ["mo-mountaincarcontinuous-v0", "resource-gathering-v0"])
def test_training_is_the_same_on_either_backend(env_id):
    """Down to the last bit of every parameter."""

    def run(backend):
        env = make(env_id, 4, backend=backend, seed=0)
        model = DiBSPPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu").learn(128)
        return torch.nn.utils.parameters_to_vector(model.policy.parameters()), list(model.ep_info_buffer)

    (torchs, episodes), (one_by_one, same_episodes) = run("torch"), run("gym")
    assert torch.equal(torchs, one_by_one)
    assert [e["l"] for e in episodes] == [e["l"] for e in same_episodes]


@pytest.mark.parametrize("env_id", TORCH_TASKS)
def test_worlds_do_not_know_of_each_other(env_id):
    """Some of four thousand worlds are what they are alone."""
    many, few = (make(env_id, n, backend="torch", seed=3) for n in (4_096, 2))
    assert torch.equal(many.reset_tensors()[:2], few.reset_tensors())
    torch.manual_seed(0)
    for _ in range(8):
        if env_id == "mo-mountaincarcontinuous-v0":
            actions = torch.rand(4_096, 1) * 2 - 1
        else:
            actions = torch.randint(many.action_space.n, (4_096,))
        found, expected = many.step_tensors(actions), few.step_tensors(actions[:2])
        assert found.reward.shape == (4_096, len(SPECS[env_id].objectives))
        assert all(torch.equal(a[:2], b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("env_id", TORCH_TASKS)
def test_a_step_leaves_what_it_gave_alone(env_id):
    """What one step returned does not change in the next, where episodes begin: rewards and last observations are kept."""
    env = make(env_id, 6, backend="torch", seed=0)
    env.reset_tensors()
    act, draw, obs = policy_of(env_id), np.random.default_rng(0), env.reset_tensors()
    kept = []
    for _ in range(30):
        step = env.step_tensors(torch.as_tensor(act(obs.numpy(), draw)))
        obs = step.obs
        kept.append((step, [part.clone() for part in step]))
    assert all(torch.equal(now, then) for step, copies in kept for now, then in zip(step, copies, strict=True))


@pytest.mark.parametrize("env_id", [env_id for env_id in TORCH_TASKS if env_id != "resource-gathering-v0"])
def test_everything_is_on_the_device_that_is_asked_for(env_id):
    """On torch's device without numbers, which mixes with no other; which worlds face an enemy cannot be asked there."""
    env, task, meta = mo_gymnasium.make(env_id), TORCH_TASKS[env_id], torch.device("meta")
    model, streams = task.model(env.unwrapped, meta), Streams(3, meta)
    actions = torch.zeros(
        3, *env.action_space.shape, dtype=torch.float32 if env.action_space.shape else torch.int64, device=meta
    )
    state = task.advance(model, task.start(model, streams), actions, streams)
    found = [*state, task.observe(model, state), task.reward(model, None, state, actions), task.terminated(model, state)]
    assert {part.device for part in found} == {meta}


def test_auto_takes_it_for_many_worlds_on_the_cpu():
    assert make("deep-sea-treasure-concave", 32).backend == "torch"
    assert make("deep-sea-treasure-concave", 31).backend == "gym"
    assert make("minecart-deterministic", 128).backend == "torch"
    assert make("minecart-v0", 1).backend == "gym"  # its ores are random
    assert make("mo-mountaincar", 32, goal_velocity=0.01).backend == "gym"
    assert make("mo-mountaincar-3d", 1, backend="torch").objectives == ("time", "move", "speed")


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("minecart-v0", {}, "does not step minecart-v0"),
        ("mo-mountaincar-v0", {"goal_velocity": 0.01}, "takes no keyword arguments .*; found goal_velocity"),
    ],
)
def test_what_it_cannot_step_is_said(env_id, kwargs, words):
    with pytest.raises(UserError, match=words):
        make(env_id, 64, backend="torch", **kwargs)


@pytest.mark.parametrize("env_id", [env_id for env_id in TORCH_TASKS if env_id != "mo-mountaincarcontinuous-v0"])
@pytest.mark.parametrize(("actions", "error"), [([0], "one for each of 2 worlds"), ([0, 9], "out of"), ([-1, 0], "out of")])
def test_actions_that_are_none_are_refused(env_id, actions, error):
    env = make(env_id, 2, backend="torch", seed=0)
    before = env.reset_tensors().clone()
    with pytest.raises((UserError, IndexError, RuntimeError), match=error):
        env.step_tensors(torch.tensor(actions))
    assert torch.equal(env._rules.observe(env._model, env._state()), before)


def test_sb3s_questions_are_answered():
    env = make("mo-mountaincar-v0", 2, backend="torch")
    assert env.get_attr("max_speed") == [0.07, 0.07]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, [1]) == [True]
    with pytest.raises(UserError, match=r"The torch backend steps worlds without .*backend='gym'"):
        env.env_method("reset")
    with pytest.raises(UserError, match="backend='gym'"):
        env.set_attr("max_speed", 1.0)
    env.close()
