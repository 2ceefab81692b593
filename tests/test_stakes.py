"""Fading: what is at stake for an objective, against NumPy and by hand, and what a learner makes of it."""

import io

import numpy as np
import pytest
import torch
from fake_envs import PointEnv, point_envs
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close
from torchjd.aggregation import ConFIG

from dibs_rl import arms
from dibs_rl.agents import DiBSA2C, DiBSPPO
from dibs_rl.envs import MultiTask
from dibs_rl.errors import UserError
from dibs_rl.returns import normalise_columns, spreads
from dibs_rl.stakes import StakeHistory

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
ROLLOUT = 4 * 16  # steps, in four worlds


def draws(rollouts, m, seed=0):
    draw = np.random.default_rng(seed)
    return [torch.as_tensor(draw.normal(3, draw.uniform(0, 2, m), (50, m)), dtype=torch.float32) for _ in range(rollouts)]


def stakes_after(rollouts, active=None):
    history = StakeHistory()
    for advantages in rollouts:
        history = history.after(spread := spreads(advantages, active))
    return history.stakes(spread)


@pytest.mark.parametrize("masked", [False, True])
def test_stakes_are_spreads_over_their_root_mean_square(masked):
    rollouts = draws(5, 3)
    active = torch.as_tensor(np.random.default_rng(1).random((50, 3)) < 0.7) if masked else None
    counted = np.ones((50, 3), dtype=bool) if active is None else active.numpy()
    columns = [[part.double().numpy()[counted[:, i], i].std() for i in range(3)] for part in rollouts]
    ratio = columns[-1] / np.sqrt(np.square(columns).mean(axis=0))
    assert_close(stakes_after(rollouts, active).numpy(), ratio / ratio.max())


def test_stakes_by_hand():
    unit = torch.tensor([1.0, 1.0], dtype=torch.float64)
    first = StakeHistory().after(unit)
    assert first.stakes(unit).tolist() == [1.0, 1.0]  # nothing else is known yet
    quieter = torch.tensor([1.0, 1 / 7], dtype=torch.float64)
    assert first.after(quieter).stakes(quieter).tolist() == pytest.approx([1.0, 0.2])  # (1/7) / sqrt((1 + 1/49) / 2)
    assert first.rollouts.tolist() == [1, 1]  # it has not changed


def test_a_reward_that_is_found_late_has_the_say_of_a_beginner():
    """Rollouts without it do not count, nor do those in which nothing but its last digit varies."""
    silent = torch.tensor([[1.0, 5.0], [-1.0, 5.000001]])
    heard = torch.tensor([[1.0, 5.0], [-1.0, 6.0]])
    assert stakes_after([silent]).tolist() == [1.0, 0.0]
    assert stakes_after([silent] * 100 + [heard]).tolist() == [1.0, 1.0]
    assert stakes_after([torch.zeros(4, 2)]).tolist() == [0.0, 0.0]


def test_units_change_and_what_is_off_is_forgotten():
    rollouts = draws(4, 2)
    history = StakeHistory()
    for advantages in rollouts[:3]:
        history = history.after(spreads(advantages))
    known = history.in_units([8.0, 1.0]).after(last := spreads(rollouts[3] * torch.tensor([8.0, 1.0])))
    assert torch.equal(known.stakes(last), stakes_after(rollouts))
    forgotten = history.in_units([0.0, 1.0]).after(spreads(rollouts[3]))
    assert forgotten.rollouts.tolist() == [1, 4]
    assert forgotten.mean_square[0] == spreads(rollouts[3])[0].square()
    assert StakeHistory().in_units([2.0, 3.0]).after(last).stakes(last).tolist() == [1.0, 1.0]


@settings(deadline=None, derandomize=True)
@given(exponents=st.lists(st.integers(-60, 60), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_powers_of_two_change_no_bit(exponents, seed):
    rollouts, factors = draws(3, 3, seed), torch.tensor([2.0**k for k in exponents])
    assert torch.equal(stakes_after(rollouts), stakes_after([part * factors for part in rollouts]))


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
@pytest.mark.parametrize("combiner", ["dibs", "upgrad", "mgda"])
def test_the_combiners_weights_are_multiplied_by_the_stakes(combiner, every, monkeypatch):
    model, found = DiBSPPO("MlpPolicy", point_envs(), combiner=combiner, bargain_every=every, fading=True, **SMALL), []
    combine = type(model)._combine

    def noted(self, jacobian):
        direction, weights = combine(self, jacobian)
        self._stakes, stakes = None, self._stakes
        _, plain = combine(self, jacobian)
        self._stakes = stakes
        found.append((jacobian, direction, weights, plain, stakes))
        return direction, weights

    monkeypatch.setattr(DiBSPPO, "_combine", noted)
    model.learn(3 * ROLLOUT, callback=(rollouts := Rollouts()))
    for jacobian, direction, weights, plain, stakes in found:
        assert_close(weights, plain * stakes.float())
        assert_close(direction, weights @ jacobian)
    assert len(rollouts.advantages) == 3
    assert torch.equal(found[-1][-1], stakes_after(rollouts.advantages))
    assert found[-1][-1].min() < 1
    assert f"{found[-1][-1][0]:.6g}" == f"{model.logger.name_to_value['train/stake/reward_0']:.6g}"


def test_a_normalised_sum_fades_in_the_same_way():
    model = DiBSPPO("MlpPolicy", point_envs(), combiner="norm-sum", preference=[1.0, 3.0], fading=True, **SMALL)
    sums = []
    original = model._policy_advantages
    model._policy_advantages = lambda: sums.append(original()) or sums[-1]
    model.learn(3 * ROLLOUT, callback=(rollouts := Rollouts()))
    weights = torch.tensor([1.0, 3.0]) * stakes_after(rollouts.advantages).float()
    expected = normalise_columns((normalise_columns(rollouts.advantages[-1]) @ weights).unsqueeze(1))
    assert_close(sums[-1], expected)


def test_tasks_of_their_own_worlds_fade_by_their_own_samples():
    env = MultiTask({"near": lambda: PointEnv(scales=(1.0,)), "far": lambda: PointEnv(scales=(1e3,), length=7)}, 4, seed=0)
    model, rollouts = DiBSPPO("MlpPolicy", env, fading=True, **SMALL), Rollouts()
    model.learn(3 * ROLLOUT, callback=rollouts)
    active = model.rollout_buffer.active_samples()
    assert active.sum(dim=0).tolist() == [ROLLOUT // 2] * 2
    assert_close(model._stakes, stakes_after(rollouts.advantages, active))


def learnt(model, steps=2 * ROLLOUT):
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
    file, whole = io.BytesIO(), DiBSPPO("MlpPolicy", point_envs(), fading=True, **SMALL).learn(2 * ROLLOUT)
    whole.save(file)
    loaded = DiBSPPO.load(file, env=point_envs(), device="cpu")
    assert loaded.fading
    assert whole._stake_history.rollouts.tolist() == [2, 2]
    spread = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    found, expected = (model._stake_history.after(spread).stakes(spread) for model in (loaded, whole))
    assert torch.equal(found, expected)
    assert not torch.equal(found, StakeHistory().after(spread).stakes(spread))


@pytest.mark.parametrize("combiner", ["dibs", "norm-sum"])
def test_who_begins_as_another_knows_what_it_knew_of_stakes(combiner):
    """In units of its own: rewards times powers of two change no bit of what is learnt then."""
    other = DiBSPPO("MlpPolicy", point_envs(), combiner=combiner, fading=True, **SMALL).learn(2 * ROLLOUT)

    def begun(factors, fading):
        model = DiBSPPO("MlpPolicy", point_envs(scales=factors), combiner=combiner, fading=fading, **SMALL)
        model.start_from(other, factors)
        return model, learnt(model)

    (plain, expected), (_, found) = (begun(factors, fading=True) for factors in ([1.0, 1.0], [2.0**20, 2.0**-20]))
    assert plain._stake_history.rollouts.tolist() == [4, 4]
    assert torch.equal(found, expected)
    assert not torch.equal(begun([1.0, 1.0], fading=False)[1], expected)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"combiner": "weighted-sum"}, "advantages without units, and weighted-sum"),
        ({"combiner": ConFIG(), "bargain_every": "minibatch"}, "ConFIG gives no weights"),
        ({"normalize_advantage": False}, "Fading is for normalised advantages"),
    ],
)
def test_who_cannot_fade(more, message):
    with pytest.raises(UserError, match=message):
        DiBSPPO("MlpPolicy", point_envs(), fading=True, **SMALL, **more)


def test_an_arm_that_cannot_fade_is_refused_before_anything_is_trained():
    assert arms.expand({"norm-sum-fading": None}, []) == {"norm-sum-fading": {"combiner": "norm-sum", "fading": True}}
    with pytest.raises(UserError, match="gives no weights"):
        arms.expand({"config": {"fading": True}}, [])
