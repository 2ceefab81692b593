"""Trains twice, once with rewards in other units, and says what differs in the two policies.

Takes the flags of `dibs-rl train`, of which `--transform` gives the units: any environment, learner, combiner and factor.

    python examples/invariance.py --env mo-hopper --steps 81920 --transform energy=1024,forward=0.0009765625
    python examples/invariance.py --env mo-hopper --steps 81920 --transform energy=1e3
    python examples/invariance.py --env mo-hopper --steps 81920 --transform energy=1e3 --combiner weighted-sum

Powers of two change no bit. Other factors change the last digit of rewards, so parameters differ by rounding, which grows as
training goes on; a weighted sum of the rewards follows the units from its first update.
"""

import dataclasses
import sys
from typing import Any

import torch

from dibs_rl.cli.model import build_model, choose_device, make_env
from dibs_rl.cli.train_config import read_config
from dibs_rl.errors import UserError


def trained_policy(config: Any) -> dict[str, torch.Tensor]:
    """The policy's parameters after a training."""
    torch.set_num_threads(1)
    env = make_env(config, config.num_envs, config.seed)
    try:
        model = build_model(config, env, choose_device(config.device, env.observation_space))
        model.learn(config.steps)
    finally:
        env.close()
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


def main(arguments: list[str]) -> None:
    """Compares a training with its transform and without."""
    config = read_config(arguments)
    if not config.transform:
        raise UserError("Give the units with --transform, such as --transform energy=1024.")
    plain, scaled = (trained_policy(dataclasses.replace(config, transform=text)) for text in ("", config.transform))
    differences = {name: (value - scaled[name]).abs().max().item() for name, value in plain.items()}
    name = max(differences, key=lambda name: differences[name])
    print(f"{config.env}, {config.algo}/{config.combiner}, {config.steps:,} steps, with and without {config.transform}:")
    if all(torch.equal(value, scaled[name]) for name, value in plain.items()):
        count = sum(value.numel() for value in plain.values())
        print(f"all {count:,} parameters of policy and critic are identical in every bit")
    else:
        print(f"parameters differ by up to {differences[name]:.1e} (in {name})")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
