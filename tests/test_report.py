"""`dibs-rl report`: from a study's folders to a page, with numbers that were worked out by hand."""

import base64
import io
import itertools
import json
import os
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import yaml
from fake_studies import write_study
from PIL import Image

from dibs_rl.cli.benchmark import BenchmarkConfig, read_jobs
from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.main import main
from dibs_rl.cli.trainings import TrainingFlags
from dibs_rl.reporting.outcomes import outcomes
from dibs_rl.reporting.tables import shown
from dibs_rl.statistics import Estimate
from dibs_rl.study import record
from dibs_rl.study_folder import Condition, read_study

ENV = "mo-halfcheetah-v5"
OBJECTIVES = ("forward", "energy")
CONDITIONS = {"scale-1": "", "energy-x1e3": "energy=1e3", "energy-x2^10": "energy=1024.0", "energy-power4": "energy=power4"}
ARMS = ("dibs", "weighted-sum", "sb3-ppo", "random", "expert-forward", "expert-energy")
TOO_FEW = "A value without an interval is of fewer than 3 seeds."
# Returns of seeds 0, 1 and 2. The random policy gets 0 and an expert 10 on its objective: a score is a tenth of a return.
FORWARD, ENERGY = (6.0, 7.0, 8.0), (5.0, 5.0, 8.0)


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def result_of(env, condition, arm, seed):
    if arm == "random":
        return {"forward": 0.0, "energy": 0.0}
    if arm.startswith("expert-"):
        return {name: 10.0 if arm == f"expert-{name}" else -5.0 for name in OBJECTIVES}
    if arm == "dibs":
        moved = 0.5 if condition in ("energy-x1e3", "energy-power4") else 0.0
        return {"forward": FORWARD[seed] - moved, "energy": ENERGY[seed] + moved / 2}
    if condition == "scale-1":
        return {"forward": 9.0 + seed / 10, "energy": 3.0}
    return {"forward": -20.0, "energy": 9.5}


def curves_of(env, condition, arm, seed):
    steps = np.arange(1, 6) * 100
    values = {f"rollout/return/{name}": np.linspace(0, result_of(env, condition, arm, seed)[name], 5) for name in OBJECTIVES}
    values["rollout/return/forward"][0] = np.nan  # no episode has ended yet
    if arm == "dibs":
        for name, share in zip(OBJECTIVES, (0.25, 0.75), strict=True):
            values |= {f"train/share/{name}": np.full(5, share), f"train/gradient_norm/{name}": np.ones(5)}
        values |= {"train/conflict_fraction": np.full(5, 0.5), "train/least_cosine": np.full(5, -0.1)}
        values |= {"train/stationarity_residual": np.full(5, 0.8), "train/stationarity_noise_floor": np.full(5, 0.7)}
    return steps, values


def cost_of(env, condition, arm, seed):
    seconds = {"dibs": 30.0, "sb3-ppo": 60.0}.get(arm, 20.0)
    return {"seconds": seconds, "cpu_seconds": seconds / 2, "peak_mib": 500.0, "steps_per_second": 3000 / seconds}


def fake_study(path, **changes):
    how = {"envs": {ENV: OBJECTIVES}, "conditions": CONDITIONS, "arms": ARMS, "seeds": range(3)}
    write_study(path, **{**how, "result_of": result_of, "curves_of": curves_of, "cost_of": cost_of, **changes})
    return path


class Page(HTMLParser):
    """What a page holds: tables by their captions, pictures, texts, and every address it refers to."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.pictures, self.addresses, self.text, self.open = {}, [], [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "img":
            self.pictures.append(attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "caption":
            self.caption += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, caption, name):
        """A row by the header's names."""
        header, *rows = self.tables[caption]
        return next(dict(zip(header, row, strict=True)) for row in rows if row[0] == name)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    path = fake_study(tmp_path_factory.mktemp("studies") / "small", without=[("energy-x1e3", "dibs", 2)])
    failed = path / ENV / "energy-power4" / "weighted-sum" / "seed1"
    (failed / "result.json").unlink()
    (failed / "error.txt").write_text("NonFiniteError: <b>diverged</b>\nTraceback\n")
    assert command("report", path) == 0
    return path, Page((path / "report" / "report.html").read_text())


def test_the_page_needs_nothing_else(reported):
    path, page = reported
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    files = sorted((path / "report").glob("*.png"))
    assert len(files) == len(page.pictures) >= 6
    inside = [base64.b64decode(picture["src"].partition(",")[2]) for picture in page.pictures]
    assert sorted(inside) == sorted(file.read_bytes() for file in files)
    for picture in inside:
        Image.open(io.BytesIO(picture)).verify()


def test_everything_has_its_name(reported):
    _, page = reported
    assert all(name in page.text for name in (ENV, *OBJECTIVES, *CONDITIONS, *ARMS, "maximin", "Nash welfare"))
    assert "torch 2.13.0" in page.text
    assert "Linux-x86_64" in page.text
    assert all(picture["alt"] for picture in page.pictures)


def test_scores_are_those_worked_out_by_hand(reported):
    """Maximin of the seeds: 0.5, 0.5, 0.8; the mean of their scores: 0.55, 0.6, 0.8; the roots: .30, .35 and .64."""
    _, page = reported
    row = page.row(f"Scores, {ENV}", "dibs")
    assert row["maximin, rewards as given"] == "0.60 [0.50, 0.80]"
    assert row["mean score, rewards as given"] == "0.65 [0.55, 0.80]"
    nash = np.sqrt([0.30, 0.35, 0.64])
    assert row["Nash welfare, rewards as given"] == f"{nash.mean():.2f} [{nash[0]:.2f}, 0.80]"
    assert row["seeds"] == "3"
    assert page.row(f"Scores, {ENV}", "weighted-sum")["maximin, rewards as given"] == "0.30 [0.30, 0.30]"
    assert page.row(f"{ENV}, energy-x1e3: scores", "weighted-sum")["maximin"] == "-2.00 [-2.00, -2.00]"
    assert page.row(f"{ENV}, energy-x1e3: scores", "dibs")["maximin"] == "0.53"


def test_the_best_maximin_is_on_top(reported):
    _, page = reported
    assert [row[0] for row in page.tables[f"Scores, {ENV}"]] == ["arm", "dibs", "weighted-sum", "sb3-ppo"]
    assert "Where another arm is above dibs, rewards as given" not in page.tables


def test_returns_are_untransformed_and_have_the_references_beside_them(reported):
    _, page = reported
    title = f"{ENV}, scale-1: returns"
    assert page.row(title, "dibs")["forward"] == "7.00 [6.00, 8.00]"
    assert page.row(title, "random")["energy"] == "0 [0, 0]"
    assert page.row(title, "expert-energy")["energy"] == "10.0 [10.0, 10.0]"


def test_gaps_are_those_worked_out_by_hand(reported):
    """Powers of two move nothing; 10^3 moves forward by 0.5 of 10; other seeds' scores differ by .1, .3 and .3 at most."""
    _, page = reported
    row = page.row(f"{ENV}: score", "dibs")
    assert row["factors: powers of two"] == "0 [0, 0]"
    assert row["other factors"] == "0.05"
    assert row["other transforms (outside the theorem)"] == "0.05 [0.05, 0.05]"
    noise = np.array([(0.1 + 0.3) / 2, (0.1 + 0.3) / 2, 0.3])
    assert row["another seed"] == f"{noise.mean():.2f} [{noise.min():.2f}, {noise.max():.2f}]"
    assert page.row(f"{ENV}: score", "weighted-sum")["factors: powers of two"].startswith("2.91 [")


def test_cost_against_sb3(reported):
    _, page = reported
    row = page.row(ENV, "dibs")
    assert (row["seconds"], row["steps per second"]) == ("30.0 [30.0, 30.0]", "100 [100, 100]")
    assert row["seconds / sb3-ppo"] == "0.50 [0.50, 0.50]"
    assert page.row(ENV, "sb3-ppo")["CPU seconds / sb3-ppo"] == "1 (itself)"


def test_jobs_without_a_result_are_listed(reported):
    """Text from outside is text on the page too."""
    _, page = reported
    assert page.tables["2 of 45 jobs: 1 missing, 1 failed"][1:] == [
        [ENV, "energy-x1e3", "dibs", "2", "missing", "—"],
        [ENV, "energy-power4", "weighted-sum", "1", "failed", "NonFiniteError: <b>diverged</b>"],
    ]


def test_a_value_has_an_interval_or_its_table_says_once_why_not(reported):
    _, page = reported
    lacking = 0
    for header, *rows in page.tables.values():
        if header[0] == "arm":
            cells = [cell for row in rows for name, cell in zip(header, row, strict=True) if name not in ("arm", "seeds")]
            lacking += not all(cell == "—" or "[" in cell or "itself" in cell for cell in cells)
    assert page.text.count(TOO_FEW) == lacking > 0
    assert "no interval" not in page.text


@pytest.mark.parametrize("conditions", [{"scale-1": ""}, {"scale-1": "", "energy-x1e3": "energy=1e3"}])
def test_no_table_stands_on_a_page_twice(tmp_path, conditions):
    """Neither in a study with one condition, nor in one with a single transform."""
    path = fake_study(tmp_path / "study", conditions=conditions)
    assert command("report", path) == 0
    tables = Page((path / "report" / "report.html").read_text()).tables
    columns = {
        caption: {tuple((row[0], row[i]) for row in rows) for i, name in enumerate(header) if name not in ("arm", "seeds")}
        for caption, (header, *rows) in tables.items()
        if header[0] == "arm"
    }
    for one, other in itertools.permutations(columns, 2):
        assert not columns[one] <= columns[other], (one, other)


def test_drawing_leaves_no_trace_in_matplotlib(tmp_path):
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    assert command("report", fake_study(tmp_path / "study", curves_of=None), "--out", tmp_path / "pages" / "page.html") == 0
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "pages" / "page.html").is_file()
    assert list((tmp_path / "study" / "report").glob("*.png"))


def test_without_references_returns_are_compared(tmp_path):
    """Numbers in different units have no worst and no mean."""
    path = fake_study(tmp_path / "study", arms=("dibs", "weighted-sum"), curves_of=None)
    assert command("report", path) == 0
    page = Page((path / "report" / "report.html").read_text())
    assert "raw returns are compared instead of scores" in page.text
    assert "maximin" not in page.text
    assert page.row(f"{ENV}: energy", "dibs")["other factors"] == "0.25 [0.25, 0.25]"
    assert (path / "report" / f"scale-{ENV}-energy.png").is_file()


def test_an_expert_no_better_than_random_has_no_score(tmp_path):
    def poor_expert(env, condition, arm, seed):
        return {"forward": 1.0, "energy": -1.0} if arm == "expert-energy" else result_of(env, condition, arm, seed)

    path = fake_study(tmp_path / "study", result_of=poor_expert, curves_of=None, conditions={"scale-1": ""})
    (found,) = outcomes(read_study(path, {}))
    assert found.scorable == ("forward",)
    assert found.measured("maximin", "scale-1", "dibs") == pytest.approx([0.6, 0.7, 0.8])
    assert command("report", path) == 0
    assert "energy has no score" in (path / "report" / "report.html").read_text()


def test_environments_are_strata(tmp_path):
    """An arm that is missing from one of them is said to be."""
    envs = {ENV: OBJECTIVES, "mo-swimmer-v5": OBJECTIVES}
    path = fake_study(tmp_path / "study", envs=envs, conditions={"scale-1": ""}, curves_of=None)
    for seed in range(3):
        (path / "mo-swimmer-v5" / "scale-1" / "weighted-sum" / f"seed{seed}" / "result.json").unlink()
    assert command("report", path) == 0
    page = Page((path / "report" / "report.html").read_text())
    row = page.row("Scores over all environments", "dibs")
    assert row["environments"] == "2 of 2"
    assert row["maximin, rewards as given"].startswith("0.57 [")  # of .5 .5 .5 .5 .8 .8 without a value at each end: 2.3 / 4
    assert page.row("Scores over all environments", "weighted-sum")["environments"] == "1 of 2"
    assert "3 of 36 jobs: 3 unfinished" in page.tables


def test_where_another_arm_is_better_is_said(tmp_path):
    def better(env, condition, arm, seed):
        return {"forward": 9.0, "energy": 9.0} if arm == "weighted-sum" else result_of(env, condition, arm, seed)

    path = fake_study(tmp_path / "study", result_of=better, curves_of=None, conditions={"scale-1": ""})
    assert command("report", path) == 0
    rows = Page((path / "report" / "report.html").read_text()).tables["Where another arm is above dibs, rewards as given"]
    assert [ENV, "maximin", "weighted-sum", "0.90 [0.90, 0.90]", "0.60 [0.50, 0.80]", "apart"] in rows


def test_how_far_a_job_has_come(tmp_path):
    """A run that was evaluated in the middle of its training has not finished."""
    path = fake_study(tmp_path / "study", conditions={"scale-1": ""}, curves_of=None, without=[("scale-1", "dibs", 2)])
    half = path / ENV / "scale-1" / "dibs" / "seed1" / "result.json"
    half.write_text(json.dumps({**json.loads(half.read_text()), "steps": 500}))
    (path / ENV / "scale-1" / "sb3-ppo" / "seed0" / "result.json").unlink()
    (path / ENV / "scale-1" / "random" / "seed0").joinpath("error.txt").write_text("of an earlier attempt")
    infinite = path / ENV / "scale-1" / "sb3-ppo" / "seed1" / "result.json"
    infinite.write_text(infinite.read_text().replace('"mean": 3.0', '"mean": Infinity'))
    jobs = {(job.arm, job.seed): job for job in read_study(path, {}).jobs}
    states = {key: job.state for key, job in jobs.items()}
    assert (states["sb3-ppo", 1], jobs["sb3-ppo", 1].error) == ("failed", "The return of energy is inf.")
    assert states["dibs", 0] == states["random", 0] == "finished"
    assert states["dibs", 1] == states["sb3-ppo", 0] == "unfinished"
    assert states["dibs", 2] == "missing"
    assert len(states) == 18


def test_a_study_without_the_plain_rewards_lacks_none(tmp_path):
    """`study.yaml` always names them; the arms need not have been run on them."""
    path = fake_study(tmp_path / "study", conditions={"energy-x1e3": "energy=1e3"}, arms=("dibs", "norm-sum"), curves_of=None)
    settings = yaml.safe_load((path / "study.yaml").read_text())
    settings["conditions"] = {"scale-1": "", **settings["conditions"]}
    (path / "study.yaml").write_text(yaml.safe_dump(settings))
    assert {job.state for job in read_study(path, {}).jobs} == {"finished"}
    assert command("report", path) == 0


def test_what_a_condition_means():
    assert Condition("scale-1", "").is_plain
    assert Condition("twice", "a=2.0,b=0.25").is_power_of_two
    assert not Condition("kilo", "a=1e3").is_power_of_two
    assert Condition("kilo", "a=1e3").factors == {"a": 1000.0}
    assert Condition("bent", "a=power4").factors is None
    assert Condition("bent", "a=1e3@episode").factors is None
    assert Condition("off", "a=0").factors is None


def test_numbers_have_as_many_places_as_they_need():
    assert shown(None) == "—"
    assert shown(Estimate(0.616, 0.5, 0.744, 5)) == "0.62 [0.50, 0.74]"
    assert shown(Estimate(-3101.4, -3200.0, -2999.6, 5)) == "-3,101 [-3,200, -3,000]"
    assert shown(Estimate(0.0, 0.0, 0.0, 5)) == "0 [0, 0]"
    assert shown(Estimate(2e-7, 0.0, 3e-7, 5)) == "2e-07 [0, 3e-07]"
    assert shown(Estimate(1.0, float("nan"), float("nan"), 1)) == "1.00"


def test_mistakes_get_one_line_and_exit_code_2(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing_yet = fake_study(tmp_path / "nothing", arms=("random",))
    no_yaml, foreign = tmp_path / "no_yaml", tmp_path / "foreign"
    for path, text in ((no_yaml, "a: ["), (foreign, "envs: 3\n")):
        path.mkdir()
        (path / "study.yaml").write_text(text)
    broken = fake_study(tmp_path / "broken")
    (broken / ENV / "scale-1" / "dibs" / "seed0" / "result.json").write_text("{")
    expected = {
        "no folder": ([tmp_path / "nowhere"], "nowhere does not exist"),
        "empty": ([empty], "not a study's folder"),
        "no page": ([nothing_yet, "--out", tmp_path / "page.txt"], ".html"),
        "nothing yet": ([nothing_yet], "nothing to report"),
        "no YAML": ([no_yaml], "not valid YAML"),
        "another study.yaml": ([foreign], "envs"),
        "broken result": ([broken], "result.json"),
        "no argument": ([], "PATH"),
    }
    capsys.readouterr()
    for name, (arguments, message) in expected.items():
        assert command("report", *arguments) == 2, name
        said = capsys.readouterr().err
        assert said.count("\n") == 1, (name, said)
        assert message in said, (name, said)
    assert not (nothing_yet / "report").exists()


def test_of_real_jobs(tmp_path):
    """What a benchmark leaves can be reported; a reward times a power of two moves none of its returns."""
    quick = ("num_envs=4", "n_steps=16", "batch_size=32", "n_epochs=2", "eval_episodes=2", "steps=192", "threads=1")
    arms, conditions = ("dibs", "random", "expert-treasure"), ("scale-1", "treasure-x2^10")
    trainings = TrainingFlags(settings=quick)
    flags = BenchmarkConfig(envs=("deep-sea-treasure",), conditions=conditions, arms=arms, trainings=trainings)
    study, jobs = read_jobs(flags)
    record(study, tmp_path)
    *first, last = sorted(jobs, key=lambda job: job.condition)
    for job in first:
        assert command("train", *train_flags(job, tmp_path)) == 0
    states = [job.state for job in read_study(tmp_path, {}).jobs]
    assert sorted(states) == ["finished"] * 3 + ["missing"]
    assert command("train", *train_flags(last, tmp_path)) == 0
    assert command("report", tmp_path) == 0
    page = Page((tmp_path / "report" / "report.html").read_text())
    for name in ("treasure", "time"):
        assert page.row(f"deep-sea-treasure-v0: {name}", "dibs")["factors: powers of two"] == "0"
    assert page.text.count(TOO_FEW) == len([table for table in page.tables.values() if table[0][0] == "arm"])
    assert {f"curves-deep-sea-treasure-v0-{name}.png" for name in conditions} <= set(os.listdir(tmp_path / "report"))
    assert "None: all 4 jobs finished." in page.text


def test_results_as_json_stay_as_they_are(reported):
    """A report reads and never writes into a job."""
    path, _ = reported
    result = json.loads((path / ENV / "scale-1" / "dibs" / "seed0" / "result.json").read_text())
    assert result["returns"]["forward"]["mean"] == 6.0
