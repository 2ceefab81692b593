"""Studies: what their names mean, which jobs they are, and that every shipped one can be run."""

import pytest
import yaml

from dibs_rl import arms, conditions
from dibs_rl.cli.benchmark import BenchmarkConfig, read_jobs
from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.train_config import read_config
from dibs_rl.cli.trainings import TrainingFlags
from dibs_rl.errors import UserError
from dibs_rl.study import STUDIES, jobs_of, record, resolved, validated_study
from dibs_rl.validation import to_plain

OBJECTIVES = {"mo-halfcheetah-v5": ("forward", "energy"), "mo-hopper-v5": ("forward", "height", "energy")}


def jobs(**settings):
    study = validated_study({"envs": list(OBJECTIVES), **settings}, "the test")
    return jobs_of(resolved(study, OBJECTIVES), OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("scale-1", ""),
        ("energy-x1e3", "energy=1e3"),
        ("energy-x1e-3", "energy=1e-3"),
        ("energy-x0.5", "energy=0.5"),
        ("energy-x2^10", "energy=1024.0"),
        ("energy-x2^-40", f"energy={2.0**-40!r}"),
        ("target_1-power4", "target_1=power4"),
        ("energy-exp@episode", "energy=exp@episode"),
        ("energy-x1e3@episode", "energy=1e3@episode"),
    ],
)
def test_a_condition_says_what_it_is(name, transform):
    assert conditions.expand({name: None}, ["energy", "target_1"]) == {name: transform}


def test_powers_of_two_are_exact():
    for k in range(-40, 41):
        _, factor = conditions.expand({f"energy-x2^{k}": None}, ["energy"])[f"energy-x2^{k}"].split("=")
        assert float(factor) == 2.0**k


def test_each_is_one_condition_per_objective():
    assert conditions.expand({"each-x1e3": None}, ["a", "b", "a"]) == {"a-x1e3": "a=1e3", "b-x1e3": "b=1e3"}


def test_a_condition_of_ones_own_has_its_transform():
    assert conditions.expand({"odd": "a=1e3,b=0.1"}, ["a", "b"]) == {"odd": "a=1e3,b=0.1"}


@pytest.mark.parametrize("name", ["enrgy-x1e3", "energy-x", "energy-xx", "energy-power5", "scale-2", "each", "each-1e3"])
def test_conditions_that_mean_nothing(name):
    with pytest.raises(UserError, match=r"energy"):
        conditions.expand({name: None}, ["energy"])


def test_an_arm_says_what_it_is():
    found = arms.expand(
        dict.fromkeys(["dibs", "dibs-50", "dibs-fading", "mgda", "config", "sb3-ppo", "random", "experts"]), ["a", "b"]
    )
    assert found == {
        "dibs": {"combiner": "dibs"},
        "dibs-50": {"combiner": "dibs", "bargaining_steps": 50},
        "dibs-fading": {"combiner": "dibs", "fading": True},
        "mgda": {"combiner": "mgda"},
        "config": {"combiner": "config", "bargain_every": "minibatch"},  # it gives a direction and no weights
        "sb3-ppo": {"algo": "sb3-ppo", "combiner": "weighted-sum"},
        "random": {"steps": 0, "eval_stochastic": True},
        "expert-a": {},
        "expert-b": {},
    }


def test_an_arm_of_ones_own_has_settings():
    assert arms.expand({"dibs": {"n_epochs": 3}, "slow": {"n_epochs": 1}}, []) == {
        "dibs": {"combiner": "dibs", "n_epochs": 3},
        "slow": {"n_epochs": 1},
    }
    with pytest.raises(UserError, match="Did you mean dibs"):
        arms.expand({"dips": None}, [])
    with pytest.raises(UserError, match="the objectives here are a, b"):
        arms.expand({"expert-c": None}, ["a", "b"])


def test_only_what_an_environment_has_becomes_a_job():
    found = jobs(conditions=["scale-1", "height-x1e3"], arms=["dibs"])
    assert [(job.env, job.condition) for job in found] == [
        ("mo-halfcheetah-v5", "scale-1"),
        ("mo-hopper-v5", "scale-1"),
        ("mo-hopper-v5", "height-x1e3"),
    ]
    assert {job.config.transform for job in found} == {"", "height=1e3"}


def test_references_are_run_on_the_rewards_as_they_are():
    """`random` and the experts fix the scale of the scores, which no condition changes."""
    found = jobs(conditions=["each-x1e3"], arms=["random", "experts"])
    assert {job.condition for job in found} == {"scale-1"}
    assert {(job.env, job.arm): job.config.transform for job in found} == {
        ("mo-halfcheetah-v5", "random"): "",
        ("mo-halfcheetah-v5", "expert-forward"): "energy=0",
        ("mo-halfcheetah-v5", "expert-energy"): "forward=0",
        ("mo-hopper-v5", "random"): "",
        ("mo-hopper-v5", "expert-forward"): "height=0,energy=0",
        ("mo-hopper-v5", "expert-height"): "forward=0,energy=0",
        ("mo-hopper-v5", "expert-energy"): "forward=0,height=0",
    }


def test_the_anchored_game_waits_for_the_experts_of_its_environment_and_seed():
    found = jobs(arms=["dibs-anchored", "dibs"], conditions=["energy-x1e3"], seeds=[0, 1])
    anchored = [job for job in found if job.arm == "dibs-anchored"]
    assert len(anchored) == 4
    for job in anchored:
        assert {other.arm for other in job.after} == {f"expert-{name}" for name in OBJECTIVES[job.env]}
        assert {(other.env, other.config.seed) for other in job.after} == {(job.env, job.config.seed)}
        assert all(other in found and found.index(other) < found.index(job) for other in job.after)
    assert all(not job.after for job in found if job not in anchored)


def test_an_arm_starts_from_another_one_of_its_environment_condition_and_seed():
    arms = {"dibs": None, "on": {"combiner": "dibs", "start_from": "dibs"}, "else": {"start_from": "runs/mine"}}
    found = jobs(arms=arms, conditions=["scale-1", "energy-x1e3"], seeds=[0, 1])
    for job in found:
        assert (job.start is not None) == (job.arm == "on")
        if job.start:
            assert job.start.arm == "dibs"
            assert all(getattr(job.start, of) == getattr(job, of) for of in ("env", "condition"))
            assert job.start.config.seed == job.config.seed
            assert job.after == (job.start,)
    expert = {"expert-energy": None, "on": {"start_from": "expert-energy"}}
    found = jobs(arms=expert, conditions=["energy-x1e3"])  # experts are run on the rewards as they are
    assert {job.start.condition for job in found if job.arm == "on"} == {"scale-1"}
    with pytest.raises(UserError, match="on starts from dibs, which must stand before it"):
        jobs(arms=dict(reversed(list(arms.items()))))


def test_an_expert_begins_as_another_one_that_is_named_before_it():
    """In whatever order the environment has its objectives."""
    staged = {"dibs-anchored": None, "expert-energy": {"steps": 9}, "expert-forward": {"start_from": "expert-energy"}}
    found = {job.arm: job for job in jobs(arms=staged) if job.env == "mo-halfcheetah-v5"}
    assert OBJECTIVES["mo-halfcheetah-v5"] == ("forward", "energy")
    assert list(found) == ["expert-energy", "expert-forward", "dibs-anchored"]
    assert found["expert-forward"].start is found["expert-energy"]
    assert found["expert-energy"].config.steps == 9
    assert set(found["dibs-anchored"].after) == {found["expert-energy"], found["expert-forward"]}


def test_arms_differ_in_their_own_settings_only():
    found = jobs(conditions=["energy-x1e3"], arms=["dibs-50", "norm-sum", "sb3-ppo", "mgda"], seeds=[3])
    cheetah = [to_plain(job.config) for job in found if job.env == "mo-halfcheetah-v5"]
    differ = {key for key in cheetah[0] if len({str(settings[key]) for settings in cheetah}) > 1}
    assert differ == {"algo", "combiner", "bargaining_steps"}
    assert cheetah[0]["log_std_init"] == -1  # as shipped
    assert cheetah[0]["seed"] == 3


def test_the_nearer_setting_wins():
    settings = {"n_epochs": 1, "gamma": 0.5, "n_steps": 2}
    envs = {"mo-halfcheetah-v5": {"n_epochs": 2, "steps": 7}, "mo-hopper-v5": None}
    found = jobs(envs=envs, arms={"mine": {"n_epochs": 3}, "random": None, "dibs": None}, steps=5, settings=settings)
    by_name = {(job.env, job.arm): job.config for job in found}
    assert [by_name["mo-halfcheetah-v5", arm].n_epochs for arm in ("mine", "dibs")] == [3, 2]
    assert [by_name[env, "dibs"].steps for env in OBJECTIVES] == [7, 5]
    assert [by_name[env, "random"].steps for env in OBJECTIVES] == [0, 0]
    assert {config.gamma for config in by_name.values()} == {0.5}


def test_seeds_come_first_so_that_every_arm_has_one_early():
    assert [job.config.seed for job in jobs(arms=["dibs", "norm-sum"], seeds=[0, 1])] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env": ["mo-hopper"]}, "Did you mean envs"),
        ({"envs": []}, "at least one environment"),
        ({"arms": []}, "at least one environment, condition, arm"),
        ({"seeds": [-1]}, "seeds"),
        ({"steps": 0}, "steps"),
        ({"arms": [3]}, "list of names"),
        ({"settings": {"n_epoch": 3}}, "Did you mean n_epochs"),
        ({"arms": {"mine": {"gamma": 2}}}, "gamma"),
        ({"arms": {"mine": {"seed": 2}}}, "leave it out"),
        ({"settings": {"transform": "energy=2"}}, "leave it out"),
        ({"settings": {"eval_episodes": 0}}, "eval_episodes"),
        ({"arms": {"mine": {"algo": "dqn"}}}, "Unknown algorithm"),
        ({"settings": {"anchors": "auto"}}, "belong to an arm"),
    ],
)
def test_mistakes_in_a_study(settings, message):
    with pytest.raises(UserError, match=message):
        jobs(**settings)


def test_flags_win_and_keep_what_the_file_says_of_a_name(tmp_path):
    file = tmp_path / "mine.yaml"
    envs, arms = "envs: {deep-sea-treasure: {n_steps: 4}, mo-hopper: }", "arms: {fast: {n_epochs: 2}, dibs: }"
    file.write_text(f"{envs}\n{arms}\nconditions: {{odd: time=3}}\n")
    arms = ("fast", "slow={n_epochs: 9}")
    flags = BenchmarkConfig(str(file), envs=("deep-sea-treasure",), arms=arms, trainings=TrainingFlags(64, ("gamma=0.5",)))
    study, found = read_jobs(flags)
    assert study.name == "mine"
    assert [(job.env, job.condition, job.arm, job.config.transform) for job in found] == [
        ("deep-sea-treasure-v0", "odd", "fast", "time=3"),
        ("deep-sea-treasure-v0", "odd", "slow", "time=3"),
    ]
    assert [job.config.n_epochs for job in found] == [2, 9]
    assert {(job.config.n_steps, job.config.steps, job.config.gamma) for job in found} == {(4, 64, 0.5)}


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_study_can_be_run(file, tmp_path):
    """A new file is tested for free: its jobs' flags mean, to `dibs-rl train`, just the jobs' settings."""
    _, found = read_jobs(BenchmarkConfig(file.stem))
    assert len({job.path for job in found}) == len(found)
    for job in {**{job.env: job for job in found}, **{job.arm: job for job in found}}.values():
        config = to_plain(read_config(train_flags(job, tmp_path)))
        if job.after:
            assert config["anchors"] == str(tmp_path / job.anchors)
            config["anchors"] = "auto"
        assert {**config, "threads": 2, "workers": 0} == to_plain(job.config)
        assert config["threads"] == 1


def test_the_badly_scaled_suite_and_reward_terms_in_a_study(tmp_path):
    """Both are ids with settings like others: objectives by name, what is shipped for the base, one thread for its batches."""
    terms = "HalfCheetah-v5={reward_terms: {forward: reward_forward, energy: reward_ctrl}}"
    flags = BenchmarkConfig(envs=("mo-halfcheetah-badscale", terms), conditions=("energy-x0.5",), arms=("dibs",), seeds=(0,))
    _, found = read_jobs(flags)
    configs = [read_config(train_flags(job, tmp_path)) for job in found]
    assert [job.env for job in found] == ["mo-halfcheetah-badscale-v5", "HalfCheetah-v5"]
    assert [(config.log_std_init, config.workers) for config in configs] == [(-1, 1), (0, 0)]
    assert [config.reward_terms for config in configs] == ["", "forward=reward_forward,energy=reward_ctrl"]
    for job, config in zip(found, configs, strict=True):
        assert {**to_plain(config), "threads": 2, "workers": 0} == to_plain(job.config)


def test_a_studys_own_settings_say_which_rewards_there_are(tmp_path):
    file = tmp_path / "mine.yaml"
    terms = {"forward": "reward_forward", "energy": "reward_ctrl"}
    settings = {"envs": ["HalfCheetah-v5"], "arms": ["dibs"], "conditions": ["energy-x2"], "settings": {"reward_terms": terms}}
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    _, jobs = read_jobs(BenchmarkConfig(str(file)))
    assert {job.config.reward_terms for job in jobs} == {"forward=reward_forward,energy=reward_ctrl"}
    file.write_text(yaml.safe_dump({**settings, "settings": {}, "arms": {"mine": {"reward_terms": terms}}}))
    with pytest.raises(UserError, match="scalar reward"):
        read_jobs(BenchmarkConfig(str(file)))
    file.write_text(yaml.safe_dump({**settings, "arms": {"mine": {"reward_terms": "a=reward"}}}))
    with pytest.raises(UserError, match="reward_terms belongs to an environment"):
        read_jobs(BenchmarkConfig(str(file)))


def test_the_record_grows_and_holds_against_other_settings(tmp_path):
    def study(**settings):
        return resolved(validated_study({"envs": list(OBJECTIVES), **settings}, "the test"), OBJECTIVES)

    record(study(arms=["dibs"], seeds=[1]), tmp_path)
    record(study(arms=["norm-sum"], conditions=["height-x2^3"], seeds=[0]), tmp_path)
    held = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert held["conditions"] == {"scale-1": "", "height-x2^3": "height=8.0"}
    assert held["arms"] == {"dibs": {"combiner": "dibs"}, "norm-sum": {"combiner": "norm-sum"}}
    assert held["seeds"] == [0, 1]
    with pytest.raises(UserError, match="choose another --out"):
        record(study(arms={"dibs": {"n_epochs": 3}}), tmp_path)
    assert yaml.safe_load((tmp_path / "study.yaml").read_text()) == held
