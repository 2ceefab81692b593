"""Holds fronts of one environment against each other: a table over seeds, in Markdown, and a picture.

    python benchmarks/fronts.py runs/fronts/mo-halfcheetah-v5/* --out fronts.png

The folders are those of `dibs-rl front`. Measures are means over seeds with 95% bootstrap intervals; the last column is the
difference of hypervolume from the first front, over the seeds that both have. Steps are those of one seed, with its experts.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dibs_rl.envs import base_and_transform
from dibs_rl.envs.registry import return_unit
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write, read_json
from dibs_rl.front_folder import FrontPolicy, points, read_front
from dibs_rl.metrics import nondominated
from dibs_rl.reporting.figures import png
from dibs_rl.reporting.front_picture import FrontPoints, front_figure
from dibs_rl.statistics import estimate, mean

_ALIKE = ("env", "gamma", "episodes", "deterministic", "reference_point")
_MEASURES = ("hypervolume", "expected_utility", "sparsity", "weight_control")
_REMEDY = "'dibs-rl front' writes it anew"


@dataclass(frozen=True)
class Front:
    """One folder of `dibs-rl front`.

    Attributes:
        summary: Its `front.json`.
        policies: Those of its `front.csv`.
    """

    summary: Mapping[str, Any]
    policies: Sequence[FrontPolicy]

    @property
    def label(self) -> str:
        """What made it."""
        units = self.summary["transform"]
        return self.summary["arm"] + (f", {units}" if units else "")

    @property
    def seeds(self) -> dict[str, dict[str, float]]:
        """Measures by seed."""
        return self.summary["seeds"]


def read(folders: Sequence[Path]) -> list[Front]:
    """The fronts of folders.

    Raises:
        UserError: If one of them is none, or they were not measured alike.
    """
    fronts = [Front(read_json(folder / "front.json", _REMEDY), read_front(folder)) for folder in folders]
    for folder, front in zip(folders, fronts, strict=True):
        for name in _ALIKE:
            found, wanted = front.summary[name], fronts[0].summary[name]
            if found != wanted:
                raise UserError(f"{folder} has {name} {found}, and {folders[0]} {wanted}: they do not compare.")
    return fronts


def table(fronts: Sequence[Front]) -> str:
    """Markdown, a row for each front."""
    titles = [name.replace("_", " ") for name in _MEASURES]
    rows = [["front", "seeds", "policies", *titles, "steps of a seed", "hypervolume above the first"]]
    for front in fronts:
        values = list(front.seeds.values())
        both = [seed for seed in front.seeds if seed in fronts[0].seeds]
        above = [front.seeds[seed]["hypervolume"] - fronts[0].seeds[seed]["hypervolume"] for seed in both]
        rows.append(
            [
                front.label,
                str(len(values)),
                str(round(np.mean([of_seed["policies"] for of_seed in values]))),
                *(with_interval([of_seed[name] for of_seed in values]) for name in _MEASURES),
                f"{front.summary['steps'] // len(values):,}",
                with_interval(above) if both and front is not fronts[0] else "",
            ]
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def with_interval(values: Sequence[float]) -> str:
    """The mean over seeds with its interval, where there are seeds enough for one."""
    found = estimate([values], mean)
    return f"{found.value:.4g}" + (f" [{found.low:.4g}, {found.high:.4g}]" if found.has_interval else "")


def write_picture(fronts: Sequence[Front], file: Path) -> None:
    """Draws the policies of all seeds, a colour for each front; pale are those that another one of their front dominates."""
    summary = fronts[0].summary
    base = base_and_transform(summary["env"])[0]
    returns = {front.label: points(front.policies) for front in fronts}
    groups = {label: FrontPoints(found, nondominated(found)) for label, found in returns.items()}
    title = f"{summary['env']}: policies of all seeds\nreturn of an episode, discounted by {summary['gamma']:g}"
    units = {name: return_unit(base, name) for name in fronts[0].policies[0].discounted}
    with atomic_write(file) as stream:
        stream.write(png(front_figure(title, units, groups)))


def main() -> None:
    """Reads the flags, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="+", type=Path, help="each one of dibs-rl front; the first is what others are held against"
    )
    parser.add_argument("--out", type=Path, help="picture, a PNG file")
    flags = parser.parse_args()
    try:
        fronts = read(flags.folders)
        print(table(fronts))
        if flags.out:
            write_picture(fronts, flags.out)
    except UserError as error:
        sys.exit(f"fronts.py: {error}")


if __name__ == "__main__":
    main()
