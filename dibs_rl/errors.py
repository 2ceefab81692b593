"""What a user can mend: each of these ends a command with its one line and exit code 2."""


class UserError(ValueError):
    """Something about the input is wrong; the message says what, and how to mend it."""


class NonFiniteError(UserError):
    """A reward, advantage or gradient is NaN or infinite; the message names objective, environment and step."""
