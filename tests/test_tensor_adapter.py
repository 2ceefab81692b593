"""Simulators with tensors in and out: against the same worlds stepped one by one, and with what reward managers say."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from fake_simulators import LENGTHS, Counter, ManagedSimulator, Simulator
from gymnasium import spaces

from dibs_rl.agents import DiBSPPO, DiBSSAC
from dibs_rl.envs import RewardManagerEnv, TensorVecEnvAdapter, as_vector_env
from dibs_rl.envs.tensor_adapter import gym_space
from dibs_rl.errors import UserError

N = len(LENGTHS)
TERMS = ["track_lin_vel", "alive", "torques"]
BOUNDED = spaces.Box(-1.0, 1.0, (1,), np.float32)


def some_actions(steps, seed=0):
    return torch.rand(steps, N, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def one_by_one():
    return as_vector_env([lambda i=i: Counter(i) for i in range(N)])


@pytest.mark.parametrize("final", ["final_obs", "final_observation"])
def test_the_same_as_the_worlds_one_by_one(final):
    """Every observation, also the one that ended an episode, although the simulator writes over its own tensors."""
    env, plain = as_vector_env(Simulator(final)), one_by_one()
    assert isinstance(env, TensorVecEnvAdapter)
    assert (env.num_envs, env.objectives) == (N, ("total", "effort"))
    assert torch.equal(env.reset_tensors(), plain.reset_tensors())
    for actions in some_actions(40):
        found, expected = env.step_tensors(actions), plain.step_tensors(actions)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    (returns, lengths), (expected_returns, expected_lengths) = env.pop_episodes(), plain.pop_episodes()
    assert torch.equal(returns, expected_returns)
    assert torch.equal(lengths, expected_lengths)


@pytest.mark.parametrize("with_extras", [True, False])
def test_without_a_last_observation_it_is_the_one_before(with_extras):
    """And never the next episode's first."""
    env, plain = as_vector_env(Simulator("", with_extras=with_extras)), one_by_one()
    before = env.reset_tensors().clone()
    plain.reset_tensors()
    ends = 0
    for actions in some_actions(40):
        found, expected = env.step_tensors(actions), plain.step_tensors(actions)
        done = expected.done
        assert torch.equal(found.obs, expected.obs)
        assert torch.equal(found.final_obs[~done], expected.final_obs[~done])
        assert torch.equal(found.final_obs[done], before[done])
        before, ends = found.obs.clone(), ends + int(done.sum())
    assert ends > 20


def test_a_seed_reaches_the_reset_that_takes_one():
    simulator = Simulator()
    env = as_vector_env(simulator)
    env.reset_tensors(seed=7)
    env.reset_tensors()
    assert simulator.resets == [7, None]

    class Unseeded(Simulator):
        def reset(self):
            return super().reset()

    as_vector_env(Unseeded()).reset_tensors(seed=7)


def test_one_reward_may_be_a_scalar():
    class Scalar(Simulator):
        objectives = ("total",)

        def move(self, actions):
            reward, terminated, truncated = super().move(actions)
            return reward[:, 0].double(), terminated, truncated

    env = as_vector_env(Scalar())
    env.reset_tensors()
    step = env.step_tensors(torch.ones(N, 1))
    assert step.reward.tolist() == [[1.0]] * N
    assert step.reward.dtype == torch.float32


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_learners_train_on_it(algorithm):
    if algorithm == "ppo":
        model = DiBSPPO("MlpPolicy", Simulator(), n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    else:
        managed = RewardManagerEnv(ManagedSimulator(), action_space=BOUNDED)
        model = DiBSSAC("MlpPolicy", managed, learning_starts=12, batch_size=12, seed=0, device="cpu")
    before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
    model.learn(64)
    after = torch.nn.utils.parameters_to_vector(model.policy.parameters())
    assert after.isfinite().all()
    assert not torch.equal(before, after)
    assert len(model.ep_info_buffer) > 5


def test_each_term_is_an_objective_and_they_add_up_to_the_scalar_reward():
    """Rates are per second there: what a term adds to a step's reward is the rate times the step's length."""
    simulator = ManagedSimulator()
    env = as_vector_env(simulator)
    assert isinstance(env, RewardManagerEnv)
    assert env.objectives == tuple(TERMS)
    env.reset_tensors()
    for actions in some_actions(20):
        step = env.step_tensors(actions)
        torch.testing.assert_close(step.reward, simulator.reward_manager._step_reward * 0.02)
        torch.testing.assert_close(step.reward.sum(dim=1), simulator.reward_buf)


@pytest.mark.parametrize(("scale_by_dt", "seconds"), [(True, 0.02), (False, 1.0)])
def test_terms_in_groups_by_hand(scale_by_dt, seconds):
    groups = {"task": ["track_lin_vel", "alive"], "energy": ["torques"]}
    env = RewardManagerEnv(ManagedSimulator(scale_by_dt=scale_by_dt), groups)
    assert env.objectives == ("task", "energy")
    env.reset_tensors()
    reward = env.step_tensors(torch.full((N, 1), 0.5)).reward
    # 3 x 0.5 + 0.5, and -2e-4 x 0.25, a second
    torch.testing.assert_close(reward, torch.tensor([[2.0, -5e-5]] * N) * seconds)


@pytest.mark.parametrize("group", ["policy", "actor"])
def test_the_policy_sees_its_own_group(group):
    env = RewardManagerEnv(ManagedSimulator(group=group))
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert env.action_space == spaces.Box(-100.0, 100.0, (1,), np.float32)
    assert env.reset_tensors().shape == (N, 3)
    assert RewardManagerEnv(ManagedSimulator(), group="critic").reset_tensors().shape == (N, 4)


@pytest.mark.parametrize("how", [{"final": "final_obs"}, {"auto_reset": False}])
def test_a_manager_based_environment_is_the_worlds_one_by_one(how):
    """Where the last observation is to be had: in Isaac Lab's extras, or by resetting mjlab's worlds oneself."""
    env, plain = RewardManagerEnv(ManagedSimulator(**how)), one_by_one()
    assert torch.equal(env.reset_tensors(), plain.reset_tensors())
    for actions in some_actions(40):
        found, expected = env.step_tensors(actions), plain.step_tensors(actions)
        assert torch.equal(found.obs, expected.obs)
        assert torch.equal(found.final_obs, expected.final_obs)
        assert torch.equal(found.terminated, expected.terminated)
        assert torch.equal(found.truncated, expected.truncated)


def test_under_gymnasiums_wrappers():
    """As gym.make gives Isaac Lab's environments, which are Gymnasium environments of many worlds."""

    class AsGymEnv(ManagedSimulator, gym.Env):
        pass

    env = as_vector_env(gym.wrappers.OrderEnforcing(AsGymEnv()))
    assert isinstance(env, RewardManagerEnv)
    assert env.reset_tensors(seed=3).shape == (N, 3)
    assert env.step_tensors(torch.zeros(N, 1)).reward.shape == (N, 3)


def test_running_out_of_time_ends_a_task_of_finite_horizon():
    env = RewardManagerEnv(ManagedSimulator(finite=True))
    env.reset_tensors()
    steps = [env.step_tensors(torch.zeros(N, 1)) for _ in range(6)]
    assert [step.terminated.tolist() for step in steps[:3]] == [[False] * 4, [True, *[False] * 3], [False, True, False, False]]
    assert not any(step.truncated.any() for step in steps)


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        ({"task": ["track_lin_vel", "alive"]}, "are in no objective: torques"),
        ({"task": TERMS, "energy": ["torques"]}, "are in more than one objective: torques"),
        ({"task": [*TERMS, "fly"]}, "are not the environment's: fly"),
        ({"task": TERMS, "none": []}, "at least one reward term; found none for none"),
    ],
)
def test_terms_belong_to_one_objective_each(objectives, words):
    with pytest.raises(UserError, match=words):
        RewardManagerEnv(ManagedSimulator(), objectives)


def test_what_is_missing_is_said():
    class Nameless(Simulator):
        objectives = ()

    class Spaceless(Simulator):
        single_action_space = None

    class Wide(Simulator):
        objectives = ("total", "effort", "more")

    class Narrow(Simulator):
        def step(self, actions):
            *rest, extras = super().step(actions)
            return *rest, {"final_obs": extras["final_obs"][:1]}

    with pytest.raises(UserError, match="does not name its rewards"):
        TensorVecEnvAdapter(Nameless())
    with pytest.raises(UserError, match="no single_action_space"):
        TensorVecEnvAdapter(Spaceless())
    with pytest.raises(UserError, match="no reward manager"):
        RewardManagerEnv(Simulator())
    with pytest.raises(UserError, match="no group 'state'; found critic, policy"):
        RewardManagerEnv(ManagedSimulator(), group="state")
    with pytest.raises(UserError, match="stepped before"):
        TensorVecEnvAdapter(Simulator()).step_tensors(torch.zeros(N, 1))
    for kind, words in ((Wide, r"total, effort, more: shape \[4, 3\]; found \[4, 2\]"), (Narrow, r"shape \[4, 3\]; found")):
        env = TensorVecEnvAdapter(kind())
        env.reset_tensors()
        with pytest.raises(UserError, match=words):
            env.step_tensors(torch.zeros(N, 1))


def test_sb3s_questions_are_answered():
    env = TensorVecEnvAdapter(
        Simulator(), ["total", "effort"], action_space=BOUNDED, observation_space=Counter.observation_space
    )
    assert env.get_attr("final", [0, 2]) == ["final_obs"] * 2
    env.set_attr("final", "")
    assert env.get_attr("final", 1) == [""]
    assert len(env.env_method("reset")) == N
    assert env.env_is_wrapped(gym.Wrapper) == [False] * N
    for ask in (lambda: env.set_attr("final", "", 1), lambda: env.env_method("reset", indices=[0])):
        with pytest.raises(UserError, match="leave out indices"):
            ask()
    env.close()


def test_spaces_that_look_like_gymnasiums():
    assert gym_space(spaces.Discrete(3)) == spaces.Discrete(3)
    with pytest.raises(UserError, match="shape, low and high"):
        gym_space(3)


class TestMjlab:
    """The real package, in an environment of its own: it needs MuJoCo 3.11."""

    @pytest.fixture
    def cfg(self):
        pytest.importorskip("mjlab", reason="mjlab is not installed: it needs MuJoCo 3.11")
        import mjlab.tasks  # noqa: F401  (registers them)
        from mjlab.tasks.registry import load_env_cfg

        cfg = load_env_cfg("Mjlab-Cartpole-Balance")
        cfg.scene.num_envs, cfg.episode_length_s, cfg.seed = 4, 0.2, 0
        [(_, term)] = cfg.rewards.items()
        cfg.rewards["doubled"] = replace(term, weight=2 * term.weight)
        cfg.rewards["off"] = replace(term, weight=0.0)
        return cfg

    @pytest.mark.parametrize("auto_reset", [True, False])
    @pytest.mark.parametrize("scaled", [True, False])
    def test_terms_add_up_and_episodes_end(self, cfg, auto_reset, scaled):
        from mjlab.envs import ManagerBasedRlEnv

        cfg.auto_reset, cfg.scale_rewards_by_dt = auto_reset, scaled
        simulator = ManagerBasedRlEnv(cfg, device="cpu")
        env = as_vector_env(simulator)
        assert isinstance(env, RewardManagerEnv)
        assert env.objectives == ("smooth_reward", "doubled", "off")
        obs = env.reset_tensors(seed=1).clone()
        ends = 0
        for _ in range(2 * simulator.max_episode_length):
            step = env.step_tensors(torch.rand(4, *env.action_space.shape) * 2 - 1)
            torch.testing.assert_close(step.reward.sum(dim=1), simulator.reward_buf)
            torch.testing.assert_close(step.reward, step.reward[:, :1] * torch.tensor([1.0, 2.0, 0.0]))
            assert step.reward[:, 0].min() > 0
            assert torch.equal(step.obs[~step.done], step.final_obs[~step.done])
            if not auto_reset:
                assert not torch.equal(step.final_obs, obs)
            elif step.done.any():
                assert torch.equal(step.final_obs[step.done], obs[step.done])
            obs, ends = step.obs.clone(), ends + int(step.done.sum())
        assert ends >= 8
        env.close()

    def test_it_trains(self, cfg):
        from mjlab.envs import ManagerBasedRlEnv

        env = RewardManagerEnv(ManagerBasedRlEnv(cfg, device="cpu"), {"both": ["smooth_reward", "doubled"], "off": ["off"]})
        DiBSPPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(64)
        env.close()
