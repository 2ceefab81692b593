"""PPO's, A2C's and SAC's losses by hand, and their companions for the log against autograd and closed forms."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from dibs_rl.losses import (
    a2c_policy_losses,
    approximate_kl,
    ensemble_losses,
    ppo_policy_losses,
    sac_policy_losses,
    value_losses,
)

F32, F64 = torch.float32, torch.float64


def log_ratios(*ratios: float) -> Tensor:
    return torch.tensor(ratios, dtype=F64).log()


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate"),
    [
        (1.0, 2.0, 2.0),  # inside: 1 * 2
        (1.1, 2.0, 2.2),  # inside: 1.1 * 2
        (1.5, 2.0, 2.4),  # above, good action: min(1.5 * 2, 1.2 * 2), clipped
        (0.5, 2.0, 1.0),  # below, good action: min(0.5 * 2, 0.8 * 2), not clipped, so that it may come back
        (1.5, -2.0, -3.0),  # above, bad action: min(-3.0, -2.4), not clipped
        (0.5, -2.0, -1.6),  # below, bad action: min(-1.0, -1.6), clipped
        (1.5, 0.0, 0.0),
    ],
)
def test_one_sample_by_hand(ratio: float, advantage: float, surrogate: float) -> None:
    """Clip range 0.2: the surrogate is min(r A, clip(r, 0.8, 1.2) A), and the loss is minus that."""
    loss = ppo_policy_losses(log_ratios(ratio), torch.tensor([[advantage]], dtype=F64), 0.2).losses
    assert_close(loss, torch.tensor([-surrogate], dtype=F64))


def test_each_objective_has_its_own_clip() -> None:
    """Ratios 1.5 and 0.5, clip range 0.2; the advantages' signs differ between the objectives.

    first:  (min(3, 2.4) + min(-0.5, -0.8)) / 2 = (2.4 - 0.8) / 2 = 0.8
    second: (min(-1.5, -1.2) + min(2, 3.2)) / 2 = (-1.5 + 2) / 2 = 0.25
    """
    advantages = torch.tensor([[2.0, -1.0], [-1.0, 4.0]], dtype=F64)
    losses = ppo_policy_losses(log_ratios(1.5, 0.5), advantages, 0.2).losses
    assert_close(losses, torch.tensor([-0.8, -0.25], dtype=F64))


def random_batch(seed: int = 0, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Ratios well on both sides of the clip, advantages of both signs."""
    generator = torch.Generator().manual_seed(seed)
    log_ratio = 0.4 * torch.randn(200, generator=generator, dtype=dtype)
    return log_ratio, torch.randn(200, 3, generator=generator, dtype=dtype)


def losses_only(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    return ppo_policy_losses(log_ratio, advantages, clip_range).losses


def test_at_ratio_one_the_gradient_is_the_policy_gradient() -> None:
    """Where old and new policy agree, d loss_i / d log_ratio_b is -A_bi / b."""
    _, advantages = random_batch()
    found = ppo_policy_losses(torch.zeros(200, dtype=F64), advantages, 0.2)
    assert_close(found.slopes, -advantages / 200)
    assert_close(torch.func.jacrev(losses_only)(torch.zeros(200, dtype=F64), advantages, 0.2), found.slopes.T)


@pytest.mark.parametrize("clip_range", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_slopes_are_what_autograd_says(seed: int, clip_range: float) -> None:
    log_ratio, advantages = random_batch(seed)
    assert_close(
        ppo_policy_losses(log_ratio, advantages, clip_range).slopes,
        torch.func.jacrev(losses_only)(log_ratio, advantages, clip_range).T,
    )


@pytest.mark.parametrize("exponent", [-40, 40])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_powers_of_two_scale_exactly(exponent: int, dtype: torch.dtype) -> None:
    log_ratio, advantages = random_batch(dtype=dtype)
    factors = torch.tensor([1.0, 2.0**exponent, 2.0], dtype=dtype)
    plain, scaled = (ppo_policy_losses(log_ratio, a, 0.2) for a in (advantages, factors * advantages))
    assert torch.equal(scaled.losses, factors * plain.losses)
    assert torch.equal(scaled.slopes, factors * plain.slopes)
    assert torch.equal(scaled.clip_fractions, plain.clip_fractions)


@pytest.mark.parametrize("clip_range", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_clip_fraction_is_the_fraction_without_gradient(seed: int, clip_range: float) -> None:
    """What autograd says of the loss itself: a clipped sample contributes nothing to the gradient."""
    log_ratio, advantages = random_batch(seed)
    jacobian = torch.func.jacrev(losses_only)(log_ratio, advantages, clip_range)
    without_gradient = (jacobian == 0).double().mean(dim=1)
    assert 0 < without_gradient.min() < without_gradient.max() < 1
    assert_close(ppo_policy_losses(log_ratio, advantages, clip_range).clip_fractions, without_gradient)


def test_clip_fractions_by_hand() -> None:
    """Ratios 1.5, 1.1, 0.9, 0.5: a good action is clipped at 1.5 only, a bad one at 0.5 only, one of no worth never."""
    advantages = torch.tensor([1.0, -1.0, 0.0], dtype=F64).expand(4, 3)
    fractions = [ppo_policy_losses(log_ratios(*r), advantages, 0.2).clip_fractions for r in (RATIOS, MANY_ABOVE)]
    assert [f.tolist() for f in fractions] == [[0.25, 0.25, 0.0], [0.75, 0.25, 0.0]]


RATIOS, MANY_ABOVE = (1.5, 1.1, 0.9, 0.5), (1.5, 1.4, 1.3, 0.5)


def test_value_losses_by_hand() -> None:
    """First head: (1 + 9) / 2; second: (0 + 4) / 2. Heads are not added up."""
    predictions = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    targets = torch.tensor([[2.0, 5.0], [5.0, 3.0]])
    losses, slopes = value_losses(predictions, targets)
    assert losses.tolist() == [5.0, 2.0]
    assert slopes.tolist() == [[-1.0, 0.0], [-3.0, 2.0]]  # 2 (prediction - target) / 2


def test_approximate_kl_by_hand() -> None:
    """r - 1 - log r at r = 1 and r = e: 0 and e - 2."""
    assert_close(approximate_kl(torch.tensor([0.0, 1.0], dtype=F64)), torch.tensor((torch.e - 2) / 2, dtype=F64))


def test_approximate_kl_is_never_negative() -> None:
    log_ratio, _ = random_batch()
    assert all(approximate_kl(one) >= 0 for one in log_ratio.split(1))
    assert approximate_kl(torch.zeros(5)) == 0


def test_approximate_kl_estimates_the_divergence() -> None:
    """Its mean over samples of the old policy is KL(old || new); for two Gaussians that is known."""
    torch.manual_seed(0)
    old, new = Normal(0.0, 1.0), Normal(0.2, 1.1)
    samples = old.sample((200_000,))
    estimate = approximate_kl(new.log_prob(samples) - old.log_prob(samples))
    assert_close(estimate, kl_divergence(old, new), rtol=0.03, atol=0)


def test_a2c_by_hand() -> None:
    """Two samples, two objectives: -(A_1 log pi_1 + A_2 log pi_2) / 2, with slopes -A / 2."""
    log_prob = torch.tensor([-1.0, -3.0], dtype=F64)
    advantages = torch.tensor([[2.0, -1.0], [4.0, 0.5]], dtype=F64)
    found = a2c_policy_losses(log_prob, advantages)
    assert_close(found.losses, torch.tensor([7.0, 0.25], dtype=F64))
    assert_close(found.slopes, torch.tensor([[-1.0, 0.5], [-2.0, -0.25]], dtype=F64))
    assert found.clip_fractions is None


def test_a2c_is_ppo_at_ratio_one() -> None:
    """Where old and new policy agree, both have the policy gradient's slopes."""
    log_ratio, advantages = random_batch()
    ppo = ppo_policy_losses(torch.zeros_like(log_ratio), advantages, 0.2)
    assert_close(a2c_policy_losses(log_ratio, advantages).slopes, ppo.slopes)


def test_sacs_losses_are_minus_the_values_of_the_policys_actions() -> None:
    """Values Q_1 = a b, Q_2 = a^2 at actions (a, b) that depend on theta: value and gradient by the chain rule."""
    theta = torch.tensor([0.5, -2.0], dtype=F64, requires_grad=True)
    states = torch.tensor([[1.0], [3.0]], dtype=F64)
    actions = theta * states
    a, b = actions.detach().unbind(dim=1)
    values, slopes = torch.stack([a * b, a.square()]), torch.stack([torch.stack([b, a], 1), torch.stack([2 * a, 0 * a], 1)])
    losses = sac_policy_losses(actions, values, slopes)
    exact = -torch.stack([actions.prod(dim=1), actions[:, 0].square()]).mean(dim=1)
    assert_close(losses, exact)
    for found, expected in zip(losses, exact, strict=True):
        gradients = [torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in (found, expected)]
        assert_close(*gradients)


def test_an_ensembles_loss_by_hand() -> None:
    """Objective 1: members 1, 3 and 2, 2 against targets 1, 1: ((0 + 4) + (1 + 1)) / 2 / 2. Objective 2: all right."""
    predictions = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[5.0, 6.0], [5.0, 6.0]]], dtype=F64)
    targets = torch.tensor([[1.0, 1.0], [5.0, 6.0]], dtype=F64)
    assert_close(ensemble_losses(predictions, targets), torch.tensor([1.5, 0.0], dtype=F64))
