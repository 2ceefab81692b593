"""What a learner refuses: numbers that are not finite, said with the place where they came from, and other objectives."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dibs_rl.errors import NonFiniteError, UserError
from dibs_rl.vec_env import Obs, VectorRewardVecEnv, obs_parts

_REMEDY = "; go on from a checkpoint, or begin anew, with a lower learning rate"


def check_same_objectives(objectives: Sequence[str], env: VectorRewardVecEnv) -> None:
    """Raises a UserError if an environment has not the objectives of a model."""
    if tuple(objectives) != env.objectives:
        raise UserError(
            f"The model was made for the objectives {', '.join(objectives)}; the environment has {', '.join(env.objectives)}: "
            "give it one that has the same in the same order, or make a new model."
        )


def all_finite(*tensors: Tensor) -> bool:
    """Whether all numbers of tensors on one device are finite, by one look."""
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def check_rewards(rewards: Tensor, objectives: Sequence[str], first_step: int) -> None:
    """Looks through rewards `[T, n, m]`.

    Args:
        rewards: Of T steps of n worlds.
        objectives: Names of the m rewards.
        first_step: What step of the worlds the first one is.

    Raises:
        NonFiniteError: If one is NaN or infinite; it names objective, environment and step.
    """
    finite = torch.isfinite(rewards)
    if finite.all():
        return
    t, world, i = (~finite).nonzero()[0].tolist()
    raise NonFiniteError(
        f"The reward {objectives[i]!r} is {rewards[t, world, i].item()} in environment {world} at its step {first_step + t}: "
        "rewards must be finite; mend the environment, or the transform of its rewards."
    )


def check_observations(obs: Obs, step: int) -> None:
    """Looks through observations `[n, ...]` that are about to be acted on.

    Raises:
        NonFiniteError: If an entry is NaN or infinite; it names environment and step.
    """
    for part in obs_parts(obs):
        finite = torch.isfinite(part)
        if not finite.all():
            bad = int((~finite.reshape(len(part), -1).all(dim=1)).nonzero()[0])
            raise NonFiniteError(
                f"The observation of environment {bad} is not finite before its step {step}; mend the environment."
            )


def check_objectives(values: Tensor, objectives: Sequence[str], what: str) -> None:
    """Looks through values `[..., m]` of the objectives.

    Raises:
        NonFiniteError: If one is NaN or infinite: `what` of which objectives.
    """
    finite = torch.isfinite(values)
    if not finite.all():
        fine = finite.reshape(-1, len(objectives)).all(dim=0).tolist()
        names = ", ".join(name for name, is_fine in zip(objectives, fine, strict=True) if not is_fine)
        raise NonFiniteError(f"{what} of {names} is not finite.")


def check_log_probs(log_probs: Tensor) -> None:
    """Raises a NonFiniteError if a log probability of an action just taken is NaN or infinite."""
    if not log_probs.isfinite().all():
        raise NonFiniteError(f"Log probabilities of actions are not finite: training has diverged{_REMEDY}.")


def check_parameters(policy: nn.Module, steps: int) -> None:
    """Looks through a policy's parameters, and the standard deviation that one of them stands for.

    Raises:
        NonFiniteError: If one is NaN or infinite; it names the step.
    """
    log_std = getattr(policy, "log_std", None)
    std = [log_std.exp()] if isinstance(log_std, Tensor) else []
    if not all_finite(*std, *policy.parameters()):
        raise NonFiniteError(f"Training has diverged: a parameter is not finite after {steps} steps{_REMEDY}.")
