"""Writing files that are whole or not there, and reading YAML and JSON."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from dibs_rl.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that takes its name only once it is whole and on the disk.

    A full disk or a killed process leaves the file that had the name before, and no other.

    Raises:
        UserError: If no file can be made there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(part, "wb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}; what was saved before is whole.") from None
    try:
        with stream as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_exists(path: Path) -> None:
    """Raises a UserError if there is neither file nor folder."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a mapping from a YAML file.

    Raises:
        UserError: If it cannot be read, is not YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings as 'key: value' lines.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping to a JSON file.

    Raises:
        UserError: If no file can be made there.
    """
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a mapping from a JSON file that `write_json` has written.

    Args:
        path: The file.
        remedy: What to do where it holds something else, for the message.

    Raises:
        UserError: If it cannot be read, is not JSON, or holds no mapping.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}; {remedy}.") from None
    except ValueError as error:
        raise UserError(f"Cannot read {path}: {error}; {remedy}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not what dibs-rl wrote: it holds no mapping; {remedy}.")
    return found
