"""How long it takes to combine m gradients into one direction: DiBS and TorchJD's methods.

    python benchmarks/combiners.py                # about half a minute
    python benchmarks/combiners.py --threads 2

Two tables of microseconds: from a Jacobian `[m, p]` of float32 to the direction `[p]`, which is what a training step pays; and
from a Gramian `[m, m]` to the weights `[m]`, for the methods that can, which is the method alone. Jacobians are random, p =
10,000 as in a small policy, and every call gets another one than the call before (Nash-MTL starts from its last solution). The
contenders take turns, so that a noisy machine is unfair to all alike; printed are medians over the rounds, and in brackets
the time over DiBS's time in the same round, its median.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchjd.aggregation import Aggregator

from dibs_rl import make_combiner

DIBS = "dibs"
CONTENDERS = (DIBS, "imtl-g", "mgda", "aligned-mtl", "dualproj", "upgrad", "pcgrad", "cagrad", "fairgrad", "nash-mtl")
OBJECTIVES = (2, 3, 4, 8, 16, 32)
INPUTS = 8  # different matrices in turn
SLICE = 0.02  # seconds that a contender is given in a round, at least one call


def jacobians(m: int, parameters: int) -> list[Tensor]:
    """Random Jacobians `[m, p]`."""
    generator = torch.Generator().manual_seed(m)
    return [torch.randn(m, parameters, generator=generator) for _ in range(INPUTS)]


def gramian_step(combiner: Aggregator) -> Callable[[Tensor], Tensor] | None:
    """What makes weights of a Gramian, if the method can do with one."""
    return getattr(combiner, "gramian_weighting", None)


def measure(steps: dict[str, Callable[[Tensor], Tensor]], inputs: list[Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, a list over the rounds for each contender."""
    feeds = {name: itertools.cycle(inputs) for name in steps}
    calls = {name: max(1, round(SLICE / _seconds(step, feeds[name], 2))) for name, step in steps.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(_seconds(step, feeds[name], calls[name]))
    return found


def _seconds(step: Callable[[Tensor], Tensor], feed: itertools.cycle, calls: int) -> float:
    step(next(feed))  # the caches are another contender's
    start = time.perf_counter()
    for _ in range(calls):
        step(next(feed))
    return (time.perf_counter() - start) / calls


def table(title: str, columns: dict[int, dict[str, list[float]]]) -> str:
    """Markdown: a row a method, a column a number of objectives."""
    rows = [f"| {title} | {' | '.join(f'm = {m}' for m in columns)} |", "|---|" + "---|" * len(columns)]
    names = [name for name in CONTENDERS if name in next(iter(columns.values()))]
    for name in names:
        cells = []
        for found in columns.values():
            ratios = [other / dibs for other, dibs in zip(found[name], found[DIBS], strict=True)]
            ratio = statistics.median(ratios)
            over = "" if name == DIBS else f" ({ratio:.2f})" if ratio < 10 else f" ({ratio:.0f})"
            cells.append(f"{1e6 * statistics.median(found[name]):,.0f}{over}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measures and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parameters", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from_jacobian, from_gramian = {}, {}
    for m in OBJECTIVES:
        inputs = jacobians(m, arguments.parameters)
        combiners = {name: make_combiner(name) for name in CONTENDERS}
        from_jacobian[m] = measure(combiners, inputs, arguments.rounds)
        weightings = {name: step for name, combiner in combiners.items() if (step := gramian_step(combiner)) is not None}
        from_gramian[m] = measure(weightings, [jacobian @ jacobian.T for jacobian in inputs], arguments.rounds)
    print(table("microseconds from a Jacobian", from_jacobian), end="\n\n")
    print(table("microseconds from a Gramian", from_gramian))


if __name__ == "__main__":
    main()
