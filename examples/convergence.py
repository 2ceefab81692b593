"""Do the games end at Pareto-stationary points where the losses are not convex? 100 random starts for each of many problems.

    python examples/convergence.py --out convergence.png

What is promised. The anchored game, the original DiBS (arXiv 2505.14817), steps against `sum_i |x - x*_i| u_i`: x*_i is the
state that objective i prefers, u_i its unit gradient. Its fixed points are Pareto stationary, and it converges to them where
losses are strongly convex and smooth, for steps with divergent sum and finite sum of squares. For losses that are not convex,
arXiv 2509.23948 proves that a subsequence of its iterates converges to a Pareto-stationary point. The local game, DiBS-MTL of
the same paper, is its adaptation to networks, where nobody knows x*_i.

What is measured. The residual: the length of the shortest vector in the convex hull of the *unit* gradients. Where it is zero
no direction serves everybody, and the point is Pareto stationary.

What to see. On the first five problems every walk of both games comes below 1e-3. On the last three some do not (orange): they
end where one objective is at a critical point of its own. That is Pareto stationary too, but u_i has no limit there, and what
the residual reads around it means nothing; the table says instead how small that objective's gradient has become, relative
to the largest it has had: it shrinks with the step. In Viennet's problem two objectives share their minimum, and the local
game can end there. Poloni's first loss has many minima, all as deep, and Socha and Kisiel's second has local ones: on its way
to x*_i the anchored game is held up by others.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from dibs_rl import dibs_weights
from dibs_rl.diagnostics import stationarity_residual
from dibs_rl.units import unit_rows

TOLERANCE = 1e-3
GAMES = ("local", "anchored")


class Problem(NamedTuple):
    """A multi-objective problem without constraints.

    Attributes:
        losses: States `[n, d]` to losses `[n, m]`.
        preferred: Each objective's global minimiser x*_i, `[m, d]`.
        width: Starts are uniform in `[-width, width]^d`.
        source: Where it was published.
    """

    losses: Callable[[Tensor], Tensor]
    preferred: Tensor
    width: float
    source: str


def fonseca_fleming(x: Tensor) -> Tensor:
    """Two wells whose walls flatten out: convex near their bottoms alone."""
    centre = 1 / math.sqrt(x.shape[-1])
    return 1 - torch.exp(-torch.stack([(x - centre).square().sum(-1), (x + centre).square().sum(-1)], -1))


CENTRES = torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
STEEPNESS = 10 ** (torch.rand(5, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1)


def five_wells(x: Tensor) -> Tensor:
    """Fonseca and Fleming's wells at five centres, each along its own axes up to ten times as steep as along others."""
    return 1 - torch.exp(-(STEEPNESS * (x.unsqueeze(-2) - CENTRES).square()).sum(-1))


ROSENBROCK = torch.tensor([[0, 0, 0, 0], [1.5, -1, 0, 0.5], [-0.5, 1, -1.5, 0]], dtype=torch.float64)


def three_valleys(x: Tensor) -> Tensor:
    """Rosenbrock's curved valley from three origins."""
    z = x.unsqueeze(-2) - ROSENBROCK
    return (10 * (z[..., 1:] - z[..., :-1] ** 2) ** 2 + (1 - z[..., :-1]) ** 2).sum(-1)


def lovison(x: Tensor) -> Tensor:
    """A bowl with two bumps, and a bowl."""
    a, b = x.unbind(-1)
    bumps = torch.exp(-((a + 2) ** 2) - b**2) + torch.exp(-((a - 2) ** 2) - b**2)
    return torch.stack([a**2 + b**2 + 4 * bumps, (a - 6) ** 2 + (b + 0.5) ** 2], -1)


def lis_eiben(x: Tensor) -> Tensor:
    """Two funnels, concave along every ray, with a cusp at the bottom."""
    return torch.stack([x.square().sum(-1) ** (1 / 8), (x - 0.5).square().sum(-1) ** (1 / 4)], -1)


def poloni(x: Tensor) -> Tensor:
    """The distance between two waves, and a bowl."""

    def waves(a: Tensor, b: Tensor) -> Tensor:
        first = 0.5 * a.sin() - 2 * a.cos() + b.sin() - 1.5 * b.cos()
        second = 1.5 * a.sin() - a.cos() + 2 * b.sin() - 0.5 * b.cos()
        return torch.stack([first, second], -1)

    a, b = x.unbind(-1)
    target = waves(x.new_tensor(1.0), x.new_tensor(2.0))
    return torch.stack([1 + (target - waves(a, b)).square().sum(-1), (a + 3) ** 2 + (b + 1) ** 2], -1)


def viennet(x: Tensor) -> Tensor:
    """A rippled bowl, an oblong bowl, and a pit with a rim."""
    a, b = x.unbind(-1)
    s = a**2 + b**2
    oblong = (3 * a - 2 * b + 4) ** 2 / 8 + (a - b + 1) ** 2 / 27 + 15
    return torch.stack([s / 2 + s.sin(), oblong, 1 / (s + 1) - 1.1 * torch.exp(-s)], -1)


BOWL = torch.tensor([2.0, 3.0, 5.0, 4.0], dtype=torch.float64)


def socha_kisiel(x: Tensor) -> Tensor:
    """A bowl, and waves that die out."""
    return torch.stack([(x - BOWL).square().sum(-1) - 5, -x.sin().sum(-1) / (1 + x.square().sum(-1) / 100)], -1)


def _states(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


PROBLEMS = {
    "Fonseca-Fleming": Problem(
        fonseca_fleming, _states([0.1**0.5] * 10, [-(0.1**0.5)] * 10), 4.0, "Fonseca and Fleming 1995; m = 2, d = 10"
    ),
    "Lis-Eiben": Problem(lis_eiben, _states([0, 0], [0.5, 0.5]), 5.0, "Lis and Eiben 1997; m = 2, d = 2"),
    "Lovison": Problem(lovison, _states([0, 0], [6, -0.5]), 20.0, "Lov4, Lovison 2011; m = 2, d = 2"),
    "three valleys": Problem(three_valleys, 1 + ROSENBROCK, 2.0, "Rosenbrock 1960; m = 3, d = 4"),
    "five wells": Problem(five_wells, CENTRES, 3.0, "as Fonseca-Fleming; m = 5, d = 10"),
    "Viennet": Problem(viennet, _states([0, 0], [-2, -1], [0, 0]), 3.0, "Viennet et al. 1996; m = 3, d = 2"),
    "Poloni": Problem(poloni, _states([1, 2], [-3, -1]), math.pi, "Poloni 1995; m = 2, d = 2"),
    "Socha-Kisiel": Problem(
        socha_kisiel, _states(BOWL.tolist(), [1.463378066] * 4), 10.0, "SK2, Socha and Kisiel 2002; m = 2, d = 4"
    ),
}
HELD_UP = ("Viennet", "Poloni", "Socha-Kisiel")


class Walks(NamedTuple):
    """What n walks came to.

    Attributes:
        steps: After how many steps the residual was written down, `[k]`.
        residual: Each walk's least residual by then, `[k, n]`.
        own: At the end, the least gradient norm of any objective, relative to the largest that it has had, `[n]`.
        ends: `[n, d]`.
    """

    steps: list[int]
    residual: Tensor
    own: Tensor
    ends: Tensor

    @property
    def arrived(self) -> Tensor:
        """Which walks have been where the residual is below the tolerance, `[n]`."""
        return self.residual[-1] < TOLERANCE


def jacobians(losses: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Every loss's exact gradient at every state: `[n, d]` to `[n, m, d]`."""
    x = x.detach().requires_grad_()
    # A state has no part in the losses of the others, so the gradient of a column's sum is each state's own gradient.
    columns = losses(x).sum(dim=0)
    return torch.stack([torch.autograd.grad(column, x, retain_graph=True)[0] for column in columns], dim=1)


def random_starts(problem: Problem, n: int, seed: int = 0) -> Tensor:
    """Draws starts `[n, d]`."""
    uniform = torch.rand(n, problem.preferred.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * uniform - 1) * problem.width


def walk(problem: Problem, starts: Tensor, steps: int, game: str) -> Walks:
    """Plays one game from every start `[n, d]`; steps of `width / 2 / k^0.6`: divergent sum, finite sum of squares."""
    x, written = starts, {}
    least = torch.full((len(x),), math.inf, dtype=x.dtype)
    largest_norm = torch.zeros(())
    for k in range(1, steps + 1):
        jacobian = jacobians(problem.losses, x)
        units, norms = unit_rows(jacobian.flatten(0, 1))
        units, norms = units.view_as(jacobian), norms.view(jacobian.shape[:2])
        cosine = units @ units.mT
        largest_norm = torch.maximum(largest_norm, norms)
        # Every step counts for a walk that has not arrived; some are enough to draw the others.
        looked_at = range(len(x)) if k < 20 or k % 20 == 0 or k == steps else (least >= TOLERANCE).nonzero().flatten().tolist()
        for i in looked_at:
            least[i] = min(least[i], stationarity_residual(cosine[i]))
        if len(looked_at) == len(x):
            written[k] = least.clone()
        distances = (x.unsqueeze(1) - problem.preferred).norm(dim=-1) if game == "anchored" else None
        direction = (dibs_weights(cosine, distances=distances).unsqueeze(1) @ units).squeeze(1)
        x = x - problem.width / 2 / k**0.6 * direction
    return Walks(list(written), torch.stack(list(written.values())), (norms / largest_norm).amin(dim=1), x)


def picture(walks: dict[tuple[str, str], Walks], path: Path) -> None:
    """Draws each walk's least residual so far; under each problem's local game its anchored game."""
    figure, axes = plt.subplots(4, 4, figsize=(13, 12), sharex=True, sharey=True, layout="constrained")
    for (name, game), result in walks.items():
        row, column = divmod(list(PROBLEMS).index(name), 4)
        axis = axes[2 * row + GAMES.index(game), column]
        curves = result.residual.clamp_min(1e-9)
        for group, colour in ((result.arrived, "tab:blue"), (~result.arrived, "tab:orange")):
            if group.any():
                axis.loglog(result.steps, curves[:, group], color=colour, alpha=0.3, linewidth=0.6)
        axis.loglog(result.steps, curves.median(dim=1).values, color="black", linewidth=1.8, label="median")
        axis.axhline(TOLERANCE, color="black", linestyle="--", linewidth=0.8, label="0.001")
        axis.set_title(f"{name}, {game} game\n{int(result.arrived.sum())} of {curves.shape[1]} below 0.001", fontsize=10)
        if game == GAMES[-1]:
            axis.set_xlabel(f"steps\n({PROBLEMS[name].source})", fontsize=9)
    figure.supylabel("least residual so far")
    axes[0, 0].set_ylim(0.8e-9, 2)
    axes[0, 0].legend(loc="lower left")
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main() -> None:
    """Plays both games on every problem, prints a table and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("convergence.png"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits longer than it helps on matrices this small
    walks = {}
    print(f"{'problem':16s} {'game':9s} below 0.001  median residual  least gradient of the rest")
    for name, problem in PROBLEMS.items():
        for game in GAMES:
            result = walk(problem, random_starts(problem, arguments.starts), arguments.steps, game)
            rest = result.own[~result.arrived]
            last = f"at most {rest.max():.2g} of its largest" if len(rest) else "-"
            count = f"{int(result.arrived.sum())} of {arguments.starts}"
            print(f"{name:16s} {game:9s} {count:11s}  {result.residual[-1].median():<15.1e}  {last}", flush=True)
            walks[name, game] = result
    picture(walks, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
