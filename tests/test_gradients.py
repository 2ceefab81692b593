"""One gradient per objective against independent derivatives, the way back into `.grad`, and every error."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.testing import assert_close

from dibs_rl import objective_jacobian, write_gradient
from dibs_rl.errors import UserError
from dibs_rl.gradients import split_like

F32, F64 = torch.float32, torch.float64
TOLERANCE = {F32: 1e-6, F64: 1e-13}
over_dtypes = pytest.mark.parametrize("dtype", [F32, F64])


class ScaledMLP(nn.Module):
    """A small network with parameters of mixed shapes: matrices, vectors and a scalar."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5, dtype=dtype), nn.Tanh(), nn.Linear(5, 3, dtype=dtype))
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.body(x)


def network_and_batch(dtype: torch.dtype) -> tuple[ScaledMLP, Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = ScaledMLP(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return network, torch.randn(10, 4, generator=generator, dtype=dtype)


def losses_of(outputs: Tensor) -> Tensor:
    """Three losses of different shapes and scales, `[10, 3]` to `[3]`."""
    return torch.stack([outputs.square().mean(), 1e3 * torch.sin(outputs[:, 0]).sum(), 1e-3 * outputs.exp().mean()])


def assert_close_by_row(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compares each row in units of its own largest entry, because the rows' scales differ."""
    scale = expected.abs().amax(dim=1, keepdim=True)
    assert found.shape == expected.shape
    assert_close(found / scale, expected / scale, atol=tolerance, rtol=0)


@over_dtypes
def test_against_torch_func(dtype: torch.dtype) -> None:
    """Row by row what `torch.func.jacrev` finds, in the order in which the parameters are given."""
    network, batch = network_and_batch(dtype)
    params = dict(network.named_parameters())
    by_name = jacrev(lambda p: losses_of(functional_call(network, p, (batch,))))(params)
    expected = torch.cat([by_name[name].reshape(3, -1) for name in params], dim=1)
    found = objective_jacobian(losses_of(network(batch)), params.values())
    assert found.dtype == dtype
    assert not found.requires_grad
    assert_close_by_row(found, expected, TOLERANCE[dtype])


def test_against_finite_differences() -> None:
    """Central differences of width 1e-6 are right to about 1e-9 in float64, and know nothing of autograd."""
    network, batch = network_and_batch(F64)
    params = list(network.parameters())
    found = objective_jacobian(losses_of(network(batch)), params)
    columns = []
    with torch.no_grad():
        for entry in (flat[i : i + 1] for flat in (p.view(-1) for p in params) for i in range(len(flat))):
            entry += 1e-6
            above = losses_of(network(batch))
            entry -= 2e-6
            columns.append((above - losses_of(network(batch))) / 2e-6)
            entry += 1e-6
    assert_close_by_row(found, torch.stack(columns, dim=1), 1e-7)


@over_dtypes
def test_sequence_and_tensor_of_losses_agree(dtype: torch.dtype) -> None:
    network, batch = network_and_batch(dtype)
    params = list(network.parameters())
    as_tensor = objective_jacobian(losses_of(network(batch)), params)
    for container in (list, tuple, iter):
        assert torch.equal(objective_jacobian(container(list(losses_of(network(batch)))), params), as_tensor)


def test_parameters_may_be_an_iterator() -> None:
    network, batch = network_and_batch(F64)
    listed = objective_jacobian(losses_of(network(batch)), list(network.parameters()))
    assert torch.equal(objective_jacobian(losses_of(network(batch)), network.parameters()), listed)


def test_order_of_the_parameters_is_the_order_of_the_columns() -> None:
    """By hand: d(2 a + 3 b_1 + 4 b_2) is (2, 3, 4) or, with b first, (3, 4, 2)."""
    a, b = torch.tensor(1.0, requires_grad=True), torch.tensor([1.0, 1.0], requires_grad=True)
    weights = torch.tensor([3.0, 4.0])
    assert objective_jacobian([2 * a + weights @ b], [a, b]).tolist() == [[2.0, 3.0, 4.0]]
    assert objective_jacobian([2 * a + weights @ b], [b, a]).tolist() == [[3.0, 4.0, 2.0]]


def test_unreached_parameters_contribute_zeros() -> None:
    """Each loss reaches one parameter; a third is reached by none."""
    a, b, c = (torch.ones(n, requires_grad=True) for n in (2, 1, 3))
    jacobian = objective_jacobian([2 * a.sum(), 5 * b.sum()], [a, b, c])
    assert jacobian.tolist() == [[2, 2, 0, 0, 0, 0], [0, 0, 5, 0, 0, 0]]


def test_single_entry_losses_need_not_be_scalars() -> None:
    a = torch.ones(2, requires_grad=True)
    assert objective_jacobian([3 * a.sum().view(1), a.sum().view(1, 1)], [a]).tolist() == [[3, 3], [1, 1]]


def test_mixed_precision_is_promoted() -> None:
    """Rows are one vector over all parameters: its type holds every parameter's gradient."""
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, dtype=F64, requires_grad=True)
    jacobian = objective_jacobian([a.sum() + (b / 3).sum()], [a, b])
    assert jacobian.dtype == F64
    assert_close(jacobian, torch.tensor([[1, 1, 1 / 3, 1 / 3]], dtype=F64), rtol=1e-15, atol=0)


@pytest.mark.parametrize("retain", [False, True])
def test_graph_is_kept_only_on_request(retain: bool) -> None:
    network, batch = network_and_batch(F64)
    losses = losses_of(network(batch))
    first = objective_jacobian(losses, network.parameters(), retain_graph=retain)
    if retain:
        assert torch.equal(objective_jacobian(losses, network.parameters()), first)
    else:
        with pytest.raises(RuntimeError, match="second time"):
            objective_jacobian(losses, network.parameters())


def test_grad_fields_are_left_alone() -> None:
    network, batch = network_and_batch(F64)
    objective_jacobian(losses_of(network(batch)), network.parameters())
    assert all(p.grad is None for p in network.parameters())


@over_dtypes
def test_write_gradient_round_trip(dtype: torch.dtype) -> None:
    """A row of the Jacobian, written back, is what `backward` of that loss leaves in `.grad`."""
    network, batch = network_and_batch(dtype)
    params = list(network.parameters())
    losses = losses_of(network(batch))
    jacobian = objective_jacobian(losses, params, retain_graph=True)
    losses[1].backward()
    expected = [p.grad.clone() for p in params]
    write_gradient(params, jacobian[1])
    for param, gradient in zip(params, expected, strict=True):
        assert torch.equal(param.grad, gradient)


def test_write_gradient_replaces_and_owns_its_values() -> None:
    """What was in `.grad` is gone, and writing into the vector afterwards does not reach it."""
    network, _ = network_and_batch(F64)
    params = list(network.parameters())
    vector = torch.arange(float(sum(p.numel() for p in params)), dtype=F64)
    write_gradient(params, torch.full_like(vector, 7.0))
    write_gradient(iter(params), vector)
    written = vector.clone()
    vector.zero_()
    assert torch.equal(torch.cat([p.grad.flatten() for p in params]), written)
    assert [p.grad.shape for p in params] == [p.shape for p in params]


def test_write_gradient_takes_each_parameters_type() -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones((), dtype=F64, requires_grad=True)
    write_gradient([a, b], torch.tensor([1.0, 2.0, 3.0], dtype=F64))
    assert (a.grad.dtype, b.grad.dtype) == (F32, F64)
    assert (a.grad.tolist(), b.grad.item()) == ([1.0, 2.0], 3.0)


def test_split_like_gives_views() -> None:
    vector = torch.arange(7.0)
    parts = split_like(vector, [torch.empty(2, 2), torch.empty(()), torch.empty(2)])
    assert [part.tolist() for part in parts] == [[[0, 1], [2, 3]], 4, [5, 6]]
    parts[1].fill_(9.0)
    assert vector[4] == 9.0


def _parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("losses", "rule"),
    [
        (lambda p: [], r"at least one objective \(m >= 1\); found no loss"),
        (lambda p: [p.sum(), 2 * p], r"scalar; found shape \[3\] for objective 1"),
        (lambda p: torch.ones(2, 3) * p, r"scalar; found shape \[3\] for objective 0"),
        (lambda p: [p.sum(), p.sum().detach()], "loss of objective 1 has no graph"),
        (lambda p: torch.ones(2), "loss of objective 0 has no graph"),
    ],
    ids=["none", "vector", "matrix", "detached", "constant"],
)
def test_bad_losses(losses: Callable[[nn.Parameter], object], rule: str) -> None:
    parameter = _parameter()
    with pytest.raises(UserError, match=rule):
        objective_jacobian(losses(parameter), [parameter])


def test_losses_under_no_grad() -> None:
    parameter = _parameter()
    with torch.no_grad():
        loss = parameter.sum()
    with pytest.raises(UserError, match="has no graph"):
        objective_jacobian([loss], [parameter])


def test_no_parameters() -> None:
    with pytest.raises(UserError, match="at least one parameter"):
        objective_jacobian([_parameter().sum()], [])


def test_frozen_parameters_are_passed_over() -> None:
    """By hand: the columns are those of the parameter that is not frozen, twice given or not."""
    parameter, frozen = _parameter(), torch.ones(2)
    assert objective_jacobian([5 * parameter.sum()], [frozen, parameter, frozen, parameter]).tolist() == [[5, 5, 5]]
    write_gradient([frozen, parameter], torch.tensor([1.0, 2.0, 3.0]))
    assert parameter.grad.tolist() == [1, 2, 3]
    assert frozen.grad is None


def test_nothing_but_frozen_parameters() -> None:
    with pytest.raises(UserError, match="at least one parameter that needs a gradient"):
        objective_jacobian([_parameter().sum()], [torch.ones(1), torch.ones(2)])


def test_parameters_on_two_devices() -> None:
    """The meta device stands in for an accelerator, so that the test runs everywhere."""
    parameter, elsewhere = _parameter(), nn.Parameter(torch.empty(2, device="meta"))
    with pytest.raises(UserError, match="on one device; found cpu, meta"):
        objective_jacobian([parameter.sum()], [parameter, elsewhere])


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), ()])
def test_vectors_of_another_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"3 entries in all; found a vector of shape \["):
        write_gradient([_parameter()], torch.zeros(shape))
