"""The vector replay buffer against plain lists: what it keeps, what it forgets, and what comes back from a file."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dibs_rl.errors import UserError
from dibs_rl.replay import Transitions, VectorReplayBuffer
from dibs_rl.vec_env import Step

OBS, ACTIONS = spaces.Box(-np.inf, np.inf, (3,), np.float64), spaces.Box(-1, 1, (2, 2), np.float32)


def make_buffer(size=12, n=3, obs=OBS):
    return VectorReplayBuffer(size, obs, ACTIONS, n_envs=n, reward_dim=2)


def fill(buffer, steps, n=3, start=0, active=None):
    """Adds steps whose numbers say which they are; returns the transitions one by one, oldest first."""
    kept = []
    for t in range(start, start + steps):
        number = torch.arange(n) + 100.0 * t
        obs, actions = number[:, None] + torch.zeros(n, 3), number[:, None] / 1e6 + torch.zeros(n, 4)
        rewards = torch.stack([number, -number], dim=1)
        terminated, truncated = torch.arange(n) == t % 3, torch.arange(n) == (t + 1) % 3
        lent = obs.clone()
        buffer.add_decision(lent, actions)
        lent.fill_(np.nan)  # what a step lends is gone with the next one
        buffer.add_outcome(Step(obs * 0, rewards, terminated, truncated, obs + 0.5), active)
        kept += zip(obs, actions, rewards, obs + 0.5, terminated, strict=True)
    return kept


def stored(buffer):
    return list(zip(*Transitions(**buffer.state_dict())[:5], strict=True))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 11])
def test_it_keeps_the_newest(steps):
    """Four steps of three worlds fit in; an episode that was cut off is not an end, and leads to its own last observation."""
    buffer = make_buffer()
    everything = fill(buffer, steps)
    assert len(buffer) == min(3 * steps, 12)
    assert_same(stored(buffer), everything[-12:])


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_newest_steps_are_read_and_forgotten(steps):
    """Across the end of the storage too; what is added next takes their place."""
    buffer = make_buffer()
    everything = fill(buffer, 6)[-12:]
    assert_same(list(zip(*buffer.newest(steps)[:5], strict=True)), everything[-3 * steps :])
    buffer.forget(steps)
    assert_same(stored(buffer), everything[: -3 * steps])
    everything = everything[: -3 * steps] + fill(buffer, 2, start=9)
    assert_same(stored(buffer), everything[-12:])


def test_capacity_is_a_whole_number_of_steps():
    assert make_buffer(size=13).capacity == 12
    assert make_buffer(size=1).capacity == 3


def test_samples_are_whole_transitions_and_all_of_them_come():
    buffer = make_buffer()
    everything = {row[2][0].item(): row for row in fill(buffer, 3)}
    np.random.seed(0)
    batch = buffer.sample(400)
    assert set(batch.rewards[:, 0].tolist()) == set(everything)
    assert batch.active is None
    for row in zip(*batch[:5], strict=True):
        assert_same([row], [everything[row[2][0].item()]])


@pytest.mark.parametrize(("size", "n"), [(12, 3), (30, 3), (6, 2), (8, 4), (30, 7)])
def test_state_goes_over_to_other_sizes_and_worlds(size, n):
    """The newest that fit, in whole steps of the new worlds; and it goes on from there."""
    first, second = make_buffer(), make_buffer(size, n)
    everything = fill(first, 5)[-12:]
    second.load_state_dict(first.state_dict())
    fits = min(12, second.capacity) // n * n
    assert_same(stored(second), everything[-fits:])
    more = fill(second, 2, n, start=50)
    assert_same(stored(second), (everything[-fits:] + more)[-second.capacity :])


OF_ITS_WORLD = torch.tensor([[True, False], [False, True], [True, True]])


def test_transitions_know_which_objectives_they_are_of():
    buffer = make_buffer()
    everything = fill(buffer, 6, active=OF_ITS_WORLD)
    assert_same(stored(buffer), everything[-12:])
    batch = buffer.sample(100)
    worlds = (batch.rewards[:, 0] % 100).long()
    assert torch.equal(batch.active, OF_ITS_WORLD[worlds])


@pytest.mark.parametrize("masked", [(True, True), (True, False), (False, True)])
def test_which_objectives_goes_over_to_another_buffer(masked):
    """What comes from a buffer that does not say it is of all of them."""
    first, second = make_buffer(), make_buffer()
    fill(first, 2, active=OF_ITS_WORLD if masked[0] else None)
    fill(second, 1, active=OF_ITS_WORLD if masked[1] else None)
    second.load_state_dict(first.state_dict())
    active = second.state_dict()["active"]
    assert torch.equal(active, OF_ITS_WORLD.repeat(2, 1) if masked[0] else torch.ones(6, 2, dtype=torch.bool))


def test_dictionary_observations():
    space = spaces.Dict({"near": spaces.Box(-1, 1, (2,), np.float32), "kind": spaces.Discrete(3)})
    buffer = make_buffer(obs=space)
    obs = {"near": torch.rand(3, 2), "kind": torch.tensor([0, 2, 1])}
    buffer.add_decision(obs, torch.zeros(3, 4))
    no = torch.zeros(3, dtype=torch.bool)
    buffer.add_outcome(Step(obs, torch.zeros(3, 2), no, no, obs))
    np.random.seed(0)
    batch = buffer.sample(20)
    assert batch.next_obs["kind"].dtype == torch.int64
    assert set(batch.obs["kind"].tolist()) == {0, 1, 2}


def test_other_shapes_are_refused():
    buffer = make_buffer()
    fill(buffer, 2)
    other = VectorReplayBuffer(12, OBS, ACTIONS, n_envs=3, reward_dim=3)
    with pytest.raises(UserError, match=r"rewards of shape \[2\]; the model has \[3\]"):
        other.load_state_dict(buffer.state_dict())
