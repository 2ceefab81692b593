"""Pictures of results. Each function returns a figure of its own: nothing is kept in matplotlib between two of them."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from dibs_rl.curves import Curve
from dibs_rl.errors import UserError
from dibs_rl.reporting.palette import Look, looks
from dibs_rl.statistics import Estimate

PANEL = (4.3, 2.9)  # inches
_DPI = 110
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_LEVEL_DASHES: tuple[Any, ...] = (":", "--", "-.")
GREY = "0.45"
_LINE = 0.24  # inches of a line of the legend
_MARKER = 0.7  # inches that a line of the legend has beside its text
_LETTERS = 11  # in an inch of text
_DODGE = 0.06  # of the distance between two positions, so that equal estimates of two arms can both be seen
TICK = 1.1  # inches that the name of a position may take
_DODGED = 0.7  # of that distance, all arms together at most


@dataclass(frozen=True)
class CurvePanel:
    """Curves over training.

    Attributes:
        title: What is drawn.
        ylabel: Its unit.
        curves: By label.
        levels: Values that do not change over training, by label.
        limits: Of the y axis; as the curves are, if not given.
    """

    title: str
    ylabel: str
    curves: Mapping[str, Curve]
    levels: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class PointPanel:
    """Estimates with intervals at a few positions.

    Attributes:
        title: What is drawn.
        xlabel: What differs between the positions.
        ylabel: What is estimated.
        positions: Where on the x axis, rising.
        ticks: Their names.
        estimates: By label, one for each position; None where there is none.
        joined: Whether a line goes from point to point: where the positions are steps of one scale.
        floor: Where the y axis is cut at the latest; what lies below is marked by a triangle.
    """

    title: str
    xlabel: str
    ylabel: str
    positions: Sequence[float]
    ticks: Sequence[str]
    estimates: Mapping[str, Sequence[Estimate | None]]
    joined: bool
    floor: float = -math.inf


def curve_figure(title: str, panels: Sequence[CurvePanel], columns: int) -> Figure:
    """Panels of curves over environment steps, row by row, with their bands and one legend below.

    Args:
        title: Above all.
        panels: From left to right and from top to bottom.
        columns: How many stand side by side at most.
    """
    by_label = looks(label for panel in panels for label in panel.curves)
    levels = list(dict.fromkeys(label for panel in panels for label in panel.levels))
    dashes = {label: _LEVEL_DASHES[i % len(_LEVEL_DASHES)] for i, label in enumerate(levels)}
    keys = {label: Line2D([], [], color=look.colour, linestyle=look.dash) for label, look in by_label.items()}
    keys |= {label: Line2D([], [], color=GREY, linestyle=dash, linewidth=1) for label, dash in dashes.items()}
    with matplotlib.rc_context(STYLE):
        figure, axes = panel_grid(title, len(panels), columns, keys)
        for axis, panel in zip(axes, panels, strict=True):
            for label, curve in panel.curves.items():
                _draw_curve(axis, curve, by_label[label])
            for label, level in panel.levels.items():
                axis.axhline(level, color=GREY, linestyle=dashes[label], linewidth=1)
            axis.set(title=panel.title, xlabel="environment steps", ylabel=wrapped(panel.ylabel, PANEL[1]), ylim=panel.limits)
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def point_figure(title: str, panels: Sequence[PointPanel], columns: int) -> Figure:
    """Panels of estimates at named positions, row by row, with their intervals, one y axis for all, and one legend below."""
    by_label = looks(label for panel in panels for label in panel.estimates)
    joined = any(panel.joined for panel in panels)
    keys = {label: _key(look, joined=joined) for label, look in by_label.items()}
    with matplotlib.rc_context(STYLE):
        ticks = max(len(panel.ticks) for panel in panels)
        figure, axes = panel_grid(title, len(panels), columns, keys, ticks=ticks, sharey=True)
        for i, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            _draw_points(axis, panel, by_label)
            axis.set_ylabel("" if i % columns else panel.ylabel)
        for axis, panel in zip(axes, panels, strict=True):
            _cut_off(axis, panel, by_label)
    return figure


def check_png(out: Path) -> None:
    """Refuses a file for a picture that is not named as the one kind that is drawn.

    Raises:
        UserError: If it does not end in `.png`.
    """
    if out.suffix != ".png":
        raise UserError(f"The picture is a PNG file: --out must end in .png; found {out}.")


def png(figure: Figure) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def panel_grid(
    title: str, count: int, columns: int, keys: Mapping[str, Line2D], *, ticks: int = 0, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with panels, and one legend for all of them below; none where there is but one thing to name.

    Args:
        title: Above all.
        count: Panels.
        columns: How many stand side by side at most.
        keys: What the legend shows, by label.
        ticks: Positions with a name on each panel's x axis, for which there must be room; 0 where they are numbers.
        sharey: Whether the panels have one y axis.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = max(PANEL[0] * columns, TICK * ticks * columns)
    labels = [wrapped(label, width - _MARKER) for label in keys]
    lines = [line for label in labels for line in label.split("\n")]
    across = max(1, int(width / (_MARKER + 0.08 * max(map(len, lines), default=0))))
    below = math.ceil(len(lines) / across)
    figure = Figure(figsize=(width, PANEL[1] * rows + 0.4 + _LINE * below), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten().tolist()
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[:count]:
        axis.grid(alpha=0.3, linewidth=0.6)
    figure.suptitle(wrapped(title, width))
    if len(keys) > 1:
        figure.legend(keys.values(), labels, loc="outside lower center", ncols=min(across, len(keys)))
    return figure, axes[:count]


def wrapped(text: str, inches: float) -> str:
    """A text broken into lines of so many inches."""
    return "\n".join(textwrap.fill(line, int(inches * _LETTERS)) for line in text.split("\n"))


def _draw_curve(axis: Axes, curve: Curve, look: Look) -> None:
    marker = look.marker if len(curve.steps) == 1 else "none"
    axis.plot(curve.steps, curve.values, color=look.colour, linestyle=look.dash, linewidth=1.5, marker=marker, markersize=4)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(curve.steps, curve.low, curve.high, color=look.colour, alpha=0.15, linewidth=0)


def _draw_points(axis: Axes, panel: PointPanel, by_label: Mapping[str, Look]) -> None:
    for label, points in _dodged(panel).items():
        _draw_estimates(axis, points, by_label[label], joined=panel.joined)
    axis.set_xticks(panel.positions, [wrapped(tick, TICK) for tick in panel.ticks])
    axis.set(title=panel.title, xlabel=panel.xlabel)


def _cut_off(axis: Axes, panel: PointPanel, by_label: Mapping[str, Look]) -> None:
    """Ends the y axis at the panel's floor where points lie below, and says so with triangles."""
    low, high = axis.get_ylim()
    if low < panel.floor:
        axis.set_ylim(panel.floor, max(high, panel.floor + 1))
    for label, points in _dodged(panel).items():
        for at in (at for at, estimate in points if estimate.value < panel.floor):
            axis.plot(at, panel.floor, "v", color=by_label[label].colour, markersize=7, clip_on=False)


def _dodged(panel: PointPanel) -> dict[str, list[tuple[float, Estimate]]]:
    """The estimates of each label, with where they stand: side by side at each position."""
    span = panel.positions[-1] - panel.positions[0] if len(panel.positions) > 1 else 1.0
    step = min(_DODGE, _DODGED / len(panel.estimates)) * span / max(len(panel.positions) - 1, 1)
    found = {}
    for i, (label, estimates) in enumerate(panel.estimates.items()):
        shift = step * (i - (len(panel.estimates) - 1) / 2)
        found[label] = [(at + shift, e) for at, e in zip(panel.positions, estimates, strict=True) if e is not None]
    return found


def _draw_estimates(axis: Axes, points: Sequence[tuple[float, Estimate]], look: Look, *, joined: bool) -> None:
    x, y = [at for at, _ in points], [estimate.value for _, estimate in points]
    line = look.dash if joined else "none"
    axis.plot(x, y, color=look.colour, linestyle=line, linewidth=1.5, marker=look.marker, markersize=5)
    for at, estimate in points:
        if estimate.has_interval:
            axis.plot([at, at], [estimate.low, estimate.high], color=look.colour, linewidth=1.2, alpha=0.8)


def _key(look: Look, *, joined: bool) -> Line2D:
    return Line2D([], [], color=look.colour, linestyle=look.dash if joined else "none", marker=look.marker, markersize=5)
