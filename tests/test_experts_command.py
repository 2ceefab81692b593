"""`dibs-rl experts` and `train --anchors`: once trained, experts are kept, checked and used; nothing is overwritten."""

import pytest
import yaml

from dibs_rl.cli.main import dispatch
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder

ENV = ["--env", "deep-sea-treasure"]
TINY = ["--num-envs", "4", "--n-steps", "16", "--batch-size", "32", "--steps", "256", "--eval-episodes", "0", "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with experts of a few steps in its cache."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert dispatch(["experts", *ENV, "--steps", "512"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def experts(place):
    (found,) = place.glob("runs/experts/deep-sea-treasure-v0/*")
    return found


def test_the_cache_says_what_it_holds(experts):
    assert experts.name == "ppo-gym-512-seed0"
    facts = yaml.safe_load((experts / "experts.yaml").read_text())
    assert (facts["env"], facts["backend"], facts["steps"]) == ("deep-sea-treasure-v0", "gym", 512)
    assert facts["versions"]["mo-gymnasium"]
    assert set(facts["models"]) == {"treasure", "time"}
    for name, model in facts["models"].items():
        settings = RunFolder.open((experts / model["file"]).parent).config()
        (other,) = {"treasure", "time"} - {name}
        assert settings.transform == f"{other}=0"  # each learnt from its own objective alone


def test_experts_are_trained_once(experts, capsys):
    before = {file: file.stat().st_mtime_ns for file in experts.rglob("*") if file.is_file()}
    assert dispatch(["experts", *ENV, "--steps", "512"]) == 0
    assert {file: file.stat().st_mtime_ns for file in experts.rglob("*") if file.is_file()} == before
    assert "--anchors" in capsys.readouterr().out


def test_other_experts_are_not_overwritten(experts):
    with pytest.raises(UserError, match="holds experts with steps 512, and not 1024"):
        dispatch(["experts", *ENV, "--steps", "1024", "--out", str(experts)])


def test_anchors_train_and_resume(experts, tmp_path):
    run = tmp_path / "run"
    assert dispatch(["train", *ENV, *TINY, "--anchors", str(experts), "--out", str(run)]) == 0
    header = (run / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"train/anchor_distance/treasure", "train/anchor_distance/time"} <= set(header)
    assert dispatch(["train", "--resume", str(run), "--steps", "512"]) == 0


def test_foreign_experts_get_one_line(experts, tmp_path):
    with pytest.raises(UserError, match="trained in deep-sea-treasure-v0, and this is deep-sea-treasure-concave-v0"):
        dispatch(["train", "--env", "deep-sea-treasure-concave", *TINY, "--anchors", str(experts)])
    with pytest.raises(UserError, match="is no folder of experts"):
        dispatch(["train", *ENV, *TINY, "--anchors", str(tmp_path)])
    with pytest.raises(UserError, match="game of DiBS"):
        dispatch(["train", *ENV, *TINY, "--combiner", "norm-sum", "--anchors", str(experts)])
