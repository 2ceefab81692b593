"""`dibs-rl envs`: what can be trained on."""

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dibs_rl.cli.flags import parse, print_line
from dibs_rl.envs import BADSCALE, SPECS, base_and_transform


@dataclass
class EnvsConfig:
    """List the environments, their objectives and how badly these are scaled."""

    match: str = ""
    """Show only ids with this in them."""


def run(arguments: list[str]) -> int:
    """Prints the table; returns the exit code."""
    flags = parse(EnvsConfig, arguments, "envs")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("id", no_wrap=True)
    table.add_column("m", justify="right")
    table.add_column("objectives, and their scales per step as read from the sources")
    scales = {env_id: spec.scales for env_id, spec in SPECS.items()}
    scales |= {env_id: f"{of.base} with {of.transform}: {of.reason}" for env_id, of in BADSCALE.items()}
    for env_id, about in sorted(scales.items()):
        if flags.match in env_id:
            spec = SPECS[base_and_transform(env_id)[0]]
            missing = "" if spec.installed else f"\nnot installed: {spec.install}"
            about = f"{', '.join(spec.objectives)}\n[dim]{about}[/dim]{escape(missing)}"
            table.add_row(env_id, str(len(spec.objectives)), about)
    Console().print(table)
    print_line("Any Gymnasium id with a vector reward works too, and with --reward-terms any that tells parts of its reward.")
    return 0
