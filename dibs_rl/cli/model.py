"""From a configuration to a learner: what `train` and `evaluate` both need."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule
from torch import nn
from torchjd.aggregation import Aggregator

from dibs_rl.agents import SB3PPO, DiBSA2C, DiBSPPO, DiBSSAC
from dibs_rl.agents.learner import VectorLearner
from dibs_rl.by_objective import parse_preference, preference_vector
from dibs_rl.combiners import check_fading, make_combiner
from dibs_rl.config import A2CConfig, OnPolicyConfig, PPOConfig, RunConfig, SACConfig
from dibs_rl.envs import make, task_ids
from dibs_rl.errors import UserError
from dibs_rl.vec_env import VectorRewardVecEnv

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}
_MOST_WORLDS = 20  # that play episodes
Learner = VectorLearner | SB3PPO


def make_env(config: RunConfig, num_envs: int, seed: int, device: str = "cpu") -> VectorRewardVecEnv:
    """The environment of a run.

    Args:
        config: The settings.
        num_envs: Worlds.
        seed: Of the worlds.
        device: Where its tensors are wanted.

    Raises:
        UserError: If there is none, or tasks are to be padded where there is only one.
    """
    padding: dict[str, Any] = {"pad": True} if config.pad_tasks else {}
    if padding and not task_ids(config.env):
        raise UserError(f"--pad-tasks is for several tasks, as in --env a+b; found {config.env}.")
    return make(
        config.env,
        num_envs=num_envs,
        backend=config.backend,
        device=device,
        seed=seed,
        workers=config.workers,
        transform=config.transform,
        reward_terms=config.reward_terms,
        **padding,
    )


def worlds_for(env_id: str, episodes: int) -> int:
    """Worlds in which so many episodes are played together: of each task, where there are several."""
    tasks = max(1, len(task_ids(env_id)))
    return tasks * min(episodes, max(1, _MOST_WORLDS // tasks))


def build_model(config: RunConfig, env: VectorRewardVecEnv, device: str) -> Learner:
    """A new learner.

    Raises:
        UserError: If a setting cannot be used with the environment.
    """
    rate = LinearSchedule(config.learning_rate, 0.0, 1.0) if config.schedule == "linear" else config.learning_rate
    learner, settings = _LEARNERS[config.algo]
    return learner(
        policy_name(env.observation_space),
        env,
        learning_rate=rate,
        gamma=config.gamma,
        seed=config.seed,
        device=device,
        **settings(config, env),
    )


def _combiner(config: RunConfig, env: VectorRewardVecEnv) -> Aggregator:
    weights = preference_vector(parse_preference(config.preference), env.objectives)
    return make_combiner(config.combiner, preference=weights, objectives=env.objectives, steps=config.bargaining_steps)


def _networks(config: OnPolicyConfig) -> dict[str, Any]:
    return {
        "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
        "activation_fn": _ACTIVATIONS[config.activation],
        "log_std_init": config.log_std_init,
    }


def _on_policy(config: OnPolicyConfig, env: VectorRewardVecEnv) -> dict[str, Any]:
    """What all our own on-policy learners take."""
    return {
        "combiner": _combiner(config, env),
        "anchors": config.anchors or None,
        "fading": config.fading,
        "n_steps": config.n_steps,
        "gae_lambda": config.gae_lambda,
        "ent_coef": config.ent_coef,
        "max_grad_norm": config.max_grad_norm,
        "policy_kwargs": {**_networks(config), "popart": config.popart, "normalize_obs": config.normalize_obs},
    }


def _clipped(config: PPOConfig) -> dict[str, Any]:
    """What every PPO takes, SB3's own too."""
    samples = config.n_steps * config.num_envs
    if samples < 2:
        raise UserError(f"A rollout has at least 2 samples (n_steps times num_envs); found {samples}.")
    return {
        "batch_size": min(config.batch_size, samples),
        "n_epochs": config.n_epochs,
        "clip_range": config.clip_range,
        "target_kl": config.target_kl,
    }


def _ppo(config: PPOConfig, env: VectorRewardVecEnv) -> dict[str, Any]:
    return {**_on_policy(config, env), **_clipped(config), "bargain_every": config.bargain_every}


def _sb3_ppo(config: PPOConfig, env: VectorRewardVecEnv) -> dict[str, Any]:
    if config.anchors:
        raise UserError("SB3's own PPO plays no game: leave --anchors out.")
    if config.fading:
        check_fading(_combiner(config, env))  # refuses
    shared = {name: getattr(config, name) for name in ("n_steps", "gae_lambda", "ent_coef", "max_grad_norm", "normalize_obs")}
    preference = preference_vector(parse_preference(config.preference), env.objectives)
    return {**shared, **_clipped(config), "preference": preference, "policy_kwargs": _networks(config)}


def _a2c(config: A2CConfig, env: VectorRewardVecEnv) -> dict[str, Any]:
    own = {"normalize_advantage": config.normalize_advantage, "use_rms_prop": config.use_rms_prop}
    return {**_on_policy(config, env), **own}


def _sac(config: SACConfig, env: VectorRewardVecEnv) -> dict[str, Any]:
    updates = config.update_ratio * config.num_envs  # for each step of all worlds
    policy = {"net_arch": list(config.hidden), "activation_fn": _ACTIVATIONS[config.activation], "popart": config.popart}
    return {
        "combiner": _combiner(config, env),
        "anchors": config.anchors or None,
        "train_freq": max(1, round(1 / updates)),
        "gradient_steps": max(1, round(updates)),
        "batch_size": config.batch_size,
        "buffer_size": config.buffer_size,
        "learning_starts": config.learning_starts,
        "tau": config.tau,
        "ent_coef": config.ent_coef if config.ent_coef.startswith("auto") else float(config.ent_coef),
        "target_entropy": config.target_entropy,
        "policy_kwargs": policy,
    }


def learner_class(config: RunConfig) -> type[Learner]:
    """The class of learner that a configuration means."""
    return _LEARNERS[config.algo][0]


def load_model(config: RunConfig, file: Path, env: VectorRewardVecEnv | None, device: str) -> Learner:
    """A learner from a file.

    Raises:
        UserError: If the file is not a whole model, or one of other objectives.
    """
    try:
        return _LEARNERS[config.algo][0].load(file, env=env, device=device)
    except UserError:
        raise
    except Exception as error:  # whatever goes wrong in reading it, the file is not a model
        raise UserError(f"The model file {file} is corrupt: {type(error).__name__}: {error}") from None


def policy_name(space: spaces.Space) -> str:
    """SB3's name of the policy that fits the observations."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def choose_worlds_device(config: RunConfig) -> str:
    """Where a run's worlds are: on the device that is named, or on a GPU if they are stepped there and there is one.

    Raises:
        UserError: See `choose_device`.
    """
    if config.device == "auto":
        return "cuda" if config.backend == "warp" and torch.cuda.is_available() else "cpu"
    return _checked_device(config.device)


def choose_device(wanted: str, space: spaces.Space, worlds: torch.device | str = "cpu") -> str:
    """The device that a setting means: where nothing is named, that of the worlds, or a GPU for images.

    Raises:
        UserError: If it is not there, or not a device.
    """
    if wanted == "auto":
        images = torch.cuda.is_available() and policy_name(space) == "CnnPolicy"
        return "cuda" if images else str(worlds)
    return _checked_device(wanted)


def _checked_device(wanted: str) -> str:
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


_LEARNERS: dict[str, tuple[type[Learner], Callable[[Any, VectorRewardVecEnv], dict[str, Any]]]] = {
    "ppo": (DiBSPPO, _ppo),
    "a2c": (DiBSA2C, _a2c),
    "sac": (DiBSSAC, _sac),
    "sb3-ppo": (SB3PPO, _sb3_ppo),
}
