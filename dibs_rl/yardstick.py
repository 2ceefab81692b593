"""What a front is measured by, discount and reference point, from the shipped table of fronts unless it is given."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dibs_rl.by_objective import by_name
from dibs_rl.errors import UserError
from dibs_rl.files import load_yaml
from dibs_rl.shipped import CONFIGS, names_of

TABLE = CONFIGS / "fronts.yaml"
_GIVEN = "as given"
_LEAST = "the least return of these policies: comparable with no other front"


@dataclass(frozen=True)
class Yardstick:
    """Discount and reference point of a front.

    Attributes:
        gamma: Of the returns; None for that of the training.
        reference: Point above which volume counts, by objective; None where nobody has set one.
        source: Where the reference point comes from.
    """

    gamma: float | None
    reference: dict[str, float] | None
    source: str

    def reference_for(self, returns: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The reference point for policies' returns: where nobody has set one, the least return of each objective."""
        return self.reference or {name: min(one[name] for one in returns) for name in returns[0]}


def yardstick(env_id: str, objectives: Sequence[str], reference: str = "", gamma: float | None = None) -> Yardstick:
    """What the fronts of an environment are measured by: what is given, else what the shipped table says.

    Args:
        env_id: Its id.
        objectives: Names of its objectives.
        reference: A reference point that wins over the table's: `forward=-100,energy=-100`.
        gamma: A discount that wins over the table's.

    Raises:
        UserError: If the reference point does not name each objective with a number, or the discount is not in (0, 1].
    """
    if gamma is not None and not 0 < gamma <= 1:
        raise UserError(f"The discount of a front's returns is above 0 and at most 1; found --gamma {gamma}.")
    entry = entry_of(env_id)
    gamma = entry.get("gamma") if gamma is None else gamma
    if reference:
        return Yardstick(gamma, _by_objective(reference, objectives), _GIVEN)
    found = entry.get("reference")
    if found is None or set(found) != set(objectives):  # reward terms make others than those that the table is about
        return Yardstick(gamma, None, _LEAST)
    return Yardstick(gamma, {name: float(found[name]) for name in objectives}, f"from {TABLE.name}")


def entry_of(env_id: str) -> dict[str, Any]:
    """What the shipped table of fronts says of an environment; empty where it says nothing.

    Args:
        env_id: Its id.

    Raises:
        UserError: If the table cannot be read.
    """
    table = load_yaml(TABLE)
    return next((table[name] for name in names_of(env_id) if name in table), {})


def _by_objective(text: str, objectives: Sequence[str]) -> dict[str, float]:
    said = by_name(text, "reference point")
    if set(said) != set(objectives):
        raise UserError(f"A reference point has a return for each of {', '.join(objectives)}; found {', '.join(said)}.")
    try:
        point = {name: float(said[name]) for name in objectives}
    except ValueError:
        raise UserError(f"A reference point holds numbers, as in forward=-100,energy=-100; found {text!r}.") from None
    if not all(map(math.isfinite, point.values())):
        raise UserError(f"A reference point is finite; found {text!r}.")
    return point
