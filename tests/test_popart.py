"""PopArt: what absorbing a batch preserves, what scale it is blind to, and whose moments it keeps."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dibs_rl.popart import Moments, PopArtHead, normalise, rescale_head, unnormalise, update_moments

F32, F64 = torch.float32, torch.float64
UNITS = torch.tensor([1e-6, 1.0, 1e6], dtype=F64)  # of three objectives


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def fresh() -> Moments:
    return Moments(torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), torch.zeros((), dtype=F64))


def make_head(dtype: torch.dtype = F64, **settings: object) -> PopArtHead:
    """Always the same weights."""
    head = PopArtHead(4, 3, **settings)
    head.weight.data, head.bias.data = normal(3, 4, seed=1).to(dtype), normal(3, seed=2).to(dtype)
    return head


def batches(count: int, rows: int = 30) -> list[Tensor]:
    """Targets `[N, 3]` in the objectives' units, whose mean and spread drift."""
    return [UNITS * ((1 + k) * normal(rows, 3, seed=k) + 5 * k) for k in range(count)]


# ------------------------------------------------------------------------------------------------------------ moments


def test_first_batch_is_taken_whole() -> None:
    """No memory of the constants 0 and 1: the first units are those of the first data."""
    targets = batches(1)[0]
    moments = update_moments(fresh(), targets, rate=0.05)
    assert_close(moments.mean, targets.mean(dim=0), rtol=1e-14, atol=0)
    assert_close(moments.std, targets.std(dim=0, correction=0), rtol=1e-14, atol=0)
    assert moments.batches == 1


def test_the_first_batch_that_varies_is_taken_whole() -> None:
    """An objective that has only ever said 7 has no units yet: its first real batch makes them, and the others go on."""
    moments = Moments(*torch.zeros(3, 2, dtype=F64))
    for k in range(100):
        moments = update_moments(moments, torch.stack([normal(20, seed=k), torch.full((20,), 7.0, dtype=F64)], dim=1), 0.01)
    assert moments.std[1] == 0
    targets = normal(20, 2, seed=200)
    later = update_moments(moments, targets, rate=0.01)
    assert_close(later.mean[1], targets[:, 1].mean())
    assert_close(later.std[1], targets[:, 1].std(correction=0))
    assert_close(later.mean[0], moments.mean[0] + 0.01 * (targets[:, 0].mean() - moments.mean[0]), rtol=0.01, atol=1e-3)


def test_second_batch_by_hand() -> None:
    """First batch 0, 2 (mean 1, variance 1), second 4, 8 (mean 6, variance 4), each weighing a half.

    mean = 3.5, which is that of 0, 2, 4, 8; variance = (0 + 4 + 16 + 64) / 4 - 3.5^2 = 8.75
    """
    moments = update_moments(Moments(*torch.zeros(3, 1, dtype=F64)), torch.tensor([[0.0], [2.0]]), rate=0.05)
    moments = update_moments(moments, torch.tensor([[4.0], [8.0]]), rate=0.05)
    assert_close(moments.mean, torch.tensor([3.5], dtype=F64))
    assert_close(moments.std, torch.tensor([math.sqrt(8.75)], dtype=F64))


def test_plain_average_at_first() -> None:
    """While 1/batches > rate they are numpy's moments of everything seen so far."""
    moments, seen = fresh(), []
    for targets in batches(20):
        moments = update_moments(moments, targets, rate=0.05)
        seen.append(targets.numpy())
        assert_close(moments.mean, torch.as_tensor(np.concatenate(seen).mean(axis=0)), rtol=1e-12, atol=0)
        assert_close(moments.std, torch.as_tensor(np.concatenate(seen).std(axis=0)), rtol=1e-12, atol=0)


def test_exponential_average_afterwards() -> None:
    """Then a batch weighs `rate`, and E[x^2] - E[x]^2 of that weighting is the variance."""
    moments, first, second = fresh(), 0.0, 0.0
    for k, targets in enumerate(batches(12), start=1):
        moments = update_moments(moments, targets, rate=0.25)
        weight = max(0.25, 1 / k)
        first = (1 - weight) * first + weight * targets.mean(dim=0)
        second = (1 - weight) * second + weight * targets.square().mean(dim=0)
    assert_close(moments.mean, first, rtol=1e-12, atol=0)
    assert_close(moments.std, (second - first.square()).sqrt(), rtol=1e-9, atol=0)


def test_variance_survives_a_large_mean() -> None:
    """E[x^2] - E[x]^2 would lose all digits of a spread of 1 around 1e9."""
    moments, generator = Moments(*torch.zeros(3, 1, dtype=F64)), np.random.default_rng(0)
    seen = 1e9 + generator.standard_normal((10, 50, 1))
    for targets in seen:
        moments = update_moments(moments, torch.as_tensor(targets), rate=0.05)
    assert_close(moments.std.item(), float(seen.std()), rtol=1e-6, atol=0)


def test_moments_given_are_not_changed() -> None:
    old = fresh()
    update_moments(old, batches(1)[0], rate=0.05)
    assert all(torch.equal(a, b) for a, b in zip(old, fresh(), strict=True))


# ----------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-4)])
def test_absorb_preserves_the_outputs(dtype: torch.dtype, tolerance: float) -> None:
    """Once an objective has units, new units change no output, in whatever unit that objective is counted."""
    head, features = make_head(dtype), normal(50, 4).to(dtype)
    first, *rest = batches(8)
    head.absorb(first.to(dtype))
    before = head(features).detach()
    for targets in rest:
        units_before = head.normalised(features).detach()
        head.absorb(targets.to(dtype))
        assert not torch.allclose(head.normalised(features), units_before, rtol=1e-3)  # the units did change
        assert_close((head(features) / UNITS).detach(), before / UNITS, atol=tolerance, rtol=tolerance)


def test_targets_are_normalised_by_the_moments() -> None:
    """After the first batch its own targets have mean 0 and standard deviation 1."""
    head, targets = make_head(), batches(1)[0]
    head.absorb(targets)
    units = head.normalise(targets)
    assert_close(units.mean(dim=0), torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)
    assert_close(units.std(dim=0, correction=0), torch.ones(3, dtype=F64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_normalise_and_unnormalise_are_inverse(dtype: torch.dtype) -> None:
    moments = update_moments(fresh(), batches(3)[2], rate=0.05)
    values = batches(3)[2].to(dtype)
    back = unnormalise(normalise(values, moments), moments)
    assert back.dtype == dtype
    assert_close(back, values, rtol=1e-5 if dtype == F32 else 1e-12, atol=0)


def test_outputs_are_in_the_rewards_units() -> None:
    head, features = make_head(), normal(5, 4)
    head.absorb(batches(1)[0])
    assert_close(head(features), head.normalised(features) * head.std + head.mean)


def train_on(head: PopArtHead, factors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Many updates as a learner makes them; returns the normalised targets and the errors of the values in [0, 1]."""
    optimiser, features = torch.optim.Adam(head.parameters(), lr=0.05), normal(30, 4).float()
    units, values = [], []
    for targets in batches(40):
        targets = targets.float() * factors
        head.absorb(targets)
        units.append(head.normalise(targets))
        optimiser.zero_grad()
        (head.normalised(features) - units[-1]).square().mean().backward()
        optimiser.step()
        values.append(head(features).detach() / factors)
    return units, values


@pytest.mark.parametrize("exponent", [-30, -1, 30])
def test_powers_of_two_leave_every_bit(exponent: int) -> None:
    """Rewards in other units, by a power of two: weights, bias and normalised targets stay the same in every bit."""
    plain, scaled = make_head(F32), make_head(F32)
    plain_units, plain_values = train_on(plain, torch.ones(3))
    scaled_units, scaled_values = train_on(scaled, torch.tensor([2.0**exponent, 1.0, 2.0**-exponent]))
    assert not torch.equal(plain.weight, make_head(F32).weight)  # else nothing was learnt
    assert torch.equal(scaled.weight, plain.weight)
    assert torch.equal(scaled.bias, plain.bias)
    for a, b in zip(plain_units + plain_values, scaled_units + scaled_values, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6 / 7])
def test_an_objective_that_never_varies(constant: float, dtype: torch.dtype) -> None:
    """Its standard deviation is 0, its value the mean, its normalised targets 0, and its weights stay what they were."""
    head, features = make_head(dtype), normal(7, 4).to(dtype)
    for targets in batches(5):
        targets = targets.to(dtype)
        targets[:, 1] = constant
        head.absorb(targets)
        assert not head.normalise(targets)[:, 1].any()
    assert head.std[1] == 0
    assert_close(head(features)[:, 1], torch.full((7,), constant, dtype=dtype), rtol=1e-15, atol=0)
    assert torch.equal(head.weight[1], make_head(dtype).weight[1])
    assert (head.std[[0, 2]] > 0).all()


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("rows", [3, 30, 2048])
def test_a_constant_has_no_spread_however_it_is_summed(rows: int, dtype: torch.dtype) -> None:
    """The mean of a constant need not be that constant to the last bit; what is left over is no unit."""
    targets, moments = torch.full((rows, 1), -1e6 / 7, dtype=dtype), Moments(*torch.zeros(3, 1, dtype=F64))
    for _ in range(3):
        moments = update_moments(moments, targets, rate=0.05)
    assert moments.std == 0
    assert not normalise(targets, moments).any()


def test_an_objective_that_begins_to_vary_gets_units() -> None:
    """A first reward after a time of none: from then on it is an objective like the others."""
    head = make_head()
    quiet, loud = batches(2)
    quiet[:, 1] = 0
    head.absorb(quiet)
    head.absorb(loud)
    assert head.std[1] > 0
    assert torch.equal(head.weight[1], make_head().weight[1])
    assert head.normalise(loud)[:, 1].any()


def test_before_any_data_the_value_is_zero() -> None:
    head = make_head()
    assert not head(normal(5, 4)).any()
    assert not head.normalise(batches(1)[0]).any()


def test_disabled_is_a_linear_layer() -> None:
    head, features = make_head(enabled=False), normal(5, 4)
    targets = batches(1)[0]
    head.absorb(targets)
    assert torch.equal(head(features), torch.nn.functional.linear(features, head.weight, head.bias))
    assert torch.equal(head.normalise(targets), targets)
    assert head.batches == 0


def test_moments_are_saved_with_the_weights() -> None:
    head, copy = make_head(), PopArtHead(4, 3).double()
    head.absorb(batches(1)[0])
    copy.load_state_dict(head.state_dict())
    assert torch.equal(copy(normal(5, 4)), head(normal(5, 4)))


def test_absorb_gives_no_gradient() -> None:
    """Rescaling the head in place is no step of the graph: backward passes go on as before."""
    head, features = make_head(), normal(5, 4)
    head.absorb(batches(1)[0])
    assert head.weight.requires_grad
    assert head.weight.is_leaf
    head.normalised(features).sum().backward()
    assert_close(head.weight.grad, features.sum(dim=0).expand(3, 4))


def test_rescale_head_by_hand() -> None:
    """From mean 1, std 2 to mean 3, std 4: outputs 2 (w x + b) + 1 = 4 (w' x + b') + 3 with w' = w / 2, b' = (b - 1) / 2."""
    weight, bias = torch.tensor([[6.0]]), torch.tensor([5.0])
    old = Moments(*(torch.tensor([v], dtype=F64) for v in (1.0, 2.0, 1.0)))
    new = Moments(*(torch.tensor([v], dtype=F64) for v in (3.0, 4.0, 2.0)))
    rescale_head(weight, bias, old, new)
    assert (weight.item(), bias.item()) == (3.0, 2.0)
