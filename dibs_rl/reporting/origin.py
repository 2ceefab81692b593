"""Where a study's results come from: what somebody needs who wants to repeat it."""

from collections.abc import Iterable
from typing import Any

from dibs_rl.study_folder import JobRecord, StudyRecord


def origin(study: StudyRecord) -> dict[str, str]:
    """Where, with what and how long the finished jobs ran: distinct values where they differ."""
    jobs = study.finished()
    versions = [f"{name} {v}" for job in jobs for name, v in job.facts.get("versions", {}).items()]
    compared = [job for job in jobs if not job.is_reference]
    return {
        "study": str(study.settings.get("name", study.path.name)),
        "command": f"dibs-rl benchmark {study.path / 'study.yaml'} --out {study.path}",
        "seeds": _distinct(sorted({job.seed for job in jobs})),
        "environment steps of a training": _distinct(f"{job.result.get('steps', 0):,} ({job.env})" for job in compared),
        "episodes of an evaluation": _distinct(_evaluation(job) for job in jobs),
        "backend": _distinct(f"{job.facts.get('backend', 'unknown')} ({job.env})" for job in jobs),
        "device": _distinct(job.facts.get("device", "unknown") for job in jobs),
        "machine": _distinct(job.facts.get("machine", "unknown") for job in jobs),
        "platform": _distinct(job.facts.get("platform", "unknown") for job in jobs),
        "Python": _distinct(job.facts.get("python", "unknown") for job in jobs),
        "versions": _distinct(versions),
        "git commit": _distinct(job.facts.get("git_commit") or "not recorded" for job in jobs),
    }


def _evaluation(job: JobRecord) -> str:
    how = "most likely actions" if job.result.get("deterministic") else "sampled actions"
    return f"{job.result.get('episodes', 'unknown')} ({how})"


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
