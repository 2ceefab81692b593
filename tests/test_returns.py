"""Advantages by hand, against a slow independent implementation and against Stable-Baselines3; normalisation."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor
from torch.testing import assert_close

from dibs_rl.returns import explained_variances, generalized_advantages, normalise_columns, td_targets

F32, F64 = torch.float32, torch.float64
properties = settings(deadline=None, max_examples=50, derandomize=True)
over_dtypes = pytest.mark.parametrize("dtype", [F32, F64])


def column(*values: float) -> Tensor:
    """One world and one objective, `[T, 1, 1]`."""
    return torch.tensor(values, dtype=F64).view(-1, 1, 1)


def flags(*values: bool) -> Tensor:
    return torch.tensor(values).view(-1, 1)


def advantages_by_hand(terminated: Tensor, done: Tensor, gae_lambda: float) -> list[float]:
    """Rewards 1, 2, 3; values 10, 20, 30; values of what followed 20, 30, 40; gamma 0.5."""
    rewards, values, next_values = column(1, 2, 3), column(10, 20, 30), column(20, 30, 40)
    return generalized_advantages(rewards, values, next_values, terminated, done, 0.5, gae_lambda).flatten().tolist()


NEVER = flags(False, False, False)
SECOND = flags(False, True, False)


def test_no_episode_ends() -> None:
    """delta = r + gamma V' - V and A_t = delta_t + gamma lambda A_{t+1}, with gamma lambda = 0.25.

    delta = 1 + 10 - 10 = 1,  2 + 15 - 20 = -3,  3 + 20 - 30 = -7
    A_2 = -7,  A_1 = -3 + 0.25 * -7 = -4.75,  A_0 = 1 + 0.25 * -4.75 = -0.1875
    """
    assert advantages_by_hand(NEVER, NEVER, 0.5) == [-0.1875, -4.75, -7.0]


def test_termination() -> None:
    """The second step terminates: nothing is worth anything after it, and nothing flows back across it.

    delta_1 = 2 + 0 - 20 = -18;  A_2 = -7,  A_1 = -18,  A_0 = 1 + 0.25 * -18 = -3.5
    """
    assert advantages_by_hand(SECOND, SECOND, 0.5) == [-3.5, -18.0, -7.0]


def test_truncation_bootstraps() -> None:
    """The second step is cut off: the value of the last observation, 30, still counts, but nothing flows back.

    delta_1 = 2 + 15 - 20 = -3;  A_2 = -7,  A_1 = -3,  A_0 = 1 + 0.25 * -3 = 0.25
    """
    assert advantages_by_hand(NEVER, SECOND, 0.5) == [0.25, -3.0, -7.0]


def test_last_step_ends() -> None:
    """The last step terminates: delta_2 = 3 - 30 = -27; A_1 = -3 + 0.25 * -27 = -9.75, A_0 = 1 - 2.4375."""
    last = flags(False, False, True)
    assert advantages_by_hand(last, last, 0.5) == [-1.4375, -9.75, -27.0]


def test_lambda_0_is_the_one_step_error() -> None:
    """A = delta, whatever ends where."""
    assert advantages_by_hand(NEVER, NEVER, 0.0) == [1.0, -3.0, -7.0]
    assert advantages_by_hand(NEVER, SECOND, 0.0) == [1.0, -3.0, -7.0]


def test_lambda_1_is_the_discounted_return_less_the_value() -> None:
    """Consistent values (V' is the next V) telescope: 1 + 2/2 + 3/4 + 40/8 - 10, 2 + 3/2 + 40/4 - 20, 3 + 40/2 - 30."""
    assert advantages_by_hand(NEVER, NEVER, 1.0) == [-2.25, -6.5, -7.0]


def test_one_step() -> None:
    found = generalized_advantages(column(1), column(2), column(4), flags(False), flags(False), 0.5, 0.9)
    assert found.flatten().tolist() == [1.0]


def rollout(
    steps: int, worlds: int, m: int, seed: int, dtype: torch.dtype = F64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random rewards, values, next values, terminated and done, with many ends of both kinds."""
    generator = torch.Generator().manual_seed(seed)
    floats = [torch.randn(steps, worlds, m, generator=generator, dtype=dtype) for _ in range(3)]
    terminated, truncated = (torch.rand(steps, worlds, generator=generator) < 0.2 for _ in range(2))
    return (*floats, terminated, terminated | truncated)


def slow_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """The definition: for each step the sum of (gamma lambda)^k delta_{t+k} forward to the end of its episode."""
    found = np.zeros_like(rewards)
    for t, world, i in np.ndindex(rewards.shape):
        factor = 1.0
        for k in range(t, len(rewards)):
            worth = 0.0 if terminated[k, world] else next_values[k, world, i]
            found[t, world, i] += factor * (rewards[k, world, i] + gamma * worth - values[k, world, i])
            factor *= gamma * gae_lambda
            if done[k, world]:
                break
    return found


@properties
@given(
    steps=st.integers(1, 12),
    worlds=st.integers(1, 3),
    m=st.integers(1, 4),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_against_the_definition(steps: int, worlds: int, m: int, gamma: float, gae_lambda: float, seed: int) -> None:
    parts = rollout(steps, worlds, m, seed)
    expected = slow_advantages(*(part.numpy() for part in parts), gamma, gae_lambda)
    found = generalized_advantages(*parts, gamma, gae_lambda)
    assert_close(found, torch.as_tensor(expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_against_stable_baselines3(gae_lambda: float) -> None:
    """With one objective it is SB3's; SB3 adds gamma V of a truncated episode's last observation to the reward."""
    steps, worlds, gamma = 20, 4, 0.99
    rewards, values, next_values, terminated, done = rollout(steps, worlds, 1, seed=0, dtype=F32)
    # Within an episode what follows is the next step's value; SB3 knows no other.
    next_values[:-1] = torch.where(done[:-1].unsqueeze(-1), next_values[:-1], values[1:])
    found = generalized_advantages(rewards, values, next_values, terminated, done, gamma, gae_lambda)

    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, box, box, gae_lambda=gae_lambda, gamma=gamma, n_envs=worlds)
    truncated = (done & ~terminated).unsqueeze(-1)
    buffer.rewards[:] = (rewards + gamma * next_values * truncated).squeeze(-1).numpy()
    buffer.values[:] = values.squeeze(-1).numpy()
    buffer.episode_starts[1:] = done[:-1].numpy()
    buffer.compute_returns_and_advantage(next_values[-1], done[-1].numpy())
    assert_close(found.squeeze(-1), torch.as_tensor(buffer.advantages), atol=2e-6, rtol=2e-6)


@properties
@given(exponents=st.lists(st.integers(-50, 50), min_size=3, max_size=3), seed=st.integers(0, 10**6))
@over_dtypes
def test_powers_of_two_scale_exactly(dtype: torch.dtype, exponents: list[int], seed: int) -> None:
    rewards, values, next_values, *ends = rollout(9, 2, 3, seed, dtype)
    factors = torch.tensor([2.0**k for k in exponents], dtype=dtype)
    plain = generalized_advantages(rewards, values, next_values, *ends, 0.99, 0.95)
    scaled = generalized_advantages(factors * rewards, factors * values, factors * next_values, *ends, 0.99, 0.95)
    assert torch.equal(scaled, factors * plain)


def test_objectives_and_worlds_do_not_mix() -> None:
    parts = rollout(9, 2, 3, seed=1)
    together = generalized_advantages(*parts, 0.99, 0.95)
    for world, i in np.ndindex(2, 3):
        alone = [part[:, world : world + 1, i : i + 1] for part in parts[:3]] + [part[:, [world]] for part in parts[3:]]
        assert torch.equal(generalized_advantages(*alone, 0.99, 0.95), together[:, [world]][:, :, [i]])


def test_inputs_are_left_alone() -> None:
    parts = rollout(5, 2, 3, seed=2)
    before = [part.clone() for part in parts]
    generalized_advantages(*parts, 0.99, 0.95)
    assert all(torch.equal(part, copy) for part, copy in zip(parts, before, strict=True))


# ------------------------------------------------------------------------------------------------ explained variance


def test_explained_variance_by_hand() -> None:
    """Targets -2, 0, 2 vary by 4; residuals -1, 0, 1 by 1, residuals of 0 by nothing, residuals of -4, 0, 4 by 16."""
    targets = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1).expand(3, 1, 3)
    residuals = targets * torch.tensor([0.5, 0.0, 2.0])
    assert explained_variances(targets, residuals).tolist() == [0.75, 1.0, -3.0]


@pytest.mark.parametrize("residual", [0.0, 1.0])
def test_explained_variance_of_a_constant_is_unknown(residual: float) -> None:
    """Nothing was there to foresee, whether the critic wavers about it or not."""
    residuals = residual * torch.tensor([[-1.0], [0.0], [1.0]])
    assert explained_variances(torch.full((3, 1), 7.0), residuals).isnan().all()


@pytest.mark.parametrize("exponent", [-40, 40])
def test_explained_variance_ignores_powers_of_two(exponent: int) -> None:
    targets, residuals, *_ = rollout(9, 2, 3, seed=3, dtype=F32)
    factors = torch.tensor([1.0, 2.0**exponent, 2.0])
    plain = explained_variances(targets, residuals)
    assert torch.equal(explained_variances(factors * targets, factors * residuals), plain)


# ------------------------------------------------------------------------------------------------------ normalisation


def scores_input(rows: int, dtype: torch.dtype) -> Tensor:
    offsets = torch.tensor([0.0, 1.0, -3.0], dtype=dtype)
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows), dtype=dtype) + offsets


@over_dtypes
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("rows", [2, 3, 1000])
def test_columns_have_mean_0_and_std_1(rows: int, scale: float, dtype: torch.dtype) -> None:
    """As SB3 and PyTorch count it: the standard deviation divides by N - 1."""
    scores = normalise_columns(scale * scores_input(rows, dtype))
    tolerance = 100 * torch.finfo(dtype).eps
    assert scores.dtype == dtype
    assert_close(scores.mean(dim=0), torch.zeros(3, dtype=dtype), atol=tolerance, rtol=0)
    assert_close(scores.std(dim=0), torch.ones(3, dtype=dtype), atol=tolerance, rtol=0)


def test_normalisation_by_hand() -> None:
    """Mean 3, deviations -2, 0, 2, variance (4 + 0 + 4) / 2 = 4."""
    assert normalise_columns(torch.tensor([[1.0], [3.0], [5.0]])).flatten().tolist() == [-1.0, 0.0, 1.0]


@properties
@given(exponents=st.lists(st.integers(-50, 50), min_size=3, max_size=3), rows=st.integers(2, 60))
@over_dtypes
def test_normalisation_ignores_powers_of_two_bit_for_bit(dtype: torch.dtype, exponents: list[int], rows: int) -> None:
    columns = scores_input(rows, dtype)
    factors = torch.tensor([2.0**k for k in exponents], dtype=dtype)
    assert torch.equal(normalise_columns(factors * columns), normalise_columns(columns))


@over_dtypes
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e-30, 1e15])
def test_constant_columns_become_zero(constant: float, dtype: torch.dtype) -> None:
    """0.1 is not a binary fraction: its mean is not exactly 0.1, and what is left over must not become a direction."""
    columns = scores_input(1000, dtype)
    columns[:, 1] = constant
    scores = normalise_columns(columns)
    assert not scores[:, 1].any()
    assert torch.equal(scores[:, [0, 2]], normalise_columns(columns[:, [0, 2]]))


@over_dtypes
def test_constant_up_to_rounding_becomes_zero(dtype: torch.dtype) -> None:
    """The same value computed along different ways differs in its last bit."""
    eps = torch.finfo(dtype).eps
    columns = 5.0 * (1 + eps * torch.arange(100, dtype=dtype).remainder(2)).unsqueeze(1)
    assert columns.unique().numel() == 2
    assert not normalise_columns(columns).any()


@over_dtypes
def test_one_rare_reward_is_not_taken_for_rounding(dtype: torch.dtype) -> None:
    """A single success among many steps is a signal, however small in absolute units."""
    columns = torch.zeros(1000, 1, dtype=dtype)
    columns[7] = 1e-12
    scores = normalise_columns(columns)
    assert scores[7] > 30
    assert_close(scores.std(), torch.ones((), dtype=dtype))


def test_no_rows_and_inputs_left_alone() -> None:
    assert normalise_columns(torch.zeros(0, 3)).shape == (0, 3)
    columns = scores_input(5, F32)
    before = columns.clone()
    normalise_columns(columns)
    assert torch.equal(columns, before)


def test_td_targets_by_hand() -> None:
    """r + 0.9 V' = 1 + 1.8 and -1 + 0.9 * 100; nothing follows a termination, not even a value that is not a number."""
    rewards = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    next_values = torch.tensor([[2.0, 100.0], [float("inf"), float("nan")]])
    found = td_targets(rewards, next_values, torch.tensor([False, True]), 0.9)
    torch.testing.assert_close(found, torch.tensor([[2.8, 89.0], [1.0, -1.0]]))


def test_explained_variance_of_one_sample_is_unknown() -> None:
    assert explained_variances(torch.ones(1, 1, 2), torch.zeros(1, 1, 2)).isnan().all()
