"""What `dibs-rl benchmark` and `dibs-rl front` share: flags of all their trainings, and what runs these."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from dibs_rl.cli.launchers import Launcher, LocalLauncher
from dibs_rl.cli.ray_launcher import RayLauncher
from dibs_rl.config import Count, Number
from dibs_rl.errors import UserError


@dataclass
class TrainingFlags:
    """Settings of each training, and what runs them."""

    steps: Count | None = None
    """Environment steps of each training; those shipped for the environment if not given."""
    settings: tuple[str, ...] = ()
    """Settings of 'dibs-rl train' for every job: num_envs=16 n_steps=32."""
    jobs: Number = 0
    """Jobs at a time, each with one thread; 0 for one a processor."""
    launcher: Literal["local", "ray"] = "local"
    """What runs the jobs: processes on this machine, or a Ray cluster whose machines share the study's folder."""
    ray_address: str = ""
    """The Ray cluster's address, or auto for the one this machine belongs to; without it, one is started here."""

    @property
    def overrides(self) -> dict[str, Any]:
        """Settings that win over those shipped for an environment.

        Raises:
            UserError: If one cannot be read.
        """
        return {**named_values(self.settings, "settings"), **({} if self.steps is None else {"steps": self.steps})}


Trainings = Annotated[TrainingFlags, tyro.conf.arg(name="")]
"""As a field of a command's flags: without a prefix."""


def make_launcher(flags: TrainingFlags, root: Path) -> Launcher:
    """What runs jobs.

    Args:
        flags: Of what kind, where, and how many at a time.
        root: The study's folder.

    Raises:
        UserError: If an address is given for no cluster, or there is no Ray.
    """
    if flags.ray_address and flags.launcher != "ray":
        raise UserError("--ray-address is for --launcher ray; leave it out, or choose that launcher.")
    slots = flags.jobs or processors()
    return RayLauncher(root, flags.ray_address, slots) if flags.launcher == "ray" else LocalLauncher(root, slots)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named_values(texts: Sequence[str], key: str) -> dict[str, Any]:
    """`NAME` and `NAME=VALUE` as a mapping; but for a condition's transform the value is YAML."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            found[name] = (value if key == "conditions" else yaml.safe_load(value)) if equals else None
        except yaml.YAMLError:
            message = f"Cannot read {text!r} in --{key}: behind the first = stands YAML, as in fast={{n_epochs: 5}}."
            raise UserError(message) from None
    return found
