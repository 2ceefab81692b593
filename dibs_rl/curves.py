"""What runs logged over training, read from their `progress.csv`, and brought together over seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dibs_rl.progress_csv import STEP, read_progress
from dibs_rl.statistics import LEAST_SEEDS, band

RETURN = "rollout/return/"
_POINTS = 120  # a panel is a few hundred pixels wide


@dataclass(frozen=True)
class Curve:
    """A logged number over environment steps, of one run or the mean of several.

    Attributes:
        steps: Environment steps, `[k]`, rising.
        values: The number, `[k]`.
        low: Lower end of the 95% bootstrap interval of the mean, `[k]`; None for too few runs.
        high: Upper end.
        runs: How many runs it is of.
    """

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    runs: int = 1


def read_curves(progress_file: Path) -> dict[str, Curve]:
    """Every number that a run logged, by its column, where it is not blank or NaN; empty if there is no file yet."""
    rows = read_progress(progress_file) if progress_file.is_file() else []
    rows = [row for row in rows if row.get(STEP)]
    found = {}
    for column in rows[0] if rows else ():
        points = [(float(row[STEP]), float(row[column])) for row in rows if row[column]]
        points = [point for point in points if not math.isnan(point[1])]
        if points:
            steps, values = np.array(points).T
            found[column] = Curve(steps, values)
    return found


def common_steps(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The first and the last step that all of the curves reach; None if there is none."""
    begin = max(curve.steps[0] for curve in curves)
    end = min(curve.steps[-1] for curve in curves)
    return (float(begin), float(end)) if begin <= end else None


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """The mean of runs over the steps that all of them have, with an interval where there are seeds enough.

    A single run stays as it is. None if the runs have no steps in common.
    """
    if len(curves) == 1:
        return curves[0]
    ends = common_steps(curves)
    if ends is None:
        return None
    steps = np.unique(np.linspace(*ends, _POINTS))
    values = np.stack([np.interp(steps, curve.steps, curve.values) for curve in curves])
    low, high = band(values) if len(curves) >= LEAST_SEEDS else (None, None)
    return Curve(steps, values.mean(axis=0), low, high, len(curves))


def mean_curves(runs: Iterable[dict[str, Curve]], columns: Iterable[str]) -> dict[str, Curve]:
    """The mean over runs of each column that all of them have."""
    runs = list(runs)
    found = {}
    for column in columns:
        curves = [run[column] for run in runs if column in run]
        if curves and len(curves) == len(runs) and (curve := mean_curve(curves)) is not None:
            found[column] = curve
    return found
