"""`dibs-rl benchmark`: runs a study's jobs."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml
from rich.console import Console

from dibs_rl import study as studies
from dibs_rl.by_objective import by_objective_text
from dibs_rl.cli.flags import parse, print_line
from dibs_rl.cli.launchers import Launcher, LocalLauncher, Schedule
from dibs_rl.cli.ray_launcher import RayLauncher
from dibs_rl.cli.study_display import StudyDisplay, error_of
from dibs_rl.config import Count, to_plain
from dibs_rl.envs import SPECS, base_and_transform, make, resolve_id, task_ids
from dibs_rl.envs.registry import TASK_SETS
from dibs_rl.envs.scaling import parse_transform
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job, Study

# What does not make another run of a job.
_NOT_COMPARED = {"threads", "workers", "device", "backend", "checkpoint_every"}


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
    seeds: tuple[int, ...] = ()
    """Each job is run once with each."""
    steps: Count | None = None
    """Environment steps of each training; those shipped for the environment if not given."""
    settings: tuple[str, ...] = ()
    """Settings of 'dibs-rl train' for every job: num_envs=16 n_steps=32."""
    out: Path | None = None
    """The study's folder; runs/<name of the study> if not given."""
    jobs: int = 0
    """Jobs at a time, each with one thread; 0 for one a processor."""
    launcher: Literal["local", "ray"] = "local"
    """What runs the jobs: processes on this machine, or a Ray cluster whose machines share the study's folder."""
    ray_address: str = ""
    """The Ray cluster's address, or auto for the one this machine belongs to; without it, one is started here."""


def run(arguments: list[str]) -> int:
    """Runs what is missing of a study; returns the exit code: 0 if all is done, 1 if a job has failed."""
    flags = parse(BenchmarkConfig, arguments, "benchmark")
    study, jobs = read_jobs(flags)
    root = flags.out or Path("runs") / study.name
    check_against_runs(jobs, root)
    with contextlib.closing(make_launcher(flags.launcher, root, flags.jobs, flags.ray_address)) as launcher:
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
    print_line(f"{title}: {len(jobs)} jobs{before}.")
    display = StudyDisplay(schedule.states, root, Console())
    try:
        stopped_by = schedule.run(display.update)
    finally:
        display.close(schedule.states)
    return _sum_up(schedule.states, root, stopped_by)


def make_launcher(kind: str, root: Path, jobs: int, ray_address: str = "") -> Launcher:
    """What runs jobs.

    Args:
        kind: `local` or `ray`.
        root: The study's folder.
        jobs: So many at a time; 0 for one a processor.
        ray_address: The Ray cluster's, if there is one.

    Raises:
        UserError: If the number is negative, or there is no Ray.
    """
    if jobs < 0:
        raise UserError(f"At least one job at a time; found --jobs {jobs}.")
    slots = jobs or processors()
    return RayLauncher(root, ray_address, slots) if kind == "ray" else LocalLauncher(root, slots)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_jobs(flags: BenchmarkConfig) -> tuple[Study, list[Job]]:
    """The study that the flags mean, resolved, and its jobs.

    Raises:
        UserError: If anything in it is not as it should be.
    """
    source = flags.study or "the flags"
    settings = studies.load_study(studies.study_file(flags.study)) if flags.study else {}
    study = studies.validated_study({**settings, **_given(flags, settings, source)}, source)
    over = {} if flags.steps is None else {"steps": flags.steps}
    over = {**named_values(flags.settings, "settings"), **over}
    study = dataclasses.replace(study, envs={resolve_id(env): {**(own or {}), **over} for env, own in study.envs.items()})
    objectives = {env: objectives_of(env, own or {}) for env, own in study.envs.items()}
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
            before = studies.by_name(settings.get(key, {}), key, source)
            named = named_values(getattr(flags, key), key)
            given[key] = {name: before.get(name) if value is None else value for name, value in named.items()}
    return given


def named_values(texts: Sequence[str], key: str) -> dict[str, Any]:
    """`NAME` and `NAME=VALUE` as a mapping; but for a condition's transform the value is YAML."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            found[name] = (value if key == "conditions" else yaml.safe_load(value)) if equals else None
        except yaml.YAMLError:
            message = f"Cannot read {text!r} in --{key}: behind the first = stands YAML, as in fast={{n_epochs: 5}}."
            raise UserError(message) from None
    return found


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
        passed_over = _NOT_COMPARED | ({"anchors"} if job.experts else set()) | ({"start_from"} if job.start else set())
        other = [key for key in now if key not in passed_over and before.get(key) != now[key]]
        if other:
            raise UserError(
                f"{folder.path} is a run with {other[0]} {before.get(other[0])!r}, and not {now[other[0]]!r}: "
                "choose another --out, or other names."
            )


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
