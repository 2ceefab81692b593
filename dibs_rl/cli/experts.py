"""`dibs-rl experts`: trains the policy that each objective would like best, once, and keeps it."""

import contextlib
import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from dibs_rl import arms
from dibs_rl import study as studies
from dibs_rl.agents.experts import has_experts, write_experts
from dibs_rl.cli.benchmark import check_against_runs, objectives_of, run_jobs
from dibs_rl.cli.expert_cache import cached, check, facts_of, task_facts
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.job_flags import as_flags
from dibs_rl.cli.model import choose_worlds_device, make_env
from dibs_rl.cli.trainings import TrainingFlags, make_launcher
from dibs_rl.config import OF_TASK, Count, Number, RunConfig, Seed
from dibs_rl.envs import resolve_id
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job, Study

_SETTINGS = {"algo", "steps", *OF_TASK, "backend", "device"}  # flags that are settings of the training


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
    reward_terms: str = ""
    """Parts of a scalar reward, as in train."""
    pad_tasks: bool = False
    """Of several tasks, as in train."""
    backend: str = "auto"
    """What steps the worlds, as in train."""
    device: str = "auto"
    """Where networks and tensors live, as in train."""
    out: Path | None = None
    """Folder; runs/experts/<env>/<algo>-<backend>-<steps>-seed<seed>-... if not given, with reward terms, padding, and eight
    digits that stand for versions and settings. Experts that are there are kept."""
    jobs: Number = 0
    """Experts trained at a time, each with one thread; 0 for one a processor."""


def run(arguments: list[str]) -> int:
    """Trains what is missing; returns the exit code."""
    flags = parse(ExpertsConfig, arguments, "experts")
    code, folder = make_experts(flags)
    if code == 0:
        # What makes it another task, learner or physics has to be said to `train` as well.
        other = {name: getattr(flags, name) for name in ("algo", *OF_TASK, "backend")}
        said = {name: value for name, value in other.items() if value != getattr(ExpertsConfig, name)}
        words = as_flags({"env": flags.env, **said, "anchors": folder})
        print_line(f"Experts: {folder}   (use them: {shlex.join(['dibs-rl', 'train', *words])})")
    return code


def make_experts(flags: ExpertsConfig) -> tuple[int, Path]:
    """The folder of the experts, trained if they are not there yet, and the exit code of the training.

    Raises:
        UserError: If the algorithm's policies are no anchors, or the folder holds other experts, or broken ones.
    """
    if flags.algo == "sb3-ppo":
        raise UserError("Policies of sb3-ppo are no anchors of the other algorithms: --algo ppo, a2c or sac.")
    env_id = resolve_id(flags.env)
    study, jobs = _study(env_id, flags)
    facts = facts_of(env_id, _backend(jobs[0].config), jobs[0].config)
    folder = flags.out or cached(facts, jobs)
    finished = has_experts(folder)
    if finished:
        check(folder, facts)
    check_against_runs(jobs, folder)
    if finished:
        return 0, folder
    with contextlib.closing(make_launcher(TrainingFlags(jobs=flags.jobs), folder)) as launcher:
        studies.record(study, folder)
        code = run_jobs(f"{study.name}, {facts['steps']:,} steps each, in {folder}", jobs, folder, launcher)
    if code == 0:
        models = {job.arm.removeprefix(arms.EXPERT): RunFolder(folder / job.path).model_file for job in jobs}
        write_experts(folder, models, facts)
    return code, folder


def with_anchors(config: RunConfig) -> RunConfig:
    """The settings with the folder of the experts that are meant; those that `auto` means are trained first.

    Raises:
        UserError: If the experts are of another environment, or could not be trained.
        SystemExit: If a signal has stopped their training.
    """
    if not config.anchors or config.resume:
        return config
    folder = Path(config.anchors)
    if config.anchors == "auto":
        if config.algo == "sb3-ppo" or config.combiner != "dibs":  # said before the experts are trained
            raise UserError("Anchors are for the game of DiBS: --combiner dibs, or no --anchors.")
        same = {name: getattr(config, name) for name in ("env", "algo", *OF_TASK, "device")}
        # Warp's physics is its own, and what auto means on a GPU; all others have the same.
        physics = "auto" if config.backend != "warp" and choose_worlds_device(config) == "cpu" else config.backend
        code, folder = make_experts(ExpertsConfig(**same, backend=physics))
        if code >= 128:  # a signal, which has been spoken of
            raise SystemExit(code)
        if code:
            raise UserError("The experts are not all there; 'dibs-rl experts' goes on with them.")
    _check_experts(config, folder)
    return dataclasses.replace(config, anchors=str(folder))


def _check_experts(config: RunConfig, folder: Path) -> None:
    """Raises a UserError if the folder's experts were trained in another task."""
    facts = task_facts(folder)
    if facts.get("env") != config.env:
        raise UserError(f"The experts in {folder} were trained in {facts.get('env')}, and this is {config.env}.")
    for name in OF_TASK:
        if facts[name] != getattr(config, name):
            found, wanted = facts[name], getattr(config, name)
            raise UserError(f"The experts in {folder} were trained with {name} {found!r}, and this run has {wanted!r}.")


def check_experts_physics(config: RunConfig, backend: str) -> None:
    """Raises a UserError if the run's experts, where it has any, were trained in other physics than step its worlds.

    Args:
        config: With the folder of the experts.
        backend: What steps the run's worlds.
    """
    theirs = task_facts(Path(config.anchors)).get("backend", backend) if config.anchors else backend
    if theirs != backend and "warp" in (theirs, backend):
        raise UserError(
            f"The experts in {config.anchors} were trained in the physics of the {theirs} backend, and the {backend} backend "
            f"steps here: --backend {theirs}, or other experts."
        )


def _study(env_id: str, flags: ExpertsConfig) -> tuple[Study, list[Job]]:
    said = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags) if field.name in _SETTINGS}
    settings = {name: value for name, value in said.items() if name == "algo" or value != getattr(ExpertsConfig, name)}
    objectives = objectives_of(env_id, settings)
    study = Study(name=f"experts of {env_id}", envs={env_id: settings}, arms={arms.EXPERTS: None}, seeds=(flags.seed,))
    study = studies.resolved(study, {env_id: objectives})
    return study, studies.jobs_of(study, {env_id: objectives})


def _backend(config: RunConfig) -> str:
    """What steps the worlds, which may depend on their number."""
    if config.backend != "auto":
        return config.backend
    with contextlib.closing(make_env(config, config.num_envs, 0, choose_worlds_device(config))) as env:
        return env.backend
