"""Vector-reward environments: every way to step them, behind one contract (`dibs_rl.vec_env`)."""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from dibs_rl.envs.badscale import BADSCALE, base_and_transform
from dibs_rl.envs.batch_backend import BatchVecEnv, batch_installed
from dibs_rl.envs.factories import factory_of
from dibs_rl.envs.first_look import probe
from dibs_rl.envs.gym_backend import GymVecEnv
from dibs_rl.envs.gymnasium_adapter import GymnasiumVecEnvAdapter
from dibs_rl.envs.gymnasium_vector import GymnasiumVectorEnv
from dibs_rl.envs.multi_task import MultiTask, task_ids
from dibs_rl.envs.registry import SPECS, EnvSpec, objective_names, resolve_id
from dibs_rl.envs.reward_managers import RewardManagerEnv, has_reward_manager
from dibs_rl.envs.reward_terms import RewardTerms, parse_terms
from dibs_rl.envs.sb3_adapter import SB3VecEnvAdapter
from dibs_rl.envs.scaling import TransformedEnv, transform_rewards
from dibs_rl.envs.tasks import TASKS
from dibs_rl.envs.tensor_adapter import TensorVecEnvAdapter, has_tensor_worlds
from dibs_rl.envs.torch_backend import TorchVecEnv
from dibs_rl.envs.torch_tasks import TORCH_TASKS
from dibs_rl.envs.vec_monitor import MOVecMonitor
from dibs_rl.envs.vec_normalize import MOVecNormalize, normalization_of
from dibs_rl.envs.warp_backend import WarpVecEnv, warp_installed
from dibs_rl.errors import UserError
from dibs_rl.vec_env import Step, VectorRewardVecEnv

__all__ = [
    "BACKENDS",
    "BADSCALE",
    "SPECS",
    "BatchVecEnv",
    "EnvSpec",
    "GymVecEnv",
    "GymnasiumVecEnvAdapter",
    "GymnasiumVectorEnv",
    "MOVecMonitor",
    "MOVecNormalize",
    "MultiTask",
    "RewardManagerEnv",
    "RewardTerms",
    "SB3VecEnvAdapter",
    "Step",
    "TensorVecEnvAdapter",
    "TorchVecEnv",
    "TransformedEnv",
    "VectorRewardVecEnv",
    "WarpVecEnv",
    "as_vector_env",
    "base_and_transform",
    "make",
    "normalization_of",
    "objective_names",
    "resolve_id",
    "task_ids",
    "transform_rewards",
]

BACKENDS = ("auto", "batch", "gym", "torch", "warp")


def make(
    env_id: str,
    num_envs: int = 64,
    backend: str = "auto",
    device: torch.device | str = "cpu",
    seed: int | None = 0,
    *,
    workers: int = 0,
    transform: str = "",
    reward_terms: str = "",
    **kwargs: Any,
) -> VectorRewardVecEnv:
    """Makes a vector-reward environment of an id.

    Args:
        env_id: An id of MO-Gymnasium's or registered with Gymnasium; of a bare name the newest version is taken. Several ids,
            `a+b+c`, are the tasks of one environment (`MultiTask`).
        num_envs: Worlds n.
        backend: `"gym"` steps Gymnasium environments one by one; `"batch"` steps MuJoCo tasks all at once and `"torch"` some
            small environments, both with the same results (`"torch"`: on the CPU); `"warp"` steps MuJoCo tasks on the device,
            in other physics. `"auto"` takes `"warp"` where it is installed and a CUDA device is named, and else the fastest of
            those that have the same results.
        device: Where the tensors are wanted; where the `warp` backend computes physics, too.
        seed: World i's first episode is seeded with `seed + i`, as MO-Gymnasium's own would be; None draws at random. The
            `warp` backend draws the starts of all worlds from one generator.
        workers: Worker processes of the `gym` backend, where 0 steps in this process; threads of the `batch` backend,
            where 0 takes one a core; without meaning for the `torch` and `warp` backends.
        transform: What rewards are turned into, as `energy=1e3` or `energy=exp@episode` (see `dibs_rl.envs.scaling`), which
            wins over an id's own where both name an objective. Statistics of episodes hold the rewards as they were.
        reward_terms: Makes a vector of parts of a scalar reward, as `forward=reward_forward,energy=reward_ctrl` (see
            `RewardTerms`); such an environment is stepped by the `gym` backend.
        **kwargs: Passed to the environment, which then is stepped by the `gym` backend; of several tasks, to `MultiTask`.

    Raises:
        UserError: If the id or backend is unknown, the backend does not step the id, something it needs is not installed,
            its reward is a scalar, or transform or reward terms cannot be read.
    """
    if backend not in BACKENDS:
        raise UserError(f"Unknown backend {backend!r}; there is {', '.join(BACKENDS)}.")
    if num_envs < 1:
        raise UserError(f"There must be at least one environment; found num_envs={num_envs}.")
    env_id, own_transform = base_and_transform(resolve_id(env_id))
    changes = [*kwargs, *(["reward_terms"] if reward_terms else [])]
    chosen = _choose_backend(backend, env_id, changes, num_envs, torch.device(device))
    env: VectorRewardVecEnv
    if tasks := task_ids(env_id):
        if reward_terms:
            raise UserError("Reward terms are of one task, and several have an objective each: leave them out.")
        env = MultiTask(tasks, num_envs, workers=workers, device=device, seed=seed, **kwargs)
    elif chosen != "gym":
        env = _all_at_once(chosen, env_id, num_envs, workers, device=device, seed=seed)
    else:
        factory = factory_of(env_id, parse_terms(reward_terms), **kwargs)
        first = factory()
        setup = probe(first, env_id)
        first.close()
        env = GymVecEnv([factory] * num_envs, setup, workers=workers, device=device, seed=seed)
    try:
        return transform_rewards(env, str(env.reward_transform or ""), own_transform, transform)
    except UserError:
        env.close()
        raise


def _all_at_once(
    backend: str, env_id: str, num_envs: int, workers: int, *, device: torch.device | str, seed: int | None
) -> VectorRewardVecEnv:
    env = factory_of(env_id)()
    if backend == "batch":
        return BatchVecEnv(env, TASKS[env_id], num_envs, threads=workers, device=device, seed=seed)
    if backend == "warp":
        return WarpVecEnv(env, TASKS[env_id], num_envs, device=device, seed=seed)
    return TorchVecEnv(env, TORCH_TASKS[env_id], num_envs, device=device, seed=seed)


def _choose_backend(wanted: str, env_id: str, changes: list[str], num_envs: int, device: torch.device) -> str:
    """The backend that is meant; says why where it cannot be had, as where something about the environment is changed."""
    reasons = {
        "batch": _why_not(env_id, TASKS, changes) or ("" if batch_installed() else _NO_BATCH),
        "torch": _why_not(env_id, TORCH_TASKS, changes),
        "warp": _why_not(env_id, TASKS, changes) or ("" if warp_installed() else _NO_WARP),
        "gym": "",
    }
    if wanted == "auto":
        if device.type == "cuda" and not reasons["warp"]:
            return "warp"
        # Torch where it is quicker and has MO-Gymnasium's results to the last bit.
        quick = not reasons["torch"] and num_envs >= TORCH_TASKS[env_id].many_worlds and device.type == "cpu"
        left_out = {"warp"} if quick else {"warp", "torch"}
        return next(backend for backend, reason in reasons.items() if not reason and backend not in left_out)
    if reasons[wanted]:
        raise UserError(f"The {wanted} backend {reasons[wanted]}. The backend auto takes another.")
    return wanted


_NO_BATCH = "needs MuJoCo 3.17 or newer (pip install 'mujoco>=3.17')"
_NO_WARP = "needs MuJoCo Warp (pip install 'dibs-rl[gpu]')"


def _why_not(env_id: str, tasks: Iterable[str], changes: list[str]) -> str:
    """Why a backend that has these tasks cannot step an id; empty where it can."""
    if env_id not in tasks:
        return f"does not step {env_id}; it steps {', '.join(tasks)}"
    if changes:
        return f"takes no keyword arguments of the environment and no reward terms; found {', '.join(changes)}"
    return ""


def as_vector_env(env: Any, device: torch.device | str | None = None) -> VectorRewardVecEnv:
    """Turns whatever a user has into a vector-reward environment.

    Args:
        env: A vector-reward environment; an id (one world, or one a task); a Gymnasium environment; a factory of one or a list
            of factories (a world each); an SB3 `VecEnv`, or a vector environment of Gymnasium's or MO-Gymnasium's, whose
            reward is a vector or whose infos hold one; a simulator of `num_envs` worlds with tensors in and out (see
            `TensorVecEnvAdapter`), Isaac Lab's and mjlab's with an objective for each reward term.
        device: Where the tensors are wanted; if not given, a simulator's stay where they are, and others are on the CPU.

    Raises:
        UserError: If there is no vector reward in it.
    """
    if isinstance(env, VectorRewardVecEnv):
        return env
    if isinstance(env, VecEnv | gym.vector.VectorEnv) or has_tensor_worlds(env):
        return _adapted(env, device)
    device = "cpu" if device is None else device
    if isinstance(env, str):
        return make(env, num_envs=max(1, len(task_ids(resolve_id(env)))), device=device, seed=None)
    if isinstance(env, gym.Env):
        return GymVecEnv([lambda: env], probe(env), device=device)
    if callable(env):
        return as_vector_env([env], device)
    if isinstance(env, Sequence) and env and all(callable(factory) for factory in env):
        first = env[0]()
        return GymVecEnv([lambda: first, *env[1:]], probe(first), device=device)
    raise UserError(
        "An environment is an id, a Gymnasium environment, a factory or a list of factories, or a vector environment of SB3's "
        f"or Gymnasium's; found {type(env).__name__}."
    )


def _adapted(env: Any, device: torch.device | str | None) -> VectorRewardVecEnv:
    """An environment of several worlds, whoever's it is."""
    if isinstance(env, VecEnv):
        _refuse_scalar_wrappers(env)
        return SB3VecEnvAdapter(BaseAlgorithm._wrap_env(env), device=device or "cpu")  # images to channels first
    if isinstance(env, gym.vector.VectorEnv):
        return GymnasiumVecEnvAdapter(env, device=device or "cpu")
    return RewardManagerEnv(env, device=device) if has_reward_manager(env) else TensorVecEnvAdapter(env, device=device)


def _refuse_scalar_wrappers(env: VecEnv) -> None:
    if not isinstance(env.unwrapped, VectorRewardVecEnv):
        return
    while isinstance(env, VecEnvWrapper):
        if type(env) in (VecMonitor, VecNormalize):
            raise UserError(
                f"{type(env).__name__} adds up scalar rewards; take MO{type(env).__name__}, or leave it out: the environment "
                "counts its episodes, and the learner normalises observations, advantages and values itself."
            )
        env = env.venv
