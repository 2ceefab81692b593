"""benchmarks/fronts.py: fronts of several arms beside each other."""

import sys

import numpy as np
import pytest
from PIL import Image
from scripts import load

from dibs_rl.errors import UserError
from dibs_rl.files import write_json
from dibs_rl.front_folder import FrontPolicy, write_front

SUMMARY = {"env": "mo-halfcheetah-v5", "transform": "", "gamma": 0.99, "episodes": 20, "deterministic": True}
SUMMARY |= {"reference_point": {"forward": -100.0, "energy": -100.0}, "expert_steps": 0}
COST = {"forward": 0.0, "energy": -9.0}
EQUAL, EXPERT = {"forward": 0.5, "energy": 0.5}, {"forward": 1.0, "energy": 0.0}


@pytest.fixture(scope="module")
def script():
    return load("benchmarks/fronts.py")


def write(folder, arm, forward, first_seed=0, **other):
    """A front as `dibs-rl front` leaves it: for each seed a policy, which runs so far for nothing."""
    policies = []
    for seed, distance in enumerate(forward, first_seed):
        returns = {"forward": float(distance), "energy": 0.0}
        policies.append(FrontPolicy(EQUAL, seed, returns, returns, f"run{seed}"))
        write_json(folder / f"run{seed}/cost.json", {"cpu_seconds": 60.0 + seed})
    write_front(folder, policies + other.pop("experts", []))
    write_json(folder / "front.json", SUMMARY | {"arm": arm, "steps": 600 * len(forward)} | other)
    return folder


def rows(script, folders, *arguments, **keywords):
    text = script.table(script.read(folders, *arguments, **keywords))
    head, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_a_row_a_front_and_differences_over_the_seeds_that_both_have(script, tmp_path):
    folders = [write(tmp_path / "a", "dibs", [0, 100, 200]), write(tmp_path / "b", "norm-sum", [10, 100])]
    first, second = rows(script, folders)
    assert (first["front"], first["seeds"], first["policies"], first["steps of a seed"]) == ("dibs", "3", "1", "600")
    assert first["hypervolume"].startswith("20,000 [")  # of 100, 200 and 300 times 100
    assert first["CPU seconds a policy"].startswith("61")
    assert first["hypervolume above the first"] == "—"
    assert (second["front"], second["hypervolume"]) == ("norm-sum", "15,500")  # two seeds have no interval
    assert second["hypervolume above the first"] == "500"  # of (11,000 - 10,000, 20,000 - 20,000)
    assert second["expected utility above the first"] == "2.50"  # of (5 - 0, 50 - 50): weights of forward are 1/2 in the mean


def test_another_reference_point_measures_anew(script, tmp_path):
    other = {"forward": 0.0, "energy": 0.0}
    folders = [write(tmp_path / "a", "dibs", [10]), write(tmp_path / "b", "norm-sum", [10], reference_point=other)]
    assert [row["hypervolume"] for row in rows(script, folders, "forward=-10,energy=-3")] == ["60.0", "60.0"]
    with pytest.raises(UserError, match="reference_point"):
        script.read(folders)


def test_experts_can_be_left_out(script, tmp_path):
    returns = {"forward": 900.0, "energy": -99.0}
    folder = write(tmp_path / "a", "dibs-anchored", [0], experts=[FrontPolicy(EXPERT, 0, returns, returns, "expert")])
    assert [row["hypervolume"] for row in rows(script, [folder])] == ["10,900"]  # 100 x 100 and 900 x 1
    assert [row["hypervolume"] for row in rows(script, [folder], experts=False)] == ["10,000"]
    alone = write(tmp_path / "b", "dibs-anchored", [], experts=[FrontPolicy(EXPERT, 0, returns, returns, "expert")])
    with pytest.raises(UserError, match="has no policies but experts"):
        script.read([alone], experts=False)


def test_fronts_of_one_arm_are_told_apart(script, tmp_path, monkeypatch, capsys):
    folders = [write(tmp_path / name, "dibs", [9 * k, 10]) for k, name in enumerate(("cold", "warm"))]
    assert [row["front"] for row in rows(script, folders)] == ["dibs (cold)", "dibs (warm)"]
    begun = [folders[0], write(tmp_path / "begun", "dibs", [7], warm_start="equal", transform="energy=2")]
    assert [row["front"] for row in rows(script, begun)] == ["dibs", "dibs from equal, energy=2"]
    elsewhere = write(tmp_path / "elsewhere/cold", "dibs", [3])
    labels = [row["front"] for row in rows(script, [*folders, elsewhere])]
    assert labels == [f"dibs ({folders[0]})", "dibs (warm)", f"dibs ({elsewhere})"]
    with pytest.raises(UserError, match="cold is given twice"):
        script.read([folders[0], folders[0] / "../cold"])
    monkeypatch.setattr(sys, "argv", ["fronts.py", *map(str, folders), "--out", str(tmp_path / "fronts.png")])
    script.main()
    assert "dibs (warm)" in capsys.readouterr().out
    with Image.open(tmp_path / "fronts.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_seeds_in_folders_of_their_own_are_one_front(script, tmp_path):
    together = [write(tmp_path / "a", "dibs", [0, 100, 200]), write(tmp_path / "b", "norm-sum", [10, 100, 30])]
    apart = [write(tmp_path / "a0", "dibs", [0]), write(tmp_path / "b0", "norm-sum", [10])]
    apart += [
        write(tmp_path / "b1", "norm-sum", [100, 30], first_seed=1),
        write(tmp_path / "a1", "dibs", [100, 200], first_seed=1),
    ]
    assert rows(script, apart, pool=True) == rows(script, together)
    with pytest.raises(UserError, match="Seed 1 of dibs is in two of the folders"):
        script.read([together[0], apart[3]], pool=True)
    for other in (
        {"steps": 1200},
        {"settings": {"ent_coef": 0.1}},
        {"experts": [FrontPolicy(EXPERT, 9, COST, COST, "expert")]},
    ):
        folder = write(tmp_path / "other", "dibs", [7], first_seed=9, **other)
        with pytest.raises(UserError, match="Seeds of dibs differ, 1 policies in 600 steps with no settings and "):
            script.read([together[0], folder], pool=True)


def test_seeds_that_were_trained_otherwise_are_not_pooled(script, tmp_path, capsys):
    """Where the folders say it; settings that ship may have changed between two of them."""
    settings = {"ent_coef": 0.0, "log_std_init": -1.0}
    folders = [write(tmp_path / f"a{k}", "dibs", [k], first_seed=k, trained_with=settings) for k in range(2)]
    script.read(folders, pool=True)
    assert capsys.readouterr().err == ""
    older = write(tmp_path / "older", "dibs", [0], first_seed=2)
    script.read([*folders, older], pool=True)
    assert "Not all folders of dibs say which settings shipped then" in capsys.readouterr().err
    said = {"trained_with": settings | {"came_later": 1}, "settings": {"ent_coef": 0.0}}
    newer = write(tmp_path / "newer", "dibs", [0], first_seed=4, **said)
    for order in ([*folders, newer], [newer, *folders]):  # what was given then is shipped by now
        assert len(script.read(order, pool=True)) == 1
    physics = [
        write(tmp_path / f"warp{k}", "dibs", [0], first_seed=5 + k, trained_with=settings | {"warp": bool(k)}) for k in (0, 1)
    ]
    with pytest.raises(UserError, match="Of the seeds of dibs some have warp as False, and not as True"):
        script.read([*folders, *physics], pool=True)
    other = write(tmp_path / "other", "dibs", [0], first_seed=3, trained_with=settings | {"log_std_init": 0.0})
    with pytest.raises(UserError, match=r"Of the seeds of dibs some have log_std_init as -1\.0, and not as 0\.0: they cannot"):
        script.read([*folders, older, other], pool=True)


def test_a_front_that_is_not_whole_is_refused(script, tmp_path):
    returns = {"forward": 50.0, "energy": 0.0}
    more = FrontPolicy({"forward": 0.9, "energy": 0.1}, 0, returns, returns, "more")
    with pytest.raises(UserError, match="has fewer policies of some seeds than of others"):
        script.read([write(tmp_path / "a", "dibs", [0, 10], experts=[more])])
    experts = [FrontPolicy(EXPERT, seed, COST, COST, f"expert{seed}") for seed in (0, 1)]
    with pytest.raises(UserError, match="has fewer policies of some seeds than of others"):
        script.read([write(tmp_path / "b", "dibs", [0], experts=experts)])


def test_the_first_of_each_seed_alone(script, tmp_path):
    """The lattice comes first; what is refined is left out with its steps, and experts stay what they are."""
    returns = {"forward": 50.0, "energy": 0.0}
    refined = [FrontPolicy({"forward": 0.9, "energy": 0.1}, seed, returns, returns, f"more{seed}") for seed in (0, 1)]
    expert = [FrontPolicy(EXPERT, seed, COST, COST, f"expert{seed}") for seed in (0, 1)]
    folder = write(tmp_path / "a", "dibs", [0, 10], experts=refined + expert, steps=1200, expert_steps=200)
    all_of_it, first = (rows(script, [folder], first=count)[0] for count in (None, 1))
    assert (all_of_it["policies"], all_of_it["hypervolume"], all_of_it["steps of a seed"]) == ("3", "15,000", "600")
    assert (first["policies"], first["hypervolume"], first["steps of a seed"]) == ("2", "10,500", "350")
    assert [row["policies"] for row in rows(script, [folder], first=1, experts=False)] == ["1"]


def test_the_flag_pools_whatever_the_order(script, tmp_path, monkeypatch, capsys):
    folders = [write(tmp_path / f"seed{k}", "dibs", [9 * k], first_seed=k) for k in range(3)]
    said = []
    for order in (folders, folders[::-1]):
        monkeypatch.setattr(sys, "argv", ["fronts.py", *map(str, order), "--pool"])
        script.main()
        said.append(capsys.readouterr().out)
    assert "| dibs | 3 | 1 | 10,900 [" in said[0]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "fronts.jpg"], "must end in .png; found fronts.jpg"),
        (["--first", "0"], "--first is at least 1; found 0"),
        ([], "Cannot read "),
    ],
)
def test_mistakes_get_one_line(script, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["fronts.py", str(tmp_path), *flags])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize("other", [{"gamma": 1.0}, {"env": "mo-hopper-v5"}, {"episodes": 5}])
def test_fronts_that_do_not_compare_are_refused(script, tmp_path, other):
    folders = [write(tmp_path / "a", "dibs", [0]), write(tmp_path / "b", "norm-sum", [0], **other)]
    with pytest.raises(UserError, match=next(iter(other))):
        script.read(folders)
