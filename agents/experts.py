"""Experts: policies trained for one objective alone, kept in a folder that says what they are and is checked by hash."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file

from dibs_rl.errors import UserError
from dibs_rl.files import atomic_write, check_exists, load_yaml

_MANIFEST = "experts.yaml"


def write_experts(folder: Path, models: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
    """Makes a folder of experts out of model files in it: writes `experts.yaml`, with a hash of each.

    Args:
        folder: Where the models are.
        models: Each objective's model file.
        facts: What the experts are: environment, versions, backend, algorithm, budget.
    """
    listed = {name: {"file": str(file.relative_to(folder)), "sha256": _sha256(file)} for name, file in models.items()}
    with atomic_write(folder / _MANIFEST) as stream:
        stream.write(yaml.safe_dump({**facts, "models": listed}, sort_keys=False).encode())


def expert_facts(folder: Path) -> dict[str, Any]:
    """What a folder's experts are, as `write_experts` was told.

    Raises:
        UserError: If it is no folder of experts.
    """
    check_exists(folder)
    file = folder / _MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} is no folder of experts: it has no {_MANIFEST}; 'dibs-rl experts' makes one.")
    facts = load_yaml(file)
    models = facts.get("models")
    if not (isinstance(models, dict) and all(isinstance(m, dict) and {"file", "sha256"} <= m.keys() for m in models.values())):
        raise UserError(f"{file} lists no models; make the experts anew under another folder.")
    return facts


def has_experts(folder: Path) -> bool:
    """Whether `write_experts` has been here."""
    return (folder / _MANIFEST).is_file()


def check_experts(folder: Path) -> dict[str, Path]:
    """The model files of a folder of experts, by objective, each of which is the one that was trained.

    Raises:
        UserError: If it is no folder of experts, or a model is missing or another one.
    """
    models = {name: (folder / model["file"], model["sha256"]) for name, model in expert_facts(folder)["models"].items()}
    for file, sha256 in models.values():
        if not file.is_file():
            raise UserError(f"The expert {file} is missing; make the experts anew under another folder.")
        if _sha256(file) != sha256:
            raise UserError(
                f"The expert {file} is not the one that was trained: its hash differs from that in {_MANIFEST}; make the "
                "experts anew under another folder."
            )
    return {name: file for name, (file, _) in models.items()}


def read_experts(folder: Path) -> dict[str, BasePolicy]:
    """The policies of a folder of experts, by objective, on the CPU.

    Raises:
        UserError: As `check_experts`, or if a file holds no policy of one of this package's learners.
    """
    return {name: _read_policy(file) for name, file in check_experts(folder).items()}


def _read_policy(file: Path) -> BasePolicy:
    try:
        data, parameters, _ = load_from_zip_file(file, device="cpu")
    except ValueError:  # Stable-Baselines3's word for a file that is no archive
        raise UserError(f"The expert {file} is no model file; make the experts anew under another folder.") from None
    assert data is not None  # for the type checker: only a file without settings has none
    with torch.random.fork_rng(devices=[]):  # the random start of a network that is about to be overwritten
        policy: BasePolicy = data["policy_class"](
            data["observation_space"],
            data["action_space"],
            lambda _: 0.0,
            **{**data["policy_kwargs"], "reward_dim": len(data["objectives"])},
        )
    policy.load_state_dict(parameters["policy"])  # type: ignore[arg-type]  # a dictionary of tensors
    policy.set_training_mode(False)
    return policy.requires_grad_(False)


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
