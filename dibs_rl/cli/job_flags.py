"""What a job of a study is to `dibs-rl train`: flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dibs_rl.by_objective import by_objective_text
from dibs_rl.config import BY_OBJECTIVE
from dibs_rl.envs import base_and_transform
from dibs_rl.envs.tasks import TASKS
from dibs_rl.study import Job


def train_flags(job: Job, root: Path) -> list[str]:
    """The flags of `dibs-rl train` that begin a job in the study's folder."""
    # One processor: the gym backend steps in the process itself, the batch backend with one thread.
    of_process = {"threads": 1, "workers": int(base_and_transform(job.env)[0] in TASKS)}
    study = f"condition={job.condition},arm={job.arm}"
    others = {"anchors": str(root / job.anchors)} if job.experts else {}
    others |= {"start_from": str(root / job.start.path)} if job.start else {}
    settings = {"env": job.env, **of_process, **job.given, **others, "study": study, "out": str(root / job.path)}
    return ["--algo", job.config.algo, *as_flags({key: value for key, value in settings.items() if key != "algo"})]


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `dibs-rl train` reads them from its command line."""
    words: list[str] = []
    for key, value in settings.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif key in BY_OBJECTIVE:
            words.append(f"--{flag}={by_objective_text(value)}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words.append(f"--{flag}={value}")
    return words
