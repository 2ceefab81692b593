"""A training that begins with the networks of another run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dibs_rl.cli.model import Learner, build_model, load_model
from dibs_rl.config import OF_TASK, OnPolicyConfig, RunConfig
from dibs_rl.envs.scaling import ObjectiveTransform, parse_transform
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder
from dibs_rl.vec_env import VectorRewardVecEnv

# Settings that two runs must share for the networks of one to be a beginning of the other.
_ALIKE = ("env", *OF_TASK, "algo", "hidden", "activation", "popart", "normalize_obs")
_AS_IT_IS = ObjectiveTransform(1.0)


def new_model(config: RunConfig, env: VectorRewardVecEnv, device: str) -> Learner:
    """A learner that has taken no step: with random networks, or with those of the run that `start_from` names.

    Raises:
        UserError: If a setting cannot be used with the environment, or the other run is not one to begin with.
    """
    if not config.start_from:
        return build_model(config, env, device)
    folder = RunFolder.open(Path(config.start_from))
    factors = _factors(folder, config, env)
    # First: it brings the random numbers of its own end, and this run's are those of its seed.
    start = load_model(folder.config(), folder.newest_model(), None, device)
    model = build_model(config, env, device)
    try:
        model.start_from(start, factors)
    except UserError as error:
        raise UserError(f"Cannot start from {folder.path}. {error}") from None
    if isinstance(config, OnPolicyConfig):
        _raise_noise(model, config.start_log_std_min)
    return model


def _raise_noise(model: Learner, least: float) -> None:
    """Raises each entry of the policy's `log_std` `[a]` to a lower bound: what is left of it may find nothing else."""
    log_std = getattr(model.policy, "log_std", None)
    if isinstance(log_std, Tensor):  # of continuous actions; all others' noise is what the networks say
        with torch.no_grad():
            log_std.clamp_(min=least)


def start_facts(config: RunConfig) -> dict[str, Any]:
    """What a run's folder keeps of what it began with: the file of the networks."""
    return {"started_from": str(RunFolder(Path(config.start_from)).newest_model())} if config.start_from else {}


def _factors(folder: RunFolder, config: RunConfig, env: VectorRewardVecEnv) -> list[float]:
    """What the other run's rewards must be multiplied by to be in this one's units, `[m]`.

    Raises:
        UserError: If it is a run of something else, or one of its rewards went through another map than here.
    """
    theirs = folder.config()
    for name in _ALIKE:
        found, wanted = getattr(theirs, name, None), getattr(config, name, None)
        if found != wanted:
            raise UserError(f"Cannot start from {folder.path}: its {name} is {found!r}, and this run's {wanted!r}.")
    if tuple(folder.objectives()) != env.objectives:
        found, wanted = ", ".join(folder.objectives()), ", ".join(env.objectives)
        raise UserError(f"Cannot start from {folder.path}: it learnt the objectives {found}, and this run has {wanted}.")
    before, now = (
        parse_transform(text, env.objectives)
        for text in (folder.facts().get("transform", ""), str(env.reward_transform or ""))
    )
    factors = [_factor(folder, name, before.get(name, _AS_IT_IS), now.get(name, _AS_IT_IS)) for name in env.objectives]
    if not config.popart and any(factor != 1 for factor in factors):
        raise UserError(f"Cannot start from {folder.path}: without PopArt its critic knows rewards in its own units alone.")
    return factors


def _factor(folder: RunFolder, name: str, before: ObjectiveTransform, now: ObjectiveTransform) -> float:
    if before.change == 0 or before == now:  # what was off has taught the critic nothing in any units
        return 1.0
    if now.change == 0:  # it is worth 0 from now on; in any other units the critic's old opinion would go on bargaining
        return 0.0
    if before.per_episode or now.per_episode or isinstance(before.change, str) or isinstance(now.change, str):
        raise UserError(
            f"Cannot start from {folder.path}: its critic knows {name}={before}, and this run learns from {name}={now}."
        )
    return now.change / before.change
