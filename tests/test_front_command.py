"""`dibs-rl front` and `dibs-rl evaluate FRONT` with real runs, which are stopped, gone on with and added to."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from real_jobs import InThisProcess, command, learning, start, wait_for

from dibs_rl.agents import DiBSPPO
from dibs_rl.cli import front as front_command
from dibs_rl.cli import front_results
from dibs_rl.cli.flags import parse
from dibs_rl.front_folder import read_front, write_front
from dibs_rl.metrics import expected_utility, hypervolume, nondominated, sparsity
from dibs_rl.preferences import refined
from dibs_rl.reporting.front_picture import front_figure
from dibs_rl.run_folder import RunFolder
from dibs_rl.yardstick import Yardstick

ENV = "deep-sea-treasure-v0"
QUICK = ["--settings", "num_envs=4", "n_steps=16", "batch_size=32", "n_epochs=2", "eval_episodes=2", "hidden=[8]"]
NAMES = ("treasure", "time")


class Interrupted(InThisProcess):
    """Ctrl-C comes when the last of so many jobs begins."""

    def __init__(self, root, jobs):
        super().__init__(root)
        self.left = jobs

    def start(self, job):
        self.left -= 1
        if self.left:
            super().start(job)
        else:
            os.kill(os.getpid(), signal.SIGINT)
            self.just_ended.append((job, "stopped"))

    def stop(self):
        pass


@pytest.fixture
def front(tmp_path, monkeypatch, capsys):
    """Runs `dibs-rl front` with jobs in this process: the exit code, what it said, and the arms that were trained."""

    def run(*arguments, steps=64, launcher=InThisProcess):
        launchers = []

        def make(flags, root):
            launchers.append(launcher(root))
            return launchers[0]

        monkeypatch.setattr(front_command, "make_launcher", make)
        code = command("front", "--env", ENV, "--steps", steps, "--out", tmp_path, *QUICK, *arguments)
        return code, capsys.readouterr().out, launchers[0].started

    return run


def rows(root):
    with open(root / "front.csv", newline="") as file:
        return list(csv.DictReader(file))


def results(root, key):
    """Mean returns `[k, m]` of the policies of `front.csv`, from their own files."""
    found = [json.loads((root / row["folder"] / "result.json").read_text())[key] for row in rows(root)]
    return np.array([[one[name]["mean"] for name in NAMES] for one in found])


def test_a_front_from_its_lattice_to_its_measures(front, tmp_path):
    code, said, started = front("--points", 4, "--seeds", 0, 1)
    assert code == 0
    assert started[:4] == ["dibs-p0.01-0.99", "dibs-p0.99-0.01"] * 2
    assert len(started) == len(set(started)) * 2 == 8

    preferences = [
        list(arm["preference"].values()) for arm in yaml.safe_load((tmp_path / "study.yaml").read_text())["arms"].values()
    ]
    discounted, seeds = results(tmp_path, "discounted_returns"), np.array([int(row["seed"]) for row in rows(tmp_path)])
    by_arm = {row["folder"].split("/")[2]: i for i, row in enumerate(rows(tmp_path))}
    assert len(by_arm) == 4
    means = [
        np.mean([p for p, row in zip(discounted, rows(tmp_path), strict=True) if row["folder"].split("/")[2] == arm], axis=0)
        for arm in started[:2]
    ]
    assert preferences[2:] == refined(preferences[:2], means, 2, [0, -50]).tolist()

    listed = [
        [[float(row[f"{kind}/{name}"]) for name in NAMES] for row in rows(tmp_path)] for kind in ("return", "discounted")
    ]
    assert listed == [results(tmp_path, "returns").tolist(), discounted.tolist()]
    summary = json.loads((tmp_path / "front.json").read_text())
    assert (summary["gamma"], summary["reference_point"]) == (0.99, {"treasure": 0, "time": -50})
    assert (summary["steps"], summary["expert_steps"]) == (8 * 64, 0)
    assert summary["settings"]["steps"] == 64
    shipped = RunFolder(tmp_path / rows(tmp_path)[0]["folder"]).config()
    assert (summary["trained_with"]["steps"], summary["trained_with"]["gamma"]) == (64, shipped.gamma)
    assert summary["trained_with"]["warp"] is False
    assert not {"seed", "preference", "transform", "threads", "out"} & summary["trained_with"].keys()
    for seed in (0, 1):
        own = discounted[seeds == seed]
        marks = [row["nondominated"] == "true" for row in rows(tmp_path) if row["seed"] == str(seed)]
        assert marks == nondominated(own).tolist()
        found = summary["seeds"][str(seed)]
        assert found["hypervolume"] == hypervolume(own, [0, -50])
        assert found["expected_utility"] == expected_utility(own)
        assert found["sparsity"] == sparsity(own)
        assert -1 <= found["weight_control"] <= 1
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    for words in ("from fronts.yaml", "gamma 0.99", "over 100 weights", "Environment steps: 512.", "hypervolume"):
        assert words in said
    assert said.count(f"front of {ENV} by dibs in {tmp_path}, 2 of 4 preferences: 4 jobs.") == 1  # not again for the others
    assert "With 2 more where it is sparse: 8 jobs, 4 of them done before." in said

    assert front("--points", 4, "--seeds", 0, 1)[2] == []  # all of it is there
    code, _, started = front("--points", 5)  # more points add to it, for every seed
    assert (code, len(started), len(set(started)), len(rows(tmp_path))) == (0, 2, 1, 10)
    code, said, started = front("--points", 3)  # fewer take nothing away
    assert (code, started, len(rows(tmp_path))) == (0, [], 10)
    assert "There are 5 preferences already; --points 3 takes none of them away." in said
    assert "takes none" not in front("--points", 5, "--refine", 0)[1]


def test_policies_begin_as_that_of_equal_weights(front, tmp_path):
    code, said, started = front("--points", 3, "--seeds", 0, 1, "--warm-start", "equal")
    assert code == 0
    assert started == ["dibs-p0.5-0.5"] * 2 + ["dibs-p0.01-0.99", "dibs-p0.99-0.01"] * 2
    assert f"front of {ENV} by dibs from equal in {tmp_path}" in said
    for seed in (0, 1):
        first = RunFolder(tmp_path / ENV / f"scale-1/dibs-p0.5-0.5/seed{seed}")
        for arm in started[2:4]:
            facts = yaml.safe_load((tmp_path / ENV / f"scale-1/{arm}/seed{seed}/config.yaml").read_text())["facts"]
            assert facts["started_from"] == str(first.model_file)
    assert json.loads((tmp_path / "front.json").read_text())["warm_start"] == "equal"
    assert front("--points", 3, "--warm-start", "treasure=2,time=2")[2] == []  # the same one, by another name
    assert json.loads((tmp_path / "front.json").read_text())["warm_start"] == "equal"


@pytest.mark.parametrize(
    ("flags", "found", "said"),
    [
        ([], ("norm-sum-fading", "equal"), "From fronts.yaml: --arm norm-sum-fading --warm-start equal. "),
        (
            ["--env", "mo-halfcheetah-badscale"],
            ("norm-sum-fading", "equal"),
            "From fronts.yaml: --arm norm-sum-fading --warm-start equal. ",
        ),
        (["--arm", "norm-sum-fading"], ("norm-sum-fading", "equal"), "From fronts.yaml: --warm-start equal. "),
        (["--warm-start", "none"], ("norm-sum-fading", "none"), "From fronts.yaml: --arm norm-sum-fading. "),
        (["--arm", "dibs"], ("dibs", "none"), ""),
        (["--arm", "dibs-fading"], ("dibs-fading", "none"), ""),
        (["--arm", "norm-sum-fading", "--warm-start", "equal"], ("norm-sum-fading", "equal"), ""),
        (["--settings", "algo=sac"], ("dibs", "none"), ""),
        (["--settings", "reward_terms=a=reward_forward,b=reward_ctrl"], ("dibs", "none"), ""),
        (["--env", "mo-hopper"], ("dibs", "none"), ""),
    ],
)
def test_the_table_decides_where_nothing_is_said_and_says_so(flags, found, said, capsys):
    plan = front_command.read_plan(parse(front_command.FrontConfig, flags, "front"))
    assert (plan.arm, plan.warm_start) == found
    printed = capsys.readouterr().out
    assert printed.startswith(said)
    assert bool(printed) == bool(said)


def test_the_experts_of_the_anchored_game_are_points_and_their_steps_count(front, tmp_path):
    measure = ["--gamma", 1, "--ref-point", "treasure=-1,time=-200"]
    code, said, started = front("--arm", "dibs-anchored", "--points", 2, *measure, steps=128)
    assert code == 0
    assert started[:2] == ["expert-treasure", "expert-time"]
    assert [[float(row[f"preference/{name}"]) for name in NAMES] for row in rows(tmp_path)] == [
        [1, 0],
        [0, 1],
        [0.01, 0.99],
        [0.99, 0.01],
    ]
    assert "Environment steps: 512, 256 of them the experts'." in said
    assert "treasure -1, time -200 (as given)" in said
    assert np.array_equal(results(tmp_path, "returns"), results(tmp_path, "discounted_returns"))  # gamma 1
    with open(tmp_path / ENV / "scale-1/dibs-anchored-p0.01-0.99/seed0/progress.csv") as file:
        assert any("distance" in column for column in file.readline().split(","))

    # The experts' own runs may change or go: what the first policies were anchored on stays, and is checked.
    anchors = tmp_path / "anchors" / ENV / "seed0"
    kept = {file.name: file.read_bytes() for file in anchors.iterdir()}
    own = tmp_path / ENV / "scale-1/expert-time/seed0/model.zip"
    own.write_bytes((tmp_path / ENV / "scale-1/expert-treasure/seed0/model.zip").read_bytes())
    added = ["--arm", "dibs-anchored", *measure, "--refine", 0]
    assert front(*added, "--points", 3, steps=128)[::2] == (0, ["dibs-anchored-p0.5-0.5"])
    assert {file.name: file.read_bytes() for file in anchors.iterdir()} == kept
    (anchors / "time.zip").write_bytes(kept["time.zip"][:100])
    code, said, started = front(*added, "--points", 5, steps=128)
    assert (code, started) == (1, [])
    assert "time.zip is not the one that was trained" in " ".join(said.split())


def test_a_lattice_alone(front, tmp_path):
    code, _, started = front("--points", 3, "--refine", 0)
    assert (code, started) == (0, ["dibs-p0.01-0.99", "dibs-p0.5-0.5", "dibs-p0.99-0.01"])
    _, said, started = front("--points", 4, "--refine", 0)
    assert started == []  # nothing is put between them
    assert "There are 3 preferences, not 4: a lattice of at most 4 adds none to them" in said
    assert front("--points", 5, "--refine", 0)[2] == ["dibs-p0.255-0.745", "dibs-p0.745-0.255"]  # but by a finer lattice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 7}, "dibs-p0.01-0.99/seed0 was evaluated with {'gamma': 0.99, 'episodes': 7, "),
        ({"backend": "warp"}, "dibs-p0.01-0.99/seed0 was evaluated in warp's physics, and "),
    ],
)
def test_policies_that_were_not_evaluated_alike_make_no_front(front, tmp_path, capsys, change, message):
    """The odd one is named, even where it comes first."""
    front("--points", 3, "--refine", 0)
    result, before = RunFolder(tmp_path / ENV / "scale-1/dibs-p0.01-0.99/seed0").result_file, front_files(tmp_path)
    result.write_text(json.dumps(json.loads(result.read_text()) | change))
    assert command("front", "--env", ENV, "--steps", 64, "--out", tmp_path, *QUICK, "--points", 3, "--refine", 0) == 2
    assert message in capsys.readouterr().err
    assert front_files(tmp_path) == before


def front_files(root):
    return {file.name: file.read_bytes() for file in root.glob("front.*")}


def test_each_policy_begins_as_its_neighbour(front, tmp_path):
    asked = ("--points", 4, "--refine", 0.25, "--warm-start", "neighbour-treasure")
    code, said, started = front(*asked)
    assert (code, started[:3]) == (0, ["dibs-p0.99-0.01", "dibs-p0.5-0.5", "dibs-p0.01-0.99"])
    assert "Environment steps: 256." in said
    runs = tmp_path / ENV / "scale-1"
    facts = {arm: yaml.safe_load((runs / arm / "seed0/config.yaml").read_text())["facts"] for arm in started}
    models = [str(runs / arm / "seed0/model.zip") for arm in started]
    between = float(started[3].split("-")[1][1:])
    assert [facts[arm].get("started_from") for arm in started] == [None, *models[:2], models[0 if between > 0.5 else 1]]
    assert front(*asked)[2] == []
    assert command("front", "--env", ENV, *asked[:4], "--steps", 64, "--out", tmp_path, *QUICK) == 2  # another front


def test_a_finer_lattice_of_neighbours(front, tmp_path):
    """What is added is a chain too, and begins as those that are there."""
    asked = ("--refine", 0, "--warm-start", "neighbour-time")
    assert front(*asked, "--points", 2)[2] == ["dibs-p0.01-0.99", "dibs-p0.99-0.01"]
    code, _, started = front(*asked, "--points", 4)
    assert (code, started) == (0, ["dibs-p0.3367-0.6633", "dibs-p0.6633-0.3367"])
    configs = [(tmp_path / ENV / f"scale-1/{arm}/seed0/config.yaml").read_text() for arm in started]
    begun = [Path(yaml.safe_load(text)["facts"]["started_from"]).parts[-3] for text in configs]
    assert begun == ["dibs-p0.01-0.99", "dibs-p0.3367-0.6633"]
    code, _, started = front(*asked, "--points", 4, "--seeds", 1, launcher=lambda root: Interrupted(root, jobs=3))
    assert (code, started) == (130, ["dibs-p0.01-0.99", "dibs-p0.99-0.01"])
    assert front(*asked, "--points", 4)[2] == ["dibs-p0.3367-0.6633", "dibs-p0.6633-0.3367"]


def test_all_policies_begin_as_that_of_a_preference(front, tmp_path, monkeypatch):
    """They wait for it; with more points there are more of them, and what is at stake goes along with the networks."""
    drawn = []
    monkeypatch.setattr(front_results, "front_figure", lambda *args: drawn.append(args) or front_figure(*args))
    asked = ("--arm", "dibs-fading", "--refine", 0, "--warm-start", "treasure=1,time=3")
    first, ends = "dibs-fading-p0.25-0.75", ["dibs-fading-p0.01-0.99", "dibs-fading-p0.99-0.01"]
    assert front(*asked, "--points", 3, launcher=lambda root: InThisProcess(root, broken=(first,)))[::2] == (1, [first])
    assert front(*asked, "--points", 3)[::2] == (0, [first, *ends])
    assert front(*asked, "--points", 3)[2] == []
    assert front(*asked, "--points", 4)[2] == ["dibs-fading-p0.5-0.5"]
    runs = tmp_path / ENV / "scale-1"
    for arm in [*ends, "dibs-fading-p0.5-0.5"]:
        facts = yaml.safe_load((runs / arm / "seed0/config.yaml").read_text())["facts"]
        assert facts["started_from"] == str(runs / "dibs-fading-p0.25-0.75/seed0/model.zip")
        assert DiBSPPO.load(runs / arm / "seed0/model.zip")._stake_history.rollouts.max() == 2  # the first one's, and its own
    assert len(rows(tmp_path)) == 4
    (title, _, groups) = drawn[-1]
    assert title.startswith(f"front of {ENV} by dibs-fading\nfrom p0.25-0.75\n")
    assert groups["seed 0"].begun_as.tolist() == [row["preference/treasure"] == "0.25" for row in rows(tmp_path)]
    assert groups["seed 0"].begun_as.sum() == 1


def test_a_chain_waits_for_the_neighbour_that_failed(front, tmp_path):
    asked = ("--points", 3, "--refine", 0, "--warm-start", "neighbour-time")
    code, _, started = front(*asked, launcher=lambda root: InThisProcess(root, broken=("dibs-p0.5-0.5",)))
    assert (code, started) == (1, ["dibs-p0.01-0.99", "dibs-p0.5-0.5"])
    assert front(*asked)[2] == ["dibs-p0.5-0.5", "dibs-p0.99-0.01"]


@pytest.mark.parametrize(("said", "wanted"), [((), [0, -50]), (("--ref-point", "time=-7,treasure=3"), [3, -7])])
def test_what_is_refined_counts_above_the_reference_point(front, monkeypatch, said, wanted):
    asked = []
    monkeypatch.setattr(front_command, "refined", lambda *given: (asked.append(given), refined(*given))[1])
    front("--points", 3, *said)
    assert [given[2:] for given in asked] == [(1, wanted)]


def test_where_no_reference_point_is_known_all_gaps_count(front, monkeypatch):
    asked = []
    monkeypatch.setattr(front_command, "refined", lambda *given: (asked.append(given), refined(*given))[1])
    monkeypatch.setattr(front_command, "yardstick", lambda *_: Yardstick(None, None, "nowhere"))
    front("--points", 3)
    assert [given[2:] for given in asked] == [(1, None)]


def test_each_policy_begins_as_an_expert(front, tmp_path):
    code, said, started = front("--points", 2, "--warm-start", "expert")
    assert (code, started) == (0, ["expert-treasure", "expert-time", "dibs-p0.01-0.99", "dibs-p0.99-0.01"])
    assert "Environment steps: 256, 128 of them the experts'." in said
    assert [row["folder"].split("/")[2] for row in rows(tmp_path)] == started
    runs = tmp_path / ENV / "scale-1"
    facts = {arm: yaml.safe_load((runs / arm / "seed0/config.yaml").read_text())["facts"] for arm in started}
    begun = [facts[arm].get("started_from") for arm in started[2:]]
    assert begun == [str(runs / f"expert-{name}/seed0/model.zip") for name in ("time", "treasure")]


def test_a_failed_policy_leaves_no_gap_that_is_refined(front, tmp_path):
    code, _, started = front("--points", 3, launcher=lambda root: InThisProcess(root, broken=("dibs-p0.99-0.01",)))
    assert (code, started) == (1, ["dibs-p0.01-0.99", "dibs-p0.99-0.01"])
    assert len(rows(tmp_path)) == 1
    code, _, started = front("--points", 3)
    assert (code, started) == (0, ["dibs-p0.99-0.01", "dibs-p0.5-0.5"])


def test_ctrl_c_in_the_second_half_and_on_with_the_same_preferences(front, tmp_path):
    code, said, started = front("--points", 4, launcher=lambda root: Interrupted(root, jobs=4))
    assert (code, len(started)) == (130, 3)
    assert "the same command goes on" in said
    assert [line.rsplit(maxsplit=1)[-1] for line in said.splitlines() if "seed0 stopped" in line] == [
        "stopped"
    ]  # no time left
    chosen = (tmp_path / "study.yaml").read_text()
    # From now on the lattice's returns are others: what was chosen by them stays as it was.
    result = tmp_path / ENV / "scale-1/dibs-p0.01-0.99/seed0/result.json"
    numbers = json.loads(result.read_text())
    numbers["discounted_returns"]["time"]["mean"] += 1000
    result.write_text(json.dumps(numbers))
    code, _, started = front("--points", 4)
    assert (code, len(started), len(rows(tmp_path))) == (0, 1, 4)
    assert (tmp_path / "study.yaml").read_text() == chosen


def test_killed_and_on_to_the_end(front, tmp_path):
    """In processes of their own: Ctrl-C lets a policy save what it has learnt, and the same command goes on from there."""
    run = tmp_path / ENV / "scale-1/dibs-p0.01-0.99/seed0"
    process = start("front", "--env", ENV, "--points", 2, "--steps", 4_800, "--out", tmp_path, "--jobs", 1, *QUICK)
    wait_for(learning(run), process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert RunFolder(run).newest_model().name > "step_000000000000.zip"
    assert not (tmp_path / "front.csv").exists()
    assert front("--points", 2, steps=4_800)[0] == 0
    assert len(yaml.safe_load((run / "config.yaml").read_text())["facts"]["resumed"]) == 1
    assert [json.loads((tmp_path / row["folder"] / "result.json").read_text())["steps"] for row in rows(tmp_path)] == [
        4_800
    ] * 2


def test_a_preference_picks_a_policy_and_nothing_is_overwritten(front, tmp_path, capsys):
    assert front("--points", 2)[0] == 0
    text = (tmp_path / "front.csv").read_text().splitlines()
    columns = text[0].split(",")
    lines = [dict(zip(columns, line.split(","), strict=True)) for line in text[1:]]
    for line, returns in zip(lines, ([10.0, -20.0], [1.0, -2.0]), strict=True):  # a front worth choosing from
        line |= {f"discounted/{name}": str(r) for name, r in zip(NAMES, returns, strict=True)} | {"nondominated": "true"}
    (tmp_path / "front.csv").write_text("\n".join([",".join(columns), *(",".join(line.values()) for line in lines)]) + "\n")
    before = {row["folder"]: (tmp_path / row["folder"] / "result.json").read_bytes() for row in rows(tmp_path)}
    for preference, taken in (("treasure=3,time=1", 0), ("1,3", 1)):
        assert command("evaluate", tmp_path, "--preference", preference, "--episodes", 1) == 0
        said = capsys.readouterr().out
        assert f"For {preference}, of 2 policies: {lines[taken]['folder']}, trained with treasure=" in said
        assert "utility is 0.750" in said
        assert "time" in said
    assert {folder: (tmp_path / folder / "result.json").read_bytes() for folder in before} == before

    assert command("evaluate", tmp_path / "front.csv", "--preference", "1,1") == 2
    assert f"{tmp_path}/front.csv is none: give its folder, {tmp_path}." in capsys.readouterr().err
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "front.csv", alone)
    assert command("evaluate", alone, "--preference", "1,1") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "their runs are not there" in err


def test_policies_that_find_nothing_are_said_to_be_alike_and_worth_nothing(front, tmp_path, capsys):
    _, said, _ = front("--points", 2, "--refine", 0, "--ref-point", "treasure=1000,time=0")
    assert "No policy of seed 0 is above the reference point in every objective." in said
    policies = read_front(tmp_path)
    write_front(tmp_path, [dataclasses.replace(one, discounted=policies[0].discounted) for one in policies])
    assert command("evaluate", tmp_path, "--preference", "1,1", "--episodes", 1) == 0
    assert "All of them have the same returns." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["front", "--env", "mo-halfcheeta"], "Did you mean mo-halfcheetah"),
        (["front", "--env", "mo-hopper", "--points", "2"], "for each of forward, height, energy; found 2"),
        (["front", "--env", "mo-hopper", "--arm", "mgda"], "takes no preference"),
        (["front", "--env", "mo-hopper", "--arm", "dips"], "Did you mean dibs"),
        (["front", "--env", "mo-halfcheetah", "--warm-start", "None"], "Did you mean none"),
        (["front", "--env", "mo-halfcheetah", "--points", "2"], "--points is at least 3, the one that they begin as"),
        (["front", "--env", "mo-hopper", "--transform", "enrgy=2"], "Unknown objective 'enrgy'"),
        (["front", "--env", "mo-hopper", "--settings", "preference=[1,2,3]"], "says itself what preference is"),
        (["front", "--env", "mo-hopper", "--settings", "gama=1"], "Did you mean gamma"),
        (["front", "--env", "mo-hopper", "--ref-point", "forward=1"], "a return for each of forward, height, energy"),
        (["front", "--env", "mo-hopper", "--gamma", "0"], "above 0"),
        (["front", "--env", "mo-hopper", "--refine", "2"], "--refine: input should be less than or equal to 1"),
        (["front", "--env", "mo-hopper", "--jobs", "-1"], "--jobs: input should be greater than or equal to 0"),
        (["front", "--env", "mo-hopper", "--seeds", "-1"], "--seeds"),
        (["front", "--env", "mo-hopper", "--seeds"], "at least one seed"),
        (["front", "--env", "mo-hopper", "--out", "/proc/self/environ"], "Cannot make the study's folder"),
        (["evaluate", "."], "is not a run folder"),
        (["evaluate", ".", "--preference", "1,1"], "picks a policy of a front"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_front_that_has_no_policy_yet(front, tmp_path, capsys):
    front("--points", 2, launcher=lambda root: Interrupted(root, jobs=1))
    for words in ((), ("--preference", "1,1")):
        assert command("evaluate", tmp_path, *words) == 2
        assert "has no front.csv yet: the command that began this front goes on with it" in capsys.readouterr().err


def test_a_front_wants_a_preference(tmp_path, capsys):
    (tmp_path / "front.csv").write_text("")
    assert command("evaluate", tmp_path) == 2
    assert "say which of its policies with --preference" in capsys.readouterr().err
