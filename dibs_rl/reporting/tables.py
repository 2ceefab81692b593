"""The tables of a report: every number with its interval, or with the word below that there are too few seeds for one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dibs_rl.reporting.outcomes import Outcomes
from dibs_rl.statistics import LEAST_SEEDS, Estimate, Statistic, estimate, estimate_of, iqm, mean, ratio_of_means
from dibs_rl.study_folder import Condition, JobRecord

BASELINE = "sb3-ppo"
_NOTHING = "—"
_NO_INTERVAL = f"A value without an interval is of fewer than {LEAST_SEEDS} seeds."
_COSTS = {"seconds": "seconds", "CPU seconds": "cpu_seconds", "steps per second": "steps_per_second", "peak MiB": "peak_mib"}
_RATIOS = {f"seconds / {BASELINE}": "seconds", f"CPU seconds / {BASELINE}": "cpu_seconds"}

Chosen = Callable[[Outcomes], Sequence[Condition]]
Cell = str | Estimate | None


@dataclass(frozen=True)
class Table:
    """A table as it is printed.

    Attributes:
        title: What it is of.
        header: Names of the columns.
        rows: Texts and estimates, a row for each arm or job; None where there is nothing.
        note: What has to be known to read it.
        words: Whether its columns are words rather than numbers.
    """

    kind: ClassVar[str] = "table"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    words: bool = False

    @property
    def texts(self) -> list[list[str]]:
        """The rows as they are printed."""
        return [[cell if isinstance(cell, str) else shown(cell) for cell in row] for row in self.rows]

    @property
    def notes(self) -> str:
        """The note, and, where a value has no interval, why it has none."""
        lacking = any(isinstance(cell, Estimate) and not cell.has_interval for row in self.rows for cell in row)
        return f"{self.note} {_NO_INTERVAL}".strip() if lacking else self.note


def shown(found: Estimate | None) -> str:
    """An estimate as text: `0.62 [0.55, 0.70]`, or `0.62` where it has no interval."""
    if found is None:
        return _NOTHING
    numbers = [number for number in (found.value, found.low, found.high) if not math.isnan(number)]
    value, *interval = _digits(numbers)
    return f"{value} [{', '.join(interval)}]" if interval else value


def _digits(numbers: Sequence[float]) -> list[str]:
    """Numbers to as many places as the largest needs; an exact zero is told from what rounds to it."""
    largest = max(abs(number) for number in numbers)
    if 0 < largest < 0.01:
        return ["0" if number == 0 else f"{number:.0e}" for number in numbers]
    places = 0 if largest >= 100 else 1 if largest >= 10 else 2
    return ["0" if number == 0 else f"{number:,.{places}f}" for number in numbers]


def over(strata: Sequence[np.ndarray], statistic: Statistic) -> Estimate | None:
    """The estimate over the strata that hold anything; None where none does."""
    filled = [stratum for stratum in strata if len(stratum)]
    return estimate(filled, statistic) if filled else None


def measure_table(title: str, found: Sequence[Outcomes], groups: Mapping[str, Chosen], note: str = "") -> Table:
    """Arms by each measure, the best by the first one on top: IQM over seeds, environments being strata.

    Args:
        title: Of the table.
        found: Results of one environment, or of several that have the same measures.
        groups: What is averaged over, by the name that stands in the header; empty for no name.
        note: Below the table.
    """
    columns = [(measure, name, chosen) for measure in found[0].measures for name, chosen in groups.items()]
    rows = []
    for arm in _arms(found):
        strata = [[o.over_conditions(measure, chosen(o), arm) for o in found] for measure, _, chosen in columns]
        estimates = [over(stratum, iqm) for stratum in strata]
        if any(estimates):
            rows.append((arm, _seeds(strata[0]), _coverage(strata[0]), estimates))
    rows.sort(key=lambda row: -np.inf if row[3][0] is None else row[3][0].value, reverse=True)
    several = len(found) > 1
    header = ["arm", "seeds", *["environments"] * several, *(f"{m}, {name}" if name else m for m, name, _ in columns)]
    cells = [[arm, seeds, *[covered] * several, *estimates] for arm, seeds, covered, estimates in rows]
    return Table(title, header, cells, note)


def gap_tables(title: str, found: Sequence[Outcomes], groups: Mapping[str, Chosen]) -> list[Table]:
    """How far transformed rewards move each arm's results, mean over seeds, beside how far another seed does."""
    tables = []
    for measure in found[0].gap_measures:
        rows = []
        for arm in _arms(found):
            strata = [[o.gap(measure, chosen(o), arm) for o in found] for chosen in groups.values()]
            strata.append([o.noise(measure, arm) for o in found])
            most = max(strata, key=lambda stratum: sum(map(len, stratum)))
            rows.append([arm, _seeds(most), *(over(stratum, mean) for stratum in strata)])
        tables.append(Table(f"{title}: {measure}", ["arm", "seeds", *groups, "another seed"], rows))
    return tables


def return_table(outcome: Outcomes, condition: str) -> Table:
    """Untransformed returns of every arm, of the random policy and of the experts: IQM over seeds."""
    names = [*outcome.arms, *outcome.references(condition)]
    rows = []
    for arm in names:
        seeds = outcome.seeds(condition, arm)
        columns = outcome.raw(condition, arm).T
        rows.append([arm, str(len(seeds)), *(over([column], iqm) for column in columns)])
    return Table(f"{outcome.env}, {condition}: returns", ["arm", "seeds", *outcome.objectives], rows)


def cost_table(env: str, jobs: Sequence[JobRecord], arms: Sequence[str]) -> Table:
    """What the jobs of one environment and condition cost: mean over seeds, and by how much more than SB3's PPO."""
    rows = []
    base = [job for job in jobs if job.arm == BASELINE]
    for arm in arms:
        mine = [job for job in jobs if job.arm == arm]
        plain = [over([_cost(mine, key)], mean) for key in _COSTS.values()]
        ratios = [_ratio(_cost(mine, key), _cost(base, key)) for key in _RATIOS.values()]
        rows.append([arm, str(len(mine)), *plain, *(["1 (itself)"] * len(ratios) if arm == BASELINE else ratios)])
    return Table(env, ["arm", "seeds", *_COSTS, *_RATIOS], rows)


def job_table(jobs: Sequence[JobRecord], title: str) -> Table:
    """Jobs that gave no result, and why."""
    rows = [[job.env, job.condition.name, job.arm, str(job.seed), job.state, job.error or _NOTHING] for job in jobs]
    return Table(title, ["environment", "condition", "arm", "seed", "state", "error"], rows, words=True)


def fact_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Names and values."""
    return Table(title, [], [[name, str(value)] for name, value in facts.items()], words=True)


def beaten(found: Sequence[Outcomes], main: str) -> Table | None:
    """Where another arm is above the main one with the rewards as given, by maximin or mean; None where none is."""
    rows: list[list[Cell]] = []
    for outcome in found:
        for measure in outcome.measures[:2] if outcome.plain and main in outcome.arms else ():
            estimates = {arm: over([outcome.measured(measure, str(outcome.plain), arm)], iqm) for arm in outcome.arms}
            own = estimates.pop(main)
            for arm, other in estimates.items():
                if own is not None and other is not None and other.value > own.value:
                    rows.append([outcome.env, measure, arm, other, own, _apart(other, own)])
    header = ["environment", "measure", "arm", "its value", main, "intervals"]
    return Table(f"Where another arm is above {main}, rewards as given", header, rows, words=True) if rows else None


def _apart(above: Estimate, below: Estimate) -> str:
    if not (above.has_interval and below.has_interval):
        return _NOTHING
    return "apart" if above.low > below.high else "overlap"


def _arms(found: Sequence[Outcomes]) -> list[str]:
    return list(dict.fromkeys(arm for outcome in found for arm in outcome.arms))


def _seeds(strata: Sequence[np.ndarray]) -> str:
    """How many seeds: one number, or the fewest and the most in an environment."""
    counts = [len(stratum) for stratum in strata if len(stratum)] or [0]
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _coverage(strata: Sequence[np.ndarray]) -> str:
    return f"{sum(1 for stratum in strata if len(stratum))} of {len(strata)}"


def _cost(jobs: Sequence[JobRecord], key: str) -> np.ndarray:
    return np.array([job.result["cost"][key] for job in jobs if key in job.result.get("cost", {})], dtype=float)


def _ratio(mine: np.ndarray, base: np.ndarray) -> Estimate | None:
    return estimate_of(ratio_of_means, [mine, base]) if len(mine) and len(base) else None
