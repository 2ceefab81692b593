"""What is said by objective, or by name, as one text: `3,1` and `forward=3,energy=1`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dibs_rl.errors import UserError, did_you_mean


def by_objective_text(values: Any) -> str:
    """What is said of each objective, as one text: `3,1` or `forward=3,energy=1`."""
    if isinstance(values, Mapping):
        return ",".join(f"{name}={value}" for name, value in values.items())
    if isinstance(values, list | tuple):
        return ",".join(str(value) for value in values)
    return "" if values is None else str(values)


def preference_label(weights: Iterable[float]) -> str:
    """How a preference is told in the name of a front's arm: `p0.75-0.25`."""
    return "p" + "-".join(f"{weight:g}" for weight in weights)


def parse_preference(text: str) -> list[float] | dict[str, float] | None:
    """Reads `3,1` to a list and `forward=3,energy=1` to a mapping; None for an empty text.

    Raises:
        UserError: If it is neither.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not parts:
        return None
    named = by_name(text, "preference") if all("=" in part for part in parts) else None
    try:
        if named is not None:
            return {name: float(weight) for name, weight in named.items()}
        return [float(part) for part in parts]
    except ValueError:
        raise UserError(f"A preference reads like 3,1 or forward=3,energy=1; found {text!r}.") from None


def preference_vector(
    preference: Sequence[float] | Mapping[str, float] | None, objectives: Sequence[str]
) -> list[float] | None:
    """Preference weights in the objectives' order.

    Raises:
        UserError: If they are given by name and a name is unknown or missing.
    """
    if preference is None or not isinstance(preference, Mapping):
        return None if preference is None else list(preference)
    if set(preference) != set(objectives):
        unknown = [name for name in preference if name not in objectives]
        hint = did_you_mean(unknown[0], objectives) if unknown else ""
        raise UserError(
            f"A preference by name has a weight for each of {', '.join(objectives)}; found {', '.join(preference)}.{hint}"
        )
    return [preference[name] for name in objectives]


def by_name(text: str, what: str) -> dict[str, str]:
    """Reads `condition=scale-1,arm=dibs` to a mapping.

    Raises:
        UserError: If it does not read like that, or has a name twice.
    """
    parts = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if any(len(part) != 2 for part in parts):
        raise UserError(f"The {what} reads like name=value,name=value; found {text!r}.")
    found = {name.strip(): value.strip() for name, value in parts}
    if len(found) < len(parts):
        raise UserError(f"The {what} has a name twice; found {text!r}.")
    return found
