"""What a user can mend: each of these ends a command with its one line and exit code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something about the input is wrong; the message says what, and how to mend it."""


class LostRankError(UserError):
    """A training of several processes has lost one of them; what was saved before is whole, and the run can be resumed."""


class NonFiniteError(UserError):
    """A reward, advantage or gradient is NaN or infinite; the message names objective, environment and step."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean forward?"` for a name that is close to a known one; else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
