"""`dibs-rl plot`: learning curves of runs, from their folders alone."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import tyro

from dibs_rl.cli.flags import parse, print_line
from dibs_rl.errors import UserError
from dibs_rl.progress_csv import STEP, read_progress
from dibs_rl.run_folder import RunFolder

_PREFIX = "rollout/return/"


@dataclass
class PlotConfig:
    """Draw the learning curves of one or several runs, a panel for each objective."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    out: Path | None = None
    """PNG file; curves.png in the first run's folder if not given."""


def run(arguments: list[str]) -> int:
    """Draws; returns the exit code."""
    flags = parse(PlotConfig, arguments, "plot")
    if not flags.runs:
        raise UserError("Name at least one run folder.")
    out = flags.out or flags.runs[0] / "curves.png"
    if out.suffix != ".png":
        raise UserError(f"The picture is a PNG file: --out must end in .png; found {out}.")
    draw_curves([RunFolder.open(path) for path in flags.runs], out)
    print_line(f"Picture: {out}")
    return 0


def draw_curves(folders: list[RunFolder], out: Path) -> None:
    """Draws the mean training returns of runs on one environment's objectives.

    Raises:
        UserError: If no run has logged an episode yet, or the runs' objectives differ.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves = _drawable(folders)
    names = list(next(iter(curves.values())))
    if any(list(curve) != names for curve in curves.values()):
        raise UserError("These runs have different objectives; plot them apart.")
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.2 * rows + 0.4), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        for path, curve in curves.items():
            axis.plot(*curve[name], label=_label(path, folders), linewidth=1.5)
        axis.set(title=name, xlabel="environment steps", ylabel="return of an episode")
        axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    figure.suptitle(f"{folders[0].config().env}: mean return of the last 100 training episodes")
    if len(curves) > 1:
        axes.flat[0].legend(fontsize="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _drawable(folders: list[RunFolder]) -> dict[Path, dict[str, tuple[list[float], list[float]]]]:
    """The runs' curves; says which runs have none yet."""
    curves = {folder.path: curve for folder in folders if (curve := _curves(folder))}
    for folder in folders:
        if folder.path not in curves:
            print_line(f"{folder.path} has no finished episode in its progress.csv yet; left out.")
    if not curves:
        raise UserError("No run to draw: none has finished an episode yet.")
    return curves


def _curves(folder: RunFolder) -> dict[str, tuple[list[float], list[float]]]:
    rows = read_progress(folder.progress_file) if folder.progress_file.is_file() else []
    names = [key.removeprefix(_PREFIX) for key in (rows[0] if rows else {}) if key.startswith(_PREFIX)]
    order = folder.objectives()
    found = {}
    for name in sorted(names, key=order.index):
        points = [(float(row[STEP]), float(row[_PREFIX + name])) for row in rows if row[_PREFIX + name]]
        found[name] = ([x for x, _ in points], [y for _, y in points])
    return found


def _label(path: Path, folders: list[RunFolder]) -> str:
    """The folder's name, with its parent's where names repeat."""
    repeated = len({folder.path.name for folder in folders}) < len(folders)
    return f"{path.parent.name}/{path.name}" if repeated else path.name
