"""Fading: what is at stake for an objective, against NumPy and by hand, and what a learner makes of it."""

import io

import numpy as np
import pytest
import torch
from fake_envs import point_envs
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close
from torchjd.aggregation import ConFIG

from dibs_rl.agents import DiBSA2C, DiBSPPO
from dibs_rl.errors import UserError
from dibs_rl.returns import normalise_columns
from dibs_rl.stakes import Stakes

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


def draws(rollouts, m, seed=0):
    draw = np.random.default_rng(seed)
    return [torch.as_tensor(draw.normal(3, draw.uniform(0, 2, m), (50, m)), dtype=torch.float32) for _ in range(rollouts)]


def votes_after(rollouts, active=None):
    stakes = Stakes()
    for advantages in rollouts:
        stakes = stakes.after(advantages, active)
    return stakes.votes


@pytest.mark.parametrize("masked", [False, True])
def test_votes_are_spreads_over_their_root_mean_square(masked):
    rollouts = draws(5, 3)
    active = torch.as_tensor(np.random.default_rng(1).random((50, 3)) < 0.7) if masked else None
    counted = np.ones((50, 3), dtype=bool) if active is None else active.numpy()
    columns = [[part.double().numpy()[counted[:, i], i].std() for i in range(3)] for part in rollouts]
    ratio = columns[-1] / np.sqrt(np.square(columns).mean(axis=0))
    assert_close(votes_after(rollouts, active).numpy(), ratio / ratio.max())


def test_votes_by_hand():
    unit = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    first = Stakes().after(unit)
    assert first.votes.tolist() == [1.0, 1.0]  # nothing else is known yet
    quieter = first.after(unit * torch.tensor([1.0, 1 / 7]))
    assert quieter.votes.tolist() == pytest.approx([1.0, (1 / 7) / np.sqrt((1 + 1 / 49) / 2)])  # 1/5
    assert first.rollouts.tolist() == [1, 1]
    assert first.votes.tolist() == [1.0, 1.0]  # it has not changed


def test_an_objective_without_rewards_has_no_vote_until_there_are_some():
    silent, heard = torch.tensor([[1.0, 5.0], [-1.0, 5.0]]), torch.tensor([[1.0, 5.0], [-1.0, 6.0]])
    stakes = Stakes().after(silent)
    assert stakes.votes.tolist() == [1.0, 0.0]
    assert stakes.after(heard).votes.tolist() == [1.0, 1.0]  # as at the beginning, however late it is found
    assert stakes.after(heard).after(heard).after(silent).rollouts.tolist() == [4, 2]
    assert Stakes().after(torch.zeros(4, 2)).votes.tolist() == [0.0, 0.0]


@settings(deadline=None, derandomize=True)
@given(exponents=st.lists(st.integers(-60, 60), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_powers_of_two_change_no_bit(exponents, seed):
    rollouts, factors = draws(3, 3, seed), torch.tensor([2.0**k for k in exponents])
    assert torch.equal(votes_after(rollouts), votes_after([part * factors for part in rollouts]))


class Rollouts(BaseCallback):
    """The advantages of each rollout."""

    def __init__(self):
        super().__init__()
        self.advantages = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.advantages.append(self.model.rollout_buffer.advantages.flatten(0, 1).clone())


@pytest.mark.parametrize("every", ["epoch", "rollout", "minibatch"])
def test_the_combiners_weights_are_multiplied_by_the_votes(every, monkeypatch):
    model, found = DiBSPPO("MlpPolicy", point_envs(), bargain_every=every, fading=True, **SMALL), []
    combine = type(model)._combine

    def noted(self, jacobian):
        direction, weights = combine(self, jacobian)
        self.fading, stakes, self._stakes = False, self._stakes, Stakes()
        _, plain = combine(self, jacobian)
        self.fading, self._stakes = True, stakes
        found.append((jacobian, direction, weights, plain, stakes.votes))
        return direction, weights

    monkeypatch.setattr(DiBSPPO, "_combine", noted)
    model.learn(3 * 32, callback=(rollouts := Rollouts()))
    for jacobian, direction, weights, plain, votes in found:
        assert_close(weights, plain * votes.float())
        assert_close(direction, weights @ jacobian)
    assert torch.equal(found[-1][-1], votes_after(rollouts.advantages))
    assert found[-1][-1].min() < 1
    assert f"{found[-1][-1][0]:.6g}" == f"{model.logger.name_to_value['train/vote/reward_0']:.6g}"


def test_a_normalised_sum_fades_in_the_same_way():
    model = DiBSPPO("MlpPolicy", point_envs(), combiner="norm-sum", preference=[1.0, 3.0], fading=True, **SMALL)
    sums = []
    original = model._policy_advantages
    model._policy_advantages = lambda: sums.append(original()) or sums[-1]
    model.learn(3 * 32, callback=(rollouts := Rollouts()))
    del model._policy_advantages
    weights = torch.tensor([1.0, 3.0]) * votes_after(rollouts.advantages).float()
    expected = normalise_columns((normalise_columns(rollouts.advantages[-1]) @ weights).unsqueeze(1))
    assert_close(sums[-1], expected)


def learnt(model, steps=96):
    model.learn(steps, reset_num_timesteps=False)
    return parameters_to_vector(model.policy.parameters())


@pytest.mark.parametrize("learner", [DiBSPPO, DiBSA2C])
def test_a_single_reward_does_not_fade(learner):
    same = [
        learnt(learner("MlpPolicy", point_envs(scales=(1.0,)), fading=fading, n_steps=16, seed=0, device="cpu"))
        for fading in (False, True)
    ]
    assert torch.equal(*same)


def test_a_loaded_model_goes_on_with_what_it_knows():
    file, whole = io.BytesIO(), DiBSPPO("MlpPolicy", point_envs(), fading=True, **SMALL)
    whole.learn(96)
    whole.save(file)
    loaded = DiBSPPO.load(file, env=point_envs(), device="cpu")
    assert loaded.fading
    assert whole._stakes.rollouts.tolist() == [2, 2]
    for known in ("rollouts", "mean_square"):
        assert torch.equal(getattr(loaded._stakes, known), getattr(whole._stakes, known))


def test_who_begins_as_another_knows_what_it_knew_of_stakes():
    """In units of its own: rewards times powers of two change no bit of what is learnt then."""
    other = DiBSPPO("MlpPolicy", point_envs(), fading=True, **SMALL).learn(96)

    def begun(factors, fading):
        model = DiBSPPO("MlpPolicy", point_envs(scales=factors), fading=fading, **SMALL)
        model.start_from(other, factors)
        return model, learnt(model)

    (plain, expected), (_, found) = (begun(factors, fading=True) for factors in ([1.0, 1.0], [2.0**20, 2.0**-20]))
    assert plain._stakes.rollouts.tolist() == [4, 4]
    assert torch.equal(found, expected)
    assert not torch.equal(begun([1.0, 1.0], fading=False)[1], expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"combiner": "weighted-sum"}, "in the weights of a plain sum already"),
        ({"combiner": ConFIG(), "bargain_every": "minibatch"}, "ConFIG gives no weights"),
    ],
)
def test_who_cannot_fade(more, message):
    with pytest.raises(UserError, match=message):
        DiBSPPO("MlpPolicy", point_envs(), fading=True, **SMALL, **more)
