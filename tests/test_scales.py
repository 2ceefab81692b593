"""Measured scales of environments whose scales are known, and what is said of them."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from dibs_rl.cli.main import main
from dibs_rl.envs import BADSCALE, SPECS, MultiTask, as_vector_env
from dibs_rl.scales import GAE_LAMBDA, GAMMA, measure
from dibs_rl.untrained import OneAction, PlayedEpisode, RandomActions, play, simple_actions
from dibs_rl.verdicts import rules as limits
from dibs_rl.verdicts import verdicts


class Known(gym.Env):
    """Rewards that are functions of the action in [-1, 1]^m and of chance; an episode ends at random where `ends` says so.

    Args:
        rewards: One function of (action, generator) for each objective.
        ends: Chance that a step ends the episode.
        discrete: Number of actions of a Discrete space instead of the Box; functions then get the number.
    """

    def __init__(self, *rewards, ends=0.0, discrete=0):
        self.rewards, self.ends = rewards, ends
        self.action_space = spaces.Discrete(discrete) if discrete else spaces.Box(-1.0, 1.0, (len(rewards),), np.float32)
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.reward_space = spaces.Box(-np.inf, np.inf, (len(rewards),))
        self.objectives = tuple("abcd"[: len(rewards)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        rewards = np.array([reward(action, self.np_random) for reward in self.rewards])
        return np.zeros(1, np.float32), rewards, self.np_random.random() < self.ends, self.t >= 50, {}


def measured(*rewards, episodes=40, **kwargs):
    env = as_vector_env([lambda: Known(*rewards, **kwargs)] * 4)
    simple = {name: play(OneAction(env, action), env, 3, 0) for name, action in simple_actions(env.action_space).items()}
    return measure(env.objectives, play(RandomActions(env, 0), env, episodes, 0), simple)


def rules(scales):
    return [(verdict.rule, *verdict.objectives) for verdict in verdicts(scales)]


def first(action, chance):
    return float(action[0])


def second(action, chance):
    return float(action[1])


def test_moments_are_those_of_the_distribution():
    """Actions are uniform in [-1, 1]: mean 0 and standard deviation 1/sqrt(3) a step, sqrt(50) times that an episode."""
    scales = measured(first, lambda action, chance: 4 * second(action, chance) + 2, episodes=200)
    a, b = scales.objectives["a"], scales.objectives["b"]
    assert scales.steps == 200 * 50
    assert (a.step.mean, a.step.std) == pytest.approx((0, 3**-0.5), abs=0.02)
    assert (b.step.mean, b.step.std) == pytest.approx((2, 4 * 3**-0.5), abs=0.08)
    assert (b.step.min, b.step.max) == pytest.approx((-2, 6), abs=0.01)
    assert b.episode.mean == pytest.approx(50 * b.step.mean)
    assert b.episode.std == pytest.approx(50**0.5 * 4 * 3**-0.5, rel=0.15)
    assert b.advantage_std / a.advantage_std == pytest.approx(4, rel=0.1)
    assert b.advantage_share == pytest.approx(16 / 17, abs=0.01)
    assert abs(scales.step_correlation[0, 1]) < 0.03
    assert scales.lengths == (50, 0, 50, 50)


def test_advantages_are_those_of_a_critic_that_knows_the_mean():
    """Against the sums written out, for an episode that ends and one that is cut off."""
    random = np.random.default_rng(0)
    episodes = [PlayedEpisode(random.normal(3, 1, (30, 2)), terminated) for terminated in (True, False)]
    # The mean value solves v = mean over steps of (discounted rewards + what is left over of the episode cut off, times v).
    rewards = [episode.rewards[:, 0] for episode in episodes]
    sums = [sum(GAMMA**i * r[t + i] for i in range(30 - t)) for r in rewards for t in range(30)]
    left = [0.0] * 30 + [GAMMA ** (30 - t) for t in range(30)]
    value = np.mean(sums) / (1 - np.mean(left))
    expected = []
    for r, episode in zip(rewards, episodes, strict=True):
        follows = np.full(30, value)
        follows[-1] = 0.0 if episode.terminated else value
        deltas = r + GAMMA * follows - value
        expected += [sum((GAMMA * GAE_LAMBDA) ** i * deltas[t + i] for i in range(30 - t)) for t in range(30)]
    found = measure(("a", "b"), episodes, {}).objectives["a"].advantage_std
    assert found == pytest.approx(np.std(expected), rel=1e-9)


def test_factors_and_offsets():
    """A factor multiplies what is measured; a constant a step changes no advantage where episodes are cut off only."""
    plain, changed = measured(first, second), measured(lambda a, c: 1e3 * first(a, c), lambda a, c: second(a, c) + 100)
    assert changed.objectives["a"].advantage_std == pytest.approx(1e3 * plain.objectives["a"].advantage_std, rel=1e-4)
    assert changed.objectives["b"].advantage_std == pytest.approx(plain.objectives["b"].advantage_std, rel=1e-3)


def test_balanced_scales_lead_nobody_astray():
    """And by which rules, with the number that came nearest to each."""
    scales = measured(first, second)
    assert rules(scales) == []
    said = {rule.rule: rule for rule in limits(scales)}
    shares = {name: scale.advantage_share for name, scale in scales.objectives.items()}
    loudest, softest = max(shares, key=shares.get), min(shares, key=shares.get)
    assert "more than 90%" in said["dominant"].limit
    assert said["dominant"].nearest == f"{loudest} {100 * shares[loudest]:.3g}%"
    assert said["drowned"].nearest == f"{softest} {100 * shares[softest]:.3g}%"
    assert said["same"].nearest == f"a and b {scales.return_correlation[0, 1]:.2f}"
    assert said["offset"].nearest == "no episode ends early"
    assert {said[rule].nearest for rule in ("never varied", "trivial")} == {"none"}


def test_every_rule_that_applies_has_its_limit_and_its_objective():
    """Whatever applies, the objective that comes nearest is the one it is about."""
    found = [
        measured(first, lambda a, c: 4 * second(a, c)),
        measured(first, second, lambda a, c: 0.05 * float(a[2])),
        measured(first, lambda a, c: -1.0),
        measured(lambda a, c: first(a, c) + 5, lambda a, c: second(a, c) + 5, ends=0.1),
        measured(first, lambda a, c: float(c.random() < 1e-3), episodes=200),
        measured(first, lambda a, c: -(second(a, c) ** 2)),
    ]
    applied = set()
    for scales in found:
        limits_by_name = {rule.rule: rule for rule in limits(scales)}
        for name in {verdict.rule for verdict in verdicts(scales)}:
            about = {objective for verdict in verdicts(scales) if verdict.rule == name for objective in verdict.objectives}
            assert limits_by_name[name].nearest.split()[0].rstrip(",") in about
        applied |= {verdict.rule for verdict in verdicts(scales)}
    assert applied == set(limits_by_name)


def test_dominant_and_drowned():
    scales = measured(first, lambda a, c: 4 * second(a, c))
    assert rules(scales) == [("dominant", "b")]
    assert "b has 9" in verdicts(scales)[0].why
    assert verdicts(scales)[0].arms == ("weighted-sum",)
    three = measured(first, second, lambda a, c: 0.05 * float(a[2]))
    assert rules(three) == [("drowned", "c")]


def test_never_varied():
    """A constant a step says nothing of what was done, unless episodes end."""
    scales = measured(first, lambda a, c: -1.0)
    assert rules(scales) == [("never varied", "b")]
    assert scales.objectives["b"].advantage_share == 0
    assert np.isnan(scales.return_correlation[0, 1])
    assert ("never varied", "b") not in rules(measured(first, lambda a, c: -1.0, ends=0.1))


def test_an_offset_hides_the_signal_where_episodes_end():
    """Five a step for being alive, as humanoids get: the return is the length, and two such objectives say the same."""
    scales = measured(lambda a, c: first(a, c) + 5, lambda a, c: second(a, c) + 5, ends=0.1)
    assert rules(scales) == [("offset", "a"), ("offset", "b"), ("same", "a", "b")]
    assert "to go on is learnt first" in verdicts(scales)[0].why
    assert not any(rule[0] == "offset" for rule in rules(measured(lambda a, c: first(a, c) + 5, second)))
    assert "to end it is learnt first" in verdicts(measured(lambda a, c: first(a, c) - 5, second, ends=0.1))[-1].why


def test_sparse():
    scales = measured(first, lambda a, c: float(c.random() < 1e-3), episodes=200)
    assert ("sparse", "b") in rules(scales)
    assert scales.objectives["b"].nonzero == pytest.approx(1e-3, abs=1e-3)


def test_trivially_satisfied():
    """Doing nothing costs no energy; pushing as far as one can earns the most and is not doing nothing."""
    scales = measured(first, lambda a, c: -(second(a, c) ** 2))
    assert rules(scales) == [("trivial", "b")]
    assert (scales.objectives["b"].trivial_action, scales.objectives["b"].best) == ("doing nothing", 0)
    by_number = measured(lambda a, c: float(a == 2), lambda a, c: -float(a > 0), discrete=3)
    assert [scales.trivial_action for scales in by_number.objectives.values()] == ["action 2", "action 0"]


def test_what_could_last_longer_or_end_sooner_is_not_trivially_satisfied():
    """The greatest reward in each step, and yet more to be had: where it is above 0 by going on, below 0 by ending."""
    going_on = measured(first, lambda a, c: 1 - second(a, c) ** 2, ends=0.1)
    ending = measured(first, lambda a, c: -1 - second(a, c) ** 2, ends=0.1)
    assert (going_on.objectives["b"].best, ending.objectives["b"].best) == (1, -1)
    assert not any(scales.objectives["b"].trivial_action for scales in (going_on, ending))


def test_tasks_are_measured_in_their_own_worlds():
    """A task's numbers are those that it has alone; what has no world in common has no correlation."""
    tasks = {"slow": lambda: Scalar(first, second), "fast": lambda: Scalar(lambda a, c: 100 * first(a, c), second)}
    env = MultiTask(tasks, 4, seed=0)
    scales = measure(env.objectives, play(RandomActions(env, 0), env, 20, 0), {})
    assert scales.episodes == 40
    slow, fast = scales.objectives.values()
    assert slow.step.std == pytest.approx(3**-0.5, abs=0.03)
    assert fast.advantage_std / slow.advantage_std == pytest.approx(100, rel=0.2)
    assert np.isnan(scales.return_correlation[0, 1])


class Scalar(Known):
    def step(self, action):
        obs, rewards, *rest = super().step(action)
        return obs, float(rewards[0]), *rest


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


@pytest.fixture
def known_env():
    energy = {"rewards": (first, lambda a, c: -20 * second(a, c) ** 2)}
    gym.register("Known-v0", lambda: Known(*energy["rewards"]))
    yield "Known-v0"
    gym.registry.pop("Known-v0")


def test_command_line(capsys, known_env):
    assert command("envs", "--probe", known_env, "--episodes", 5) == 0
    said = capsys.readouterr().out
    assert "Known-v0: 5 episodes of 50 steps" in said
    assert "weighted-sum (dominant): at equal weights b has 99" in said
    assert "dibs, norm-sum, mgda (trivial): b is trivially satisfied: doing nothing" in said
    assert "dominant (weighted-sum): one of several objectives has more than 90%" in said
    assert command("envs", "--probe", known_env, "--episodes", 5, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["objectives"]["a"]["step"]["std"] == pytest.approx(3**-0.5, abs=0.1)
    assert [verdict["rule"] for verdict in found["verdicts"]] == ["dominant", "trivial"]
    assert {rule["rule"] for rule in found["rules"]} > {"dominant", "trivial"}
    assert set(found["return_correlation"]["a"]) == {"a", "b"}
    assert command("envs", "--json", "--match", "mo-hopper-v5") == 0
    assert json.loads(capsys.readouterr().out)["mo-hopper-v5"]["objectives"] == ["forward", "height", "energy"]


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_the_list_is_as_narrow_as_the_terminal_and_leaves_nothing_out(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command("envs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for env_id in [*SPECS, *BADSCALE, "metaworld-mt10"]:
        about = lines[lines.index(env_id) + 1]
        assert about.startswith("    ")
        assert about.strip()
    # What a variant leaves out of its objectives is left out of the list too.
    listed = " ".join(map(str.strip, lines[lines.index("mo-ant-2obj-v5") + 1 : lines.index("mo-ant-badscale-v5")]))
    assert listed == "x_velocity, y_velocity: -6..6 each (with -4..0 of energy and +1 alive in each)"


def test_names_are_never_cut_off(capsys):
    """Not by the widest numbers either."""
    assert command("envs", "--probe", "mo-halfcheetah", "--episodes", 2, "--transform", "energy=1e6,forward=1e-6") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if " ± " in line] == ["forward", "energy"]


def test_mistakes(capsys):
    for arguments, message in (
        (["--probe", "mo-hoppper"], "Did you mean mo-hopper"),
        (["--probe", "CartPole-v1"], "scalar reward"),
        (["--match", "hoper"], "No id has 'hoper' in it"),
        (["--probe", "mo-hopper", "--episodes", 1], "--episodes: input should be greater than or equal to 2; found 1"),
    ):
        assert command("envs", *arguments) == 2
        assert message in capsys.readouterr().err


def test_the_same_seed_gives_the_same_numbers():
    """On a real environment, in the batch backend where there is one."""
    from dibs_rl.envs import make

    def numbers():
        env = make("mo-halfcheetah", 2, seed=1)
        episodes = play(RandomActions(env, 1), env, 2, 1)
        env.close()
        return np.stack([episode.rewards for episode in episodes])

    assert (numbers() == numbers()).all()
