"""`dibs-rl plot`: what is drawn of one or several runs, and that pictures can be read."""

import itertools

import numpy as np
import pytest
from fake_studies import write_run
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dibs_rl.cli.main import main
from dibs_rl.cli.plot import drawable_runs, mean_by_label
from dibs_rl.curves import Curve
from dibs_rl.envs.registry import SPECS, return_unit
from dibs_rl.reporting.figures import CurvePanel, PointPanel, curve_figure, point_figure
from dibs_rl.reporting.palette import in_order, looks
from dibs_rl.run_folder import RunFolder
from dibs_rl.statistics import Estimate, band

ENV, OBJECTIVES = "deep-sea-treasure-v0", ("treasure", "time")
STEPS = np.arange(1, 5) * 64


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def write(folder, level=0.0, steps=STEPS, **how):
    curves = {f"rollout/return/{name}": level + np.arange(len(steps)) for name in OBJECTIVES}
    write_run(folder, ENV, OBJECTIVES, steps=steps, curves=curves, **how)
    return folder


def labelled(*folders):
    return mean_by_label(drawable_runs([RunFolder.open(folder) for folder in folders]))


def test_seeds_become_a_mean_with_its_interval(tmp_path):
    """What only makes a run faster does not make it another arm."""
    runs = [write(tmp_path / f"s{i}", i, seed=i, settings={"threads": 1 + i % 2}) for i in range(3)]
    found = labelled(*runs)
    assert list(found) == ["dibs, 3 seeds"]
    curve = found["dibs, 3 seeds"]["treasure"]
    low, high = band(np.arange(3)[:, None] + np.zeros((1, 1)))
    assert (curve.values[0], curve.low[0], curve.high[0]) == pytest.approx((1, low[0], high[0]))
    assert (curve.steps[0], curve.steps[-1]) == (STEPS[0], STEPS[-1])
    assert command("plot", *runs) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_two_seeds_have_a_mean_and_no_interval(tmp_path):
    found = labelled(*(write(tmp_path / f"s{i}", i, seed=i) for i in range(2)))
    assert found["dibs, 2 seeds"]["time"].low is None


def test_arms_have_labels_that_tell_them_apart(tmp_path):
    runs = [
        write(tmp_path / "a", seed=0),
        write(tmp_path / "b", seed=0, settings={"preference": "3,1"}),
        write(tmp_path / "c", seed=1, settings={"preference": "3,1"}),
        write(tmp_path / "d", seed=0, settings={"combiner": "mgda", "learning_rate": 0.1}),
        write(tmp_path / "e", seed=0, settings={"combiner": "weighted-sum"}, study={"arm": "sum", "condition": "scale-1"}),
    ]
    assert list(labelled(*runs)) == [
        "dibs, preference none, seed 0",
        "dibs, preference 3,1, 2 seeds",
        "mgda, seed 0",
        "sum, seed 0",
    ]
    assert list(labelled(runs[1])) == ["dibs, preference 3,1, seed 0"]


def test_algorithms_of_one_combiner_are_told_apart_by_their_names(tmp_path):
    """They have settings that others lack, and defaults of their own."""
    runs = [
        write(tmp_path / "a"),
        write(tmp_path / "b", settings={"learning_rate": 0.1}),
        write(tmp_path / "c", settings={"algo": "a2c"}),
        write(tmp_path / "d", settings={"algo": "sac"}),
    ]
    assert list(labelled(*runs)) == [
        "dibs, algo ppo, learning_rate 0.0003, seed 0",
        "dibs, algo ppo, learning_rate 0.1, seed 0",
        "dibs, algo a2c, seed 0",
        "dibs, algo sac, seed 0",
    ]
    assert command("plot", *runs) == 0


def test_a_front_s_arm_has_said_its_preference(tmp_path):
    own = {"settings": {"preference": "treasure=0.01,time=0.99"}}
    runs = [
        write(tmp_path / "a", study={"arm": "dibs-p0.01-0.99"}, **own),
        write(tmp_path / "b", study={"arm": "mine"}, **own),
    ]
    assert list(labelled(*runs)) == ["dibs-p0.01-0.99, seed 0", "mine, preference treasure=0.01,time=0.99, seed 0"]


def test_the_same_seed_again_is_not_another_seed(tmp_path):
    runs = [write(tmp_path / "x" / name, level, seed=0) for level, name in enumerate(("first", "again"))]
    assert list(labelled(*runs)) == ["dibs, seed 0: x/first", "dibs, seed 0: x/again"]
    assert list(labelled(runs[0], runs[0])) == ["dibs, seed 0"]


def test_runs_without_common_steps_are_drawn_apart(tmp_path):
    """One has gone on where the other had long stopped."""
    runs = [write(tmp_path / "a", seed=0), write(tmp_path / "b", seed=1, steps=STEPS + 1000)]
    assert list(labelled(*runs)) == ["dibs, seed 0", "dibs, seed 1"]


def test_a_run_without_episodes_is_said_once(tmp_path, capsys):
    full, empty = write(tmp_path / "full"), tmp_path / "empty"
    write_run(empty, ENV, OBJECTIVES, seed=1, steps=STEPS, curves={"train/loss": np.ones(4)})
    assert command("plot", full, empty, empty) == 0
    assert capsys.readouterr().out.count("no finished episode") == 1
    assert command("plot", empty) == 2
    said = capsys.readouterr()
    assert (said.out, "none has finished an episode" in said.err) == ("", True)


def test_mistakes_get_one_line_and_exit_code_2(tmp_path, capsys):
    other = tmp_path / "other"
    write_run(other, "mo-reacher-v5", ("a",), steps=STEPS, curves={"rollout/return/a": STEPS})
    for arguments, message in [
        ([], "at least one run"),
        ([tmp_path], "not a run folder"),
        ([write(tmp_path / "run"), other], "different environments"),
        ([other, "--out", tmp_path / "x.jpg"], "PNG"),
    ]:
        assert command("plot", *arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert message in said, said


def texts(figure):
    """Every text that is drawn, with its box."""
    figure.draw_without_rendering()
    found = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axis in filter(lambda axis: axis.get_visible(), figure.axes):
        found += [axis.title, axis.xaxis.label, axis.yaxis.label]
        for line, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            found += [tick.label1 for tick in line.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_text() and text.get_visible()]


def assert_readable(figure):
    """No text lies on another or leaves the picture."""
    FigureCanvasAgg(figure)
    boxes = texts(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, (one, other)
    for text, box in boxes:
        assert box.x0 > -2, text
        assert box.y0 > -2, text
        assert box.x1 < width + 2, text
        assert box.y1 < height + 2, text


TITLE = "mo-lunar-lander-continuous-v3, main_fuel-x1e-3: training episodes"
LABEL = "return of an episode\n(minus sum of squared actions + 1 a step)"


@pytest.mark.parametrize(("panels", "columns"), [(1, 3), (2, 2), (3, 3), (4, 2), (6, 3)])
@pytest.mark.parametrize("arms", [1, 15])
def test_no_text_of_curves_overlaps(panels, columns, arms):
    steps = np.array([0.0, 1e6])
    curves = {f"an arm with a long name {i}": Curve(steps, np.array([-5000.0, i])) for i in range(arms)}
    shown = [CurvePanel(f"objective_{i}", LABEL, curves, {"random policy": 1.0}) for i in range(panels)]
    assert_readable(curve_figure(TITLE, shown, columns))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("arms", [1, 6])
def test_no_text_of_points_overlaps(joined, arms):
    ticks = ["0.001", "1", "1000"] if joined else ["scale-1", "all-badly-scaled", "energy-power4", "forward-sqrt@episode"]
    estimates = {f"arm {i}": [Estimate(-3.0, -4.0, 0.5, 5)] * len(ticks) for i in range(arms)}
    panel = PointPanel("energy rescaled", "factor", "maximin", range(len(ticks)), ticks, estimates, joined, floor=-1.0)
    figure = point_figure(TITLE, [panel] * (3 if joined else 1), 3)
    assert_readable(figure)
    assert figure.axes[0].get_ylim()[0] == -1


def test_arms_look_the_same_in_every_picture():
    first, second = looks(["dibs", "sb3-ppo", "mine"]), looks(["sb3-ppo, 3 seeds", "dibs, 3 seeds"])
    assert first["dibs"] == second["dibs, 3 seeds"]
    assert first["sb3-ppo"] == second["sb3-ppo, 3 seeds"]
    many = looks([f"arm {i}" for i in range(20)] + ["dibs"])
    assert len(set(many.values())) == 21
    assert len(looks(f"arm {i}" for i in range(100))) == 100
    assert in_order(["zeta", "sb3-ppo", "alpha", "dibs"]) == ["dibs", "sb3-ppo", "alpha", "zeta"]


def test_every_objective_has_a_unit_or_is_a_sum_of_rewards():
    for spec in SPECS.values():
        assert all(return_unit(spec.id, name) for name in spec.objectives)
    assert return_unit("mo-halfcheetah-v5", "forward") == "sum of m/s"
    assert return_unit("mo-halfcheetah-v4", "energy") == "sum of rewards"
    assert return_unit("Theirs-v0", "anything") == "sum of rewards"
