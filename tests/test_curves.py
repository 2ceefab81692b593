"""Curves out of `progress.csv`, and their means over seeds."""

import numpy as np
import pytest

from dibs_rl.curves import Curve, mean_curve, mean_curves, read_curves
from dibs_rl.statistics import band


def curve(steps, values):
    return Curve(np.array(steps, dtype=float), np.array(values, dtype=float))


def test_blanks_and_nans_are_left_out(tmp_path):
    file = tmp_path / "progress.csv"
    file.write_text("time/total_timesteps,a,b,c\n64,,nan,1\n128,2.5,nan,\n192,3.5,nan,\n256,4.5,na")  # cut off in the middle
    found = read_curves(file)
    assert found["a"].steps.tolist() == [128, 192]
    assert found["a"].values.tolist() == [2.5, 3.5]
    assert found["c"].steps.tolist() == [64]
    assert "b" not in found
    assert read_curves(tmp_path / "nowhere.csv") == {}


def test_a_single_run_stays_as_it_is():
    single = curve([1, 5, 7], [0, 1, 0])
    assert mean_curve([single]) is single


def test_the_mean_is_taken_where_all_runs_are():
    """Runs log at other steps and end elsewhere; between logged steps a curve is a straight line."""
    found = mean_curve([curve([0, 100], [0, 100]), curve([50, 150], [0, 0])])
    assert (found.steps[0], found.steps[-1], found.runs) == (50, 100, 2)
    assert found.values == pytest.approx(found.steps / 2)
    assert found.low is None
    assert mean_curve([curve([0, 10], [0, 0]), curve([20, 30], [0, 0])]) is None


def test_three_seeds_have_a_band():
    values = np.array([[0.0, 1.0, 5.0], [1.0, 1.0, 7.0], [2.0, 1.0, 12.0]])
    found = mean_curve([curve([0, 10, 20], row) for row in values])
    low, high = band(values)
    assert (found.values[0], found.values[-1]) == pytest.approx((1, 8))
    assert (found.low[0], found.high[0]) == pytest.approx((low[0], high[0]))
    assert (found.low <= found.values).all()
    assert (found.values <= found.high).all()


def test_a_single_logged_step_in_common():
    found = mean_curve([curve([10], [1]), curve([10], [3])])
    assert (found.steps.tolist(), found.values.tolist()) == ([10], [2])


def test_columns_that_a_run_lacks_are_left_out():
    runs = [{"a": curve([0], [1]), "b": curve([0], [1])}, {"a": curve([0], [3])}]
    found = mean_curves(runs, ["a", "b", "c"])
    assert set(found) == {"a"}
    assert found["a"].values == 2
