"""`dibs-rl experts`: trains the policy that each objective would like best, once, and keeps it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dibs_rl import arms
from dibs_rl import study as studies
from dibs_rl.agents.experts import expert_facts, read_experts, write_experts
from dibs_rl.cli.benchmark import make_launcher, run_jobs
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.model import make_env
from dibs_rl.config import Count, RunConfig, Seed
from dibs_rl.envs import as_vector_env, resolve_id
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder, versions
from dibs_rl.study import Job, Study

_CACHE = Path("runs") / "experts"
# What a cached expert must have been trained with to be used again.
_VERSIONS = ("dibs-rl", "torch", "gymnasium", "mo-gymnasium", "mujoco", "stable-baselines3")


@dataclass
class ExpertsConfig:
    """Train, for each objective, a policy that sees that objective alone: the anchors of the anchored game."""

    env: str = "mo-halfcheetah"
    """Environment id; of a bare name the newest version is taken."""
    algo: str = "ppo"
    """Learning algorithm."""
    steps: Count | None = None
    """Environment steps of each expert; those shipped for the environment if not given."""
    seed: Seed = 0
    """Seed of the training."""
    out: Path | None = None
    """Folder; runs/experts/<env>/<algo>-<backend>-<steps>-seed<seed> if not given. Experts that are there are kept."""
    jobs: int = 0
    """Experts trained at a time, each with one thread; 0 for one a processor."""


def run(arguments: list[str]) -> int:
    """Trains what is missing; returns the exit code."""
    flags = parse(ExpertsConfig, arguments, "experts")
    code, folder = make_experts(flags)
    if code == 0:
        print_line(f"Experts: {folder}   (use them: dibs-rl train --env {flags.env} --anchors {folder})")
    return code


def make_experts(flags: ExpertsConfig) -> tuple[int, Path]:
    """The folder of the experts, trained if they are not there yet, and the exit code of the training.

    Raises:
        UserError: If the folder holds other experts, or broken ones.
    """
    env_id = resolve_id(flags.env)
    with contextlib.closing(as_vector_env(env_id)) as env:
        objectives = env.objectives
    study, jobs = _study(env_id, objectives, flags)
    with contextlib.closing(make_env(jobs[0].config, jobs[0].config.num_envs, 0)) as env:
        backend = env.backend  # which may depend on the number of worlds
    facts = _facts(env_id, backend, jobs[0].config)
    folder = flags.out or _CACHE / env_id.replace(":", "-") / f"{flags.algo}-{backend}-{facts['steps']}-seed{flags.seed}"
    if (folder / "experts.yaml").is_file():
        _check(folder, facts)
        return 0, folder
    with contextlib.closing(make_launcher("local", folder, flags.jobs)) as launcher:
        studies.record(study, folder)
        code = run_jobs(study.name, jobs, folder, launcher)
    if code == 0:
        models = {job.arm.removeprefix(arms.EXPERT): RunFolder(folder / job.path).model_file for job in jobs}
        write_experts(folder, models, facts)
    return code, folder


def _study(env_id: str, objectives: Sequence[str], flags: ExpertsConfig) -> tuple[Study, list[Job]]:
    settings: dict[str, Any] = {"algo": flags.algo, **({} if flags.steps is None else {"steps": flags.steps})}
    study = Study(name=f"experts of {env_id}", envs={env_id: settings}, arms={arms.EXPERTS: None}, seeds=(flags.seed,))
    study = studies.resolved(study, {env_id: objectives})
    return study, studies.jobs_of(study, {env_id: objectives})


def _facts(env_id: str, backend: str, config: RunConfig) -> dict[str, Any]:
    found = versions()
    return {
        "env": env_id,
        "backend": backend,
        "algo": config.algo,
        "steps": config.steps,
        "seed": config.seed,
        "versions": {name: found[name] for name in _VERSIONS},
    }


def _check(folder: Path, facts: dict[str, Any]) -> None:
    """Raises a UserError if the folder's experts are not those that are wanted, or broken."""
    found = expert_facts(folder)
    other = [key for key in facts if found.get(key) != facts[key]]
    if other:
        raise UserError(
            f"{folder} holds experts with {other[0]} {found.get(other[0])!r}, and not {facts[other[0]]!r}: choose another "
            "folder (--out), or move it away."
        )
    read_experts(folder)
