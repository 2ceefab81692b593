"""Finds the command, and ends it with one line and exit code 2 for anything that is the user's to mend."""

import importlib
import os
import sys
from collections.abc import Sequence

from dibs_rl import __version__
from dibs_rl.errors import UserError, did_you_mean, one_line

COMMANDS = {
    "train": "train one policy on many rewards",
    "experts": "train, for each objective, the policy it would like best: anchors for train --anchors",
    "evaluate": "play episodes with a trained policy, or with the one of a front that suits a preference; print the returns",
    "benchmark": "run a study: environments x conditions x arms x seeds, in parallel processes, resumable",
    "front": "train a policy for each of several preferences: a Pareto front, measured, in parallel, resumable",
    "plot": "draw the learning curves of one or several runs",
    "report": "write a study's results as one page: tables with intervals, pictures, cost",
    "record": "record a video of a trained policy, with each objective's return over the pictures",
    "envs": "list the environments, their objectives and how badly these are scaled",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `dibs-rl`; exits with 0, with 2 where the user can mend something, or with 130 or 143 after a signal."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # `--env module:id` finds a module that lies here, as `python -m` would
    try:
        with one_line("dibs-rl"):
            sys.exit(dispatch(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("\ndibs-rl: stopped\n")
        sys.exit(130)


def dispatch(arguments: list[str]) -> int:
    """Runs one command and returns its exit code.

    Raises:
        UserError: If there is no such command, or as the command says.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        _print_help()
        return 0
    if name == "--version":
        sys.stdout.write(f"dibs-rl {__version__}\n")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"Unknown command {name!r}.{hint} There is {', '.join(COMMANDS)}; 'dibs-rl --help' explains them.")
    return importlib.import_module(f"dibs_rl.cli.{name}").run(arguments[1:])


def _print_help() -> None:
    lines = [
        "usage: dibs-rl COMMAND [flags]",
        "",
        "Train one policy on many rewards without tuning reward weights.",
        "",
    ]
    lines += [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    lines += ["", "'dibs-rl COMMAND --help' lists the flags of a command."]
    sys.stdout.write("\n".join(lines) + "\n")
