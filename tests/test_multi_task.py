"""Several tasks as the objectives of one environment: nothing of a task reaches what another task's objective learns."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_envs import PointEnv
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch.testing import assert_close

from dibs_rl.agents import SB3PPO, DiBSA2C, DiBSPPO, DiBSSAC
from dibs_rl.agents.anchors import Anchors
from dibs_rl.agents.engines import engine_of
from dibs_rl.buffers import take
from dibs_rl.cli.main import main
from dibs_rl.envs import MultiTask, SB3VecEnvAdapter, as_vector_env, make, transform_rewards
from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.evaluation import evaluate
from dibs_rl.losses import ppo_policy_losses, value_losses
from dibs_rl.popart import Moments, update_moments
from dibs_rl.returns import explained_variances, normalise_columns

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


class ScalarPoint(gym.Wrapper):
    """One task: the first reward of `PointEnv`, times a factor."""

    def __init__(self, factor=1.0, length=20, reach=1.0, **kwargs):
        super().__init__(PointEnv(scales=(1.0,), length=length, **kwargs))
        self.factor = factor
        if reach != 1:
            self.action_space = gym.spaces.Box(-reach, reach, (2,), np.float32)

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        return obs, float(reward[0]) * self.factor, *rest


def three_tasks(factors=(1.0, 1.0, 1.0), **kwargs):
    """Tasks whose episodes have 20, 10 and 5 steps."""
    lengths = (20, 10, 5)
    pairs = zip("abc", factors, lengths, strict=True)
    return {name: lambda factor=factor, length=length: ScalarPoint(factor, length, **kwargs) for name, factor, length in pairs}


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def test_each_world_is_its_task_in_its_place():
    """Observations, rewards and ends are those of Gymnasium's own environments, seeded with `seed + i`."""
    env = MultiTask(["Pendulum-v1", "MountainCarContinuous-v0"], 3, pad=True, seed=7)
    plain = [gym.make(task) for task in ("Pendulum-v1", "MountainCarContinuous-v0", "Pendulum-v1")]
    assert env.objectives == ("Pendulum", "MountainCarContinuous")
    assert env.active.tolist() == [[True, False], [False, True], [True, False]]
    first = env.reset_tensors()
    expected = [game.reset(seed=7 + i)[0] for i, game in enumerate(plain)]
    for step in range(210):  # an episode of the pendulum's has 200
        for i, obs in enumerate(expected):
            place = [1.0, 0.0] if i != 1 else [0.0, 1.0]
            assert first[i].tolist() == [*obs, *[0.0] * (3 - len(obs)), *place], step
        actions = torch.linspace(-1, 1, 3).roll(step).unsqueeze(1)
        found = env.step_tensors(actions)
        for i, game in enumerate(plain):
            own = (actions[i] * (2.0 if i != 1 else 1.0)).numpy()  # torques reach from -2 to 2
            obs, reward, terminated, truncated, _ = game.step(own)
            assert found.reward[i].tolist() == [0.0, np.float32(reward)] if i == 1 else [np.float32(reward), 0.0]
            assert (found.terminated[i].item(), found.truncated[i].item()) == (terminated, truncated)
            expected[i] = game.reset()[0] if terminated or truncated else obs
        first = found.obs


def test_statistics_count_the_episodes_of_the_own_task_alone():
    env = MultiTask(three_tasks(), 6, seed=0)
    env.reset_tensors()
    for _ in range(20):
        env.step_tensors(torch.zeros(6, 2))
    returns, lengths = env.pop_episodes()
    assert sorted(lengths.tolist()) == [5] * 8 + [10] * 4 + [20] * 2
    for j, length in enumerate((20, 10, 5)):
        assert torch.equal(~returns[:, j].isnan(), lengths == length)


def test_evaluation_plays_each_task_as_often():
    """Episodes of 5 steps do not crowd out those of 20, and each mean is of the own task's episodes."""
    env = MultiTask(three_tasks(factors=(1.0, 10.0, 100.0)), 7, seed=0)
    model = DiBSPPO("MlpPolicy", env, **{**SMALL, "n_steps": 4, "batch_size": 4})
    found = evaluate(model, env, 5, seed=3, gamma=0.9)
    assert (np.isnan(found.discounted) == np.isnan(found.returns)).all()
    assert (~np.isnan(found.returns)).sum(axis=0).tolist() == [5, 5, 5]
    assert np.bincount(found.lengths)[[5, 10, 20]].tolist() == [5, 5, 5]
    summary = found.summary()
    for j, name in enumerate("abc"):
        own = found.returns[~np.isnan(found.returns[:, j]), j]
        assert summary["returns"][name]["mean"] == pytest.approx(own.mean())
        assert summary["discounted_returns"][name]["max"] == np.nanmax(found.discounted[:, j])
    json.dumps(summary, allow_nan=False)


def test_a_reward_that_is_no_number_is_not_taken_for_another_task():
    env = MultiTask(three_tasks(poison=3), 3, seed=0)
    model = DiBSPPO("MlpPolicy", env, **SMALL)
    with pytest.raises(NonFiniteError, match=r"'[abc]' is nan"):
        evaluate(model, env, 1)


def random_columns(seed=0, samples=50, m=3):
    draw = torch.Generator().manual_seed(seed)
    columns = torch.randn(samples, m, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 1e3, 1e-3]) + 5
    return columns, torch.rand(samples, m, generator=draw) < torch.tensor([0.3, 0.5, 0.9])


def test_what_counts_for_a_column_is_its_own_samples_alone():
    """Every statistic equals the one of the samples cut out; what the others hold makes no difference."""
    columns, active = random_columns()
    other = torch.where(active, columns, 1e12)
    start = Moments(torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), torch.tensor(4.0))
    residuals = random_columns(seed=1)[0]
    for found in (columns, other):
        for j in range(3):
            own = columns[active[:, j], j].unsqueeze(1)
            normalised = normalise_columns(found, active)[:, j]
            assert torch.equal(normalised[active[:, j]], normalise_columns(own).squeeze(1))
            assert not normalised[~active[:, j]].any()
            moments = update_moments(start, found, 0.05, active)
            alone = update_moments(Moments(start.mean[:1], start.std[:1], start.batches), own, 0.05)
            assert_close((moments.mean[j], moments.std[j]), (alone.mean[0], alone.std[0]))
            loss, slope = value_losses(residuals, found, active)
            own_loss, own_slope = value_losses(residuals[active[:, j], j].unsqueeze(1), own)
            assert_close(loss[j], own_loss[0])
            assert_close(slope[active[:, j], j], own_slope.squeeze(1))
            assert not slope[~active[:, j], j].any()
            explained = explained_variances(found, residuals, active)[j]
            assert_close(explained, explained_variances(own, residuals[active[:, j], j].unsqueeze(1))[0])


def test_where_all_samples_count_the_mask_changes_nothing():
    columns, everywhere = random_columns()[0], torch.ones(50, 3, dtype=torch.bool)
    assert_close(normalise_columns(columns, everywhere), normalise_columns(columns))
    assert_close(value_losses(columns, columns.flip(0), everywhere), value_losses(columns, columns.flip(0)))


def rollout_of(env):
    """A learner after one rollout that it has not learnt from, and the rollout as one batch."""
    model = DiBSPPO("MlpPolicy", env, **{**SMALL, "n_steps": 32})
    _, callback = model._setup_learn(1, None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 32)
    return model, model.rollout_buffer.whole(model._policy_advantages(), model._value_targets())


def jacobian(model, batch):
    engine = engine_of(model.policy)
    evaluated = engine.evaluate(engine.inputs(batch.obs), batch.actions)
    slopes = ppo_policy_losses(evaluated.log_prob - batch.log_probs, batch.advantages, 0.2).slopes
    return evaluated.jacobian(slopes).clone()


def test_a_tasks_gradient_is_the_one_of_its_own_worlds():
    """Row j has the direction of the gradient computed on task j's samples alone; without the mask it has not."""
    model, batch = rollout_of(MultiTask(three_tasks(factors=(1.0, 1e3, 1e-3)), 6, seed=0))
    rows = jacobian(model, batch)
    model.rollout_buffer.active = None  # as if each objective stood in all worlds, with reward 0 in those of other tasks
    diluted = jacobian(model, batch._replace(advantages=model._policy_advantages()))
    for j in range(3):
        own = batch.active[:, j]
        alone = normalise_columns(model.rollout_buffer.advantages.flatten(0, 1)[own, j].unsqueeze(1))
        expected = jacobian(model, take(batch, own.nonzero().flatten())._replace(advantages=alone))
        assert torch.cosine_similarity(rows[j], expected[0], dim=0) > 1 - 1e-5
        assert torch.cosine_similarity(diluted[j], expected[0], dim=0) < 0.99


def test_a_critic_head_has_the_units_of_its_own_worlds():
    model, batch = rollout_of(MultiTask(three_tasks(factors=(1.0, 1e3, 1e-3)), 6, seed=0))
    targets = model.rollout_buffer.value_targets.flatten(0, 1).double()
    for j in range(3):
        own = targets[batch.active[:, j], j]
        assert_close(model.policy.value_net.mean[j], own.mean())
        assert_close(model.policy.value_net.std[j], own.std(correction=0))


@pytest.mark.parametrize("every", ["rollout", "epoch", "minibatch"])
@pytest.mark.parametrize("combiner", ["dibs", "norm-sum", "mgda"])
def test_powers_of_two_change_no_bit(every, combiner):
    """A task's reward times 2^k: the policy ends bit-identical."""

    def trained(factors):
        env = MultiTask(three_tasks(factors), 6)
        return DiBSPPO("MlpPolicy", env, combiner=combiner, bargain_every=every, **SMALL).learn(16 * 6 * 3)

    plain, scaled = trained((1.0, 1.0, 1.0)), trained((2.0**20, 2.0**-20, 1.0))
    for name, parameter in plain.policy.named_parameters():
        assert torch.equal(parameter, scaled.policy.get_parameter(name)), name


SHORT_SAC = {"learning_starts": 24, "batch_size": 16, "buffer_size": 600, "seed": 0, "device": "cpu"}


def test_powers_of_two_change_no_bit_in_sac():
    def trained(factors):
        return DiBSSAC("MlpPolicy", MultiTask(three_tasks(factors), 6), **SHORT_SAC).learn(60)

    plain, scaled = trained((1.0, 1.0, 1.0)), trained((2.0**20, 2.0**-20, 1.0))
    for name, parameter in plain.actor.named_parameters():
        assert torch.equal(parameter, scaled.actor.get_parameter(name)), name


def test_in_sac_a_task_learns_from_its_own_samples_alone():
    """What critics are told of other tasks' samples changes neither their update nor the policy's."""

    def updated(noise):
        model = DiBSSAC("MlpPolicy", MultiTask(three_tasks(), 6), **SHORT_SAC).learn(24)
        stored = model.replay_buffer._stored
        stored.rewards[~stored.active] += noise
        model.train(3, 16)
        return model.policy.state_dict()

    plain, disturbed = updated(0.0), updated(1e6)
    assert all(torch.equal(value, disturbed[name]) for name, value in plain.items())


def test_in_sac_a_tasks_gradient_is_the_one_of_its_own_samples():
    model = DiBSSAC("MlpPolicy", MultiTask(three_tasks(), 6), **SHORT_SAC).learn(48)
    batch = model.replay_buffer.sample(64)
    rows = []

    def keep(jacobian):
        rows.append(jacobian)
        return jacobian[0], None

    model._combine = keep
    model.actor.optimizer.param_groups[0]["lr"] = 0.0
    for part in (batch, *(_of_task(batch, j) for j in range(3))):
        torch.manual_seed(0)
        actions, log_prob = model.actor.action_log_prob(batch.obs)
        own = slice(None) if part is batch else batch.active[:, len(rows) - 1]
        model._step_actor(part, actions[own], log_prob[own], torch.zeros(()), None)
    for j in range(3):
        assert_close(rows[0][j], rows[1 + j][j])


def _of_task(batch, j):
    own = batch.active[:, j]
    parts = {name: part[own] for name, part in batch._asdict().items()}
    return type(batch)(**{**parts, "active": None})


@pytest.mark.parametrize("learner", [DiBSA2C, SB3PPO])
def test_other_learners_learn_tasks(learner):
    settings = {"n_steps": 8, "seed": 0, "device": "cpu", **({"batch_size": 48} if learner is SB3PPO else {})}
    model = learner("MlpPolicy", MultiTask(three_tasks(), 6), **settings).learn(96)
    assert all(torch.isfinite(part).all() for part in model.policy.parameters())


def test_an_anchor_is_as_far_as_in_the_worlds_of_its_task():
    model, batch = rollout_of(MultiTask(three_tasks(), 6, seed=0))
    other = DiBSPPO("MlpPolicy", MultiTask(three_tasks(), 6), **{**SMALL, "seed": 1})
    anchors = Anchors(dict.fromkeys("abc", other.policy), "abc", model.observation_space, model.action_space)
    found = anchors.distances(model.policy, batch.obs, batch.active)
    for j in range(3):
        assert_close(found[j], anchors.distances(model.policy, batch.obs[batch.active[:, j]])[j])


def test_a_transform_of_one_task_leaves_the_others_alone():
    """exp makes a 1 of the 0 that stands for other tasks; nobody learns from it."""
    (_, plain), (model, changed) = (
        rollout_of(transform_rewards(MultiTask(three_tasks(), 6, seed=0), change)) for change in ("", "b=exp")
    )
    assert (model.rollout_buffer.rewards[..., 1] == 1).any()
    assert torch.equal(plain.advantages[:, [0, 2]], changed.advantages[:, [0, 2]])
    own = plain.active[:, 1]
    assert not torch.equal(plain.advantages[own, 1], changed.advantages[own, 1])
    assert not changed.advantages[~own, 1].any()


def test_a_task_with_several_rewards_has_several_objectives():
    tasks = {"point": lambda: PointEnv(scales=(1.0, 1.0)), "single": ScalarPoint}
    env = MultiTask(tasks, 4, workers=2, seed=0)
    try:
        assert env.objectives == ("point/reward_0", "point/reward_1", "single")
        assert env.active.tolist() == [[True, True, False], [False, False, True]] * 2
        model = DiBSPPO("MlpPolicy", env, **SMALL).learn(64)
        assert all(torch.isfinite(part).all() for part in model.policy.parameters())
    finally:
        env.close()


def test_wrappers_of_sb3_leave_worlds_their_objectives():
    class Passing(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            return self.venv.step_wait()

    env = as_vector_env(Passing(MultiTask(three_tasks(), 3)))
    assert isinstance(env, SB3VecEnvAdapter)
    assert env.active.tolist() == torch.eye(3).bool().tolist()


def test_an_id_of_several_tasks_has_a_world_for_each():
    env = as_vector_env("mo-hopper-2obj+Hopper")
    assert env.num_envs == 2
    assert env.objectives == ("mo-hopper-2obj/forward", "mo-hopper-2obj/height", "Hopper")


MISTAKES = {
    "sizes": (["Pendulum-v1", "CartPole-v1"], {}, "Pendulum 3, CartPole 4. Fill the shorter ones up"),
    "actions": ({"a": ScalarPoint, "b": lambda: ScalarPoint(action="discrete")}, {}, "Only flat Box spaces"),
    "bounds": ({"a": ScalarPoint, "b": lambda: ScalarPoint(reach=3)}, {}, "pad=True"),
    "no bounds": ({"a": ScalarPoint, "b": lambda: ScalarPoint(reach=np.inf)}, {"pad": True}, "RescaleAction"),
    "not flat": ({"a": ScalarPoint, "b": lambda: ScalarPoint(obs="dict")}, {}, "FlattenObservation"),
    "one task": (["Pendulum-v1"], {}, "found 1"),
    "few worlds": (three_tasks(), {"num_envs": 2}, "3 and 2 worlds"),
    "one name": (["Pendulum-v1", "Pendulum-v1"], {}, "mapping of names"),
    "unknown": (["Pendulum-v1", "Pendulun-v1"], {}, "Did you mean Pendulum"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    tasks, kwargs, message = MISTAKES[name]
    with pytest.raises(UserError, match=message):
        MultiTask(tasks, **kwargs)


def test_the_batch_backend_steps_one_task():
    with pytest.raises(UserError, match="does not step Pendulum"):
        make("Pendulum-v1+MountainCarContinuous-v0", backend="batch", pad=True)


@pytest.fixture
def long_task():
    gym.register("LongPoint-v3", ScalarPoint, kwargs={"length": 300})
    yield "LongPoint"
    gym.registry.pop("LongPoint-v3")


def test_command_line(tmp_path, capsys, long_task):
    """`--env a+b`: trained, resumed, evaluated and drawn, each task by name and in its own numbers."""
    run = tmp_path / "run"
    quick = ["--num-envs", 2, "--n-steps", 50, "--batch-size", 100, "--n-epochs", 1, "--eval-episodes", 0]
    tasks = ["--env", f"Pendulum+{long_task}", "--pad-tasks"]
    assert command("train", *tasks, *quick, "--steps", 500, "--out", run) == 0
    assert "Pendulum, LongPoint" in capsys.readouterr().out
    assert rows(run)[-1]["rollout/return/Pendulum"]
    assert "rollout/return/LongPoint" not in rows(run)[-1]  # none of its episodes has ended
    assert command("train", "--resume", run, "--steps", 1200) == 0
    assert rows(run)[-1]["rollout/return/LongPoint"]
    assert command("evaluate", run, "--episodes", 1) == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert result["episodes"] == 2
    assert result["returns"]["Pendulum"]["mean"] < 0
    assert command("plot", run) == 0
    assert command("train", "--env", "mo-halfcheetah", "--pad-tasks", *quick) == 2
    assert "for several tasks" in capsys.readouterr().err


def rows(run):
    with open(run / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))
