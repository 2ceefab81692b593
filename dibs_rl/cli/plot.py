"""`dibs-rl plot`: learning curves of runs, from their folders alone."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dibs_rl.by_objective import parse_preference, preference_label
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.curves import RETURN, Curve, common_steps, mean_curve, read_curves
from dibs_rl.envs import base_and_transform
from dibs_rl.envs.registry import return_unit
from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write
from dibs_rl.reporting.figures import CurvePanel, check_png, curve_figure, png
from dibs_rl.run_folder import RunFolder
from dibs_rl.validation import to_plain

_COLUMNS = 3
# What may differ between two seeds of one arm: it changes how fast a run goes or what is kept of it, nothing that is learnt.
_BESIDES = {"seed", "device", "workers", "threads", "checkpoint_every", "eval_episodes", "eval_stochastic", "eval_gamma"}


@dataclass
class PlotConfig:
    """Draw learning curves, a panel for each objective; of runs that differ only in their seed, the mean and its interval."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    out: Path | None = None
    """PNG file; curves.png in the run's folder if not given, or, of several runs, in the folder that they are in."""


@dataclass(frozen=True)
class Run:
    """A run that has something to draw.

    Attributes:
        folder: Where it is kept.
        config: Its settings.
        arm: What a study calls it, or its combiner.
        curves: The mean training return of each objective, by its name.
    """

    folder: RunFolder
    config: Any
    arm: str
    curves: dict[str, Curve]

    def settings(self) -> dict[str, Any]:
        """What makes it another arm than a run with other values."""
        return {key: value for key, value in to_plain(self.config).items() if key not in _BESIDES}


def run(arguments: list[str]) -> int:
    """Draws; returns the exit code."""
    flags = parse(PlotConfig, arguments, "plot")
    if not flags.runs:
        raise UserError("Name at least one run folder.")
    out = flags.out or _folder_of(flags.runs) / "curves.png"
    check_png(out)
    draw_runs([RunFolder.open(path) for path in flags.runs], out)
    print_line(f"Picture: {out}")
    return 0


def _folder_of(runs: Sequence[Path]) -> Path:
    """Where a picture goes: a run's own folder holds no comparison with others."""
    return runs[0] if len(runs) == 1 else Path(os.path.relpath(os.path.commonpath([run.absolute().parent for run in runs])))


def draw_runs(folders: Sequence[RunFolder], out: Path) -> None:
    """Draws the mean training returns of runs on one environment's objectives.

    Raises:
        UserError: If no run has logged an episode yet, or the runs' environments or objectives differ.
    """
    runs = drawable_runs(folders)
    env, names = runs[0].config.env, list(runs[0].curves)
    if any(run.config.env != env for run in runs):
        raise UserError("These runs are on different environments; plot them apart.")
    if any(list(run.curves) != names for run in runs):
        raise UserError("These runs have different objectives; plot them apart.")
    labelled, base = mean_by_label(runs), base_and_transform(env)[0]
    panels = [
        CurvePanel(name, f"return of an episode\n({return_unit(base, name)})", {k: v[name] for k, v in labelled.items()})
        for name in names
    ]
    title = f"{env}: mean return of the last 100 training episodes"
    if any(curve.low is not None for curves in labelled.values() for curve in curves.values()):
        title += "\nlines: mean over seeds; bands: its 95% bootstrap interval"
    picture = png(curve_figure(title, panels, _COLUMNS))
    with atomic_write(out) as file:
        file.write(picture)


def drawable_runs(folders: Sequence[RunFolder]) -> list[Run]:
    """The runs that have curves, each folder once; says which have none yet.

    Raises:
        UserError: If none has.
    """
    runs, left_out = [], list[Path]()
    for folder in {folder.path.resolve(): folder for folder in folders}.values():
        curves, config = read_curves(folder.progress_file), folder.config()
        order = [name for name in folder.objectives() if RETURN + name in curves]
        if not order:
            left_out.append(folder.path)
            continue
        arm = folder.facts().get("study", {}).get("arm", config.combiner)
        runs.append(Run(folder, config, arm, {name: curves[RETURN + name] for name in order}))
    if not runs:
        raise UserError("No run to draw: none has finished an episode yet; train longer, or let it come further.")
    for path in left_out:
        print_line(f"{path} has no finished episode in its progress.csv yet; left out.")
    return runs


def mean_by_label(runs: Sequence[Run]) -> dict[str, dict[str, Curve]]:
    """Each arm's mean curves by objective, under a label that tells it from the others."""
    arms = _arms(runs)
    labels = [_label(arm, [other[0].settings() for other in arms if other[0].arm == arm[0].arm]) for arm in arms]
    if len(set(labels)) < len(labels):
        places = [arm[0].folder.path.resolve() for arm in arms]
        labels = [f"{label}: {at.parent.name}/{at.name}" for label, at in zip(labels, places, strict=True)]
    found: dict[str, dict[str, Curve]] = {}
    for label, arm in zip(labels, arms, strict=True):
        means = {name: mean_curve([run.curves[name] for run in arm]) for name in arm[0].curves}
        found[label] = {name: curve for name, curve in means.items() if curve is not None}
    return found


def _arms(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, together; the same seed once more is an arm of its own, not another seed."""
    arms: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
    seen: Counter[tuple[str, str, int]] = Counter()
    for run in runs:
        key = (run.arm, repr(run.settings()))
        again = seen[*key, run.config.seed]
        seen[*key, run.config.seed] += 1
        arms[*key, again].append(run)
    return [part for arm in arms.values() for part in ([arm] if _overlap(arm) else [[run] for run in arm])]


def _overlap(arm: Sequence[Run]) -> bool:
    return all(common_steps([run.curves[name] for run in arm]) for name in arm[0].curves)


def _label(arm: Sequence[Run], same_arm: Sequence[dict[str, Any]]) -> str:
    """The arm's name, the settings in which it differs from others of this name, and its seeds."""
    mine = arm[0].settings()
    # Algorithms have settings and defaults of their own: beside another one, its name says enough.
    same_algo = [other for other in same_arm if other["algo"] == mine["algo"]]
    differing = [key for key in mine if any(other[key] != mine[key] for other in same_algo)]
    if len(same_algo) < len(same_arm):
        differing.insert(0, "algo")
    said = parse_preference(mine["preference"])
    weights = said.values() if isinstance(said, Mapping) else said or ()
    if said and "preference" not in differing and not arm[0].arm.endswith(preference_label(weights)):  # as a front's arms do
        differing.append("preference")
    parts = [arm[0].arm, *(f"{key} {'none' if mine[key] in ('', None) else mine[key]}" for key in differing)]
    seeds = f"seed {arm[0].config.seed}" if len(arm) == 1 else f"{len(arm)} seeds"
    return ", ".join([*parts, seeds])
