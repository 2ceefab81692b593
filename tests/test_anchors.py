"""Distances between policies: hand-computed, by independent formulas, and what they must not depend on."""

import numpy as np
import pytest
import torch
from fake_envs import PointEnv, point_envs
from gymnasium import spaces

from dibs_rl import buffers
from dibs_rl.agents import DiBSPPO
from dibs_rl.agents.anchors import Anchors
from dibs_rl.errors import UserError

F64 = torch.float64


def policy_of(action="box", seed=0, obs="box"):
    return DiBSPPO(
        "MlpPolicy" if obs != "dict" else "MultiInputPolicy", point_envs(2, action=action, obs=obs), seed=seed
    ).policy


def saying(policy, outputs):
    """The policy made to answer every observation with the same outputs of its last layer."""
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.copy_(torch.as_tensor(outputs, dtype=torch.float32))
    return policy


def anchors_for(policies, action="box"):
    named = dict(zip(("a", "b"), policies, strict=True))
    return Anchors(named, ("a", "b"), policies[0].observation_space, policies[0].action_space)


OBS = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


def test_box_distance_by_hand():
    """Against (0.5, 1): differences 0.5 and 0, mean square 1/8. Against (-5, 1), cut off at -1: 1 and 0, mean square 1/2."""
    policy = saying(policy_of(), [0.0, 1.0])
    anchors = anchors_for([saying(policy_of(), [0.5, 1.0]), saying(policy_of(), [-5.0, 1.0])])
    assert torch.allclose(anchors.distances(policy, OBS), torch.tensor([0.125, 0.5], dtype=F64).sqrt(), atol=1e-7)


def test_box_distance_is_in_half_ranges():
    """In the range 0..10 an action of 2 and one of 7 are one half-range apart."""
    space = spaces.Box(0.0, 10.0, (2,), np.float32)
    policies = [saying(policy_of(), [outputs, outputs]) for outputs in (2.0, 7.0)]
    for policy in policies:
        policy.action_space = space
    anchors = anchors_for(policies)
    assert anchors.distances(policies[0], OBS).tolist() == pytest.approx([0.0, 1.0])


def test_an_entry_without_a_choice_adds_nothing():
    space = spaces.Box(np.array([-1.0, 3.0]), np.array([1.0, 3.0]), dtype=np.float32)
    policies = [saying(policy_of(), outputs) for outputs in ([0.0, 3.0], [1.0, -7.0])]
    for policy in policies:
        policy.action_space = space
    assert anchors_for(policies).distances(policies[0], OBS).tolist() == pytest.approx([0.0, 0.5**0.5])


def test_discrete_distance_is_hellinger():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.8])
    policy, other = (saying(policy_of("discrete"), x.log()) for x in (p, q))
    expected = ((p.double().sqrt() - q.double().sqrt()).square().sum() / 2).sqrt()  # Hellinger's own formula
    found = anchors_for([policy, other], "discrete").distances(policy, OBS)
    assert found[0] < 1e-7
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-6)


def test_multidiscrete_distance_is_that_of_the_joint_distribution():
    p, q = [torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.6])], [torch.tensor([0.1, 0.1, 0.8]), torch.tensor([0.9, 0.1])]
    policy, other = (saying(policy_of("multidiscrete"), torch.cat(x).log()) for x in (p, q))
    joint_p, joint_q = (torch.outer(*x).flatten().double() for x in (p, q))
    expected = ((joint_p.sqrt() - joint_q.sqrt()).square().sum() / 2).sqrt()
    found = anchors_for([policy, other], "multidiscrete").distances(policy, OBS)
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("action", ["box", "matrix", "discrete", "multidiscrete", "multibinary"])
@pytest.mark.parametrize("obs", ["box", "dict"])
def test_distances_are_distances(action, obs, monkeypatch):
    """0 to oneself and symmetric; the same however the observations are cut up."""
    a, b = policy_of(action, 0, obs), policy_of(action, 1, obs)
    batch = OBS if obs == "box" else {"near": OBS[:, :2], "kind": (OBS[:, 2] > 0).long()}
    to_both = anchors_for([a, b], action).distances(a, batch)
    back = anchors_for([a, b], action).distances(b, batch)
    assert to_both[0] < 1e-6
    assert to_both[1] > 1e-4
    assert to_both[1] == pytest.approx(back[0].item(), rel=1e-6)
    monkeypatch.setattr(buffers, "_CHUNK_ENTRIES", 21)
    torch.testing.assert_close(anchors_for([a, b], action).distances(a, batch), to_both, rtol=1e-6, atol=1e-8)


def test_errors_say_what_is_wrong():
    seen, space = PointEnv().observation_space, PointEnv().action_space
    with pytest.raises(UserError, match="an anchor for each of a, b; found a"):
        Anchors({"a": policy_of()}, ("a", "b"), seen, space)
    with pytest.raises(UserError, match="The anchor of b acts in Discrete"):
        Anchors({"a": policy_of(), "b": policy_of("discrete")}, ("a", "b"), seen, space)
    with pytest.raises(UserError, match="The anchor of a sees Dict"):
        Anchors({"a": policy_of(obs="dict"), "b": policy_of()}, ("a", "b"), seen, space)
    unbounded = policy_of()
    unbounded.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(UserError, match="no bounds"):
        anchors_for([unbounded, unbounded])
