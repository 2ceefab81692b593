"""From a configuration to a learner: what `train` and `evaluate` both need."""

from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from dibs_rl.agents import SB3PPO, DiBSPPO
from dibs_rl.agents.on_policy import VectorOnPolicy, preference_vector
from dibs_rl.combiners import make_combiner
from dibs_rl.config import PPOConfig, RunConfig, parse_preference
from dibs_rl.envs import make
from dibs_rl.errors import UserError
from dibs_rl.vec_env import VectorRewardVecEnv

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}
Learner = VectorOnPolicy | SB3PPO
_LEARNERS: dict[str, type[Learner]] = {"ppo": DiBSPPO, "sb3-ppo": SB3PPO}


def make_env(config: RunConfig, num_envs: int, seed: int) -> VectorRewardVecEnv:
    """The environment of a run."""
    return make(
        config.env,
        num_envs=num_envs,
        backend=config.backend,
        seed=seed,
        workers=config.workers,
        transform=config.transform,
        reward_terms=config.reward_terms,
    )


def build_model(config: PPOConfig, env: VectorRewardVecEnv, device: str) -> Learner:
    """A new learner.

    Raises:
        UserError: If combiner or preference cannot be used with the environment's objectives.
    """
    rate = LinearSchedule(config.learning_rate, 0.0, 1.0) if config.schedule == "linear" else config.learning_rate
    samples = config.n_steps * config.num_envs
    if samples < 2:
        raise UserError(f"A rollout has at least 2 samples (n_steps times num_envs); found {samples}.")
    return _LEARNERS[config.algo](
        policy_name(env.observation_space),
        env,
        learning_rate=rate,
        n_steps=config.n_steps,
        batch_size=min(config.batch_size, samples),
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        seed=config.seed,
        device=device,
        **_own_arguments(config, env),
    )


def _own_arguments(config: PPOConfig, env: VectorRewardVecEnv) -> dict[str, Any]:
    """What a learner takes that SB3's PPO does not, and the policy's arguments."""
    policy = {
        "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
        "activation_fn": _ACTIVATIONS[config.activation],
        "log_std_init": config.log_std_init,
    }
    weights = preference_vector(parse_preference(config.preference), env.objectives)
    if config.algo == "sb3-ppo":
        return {"preference": weights, "normalize_obs": config.normalize_obs, "policy_kwargs": policy}
    combiner = make_combiner(config.combiner, preference=weights, objectives=env.objectives, steps=config.bargaining_steps)
    policy = {**policy, "popart": config.popart, "normalize_obs": config.normalize_obs}
    return {"combiner": combiner, "bargain_every": config.bargain_every, "policy_kwargs": policy}


def load_model(config: RunConfig, file: Path, env: VectorRewardVecEnv | None, device: str) -> Learner:
    """A learner from a file.

    Raises:
        UserError: If the file is not a whole model, or one of other objectives.
    """
    try:
        return _LEARNERS[config.algo].load(file, env=env, device=device)
    except UserError:
        raise
    except Exception as error:  # whatever goes wrong in reading it, the file is not a model
        raise UserError(f"The model file {file} is corrupt: {type(error).__name__}: {error}") from None


def policy_name(space: spaces.Space) -> str:
    """SB3's name of the policy that fits the observations."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def choose_device(wanted: str, space: spaces.Space) -> str:
    """The device that a setting means.

    Raises:
        UserError: If it is not there, or not a device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() and policy_name(space) == "CnnPolicy" else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"Unknown device {wanted!r}; there is auto, cpu, cuda.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"Unknown device {wanted!r}; there is auto, cpu, cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"The device {wanted!r} is not on this machine (torch sees {torch.cuda.device_count()} CUDA devices): "
            "use --device cpu, or install a CUDA build of torch."
        )
    return wanted
