"""`dibs-rl envs`: what can be trained on."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from dibs_rl.cli.flags import parse
from dibs_rl.envs import SPECS


@dataclass
class EnvsConfig:
    """List the environments, their objectives and how badly these are scaled."""

    match: str = ""
    """Show only ids with this in them."""


def run(arguments: list[str]) -> int:
    """Prints the table; returns the exit code."""
    flags = parse(EnvsConfig, arguments, "envs")
    table = Table(caption="Any Gymnasium id with a vector reward works too.", caption_justify="left")
    table.add_column("id", no_wrap=True)
    table.add_column("m", justify="right")
    table.add_column("objectives")
    table.add_column("per-step scales, as read from the sources")
    table.add_column("to install")
    for env_id, spec in sorted(SPECS.items()):
        if flags.match in env_id:
            missing = "" if spec.installed else spec.install
            table.add_row(env_id, str(len(spec.objectives)), ", ".join(spec.objectives), spec.scales, missing)
    Console().print(table)
    return 0
