"""The batch backend against plain MO-Gymnasium environments: the same bits."""

import gymnasium as gym
import mo_gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dibs_rl.agents import DiBSPPO
from dibs_rl.envs import BatchVecEnv, make
from dibs_rl.envs.batch_backend import batch_installed
from dibs_rl.envs.registry import SPECS
from dibs_rl.envs.tasks import TASKS
from dibs_rl.envs.tasks.numpy_order import sum_rows
from dibs_rl.errors import UserError

pytestmark = pytest.mark.skipif(not batch_installed(), reason="mujoco.batch came with MuJoCo 3.17")

STEPS, WORLDS, SEED = 1_000, 4, 7
# NumPy's sines and cosines differ from torch's in the last place of float64, now and then.
LAST_PLACE = {"mo-reacher-v5": 2**-52}
ENDS = {  # how random episodes end
    "mo-halfcheetah-v5": {"truncated"},
    "mo-swimmer-v5": {"truncated"},
    "mo-reacher-v5": {"truncated"},
    "mo-ant-v5": {"terminated", "truncated"},
    "mo-ant-2obj-v5": {"terminated", "truncated"},
}


def random_actions(space, steps, worlds, seed=1):
    draw = np.random.default_rng(seed)
    if isinstance(space, gym.spaces.Discrete):
        return draw.integers(space.n, size=(steps, worlds))
    actions = draw.uniform(space.low, space.high, (steps, worlds, *space.shape)).astype(space.dtype)
    actions[:, -1] *= 0.2  # a calm world, whose episodes may last to the time limit
    return actions


def same(found, expected, tolerance):
    expected = torch.as_tensor(np.asarray(expected))
    assert found.dtype == expected.dtype
    if tolerance == 0:
        assert torch.equal(found, expected)
    else:
        assert (found - expected).abs().max() <= tolerance


@pytest.mark.parametrize("env_id", TASKS)
def test_a_thousand_steps_are_mo_gymnasiums_bit_for_bit(env_id):
    """Observations, rewards, terminations, truncations, last observations and what follows a reset."""
    worlds = [mo_gymnasium.make(env_id) for _ in range(WORLDS)]
    env = make(env_id, WORLDS, seed=SEED)
    assert isinstance(env, BatchVecEnv)
    assert env.observation_space == worlds[0].observation_space
    assert env.action_space == worlds[0].action_space
    tolerance, ends = LAST_PLACE.get(env_id, 0), set()
    first = [world.reset(seed=SEED + i)[0] for i, world in enumerate(worlds)]
    same(env.reset_tensors(), first, tolerance)
    for actions in random_actions(env.action_space, STEPS, WORLDS):
        step = env.step_tensors(torch.as_tensor(actions))
        stepped = [world.step(action) for world, action in zip(worlds, actions, strict=True)]
        last, rewards, terminated, truncated, _ = zip(*stepped, strict=True)
        obs = [
            world.reset()[0] if over or cut else seen
            for world, seen, over, cut in zip(worlds, last, terminated, truncated, strict=True)
        ]
        same(step.final_obs, last, tolerance)
        same(step.obs, obs, tolerance)
        same(step.reward, rewards, 0)
        assert step.terminated.tolist() == [bool(flag) for flag in terminated]
        assert step.truncated.tolist() == [bool(flag) for flag in truncated]
        ends |= {name for name, flags in (("terminated", terminated), ("truncated", truncated)) if any(flags)}
    assert ends == ENDS.get(env_id, {"terminated"})


def test_an_unstable_world_is_the_same_too(tmp_path, monkeypatch):
    """A control that is not a number: MuJoCo takes its own measures, and writes a log file where it stands."""
    monkeypatch.chdir(tmp_path)
    batch, one_by_one = (make("mo-halfcheetah-v5", 2, backend=b, seed=0) for b in ("batch", "gym"))
    assert torch.equal(batch.reset_tensors(), one_by_one.reset_tensors())
    actions = torch.zeros(2, 6)
    for t in range(4):
        actions[0, 2] = torch.nan if t == 1 else 0.0
        found, expected = batch.step_tensors(actions), one_by_one.step_tensors(actions)
        assert torch.equal(found.obs, expected.obs)
        assert torch.equal(found.reward.nan_to_num(7.0), expected.reward.nan_to_num(7.0))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    envs = [make("mo-hopper-v5", 7, workers=workers, seed=0) for workers in (threads, 2)]
    first = [env.reset_tensors() for env in envs]
    assert torch.equal(*first)
    for actions in random_actions(envs[0].action_space, 60, 7):
        a, b = (env.step_tensors(torch.as_tensor(actions)) for env in envs)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_seed_repeats_and_none_goes_on():
    env = make("mo-hopper-v5", 3, seed=5)
    first, second = env.reset_tensors(), env.reset_tensors()
    assert not torch.equal(first, second)
    assert torch.equal(env.reset_tensors(seed=5), first)
    assert torch.equal(env.reset_tensors(), second)
    assert not torch.equal(make("mo-hopper-v5", 3, seed=None).reset_tensors(), first)


def test_training_is_the_same_on_either_backend():
    """Down to the last bit of every parameter."""

    def run(backend):
        env = make("mo-hopper-v5", 4, backend=backend, seed=0)
        model = DiBSPPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(1_024)
        return torch.nn.utils.parameters_to_vector(model.policy.parameters()), list(model.ep_info_buffer)

    (batch, episodes), (one_by_one, same_episodes) = run("batch"), run("gym")
    assert torch.equal(batch, one_by_one)
    assert [e["l"] for e in episodes] == [e["l"] for e in same_episodes]
    assert episodes


def test_four_thousand_worlds():
    env = make("mo-hopper-v5", 4_096, seed=0)
    obs = env.reset_tensors()
    assert obs.shape == (4_096, 11)
    for _ in range(12):
        step = env.step_tensors(torch.rand(4_096, 3) * 2 - 1)
    assert step.reward.shape == (4_096, 3)
    assert step.reward.isfinite().all()


@pytest.mark.parametrize("env_id", TASKS)
def test_the_registry_names_the_tasks_objectives(env_id):
    assert SPECS[env_id].objectives == TASKS[env_id].objectives == make(env_id, 1).objectives


def test_auto_takes_the_batch_where_it_can():
    assert make("mo-halfcheetah", 1).backend == "batch"
    assert make("mo-halfcheetah", 1, backend="gym").backend == "gym"
    assert make("mo-halfcheetah-v4", 1).backend == "gym"
    assert make("mo-halfcheetah", 1, ctrl_cost_weight=0.5).backend == "gym"


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("deep-sea-treasure-v0", {}, "does not step deep-sea-treasure-v0"),
        ("mo-hopper-v5", {"ctrl_cost_weight": 0.5}, "takes no keyword arguments .*; found ctrl_cost_weight"),
    ],
)
def test_what_the_batch_cannot_step_is_said(env_id, kwargs, words):
    with pytest.raises(UserError, match=words):
        make(env_id, 1, backend="batch", **kwargs)


@pytest.mark.parametrize(
    ("env_id", "actions", "error"),
    [
        ("mo-hopper-v5", torch.zeros(1, 3), "one for each of 2 worlds"),
        ("mo-hopper-v5", torch.zeros(2, 4), "one for each of 2 worlds"),
        ("mo-reacher-v5", torch.tensor([3]), "one for each of 2 worlds"),
        ("mo-reacher-v5", torch.tensor([3, 9]), "out of range"),
        ("mo-reacher-v5", torch.tensor([3, -1]), "out of range"),
    ],
)
def test_actions_that_are_none_are_refused_before_the_physics_steps(env_id, actions, error):
    env = make(env_id, 2)
    env.reset_tensors()
    before = env._physics.qpos.clone()
    with pytest.raises((UserError, IndexError), match=error):
        env.step_tensors(actions)
    assert torch.equal(env._physics.qpos, before)


def test_without_mujocos_batch_the_gym_backend_steps(monkeypatch):
    monkeypatch.setattr("dibs_rl.envs.batch_installed", lambda: False)
    assert make("mo-halfcheetah", 1).backend == "gym"
    with pytest.raises(UserError, match=r"mujoco>=3\.17"):
        make("mo-halfcheetah", 1, backend="batch")


def test_sb3s_questions_are_answered():
    env = make("mo-hopper-v5", 2)
    assert env.get_attr("frame_skip") == [4, 4]
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, [1]) == [True]
    with pytest.raises(UserError, match="backend='gym'"):
        env.env_method("reset")
    with pytest.raises(UserError, match="backend='gym'"):
        env.set_attr("frame_skip", 3)
    env.close()


def test_longer_rows_are_refused():
    with pytest.raises(ValueError, match="At most 128"):
        sum_rows(torch.zeros(2, 129))


@given(st.integers(1, 128), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**31))
def test_rows_are_summed_as_numpy_sums_them(length, dtype, seed):
    values = (np.random.default_rng(seed).standard_normal((3, length)) ** 2).astype(dtype)
    expected = [row.sum() for row in values]
    assert sum_rows(torch.from_numpy(values)).tolist() == expected
