"""The batched ensembles against separate networks, and what changing units does to them."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dibs_rl.popart import Moments, normalise
from dibs_rl.q_ensemble import QEnsemble

F64 = torch.float64


def make(m=3, k=2, **settings):
    torch.manual_seed(0)
    return QEnsemble(5, [8, 7], nn.ReLU, objectives=m, members=k, **settings)


def separate(m=3, k=2):
    """The same networks, one by one, from the same random numbers."""
    torch.manual_seed(0)
    layers = lambda: (nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 1))  # noqa: E731
    return [[nn.Sequential(*layers()) for _ in range(k)] for _ in range(m)]


def test_it_is_many_networks():
    inputs, found = torch.randn(20, 5), make()
    expected = torch.stack([torch.stack([net(inputs)[:, 0] for net in nets]) for nets in separate()])
    assert_close(found.normalised(inputs), expected)
    assert_close(found.least(inputs), expected.amin(dim=1))
    of_each = torch.randn(3, 20, 5)
    pairs = zip(separate(), of_each, strict=True)
    expected = torch.stack([torch.stack([net(own)[:, 0] for net in nets]) for nets, own in pairs])
    assert_close(found.normalised(of_each), expected)


def test_objectives_share_nothing():
    """The loss of one objective reaches its own members and no other."""
    ensemble = make()
    ensemble.normalised(torch.randn(20, 5))[1].square().mean().backward()
    for parameter in ensemble.parameters():
        touched = parameter.grad.view(3, 2, -1).abs().sum(dim=2) > 0
        assert touched.tolist() == [[False, False], [True, True], [False, False]]


def moments(mean, std):
    return Moments(torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64), torch.tensor(1.0, dtype=F64))


def test_new_units_change_no_value():
    """In the rewards' units every member says what it said, whatever the objectives' scales."""
    ensemble, inputs = make().double(), torch.randn(20, 5, dtype=F64)
    ensemble.change_units(moments([1.0, -50.0, 1e6], [2.0, 1e-3, 1e5]))
    before, units = ensemble(inputs).detach(), ensemble.normalised(inputs).detach()
    ensemble.change_units(moments([3.0, -50.001, 0.9e6], [0.5, 2e-3, 3e5]))
    assert before.shape == (2, 20, 3)
    assert not torch.allclose(ensemble.normalised(inputs), units, rtol=0.1)
    scale = torch.tensor([1.0, 1e-3, 1e5], dtype=F64)
    assert_close(ensemble(inputs) / scale, before / scale, rtol=1e-9, atol=1e-9)


def test_a_target_that_takes_on_the_units_stays_in_step():
    """Averaging networks is averaging values only where both count in the same units."""
    online, target, inputs = make(), make(), torch.randn(20, 5)
    for parameter in target.parameters():
        parameter.data.mul_(0.7)
    for k in range(3):
        online.absorb(torch.tensor([1e-6, 1.0, 1e6]) * (torch.randn(50, 3) + k))
        before = target(inputs).detach()
        known = bool((target.std > 0).all())
        target.change_units(online.moments)
        assert all(torch.equal(a, b) for a, b in zip(online.moments, target.moments, strict=True))
        scale = online.std.float()
        assert not known or torch.allclose(target(inputs) / scale, before / scale, rtol=1e-4, atol=1e-4)


def test_its_targets_have_mean_0_and_standard_deviation_1():
    ensemble, targets = make(), torch.tensor([1e-6, 1.0, 1e6]) * torch.randn(500, 3) + 7e-6
    ensemble.absorb(targets)
    units = normalise(targets.double(), ensemble.moments)
    assert_close(units.mean(dim=0), torch.zeros(3, dtype=F64), atol=1e-6, rtol=0)
    assert_close(units.std(dim=0, correction=0), torch.ones(3, dtype=F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("exponents", [(40, -40, 3), (-7, 0, 12)])
def test_powers_of_two_change_the_moments_alone(exponents):
    scale = torch.tensor([2.0**k for k in exponents])
    plain, scaled = make(), make()
    for k in range(5):
        targets = torch.randn(50, 3, generator=torch.Generator().manual_seed(k)) * (k + 1) + k
        plain.absorb(targets)
        scaled.absorb(targets * scale)
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain.std * scale.double(), scaled.std)


def test_without_popart_values_are_in_the_rewards_units():
    ensemble, inputs = make(popart=False), torch.randn(20, 5)
    ensemble.absorb(1e3 * torch.randn(50, 3))
    assert torch.equal(ensemble(inputs), ensemble.normalised(inputs).permute(1, 2, 0))
