"""`dibs-rl envs`: what can be trained on, and how the objectives of one environment are scaled."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.probe import probe_environment
from dibs_rl.config import RunConfig
from dibs_rl.envs import BADSCALE, SPECS, base_and_transform, resolve_id
from dibs_rl.errors import UserError


@dataclass
class EnvsConfig:
    """List the environments, their objectives and how badly these are scaled; or measure that of one of them."""

    match: str = ""
    """Show only ids with this in them."""
    probe: str = ""
    """Environment whose scales are measured with random actions; says which combiners they will lead astray, and why."""
    episodes: int = 20
    """Episodes of the measurement; of several tasks, of each."""
    seed: int = 0
    """Seed of the measurement."""
    transform: str = ""
    """As in train; what is measured is what a learner would see."""
    reward_terms: str = ""
    """As in train."""
    pad_tasks: bool = False
    """As in train."""
    json: bool = False
    """Print JSON instead of a table."""


def run(arguments: list[str]) -> int:
    """Prints the table; returns the exit code."""
    flags = parse(EnvsConfig, arguments, "envs")
    if flags.probe:
        _probe(flags)
    elif flags.json:
        json.dump(_listed(flags.match), sys.stdout, indent=2)
        print_line("")
    else:
        _print_list(_listed(flags.match))
    return 0


def _probe(flags: EnvsConfig) -> None:
    if flags.episodes < 2 or flags.seed < 0:
        raise UserError(f"At least two episodes and a seed of 0 or more; found {flags.episodes} and {flags.seed}.")
    settings = {name: getattr(flags, name) for name in ("transform", "reward_terms", "pad_tasks", "seed")}
    probe_environment(RunConfig(env=resolve_id(flags.probe), **settings), flags.episodes, as_json=flags.json)


def _listed(match: str) -> dict[str, dict[str, Any]]:
    """What is known of each environment with a text in its id."""
    scales = {env_id: spec.scales for env_id, spec in SPECS.items()}
    scales |= {env_id: f"{of.base} with {of.transform}: {of.reason}" for env_id, of in BADSCALE.items()}
    found = {}
    for env_id, about in sorted(scales.items()):
        if match in env_id:
            spec = SPECS[base_and_transform(env_id)[0]]
            missing = "" if spec.installed else f"not installed: {spec.install}"
            found[env_id] = {"objectives": spec.objectives, "scales": about, "missing": missing}
    return found


def _print_list(environments: dict[str, dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("id", no_wrap=True)
    table.add_column("m", justify="right")
    table.add_column("objectives, and their scales per step as read from the sources")
    for env_id, known in environments.items():
        missing = escape(f"\n{known['missing']}") if known["missing"] else ""
        about = f"{', '.join(known['objectives'])}\n[dim]{known['scales']}[/dim]{missing}"
        table.add_row(env_id, str(len(known["objectives"])), about)
    Console().print(table)
    print_line("Any Gymnasium id with a vector reward works too, and with --reward-terms any that tells parts of its reward.")
    print_line("Several tasks are one environment, with an objective for each: --env a+b+c.")
