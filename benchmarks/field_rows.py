"""What `field.py` keeps of each method and seed, and the table that is made of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dibs_rl.envs.scaling import parse_transform
from dibs_rl.errors import UserError, check_same
from dibs_rl.files import atomic_write, read_json, write_json
from dibs_rl.metrics import front_measures, utility_weights
from dibs_rl.statistics import CONFIDENCE, LEAST_SEEDS, estimate, mean

COLUMNS = {
    "policies": "policies",
    "nondominated": "on the front",
    "hypervolume": "hypervolume",
    "expected_utility": "expected utility",
    "sparsity": "sparsity",
    "steps": "steps",
    "selection_steps": "steps of selection",
    "cpu_seconds": "CPU seconds",
}
_WHOLE = {"policies", "nondominated", "steps", "selection_steps", "cpu_seconds"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """What is the same for every method and seed.

    Attributes:
        env: Environment id.
        objectives: Names of its objectives.
        transform: What the learners see of the rewards; scored is what is untransformed.
        budget: Environment steps of a whole front, experts included.
        points: Preferences that a front has a policy for.
        refine: Share of them that go where the front is sparse, where a method can choose.
        gamma: Discount of the returns that are scored.
        reference: Reference point of the hypervolume, `[m]`.
        episodes: Of the evaluation of each policy.
    """

    env: str
    objectives: tuple[str, ...]
    transform: str
    budget: int
    points: int
    refine: float
    gamma: float
    reference: tuple[float, ...]
    episodes: int

    @property
    def seen_reference(self) -> tuple[float, ...]:
        """The reference point in the units that the learners see.

        Raises:
            UserError: If a transform is no factor: a discounted return has no counterpart then.
        """
        found = []
        transforms = parse_transform(self.transform, self.objectives)
        for name, value in zip(self.objectives, self.reference, strict=True):
            change = transforms[name].change if name in transforms else 1.0
            if isinstance(change, str) or (name in transforms and transforms[name].per_episode):
                raise UserError(f"The field is given factors alone, as in energy=1e3; found {name}={transforms[name]}.")
            found.append(change * value)
        return tuple(found)


def row_file(root: Path, method: str, seed: int) -> Path:
    """Where the row of a method and seed is kept: it is there once they are done."""
    return root / "rows" / f"{method}-seed{seed}.json"


def write_row(root: Path, contest: Contest, row: Row) -> None:
    """Writes a row: `method`, `seed`, `settings`, discounted untransformed `returns` `[k, m]`, and what it took."""
    write_json(row_file(root, row["method"], row["seed"]), {"contest": asdict(contest), **row})


def begin(folder: Path, contest: Contest, settings: Mapping[str, Any]) -> None:
    """Marks a folder of trainings, so that no other contest goes on with them.

    Raises:
        UserError: If they are of another contest, or have other settings.
    """
    file = folder / "contest.json"
    wanted = _plain(contest, settings)
    if file.is_file():
        check_same(f"{file} has", read_json(file, "move its folder away"), wanted, "choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, wanted)


def read_row(
    root: Path, contest: Contest, method: str, seed: int, settings: Mapping[str, Any], shipped: Mapping[str, Any] | None = None
) -> Row | None:
    """The row of a method and seed, if they are done.

    Args:
        root: Folder of the results.
        contest: What is the same for all.
        method: Its name.
        seed: Of its training.
        settings: What is said of the method.
        shipped: All settings that its trainings would have now; what the row does not know of them is passed over.

    Raises:
        UserError: If it is of another contest, or was made with other settings.
    """
    file = row_file(root, method, seed)
    if not file.is_file():
        return None
    row = read_json(file, "move it away and its training is done again")
    found = {"settings": row["settings"], **row["contest"]}
    check_same(f"{file} has", found, _plain(contest, settings), "choose another --out")
    known, now = row.get("trained_with", {}), shipped or {}
    check_same(f"{file} was trained with", known, now, "choose another --out", now.keys() - known.keys())
    return row


def _plain(contest: Contest, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A contest and a method's settings as JSON holds them."""
    return json.loads(json.dumps({"settings": settings, **asdict(contest)}))


def write_table(root: Path, contest: Contest, rows: Sequence[Row]) -> Path:
    """Writes `field.md` from all rows; returns its path."""
    file = root / "field.md"
    with atomic_write(file) as stream:
        stream.write(table(contest, rows).encode())
    return file


def table(contest: Contest, rows: Sequence[Row]) -> str:
    """Markdown: what is compared, a table over seeds, and one of each seed."""
    measured = [{**row, **front_measures(row["returns"], contest.reference)} for row in rows]
    by_method: dict[str, list[Row]] = {}
    for row in measured:
        by_method.setdefault(row["method"], []).append(row)
    lines = [_about(contest), "", _head("method", "seeds")]
    lines += [_line(method, str(len(own)), *_over_seeds(own)) for method, own in by_method.items()]
    lines += ["", _head("method", "seed")]
    lines += [_line(row["method"], str(row["seed"]), *(_number(row[key], key) for key in COLUMNS)) for row in measured]
    return "\n".join(lines) + "\n"


def _about(contest: Contest) -> str:
    reference = ", ".join(f"{name} {value:g}" for name, value in zip(contest.objectives, contest.reference, strict=True))
    seen = f" Learnt from with {contest.transform}, scored without it." if contest.transform else ""
    return (
        f"{contest.env}: {contest.budget:,} environment steps for each front, experts included; mean returns of "
        f"{contest.episodes} episodes with deterministic policies, discounted by {contest.gamma:g}. Reference point: "
        f"{reference}. Expected utility: over {len(utility_weights(len(contest.objectives)))} weights.{seen} Over seeds: "
        f"means, with {CONFIDENCE:.0%} bootstrap intervals from {LEAST_SEEDS} seeds on. Steps of selection: those in which a "
        "method compares its policies, not among its steps."
    )


def _head(*first: str) -> str:
    return f"{_line(*first, *COLUMNS.values())}\n{_line('---', *['---:'] * (len(COLUMNS) + len(first) - 1))}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _over_seeds(rows: Sequence[Row]) -> list[str]:
    found = []
    for key in COLUMNS:
        over = estimate([np.array([row[key] for row in rows], dtype=float)], mean)
        interval = f" [{_number(over.low, key)}, {_number(over.high, key)}]" if over.has_interval else ""
        found.append(_number(over.value, key) + interval)
    return found


def _number(value: float, key: str) -> str:
    return f"{value:,.0f}" if key in _WHOLE else f"{value:.5g}"
