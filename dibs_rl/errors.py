"""What a user can mend: each of these ends a command with its one line and exit code 2."""

import contextlib
import difflib
import errno
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NoReturn

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WAY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


class UserError(ValueError):
    """Something about the input is wrong; the message says what, and how to mend it."""


class LostRankError(UserError):
    """A training of several processes has lost one of them; what was saved before is whole, and the run can be resumed."""


class NonFiniteError(UserError):
    """A reward, advantage or gradient is NaN or infinite; the message names objective, environment and step."""


def fail(program: str, message: str) -> NoReturn:
    """Ends a program with one line on stderr, and exit code 2."""
    sys.stderr.write(f"{program}: error: {' '.join(message.split())}\n")
    sys.exit(2)


@contextlib.contextmanager
def one_line(program: str) -> Iterator[None]:
    """Ends a program with one line and exit code 2 for anything that is the user's to mend."""
    try:
        yield
    except UserError as error:
        fail(program, str(error))
    except OSError as error:
        if error.errno in _NO_ROOM:
            fail(program, f"Cannot write {error.filename or 'a file'}: {error.strerror}; what was saved before is whole.")
        if error.errno not in _NO_WAY or not error.filename:
            raise
        fail(program, f"Cannot use {error.filename}: {error.strerror}.")


def check_same(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any], mend: str, passed_over: Container[str] = ()
) -> None:
    """Refuses to go on with what was made in another way.

    Args:
        what: What is there, up to the name of what differs: `"runs/a is a run with"`.
        before: How it was made, by name.
        now: How it would be made; what this does not name is passed over.
        mend: What to do about it.
        passed_over: Names that may differ.

    Raises:
        UserError: If anything else does.
    """
    for key, wanted in now.items():
        if key not in passed_over and before.get(key) != wanted:
            raise UserError(f"{what} {key} as {before.get(key)!r}, and not as {wanted!r}: {mend}.")


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1, alike: float = 0.6) -> str:
    """`" Did you mean forward?"` for a name that is close to a known one; else nothing.

    Args:
        name: What was given.
        known: What there is.
        most: How many near names are told.
        alike: How alike a name has to be, from 0 to 1.
    """
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=alike)
    return f" Did you mean {', '.join(near)}?" if near else ""
