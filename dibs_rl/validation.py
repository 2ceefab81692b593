"""Plain settings held against a configuration's fields and their bounds, and back to plain."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import pydantic

from dibs_rl.by_objective import by_objective_text
from dibs_rl.config import ALGORITHMS, BY_OBJECTIVE, RunConfig
from dibs_rl.errors import UserError, did_you_mean

_NOT_SAVED = {"config", "resume", "out", "study"}


def config_class(algo: str) -> type[RunConfig]:
    """The settings of an algorithm.

    Raises:
        UserError: If there is no such algorithm.
    """
    if algo not in ALGORITHMS:
        raise UserError(f"Unknown algorithm {algo!r}.{did_you_mean(algo, ALGORITHMS)} There is {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[algo]


def validated(algo: str, settings: Mapping[str, Any], source: str) -> Any:
    """Makes a configuration out of plain settings.

    Args:
        algo: Name of the algorithm.
        settings: Values by field name; what is said by objective may be a mapping too, and a preference a list.
        source: Where they come from, for the message.

    Raises:
        UserError: If a key is unknown or a value is not as its field wants it.
    """
    cls = config_class(algo)
    names = _names(cls)
    for key in settings:
        if key not in names:
            hint = whose(algo, str(key)) or did_you_mean(str(key), names) or f" The keys are {', '.join(names)}."
            raise UserError(f"Unknown key {key!r} in {source}.{hint}")
    plain = {**settings, **{key: by_objective_text(settings.get(key)) for key in BY_OBJECTIVE}}
    try:
        return _validator(algo).validate_python(plain)
    except pydantic.ValidationError as error:
        place, what = first_error(error)
        raise UserError(f"{place[0]} in {source}: {what}.") from None


def whose(algo: str, key: str) -> str:
    """A sentence about a setting that other algorithms have and this one has not, a space before it; else empty."""
    others = [other for other, cls in ALGORITHMS.items() if key in _names(cls)]
    return f" It is a setting of {', '.join(others)}, not of {algo}." if others and algo not in others else ""


def first_error(error: pydantic.ValidationError) -> tuple[list[str], str]:
    """The way to the first value that is wrong, by names of fields and numbers of entries, and what is wrong with it."""
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    message = said[:1].lower() + said[1:]
    return [str(part) for part in first["loc"]], f"{message}; found {first['input']!r}"


def _names(cls: type[RunConfig]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


@functools.cache
def _validator(algo: str) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(config_class(algo))  # is longer in the making than in use, and a study has hundreds of runs


def to_plain(config: RunConfig) -> dict[str, Any]:
    """The settings as YAML can hold them, without those that say where the run is kept."""
    plain = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items() if key not in _NOT_SAVED}
