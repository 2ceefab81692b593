"""`combined_backward` in every kind of training loop, against gradients that each loss's own `backward()` leaves."""

import copy
from collections.abc import Callable

import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.testing import assert_close
from torchjd.aggregation import ConFIG, Sum, UPGrad

from dibs_rl import DiBS, combined_backward, objective_jacobian, write_combined_gradient, write_gradient
from dibs_rl.diagnostics import describe_bargain, summarise
from dibs_rl.errors import NonFiniteError, UserError

Losses = Callable[[nn.Module], list[Tensor]]


class TwoHeads(nn.Module):
    """A trunk that both objectives share, a head for each, and a layer that nobody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.left, self.right = nn.Linear(8, 1), nn.Linear(8, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.left(features), self.right(features)


def seeded(kind: type[nn.Module] = TwoHeads) -> nn.Module:
    torch.manual_seed(0)
    return kind()


X = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (X @ torch.randn(4, 2, generator=torch.Generator().manual_seed(2))).tanh().T.unsqueeze(-1)


def losses_of(model: nn.Module, rows: slice = slice(None)) -> list[Tensor]:
    """Two losses of scales that have nothing in common."""
    left, right = model(X[rows])
    return [(left - TARGETS[0, rows]).square().mean(), 1e6 * (right - TARGETS[1, rows]).abs().mean()]


def reference_jacobian(model: nn.Module, losses: Losses) -> Tensor:
    """Each loss's own `backward()` on a copy of the model, one a row; zeros where it leaves nothing."""
    rows = []
    for i in range(len(losses(model))):
        twin = copy.deepcopy(model)
        losses(twin)[i].backward()
        rows.append(flat_grad(twin))
    return torch.stack(rows)


def flat_grad(model: nn.Module) -> Tensor:
    parts = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parts])


def bisector(jacobian: Tensor) -> Tensor:
    """Where two objectives of equal say go: along the sum of their unit gradients (the closed form for m = 2)."""
    total = torch.nn.functional.normalize(jacobian.double(), dim=1).sum(0)
    return total / total.norm()


def assert_follows_reference(model: nn.Module, losses: Losses = losses_of, atol: float = 1e-5) -> None:
    found = flat_grad(model).double()
    assert_close(found / found.norm(), bisector(reference_jacobian(model, losses)), atol=atol, rtol=0)
    assert found.norm() <= 1 + 1e-6


# ------------------------------------------------------------------------------------------------ what is in .grad then


def test_shared_trunk_and_heads() -> None:
    model = seeded()
    combined_backward(losses_of(model), model.parameters())
    assert_follows_reference(model)


def test_the_three_lines_and_the_one_call_agree() -> None:
    model, twin = seeded(), seeded()
    combined_backward(losses_of(model), model.parameters())
    params = list(twin.parameters())
    write_gradient(params, DiBS()(objective_jacobian(losses_of(twin), params)))
    assert torch.equal(flat_grad(model), flat_grad(twin))


@pytest.mark.parametrize("combiner", [Sum, UPGrad, ConFIG])
def test_any_torchjd_aggregator(combiner: type) -> None:
    model = seeded()
    jacobian = reference_jacobian(model, losses_of)
    record = combined_backward(losses_of(model), model.parameters(), combiner())
    expected = combiner()(jacobian)
    assert_close(flat_grad(model), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert "cosine_to_step/loss_1" in record


def test_unused_parameters_are_left_without_a_gradient() -> None:
    """As `zero_grad` and `backward` leave them: an optimiser with momentum or weight decay must pass them over."""
    model = seeded()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # of the step before
    before = copy.deepcopy(model.unused.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    combined_backward(losses_of(model), model.parameters())
    assert all(p.grad is None for p in model.unused.parameters())
    assert all(p.grad is not None for p in model.trunk.parameters())
    optimizer.step()
    assert all(torch.equal(model.unused.state_dict()[key], before[key]) for key in before)


def test_frozen_parameters_are_passed_over() -> None:
    """`model.parameters()` with a frozen part is as good as the list of what is not frozen; the part keeps its `.grad`."""
    model = seeded()
    model.trunk.requires_grad_(False)
    combined_backward(losses_of(model), model.parameters())
    assert all(p.grad is None for p in model.trunk.parameters())
    assert_follows_reference(model)
    direction = DiBS()(objective_jacobian(losses_of(model), model.parameters()))
    write_gradient(model.parameters(), 2 * direction)
    assert all(p.grad is None for p in model.trunk.parameters())
    assert_close(flat_grad(model).norm(), 2 * direction.norm())


def test_a_parameter_given_twice_counts_once() -> None:
    """The parameters of an actor and a critic with one trunk, listed one after the other."""
    model, twin = seeded(), seeded()
    twice = [*model.parameters(), *model.trunk.parameters()]
    record = combined_backward(losses_of(model), twice)
    assert record == combined_backward(losses_of(twin), twin.parameters())
    assert torch.equal(flat_grad(model), flat_grad(twin))


def test_sparse_gradients() -> None:
    """Tables whose lookups give sparse gradients, by hand: rows 0 and 1 of the table for one loss, 2 and 3 for the other."""
    table = nn.Embedding(5, 1, sparse=True)
    combined_backward([3e5 * table(torch.tensor([0, 1])).sum(), table(torch.tensor([2, 3])).sum()], table.parameters())
    assert_close(table.weight.grad.flatten(), torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]))


def test_half_precision_parameters_are_combined_in_float32() -> None:
    model = seeded()
    params = [p.detach().bfloat16().requires_grad_() for p in model.trunk.parameters()]
    losses = [(params[0] ** 2).sum(), (params[0] - 0.5).square().sum() + params[1].sum()]
    jacobian = objective_jacobian(losses, params, retain_graph=True)
    assert jacobian.dtype == torch.float32
    combined_backward(losses, params)
    found = torch.cat([p.grad.flatten() for p in params])
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, DiBS()(jacobian).bfloat16())


# ------------------------------------------------------------------------------------------------ what comes around it


def test_several_optimisers() -> None:
    """One for the trunk, one for the heads, a critic of its own: each takes its own step along its own gradients."""
    model, critic = seeded(), nn.Linear(4, 1)
    value_loss = critic(X).square().mean()
    combined_backward(losses_of(model), model.parameters())
    value_loss.backward()
    direction, value_gradient = flat_grad(model), flat_grad(critic)
    before, critic_before = flat(model), flat(critic)
    heads = [*model.left.parameters(), *model.right.parameters()]
    for parameters, rate in ((model.trunk.parameters(), 0.5), (heads, 2.0), (critic.parameters(), 3.0)):
        torch.optim.SGD(parameters, lr=rate).step()
    sizes = {"trunk": 0.5, "left": 2.0, "right": 2.0, "unused": 0.0}
    rates = torch.cat([torch.full((p.numel(),), sizes[name.split(".")[0]]) for name, p in model.named_parameters()])
    assert_close(flat(model), before - rates * direction)
    assert_close(flat(critic), critic_before - 3 * value_gradient)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_an_entropy_bonus_adds_to_the_direction_and_clipping_comes_after() -> None:
    model = seeded()
    losses = losses_of(model)
    bonus = 1e-2 * model(X)[0].exp().mean()
    combined_backward(losses, model.parameters())
    direction = flat_grad(model)
    bonus.backward()
    twin = seeded()
    (1e-2 * twin(X)[0].exp().mean()).backward()
    assert_close(flat_grad(model), direction + flat_grad(twin))
    clip_grad_norm_(model.parameters(), 0.25)
    assert_close(flat_grad(model).norm(), torch.tensor(0.25), rtol=1e-5, atol=0)


def test_graph_is_kept_on_request() -> None:
    model = seeded()
    losses = losses_of(model)
    combined_backward(losses, model.parameters(), retain_graph=True)
    first = flat_grad(model)
    combined_backward(losses, model.parameters())
    assert torch.equal(flat_grad(model), first)


def test_accumulated_jacobians_are_the_whole_batchs() -> None:
    """Quarters of a batch, added up as Jacobians and combined once, are the batch; combined and then added, they are not."""
    model = seeded()
    params = list(model.parameters())
    quarters = [slice(8 * k, 8 * k + 8) for k in range(4)]
    jacobian = sum(objective_jacobian(losses_of(model, rows), params) / 4 for rows in quarters)
    assert_close(jacobian, reference_jacobian(model, losses_of), rtol=1e-4, atol=1e-3)
    write_combined_gradient(params, jacobian)
    assert_follows_reference(model)
    added = sum(DiBS()(objective_jacobian(losses_of(model, rows), params)) / 4 for rows in quarters)
    assert torch.cosine_similarity(added, flat_grad(model), dim=0) < 0.999


# ------------------------------------------------------------------------------------------------------ mixed precision


@pytest.mark.parametrize("inside", [True, False])
def test_autocast(inside: bool) -> None:
    """Losses of a bfloat16 forward pass; whether the call stands in the autocast block or after it makes no difference."""

    def autocast_losses(network: nn.Module) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert network(X)[0].dtype == torch.bfloat16
            return losses_of(network)

    model = seeded()
    losses = autocast_losses(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
        record = combined_backward(losses, model.parameters())
        written = flat_grad(model)
        params = list(model.parameters())
        write_gradient(params, DiBS()(objective_jacobian(autocast_losses(model), params)))
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(flat_grad(model), written)
    assert_follows_reference(model, autocast_losses, atol=1e-5)
    assert record["share/loss_0"] == pytest.approx(0.5, abs=1e-5)


def scaled_step(model: nn.Module, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> None:
    """The recipe of docs/plug-in.md."""
    params = list(model.parameters())
    losses = torch.stack(losses_of(model)) * factor
    jacobian = objective_jacobian(scaler.scale(losses), params)
    finite = jacobian.isfinite().all()
    write_gradient(params, scaler.get_scale() * DiBS()(jacobian) if finite else jacobian.sum(0))
    scaler.unscale_(optimizer)
    clip_grad_norm_(params, 0.5)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**-10])
def test_a_grad_scalers_scale_changes_no_bit(scale: float) -> None:
    model, plain = seeded(), seeded()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-2) for m in (model, plain)]
    for _ in range(5):
        scaled_step(model, scaler, optimizers[0])
        params = list(plain.parameters())
        write_gradient(params, DiBS()(objective_jacobian(losses_of(plain), params)))
        clip_grad_norm_(params, 0.5)
        optimizers[1].step()
    assert torch.equal(flat(model), flat(plain))


def test_a_grad_scaler_passes_over_an_overflow() -> None:
    model = seeded()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = flat(model)
    scaled_step(model, scaler, optimizer, factor=1e38)
    assert torch.equal(flat(model), before)
    assert scaler.get_scale() == 2.0**9
    scaled_step(model, scaler, optimizer)
    assert not torch.equal(flat(model), before)


# ----------------------------------------------------------------------------------------------------- kinds of networks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch has deprecated
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_modules(backend: str) -> None:
    model = seeded()
    compiled = torch.compile(model, backend=backend)
    record = combined_backward(losses_of(compiled), model.parameters())
    assert_follows_reference(model)
    assert record["conflict_fraction"] in (0.0, 1.0)


class GivesBuffersAway(torch.autograd.Function):
    """Says what a compiled graph says where its backward pass has reused memory of the forward pass (torch 2.6 and newer)."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("This backward function was compiled with non-empty donated buffers which requires ...")
        return gradient


def test_a_compiled_graph_that_runs_backward_once_says_what_to_do() -> None:
    weight = torch.ones(3, requires_grad=True)
    shared = GivesBuffersAway.apply(weight)
    with pytest.raises(UserError, match=r"donated_buffer = False before torch\.compile"):
        combined_backward([shared.sum(), shared.square().sum()], [weight])
    combined_backward([GivesBuffersAway.apply(weight).sum()], [weight])  # one objective needs no second pass


class RecurrentPolicy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6)
        self.mean = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, _ = self.lstm(x.view(8, 4, 4))  # eight steps of four sequences
        mean = self.mean(outputs).view(32, 2)
        return mean[:, :1], mean[:, 1:]


def test_lstm_policies() -> None:
    """Through time: every loss reaches the recurrent weights over all steps of the sequences."""
    model = seeded(RecurrentPolicy)
    combined_backward(losses_of(model), model.parameters())
    assert model.lstm.weight_hh_l0.grad.abs().max() > 0
    assert_follows_reference(model)


def test_sb3_contribs_recurrent_policy() -> None:
    """The policy losses of two sets of advantages, through the LSTM; the critic's networks are left without a gradient."""
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    batch = next(model.learn(32).rollout_buffer.get(32))
    actions, mask = batch.actions.long().flatten(), batch.mask > 1e-8
    _, log_prob, _ = model.policy.evaluate_actions(batch.observations, actions, batch.lstm_states, batch.episode_starts)
    advantages = torch.randn(2, len(log_prob), generator=torch.Generator().manual_seed(0))
    losses = [-(advantages[0] * log_prob)[mask].mean(), -1e5 * (advantages[1] * log_prob)[mask].mean()]
    params = list(model.policy.parameters())
    grads = [torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True) for loss in losses]
    reached = [p for p, gradient in zip(params, grads[0], strict=True) if gradient is not None]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row if g is not None]) for row in grads])
    combined_backward(losses, params)
    found = torch.cat([p.grad.flatten() for p in reached])
    assert model.policy.lstm_actor.weight_hh_l0.grad.abs().max() > 0
    assert all(p.grad is None for p in model.policy.value_net.parameters())
    assert_close(found.double() / found.double().norm(), bisector(jacobian), atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------------------------- supervised learning


def train_supervised(scale: float, steps: int = 60) -> tuple[nn.Module, Tensor]:
    model = seeded()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        losses = losses_of(model)
        combined_backward([losses[0], scale * losses[1]], model.parameters())
        optimizer.step()
    return model, torch.stack(losses_of(model)).detach()


def test_a_supervised_loop_learns_both_tasks_whatever_their_units() -> None:
    first = torch.stack(losses_of(seeded())).detach()
    model, last = train_supervised(scale=1.0)
    assert (last < 0.8 * first).all()
    for exponent in (-40, 40):
        assert torch.equal(flat(train_supervised(2.0**exponent)[0]), flat(model))


# ------------------------------------------------------------------------------------------------------------- the record


def test_the_record_is_that_of_the_references() -> None:
    model = seeded()
    names = ("near", "far")
    record = combined_backward(losses_of(model), model.parameters(), objectives=names)
    jacobian = reference_jacobian(model, losses_of)
    combiner = DiBS()
    bargain = describe_bargain(jacobian, combiner(jacobian), combiner.weighting(jacobian), names)
    assert record == pytest.approx(summarise([bargain], names), rel=1e-4, abs=1e-5)
    assert record["gradient_norm/far"] > 1e4 * record["gradient_norm/near"]
    assert record["share/near"] == pytest.approx(0.5, abs=1e-4)


def test_a_combiners_own_names_are_taken() -> None:
    model = seeded()
    record = combined_backward(losses_of(model), model.parameters(), DiBS(objectives=["a", "b"]))
    assert {"share/a", "share/b"} <= record.keys()


@pytest.mark.parametrize("combiner", [DiBS(), DiBS(objectives=["a", "b", "c"])])
def test_names_that_do_not_fit(combiner: DiBS) -> None:
    model = seeded()
    with pytest.raises(UserError, match="One name for each of the 2 objectives; found a, b, c"):
        combined_backward(losses_of(model), model.parameters(), combiner, objectives=["a", "b", "c"])


@pytest.mark.parametrize("combiner", [None, Sum()])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named_and_nothing_is_written(combiner: Sum | None, poison: float) -> None:
    model = seeded()
    losses = losses_of(model)
    with pytest.raises(NonFiniteError, match=r"of energy\.$"):
        combined_backward([losses[0], poison * losses[1]], model.parameters(), combiner, objectives=["speed", "energy"])
    assert all(p.grad is None for p in model.parameters())


def test_everything_frozen_is_an_error() -> None:
    model = seeded()
    losses = losses_of(model)
    model.requires_grad_(False)
    with pytest.raises(UserError, match="at least one parameter that needs a gradient"):
        combined_backward(losses, model.parameters())


# --------------------------------------------------------------------------------------------------- SB3's own train()


def train_ppo(monkeypatch: pytest.MonkeyPatch, backward: Callable[[PPO, Tensor], object] | None) -> PPO:
    """SB3's PPO, untouched but for what `loss.backward()` does in its `train()`."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=128, batch_size=32, n_epochs=3, ent_coef=0.01, seed=0, device="cpu")
    with monkeypatch.context() as patch:
        if backward is not None:
            patch.setattr(Tensor, "backward", lambda loss: backward(model, loss))
        return model.learn(256)


def test_sb3s_ppo_with_our_gradients_at_one_objective_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter bit for bit, after 24 minibatches of SB3's own loss, gradient clipping and optimiser."""
    calls = []

    def ours(model: PPO, loss: Tensor) -> None:
        calls.append(combined_backward([loss], model.policy.parameters(), Sum()))

    plain, wrapped = train_ppo(monkeypatch, None), train_ppo(monkeypatch, ours)
    assert len(calls) == 24
    assert calls[-1]["share/loss_0"] == 1.0
    for name, parameter in plain.policy.named_parameters():
        assert torch.equal(parameter, wrapped.policy.get_parameter(name)), name


def test_dibs_at_one_objective_is_the_unit_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What DiBS makes of one objective: its direction. By hand in SB3's `train()`, the same parameters to rounding."""
    backward = Tensor.backward

    def normalised(model: PPO, loss: Tensor) -> None:
        model.policy.optimizer.zero_grad()
        backward(loss)
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.policy.parameters()]))
        for parameter in model.policy.parameters():
            parameter.grad /= norm

    def ours(model: PPO, loss: Tensor) -> None:
        combined_backward([loss], model.policy.parameters())

    expected, found = train_ppo(monkeypatch, normalised), train_ppo(monkeypatch, ours)
    for name, parameter in expected.policy.named_parameters():
        assert_close(found.policy.get_parameter(name), parameter, atol=1e-5, rtol=1e-4)
