"""A front without training: its jobs, what it is measured by, its folder, and which policy suits whom."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from fake_studies import write_result, write_run

from dibs_rl.by_objective import parse_preference
from dibs_rl.cli import front_results
from dibs_rl.cli.job_flags import train_flags
from dibs_rl.envs import SPECS
from dibs_rl.errors import UserError
from dibs_rl.files import load_yaml
from dibs_rl.front_folder import FrontPolicy, choose, flagged, front_file, points, read_front, read_policy, write_front
from dibs_rl.front_study import FrontPlan, recipe
from dibs_rl.preferences import lattice
from dibs_rl.reporting.figures import png
from dibs_rl.reporting.front_picture import FrontPoints, front_figure
from dibs_rl.shipped import bare_name
from dibs_rl.study import record
from dibs_rl.yardstick import TABLE, yardstick

NAMES = ("forward", "energy")
CHEETAH = FrontPlan("mo-halfcheetah-v5", NAMES, settings={"steps": 640})


def policy(forward, energy, seed=0, folder="run"):
    returns = {"forward": forward, "energy": energy}
    return FrontPolicy({"forward": 0.5, "energy": 0.5}, seed, {name: 2 * r for name, r in returns.items()}, returns, folder)


# ---------------------------------------------------------------------------------------------------------------- jobs


@pytest.mark.parametrize("arm", ["dibs", "dibs-1", "norm-sum", "weighted-sum", "sb3-ppo"])
def test_each_preference_is_an_ordinary_job(arm, tmp_path):
    plan = dataclasses.replace(CHEETAH, arm=arm, seeds=(3, 4))
    _, jobs = plan.jobs(lattice(2, 3), 0.9)
    assert [(job.config.preference, job.config.seed) for job in jobs] == [
        (f"forward={weight},energy={round(1 - weight, 2)}", seed) for seed in (3, 4) for weight in (0.01, 0.5, 0.99)
    ]
    assert {job.config.eval_gamma for job in jobs} == {0.9}
    assert {job.config.steps for job in jobs} == {640}
    assert {job.config.gamma for job in jobs} == {0.99}  # what is learnt does not depend on how it is measured
    assert [plan.preference_of(job).tolist() for job in jobs[:3]] == lattice(2, 3).tolist()
    flags = train_flags(jobs[0], tmp_path)
    assert "--preference=forward=0.01,energy=0.99" in flags
    assert len({job.path for job in jobs}) == 6


@pytest.mark.parametrize("arm", ["dibs", "dibs-anchored"])
def test_a_warm_start_is_from_the_nearest_preference_with_more_weight(arm, tmp_path):
    plan = dataclasses.replace(CHEETAH, arm=arm, seeds=(0, 1), warm_start="neighbour-forward")
    preferences = plan.start.in_order(np.array([[0.01, 0.99], [0.5, 0.5], [0.99, 0.01]]))
    assert preferences[:, 0].tolist() == [0.99, 0.5, 0.01]
    preferences = np.concatenate([preferences, [[0.7, 0.3], [0.2, 0.8]]])
    _, jobs = plan.jobs(preferences, None)
    weighed = [job for job in jobs if not job.arm.startswith("expert-")]
    # 0.7 is nearer to 0.5, and 0.2 to 0.01; but these have less weight on forward.
    nearest = [None, "0.99-0.01", "0.5-0.5", "0.99-0.01", "0.5-0.5"]
    assert [job.start and job.start.arm for job in weighed] == [of and f"{arm}-p{of}" for of in nearest] * 2
    for job in weighed:
        if job.start:
            assert (job.start.config.seed, job.start.condition) == (job.config.seed, job.condition)
            assert jobs.index(job.start) < jobs.index(job)
            assert f"--start-from={tmp_path / job.start.path}" in train_flags(job, tmp_path)
        assert set(job.after) == {*job.experts, *([job.start] if job.start else [])}
        assert len(job.experts) == (2 if arm == "dibs-anchored" else 0)
    _, fewer = plan.jobs(preferences[:3], None)  # what is added later changes nothing about those before
    assert {job.arm: job.given for job in fewer}.items() <= {job.arm: job.given for job in jobs}.items()
    starts = ("none", "expert", "expert-forward", "expert-energy", "neighbour-forward", "neighbour-energy")
    every = [dataclasses.replace(plan, warm_start=how) for how in starts]
    assert len({one.name for one in every}) == len({one.folder for one in every}) == len(starts)


def test_neighbours_of_three_objectives():
    """From the corner of one objective outwards; a neighbour may have as much weight on it."""
    plan = FrontPlan("mo-hopper-v5", ("forward", "height", "energy"), warm_start="neighbour-height")
    preferences = plan.start.in_order(lattice(3, 6))
    assert preferences[:, 1].tolist() == [0.98, 0.495, 0.495, 0.01, 0.01, 0.01]
    assert preferences[3:].tolist() == [[0.01, 0.01, 0.98], [0.495, 0.01, 0.495], [0.98, 0.01, 0.01]]
    preferences = np.concatenate([preferences, [[0.25, 0.01, 0.74]]])
    _, jobs = plan.jobs(preferences, None)
    starts = [job.start and [other.arm for other in jobs].index(job.start.arm) for job in jobs]
    assert starts == [None, 0, 0, 1, 1, 2, 3]  # the first one of several that are as near
    for other in ("none", "expert", "expert-height"):
        assert np.array_equal(dataclasses.replace(plan, warm_start=other).start.in_order(preferences), preferences)


@pytest.mark.parametrize("arm", ["dibs", "dibs-anchored"])
def test_a_warm_start_is_from_the_favoured_objective_s_expert(arm):
    """Whatever the units that the front is trained in: experts are trained in those that are given."""
    plan = dataclasses.replace(CHEETAH, arm=arm, seeds=(0, 1), warm_start="expert", transform="energy=1e3")
    _, jobs = plan.jobs(np.array([[0.01, 0.99], [0.5, 0.5], [0.7, 0.3]]), None)
    assert [job.arm for job in jobs[:2]] == ["expert-forward", "expert-energy"]
    weighed = [job for job in jobs if not job.arm.startswith("expert-")]
    assert [job.start.arm for job in weighed] == ["expert-energy", "expert-forward", "expert-forward"] * 2
    for job in weighed:
        assert (job.start.config.seed, job.start.condition) == (job.config.seed, "scale-1")
        assert job.start in job.after


@pytest.mark.parametrize(("arm", "experts"), [("dibs", ["energy"]), ("dibs-anchored", ["forward", "energy"])])
def test_a_warm_start_is_from_one_expert_whatever_the_preference(arm, experts):
    """Nobody trains an expert that nobody begins as or is anchored on."""
    plan = dataclasses.replace(CHEETAH, arm=arm, seeds=(0, 1), warm_start="expert-energy")
    assert plan.experts == tuple(experts)
    _, jobs = plan.jobs(lattice(2, 3), None)
    of_experts = [job for job in jobs if job.arm.startswith("expert-")]
    assert [(job.arm, job.config.seed) for job in of_experts] == [(f"expert-{n}", seed) for seed in (0, 1) for n in experts]
    for job in set(jobs) - set(of_experts):
        assert (job.start.arm, job.start.config.seed) == ("expert-energy", job.config.seed)
        assert job.start in job.after
    with pytest.raises(UserError, match=r"Unknown --warm-start 'expert-forwards'. Did you mean expert-forward"):
        dataclasses.replace(CHEETAH, warm_start="expert-forwards")


@pytest.mark.parametrize("arm", ["dibs-fading", "dibs-anchored"])
def test_a_warm_start_is_from_the_policy_of_a_preference(arm):
    """It is one of the points, trained first with each seed and in the same units; where the lattice has it, only once."""
    plan = dataclasses.replace(CHEETAH, arm=arm, seeds=(0, 1), warm_start="energy=8,forward=1", transform="energy=1e3")
    preferences = plan.first_preferences(6, 0.5)
    assert preferences[:, 0].tolist() == [0.1111, 0.01, 0.99]
    preferences = np.concatenate([preferences, [[0.06, 0.94]]])  # refined
    _, jobs = plan.jobs(preferences, None)
    weighed = [job for job in jobs if not job.arm.startswith("expert-")]
    assert [job.start and job.start.arm for job in weighed] == [None, *[f"{arm}-p0.1111-0.8889"] * 3] * 2
    for job in weighed:
        if job.start:
            assert (job.start.config.seed, job.start.condition) == (job.config.seed, "energy-1e3")
            assert job.start in job.after
    assert plan.folder.name == f"{arm}-from-p0.1111-0.8889-energy-1e3"


@pytest.mark.parametrize("how", ["equal", "forward=2,energy=2"])
def test_equal_weights_have_a_name(how):
    """Of whatever size they are: the same preferences, in the same folder."""
    plan = dataclasses.replace(CHEETAH, warm_start=how)
    assert plan.first_preferences(3, 0).tolist() == [[0.5, 0.5], [0.01, 0.99], [0.99, 0.01]]
    assert plan.folder.name == "dibs-from-equal"
    assert plan.name == "front of mo-halfcheetah-v5 by dibs from equal"
    three = FrontPlan("mo-hopper-v5", ("forward", "height", "energy"), warm_start=how.replace(",", ",height=2,"))
    assert three.first_preferences(4, 0)[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert three.folder.name == "dibs-from-equal"


@pytest.mark.parametrize("how", ["forward=1,energy=8", "equal", "forward=1e308,energy=1e308", "forward=99,energy=1", "none"])
@pytest.mark.parametrize("count", range(3, 12))
def test_a_lattice_grows_and_the_policy_that_others_begin_as_stays_its_first(how, count):
    plan = dataclasses.replace(CHEETAH, warm_start=how)
    begun = plan.first_preferences(count, 0)
    without_middle = how in ("equal", "forward=1e308,energy=1e308") and count % 2 == 0
    assert len(np.unique(begun, axis=0)) == len(begun) == count - without_middle
    assert np.array_equal(plan.more_preferences(begun, count), begun)  # the same command again
    more = plan.more_preferences(begun, 101)
    assert np.array_equal(more[: len(begun)], begun)
    beside = how == "forward=1,energy=8"  # the first is none of the lattice's own
    divisions = len(begun) - 1 - beside
    finest = divisions * ((100 - beside) // divisions)  # that has the others' points, and room in 101
    assert len(np.unique(more, axis=0)) == len(more) == finest + 1 + beside
    if how != "none":
        assert np.array_equal(begun[0], plan.start.preference)


@pytest.mark.parametrize(
    ("how", "count", "message"),
    [
        ("forward=1,enrgy=8", 3, "A preference by name has a weight for each of forward, energy"),
        ("forward=1,energy=0", 3, "Preference weights are positive"),
        ("forward=1,energy=1e3", 3, "leave each objective at least 0.01 of the weight, and not 0.000999: take a larger"),
        ("forward=1,energy", 3, "reads like 3,1 or forward=3,energy=1"),
        ("forward=1,energy=8", 2, "--points is at least 3, the one that they begin as, and one for each of forward, energy"),
        ("none", 1, "--points is at least 2, one for each of forward, energy; found 1"),
    ],
)
def test_mistakes_in_where_policies_begin(how, count, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CHEETAH, warm_start=how).check_points(count)


def test_the_anchored_game_has_one_set_of_experts_a_seed():
    plan = dataclasses.replace(CHEETAH, arm="dibs-anchored", seeds=(0, 1), transform="energy=1e3")
    _, jobs = plan.jobs(lattice(2, 3), None)
    experts = [job for job in jobs if job.arm.startswith("expert-")]
    assert [(job.arm, job.config.seed) for job in experts] == [(f"expert-{name}", seed) for seed in (0, 1) for name in NAMES]
    assert [plan.preference_of(job).tolist() for job in experts[:2]] == [[1, 0], [0, 1]]
    for job in set(jobs) - set(experts):
        assert {(expert.arm, expert.config.seed) for expert in job.after} == {(f"expert-{n}", job.config.seed) for n in NAMES}
        assert job.config.transform == "energy=1e3"
        assert job.condition == "energy-1e3"


def test_a_folder_knows_its_preferences_and_seeds(tmp_path):
    assert CHEETAH.begun(tmp_path, 0.99) == (CHEETAH, None)
    first, second = lattice(2, 3), np.array([[0.255, 0.745]])
    record(CHEETAH.jobs(first, 0.99)[0], tmp_path)
    record(CHEETAH.jobs(np.concatenate([first, second]), 0.99)[0], tmp_path)
    plan, found = dataclasses.replace(CHEETAH, seeds=(7,)).begun(tmp_path, 0.99)
    assert np.array_equal(found, np.concatenate([first, second]))
    assert plan.seeds == (0, 7)
    for other in ({"arm": "norm-sum"}, {"transform": "energy=1e3"}, {"env": "mo-swimmer-v5"}):
        with pytest.raises(UserError, match="choose another --out"):
            dataclasses.replace(CHEETAH, **other).begun(tmp_path, 0.99)
        assert dataclasses.replace(CHEETAH, **other).folder != CHEETAH.folder
    with pytest.raises(UserError, match="holds a front of forward, energy, and not of speed, energy: choose another --out"):
        dataclasses.replace(CHEETAH, objectives=("speed", "energy")).begun(tmp_path, 0.99)
    with pytest.raises(UserError, match=r"discounted by 0\.99, and not by 1\.0: a front keeps its discount"):
        CHEETAH.begun(tmp_path, 1.0)
    (tmp_path / "study.yaml").write_text(f"name: {CHEETAH.name}\n")
    with pytest.raises(UserError, match="at least one environment, condition, arm and seed"):
        CHEETAH.begun(tmp_path, 0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "dips"}, "Did you mean dibs"),
        ({"arm": "mgda"}, "takes no preference"),
        ({"arm": "random"}, "takes no preference"),
        ({"arm": "experts"}, "takes no preference"),
        ({"settings": {"preference": "1,2"}}, "A front by dibs says itself what preference is"),
        ({"arm": "dibs-fading", "settings": {"fading": False}}, "A front by dibs-fading says itself what fading is"),
        ({"arm": "sb3-ppo", "settings": {"algo": "ppo"}}, "A front by sb3-ppo says itself what algo is"),
        ({"arm": "weighted-sum", "settings": {"fading": True}}, "take norm-sum, or leave fading out"),
        ({"arm": "sb3-ppo", "settings": {"fading": True}}, "take norm-sum, or leave fading out"),
        ({"objectives": ("forward",)}, "at least two objectives"),
        ({"arm": "sb3-ppo", "warm_start": "expert"}, "The policies of sb3-ppo are of another algorithm than experts"),
        ({"arm": "sb3-ppo", "warm_start": "expert-energy"}, "The policies of sb3-ppo are of another algorithm"),
    ],
)
def test_what_traces_no_front(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CHEETAH, **changes)


# ------------------------------------------------------------------------------------------------------------ measures


def test_the_table_is_about_environments_that_there_are():
    known = {bare_name(env_id) for env_id in SPECS}
    for name, entry in load_yaml(TABLE).items():
        assert name in known
        assert {"gamma", "reference"} <= set(entry) <= {"gamma", "reference", "arm", "warm_start"}
        specs = [spec for spec in SPECS.values() if bare_name(spec.id) == name]
        for spec in specs:
            found = yardstick(spec.id, spec.objectives)
            assert found.gamma == entry["gamma"]
            assert list(found.reference) == list(spec.objectives)
            arm, start = recipe(spec.id, spec.objectives, "ppo")
            FrontPlan(spec.id, spec.objectives, arm, warm_start=start)  # refuses what there is not


@pytest.mark.parametrize(
    ("env", "arm", "warm_start", "found"),
    [
        ("mo-halfcheetah-v5", "", "", ("norm-sum-fading", "equal")),
        ("mo-halfcheetah-v5", "norm-sum-fading", "", ("norm-sum-fading", "equal")),
        ("mo-halfcheetah-v5", "", "none", ("norm-sum-fading", "none")),
        ("mo-halfcheetah-v5", "dibs-fading", "", ("dibs-fading", "none")),  # a start is measured with its arm alone
        ("mo-halfcheetah-v5", "dibs", "expert", ("dibs", "expert")),
        ("four-room-v0", "", "", ("dibs", "none")),
        ("four-room-v0", "", "equal", ("dibs", "equal")),
    ],
)
def test_what_traces_a_front_is_given_or_measured(env, arm, warm_start, found):
    assert recipe(env, NAMES, "ppo", arm, warm_start) == found


@pytest.mark.parametrize(("names", "algo"), [(NAMES, "sac"), (NAMES, "a2c"), (("forward", "height"), "ppo")])
def test_what_is_measured_is_so_with_one_learner_and_the_environment_s_own_objectives(names, algo):
    assert recipe("mo-halfcheetah-v5", names, algo) == ("dibs", "none")


def test_published_measures_and_ones_own():
    published = yardstick("mo-hopper-v5", ("forward", "height", "energy"))
    assert (published.gamma, published.reference) == (0.99, {"forward": -100, "height": -100, "energy": -100})
    assert published.source == "from fronts.yaml"
    own = yardstick("mo-halfcheetah-v5", NAMES, "energy=-5e2,forward=0", 0.9)
    assert (own.gamma, own.reference, own.source) == (0.9, {"forward": 0, "energy": -500}, "as given")
    unknown = yardstick("four-room-v0", NAMES)
    assert (unknown.gamma, unknown.reference) == (None, None)
    least = unknown.reference_for([{"forward": 3, "energy": -1}, {"forward": 1, "energy": 5}])
    assert least == {"forward": 1, "energy": -1}
    assert "comparable with no other front" in unknown.source
    assert yardstick("minecart-v0", ("ore", "fuel")).reference is None  # reward terms of one's own


@pytest.mark.parametrize(
    ("reference", "gamma", "message"),
    [
        ("forward=1", None, "a return for each of forward, energy"),
        ("forward=1,enrgy=2", None, "a return for each of forward, energy; found forward, enrgy"),
        ("forward=1,energy=much", None, "holds numbers"),
        ("forward=1,energy=inf", None, "finite"),
        ("-100,-100", None, "reads like name=value"),
        ("", 0.0, "above 0"),
        ("", 1.01, "at most 1"),
    ],
)
def test_measures_that_cannot_be(reference, gamma, message):
    with pytest.raises(UserError, match=message):
        yardstick("mo-halfcheetah-v5", NAMES, reference, gamma)


# -------------------------------------------------------------------------------------------------------------- folder


def test_a_front_is_read_as_it_was_written(tmp_path):
    policies = flagged([policy(1 / 3, -1e-17), policy(0.1, -2.5, folder="a,b"), policy(-3.0, 7, seed=1)])
    write_front(tmp_path, policies)
    assert read_front(tmp_path) == policies
    assert [one.nondominated for one in policies] == [True, False, True]  # another seed's policy dominates nothing here
    header = front_file(tmp_path).read_text().splitlines()[0]
    assert header.split(",")[:3] == ["preference/forward", "preference/energy", "return/forward"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "seed,folder\n", None])
def test_a_broken_front_gets_one_line(tmp_path, text):
    if text is None:
        write_front(tmp_path, flagged([policy(1, 2)]))
        text = front_file(tmp_path).read_text().replace("2", "two")
    front_file(tmp_path).write_text(text)
    with pytest.raises(UserError, match="does not list a front's policies"):
        read_front(tmp_path)


def test_a_front_with_too_many_fields_or_none_at_all(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*front.csv: No such file or directory; 'dibs-rl front' writes it anew"):
        read_front(tmp_path)
    write_front(tmp_path, flagged([policy(1, 2)]))
    front_file(tmp_path).write_text(front_file(tmp_path).read_text().rstrip() + ",more\n")
    with pytest.raises(UserError, match="more fields than there are columns"):
        read_front(tmp_path)


def test_a_policy_is_what_its_result_says(tmp_path):
    write_run(tmp_path / "run", "mo-halfcheetah-v5", NAMES)
    write_result(tmp_path / "run", {"forward": 3.0, "energy": -4.0})
    file = tmp_path / "run/result.json"
    result = json.loads(file.read_text())
    result["discounted_returns"] = {name: {"mean": -numbers["mean"]} for name, numbers in result["returns"].items()}
    file.write_text(json.dumps(result))
    found = read_policy(tmp_path, Path("run"), {"forward": 1.0, "energy": 0.0}, 5)
    assert found.returns == {"forward": 3, "energy": -4}
    assert points([found]).tolist() == [[-3, 4]]
    assert (found.seed, found.folder) == (5, "run")


# ------------------------------------------------------------------------------------------------------------ choosing

FRONT = flagged([policy(0, 0, folder="rest"), policy(60, -1, folder="walk"), policy(100, -4, folder="run"), policy(50, -3)])


@pytest.mark.parametrize(
    ("preference", "taken", "utility"),
    [
        ("forward=1,energy=1", "walk", (0.6 + 0.75) / 2),
        ("forward=9,energy=1", "run", 0.9),
        ("forward=1,energy=9", "rest", 0.9),
        ("1,9", "rest", 0.9),
        ("energy=5", "rest", 1),
        ("forward=2,energy=0", "run", 1),
    ],
)
def test_the_policy_with_the_greatest_utility_in_normalised_returns(preference, taken, utility):
    """Forward is worth from 0 to 1 between 0 and 100, energy between -4 and 0."""
    best, worth = choose(FRONT, parse_preference(preference))
    assert best.folder == taken
    assert worth == pytest.approx(utility)


def test_the_only_policy_and_what_all_have_alike_are_worth_the_most():
    assert choose(flagged([policy(3, 4)]), [1.0, 2.0])[1] == pytest.approx(1)
    alike = flagged([policy(3, 4, folder="one"), policy(3, 4, folder="other")])
    assert choose(alike, [1.0, 2.0])[1] == pytest.approx(1)


def test_units_do_not_change_the_choice():
    scaled = [dataclasses.replace(one, discounted={n: 1e3 * r - 7 for n, r in one.discounted.items()}) for one in FRONT]
    for preference in ([1.0, 1.0], [9.0, 1.0], [1.0, 9.0]):
        assert choose(scaled, preference)[0].folder == choose(FRONT, preference)[0].folder


@pytest.mark.parametrize(
    ("preference", "message"),
    [
        ([1.0], "forward, energy; found 1 weights"),
        ({"forward": -1.0, "energy": 2.0}, "0 or more"),
        ([0.0, 0.0], "not all 0"),
        ([float("nan"), 1.0], "0 or more"),
        ({"height": 1.0}, "Unknown objective 'height'"),
    ],
)
def test_preferences_that_choose_nothing(preference, message):
    with pytest.raises(UserError, match=message):
        choose(FRONT, preference)


# ------------------------------------------------------------------------------------------------------------- picture


@pytest.mark.parametrize(("m", "panels"), [(2, 1), (3, 3), (4, 1), (6, 1)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_picture_for_any_number_of_objectives(m, panels, seeds):
    rng = np.random.default_rng(m)
    groups = {f"seed {s}": FrontPoints(rng.normal(size=(5, m)), np.arange(5) != 2) for s in range(seeds)}
    figure = front_figure("front of an environment", {f"objective_{i}": "sum of rewards" for i in range(m)}, groups)
    assert png(figure).startswith(b"\x89PNG")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == panels
    texts = " ".join(
        [axis.get_xlabel() + axis.get_ylabel() for axis in shown] + [t.get_text() for t in shown[0].get_xticklabels()]
    )
    assert all(f"objective_{i}" in texts for i in range(m))
    assert ("sum of rewards" in texts) == (m <= 3)
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[-2:] == ["nondominated", "dominated"]
    assert ("seed 2" in said) == (seeds == 3)


@pytest.mark.parametrize(("m", "panels"), [(2, 1), (3, 3), (4, 0)])
def test_a_ring_is_around_the_policy_that_others_began_as(m, panels):
    """In each plane, and named below; where there are no planes there is neither ring nor name."""
    names = tuple("abcd"[:m])
    plan = FrontPlan("an-env", names, warm_start=",".join(f"{name}=1" for name in names))
    start = plan.first_preferences(m + 1, 0)[0]
    rows = [start, *np.eye(m)]
    group = [
        FrontPolicy(dict(zip(names, row.tolist(), strict=True)), 0, {}, dict(zip(names, row.tolist(), strict=True)), "", True)
        for row in rows
    ]
    figure = front_figure("a front", dict.fromkeys(names, "1"), {"seed 0": front_results._drawn(group, plan.start.preference)})
    rings = [line for axis in figure.axes for line in axis.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in rings] == [[[pytest.approx(1 / m, abs=1e-4)] * 2]] * panels
    said = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert said == ["where the others began", "nondominated"][: 2 * bool(panels)]


def test_colours_say_which_preferences_led_where():
    """Where one seed has one front; a plane of two objectives shows that itself."""
    names = ("a", "b", "c")
    weights = [(0.8, 0.1, 0.1), (0.1, 0.1, 0.8), (0.45, 0.45, 0.1), (0.1, 0.2, 0.7)]
    policies = [FrontPolicy(dict(zip(names, w, strict=True)), 0, {}, {}, str(i)) for i, w in enumerate(weights)]
    found = {label: [one.folder for one in own] for label, own in front_results._groups(policies).items()}
    assert found == {"most weight on a": ["0"], "most weight on c": ["1", "3"], "most weight on a and b": ["2"]}
    seeds = [dataclasses.replace(one, seed=int(one.folder) % 2) for one in policies]
    assert list(front_results._groups(seeds)) == ["seed 0", "seed 1"]
