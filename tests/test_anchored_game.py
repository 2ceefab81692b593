"""The anchored game in the learners and in a small MOMDP whose solution is known independently; experts and their files."""

import numpy as np
import pytest
import torch
from fake_envs import PointEnv, point_envs
from scipy.optimize import fsolve

from dibs_rl import dibs_weights
from dibs_rl.agents import DiBSA2C, DiBSPPO, DiBSSAC
from dibs_rl.agents.anchors import Anchors
from dibs_rl.agents.experts import expert_facts, read_experts, write_experts
from dibs_rl.errors import UserError
from dibs_rl.units import cosines, unit_rows

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
NAMES = ("reward_0", "reward_1")
GAMMA, TAU = 0.9, 0.5  # discount factor, weight of the entropy


# A MOMDP of two states and two actions: dynamics `[state, action, next state]`, rewards `[state, action, objective]`, and an
# entropy bonus in each objective, so that its best policies are not deterministic. A policy is given by its logits: the
# probability of action 1 in state s is the sigmoid of logit s.


def momdp(seed):
    draw = np.random.default_rng(seed)
    return draw.dirichlet([1.0, 1.0], size=(2, 2)), draw.normal(size=(2, 2, 2))


def soft_values(logits, dynamics, rewards):
    """Discounted rewards and entropies of a policy, `[objective]`, from a uniform start; also for complex logits."""
    pi = 1 / (1 + np.exp(-logits))
    p = np.stack([1 - pi, pi], axis=1)
    entropy = -(p * np.log(p)).sum(axis=1)
    step, reward = np.einsum("sa,sat->st", p, dynamics), np.einsum("sa,sai->si", p, rewards) + TAU * entropy[:, None]
    return np.linalg.solve(np.eye(2) - GAMMA * step, reward).mean(axis=0)


def best_for(i, dynamics, rewards):
    """Logits of objective i's best policy, by soft value iteration."""
    values = np.zeros(2)
    for _ in range(1000):
        q = rewards[:, :, i] + GAMMA * dynamics @ values
        values = TAU * np.logaddexp(q[:, 0] / TAU, q[:, 1] / TAU)
    return (q[:, 1] - q[:, 0]) / TAU


def distance(logits, anchor, dynamics):
    """Root mean square Hellinger distance over the discounted visits of the policy's own states."""
    pi, best = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-anchor))
    step = np.einsum("sa,sat->st", np.stack([1 - pi, pi], axis=1), dynamics)
    visits = (1 - GAMMA) * np.linalg.solve((np.eye(2) - GAMMA * step).T, np.full(2, 0.5))
    return np.sqrt(visits @ (1 - np.sqrt((1 - pi) * (1 - best)) - np.sqrt(pi * best)))


def played(seed, preference, steps=1500):
    """Logits at which the anchored game ends, with exact gradients by autograd."""
    dynamics, rewards = momdp(seed)
    anchors = [best_for(i, dynamics, rewards) for i in range(2)]
    t_dynamics, t_rewards = torch.tensor(dynamics), torch.tensor(rewards)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for k in range(steps):
        p = torch.stack([(-logits).sigmoid(), logits.sigmoid()], dim=1)
        entropy = -(p * p.log()).sum(dim=1, keepdim=True)
        step, reward = torch.einsum("sa,sat->st", p, t_dynamics), torch.einsum("sa,sai->si", p, t_rewards) + TAU * entropy
        values = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - GAMMA * step, reward).mean(dim=0)
        gradients = torch.stack([torch.autograd.grad(value, logits, retain_graph=True)[0] for value in values])
        distances = [distance(logits.detach().numpy(), anchor, dynamics) for anchor in anchors]
        units, _ = unit_rows(gradients)
        with torch.no_grad():
            logits += 1 / (1 + 0.1 * k) * (dibs_weights(cosines(units), distances=distances, preference=preference) @ units)
    return logits.detach().numpy()


@pytest.mark.parametrize(("seed", "preference"), [(0, (1.0, 1.0)), (0, (3.0, 1.0)), (1, (1.0, 2.0)), (3, (1.0, 1.0))])
def test_a_tabular_momdp_ends_where_it_should(seed, preference):
    """Where gradients are opposite and preference times distance is equal: two equations, solved without any game."""
    dynamics, rewards = momdp(seed)
    anchors = [best_for(i, dynamics, rewards) for i in range(2)]

    def equations(logits):
        nudged = [soft_values(logits + 1e-30j * direction, dynamics, rewards) for direction in np.eye(2)]
        a, b = np.imag(nudged).T / 1e-30  # gradients, exact: complex steps cancel nothing
        pulls = [p * distance(logits, anchor, dynamics) for p, anchor in zip(preference, anchors, strict=True)]
        return [(a[0] * b[1] - a[1] * b[0]) / np.linalg.norm(a) / np.linalg.norm(b), pulls[0] - pulls[1]]

    expected = fsolve(equations, (anchors[0] + anchors[1]) / 2)
    assert np.allclose(equations(expected), 0, atol=1e-8)
    assert np.allclose(played(seed, preference), expected, atol=2e-3)


def quick_ppo(**kwargs):
    task = {name: kwargs.pop(name) for name in ("scales", "action") if name in kwargs}
    return DiBSPPO("MlpPolicy", point_envs(3, **task), **SMALL, **kwargs)


def policies(*seeds, action="box"):
    envs = point_envs(1, action=action)
    return {name: DiBSPPO("MlpPolicy", envs, seed=seed).policy for name, seed in zip(NAMES, seeds, strict=True)}


@pytest.mark.parametrize("learner", ["ppo", "a2c"])
def test_votes_are_preference_times_distance(learner):
    given = {"anchors": policies(1, 2), "preference": [3.0, 1.0]}
    steps = {"n_steps": 16, "seed": 0, "device": "cpu"}
    model = quick_ppo(**given) if learner == "ppo" else DiBSA2C("MlpPolicy", point_envs(3), **given, **steps)
    before = model._preferred
    recorded = {}
    measure = before.distances
    before.distances = lambda *given: recorded.setdefault(len(recorded), measure(*given))
    model.learn(16 * 3)
    log = model.logger.name_to_value
    (distances,) = recorded.values()  # once a rollout
    pulls = torch.tensor([3.0, 1.0]) * distances
    assert [log[f"train/anchor_distance/{name}"] for name in NAMES] == pytest.approx(distances.tolist())
    assert [log[f"train/share/{name}"] for name in NAMES] == pytest.approx((pulls / pulls.sum()).tolist(), rel=1e-5)


def test_an_objective_that_has_what_it_wants_does_not_vote():
    own = quick_ppo().policy
    model = quick_ppo(anchors={NAMES[0]: own, NAMES[1]: policies(1, 2)[NAMES[1]]}).learn(16 * 3)
    assert model.logger.name_to_value["train/share/reward_0"] == 0
    assert model.logger.name_to_value["train/share/reward_1"] == 1


@pytest.mark.parametrize("exponents", [(40, -40), (-3, 12)])
@pytest.mark.parametrize(
    ("learner", "action"), [("ppo", "box"), ("ppo", "discrete"), ("ppo", "multidiscrete"), ("a2c", "box"), ("sac", "box")]
)
def test_powers_of_two_change_no_bit(learner, action, exponents):
    def trained(scales):
        if learner == "ppo":
            return quick_ppo(scales=scales, action=action, anchors=policies(1, 2, action=action)).learn(16 * 3 * 4)
        if learner == "a2c":
            envs = point_envs(3, scales=scales, action=action)
            return DiBSA2C("MlpPolicy", envs, anchors=policies(1, 2), seed=0, device="cpu").learn(5 * 3 * 20)
        settings = {"learning_starts": 20, "batch_size": 16, "gradient_steps": 4, "seed": 0, "device": "cpu"}
        anchors = {name: DiBSSAC("MlpPolicy", point_envs(1), seed=i).policy for i, name in enumerate(NAMES)}
        return DiBSSAC("MlpPolicy", point_envs(2, scales=scales), anchors=anchors, **settings).learn(120)

    plain, scaled = trained((1.0, 1.0)), trained(tuple(2.0**k for k in exponents))
    for name, value in plain.policy.named_parameters():
        if "critic" not in name and "value" not in name:
            assert torch.equal(value, dict(scaled.policy.named_parameters())[name]), name


def test_a_saved_model_keeps_its_anchors(tmp_path):
    model = quick_ppo(anchors=policies(1, 2)).learn(16 * 3)
    model.save(tmp_path / "model.zip")
    loaded = DiBSPPO.load(tmp_path / "model.zip", env=point_envs(3))
    obs = torch.randn(7, 3)
    assert torch.equal(loaded._preferred.distances(model.policy, obs), model._preferred.distances(model.policy, obs))
    loaded.learn(16 * 3, reset_num_timesteps=False)


def test_anchors_are_for_dibs():
    with pytest.raises(UserError, match="game of DiBS"):
        quick_ppo(anchors=policies(1, 2), combiner="norm-sum")


def saved_experts(folder):
    models = {}
    for seed, name in enumerate(NAMES):
        models[name] = folder / f"{name}.zip"
        DiBSPPO("MlpPolicy", point_envs(1), **SMALL | {"seed": seed}).learn(16).save(models[name])
    write_experts(folder, models, {"env": "Point-v0"})
    return models


def test_experts_are_read_as_they_were_saved(tmp_path):
    models = saved_experts(tmp_path)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = read_experts(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)  # reading draws nothing from anybody's generator
    obs = np.random.default_rng(0).normal(size=(9, 3))
    for name, file in models.items():
        saved = DiBSPPO.load(file)
        assert np.array_equal(found[name].predict(obs, deterministic=True)[0], saved.predict(obs, deterministic=True)[0])
    assert expert_facts(tmp_path)["env"] == "Point-v0"
    quick_ppo(anchors=tmp_path).learn(16 * 3)


def test_broken_and_foreign_experts_get_one_line(tmp_path):
    with pytest.raises(UserError, match="is no folder of experts"):
        read_experts(tmp_path)
    models = saved_experts(tmp_path)
    with open(models[NAMES[1]], "ab") as stream:
        stream.write(b"x")
    with pytest.raises(UserError, match="is not the one that was trained"):
        read_experts(tmp_path)
    models[NAMES[1]].unlink()
    with pytest.raises(UserError, match="is missing"):
        read_experts(tmp_path)
    models[NAMES[1]].write_bytes(b"no archive")
    write_experts(tmp_path, models, {"env": "Point-v0"})
    with pytest.raises(UserError, match="is no model file"):
        read_experts(tmp_path)
    fine = tmp_path / "other"
    fine.mkdir()
    saved_experts(fine)
    with pytest.raises(UserError, match="an anchor for each of reward_0, reward_1, reward_2"):
        DiBSPPO("MlpPolicy", point_envs(1, scales=(1.0, 1.0, 1.0)), anchors=fine, **SMALL)


def test_point_env_has_the_names_used_here():
    assert quick_ppo().objectives == NAMES
    assert PointEnv().action_space.is_bounded()


def test_anchors_are_asked_where_the_policy_is(monkeypatch):
    """The meta device stands in for a GPU: what is left on the processor stops there, too."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # that looks at numbers, and meta has none
    anchors = policies(1, 2)
    policy = DiBSPPO("MlpPolicy", point_envs(1), seed=0).policy.to("meta")
    obs = torch.zeros(4, *policy.observation_space.shape, device="meta")
    found = Anchors(anchors, NAMES, policy.observation_space, policy.action_space, "meta").distances(policy, obs)
    assert found.shape == (2,)
    assert all(anchor.device.type == "cpu" for anchor in anchors.values())  # those are saved with the model
    with pytest.raises(RuntimeError, match="device"):
        Anchors(anchors, NAMES, policy.observation_space, policy.action_space).distances(policy, obs)
