"""Folders of runs that are about to begin, also of several that begin at once."""

from collections.abc import Container
from pathlib import Path

from dibs_rl.errors import UserError


def made(path: Path, left_over: Container[str]) -> Path:
    """Makes the folder of a new run.

    Args:
        path: The folder.
        left_over: Names of what a run leaves that was about to begin and did not; a folder of that alone is taken.

    Raises:
        UserError: If there is something else, or it cannot be made.
    """
    try:
        return _made(path)
    except FileExistsError:
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
        if not names or any(name not in left_over for name in names):
            raise exists(path) from None
    return path


def made_numbered(path: Path) -> Path:
    """Makes the folder, or, where it exists, the folder with the first free number behind its name.

    Raises:
        UserError: If it cannot be made.
    """
    number, free = 1, path
    while True:
        try:
            return _made(free)
        except FileExistsError:  # by now, or always
            number += 1
            free = path.with_name(f"{path.name}-{number}")


def exists(path: Path) -> UserError:
    """What is said of a folder that is not free."""
    hint = f"go on with --resume {path}, or " if (path / "config.yaml").is_file() else ""
    return UserError(f"{path} exists: {hint}choose another --out.")


def _made(path: Path) -> Path:
    """Makes the folder; a FileExistsError where there is one already."""
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        raise UserError(f"Cannot make the run folder {path}: {error.strerror}.") from None
    return path
