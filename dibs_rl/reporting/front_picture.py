"""The picture of a front: the plane of two objectives, the three planes of three, parallel coordinates for more."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dibs_rl.metrics import front, normalised
from dibs_rl.reporting.figures import GREY, PANEL, STYLE, TICK, panel_grid, wrapped
from dibs_rl.reporting.palette import Look, looks

_PALE = 0.25
_MOST_IN_PLANES = 3  # objectives
_RING: dict[str, Any] = {"marker": "o", "color": GREY, "markersize": 9, "markerfacecolor": "none"}


@dataclass(frozen=True)
class FrontPoints:
    """What is drawn in one colour: the policies of a seed, say.

    Attributes:
        returns: `[k, m]`.
        nondominated: Which of them no other one of their front dominates, `[k]` bool.
        begun_as: Which of them others have begun as, `[k]` bool; None where there is no such policy.
    """

    returns: np.ndarray
    nondominated: np.ndarray
    begun_as: np.ndarray | None = None


def front_figure(title: str, axes: Mapping[str, str], groups: Mapping[str, FrontPoints]) -> Figure:
    """Draws fronts; dominated policies are pale.

    Args:
        title: Above all.
        axes: Names of the m objectives, and the units of their returns.
        groups: By label.
    """
    by_label, m = looks(groups), len(axes)
    pairs = list(itertools.combinations(range(m), 2)) if m <= _MOST_IN_PLANES else []
    with matplotlib.rc_context(STYLE):
        figure, panels = panel_grid(
            title, max(len(pairs), 1), 3, _keys(by_label, groups, rings=bool(pairs)), ticks=0 if pairs else m
        )
        for panel, pair in zip(panels, pairs, strict=False):
            for label, group in groups.items():
                _draw_plane(panel, group, pair, by_label[label], is_whole=m == 2)
            names = [f"{name}\n({unit})" for name, unit in axes.items()]
            panel.set(xlabel=wrapped(names[pair[0]], PANEL[0]), ylabel=wrapped(names[pair[1]], PANEL[1]))
        if not pairs:
            _draw_parallel(panels[0], list(axes), groups, by_label)
    return figure


def _keys(by_label: Mapping[str, Look], groups: Mapping[str, FrontPoints], *, rings: bool) -> dict[str, Line2D]:
    many = len(by_label) > 1
    keys = {label: _key(look.colour, look.marker) for label, look in by_label.items()} if many else {}
    first = next(iter(by_label.values()))
    colour, marker = (GREY, "o") if many else (first.colour, first.marker)
    marked = {"nondominated": _key(colour, marker)}
    if rings and any(group.begun_as is not None for group in groups.values()):
        keys |= {"where the others began": Line2D([], [], linestyle="none", **_RING), **marked}
    if not all(group.nondominated.all() for group in groups.values()):
        keys |= {**marked, "dominated": _key(colour, marker, alpha=_PALE)}
    return keys


def _key(colour: str, marker: str, alpha: float = 1.0) -> Line2D:
    return Line2D([], [], color=colour, linestyle="none", marker=marker, markersize=5, alpha=alpha)


def _draw_plane(panel: Axes, group: FrontPoints, pair: Sequence[int], look: Look, *, is_whole: bool) -> None:
    """Two objectives' returns; where these are all there are, with the edge of what the front dominates."""
    for chosen, alpha in ((~group.nondominated, _PALE), (group.nondominated, 1.0)):
        x, y = group.returns[chosen][:, list(pair)].T
        panel.plot(x, y, color=look.colour, linestyle="none", marker=look.marker, markersize=5, alpha=alpha)
    if group.begun_as is not None:
        x, y = group.returns[group.begun_as][:, list(pair)].T
        panel.plot(x, y, linestyle="none", **_RING)
    if is_whole:
        edge = front(group.returns)
        x, y = edge[np.argsort(edge[:, 0])].T
        panel.plot(x, y, color=look.colour, drawstyle="steps-pre", linewidth=1, alpha=0.5)


def _draw_parallel(panel: Axes, names: Sequence[str], groups: Mapping[str, FrontPoints], by_label: Mapping[str, Look]) -> None:
    """A line for each policy, over an axis for each objective, which goes from the front's least to its greatest return."""
    returns = np.concatenate([group.returns for group in groups.values()])
    marks = np.concatenate([group.nondominated for group in groups.values()])
    colours = [by_label[label].colour for label, group in groups.items() for _ in group.returns]
    places = normalised(returns)
    for i in np.argsort(marks, kind="stable"):
        panel.plot(places[i], color=colours[i], linewidth=1.2, alpha=1.0 if marks[i] else _PALE)
    best = front(returns)
    low, high = best.min(axis=0), best.max(axis=0)
    ticks = [f"{name}\n{a:,.4g} to {b:,.4g}" for name, a, b in zip(names, low, high, strict=True)]
    panel.set_xticks(range(len(names)), [wrapped(tick, TICK) for tick in ticks])
    panel.set(ylabel="return, from the front's least (0)\nto its greatest (1)")
