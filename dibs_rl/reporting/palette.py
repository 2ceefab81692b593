"""One look for each arm in every picture: colours that colour-blind readers can tell apart, and dashes where they run out."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any, NamedTuple

# Okabe and Ito's colours without yellow, which is too pale for a line on white.
_COLOURS = ("#0072B2", "#009E73", "#D55E00", "#000000", "#56B4E9", "#CC79A7", "#E69F00")
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D")
# The arms of the benchmark, in the order in which they get their looks; a new one goes to the end.
_KNOWN = (
    *("dibs", "norm-sum", "weighted-sum", "sb3-ppo", "dibs-anchored", "mgda", "pcgrad"),
    *("dibs-1", "imtl-g", "nash-mtl", "cagrad", "upgrad", "aligned-mtl", "fairgrad"),
    *("dibs-50", "gradvac", "config", "dualproj", "excess-mtl", "graddrop", "pcd"),
)


class Look(NamedTuple):
    """How an arm is drawn.

    Attributes:
        colour: Of lines, markers and bands.
        dash: Matplotlib's line style.
        marker: Of single points.
    """

    colour: str
    dash: Any
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each label: the arm's own where the label begins with a known arm's name, else the next free one.

    Args:
        labels: An arm's name, or this and more behind a comma; the first of several labels of an arm has its look.
    """
    labels = list(dict.fromkeys(labels))
    own: dict[str, int] = {}
    for label in labels:
        arm = label.partition(",")[0]
        if arm in _KNOWN and _KNOWN.index(arm) not in own.values():
            own[label] = _KNOWN.index(arm)
    free = cycle(slot for slot in range(len(_COLOURS) * len(_DASHES)) if slot not in own.values())
    return {label: _look(own[label] if label in own else next(free)) for label in labels}


def in_order(names: Iterable[str]) -> list[str]:
    """Names of arms, the benchmark's first and in its order, the others by the alphabet."""
    return sorted(set(names), key=lambda name: (_KNOWN.index(name) if name in _KNOWN else len(_KNOWN), name))


def _look(slot: int) -> Look:
    kind = slot // len(_COLOURS) % len(_DASHES)
    return Look(_COLOURS[slot % len(_COLOURS)], _DASHES[kind], _MARKERS[kind])
