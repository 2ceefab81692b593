"""A study's folder, read back: what each job was, how it ended, and what it measured. Nothing is trained or loaded here."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dibs_rl.arms import is_reference
from dibs_rl.conditions import AS_IT_IS
from dibs_rl.errors import UserError
from dibs_rl.files import check_exists, load_yaml
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job, jobs_of, validated_study

State = Literal["finished", "failed", "unfinished", "missing"]


@dataclass(frozen=True)
class Condition:
    """What a study does to the rewards that the learners see.

    Attributes:
        name: As in the folders: `scale-1`, `energy-x1e3`.
        transform: What it means: empty, `energy=1e3`, `energy=power4`, ...
    """

    name: str
    transform: str

    @property
    def factors(self) -> dict[str, float] | None:
        """Factor on each objective that is rescaled; None if something other than a positive factor is done to one."""
        found = {}
        for part in filter(None, (text.strip() for text in self.transform.split(","))):
            name, _, what = part.partition("=")
            try:
                found[name.strip()] = float(what)
            except ValueError:
                return None
        return found if all(0 < factor < math.inf for factor in found.values()) else None

    @property
    def is_plain(self) -> bool:
        """Whether the rewards are as the environment gives them."""
        return self.factors is not None and all(factor == 1 for factor in self.factors.values())

    @property
    def is_power_of_two(self) -> bool:
        """Whether each factor is a power of two: those commute with rounding."""
        return self.factors is not None and all(math.frexp(factor)[0] == 0.5 for factor in self.factors.values())


@dataclass(frozen=True)
class JobRecord:
    """One run of a study.

    Attributes:
        env: Environment id.
        condition: What was done to its rewards.
        arm: The method.
        seed: Its seed.
        folder: Where it is kept.
        state: How it ended; a job that has not begun is missing, one that was stopped or still runs is unfinished.
        objectives: Names, in the reward's order; empty where nobody knows.
        returns: Mean undiscounted, untransformed return of each objective over the evaluation's episodes.
        result: `result.json`.
        facts: Versions, platform, backend: the facts of `config.yaml`.
        error: First line of a failed job's `error.txt`.
    """

    env: str
    condition: Condition
    arm: str
    seed: int
    folder: RunFolder
    state: State
    objectives: tuple[str, ...] = ()
    returns: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def is_reference(self) -> bool:
        """Whether it only fixes the scale of the scores: the random policy and the experts."""
        return is_reference(self.arm)


@dataclass(frozen=True)
class StudyRecord:
    """Everything a study's folder holds.

    Attributes:
        path: The folder.
        settings: `study.yaml`.
        jobs: Every job that was asked for or found.
    """

    path: Path
    settings: dict[str, Any]
    jobs: tuple[JobRecord, ...]

    def named(self, part: str, names: Iterable[str]) -> list[str]:
        """Names of environments, conditions or arms, each once, in the order in which `study.yaml` has them."""
        return sorted(set(names), key=_order(self.settings, part))

    def finished(self) -> list[JobRecord]:
        """The jobs that came to their end."""
        return [job for job in self.jobs if job.state == "finished"]


def read_study(path: Path, known: Mapping[str, Sequence[str]]) -> StudyRecord:
    """Reads a study's folder.

    Args:
        path: The folder.
        known: Names of environments' objectives by id, for jobs that have not begun.

    Raises:
        UserError: If it is not one, or no job of an arm has come to its end.
    """
    check_exists(path)
    file = path / "study.yaml"
    if not file.is_file():
        raise UserError(f"{path} is not a study's folder: it has no study.yaml. 'dibs-rl benchmark' makes one.")
    settings = load_yaml(file)
    asked = validated_study(settings, str(file))
    found = [_read_job(folder, asked.conditions) for folder in _job_folders(path)]
    objectives = {**dict.fromkeys(asked.envs, ()), **known, **{job.env: job.objectives for job in found if job.objectives}}
    missing = _missing_jobs(path, jobs_of(asked, objectives), asked.conditions, found)
    study = StudyRecord(path, settings, tuple(sorted([*found, *missing], key=_place(settings))))
    if all(job.is_reference for job in study.finished()):
        raise UserError(f"No job of an arm in {path} has finished yet: there is nothing to report.")
    return study


def _place(settings: Mapping[str, Any]) -> Callable[[JobRecord], tuple]:
    """A key that puts jobs into the order in which the study names them."""
    env, condition, arm = (_order(settings, part) for part in ("envs", "conditions", "arms"))
    return lambda job: (env(job.env), condition(job.condition.name), arm(job.arm), job.seed)


def _order(settings: Mapping[str, Any], part: str) -> Callable[[str], tuple[int, str]]:
    """A key that puts names into the order in which a part of `study.yaml` has them, and others behind."""
    places = {name: i for i, name in enumerate(settings.get(part) or ())}
    return lambda name: (places.get(name, len(places)), name)


def _job_folders(path: Path) -> Iterable[RunFolder]:
    for folder in sorted(path.glob("*/*/*/seed*")):
        if folder.is_dir() and re.fullmatch(r"seed\d+", folder.name):
            yield RunFolder(folder)


def _read_job(folder: RunFolder, transforms: Mapping[str, str | None]) -> JobRecord:
    """What a job's folder says; its place says which job it is where it has no config.yaml yet."""
    env, condition, arm = (part.name for part in reversed(folder.path.parents[:3]))
    facts = folder.facts() if folder.config_file.is_file() else {}
    settings = load_yaml(folder.config_file).get("settings", {}) if facts else {}
    result = folder.result() if folder.result_file.is_file() else {}
    returns = {name: numbers["mean"] for name, numbers in result.get("returns", {}).items()}
    ended = bool(result) and result.get("steps", 0) >= settings.get("steps", 0)  # else it was evaluated in the middle
    error = _error(folder, returns if ended else None)
    return JobRecord(
        env=settings.get("env", env),
        condition=Condition(condition, transforms.get(condition) or ""),
        arm=arm,
        seed=int(folder.path.name.removeprefix("seed")),
        folder=folder,
        state="failed" if error else "finished" if ended else "unfinished",
        objectives=tuple(facts.get("objectives", ())),
        returns=returns,
        result=result,
        facts=facts,
        error=error,
    )


def _error(folder: RunFolder, returns: Mapping[str, float] | None) -> str:
    """Why a job has no result that can be compared, in one line; empty if it has one, or may still get one."""
    if returns is None:
        text = folder.error_file.read_text(encoding="utf-8") if folder.error_file.is_file() else ""
        return text.split("\n", 1)[0]
    bad = [name for name, value in returns.items() if not math.isfinite(value)]
    return f"The return of {bad[0]} is {returns[bad[0]]}." if bad else ""


def _missing_jobs(
    path: Path, asked: Iterable[Job], transforms: Mapping[str, str | None], found: Sequence[JobRecord]
) -> Iterable[JobRecord]:
    """The jobs of a study that have no folder yet.

    `study.yaml` names the rewards as they are in any case, because of the random policy and the experts; the arms were run
    on them only where one of them has begun.
    """
    begun = {job.folder.path for job in found}
    compared = {job.condition.name for job in found if not job.is_reference}
    for job in asked:
        folder = RunFolder(path / job.path)
        wanted = job.condition != AS_IT_IS or is_reference(job.arm) or AS_IT_IS in compared or not compared
        if wanted and folder.path not in begun:
            condition = Condition(job.condition, transforms.get(job.condition) or "")
            yield JobRecord(job.env, condition, job.arm, job.config.seed, folder, "missing")
