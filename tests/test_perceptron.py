"""The perceptron's backward pass by hand against autograd's."""

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dibs_rl.gradients import split_like
from dibs_rl.perceptron import ACTIVATIONS, Perceptron, is_perceptron

F64 = torch.float64


def layers(activation, sizes, dtype=F64):
    linear = [nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(sizes)]
    found = [linear[0]]
    for layer in linear[1:]:
        found += [activation(), layer]
    return found


SHAPES = [(5, 3), (4, 8, 2), (17, 64, 64, 6), (3, 5, 40, 7, 1)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_forward_gradient_and_jacobian_are_autograds(activation, sizes):
    torch.manual_seed(0)
    modules = layers(activation, sizes)
    net, inputs = Perceptron(modules), torch.randn(50, sizes[0], dtype=F64)
    error, coefficients = torch.randn(50, sizes[-1], dtype=F64), torch.randn(50, 4, dtype=F64)

    outputs = nn.Sequential(*modules)(inputs)
    with torch.no_grad():
        assert_close(net.forward(inputs), outputs.detach())

    def by_autograd(loss_error):
        return torch.autograd.grad(outputs, net.parameters, loss_error, retain_graph=True)

    parts = [torch.full_like(p, torch.nan).detach() for p in net.parameters]
    net.write_gradient(error, parts)
    assert_close(parts, list(by_autograd(error)))

    jacobian = torch.full((4, sum(p.numel() for p in net.parameters)), torch.nan, dtype=F64)
    net.write_jacobian(error, coefficients, jacobian)
    for k, row in enumerate(jacobian):
        expected = by_autograd(coefficients[:, k : k + 1] * error)
        assert_close(split_like(row, net.parameters), list(expected))


def test_quick_tanh_is_tanh():
    """Within two units in the last place of 1, over the whole range and at its ends."""
    z = torch.cat([torch.linspace(-20, 20, 100_001), torch.tensor([0.0, 1e-30, -1e-8, 1e4, -1e4])])
    found = ACTIVATIONS[nn.Tanh].apply(ACTIVATIONS[nn.Tanh].gain * z)
    assert (found.double() - z.double().tanh()).abs().max() < 2.4e-7
    assert found.abs().max() <= 1
    assert ACTIVATIONS[nn.Tanh].apply(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([nn.Linear(2, 2)], True),
        ([nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)], True),
        ([nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)], False),
        ([nn.Linear(2, 2), nn.ELU(alpha=0.5), nn.Linear(2, 2)], False),
        ([nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)], False),
        ([nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2, bias=False)], False),
        ([nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)], False),
        ([nn.Linear(2, 2), nn.Tanh()], False),
    ],
)
def test_what_a_perceptron_is(modules, expected):
    assert is_perceptron(modules) is expected
