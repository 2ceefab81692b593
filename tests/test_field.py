"""The comparison with the field: rows and table, of fronts whose measures are known; and MORL-Baselines where it is there."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from fake_envs import PointEnv
from fake_studies import write_result, write_run

from dibs_rl.envs import make
from dibs_rl.errors import UserError
from dibs_rl.evaluation import evaluate
from dibs_rl.files import write_json
from dibs_rl.front_folder import FrontPolicy, write_front
from dibs_rl.metrics import front_measures
from dibs_rl.statistics import estimate, mean

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = ("forward", "energy")


def load(name):
    """A module out of `benchmarks/`, whose scripts find each other as scripts do."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


field, field_budget, field_others, field_rows, field_worlds = map(
    load, ("field", "field_budget", "field_others", "field_rows", "field_worlds")
)
CONTEST = field_rows.Contest("mo-halfcheetah-v5", NAMES, "", 1200, 4, 0.0, 0.99, (-10.0, -10.0), 2)


def row(method, seed, returns, **more):
    return {"method": method, "seed": seed, "settings": {}, "returns": returns, **SPENT, **more}


SPENT = {"steps": 1200, "selection_steps": 0, "seconds": 3.0, "cpu_seconds": 2.0, "versions": {}}


def cells(table, method):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith(f"| {method} ")]


# ------------------------------------------------------------------------------------------------------- rows and table


def test_the_table_measures_what_the_rows_hold():
    fronts = [[[k, 0.0], [0.0, k], [-1.0, -1.0]] for k in (1.0, 2.0, 6.0)]
    rows = [row("dibs", seed, front, steps=100 * seed) for seed, front in enumerate(fronts)] + [row("capql", 7, [[0.0, 0.0]])]
    table = field_rows.table(CONTEST, rows)
    volumes = [2 * 10 * (10 + k) - 10 * 10 for k in (1, 2, 6)]  # two boxes that share one, above (-10, -10)
    over, *each = cells(table, "dibs")
    assert [line[4] for line in each] == [f"{volume:.5g}" for volume in volumes]
    assert [line[:4] for line in each] == [["dibs", str(seed), "3", "2"] for seed in range(3)]
    found = estimate([volumes], mean)
    assert over[4] == f"{np.mean(volumes):.5g} [{found.low:.5g}, {found.high:.5g}]"
    assert over[6] == f"{np.mean([2.0, 8.0, 72.0]):.5g} " + over[6].partition(" ")[2]  # sparsity: 2 k^2 over one gap
    assert (over[1], over[7].split()[0]) == ("3", "100")
    over, each = cells(table, "capql")
    assert over[4] == each[4] == "100"  # one seed has no interval
    assert "1,200 environment steps" in table
    assert "forward -10, energy -10" in table


def test_rows_come_back_and_those_of_another_contest_are_refused(tmp_path):
    assert field_rows.read_row(tmp_path, CONTEST, "capql", 3, {}) is None
    field_rows.write_row(tmp_path, CONTEST, row("capql", 3, [[1.0, 2.0]]))
    assert field_rows.read_row(tmp_path, CONTEST, "capql", 3, {})["returns"] == [[1.0, 2.0]]
    assert field_rows.read_row(tmp_path, CONTEST, "capql", 4, {}) is None
    with pytest.raises(UserError, match=r"has budget as 1200, and not as 2400: choose another --out"):
        field_rows.read_row(tmp_path, dataclasses.replace(CONTEST, budget=2400), "capql", 3, {})
    with pytest.raises(UserError, match=r"has settings as \{\}, and not as \{'alpha': 0.1\}"):
        field_rows.read_row(tmp_path, CONTEST, "capql", 3, {"alpha": 0.1})


def test_the_reference_point_is_in_the_units_that_are_learnt_from():
    assert CONTEST.seen_reference == (-10, -10)
    assert dataclasses.replace(CONTEST, transform="energy=1e3").seen_reference == (-10, -10_000)
    for transform in ("energy=power4", "energy=2@episode"):
        with pytest.raises(UserError, match="factors alone"):
            dataclasses.replace(CONTEST, transform=transform).seen_reference  # noqa: B018


def test_experts_are_paid_from_the_same_budget():
    assert field.front_steps(CONTEST, "dibs") == field.front_steps(CONTEST, "sb3-ppo") == 1200 // 4
    assert field.front_steps(CONTEST, "dibs-anchored") == field.front_steps(CONTEST, "dibs-from-experts") == 1200 // (4 + 2)
    assert field.front_steps(CONTEST, "dibs-from-neighbour-forward") == 1200 // 4
    assert field.front_steps(CONTEST, "dibs-fading-from-equal") == 1200 // 3  # of the lattice, whose points are an odd number
    assert field.plan_of(CONTEST, "dibs-fading-from-equal").folder.name == "dibs-fading-from-equal"
    assert field.front_steps(CONTEST, "dibs-from-expert-energy") == 1200 // (4 + 1)
    both = field.plan_of(CONTEST, "dibs-anchored-from-experts")
    assert (both.arm, both.warm_start) == ("dibs-anchored", "expert")
    for method, said in (("dibs-from-neighbours", "--warm-start 'neighbours'"), ("dibs-from-none", "method 'dibs-from-none'")):
        with pytest.raises(UserError, match=f"Unknown {said}"):
            field.plan_of(CONTEST, method)
    from_there = dataclasses.replace(CONTEST, objectives=("from-start", "energy"))
    assert field.plan_of(from_there, "dibs-from-expert-from-start").experts == ("from-start",)


def test_a_lattice_with_fewer_points_trains_each_longer():
    """Eleven points of three objectives: their lattice has ten."""
    three = dataclasses.replace(CONTEST, env="mo-hopper-v5", objectives=("forward", "height", "energy"), points=11)
    assert field.front_steps(three, "dibs") == 1200 // 10
    assert field.front_steps(three, "dibs-anchored") == 1200 // (10 + 3)
    assert field.front_steps(dataclasses.replace(three, refine=0.5), "dibs") == 1200 // 11


def test_a_front_becomes_a_row(tmp_path, monkeypatch):
    """What `dibs-rl front` leaves: all policies' returns, experts' too, and what all of them have cost."""
    asked = []

    def train(flags):
        asked.append(flags)
        policies = []
        for k, (arm, preference) in enumerate([("expert-forward", (1.0, 0.0)), ("dibs-anchored-p0.5-0.5", (0.5, 0.5))]):
            folder = Path("mo-halfcheetah-v5/scale-1") / arm / "seed3"
            root = tmp_path / "dibs-anchored/seed3"
            write_run(root / folder, "mo-halfcheetah-v5", NAMES, seed=3)
            returns = dict(zip(NAMES, (float(k), -float(k)), strict=True))
            cost = {"seconds": 5.0, "cpu_seconds": 4.0, "peak_mib": 1.0, "steps_per_second": 1.0}
            write_result(root / folder, returns, seed=3, cost=cost)
            policies.append(FrontPolicy(dict(zip(NAMES, preference, strict=True)), 3, returns, returns, str(folder)))
        write_front(root, policies)
        write_json(root / "front.json", {"trained_with": known | {"ent_coef": 0.5}})
        return 0

    monkeypatch.setattr(field.front_command, "run", train)
    contest = dataclasses.replace(CONTEST, transform="energy=1e3")
    now = field.shipped_settings(contest, "dibs-anchored", {"n_epochs": 2})
    known = {name: value for name, value in now.items() if name != "gae_lambda"}  # a setting that came later
    assert field.run_front(contest, "dibs-anchored", 3, {"n_epochs": 2}, tmp_path, 1) == 0
    found = field_rows.read_row(tmp_path, contest, "dibs-anchored", 3, {"n_epochs": 2})
    assert found["returns"] == [[0.0, 0.0], [1.0, -1.0]]
    assert (now["steps"], now["n_epochs"], now["ent_coef"]) == (200, 2, 0.0)
    with pytest.raises(UserError, match=r"trained with ent_coef as 0\.5, and not as 0\.0: choose another --out"):
        field_rows.read_row(tmp_path, contest, "dibs-anchored", 3, {"n_epochs": 2}, now)
    assert field_rows.read_row(tmp_path, contest, "dibs-anchored", 3, {"n_epochs": 2}, now | {"ent_coef": 0.5}) == found
    steps = [json.loads(file.read_text())["steps"] for file in tmp_path.rglob("result.json")]
    assert (found["steps"], found["seconds"], found["cpu_seconds"]) == (sum(steps), 10, 8)
    (flags,) = asked
    said = dict(zip(flags[::2], flags[1::2], strict=False))
    assert (said["--steps"], said["--transform"], said["--seeds"]) == ("200", "energy=1e3", "3")
    assert flags[flags.index("--settings") + 1 :] == ["eval_episodes=2", "n_epochs=2"]


def test_no_other_contest_goes_on_with_what_one_has_begun(tmp_path):
    field_rows.begin(tmp_path / "new", CONTEST, {})
    field_rows.begin(tmp_path / "new", CONTEST, {})
    with pytest.raises(UserError, match=r"contest\.json has refine as 0\.0, and not as 0\.5: choose another --out"):
        field_rows.begin(tmp_path / "new", dataclasses.replace(CONTEST, refine=0.5), {})
    with pytest.raises(UserError, match=r"has settings as \{\}, and not as \{'n_epochs': 2\}"):
        field_rows.begin(tmp_path / "new", CONTEST, {"n_epochs": 2})


def test_what_is_not_installed_is_missed_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(field, "find_spec", lambda name: None)
    monkeypatch.setattr(field.front_command, "run", lambda flags: pytest.fail("nothing is trained"))
    with pytest.raises(UserError, match="capql needs MORL-Baselines: see the top of"):
        field.main(["--methods", "dibs", "capql", "--out", str(tmp_path / "field")])
    assert not (tmp_path / "field").exists()


def test_a_stopped_front_has_no_row_and_ends_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(field.front_command, "run", lambda flags: 130)
    monkeypatch.setattr(field, "find_spec", lambda name: name)
    flags = ["--methods", "dibs", "norm-sum", "capql", "--budget", "1200", "--points", "4", "--out", str(tmp_path)]
    assert field.main(flags) == 130
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.json")] == ["dibs/seed0/contest.json"]
    assert "the same command goes on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "dips"], "mean dibs"),
        (["--points", "1"], "--points is at least 2"),
        (["--settings", "steps=500"], "--budget and --episodes say what steps are"),
        (["--budget", "inf"], "--budget is a number of environment steps, at least 1; found inf"),
        (["--budget", "3", "--methods", "dibs"], "--budget 3 leaves the policies of dibs no step"),
        (["--transform", "enrgy=2"], "Unknown objective"),
        (["--transform", "energy=exp"], "factors alone"),
        (["--env", "fruit-tree-v0"], "no discount and reference point"),
    ],
)
def test_mistakes_in_what_is_compared(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        field.main([*flags, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_policies_are_scored_in_episodes_of_their_seed():
    class Still:
        def predict(self, observation, *, deterministic=True):
            return np.zeros((len(observation), 6), np.float32), None

    contest = dataclasses.replace(CONTEST, transform="energy=1e3")
    once = field_others.score(contest, [Still(), Still()], 0)
    assert once[0] == once[1]  # the same episodes
    assert once[0][1] == 0  # untransformed, and no effort
    assert front_measures(once, contest.reference)["policies"] == 2
    assert field_others.score(contest, [Still()], 1) != once[:1]


class Point(PointEnv):
    """Short episodes for learners that ask an environment how many rewards it has."""

    reward_dim = 2


def point_task(settings=None, transform=""):
    if "Point-v0" not in gym.registry:
        gym.register("Point-v0", entry_point=Point, max_episode_steps=20, disable_env_checker=True)
    names, weights = ("reward_0", "reward_1"), ((0.1, 0.9), (0.5, 0.5), (0.9, 0.1))
    return field_worlds.Task("Point-v0", names, transform, 600, 0.9, (-50.0, -50.0), weights, settings or {}, 0)


def test_learners_see_other_units_and_their_steps_are_counted():
    told = []
    counter = field_worlds.Counter(told.append, every=2)
    plain, scaled = (
        field_worlds.maker(point_task(transform=transform), counter)(render_mode="rgb_array")
        for transform in ("", "reward_1=1e3")
    )
    for env in (plain, scaled):
        env.reset(seed=4)
    for action in np.linspace(-1, 1, 10).reshape(5, 2):
        seen, expected = scaled.step(action)[1], plain.step(action)[1]
        assert seen == pytest.approx(expected * [1, 1e3])
    assert (counter.steps, told) == (10, [2, 4, 6, 8, 10])
    assert plain.unwrapped.reward_dim == 2


def test_observations_are_seen_through_the_statistics_of_all_worlds():
    class Seen(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.all = []

        def observation(self, observation):
            self.all.append(observation)
            return observation

    worlds = [gym.wrappers.NormalizeObservation(Seen(PointEnv())) for _ in range(3)]
    for seed, world in enumerate(worlds):
        world.reset(seed=seed)
        for _ in range(200):
            _, _, terminated, truncated, _ = world.step(world.action_space.sample())
            if terminated or truncated:
                world.reset()
    data = np.concatenate([world.env.all for world in worlds])
    units = field_worlds.pooled_units(field_worlds.normalisers(worlds))
    assert np.allclose(units.mean, data.mean(axis=0), atol=1e-3)
    assert np.allclose(units.std, data.std(axis=0), rtol=1e-2)


# -------------------------------------------------------------------------------------------------------- MORL-Baselines

TINY = {
    "pgmorl": {
        "steps_per_iteration": 32,
        "num_envs": 2,
        "pop_size": 4,
        "num_minibatches": 2,
        "update_epochs": 1,
        "net_arch": [8],
    },
    "capql": {"learning_starts": 40, "batch_size": 8, "net_arch": [8]},
}


@pytest.fixture
def learners():
    pytest.importorskip("morl_baselines")
    return load("field_learners")


@pytest.mark.filterwarnings("ignore")  # theirs: overflows in a prediction, and what their packages deprecate
@pytest.mark.parametrize("method", ["pgmorl", "capql"])
@pytest.mark.parametrize("transform", ["", "reward_1=1e3"])
def test_they_train_with_as_many_steps_and_leave_policies(method, transform, learners, capsys):
    learnt = learners.train(method, point_task(TINY[method], transform), lambda steps: None)
    assert 480 <= learnt.steps <= 600  # PGMORL: two iterations of 256, without the steps that only reset a world
    assert (learnt.selection_steps > 0) == (method == "pgmorl")
    assert len(learnt.policies) == 3 if method == "capql" else learnt.policies
    env = make("Point-v0", num_envs=2, seed=0)
    outcomes = [evaluate(policy, env, 4, seed=3, gamma=0.9).discounted for policy in learnt.policies]
    again = evaluate(learnt.policies[0], env, 4, seed=3, gamma=0.9).discounted
    env.close()
    assert np.array_equal(again, outcomes[0])  # deterministic
    assert np.isfinite(outcomes).all()
    actions = [policy.predict(np.full((1, 3), 0.5))[0] for policy in learnt.policies]
    assert all((np.abs(action) <= 1).all() for action in actions)
    if method == "capql":
        assert len({action.tobytes() for action in actions}) == 3  # one network, three preferences


def test_pgmorl_fills_a_budget_as_its_defaults_divide_it():
    size = 2048 * 4 * 6
    for iterations in (2, 7, 100, 223):
        steps, plan = field_budget.pgmorl_plan(iterations * size + 5, {})
        assert steps == iterations * size
        assert plan["warmup_iterations"] >= 1
        assert (iterations - plan["warmup_iterations"]) % plan["evolutionary_iterations"] == 0
    assert field_budget.pgmorl_plan(100 * size, {})[1] == {"warmup_iterations": 80, "evolutionary_iterations": 20}
    with pytest.raises(UserError, match="at least two iterations of 49,152 steps"):
        field_budget.pgmorl_plan(size, {})
    with pytest.raises(UserError, match="from 4 policies"):
        field_budget.pgmorl_plan(100 * size, {"pop_size": 3})
