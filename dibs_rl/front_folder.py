"""A front's folder: `front.csv` with a row for each of its policies, and which of them suits a preference."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write
from dibs_rl.metrics import nondominated, normalised
from dibs_rl.run_folder import RunFolder
from dibs_rl.selection import preferred_sum

_PREFERENCE, _RETURN, _DISCOUNTED = "preference/", "return/", "discounted/"


@dataclass(frozen=True)
class FrontPolicy:
    """One policy of a front.

    Attributes:
        preference: What it was trained with, by objective; of an expert, 1 for its own and 0 for the others.
        seed: Of its training.
        returns: Mean untransformed return of each objective over the evaluation's episodes.
        discounted: The same, discounted: the point on the front.
        folder: Its run folder, within the front's.
        nondominated: Whether no other policy of the same seed is better for one objective and as good for all others.
    """

    preference: dict[str, float]
    seed: int
    returns: dict[str, float]
    discounted: dict[str, float]
    folder: str
    nondominated: bool = False

    @property
    def is_expert(self) -> bool:
        """Whether it was trained for one objective alone; a preference of the front's own gives each of them some weight."""
        return 0 in self.preference.values()


def points(policies: Sequence[FrontPolicy]) -> np.ndarray:
    """Discounted returns `[k, m]` of policies, in the objectives' order."""
    return np.array([list(policy.discounted.values()) for policy in policies])


def read_policy(root: Path, folder: Path, preference: Mapping[str, float], seed: int) -> FrontPolicy:
    """What a finished run says of its policy.

    Args:
        root: The front's folder.
        folder: The run's, within it.
        preference: By objective.
        seed: Of the training.
    """
    result = RunFolder(root / folder).result()
    returns, discounted = (
        {name: float(result[key][name]["mean"]) for name in preference} for key in ("returns", "discounted_returns")
    )
    return FrontPolicy(dict(preference), seed, returns, discounted, folder.as_posix())


def read_result(root: Path, policy: FrontPolicy) -> dict[str, Any]:
    """`result.json` of a policy's run."""
    return RunFolder(root / policy.folder).result()


def front_file(root: Path) -> Path:
    """Where a front's policies are listed."""
    return root / "front.csv"


def write_front(root: Path, policies: Sequence[FrontPolicy]) -> None:
    """Writes `front.csv`."""
    rows = [_row(policy) for policy in policies]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(front_file(root)) as file:
        file.write(text.getvalue().encode())


def _row(policy: FrontPolicy) -> dict[str, object]:
    named = ((_PREFERENCE, policy.preference), (_RETURN, policy.returns), (_DISCOUNTED, policy.discounted))
    numbers = {prefix + name: value for prefix, values in named for name, value in values.items()}
    return {**numbers, "seed": policy.seed, "nondominated": str(policy.nondominated).lower(), "folder": policy.folder}


def read_front(root: Path) -> list[FrontPolicy]:
    """The policies of `front.csv`.

    Raises:
        UserError: If it is not as `write_front` leaves it.
    """
    file = front_file(root)
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            policies = [_policy(row) for row in csv.DictReader(stream)]
        if not policies:
            raise ValueError("it has no rows")
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}; 'dibs-rl front' writes it anew.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not list a front's policies: {error}; 'dibs-rl front' writes it anew.") from None
    return policies


def _policy(row: Mapping[Any, str]) -> FrontPolicy:
    if None in row:  # how the csv module keeps what has no column
        raise ValueError("a row has more fields than there are columns")
    preference, returns, discounted = (
        {column.removeprefix(prefix): float(row[column]) for column in row if column.startswith(prefix)}
        for prefix in (_PREFERENCE, _RETURN, _DISCOUNTED)
    )
    if not (preference and list(preference) == list(returns) == list(discounted)):
        raise ValueError("its columns name no objectives")
    return FrontPolicy(preference, int(row["seed"]), returns, discounted, row["folder"], row["nondominated"] == "true")


def choose(policies: Sequence[FrontPolicy], preference: Sequence[float] | Mapping[str, float]) -> tuple[FrontPolicy, float]:
    """The policy of a front that suits a preference best, and its utility.

    The utility is the weighted mean `sum_i p_i x_i / sum_i p_i` of the discounted returns, each normalised by the nondominated
    policies' own: x_i is 0 for the least of them and 1 for the greatest, and for all where they are equal.

    Args:
        policies: Of the front.
        preference: Weights in the objectives' order or by name, none of them negative; what is not named does not count.

    Raises:
        UserError: If a weight is not such a number, all of them are 0, or an objective is unknown.
    """
    names = list(policies[0].discounted)
    weights = dict(preference) if isinstance(preference, Mapping) else _in_order(preference, names)
    if not all(0 <= weight < math.inf for weight in weights.values()) or not sum(weights.values()) > 0:
        raise UserError(f"A preference has weights of 0 or more, and not all 0; found {weights}.")
    marks = nondominated(points(policies)).tolist()  # over all seeds
    candidates = [policy for policy, mark in zip(policies, marks, strict=True) if mark]
    utility = preferred_sum({name: weight / sum(weights.values()) for name, weight in weights.items()})
    equal = np.ptp(points(candidates), axis=0) == 0
    worth = [utility(dict(zip(names, row, strict=True))) for row in (normalised(points(candidates)) + equal).tolist()]
    best = int(np.argmax(worth))
    return candidates[best], worth[best]


def _in_order(weights: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    if len(weights) != len(names):
        raise UserError(f"The front's objectives are {', '.join(names)}; found {len(weights)} weights.")
    return dict(zip(names, weights, strict=True))


def by_seed(policies: Sequence[FrontPolicy]) -> dict[int, list[FrontPolicy]]:
    """Policies by the seeds of their training, in the seeds' order."""
    seeds = sorted({policy.seed for policy in policies})
    return {seed: [policy for policy in policies if policy.seed == seed] for seed in seeds}


def flagged(policies: Sequence[FrontPolicy]) -> list[FrontPolicy]:
    """The same policies, with what is nondominated among those of each seed marked."""
    found = []
    for group in by_seed(policies).values():
        marks = nondominated(points(group)).tolist()
        found += [dataclasses.replace(policy, nondominated=mark) for policy, mark in zip(group, marks, strict=True)]
    return found
