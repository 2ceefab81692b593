"""Holds fronts of one environment against each other: a table over seeds, in Markdown, and a picture.

    python benchmarks/fronts.py runs/fronts/mo-halfcheetah-v5/* --out fronts.png
    python benchmarks/fronts.py FRONT FRONT --ref-point forward=-100,energy=-500 --without-experts
    python benchmarks/fronts.py docs/data/fronts/mo-halfcheetah-v5-from-equal/*-seed-? --pool

The folders are those of `dibs-rl front`. Measures are means over seeds with 95% bootstrap intervals; what is above the
first is over the seeds that both fronts have. Steps are those of one seed, its experts' included; seconds are the processor's,
of each policy's own training.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dibs_rl.cli.front_results import measures, write_picture
from dibs_rl.errors import UserError, check_same, one_line
from dibs_rl.files import read_json
from dibs_rl.front_folder import FrontPolicy, by_seed, flagged, read_front
from dibs_rl.reporting.figures import check_png
from dibs_rl.reporting.tables import shown
from dibs_rl.run_folder import RunFolder
from dibs_rl.statistics import estimate, mean
from dibs_rl.yardstick import yardstick

_ALIKE = ("env", "gamma", "episodes", "deterministic")
_MEASURES = ("hypervolume", "expected_utility", "sparsity", "weight_control")
_COMPARED = _MEASURES[:2]


@dataclass(frozen=True)
class Front:
    """One folder of `dibs-rl front`, measured.

    Attributes:
        label: What made it.
        env: Environment id.
        gamma: Discount of the returns.
        policies: Those of all seeds.
        worth: Measures by seed.
        steps: Environment steps of all seeds.
        cpu_seconds: Of each policy's training, experts left out.
        given: Settings of the trainings over those that are shipped, as far as the folder says them.
        settings: All of them; None where the folder does not say them.
    """

    label: str
    env: str
    gamma: float
    policies: Sequence[FrontPolicy]
    worth: dict[int, dict[str, float]]
    steps: int
    cpu_seconds: Sequence[float]
    given: Mapping[str, Any]
    settings: Mapping[str, Any] | None


def read(
    folders: Sequence[Path], ref_point: str = "", *, experts: bool = True, first: int | None = None, pool: bool = False
) -> list[Front]:
    """The fronts of folders.

    Args:
        folders: Of one environment.
        ref_point: Reference point by name; theirs, which must be the same, if not given.
        experts: Whether experts are policies of a front.
        first: How many preferences of each seed are measured, in the order of their choice: the lattice first. All if None.
        pool: Whether folders with the same label are the seeds of one front.

    Raises:
        UserError: If a folder holds no front, or nothing but experts that are left out; if they were not measured alike; if
            folders to be pooled share a seed, or differ in more than seeds.
    """
    if twice := [folder for folder, count in Counter(folder.resolve() for folder in folders).items() if count > 1]:
        raise UserError(f"{twice[0]} is given twice.")
    said = [read_json(folder / "front.json", "folders are those of 'dibs-rl front', which writes it") for folder in folders]
    for folder, summary in zip(folders, said, strict=True):
        for name in (*_ALIKE, *([] if ref_point else ["reference_point"])):
            if summary[name] != said[0][name]:
                raise UserError(f"{folder} has {name} {summary[name]}, and {folders[0]} {said[0][name]}: they do not compare.")
    names = list(said[0]["reference_point"])
    reference = (yardstick(said[0]["env"], names, ref_point).reference if ref_point else None) or said[0]["reference_point"]
    fronts = [_front(folder, one, reference, experts, first) for folder, one in zip(folders, said, strict=True)]
    if pool:
        return _pooled(fronts)
    return _told_apart(fronts, folders)


def _told_apart(fronts: Sequence[Front], folders: Sequence[Path]) -> list[Front]:
    """Fronts whose labels differ: behind equal ones stands the folder's name, or, where that is equal too, its path."""
    labels = [front.label for front in fronts]
    for behind in ([folder.name for folder in folders], [folder.as_posix() for folder in folders]):
        again = Counter(labels)
        labels = [
            label if again[label] == 1 else f"{front.label} ({name})"
            for label, front, name in zip(labels, fronts, behind, strict=True)
        ]
    return [dataclasses.replace(front, label=label) for front, label in zip(fronts, labels, strict=True)]


def _front(
    folder: Path, summary: Mapping[str, Any], reference: Mapping[str, float], experts: bool, first: int | None
) -> Front:
    """What a folder holds, measured."""
    listed = read_front(folder)
    traced = [policy for policy in listed if not policy.is_expert]
    of_seeds = Counter(policy.seed for policy in traced)
    if traced and len({of_seeds[policy.seed] for policy in listed}) > 1:
        raise UserError(
            f"{folder} has fewer policies of some seeds than of others: the command that made it trains the missing."
        )
    chosen = [policy for own in by_seed(traced).values() for policy in own[:first]]
    policies = flagged([policy for policy in listed if policy in chosen or (experts and policy.is_expert)])
    if not policies:
        raise UserError(f"{folder} has no policies but experts.")
    costs = [RunFolder(folder / policy.folder).cost() for policy in chosen]
    of_experts = summary["expert_steps"]  # all others take as many as each other
    return Front(
        label=_label(summary),
        env=summary["env"],
        gamma=summary["gamma"],
        policies=policies,
        worth={seed: measures(own, reference) for seed, own in by_seed(policies).items()},
        steps=of_experts + (summary["steps"] - of_experts) * len(chosen) // max(len(traced), 1),
        cpu_seconds=[cost["cpu_seconds"] for cost in costs if cost],
        given=summary.get("settings", {}),  # the first fronts said none
        settings=summary.get("trained_with"),  # nor these
    )


def _pooled(fronts: Sequence[Front]) -> list[Front]:
    """Fronts of one label as one front of all their seeds."""
    groups: dict[str, list[Front]] = {}
    for front in fronts:
        groups.setdefault(front.label, []).append(front)
    for label, group in groups.items():
        folders = Counter(seed for front in group for seed in front.worth)
        if twice := [seed for seed, count in folders.items() if count > 1]:
            raise UserError(f"Seed {twice[0]} of {label} is in two of the folders: they cannot be pooled.")
        full, known = [front.settings for front in group if front.settings is not None], dict[str, Any]()
        for settings in full:
            new = settings.keys() - known.keys()
            check_same(f"Of the seeds of {label} some have", known, settings, "they cannot be pooled", new)
            known |= settings
        made = [_how(front, with_given=len(full) < len(group)) for front in group]
        if other := [how for how in made if how != made[0]]:
            raise UserError(f"Seeds of {label} differ, {made[0]} and {other[0]}: they cannot be pooled.")
        if len(full) < len(group) > 1:
            print(
                f"Not all folders of {label} say which settings shipped then; they are assumed to be the same.",
                file=sys.stderr,
            )
    return [
        dataclasses.replace(
            group[0],
            policies=[policy for front in group for policy in front.policies],
            worth=dict(sorted((seed, worth) for front in group for seed, worth in front.worth.items())),
            steps=sum(front.steps for front in group),
            cpu_seconds=[seconds for front in group for seconds in front.cpu_seconds],
        )
        for group in groups.values()
    ]


def _how(front: Front, *, with_given: bool) -> str:
    """What seeds of one front have in common."""
    n, given = len(front.worth), dict(sorted(front.given.items())) or "no settings"
    return f"{len(front.policies) // n} policies in {front.steps // n:,} steps" + (f" with {given}" if with_given else "")


def _label(summary: Mapping[str, Any]) -> str:
    """What sets a front apart from others of its environment: its arm, what the policies began as, the rewards' units."""
    start, units = summary.get("warm_start", "none"), summary["transform"]  # the first fronts had no warm starts
    begun = "" if start == "none" else f" from {start}"
    return summary["arm"] + begun + (f", {units}" if units else "")


def table(fronts: Sequence[Front]) -> str:
    """Markdown, a row for each front."""
    titles = [name.replace("_", " ") for name in _MEASURES]
    differences = [f"{name.replace('_', ' ')} above the first" for name in _COMPARED]
    rows = [["front", "seeds", "policies", *titles, *differences, "steps of a seed", "CPU seconds a policy"]]
    first = fronts[0].worth
    for front in fronts:
        both = [] if front is fronts[0] else [seed for seed in front.worth if seed in first]
        columns = [[worth[name] for worth in front.worth.values()] for name in _MEASURES]
        columns += [[front.worth[seed][name] - first[seed][name] for seed in both] for name in _COMPARED]
        columns += [front.cpu_seconds]
        *estimates, seconds = (shown(estimate([values], mean) if values else None) for values in columns)
        n = len(front.worth)
        rows.append([front.label, str(n), str(len(front.policies) // n), *estimates, f"{front.steps // n:,}", seconds])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> None:
    """Reads the flags, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="the first is what the others are held against")
    parser.add_argument("--ref-point", default="", help="by name, as forward=-100,energy=-500")
    parser.add_argument("--without-experts", action="store_true", help="measure what the preferences led to alone")
    parser.add_argument(
        "--first", type=int, help="preferences of each seed, in the order of their choice; the lattice is first"
    )
    parser.add_argument("--pool", action="store_true", help="folders of one label are the seeds of one front")
    parser.add_argument("--out", type=Path, help="picture, a PNG file")
    flags = parser.parse_args()
    if flags.first is not None and flags.first < 1:
        parser.error(f"--first is at least 1; found {flags.first}")
    with one_line("fronts.py"):
        if flags.out:
            check_png(flags.out)
        fronts = read(flags.folders, flags.ref_point, experts=not flags.without_experts, first=flags.first, pool=flags.pool)
        print(table(fronts))
        if flags.out:
            groups = {front.label: front.policies for front in fronts}
            write_picture(flags.out, f"{fronts[0].env}: policies of all seeds", fronts[0].env, fronts[0].gamma, groups)


if __name__ == "__main__":
    main()
