"""What `dibs-rl front` leaves and prints at its end: `front.csv`, `front.json`, `front.png` and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from dibs_rl.cli.benchmark import NOT_COMPARED
from dibs_rl.cli.flags import print_line
from dibs_rl.config import RunConfig
from dibs_rl.envs import base_and_transform
from dibs_rl.envs.registry import return_unit
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write, write_json
from dibs_rl.front_folder import FrontPolicy, by_seed, flagged, front_file, points, read_result, write_front
from dibs_rl.front_study import FrontPlan
from dibs_rl.metrics import front_measures, utility_weights, weight_control
from dibs_rl.reporting.figures import png
from dibs_rl.reporting.front_picture import FrontPoints, front_figure
from dibs_rl.run_folder import RunFolder
from dibs_rl.statistics import estimate, mean
from dibs_rl.validation import to_plain
from dibs_rl.yardstick import Yardstick

_OF_A_POLICY = {"env", "transform", "preference", "seed", "anchors", "start_from"}  # the front says them, or each has its own
_MEASURES = {
    "hypervolume": "hypervolume",
    "expected_utility": "expected utility",
    "sparsity": "sparsity",
    "weight_control": "weight control",
}


def conclude(plan: FrontPlan, root: Path, measure: Yardstick, policies: Sequence[FrontPolicy], steps: tuple[int, int]) -> None:
    """Measures a front, writes it down and prints it.

    Args:
        plan: What it is made with.
        root: Its folder.
        measure: What it is measured by.
        policies: All that have been trained.
        steps: Environment steps in all, and those of the experts among them.
    """
    policies = flagged(policies)
    summary = _summary(plan, root, measure, policies, steps)
    write_front(root, policies)
    write_json(root / "front.json", summary)
    heading, start = plan.name.replace(" from ", "\nfrom "), plan.start.preference
    write_picture(root / "front.png", heading, plan.env, summary["gamma"], _groups(policies), start)
    _print(plan, root, summary)


def _groups(policies: Sequence[FrontPolicy]) -> dict[str, list[FrontPolicy]]:
    """Policies as they are coloured: by seed; of a single one, where no plane shows all objectives at once, by preference."""
    of_seeds = {f"seed {seed}": own for seed, own in by_seed(policies).items()}
    if len(of_seeds) > 1 or len(policies[0].preference) == 2:
        return of_seeds
    groups: dict[str, list[FrontPolicy]] = {f"most weight on {name}": [] for name in policies[0].preference}
    for policy in policies:
        most = max(policy.preference.values())
        heaviest = [name for name, weight in policy.preference.items() if weight == most]
        groups.setdefault(f"most weight on {' and '.join(heaviest)}", []).append(policy)
    return {label: own for label, own in groups.items() if own}


def _summary(
    plan: FrontPlan, root: Path, measure: Yardstick, policies: Sequence[FrontPolicy], steps: tuple[int, int]
) -> dict[str, Any]:
    reference = measure.reference_for([policy.discounted for policy in policies])
    results = [read_result(root, policy) for policy in policies]
    physics = {"warp": _on_warp(root, policies, results)}
    traced = next((policy for policy in policies if not policy.is_expert), None)
    return {
        "env": plan.env,
        "arm": plan.arm,
        "warm_start": plan.start.label,
        "transform": plan.transform,
        "settings": dict(plan.settings or {}),
        "trained_with": {**trained_with(RunFolder(root / traced.folder).config()), **physics} if traced else physics,
        **_evaluated_alike(root, policies, results),
        "reference_point": reference,
        "reference_from": measure.source,
        "utility_weights": len(utility_weights(len(plan.objectives))),
        "steps": steps[0],
        "expert_steps": steps[1],
        "seeds": {seed: measures(own, reference) for seed, own in by_seed(policies).items()},
    }


def trained_with(config: RunConfig) -> dict[str, Any]:
    """Settings that all policies of a front have, what ships included: those of any one of them that is no expert."""
    return {key: value for key, value in to_plain(config).items() if key not in NOT_COMPARED | _OF_A_POLICY}


def _on_warp(root: Path, policies: Sequence[FrontPolicy], results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the policies are of warp's physics.

    Raises:
        UserError: If some are, and others are not.
    """
    on_warp = [result.get("backend") == "warp" for result in results]
    if len(set(on_warp)) > 1:
        of_warp, other = (root / policies[on_warp.index(kind)].folder for kind in (True, False))
        raise UserError(
            f"{of_warp} was evaluated in warp's physics, and {other} was not: move the runs of one kind away, and train them "
            "anew with --settings backend=warp, or batch."
        )
    return on_warp[0]


def _evaluated_alike(root: Path, policies: Sequence[FrontPolicy], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the policies were evaluated, which must be the same for all.

    Raises:
        UserError: If one was evaluated in another way afterwards.
    """
    found = [{key: result[key] for key in ("gamma", "episodes", "deterministic")} for result in results]
    usual = max(found, key=found.count)
    for policy, how in zip(policies, found, strict=True):
        if how != usual:
            raise UserError(
                f"{root / policy.folder} was evaluated with {how}, and others with {usual}: "
                f"'dibs-rl train --resume {root / policy.folder}' evaluates it again, with --eval-episodes as the others were."
            )
    return usual


def measures(policies: Sequence[FrontPolicy], reference: Mapping[str, float]) -> dict[str, float]:
    """What the front of one seed is worth, for a reference point by objective."""
    weighed = [policy for policy in policies if not policy.is_expert]
    weights = [list(policy.preference.values()) for policy in weighed]
    control = float(weight_control(weights, points(weighed)).mean()) if weighed else 0.0
    return {**front_measures(points(policies), list(reference.values())), "weight_control": control}


def write_picture(
    file: Path,
    heading: str,
    env: str,
    gamma: float,
    groups: Mapping[str, Sequence[FrontPolicy]],
    start: np.ndarray | None = None,
) -> None:
    """Draws policies; pale are those that are not marked as nondominated.

    Args:
        file: A PNG file.
        heading: Above all.
        env: Environment id.
        gamma: Discount of the returns.
        groups: Policies of one environment by label, a colour for each.
        start: Preference `[m]` of the policy that the others have begun as; None for none.
    """
    base, names = base_and_transform(env)[0], next(iter(groups.values()))[0].discounted
    drawn = {label: _drawn(own, start) for label, own in groups.items()}
    discount = f"discounted by {gamma:g}" if gamma < 1 else "undiscounted"
    title = f"{heading}\nreturn of an episode, {discount}"
    with atomic_write(file) as stream:
        stream.write(png(front_figure(title, {name: return_unit(base, name) for name in names}, drawn)))


def _drawn(policies: Sequence[FrontPolicy], start: np.ndarray | None) -> FrontPoints:
    begun = None if start is None else np.array([list(one.preference.values()) == start.tolist() for one in policies])
    return FrontPoints(points(policies), np.array([one.nondominated for one in policies]), begun)


def _print(plan: FrontPlan, root: Path, summary: dict[str, Any]) -> None:
    actions = "most likely" if summary["deterministic"] else "sampled"
    print_line(
        f"{plan.name}: mean untransformed returns over {summary['episodes']} episodes, {actions} actions, "
        f"gamma {summary['gamma']:g}"
    )
    reference = ", ".join(f"{name} {value:g}" for name, value in summary["reference_point"].items())
    print_line(f"Reference point: {reference} ({summary['reference_from']}).")
    print_line(f"Expected utility: over {summary['utility_weights']} weights.")
    Console().print(_by_seed(summary["seeds"]))
    if len(summary["seeds"]) > 1:
        Console().print(_over_seeds(summary["seeds"]))
    if nothing := [str(seed) for seed, measured in summary["seeds"].items() if not measured["hypervolume"]]:
        print_line(f"No policy of seed {', '.join(nothing)} is above the reference point in every objective.")
    of_experts = f", {summary['expert_steps']:,} of them the experts'" if summary["expert_steps"] else ""
    print_line(f"Environment steps: {summary['steps']:,}{of_experts}.")
    print_line(f"Front: {front_file(root)}   (also front.json, front.png)")
    example = ",".join(f"{name}={3 if i == 0 else 1}" for i, name in enumerate(plan.objectives))
    print_line(f"A policy for a preference: dibs-rl evaluate {root} --preference {example}")


def _by_seed(seeds: dict[int, dict[str, float]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("seed", "policies", "on the front", *_MEASURES.values()):
        table.add_column(column, justify="right")
    for seed, found in seeds.items():
        counts = (str(found[name]) for name in ("policies", "nondominated"))
        table.add_row(str(seed), *counts, *(f"{found[name]:.5g}" for name in _MEASURES))
    return table


def _over_seeds(seeds: dict[int, dict[str, float]]) -> Table:
    """Means with their 95% bootstrap intervals, where there are seeds enough for one."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in (f"over {len(seeds)} seeds", "mean", "95% interval"):
        table.add_column(column, justify="left" if column.startswith("over") else "right")
    for name, title in _MEASURES.items():
        found = estimate([[of_seed[name] for of_seed in seeds.values()]], mean)
        table.add_row(title, f"{found.value:.5g}", f"{found.low:.5g} to {found.high:.5g}" if found.has_interval else "")
    return table
