"""Flags from configuration types, and their mistakes in one line."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import pydantic
import tyro

from dibs_rl.errors import UserError
from dibs_rl.validation import first_error


def parse(cls: Any, arguments: Sequence[str], command: str, default: Any = None) -> Any:
    """Reads flags into a configuration.

    Args:
        cls: The configuration's class; fields' docstrings are the help texts.
        arguments: What stands behind the command.
        command: Its name.
        default: Values of the flags that are not given.

    Raises:
        UserError: If a flag is unknown, or its value is not of its type or out of its bounds.
    """
    said = io.StringIO()
    extra = {} if default is None else {"default": default}
    helping = any(flag in arguments for flag in ("-h", "--help"))
    with contextlib.nullcontext() if helping else contextlib.redirect_stderr(said):
        try:
            found = tyro.cli(cls, args=list(arguments), prog=f"dibs-rl {command}", **extra)
        except SystemExit as stop:
            if not stop.code:
                raise
            raise UserError(_one_line(said.getvalue(), command)) from None
    return _within_bounds(found)


def _within_bounds(found: Any) -> Any:
    """Holds what the flags say against the fields' bounds."""
    try:
        return pydantic.TypeAdapter(type(found)).validate_python(dataclasses.asdict(found))
    except pydantic.ValidationError as error:
        place, what = first_error(error)
        groups = [f.name for f in dataclasses.fields(found) if dataclasses.is_dataclass(getattr(found, f.name))]
        flag = next(part for part in place if part not in groups).replace("_", "-")
        raise UserError(f"--{flag}: {what}.") from None


def peek(arguments: Sequence[str], name: str) -> str | None:
    """The value of a flag before all flags are read: the environment decides the defaults of the others.

    Raises:
        UserError: If it has none.
    """
    value = None
    for i, argument in enumerate(arguments):
        if argument == f"--{name}":
            value = next(iter(arguments[i + 1 : i + 2]), "--")
            if value.startswith("--"):
                raise UserError(f"--{name} needs a value.")
        elif argument.startswith(f"--{name}="):
            value = argument.split("=", 1)[1]
    return value


def _one_line(box: str, command: str) -> str:
    """Tyro draws a box around its message; the words in it, on one line."""
    words = re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", box).split()
    text = " ".join(words)
    text = re.sub(r"^(Parsing error|Unrecognized options|Required options|Invalid choice)(?!:)\s*", "", text)
    text = text.replace("Value error Error parsing", "Cannot read")
    text = re.sub(r"invalid literal for int\(\) with base 10: (\S+)", r"\1 is not a whole number", text)
    text = re.sub(r"could not convert string to float: (\S+)", r"\1 is not a number", text)
    text = re.sub(r"(For full helptext,|Argument helptext:).*$", "", text).strip()
    text = re.sub(r" Perhaps you meant: (--[\w-]+).*$", r". Did you mean \1?", text)
    text = re.sub(r"^Missing from [\w -]+: (\S+).*$", r"Missing: \1", text)
    end = "" if text.endswith(("?", ".")) else "."
    return f"{text}{end} 'dibs-rl {command} --help' lists the flags." if text else f"Bad flags for {command}."


def print_line(text: str) -> None:
    """Writes one line for a person to read."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
