"""`MOEvalCallback`: evaluation by name, and the best model by a rule; the rules against closed forms."""

import numpy as np
import pytest
from fake_envs import PointEnv, point_envs
from hypothesis import given, settings
from hypothesis import strategies as st
from mo_gymnasium.wrappers import LinearReward
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from dibs_rl.agents import SB3PPO, DiBSPPO, MOEvalCallback
from dibs_rl.envs import MOVecNormalize, as_vector_env
from dibs_rl.errors import UserError
from dibs_rl.selection import hypervolume, maximin, preferred_sum

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
EVERY = {"eval_freq": 8, "n_eval_episodes": 3, "verbose": 0}


def learn(callback, steps=128, folder=None, env=None):
    model = DiBSPPO("MlpPolicy", env or point_envs(), **SMALL)
    if folder is not None:
        model.set_logger(configure(str(folder), ["csv"]))
    model.learn(steps, callback=callback)
    model.logger.close()
    return model


def scripted(scores):
    """A rule that has made up its mind already."""
    rest = iter(scores)
    return lambda _returns: next(rest)


# ------------------------------------------------------------------------------------------------------------ the rules


def test_maximin_by_hand():
    """Scores 0.5 and 0.25, and -1 where an objective is as far below its low as its high is above."""
    rule = maximin(low={"speed": 0, "energy": -400}, high={"speed": 10, "energy": 0})
    assert rule({"speed": 5.0, "energy": -300.0}) == 0.25
    assert rule({"energy": 0.0, "speed": -10.0}) == -1.0


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=6), st.floats(1e-3, 1e3))
def test_maximin_and_hypervolume_order_policies_alike_in_any_units(policies, scale):
    """Rescaling an objective together with its reference scales changes no decision."""

    def best(rule, factor):
        values = [rule({"a": factor * a, "b": b}) for a, b in policies]
        return [value >= max(values) - 1e-9 * max(1.0, abs(max(values))) for value in values]

    assert best(maximin({"a": -200, "b": -200}, {"a": 200, "b": 200}), 1.0) == best(
        maximin({"a": -200 * scale, "b": -200}, {"a": 200 * scale, "b": 200}), scale
    )
    volumes = [hypervolume({"a": r, "b": -101}) for r in (-101, -101 * scale)]
    assert [v({"a": f * a, "b": b}) / f for v, f in zip(volumes, (1.0, scale), strict=True) for a, b in policies[:1]] == (
        pytest.approx([(policies[0][0] + 101) * (policies[0][1] + 101)] * 2, rel=1e-9)
    )


@pytest.mark.parametrize(("returns", "volume"), [((3.0, 4.0, 2.0), 2 * 3 * 1), ((3.0, 0.5, 2.0), 0), ((1.0, 4.0, 2.0), 0)])
def test_hypervolume_by_hand(returns, volume):
    rule = hypervolume({"a": 1, "b": 1, "c": 1})
    assert rule(dict(zip("abc", returns, strict=True))) == volume


def test_preferred_sum_by_hand():
    assert preferred_sum({"a": 1, "c": 0.1})({"a": 2.0, "b": 100.0, "c": 5.0}) == 2.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: maximin({"a": 0}, {"b": 1}), "same objectives; found a and b"),
        (lambda: maximin({"a": 0, "b": 2}, {"a": 1, "b": 2}), "high is above low .* for b"),
        (lambda: preferred_sum({}), "at least one objective"),
        (lambda: hypervolume({}), "at least one objective"),
        (lambda: preferred_sum({"c": 1})({"a": 1.0, "b": 2.0}), "Unknown objective 'c'. There is a, b"),
        (lambda: maximin({"c": 0}, {"c": 1})({"a": 1.0}), "Unknown objective 'c'. There is a"),
    ],
)
def test_rules_that_do_not_fit(make, message):
    with pytest.raises(UserError, match=message):
        make()


# -------------------------------------------------------------------------------------------------------- the callback


def test_it_logs_by_name_and_keeps_the_best(tmp_path):
    rule = maximin(low={"reward_0": -5, "reward_1": -5}, high={"reward_0": 5, "reward_1": 0})
    callback = MOEvalCallback(point_envs(2, length=5), rule, best_model_save_path=tmp_path, log_path=tmp_path, **EVERY)
    learn(callback, folder=tmp_path)
    assert isinstance(callback, EvalCallback)
    steps, episodes = callback.evaluations[-1]
    assert (len(callback.evaluations), steps, episodes.returns.shape) == (4, 128, (3, 2))
    scores = [rule(dict(zip(e.objectives, e.returns.mean(axis=0), strict=True))) for _, e in callback.evaluations]
    assert callback.best_mean_reward == pytest.approx(max(scores))
    assert callback.last_mean_reward == pytest.approx(scores[-1])
    text = (tmp_path / "progress.csv").read_text()
    assert all(name in text for name in ("eval/return/reward_1", "eval/score", "eval/mean_ep_length"))
    saved = np.load(tmp_path / "evaluations.npz")
    assert saved["results"].shape == (4, 3, 2)
    assert saved["timesteps"].tolist() == [32, 64, 96, 128]
    assert saved["ep_lengths"].shape == (4, 3)
    assert saved["objectives"].tolist() == ["reward_0", "reward_1"]


def test_the_best_model_is_that_of_the_best_score(tmp_path):
    """A rule that likes the second evaluation best; what is kept acts as the model did then."""
    seen = []

    class Remember(BaseCallback):
        def _on_step(self):
            seen.append(self.model.policy.state_dict()["action_net.bias"].clone())
            return True

    callback = MOEvalCallback(
        point_envs(1, length=5),
        scripted([1.0, 3.0, 2.0, 2.5]),
        best_model_save_path=tmp_path,
        callback_after_eval=Remember(),
        eval_freq=16,  # a rollout, so that the policy has moved in between
        n_eval_episodes=1,
    )
    learn(callback, 256)
    kept = DiBSPPO.load(tmp_path / "best_model.zip", device="cpu").policy.state_dict()["action_net.bias"]
    assert [bool((kept == bias).all()) for bias in seen] == [False, True, False, False]


def test_a_score_that_is_no_number_is_never_the_best():
    callback = MOEvalCallback(point_envs(1, length=5), scripted([float("nan"), -3.0, float("nan"), -4.0]), **EVERY)
    learn(callback)
    assert callback.best_mean_reward == -3.0


def test_sb3s_callbacks_go_by_the_score():
    """A threshold and patience end training by the score; callbacks after an evaluation see their parent."""

    class Parent(BaseCallback):
        def _on_step(self):
            assert isinstance(self.parent, MOEvalCallback)
            return True

    rising = MOEvalCallback(
        point_envs(1, length=5),
        scripted([0.0, 1.0, 2.0, 3.0]),
        callback_on_new_best=CallbackList([Parent(), StopTrainingOnRewardThreshold(reward_threshold=2.0)]),
        callback_after_eval=Parent(),
        **EVERY,
    )
    assert learn(rising, 512).num_timesteps == 3 * 32
    flat = MOEvalCallback(
        point_envs(1, length=5),
        lambda _: 1.0,
        callback_after_eval=StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=0),
        **EVERY,
    )
    assert learn(flat, 512).num_timesteps == 4 * 32


def test_without_a_rule_it_only_logs(tmp_path):
    callback = MOEvalCallback(point_envs(1, length=5), **EVERY)
    learn(callback, folder=tmp_path)
    assert callback.best_mean_reward == -np.inf
    assert "eval/score" not in (tmp_path / "progress.csv").read_text()


def test_success_is_logged(tmp_path):
    class Successful(PointEnv):
        def step(self, action):
            *step, info = super().step(action)
            return *step, {**info, "is_success": self.t >= 3}

    callback = MOEvalCallback([Successful] * 2, eval_freq=8, n_eval_episodes=2, verbose=0, log_path=tmp_path)
    learn(callback, folder=tmp_path)
    assert callback.evaluations[0][1].successes.tolist() == [True, True]
    assert "eval/success_rate" in (tmp_path / "progress.csv").read_text()
    assert np.load(tmp_path / "evaluations.npz")["successes"].all()


def test_success_that_some_episodes_say_nothing_of_is_not_saved(tmp_path):
    class Quiet(PointEnv):
        def step(self, action):
            *step, info = super().step(action)
            return *step, {**info, "is_success": True} if self.episodes % 2 else info

        def reset(self, **kwargs):
            self.episodes = getattr(self, "episodes", 0) + 1
            return super().reset(**kwargs)

    callback = MOEvalCallback([Quiet], eval_freq=8, n_eval_episodes=3, verbose=0, log_path=tmp_path)
    learn(callback)
    assert {len(found.successes) for _, found in callback.evaluations} <= {1, 2}
    saved = np.load(tmp_path / "evaluations.npz")
    assert "successes" not in saved
    assert len(saved["results"]) == len(callback.evaluations)


def test_verbose_says_the_returns(capsys):
    callback = MOEvalCallback(point_envs(1, length=5), preferred_sum({"reward_0": 1}), eval_freq=16, n_eval_episodes=1)
    learn(callback, 64)
    printed = capsys.readouterr().out
    assert "Eval num_timesteps=64, mean returns: reward_0 " in printed
    assert "New best score!" in printed


def test_a_learner_of_sb3s_is_evaluated_too():
    """Its own rewards are a sum; the evaluation is by objective."""
    train = DummyVecEnv([lambda: LinearReward(PointEnv(length=5))])
    callback = MOEvalCallback(point_envs(1, length=5), preferred_sum({"reward_1": 1}), **EVERY)
    PPO("MlpPolicy", train, n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(32, callback=callback)
    assert len(callback.evaluations) == 4
    assert callback.best_mean_reward <= 0


def test_statistics_of_a_normalised_environment_are_taken_over():
    train, evaluation = MOVecNormalize(as_vector_env(point_envs())), MOVecNormalize(as_vector_env(point_envs(1, length=5)))
    evaluation.training = False
    callback = MOEvalCallback(evaluation, **EVERY)
    learn(callback, env=train)
    assert evaluation.obs_rms.count > 0
    np.testing.assert_array_equal(evaluation.ret_rms.var, train.ret_rms.var)
    _, episodes = callback.evaluations[0]
    assert (episodes.returns[:, 1] <= 0).all()  # as the environment gives them


def test_our_measure_of_sb3s_ppo_normalises_itself():
    callback = MOEvalCallback(point_envs(1, length=5), **EVERY)
    SB3PPO("MlpPolicy", as_vector_env(point_envs()), **SMALL).learn(64, callback=callback)
    assert len(callback.evaluations) == 2


def test_an_environment_that_is_not_normalised_as_the_training_is():
    callback = MOEvalCallback(point_envs(1, length=5), **EVERY)
    with pytest.raises(UserError, match="training environment is in MOVecNormalize, and the one for evaluation is not"):
        learn(callback, env=MOVecNormalize(as_vector_env(point_envs())))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"best_model_save_path": "x"}, "best_model_save_path needs a score"),
        ({"callback_on_new_best": CallbackList([])}, "callback_on_new_best needs a score"),
        ({"render": True}, "leave out render"),
        ({"warn": False}, "leave out warn"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        MOEvalCallback(point_envs(1), **arguments)
