"""What bargaining does to arrows: a picture of gradients, their sum, and the DiBS direction.

    python examples/arrows.py --out arrows.png

Left: two gradients, one in a unit that makes it three times longer; their sum follows the longer one. Middle: DiBS sees
directions only and goes between the two, whatever their lengths. Right: three objectives; the five steps of the local game
inside the unit ball.
"""

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from dibs_rl import DiBS, dibs_weights
from dibs_rl.units import cosines, unit_rows

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#E69F00", "#009E73", "#222222"
TWO = torch.tensor([[0.9, 0.25], [-0.2, 0.6]])  # gradients of two objectives, in units that happen to be alike
THREE = torch.tensor([[1.0, 0.1], [0.5, 1.0], [-0.9, 0.75]])


def game_path(jacobian: Tensor, steps: int = 5) -> Tensor:
    """States of the local game after 0..`steps` steps, `[steps + 1, p]`, of gradients `[m, p]` that are to be followed."""
    units, _ = unit_rows(jacobian.double())
    states = [dibs_weights(cosines(units), steps=t) @ units for t in range(1, steps + 1)]
    return torch.stack([torch.zeros_like(units[0]), *states])


def arrow(axes: Axes, vector: Tensor, color: str, label: str, dashed: bool = False) -> None:
    """Draws an arrow from the origin."""
    x, y = vector.tolist()
    style = {"arrowstyle": "-|>", "color": color, "lw": 2.2, "shrinkA": 0, "shrinkB": 0, "ls": "--" if dashed else "-"}
    axes.annotate("", (x, y), (0, 0), arrowprops={**style, "mutation_scale": 15})
    axes.plot([], [], color=color, label=label, ls="--" if dashed else "-", lw=2.2)


def draw(out: Path) -> None:
    """Draws the three panels."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 4.4), layout="constrained")
    for factor, dashed in ((1.0, False), (3.0, True)):
        scaled = TWO * torch.tensor([[factor], [1.0]])
        suffix = "" if factor == 1 else f", blue in a {factor:g}x smaller unit"
        arrow(left, scaled[0], BLUE, f"gradient of objective 1{suffix}", dashed)
        arrow(left, scaled.sum(dim=0), BLACK, f"sum{suffix}", dashed)
        arrow(middle, scaled[0], BLUE, f"gradient of objective 1{suffix}", dashed)
        arrow(middle, DiBS()(scaled), BLACK, f"DiBS{suffix}", dashed)
    for axes in (left, middle):
        arrow(axes, TWO[1], ORANGE, "gradient of objective 2")
        axes.set(xlim=(-0.6, 3.0), ylim=(-0.35, 1.9))
    left.set_title("The sum follows the longest arrow")
    middle.set_title("DiBS sees directions only")
    for gradient, color, number in zip(THREE, (BLUE, ORANGE, GREEN), (1, 2, 3), strict=True):
        arrow(right, gradient / gradient.norm(), color, f"unit gradient of objective {number}")
    path = game_path(THREE)
    right.plot(*path.T.tolist(), color=BLACK, marker="o", ms=4, lw=1.4, label="the game, step by step")
    right.add_patch(Circle((0, 0), 1, fill=False, color="grey", lw=0.8))
    right.set(xlim=(-1.25, 1.25), ylim=(-0.35, 1.25), title="Five steps of the game in the unit ball")
    for axes in (left, middle, right):
        axes.set_aspect("equal")
        axes.grid(alpha=0.25)
        axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("arrows.png"))
    out = parser.parse_args().out
    draw(out)
    print(f"Picture: {out}")


if __name__ == "__main__":
    main()
