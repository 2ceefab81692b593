"""Conditions of a study: what is done to the rewards, by a name that says it.

`scale-1` is the environment as it is. `energy-x1e3` multiplies the reward called energy by 1000, `energy-x2^10` by a power of
two (which commutes with rounding), `energy-power4` sends it through an increasing map; with `@episode` behind it, the
episode's return. `each-x1e3` stands for one such condition per objective.
"""

import re
from collections.abc import Iterable, Mapping

from dibs_rl.errors import UserError

AS_IT_IS = "scale-1"
_EACH = "each"
_NAME = re.compile(
    r"(?P<objective>.+)-(x(?P<factor>[\d.]+(e[+-]?\d+)?)|x2\^(?P<power>[+-]?\d+)|(?P<map>power4|exp|sqrt))(?P<episode>@episode)?"
)


def expand(given: Mapping[str, str | None], objectives: Iterable[str]) -> dict[str, str]:
    """Conditions by name, each with its transform, for everything that some environment of a study has.

    Args:
        given: By name: the transform, or None where the name says it.
        objectives: Names of all environments' objectives.

    Raises:
        UserError: If a name cannot be read, or an objective in a transform is none of these.
    """
    known = list(dict.fromkeys(objectives))
    found: dict[str, str] = {}
    for name, transform in given.items():
        if transform is None and name.startswith(f"{_EACH}-"):
            what = name.removeprefix(f"{_EACH}-")
            found |= {f"{objective}-{what}": _read(f"{objective}-{what}") for objective in known}
        else:
            found[name] = _read(name) if transform is None else transform
        unknown = objectives_in(found.get(name, "")) - set(known)
        if unknown:
            raise UserError(
                f"The condition {name!r} is about {', '.join(sorted(unknown))}; the objectives here are {', '.join(known)}."
            )
    return found


def objectives_in(transform: str) -> set[str]:
    """Names of the objectives that a transform is about."""
    return {part.partition("=")[0].strip() for part in transform.split(",") if part.strip()}


def _read(name: str) -> str:
    """The transform that a condition's name says."""
    if name == AS_IT_IS:
        return ""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"Cannot read the condition {name!r}: it is {AS_IT_IS}, OBJECTIVE-x1e3, OBJECTIVE-x2^10, OBJECTIVE-power4, "
            f"OBJECTIVE-exp or OBJECTIVE-sqrt (each also with @episode behind it), with {_EACH} for all objectives in turn, "
            "or a name of yours with its transform: NAME=forward=1e3,energy=0.1."
        )
    what = match["factor"] or match["map"] or repr(2.0 ** int(match["power"]))
    return f"{match['objective']}={what}{match['episode'] or ''}"
