"""`dibs-rl envs`: what can be trained on, and how the objectives of one environment are scaled."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.probe import probe_environment
from dibs_rl.config import RunConfig, Seed
from dibs_rl.envs import BADSCALE, SPECS, EnvSpec, resolve_id
from dibs_rl.envs.metaworld import INSTALL, metaworld_installed
from dibs_rl.envs.registry import TASK_SETS
from dibs_rl.errors import UserError, did_you_mean


@dataclass
class EnvsConfig:
    """List the environments, their objectives and how badly these are scaled; or measure that of one of them."""

    match: str = ""
    """Show only ids with this in them."""
    probe: str = ""
    """Environment whose scales are measured with random actions; says which combiners they will lead astray, and why."""
    episodes: Annotated[int, Field(ge=2)] = 20
    """Episodes of the measurement; of several tasks, of each."""
    seed: Seed = 0
    """Seed of the measurement."""
    transform: str = ""
    """As in train; what is measured is what a learner would see."""
    reward_terms: str = ""
    """As in train."""
    pad_tasks: bool = False
    """As in train."""
    json: bool = False
    """Print it as JSON."""


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
    settings = {name: getattr(flags, name) for name in ("transform", "reward_terms", "pad_tasks", "seed")}
    probe_environment(RunConfig(env=resolve_id(flags.probe), **settings), flags.episodes, as_json=flags.json)


def _listed(match: str) -> dict[str, dict[str, Any]]:
    """What is known of each environment with a text in its id."""
    found = {env_id: _of_spec(spec, spec.scales, spec.note) for env_id, spec in SPECS.items()}
    for env_id, variant in BADSCALE.items():
        note = f"{variant.base} with {variant.transform}: {variant.reason}"
        found[env_id] = _of_spec(SPECS[variant.base], {}, note)  # the scales are the base's, but for what the note says
    missing = "" if metaworld_installed() else f"not installed: {INSTALL}"  # Meta-World's is the only set there is
    for set_id, tasks in TASK_SETS.items():
        own = {"objectives": list(tasks), "scales": {}, "note": "each objective is a task of its own"}
        found[set_id] = {**own, "missing": missing}
    listed = {env_id: found[env_id] for env_id in sorted(found) if match.lower() in env_id.lower()}
    if not listed:
        raise UserError(f"No id has {match!r} in it.{did_you_mean(match, found)} 'dibs-rl envs' lists them all.")
    return listed


def _of_spec(spec: EnvSpec, scales: Mapping[str, str], note: str) -> dict[str, Any]:
    missing = "" if spec.installed else f"not installed: {spec.install}"
    return {"objectives": list(spec.objectives), "scales": dict(scales), "note": note, "missing": missing}


def _print_list(environments: dict[str, dict[str, Any]]) -> None:
    """An id on each line, and below it what is known: as narrow as the terminal is."""
    console = Console(highlight=False)
    console.print("Objectives, and their scales per step as read from the sources:")
    for env_id, known in environments.items():
        about = SPECS[env_id].scales_text if env_id in SPECS else f"{', '.join(known['objectives'])}: {known['note']}"
        console.print(env_id, style="bold")
        for text in filter(None, (about, known["missing"])):
            console.print(Padding(Text(text, style="dim"), (0, 0, 0, 4)))
    console.print(
        "Any Gymnasium id with a vector reward works too, and with --reward-terms any that tells parts of its reward."
    )
    console.print("Several tasks are one environment, with an objective for each: --env a+b+c.")
