"""The settings of `dibs-rl train`: shipped ones, a YAML file's and the flags', or those of a run that goes on."""

import dataclasses
import os
from pathlib import Path

from dibs_rl.cli.flags import parse, peek, print_line
from dibs_rl.config import RunConfig
from dibs_rl.envs import resolve_id
from dibs_rl.errors import UserError
from dibs_rl.files import load_yaml
from dibs_rl.run_folder import RunFolder
from dibs_rl.shipped import shipped_file
from dibs_rl.validation import config_class, validated, whose

_MAY_CHANGE = {"steps", "device", "workers", "threads", "checkpoint_every", "eval_episodes", "resume", "save_replay_buffer"}


def read_config(arguments: list[str]) -> RunConfig:
    """The settings: shipped ones, over them a YAML file's, over them the flags'.

    Raises:
        UserError: If any of them is wrong.
    """
    resume = peek(arguments, "resume")
    if resume is not None:
        return _changed_config(RunFolder.open(Path(resume)).config(), arguments)
    defaults = _defaults(arguments)
    config = _parse(defaults, arguments)
    name, config.env = config.env, resolve_id(config.env)
    if name != config.env and os.environ.get("RANK", "0") == "0":
        print_line(f"{name} is {config.env}, the newest version.")
    return config


def _changed_config(saved: RunConfig, arguments: list[str]) -> RunConfig:
    config = _parse(saved, arguments)
    changed = [f.name for f in dataclasses.fields(saved) if getattr(saved, f.name) != getattr(config, f.name)]
    fixed = [name for name in changed if name not in _MAY_CHANGE]
    if fixed:
        raise UserError(f"A resumed run keeps its {', '.join(fixed)}; it may change {', '.join(sorted(_MAY_CHANGE))}.")
    return config


def _parse(defaults: RunConfig, arguments: list[str]) -> RunConfig:
    """The flags over other settings; of one that another algorithm has, "unknown" would not say what to do.

    Raises:
        UserError: If a flag is another algorithm's, or anything is wrong with it.
    """
    try:
        return parse(type(defaults), arguments, "train", defaults)
    except UserError:
        for flag in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
            hint = whose(defaults.algo, flag.removeprefix("--").removeprefix("no-").replace("-", "_"))
            if hint:
                raise UserError(f"Unknown flag {flag}.{hint}") from None
        raise


def _defaults(arguments: list[str]) -> RunConfig:
    given = peek(arguments, "config")
    settings = load_yaml(Path(given)) if given else {}
    algo = peek(arguments, "algo") or str(settings.get("algo", "ppo"))
    named = peek(arguments, "env") or settings.get("env") or config_class(algo).env
    if not given:
        shipped = shipped_file(algo, resolve_id(named))
        given, settings = str(shipped), load_yaml(shipped) if shipped else {}
    return validated(algo, {**settings, "env": named, "algo": algo}, given)
