"""The rollout buffer: what goes in comes out at the same step and world, and what followed a step is valued rightly."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dibs_rl.buffers import Minibatch, Minibatches, VectorRolloutBuffer, take
from dibs_rl.vec_env import Step, map_obs

T, N, M = 5, 3, 2
POINT = spaces.Box(-10, 10, (4,), np.float64)
IMAGE = spaces.Box(0, 255, (3, 6, 8), np.uint8)
NESTED = spaces.Dict({"image": IMAGE, "cell": spaces.Discrete(7), "flags": spaces.MultiBinary(3), "point": POINT})
SPEED = spaces.Box(-1, 1, (2,), np.float32)
ACTION_SPACES = [SPEED, spaces.Discrete(5), spaces.MultiDiscrete([2, 3, 4]), spaces.MultiBinary(2)]


def buffer_of(observation_space=POINT, action_space=SPEED, steps=T, worlds=N):
    return VectorRolloutBuffer(steps, observation_space, action_space, n_envs=worlds, reward_dim=M)


def sampled(space, worlds):
    """One sample of the space for each world, stacked."""
    if isinstance(space, spaces.Dict):
        return {key: sampled(part, worlds) for key, part in space.items()}
    return torch.as_tensor(np.stack([np.asarray(space.sample()) for _ in range(worlds)]))


def random_rollout(observation_space, action_space, seed=0, steps=T, worlds=N):
    """A list of (obs, actions, log_probs, step), as a learner would meet them."""
    observation_space.seed(seed)
    action_space.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    rollout = []
    for _ in range(steps):
        flags = torch.rand(2, worlds, generator=generator) < 0.4
        reward = torch.randn(worlds, M, generator=generator)
        step = Step(sampled(observation_space, worlds), reward, *flags, sampled(observation_space, worlds))
        log_probs = torch.randn(worlds, generator=generator)
        rollout.append((sampled(observation_space, worlds), sampled(action_space, worlds), log_probs, step))
    return rollout


def fill(buffer, rollout):
    for obs, actions, log_probs, step in rollout:
        buffer.add_decision(obs, actions, log_probs)
        buffer.add_outcome(step)
    return buffer


def assert_same_values(stored, given):
    """Equal values; floats are kept as float32, the type that the networks compute in."""
    assert torch.equal(stored, given.to(stored.dtype))


def named(space):
    return type(space).__name__


@pytest.mark.parametrize("observation_space", [POINT, IMAGE, spaces.Discrete(7), NESTED], ids=named)
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=named)
def test_what_goes_in_comes_out_at_its_step_and_world(observation_space, action_space):
    rollout = random_rollout(observation_space, action_space)
    buffer = fill(buffer_of(observation_space, action_space), rollout)
    for t, (obs, actions, log_probs, step) in enumerate(rollout):
        map_obs(lambda stored, given, t=t: assert_same_values(stored[t], given), buffer.obs, obs)
        assert_same_values(buffer.actions[t], actions)
        assert torch.equal(buffer.log_probs[t], log_probs)
        assert torch.equal(buffer.rewards[t], step.reward)
        assert torch.equal(buffer.terminated[t], step.terminated)
        assert torch.equal(buffer.truncated[t], step.truncated)


def test_types_and_shapes():
    buffer = buffer_of(NESTED, spaces.Discrete(5))
    assert buffer.size == T * N
    assert buffer.obs["image"].dtype == torch.uint8  # a quarter of float32's memory; the network converts
    assert buffer.obs["image"].shape == (T, N, 3, 6, 8)
    assert buffer.obs["cell"].dtype == torch.int64
    assert buffer.obs["cell"].shape == (T, N)
    assert buffer.obs["flags"].dtype == torch.int8
    assert buffer.obs["point"].dtype == torch.float32
    assert buffer.actions.dtype == torch.int64
    assert buffer.actions.shape == (T, N)
    assert buffer.rewards.shape == buffer.advantages.shape == buffer.value_targets.shape == (T, N, M)
    for action_space in (SPEED, spaces.MultiBinary(2)):
        assert buffer_of(POINT, action_space).actions.shape == (T, N, 2)
        assert buffer_of(POINT, action_space).actions.dtype == torch.float32


def test_images_keep_every_level():
    levels = torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(1, 3, 6, 8) + 110  # reaches 253: no sign, no rounding
    buffer = buffer_of(IMAGE, worlds=1)
    buffer.add_decision(levels, torch.zeros(1, 2), torch.zeros(1))
    assert torch.equal(buffer.obs[0], levels)


def contents(buffer):
    """Everything stored, copied out."""
    stored = [*buffer.obs.values(), *buffer.truncated_obs().values(), buffer.actions, buffer.log_probs]
    return [tensor.clone() for tensor in (*stored, buffer.rewards, buffer.terminated, buffer.truncated)]


def test_what_is_stored_is_a_copy():
    # An environment's tensors are valid until its next step only.
    rollout = random_rollout(NESTED, SPEED)
    buffer = fill(buffer_of(NESTED), rollout)
    before = contents(buffer)
    for obs, actions, log_probs, step in rollout:
        for tensor in (*obs.values(), *step.final_obs.values(), actions, log_probs, *step[1:4]):
            tensor.zero_()
    assert all(torch.equal(now, then) for now, then in zip(contents(buffer), before, strict=True))


def by_hand():
    """Three steps of two worlds; the last observation of step t in world i is 10 t + i.

    World 0 is cut off at step 0, ends by itself at step 1, and ends both ways at once at step 2, which is no cut.
    World 1 is cut off at step 2.
    """
    truncated = torch.tensor([[True, False], [False, False], [True, True]])
    terminated = torch.tensor([[False, False], [True, False], [True, False]])
    buffer = VectorRolloutBuffer(3, spaces.Box(-99, 99, (1,)), spaces.Discrete(2), n_envs=2, reward_dim=M)
    for t in range(3):
        final_obs = torch.tensor([[10.0 * t], [10.0 * t + 1]])
        buffer.add_decision(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
        buffer.add_outcome(Step(torch.zeros(2, 1), torch.zeros(2, M), terminated[t], truncated[t], final_obs))
    return buffer


def test_truncated_obs_by_hand():
    assert by_hand().truncated_obs().tolist() == [[0.0], [21.0]]


def test_next_values_by_hand():
    buffer = by_hand()
    values = torch.arange(12.0).reshape(3, 2, M)  # value of step t, world i, objective k: 4 t + 2 i + k
    last_values = torch.tensor([[12.0, 13.0], [14.0, 15.0]])
    cut_off = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    expected = [
        [[-1, -2], [6, 7]],  # cut off: its own last observation's value; world 1 goes on: the value of step 1
        [[8, 9], [10, 11]],  # world 0 ended: whatever stands here, the returns leave it out
        [[12, 13], [-3, -4]],
    ]
    assert buffer.next_values(values, last_values, cut_off).tolist() == expected
    assert values.flatten().tolist() == list(range(12))  # looked at, not written to


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("space", [POINT, NESTED], ids=["box", "dict"])
def test_each_truncated_value_lands_where_its_observation_came_from(seed, space):
    rollout = random_rollout(space, SPEED, seed)
    buffer = fill(buffer_of(space), rollout)

    def value(obs):  # [..., 4] -> [..., 2], another one for each observation
        point = (obs["point"] if isinstance(obs, dict) else obs).float()
        return torch.stack([point.sum(-1), point[..., 0]], -1)

    last_obs = sampled(space, N)
    found = buffer.next_values(value(buffer.obs), value(last_obs), value(buffer.truncated_obs()))
    for t, (*_, step) in enumerate(rollout):
        for i in range(N):
            cut_off = step.truncated[i] and not step.terminated[i]
            after = rollout[t + 1][0] if t + 1 < T else last_obs
            expected = value(step.final_obs)[i] if cut_off else value(after)[i]
            torch.testing.assert_close(found[t, i], expected)


def test_no_truncation_needs_no_values():
    buffer = buffer_of()
    values, last_values = torch.randn(T, N, M), torch.randn(N, M)
    assert buffer.truncated_obs() is None
    assert torch.equal(buffer.next_values(values, last_values, None), torch.cat([values[1:], last_values[None]]))


def test_a_rollout_of_one_step():
    buffer = fill(buffer_of(steps=1), random_rollout(POINT, SPEED, steps=1))
    buffer.truncated.zero_()
    last_values = torch.randn(N, M)
    assert torch.equal(buffer.next_values(torch.randn(1, N, M), last_values, None), last_values[None])


def test_reset_makes_room_for_the_next_rollout():
    buffer = fill(buffer_of(), random_rollout(POINT, SPEED, seed=0))
    with pytest.raises(IndexError):
        fill(buffer, random_rollout(POINT, SPEED, seed=1))
    buffer.reset()
    assert buffer.truncated_obs() is None
    second = random_rollout(POINT, SPEED, seed=1)
    fill(buffer, second)
    assert torch.equal(buffer.rewards, torch.stack([step.reward for *_, step in second]))
    cut_off = [step.final_obs[step.truncated & ~step.terminated] for *_, step in second]
    assert torch.equal(buffer.truncated_obs(), torch.cat(cut_off))


@pytest.mark.parametrize("size", [1, 4, 5, T * N, 100])
def test_indices_deal_each_sample_exactly_once(size):
    parts = list(buffer_of().indices(size))
    assert sorted(torch.cat(parts).tolist()) == list(range(T * N))
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size


def test_indices_are_drawn_anew_from_numpys_global_generator():
    # As SB3's buffers do, so that a seed gives the same minibatches there and here.
    buffer = buffer_of()
    np.random.seed(3)
    dealt = [torch.cat(list(buffer.indices(4))).tolist() for _ in range(2)]
    np.random.seed(3)
    assert dealt == [np.random.permutation(T * N).tolist() for _ in range(2)]
    assert dealt[0] != dealt[1]


def test_whole_batch_keeps_rows_together():
    buffer = fill(buffer_of(NESTED, spaces.Discrete(5)), random_rollout(NESTED, spaces.Discrete(5)))
    advantages, targets = torch.randn(T * N, M), torch.randn(T * N, M)
    batch = buffer.whole(advantages, targets)
    for row in range(T * N):
        t, i = divmod(row, N)
        assert all(torch.equal(batch.obs[key][row], buffer.obs[key][t, i]) for key in NESTED)
        assert batch.actions[row] == buffer.actions[t, i]
        assert batch.log_probs[row] == buffer.log_probs[t, i]
    assert torch.equal(batch.advantages, advantages)
    assert torch.equal(batch.value_targets, targets)


def test_minibatches_are_rows_of_the_whole():
    buffer = buffer_of(NESTED)
    buffer.reset(torch.rand(N, M) < 0.5)  # which objectives each world has
    fill(buffer, random_rollout(NESTED, SPEED))
    batch = buffer.whole(torch.randn(T * N, M), torch.randn(T * N, M))
    for index in buffer.indices(4):
        part = take(batch, index)
        for row, source in enumerate(index.tolist()):
            assert all(torch.equal(part.obs[key][row], batch.obs[key][source]) for key in NESTED)
            assert all(torch.equal(ours[row], theirs[source]) for ours, theirs in zip(part[1:], batch[1:], strict=True))


def test_flat_goes_step_by_step_then_world_by_world():
    steps, worlds = torch.meshgrid(torch.arange(T), torch.arange(N), indexing="ij")
    assert buffer_of().flat(steps * N + worlds).tolist() == list(range(T * N))


def test_observations_without_a_shape_are_refused():
    with pytest.raises(TypeError, match="cannot be stored"):
        buffer_of(spaces.Tuple([POINT, POINT]))


@pytest.mark.parametrize("chunk", [1, 2**24])
def test_minibatches_are_the_samples_asked_for(chunk, monkeypatch):
    """Whether the batch is shuffled as a whole or picked from, the same bits come in the same order."""
    monkeypatch.setattr("dibs_rl.buffers._CHUNK_ENTRIES", chunk)
    n = 23
    parts = [torch.randn(n, 3), torch.randn(n, 2), torch.randn(n), torch.randn(n, 4), torch.randn(n, 4)]
    orders = list(torch.randperm(n).split(5))[:4]  # the last ones are left out, as where an update ends early
    found = list(Minibatches(Minibatch(*parts), orders))
    assert len(found) == 4
    for batch, order in zip(found, orders, strict=True):
        assert all(torch.equal(part, whole[order]) for part, whole in zip(batch[:5], parts, strict=True))
        assert batch.active is None
    assert list(Minibatches(Minibatch(*parts), [])) == []
