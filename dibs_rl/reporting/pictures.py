"""The pictures of a report: which curves and estimates of a study go into which panel."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.figure import Figure

from dibs_rl.arms import EXPERT, RANDOM
from dibs_rl.curves import RETURN, Curve, mean_curves, read_curves
from dibs_rl.reporting.figures import CurvePanel, PointPanel, curve_figure, png, point_figure
from dibs_rl.reporting.outcomes import Outcomes
from dibs_rl.reporting.tables import over
from dibs_rl.statistics import LEAST_SEEDS, Estimate, iqm
from dibs_rl.study_folder import Condition, JobRecord

Unit = Callable[[str, str], str]
Curves = Mapping[str, Mapping[str, Curve]]
_COLUMNS = 3
_MOST_ARMS = 6  # in a panel; more are spread over rows
_TICK_ROOM = 0.12  # of the axis, that the name of a factor takes
_FLOOR = -1.0  # of the axis of scores: what is so much worse than the random policy needs no closer look
_FRACTION = (-0.025, 1.025)  # limits of an axis from 0 to 1, on whose ends a line can still be seen
_INTERVALS = f"95% bootstrap intervals (from {LEAST_SEEDS} seeds on)"
_SHOWN = 86  # pixels an inch
_SHARE = "train/share/"
_NORM = "train/gradient_norm/"
_NOISE_FLOOR = "train/stationarity_noise_floor"
_CONFLICTS = {
    "train/conflict_fraction": ("conflicting pairs of objectives", "fraction", _FRACTION),
    "train/least_cosine": ("least cosine between two objectives", "cosine", (-1.05, 1.05)),
    "train/stationarity_residual": ("Pareto-stationarity residual", "norm", _FRACTION),
}


@dataclass(frozen=True)
class Picture:
    """A picture as it is shown.

    Attributes:
        name: Of its file, without the ending.
        caption: What is seen.
        png: The file.
        width: In which it is shown, in pixels, so that letters are equally large in all of them.
    """

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    png: bytes
    width: int


def columns(outcome: Outcomes, *, diagnosed: bool) -> list[str]:
    """Columns of `progress.csv` that pictures are made of; with those of conflict, if wanted."""
    of_objective = (RETURN, _SHARE, _NORM) if diagnosed else (RETURN,)
    named = [prefix + name for prefix in of_objective for name in outcome.objectives]
    return [*named, *_CONFLICTS, _NOISE_FLOOR] if diagnosed else named


def arm_curves(jobs: Iterable[JobRecord], wanted: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """What each arm logged over training, mean over its seeds, by column."""
    by_arm: dict[str, list[dict[str, Curve]]] = {}
    for job in jobs:
        by_arm.setdefault(job.arm, []).append(read_curves(job.folder.progress_file))
    return {arm: mean_curves(runs, wanted) for arm, runs in by_arm.items()}


def learning_picture(outcome: Outcomes, condition: Condition, logged: Curves, main: str, unit: Unit) -> Picture | None:
    """Training returns of every arm on every objective; None if nothing was logged."""
    levels = _levels(outcome)
    panels = []
    for arms in _rows([arm for arm in outcome.arms if logged.get(arm)], main):
        for name in outcome.objectives:
            curves = {arm: logged[arm][RETURN + name] for arm in arms if RETURN + name in logged[arm]}
            label = f"return of an episode\n({unit(outcome.env, name)})"
            panels.append(CurvePanel(name, label, curves, levels.get(name, {})))
    if not any(panel.curves for panel in panels):
        return None
    figure = curve_figure(f"{outcome.env}, {condition.name}: training episodes", panels, _across(outcome))
    caption = (
        f"Mean untransformed return of the last 100 training episodes (sampled actions), mean over seeds, with {_INTERVALS}. "
        "Grey: final evaluation of the random policy and of each objective's expert, where they were run."
    )
    return _picture(f"curves-{outcome.env}-{condition.name}", caption, figure)


def scale_picture(outcome: Outcomes, measure: str, main: str) -> Picture | None:
    """A measure against the factor on one objective's reward, a panel for each objective; None if none was rescaled."""
    sweeps = {name: steps for name in outcome.objectives if len(steps := _sweep(outcome, name)) > 1}
    rows = _rows(outcome.arms, main)
    panels = [_scale_panel(outcome, measure, name, steps, arms) for arms in rows for name, steps in sweeps.items()]
    if not panels:
        return None
    figure = point_figure(f"{outcome.env}: {measure} when one reward is rescaled", panels, _across(outcome))
    caption = (
        f"{outcome.env}: {measure}, IQM over seeds with {_INTERVALS}, when one reward is multiplied by a factor and "
        "the others are left alone. A method that does not see units gives a flat line. Points are moved sideways, so "
        "that equal ones can be told apart" + (f"; a triangle marks what lies below {_FLOOR:g}." if outcome.scorable else ".")
    )
    return _picture(f"scale-{outcome.env}-{measure}", caption, figure)


def condition_picture(outcome: Outcomes, measure: str, main: str) -> Picture | None:
    """A measure under the conditions that do more than rescale one reward; None if there is none."""
    others = [c for c in (*outcome.scaled, *outcome.bent) if c.factors is None or len(c.factors) > 1]
    plain = [c for c in outcome.conditions if c.name == outcome.plain]
    if not others:
        return None
    names = [c.name for c in (*plain, *others)]
    panels = [
        PointPanel(
            title="",
            xlabel="",
            ylabel=measure,
            positions=range(len(names)),
            ticks=names,
            estimates={arm: [_estimate(outcome, measure, name, arm) for name in names] for arm in arms},
            joined=False,
            floor=_FLOOR if outcome.scorable else -math.inf,
        )
        for arms in _rows(outcome.arms, main)
    ]
    figure = point_figure(f"{outcome.env}: {measure} under other transforms of the rewards", panels, 1)
    caption = (
        f"{outcome.env}: {measure}, IQM over seeds with {_INTERVALS}. Maps that are no factors make another objective of the "
        "return: what is seen there is outside the theorem."
    )
    return _picture(f"conditions-{outcome.env}-{measure}", caption, figure)


def conflict_picture(outcome: Outcomes, logged: Curves, main: str) -> Picture | None:
    """Conflict between the objectives' gradients over training; None if no arm logged any."""
    bargaining = _bargaining(outcome, logged)
    panels = []
    for arms in _rows(bargaining, main):
        for column, (title, label, limits) in _CONFLICTS.items():
            curves = {arm: logged[arm][column] for arm in arms if column in logged[arm]}
            floor = [logged[arm][_NOISE_FLOOR].values[-1] for arm in curves if _NOISE_FLOOR in logged[arm]]
            levels = {"noise floor": float(floor[0])} if floor and column.endswith("residual") else {}
            panels.append(CurvePanel(title, label, curves, levels, limits))
    if not bargaining:
        return None
    figure = curve_figure(f"{outcome.env}: conflict between the objectives' gradients", panels, _COLUMNS)
    caption = (
        f"Each update's mean, mean over seeds, with {_INTERVALS}. A residual of 0 is a Pareto-stationary point; the noise "
        "floor is what gradients of pure noise give. Arms that add rewards or advantages have one gradient and no conflict."
    )
    return _picture(f"conflict-{outcome.env}", caption, figure)


def share_picture(outcome: Outcomes, logged: Curves) -> Picture | None:
    """Each objective's share in the combined direction over training, a panel for each arm; None if no arm logged any."""
    panels = []
    for arm in _bargaining(outcome, logged):
        curves = {name: logged[arm][_SHARE + name] for name in outcome.objectives if _SHARE + name in logged[arm]}
        if curves:
            panels.append(CurvePanel(arm, "share", curves, {"equal shares": 1 / len(outcome.objectives)}, _FRACTION))
    if not panels:
        return None
    figure = curve_figure(f"{outcome.env}: share of each objective in the step", panels, _COLUMNS)
    caption = f"Weights on the unit gradients, as shares of their sum; mean over seeds, with {_INTERVALS}."
    return _picture(f"share-{outcome.env}", caption, figure)


def _picture(name: str, caption: str, figure: Figure) -> Picture:
    return Picture(name.replace(" ", "-"), caption, png(figure), round(figure.get_figwidth() * _SHOWN))


def _levels(outcome: Outcomes) -> dict[str, dict[str, float]]:
    """Final return of the random policy and of the expert on each objective."""
    found: dict[str, dict[str, float]] = {name: {} for name in outcome.objectives}
    for label, values in ((f"{RANDOM} policy", outcome.random), (f"{EXPERT.rstrip('-')} of the objective", outcome.expert)):
        for name, value in zip(outcome.objectives, () if values is None else values, strict=False):
            found[name][label] = float(value)
    return found


def _rows(arms: Sequence[str], main: str) -> list[list[str]]:
    """Arms by rows of panels: all in one, or some in each beside the main one."""
    if len(arms) <= _MOST_ARMS:
        return [list(arms)]
    first, others = [arm for arm in arms if arm == main], [arm for arm in arms if arm != main]
    size = _MOST_ARMS - len(first)
    return [first + others[begin : begin + size] for begin in range(0, len(others), size)]


def _across(outcome: Outcomes) -> int:
    """Panels in a row: the objectives, four of them in two rows."""
    return 2 if len(outcome.objectives) == 4 else min(len(outcome.objectives), _COLUMNS)


def _ticks(factors: Sequence[float]) -> list[str]:
    """Names of the factors, without those that would stand in the way of a rounder one."""
    room = _TICK_ROOM * (math.log10(factors[-1]) - math.log10(factors[0]))
    named: list[float] = []
    for factor in sorted(factors, key=lambda factor: (factor != 1, not math.log10(factor).is_integer())):
        if all(abs(math.log10(factor / other)) > room for other in named):
            named.append(factor)
    return [f"{factor:.4g}" if factor in named else "" for factor in factors]


def _sweep(outcome: Outcomes, objective: str) -> list[tuple[float, str]]:
    """Factors on one objective alone, with 1 for the plain condition, and the conditions' names."""
    alone = [(c.factors[objective], c.name) for c in outcome.scaled if c.factors and set(c.factors) == {objective}]
    return sorted([*alone, (1.0, outcome.plain)] if outcome.plain else alone) if alone else []


def _scale_panel(
    outcome: Outcomes, measure: str, objective: str, steps: Sequence[tuple[float, str]], arms: Sequence[str]
) -> PointPanel:
    return PointPanel(
        title=f"{objective} rescaled",
        xlabel=f"factor on the reward {objective}",
        ylabel=f"{measure}\n(0: random policy, 1: expert)" if outcome.scorable else f"return of an episode:\n{measure}",
        positions=[math.log10(factor) for factor, _ in steps],
        ticks=_ticks([factor for factor, _ in steps]),
        estimates={arm: [_estimate(outcome, measure, name, arm) for _, name in steps] for arm in arms},
        joined=True,
        floor=_FLOOR if outcome.scorable else -math.inf,
    )


def _estimate(outcome: Outcomes, measure: str, condition: str, arm: str) -> Estimate | None:
    return over([outcome.measured(measure, condition, arm)], iqm)


def _bargaining(outcome: Outcomes, logged: Curves) -> list[str]:
    """The arms that combined one gradient an objective, and said what these are like."""
    return [arm for arm in outcome.arms if all(_NORM + name in logged.get(arm, {}) for name in outcome.objectives)]
