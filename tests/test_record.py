"""`dibs-rl record`: what a run's policy does, as a video, on a machine without a display."""

import json

import gymnasium as gym
import pytest
from PIL import Image

from dibs_rl.cli.main import main
from dibs_rl.envs import rendering
from dibs_rl.errors import UserError
from dibs_rl.video import mp4_installed

QUICK = ["--n-steps", 16, "--num-envs", 4, "--batch-size", 32, "--n-epochs", 1, "--steps", 64, "--eval-episodes", 0]


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


@pytest.fixture
def opengl(monkeypatch):
    """Whether MuJoCo can draw here is found out anew, and forgotten after the test."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    try:
        rendering._choose_opengl()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def short_episodes(monkeypatch):
    import mo_gymnasium  # noqa: F401  (registers its ids)

    return lambda env_id, steps: monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", steps)


def test_a_video_of_the_episodes_that_evaluate_plays(tmp_path, capsys):
    """A picture of each step and of the first observation, and the same returns."""
    run = tmp_path / "run"
    command("train", "--env", "deep-sea-treasure", *QUICK, "--out", run)
    command("evaluate", run, "--episodes", 1, "--stochastic")  # the most likely action may never find an end
    returns = json.loads((run / "evaluation.json").read_text())["returns"]
    capsys.readouterr()
    assert command("record", run, "--stochastic", "--out", tmp_path / "sea.gif") == 0
    said = capsys.readouterr().out
    assert f"treasure {returns['treasure']['mean']:,.2f}  time {returns['time']['mean']:,.2f}" in said
    steps = -round(returns["time"]["mean"])
    assert f"{1 + steps + 4} pictures" in said  # the last one stands still for a second
    with Image.open(tmp_path / "sea.gif") as video:
        assert video.n_frames <= steps + 1


def test_returns_of_rewards_in_bad_units_are_those_of_the_environment(tmp_path, capsys):
    run = tmp_path / "run"
    command("train", "--env", "deep-sea-treasure-badscale", *QUICK, "--out", run)
    command("evaluate", run, "--episodes", 1, "--stochastic")
    returns = json.loads((run / "evaluation.json").read_text())["returns"]
    assert returns["treasure"]["mean"] > 0
    capsys.readouterr()
    assert command("record", run, "--stochastic", "--out", tmp_path / "sea.gif") == 0
    assert f"treasure {returns['treasure']['mean']:,.2f}  time {returns['time']['mean']:,.2f}" in capsys.readouterr().out


def test_rewards_out_of_infos(tmp_path, capsys, short_episodes):
    run = tmp_path / "run"
    assert command("train", "--env", "Pendulum", "--reward-terms", "swing=reward,cost=-reward", *QUICK, "--out", run) == 0
    short_episodes("Pendulum-v1", 12)
    capsys.readouterr()
    assert command("record", run, "--out", tmp_path / "swing.gif") == 0
    swing, cost = capsys.readouterr().out.partition("swing ")[2].split("\n")[0].split("  cost ")
    assert float(swing) == -float(cost) != 0


def test_several_episodes_one_after_the_other(tmp_path, capsys):
    run = tmp_path / "run"
    command("train", "--env", "fruit-tree", *QUICK, "--out", run)  # episodes of 6 steps
    capsys.readouterr()
    assert command("record", run, "--episodes", 3, "--seed", 5, "--out", tmp_path / "tree.gif") == 0
    said = capsys.readouterr().out
    assert said.count("protein") == 3
    assert f"{1 + 3 * 6 + 4} pictures" in said


@pytest.mark.skipif(not mp4_installed(), reason="PyAV writes MP4 files")
def test_robots_are_drawn_without_a_display(tmp_path, opengl, short_episodes):
    """A run of the batch backend, in the same environment of the gym backend; the video is the run folder's."""
    import av

    run = tmp_path / "run"
    command("train", "--env", "mo-hopper", *QUICK, "--out", run)
    short_episodes("mo-hopper-v5", 6)
    assert command("record", run) == 0
    with av.open(str(run / "video.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert pictures[0].shape == (480, 480, 3)
    assert pictures[0].std() > 20
    assert (pictures[0] != pictures[5]).any()


def test_tasks_side_by_side(tmp_path, capsys, short_episodes):
    run = tmp_path / "run"
    tasks = ["--env", "Pendulum+mo-mountaincarcontinuous-v0", "--pad-tasks"]
    assert command("train", *tasks, *QUICK, "--out", run) == 0
    short_episodes("Pendulum-v1", 12)
    short_episodes("mo-mountaincarcontinuous-v0", 7)
    assert command("record", run, "--out", tmp_path / "tasks.gif") == 0
    said = capsys.readouterr().out
    assert "\nPendulum -" in said
    assert "\nmo-mountaincarcontinuous/time -7.00  mo-mountaincarcontinuous/fuel" in said
    assert f"{1 + 12 + 30} pictures" in said
    with Image.open(tmp_path / "tasks.gif") as video:
        assert video.size == (1200, 500)  # 500 x 500 beside 600 x 400


def test_mistakes(tmp_path, capsys, monkeypatch):
    """One clear line, exit code 2, and no file."""
    run = tmp_path / "run"
    command("train", "--env", "fishwood", *QUICK, "--out", run)
    hopper = tmp_path / "hopper"
    command("train", "--env", "mo-hopper", *QUICK, "--out", hopper)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_draws", lambda gl: False)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ([run], "fishwood-v0 draws no pictures: it has the render modes human"),
        ([hopper], "apt install libegl1 and libgl1 for egl, or libosmesa6 for osmesa"),
        ([run, "--out", "film.avi"], ".mp4 or .gif"),
        ([run, "--episodes", 0], "--episodes: input should be greater than or equal to 1; found 0"),
        ([tmp_path], "not a run folder"),
    ):
        assert command("record", *arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("dibs-rl: error: ")
        assert said.count("\n") == 1
        assert message in said
    assert sorted(tmp_path.rglob("*")) == before


def test_who_sets_mujoco_gl_is_obeyed(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(rendering, "_draws", lambda gl: False)
    rendering._choose_opengl()


@pytest.mark.parametrize(("works", "chosen"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa")])
def test_egl_before_osmesa(monkeypatch, works, chosen):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_draws", lambda gl: gl in works)
    rendering._choose_opengl()
    assert rendering.os.environ["MUJOCO_GL"] == chosen
