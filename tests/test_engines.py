"""Both engines give the same numbers; the quick one is taken where, and only where, it computes the policy that there is."""

import numpy as np
import pytest
import torch
from fake_envs import point_envs
from torch import nn
from torch.testing import assert_close

from dibs_rl.agents import DiBSPPO, MlpPolicy
from dibs_rl.agents.adam import quick_step
from dibs_rl.agents.clipped_step import ClippedStep
from dibs_rl.agents.engines import AutogradEngine, engine_of
from dibs_rl.agents.perceptron_engine import PerceptronEngine
from dibs_rl.agents.side_by_side import torch_threads
from dibs_rl.losses import ppo_policy_losses

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
ORDINARY = {
    "gaussian": {"action": "box"},
    "categorical": {"action": "discrete"},
    "matrix of actions": {"action": "matrix"},
}
NETWORKS = {
    "tanh": {},
    "relu": {"activation_fn": nn.ReLU, "net_arch": {"pi": [32], "vf": [16, 8]}},
    "elu, no normalisation": {"activation_fn": nn.ELU, "normalize_obs": False},
    "no hidden layer": {"net_arch": []},
}


def trained(policy_kwargs=None, steps=128, policy="MlpPolicy", **env):
    model = DiBSPPO(policy, point_envs(4, **env), policy_kwargs=policy_kwargs or {}, **SMALL)
    return model.learn(steps)


def batch_of(model):
    whole = model.rollout_buffer.whole(model._policy_advantages(), model._value_targets())
    return whole.obs, whole.actions, whole


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", ORDINARY)
def test_the_engines_agree(case, network):
    """Scores, Jacobian, gradient with entropy, values and their gradient: to 1e-6 of the largest entry."""
    model = trained(NETWORKS[network], **ORDINARY[case])
    quick, sure = PerceptronEngine(model.policy), AutogradEngine(model.policy)
    obs, actions, batch = batch_of(model)
    a, b = quick.evaluate(quick.inputs(obs), actions), sure.evaluate(sure.inputs(obs), actions)
    assert_close(a.log_prob, b.log_prob, rtol=0, atol=4e-6)
    assert_close(a.entropy, b.entropy, rtol=1e-6, atol=1e-6)
    slopes = ppo_policy_losses(b.log_prob - batch.log_probs, batch.advantages, 0.2).slopes
    close_in_norm(a.jacobian(slopes), b.jacobian(slopes))
    close_in_norm(a.gradient(slopes[:, 0], -0.3), b.gradient(slopes[:, 0], -0.3))
    close_in_norm(a.gradient(slopes[:, 1], 0.0), b.gradient(slopes[:, 1], 0.0))
    values, expected = quick.values(quick.inputs(obs)), sure.values(sure.inputs(obs))
    assert_close(values.values, expected.values, rtol=0, atol=4e-6)
    close_in_norm(values.gradient(batch.advantages), expected.gradient(batch.advantages))


def close_in_norm(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("case", ORDINARY)
def test_they_sample_the_same_actions(case):
    model = trained(**ORDINARY[case])
    obs = batch_of(model)[0][:8]
    drawn = []
    for engine in (PerceptronEngine(model.policy), AutogradEngine(model.policy)):
        torch.manual_seed(3)
        drawn.append(engine.act(engine.inputs(obs)))
    assert_close(drawn[0], drawn[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("every", ["rollout", "epoch", "minibatch"])
def test_training_is_the_same_with_either(every, monkeypatch):
    def run():
        model = DiBSPPO("MlpPolicy", point_envs(), bargain_every=every, ent_coef=0.01, **SMALL).learn(128)
        return nn.utils.parameters_to_vector(model.policy.parameters())

    quick = run()
    monkeypatch.setattr("dibs_rl.agents.engines.is_ordinary", lambda policy: False)
    assert_close(run(), quick, rtol=0, atol=2e-4)  # Adam divides by small numbers: rounding grows


class OwnPolicy(MlpPolicy):
    """What a user may do: anything."""


@pytest.mark.parametrize(
    ("make", "quick"),
    [
        (lambda: trained(steps=64), True),
        (lambda: trained(steps=64, action="discrete"), True),
        (lambda: trained(steps=64, action="multidiscrete"), False),
        (lambda: trained(steps=64, obs="discrete"), False),
        (lambda: trained({"normalize_images": False}, 64, obs="image"), False),
        (lambda: trained(steps=64, action="multibinary"), False),
        (lambda: trained({"activation_fn": nn.GELU}, 64), False),
        (lambda: trained(steps=64, policy=OwnPolicy), False),
        (lambda: trained(steps=64, policy="MultiInputPolicy", obs="dict"), False),
        (lambda: DiBSPPO("MlpPolicy", point_envs(), use_sde=True, **SMALL).learn(64), False),
    ],
)
def test_the_quick_engine_is_taken_where_it_can_be(make, quick):
    assert isinstance(engine_of(make().policy), PerceptronEngine) is quick


def add_parameter(policy):
    policy.extra = nn.Parameter(torch.zeros(3))


def freeze_a_layer(policy):
    policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)


def double_the_output(policy):
    class Doubled(nn.Linear):
        def forward(self, features):
            return 2 * super().forward(features)

    policy.action_net.__class__ = Doubled


def hook_a_layer(policy):
    policy.mlp_extractor.value_net[0].register_forward_hook(lambda module, inputs, output: 2 * output)


@pytest.mark.parametrize("change", [add_parameter, freeze_a_layer, double_the_output, hook_a_layer])
def test_a_policy_changed_by_hand_is_not_overlooked(change):
    model = trained(steps=64)
    change(model.policy)
    assert isinstance(engine_of(model.policy), AutogradEngine)


@pytest.mark.parametrize("every", ["epoch", "minibatch"])
def test_a_frozen_layer_stays_as_it_is_and_the_others_learn(every):
    """Each gradient reaches its own parameter: what a learner without the layer's gradient would do."""
    model = DiBSPPO("MlpPolicy", point_envs(), bargain_every=every, **SMALL)
    freeze_a_layer(model.policy)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(128)
    still = {name for name, p in model.policy.named_parameters() if torch.equal(p, before[name])}
    assert still == {"mlp_extractor.policy_net.0.weight"}


def test_a_gradient_of_another_size_is_refused():
    model = trained(steps=64)
    step = ClippedStep(model.policy.optimizer, model.policy.policy_parameters(), 0.5)
    with pytest.raises(ValueError, match="found shape"):
        step.along(torch.zeros(3))


@pytest.mark.parametrize("every", ["epoch", "minibatch"])
@pytest.mark.parametrize("ends_early", [False, True])
@pytest.mark.parametrize("small", [True, False])
def test_a_critic_beside_the_policy_learns_the_same(every, ends_early, small, monkeypatch):
    """Bit for bit, also where the policy's update ends within an epoch."""
    taken, target_kl = [], 0.01 if ends_early else None
    settings = {**SMALL, "learning_rate": 0.01 if ends_early else 3e-4}
    monkeypatch.setattr("dibs_rl.agents.perceptron_engine._SMALL", 50_000 if small else 0)

    class Counting(DiBSPPO):
        def _train_critic(self, learn, batches, masks):
            taken.append(len(masks))
            return super()._train_critic(learn, batches, masks)

    def run(threads):
        with torch_threads(1):  # the networks' random start depends on torch's threads
            model = Counting("MlpPolicy", point_envs(), bargain_every=every, target_kl=target_kl, **settings)
        with torch_threads(threads):
            model.learn(192)
        return nn.utils.parameters_to_vector(model.policy.parameters()), model._n_updates

    (alone, updates), (beside, same_updates) = run(1), run(2)
    assert torch.equal(alone, beside)
    assert updates == same_updates
    assert any(0 < number < 4 for number in taken) is ends_early


def test_an_error_beside_is_raised_here(monkeypatch):
    def fail(*arguments):
        raise ArithmeticError("critic")

    monkeypatch.setattr("dibs_rl.agents.update.value_losses", fail)
    with torch_threads(2), pytest.raises(ArithmeticError, match="critic"):
        DiBSPPO("MlpPolicy", point_envs(), **SMALL).learn(64)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "eps": 1e-3}, {"amsgrad": True}, {"fused": False}])
def test_a_quick_step_is_the_optimisers_own(settings):
    """Bit for bit, with its state, whichever of the two takes the next step, and after the state is loaded."""
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 3), torch.randn(6, 5, 3)

    def run(step_of):
        weight, bias, unused = (nn.Parameter(part.clone()) for part in (start, start[0], start))
        optimizer = torch.optim.Adam([weight, bias, unused], **{"lr": 0.1, "fused": True, **settings})
        weight.grad, bias.grad = torch.empty(5, 3), torch.empty(3)
        for i, gradient in enumerate(gradients):
            weight.grad.copy_(gradient), bias.grad.copy_(gradient[1])
            step_of(optimizer, i)()
            optimizer.load_state_dict(optimizer.state_dict())
        return weight, bias, unused, optimizer

    *expected, sure = run(lambda optimizer, i: optimizer.step)
    *found, quick = run(lambda optimizer, i: optimizer.step if i == 3 else quick_step(optimizer))
    assert_close(found, expected, rtol=0, atol=0)
    assert_close(quick.state_dict()["state"], sure.state_dict()["state"], rtol=0, atol=0)


def test_a_step_that_is_listened_to_is_the_optimisers_own():
    weight, heard = nn.Parameter(torch.ones(3)), []
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(3)
    quick_step(optimizer)()
    assert quick_step(optimizer) != optimizer.step
    optimizer.register_step_post_hook(lambda *arguments: heard.append(1))
    quick_step(optimizer)()
    assert heard == [1]


def test_fused_adam_is_adam():
    """The optimiser of the small networks takes the steps of torch's plain one."""
    model = trained(steps=64)
    plain = DiBSPPO("MlpPolicy", point_envs(4), policy_kwargs={"optimizer_kwargs": {"foreach": False, "eps": 1e-5}}, **SMALL)
    assert model.policy.optimizer.defaults["fused"] is True
    assert model.policy.optimizer.defaults["eps"] == 1e-5
    assert not plain.policy.optimizer.defaults["fused"]
    plain.learn(64)
    mine, theirs = (nn.utils.parameters_to_vector(m.policy.parameters()) for m in (model, plain))
    assert_close(mine, theirs, rtol=0, atol=1e-4)
    assert np.isfinite(mine.detach().numpy()).all()
