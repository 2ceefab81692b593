"""The two-objective toy problem of CAGrad and Nash-MTL, as it is and with its first loss f replaced by sign(f) f^4.

    python examples/toy.py --out toy.png     # some minutes, nearly all of them Nash-MTL's

The replacement is increasing, so it changes nobody's mind about which point is better, and the Pareto front (grey) stays where
it is. Each column is a method: from five starts (dots) it goes where its direction points, in steps of the same length for all
methods, shorter towards the end.

What to see. Both games of DiBS walk the same way in both rows: they see unit gradients only. The local game ends where it
comes upon the front, the anchored game in the middle between the two preferred states. The sum, MGDA and PCGrad go elsewhere
once f has been raised to its fourth power. So does Nash-MTL: its exact solution for two objectives is the bisector, that is
DiBS's direction, but the solver stops far from it where one gradient is a hundred times as long as the other.

The slope of sign(f) f^4 is zero where f is zero: there the transformed loss has no gradient, and its objective no vote. A path
crosses such points without meeting one exactly.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from dibs_rl import dibs_weights, make_combiner, objective_jacobian
from dibs_rl.units import unit_rows

STARTS = ((-8.5, 7.5), (0.1, 0.1), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))


def losses(x: Tensor, *, transformed: bool = False) -> Tensor:
    """The problem of Liu et al. 2021 (CAGrad, arXiv 2110.14048, appendix), states `[..., 2]` to losses `[..., 2]`.

    For x_2 > 0 each loss has a narrow valley, for x_2 < 0 it is a bowl around (7, -8) or (-7, -8).
    """
    a, b = x.unbind(-1)
    valleys = (
        torch.stack([(-a - 7) / 2 - torch.tanh(-b), (-a + 3) / 2 - torch.tanh(-b) + 2], -1).abs().clamp_min(5e-6).log() + 6
    )
    bowls = (torch.stack([(-a + 7) ** 2, (-a - 7) ** 2], -1) + 0.1 * (-b - 8).unsqueeze(-1) ** 2) / 10 - 20
    above, below = torch.tanh(b / 2).clamp_min(0).unsqueeze(-1), torch.tanh(-b / 2).clamp_min(0).unsqueeze(-1)
    both = above * valleys + below * bowls
    if not transformed:
        return both
    first, second = both.unbind(-1)
    return torch.stack([first.sign() * first**4, second], -1)


def front(n: int = 61) -> Tensor:
    """Pareto-optimal points between the bowls, `[n, 2]`: the minima of all weighted sums of the two losses.

    A weighted sum's minimum over x_1 lies between the bowls' centres, at a point that does not depend on x_2.
    """

    def depth(a: float) -> float:
        weights = torch.tensor([7 + a, 7 - a], dtype=torch.float64) / 14
        return minimize_scalar(
            lambda b: float(weights @ losses(torch.tensor([a, b], dtype=torch.float64))), bounds=(-10, -6)
        ).x

    return torch.tensor([[a, depth(a)] for a in torch.linspace(-7, 7, n).tolist()], dtype=torch.float64)


Rule = Callable[[Tensor, Tensor], Tensor]  # state [2], Jacobian [2, 2] -> direction [2]


def anchored() -> Rule:
    """The anchored game; the preferred states are the ends of the front, where each loss is least."""
    preferred = front(2).flip(0)

    def rule(x: Tensor, jacobian: Tensor) -> Tensor:
        units, _ = unit_rows(jacobian)
        return dibs_weights(units @ units.T, distances=(x - preferred).norm(dim=1)) @ units

    return rule


def combiner(name: str) -> Callable[[], Rule]:
    """A method out of dibs_rl's table, which has TorchJD's."""

    def make() -> Rule:
        combine = make_combiner(name)
        return lambda x, jacobian: combine(jacobian)

    return make


METHODS: dict[str, Callable[[], Rule]] = {
    "DiBS, local": combiner("dibs"),
    "DiBS, anchored": anchored,
    "sum": combiner("sum"),
    "MGDA": combiner("mgda"),
    "Nash-MTL": combiner("nash-mtl"),
    "PCGrad": combiner("pcgrad"),
}


def trajectory(start: Sequence[float], rule: Rule, *, transformed: bool, steps: int = 250, length: float = 0.5) -> Tensor:
    """Takes steps along the rule's direction that shorten from `length` to nothing: `[steps + 1, 2]`.

    However long the direction is: methods are compared by where they point. Where it almost vanishes, so does the step.
    """
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    path = [x.detach().clone()]
    for k in range(steps):
        direction = rule(x.detach(), objective_jacobian(losses(x, transformed=transformed), [x]))
        with torch.no_grad():
            x -= length * (1 - k / steps) * direction / direction.norm().clamp_min(0.1)
        path.append(x.detach().clone())
    return torch.stack(path)


def picture(paths: dict[tuple[str, bool], list[Tensor]], path: Path) -> None:
    """Draws every method's trajectories over the mean loss: as it is above, transformed below."""
    figure, axes = plt.subplots(2, len(METHODS), figsize=(15, 5.8), sharex=True, sharey=True, layout="constrained")
    grid = torch.linspace(-11, 11, 221, dtype=torch.float64)
    height = losses(torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)).mean(-1)
    best = front()
    for (name, transformed), found in paths.items():
        axis = axes[int(transformed), list(METHODS).index(name)]
        axis.contour(grid, grid, height, levels=14, cmap="Greys_r", linewidths=0.5, alpha=0.7)
        axis.plot(*best.T, color="0.55", linewidth=5, solid_capstyle="round", zorder=2)
        for number, line in enumerate(found):
            axis.plot(*line.T, color=f"C{number}", linewidth=1.3, zorder=3)
            axis.plot(*line[0], "o", color=f"C{number}", markersize=5, zorder=4)
            axis.plot(*line[-1], "*", color=f"C{number}", markeredgecolor="black", markersize=11, zorder=5)
        axis.set_aspect("equal")
        if not transformed:
            axis.set_title(name)
    axes[0, 0].set_ylabel("as it is")
    axes[1, 0].set_ylabel("first loss f as sign(f) f$^4$")
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main() -> None:
    """Walks every method's paths, prints where they end and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("toy.png"))
    parser.add_argument("--steps", type=int, default=250)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits longer than it helps on two parameters
    paths = {}
    for name, make in METHODS.items():
        for transformed in (False, True):
            found = [trajectory(start, make(), transformed=transformed, steps=arguments.steps) for start in STARTS]
            paths[name, transformed] = found
        plain, moved = (torch.stack(paths[name, transformed]) for transformed in (False, True))
        print(f"{name:15s} farthest that the transform takes a path from itself: {(plain - moved).norm(dim=-1).max():.2g}")
    picture(paths, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
