"""benchmarks/fronts.py: fronts of several arms beside each other."""

import numpy as np
import pytest
from PIL import Image
from scripts import load

from dibs_rl.errors import UserError
from dibs_rl.files import write_json
from dibs_rl.front_folder import FrontPolicy, write_front
from dibs_rl.metrics import front_measures

REFERENCE = {"forward": -100.0, "energy": -100.0}
HYPERVOLUMES = {"dibs": [10.0, 20.0, 60.0], "norm-sum": [13.0, 20.0]}


@pytest.fixture(scope="module")
def script():
    return load("benchmarks/fronts.py")


def write(folder, arm, **other):
    """A front as `dibs-rl front` leaves it, of two policies a seed."""
    folder.mkdir()
    seeds, policies = {}, []
    for seed, volume in enumerate(HYPERVOLUMES[arm]):
        returns = [{"forward": 50.0, "energy": -20.0}, {"forward": 10.0, "energy": float(-seed)}]
        policies += [FrontPolicy({"forward": 0.5, "energy": 0.5}, seed, r, r, f"run{seed}") for r in returns]
        measures = front_measures([list(r.values()) for r in returns], list(REFERENCE.values()))
        seeds[seed] = {**measures, "hypervolume": volume, "weight_control": 1.0}
    summary = {"env": "mo-halfcheetah-v5", "arm": arm, "transform": "", "gamma": 0.99, "episodes": 20, "deterministic": True}
    summary |= {"reference_point": REFERENCE, "steps": 600 * len(seeds), "expert_steps": 0, "seeds": seeds}
    write_front(folder, policies)
    write_json(folder / "front.json", summary | other)
    return folder


def test_a_row_a_front_and_differences_over_the_seeds_that_both_have(script, tmp_path):
    fronts = script.read([write(tmp_path / arm, arm) for arm in HYPERVOLUMES])
    head, _, first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in script.table(fronts).splitlines())
    cells = dict(zip(head, first, strict=True))
    assert (cells["front"], cells["seeds"], cells["policies"], cells["steps of a seed"]) == ("dibs", "3", "2", "600")
    assert cells["hypervolume"].startswith("30 [10, ")  # three seeds have an interval, which holds all of their mean
    assert cells["hypervolume above the first"] == ""
    cells = dict(zip(head, second, strict=True))
    assert cells["hypervolume"] == "16.5"
    assert cells["hypervolume above the first"] == "1.5"  # of (13 - 10, 20 - 20); two seeds have no interval


def test_the_picture_is_of_all_fronts(script, tmp_path):
    script.write_picture(script.read([write(tmp_path / arm, arm) for arm in HYPERVOLUMES]), tmp_path / "fronts.png")
    with Image.open(tmp_path / "fronts.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize(
    "other", [{"gamma": 1.0}, {"env": "mo-hopper-v5"}, {"reference_point": {"forward": 0.0, "energy": 0.0}}]
)
def test_fronts_that_do_not_compare_are_refused(script, tmp_path, other):
    folders = [write(tmp_path / "one", "dibs"), write(tmp_path / "other", "norm-sum", **other)]
    with pytest.raises(UserError, match=next(iter(other))):
        script.read(folders)
