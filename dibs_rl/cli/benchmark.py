"""`dibs-rl benchmark`: runs a study's jobs."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from dibs_rl import study as studies
from dibs_rl.by_objective import by_objective_text
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.launchers import Launcher, Schedule
from dibs_rl.cli.study_display import StudyDisplay, error_of
from dibs_rl.cli.trainings import TrainingFlags, Trainings, make_launcher, named_values
from dibs_rl.config import Seed
from dibs_rl.envs import SPECS, base_and_transform, make, resolve_id, task_ids
from dibs_rl.envs.registry import TASK_SETS
from dibs_rl.envs.scaling import parse_transform
from dibs_rl.errors import UserError, check_same
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job, Study
from dibs_rl.validation import to_plain

# What does not make another run of a job.
NOT_COMPARED = {"threads", "workers", "device", "backend", "checkpoint_every"}


@dataclass
class BenchmarkConfig:
    """Run a study: every arm on every environment under every condition with every seed, each in a process of its own.

    The same command goes on where it was stopped: jobs that are done are passed over.
    """

    study: Annotated[str, tyro.conf.Positional] = ""
    """A YAML file, or the name of a shipped study; flags win over it."""
    envs: tuple[str, ...] = ()
    """Environment ids; with settings of their own: 'mo-hopper={steps: 500000}'."""
    conditions: tuple[str, ...] = ()
    """What is done to the rewards: scale-1, energy-x1e3, each-x1e-3, energy-x2^10, energy-power4, or NAME=TRANSFORM."""
    arms: tuple[str, ...] = ()
    """What is compared: dibs, dibs-50, norm-sum, any combiner, sb3-ppo, random, experts, or 'NAME={n_epochs: 5}'."""
    seeds: tuple[Seed, ...] = ()
    """Each job is run once with each."""
    out: Path | None = None
    """The study's folder; runs/<name of the study> if not given."""
    trainings: Trainings = field(default_factory=TrainingFlags)
    """What all of them have in common."""


def run(arguments: list[str]) -> int:
    """Runs what is missing of a study; returns the exit code: 0 if all is done, 1 if a job has failed."""
    flags = parse(BenchmarkConfig, arguments, "benchmark")
    study, jobs = read_jobs(flags)
    root = flags.out or Path("runs") / study.name
    check_against_runs(jobs, root)
    with contextlib.closing(make_launcher(flags.trainings, root)) as launcher:
        studies.record(study, root)
        return run_jobs(f"{study.name} in {root}", jobs, root, launcher)


def run_jobs(title: str, jobs: Sequence[Job], root: Path, launcher: Launcher) -> int:
    """Runs what is missing of a study's jobs before the person's eyes; returns the exit code, as `run` does.

    Args:
        title: What they are.
        jobs: All of them.
        root: The study's folder.
        launcher: Where they are run.
    """
    schedule = Schedule(jobs, root, launcher)
    done = sum(state == "done" for state in schedule.states.values())
    before = f", {done} of them done before" if done else ""
    print_line(f"{title}: {len(jobs)} job{'s' * (len(jobs) != 1)}{before}.")
    display = StudyDisplay(schedule.states, root, Console())
    try:
        stopped_by = schedule.run(display.update)
    finally:
        display.close(schedule.states)
    return _sum_up(schedule.states, root, stopped_by)


def read_jobs(flags: BenchmarkConfig) -> tuple[Study, list[Job]]:
    """The study that the flags mean, resolved, and its jobs.

    Raises:
        UserError: If anything in it is not as it should be.
    """
    source = flags.study or "the flags"
    settings = studies.load_study(studies.study_file(flags.study)) if flags.study else {}
    study = studies.validated_study({**settings, **_given(flags, settings, source)}, source)
    over = flags.trainings.overrides
    study = dataclasses.replace(study, envs={resolve_id(env): {**(own or {}), **over} for env, own in study.envs.items()})
    objectives = {env: objectives_of(env, {**study.settings, **(own or {})}) for env, own in study.envs.items()}
    study = studies.resolved(study, objectives)
    jobs = studies.jobs_of(study, objectives)
    for job in jobs:
        parse_transform(job.config.transform, objectives[job.env])
    if not jobs:
        raise UserError("The study has no jobs: none of its conditions and arms is about the objectives of its environments.")
    return study, jobs


def _given(flags: BenchmarkConfig, settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What the flags say in the place of the file; what the file says of a name holds where a flag has the name alone."""
    given: dict[str, Any] = {"seeds": list(flags.seeds)} if flags.seeds else {}
    for key in studies.NAMED:
        if getattr(flags, key):
            before = studies.as_mapping(settings.get(key, {}), key, source)
            named = named_values(getattr(flags, key), key)
            given[key] = {name: before.get(name) if value is None else value for name, value in named.items()}
    return given


def objectives_of(env_id: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an environment's objectives; what the registry does not know has to be made."""
    terms = by_objective_text(settings.get("reward_terms"))
    spec = SPECS.get(base_and_transform(env_id)[0])
    if spec and spec.installed and not terms:
        return spec.objectives
    if env_id in TASK_SETS:
        return tuple(TASK_SETS[env_id])
    padding: dict[str, Any] = {"pad": True} if settings.get("pad_tasks") else {}
    with contextlib.closing(make(env_id, num_envs=max(1, len(task_ids(env_id))), reward_terms=terms, **padding)) as env:
        return env.objectives


def check_against_runs(jobs: Sequence[Job], root: Path) -> None:
    """Raises a UserError if a job has a run already that has other settings."""
    for job in jobs:
        folder = RunFolder(root / job.path)
        if not folder.config_file.is_file():
            continue
        before, now = to_plain(folder.config()), to_plain(job.config)
        # These are the study's own jobs, wherever they are kept.
        passed_over = NOT_COMPARED | ({"anchors"} if job.experts else set()) | ({"start_from"} if job.start else set())
        mend = "choose another --out or other names, or move it away"
        check_same(f"{folder.path} is a run with", before, now, mend, passed_over)


def _sum_up(states: Mapping[Job, str], root: Path, stopped_by: int) -> int:
    """Says how the study ended; returns the exit code."""
    failed = [job for job, state in states.items() if state == "failed"]
    done = sum(state == "done" for state in states.values())
    for job in failed:
        print_line(f"failed: {root / job.path}: {error_of(job, root)}")
    print_line(f"{done} of {len(states)} jobs done, {len(failed)} failed. Study folder: {root}")
    if stopped_by:
        print_line("Stopped; the same command goes on with it.")
        return 128 + stopped_by
    return 1 if failed else 0
