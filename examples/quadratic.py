"""Where the games end when every loss grows with the distance from a point of its own: loss_i = phi_i(|x - x*_i|).

    python examples/quadratic.py --out quadratic.png

All gradients point straight away from the x*_i, whatever the increasing phi_i, so it is known in closed form where DiBS goes.

What to see. Left: the anchored game ends in the centroid of the x*_i, from every start, and with preference weights in the
weighted centroid. Middle: the local game with T = 1, the mean of unit gradients, ends in the geometric median, which cares for
directions alone. Right, losses x^2 and (x - 1)^2 from 0.2: there the two unit gradients cancel, so the local game stays, as it
does at every point between the two minima; the anchored game goes on to 0.5.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.optimize import minimize
from torch import Tensor

from dibs_rl import dibs_weights, objective_jacobian
from dibs_rl.units import unit_rows

PREFERRED = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [5.0, 6.0], [-1.0, 2.0]], dtype=torch.float64)
PREFERENCE = (1.0, 1.0, 1.0, 6.0, 1.0)
# Increasing functions of the distance r, whose slopes vanish, explode and shrink.
COSTS: dict[str, Callable[[Tensor], Tensor]] = {
    "r": lambda r: r,
    "r$^2$": lambda r: r**2,
    "10$^{-6}$ r$^4$": lambda r: 1e-6 * r**4,
    "1000 log(1 + r)": lambda r: 1e3 * torch.log1p(r),
    "exp(r) - 1": torch.expm1,
}
STARTS = ((3.0, -2.0), (-3.0, 6.0), (7.0, 1.0), (1.0, 7.0))


def isotropic_losses(x: Tensor) -> Tensor:
    """phi_i(|x - x*_i|) for the five points and costs above."""
    distances = (x - PREFERRED).norm(dim=1)
    return torch.stack([cost(r) for cost, r in zip(COSTS.values(), distances, strict=True)])


def two_parabolas(x: Tensor) -> Tensor:
    """x^2 and (x - 1)^2, for a state `[1]`."""
    return torch.cat([x**2, (x - 1) ** 2])


def descend(
    losses: Callable[[Tensor], Tensor],
    start: Tensor,
    preferred: Tensor | None = None,
    preference: tuple[float, ...] | None = None,
    *,
    steps: int,
    length: float,
) -> Tensor:
    """Follows one game from a state `[d]`: the anchored one if preferred states `[m, d]` are given, else the local, T = 1.

    Returns:
        The path, `[steps + 1, d]`.
    """
    x = start.clone().requires_grad_()
    path = [start]
    for _ in range(steps):
        units, _ = unit_rows(objective_jacobian(losses(x), [x]))
        with torch.no_grad():
            distances = None if preferred is None else (x - preferred).norm(dim=1)
            x -= length * dibs_weights(units @ units.T, steps=1, preference=preference, distances=distances) @ units
        path.append(x.detach().clone())
    return torch.stack(path)


def weighted_centroid(preference: tuple[float, ...] | None = None) -> Tensor:
    """Where the anchored game is to end, `[2]`."""
    weights = torch.ones(len(PREFERRED)) if preference is None else torch.tensor(preference)
    return weights.double() @ PREFERRED / weights.sum()


def geometric_median() -> Tensor:
    """The point with the least sum of distances to the x*_i, `[2]`."""
    points = PREFERRED.numpy()
    return torch.as_tensor(minimize(lambda x: np.linalg.norm(x - points, axis=1).sum(), points.mean(axis=0), tol=1e-9).x)


def walk_plane(axis: Axes, preferred: Tensor | None, preference: tuple[float, ...] | None, colour: str, label: str) -> None:
    """Draws the paths from all starts in the plane of the five points."""
    for start in torch.tensor(STARTS, dtype=torch.float64):
        line = descend(isotropic_losses, start, preferred, preference, steps=60, length=0.5)
        axis.plot(*line.T, color=colour, linewidth=1.2, label=label)
        label = "_"  # named once in the legend
        axis.plot(*start, "o", color="0.5", markersize=4)


def mark_plane(axis: Axes, title: str) -> None:
    """Marks the five preferred states with their costs."""
    axis.plot(*PREFERRED.T, "k^", markersize=7)
    for name, point in zip(COSTS, PREFERRED, strict=True):
        axis.annotate(name, point, xytext=(0, -15), textcoords="offset points", ha="center", fontsize=9, zorder=4)
    axis.set(title=title, aspect="equal", xlim=(-4.2, 8.2), ylim=(-3, 9.5))
    axis.legend(loc="upper center", ncols=2, fontsize=8)


def picture(path: Path) -> None:
    """Walks all paths and draws them."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.6), layout="constrained")
    walk_plane(left, PREFERRED, None, "tab:blue", "equal preferences")
    walk_plane(left, PREFERRED, PREFERENCE, "tab:orange", "1000 log(1 + r) weighs 6")
    left.plot(*weighted_centroid(), "P", color="tab:blue", markeredgecolor="black", markersize=11, label="centroid", zorder=3)
    weighted = weighted_centroid(PREFERENCE)
    left.plot(*weighted, "X", color="tab:orange", markeredgecolor="black", markersize=11, label="weighted centroid", zorder=3)
    mark_plane(left, "anchored game")
    walk_plane(middle, None, None, "tab:blue", "equal preferences")
    median = geometric_median()
    middle.plot(*median, "s", color="tab:red", markeredgecolor="black", markersize=9, label="geometric median", zorder=3)
    middle.plot(*weighted_centroid(), "P", color="0.8", markeredgecolor="black", markersize=9, label="centroid", zorder=3)
    mark_plane(middle, "local game, T = 1")
    start = torch.tensor([0.2], dtype=torch.float64)
    for preferred, label in ((None, "local"), (torch.tensor([[0.0], [1.0]], dtype=torch.float64), "anchored")):
        right.plot(descend(two_parabolas, start, preferred, steps=60, length=0.1), label=label)
    right.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
    right.set(title="x$^2$ and (x - 1)$^2$ from 0.2", xlabel="steps", ylabel="x", ylim=(0, 1))
    right.legend()
    figure.savefig(path, dpi=75)
    plt.close(figure)


def main() -> None:
    """Prints where the games end and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("quadratic.png"))
    arguments = parser.parse_args()
    start = torch.tensor(STARTS[0], dtype=torch.float64)
    for name, preferred, preference, closed_form in (
        ("anchored", PREFERRED, None, weighted_centroid()),
        ("anchored, weighted", PREFERRED, PREFERENCE, weighted_centroid(PREFERENCE)),
        ("local, T = 1", None, None, geometric_median()),
    ):
        end = descend(isotropic_losses, start, preferred, preference, steps=200, length=0.5)[-1]
        print(f"{name:20s} ends at ({end[0]:.6f}, {end[1]:.6f}), known: ({closed_form[0]:.6f}, {closed_form[1]:.6f})")
    picture(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
