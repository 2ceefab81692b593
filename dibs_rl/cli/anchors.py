"""The experts of a study as the anchors of its arms that play the anchored game."""

import shutil
from pathlib import Path

from dibs_rl import arms
from dibs_rl.agents.experts import check_experts, has_experts, write_experts
from dibs_rl.config import OF_TASK
from dibs_rl.files import atomic_write
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job


def gather_anchors(job: Job, root: Path) -> None:
    """Copies the models of a job's experts, which are done, to one folder, in the form that `--anchors` takes.

    Those that other jobs have played with are left as they are.

    Args:
        job: One that comes after its experts, if it needs any.
        root: The study's folder.

    Raises:
        UserError: If one that is there is not the one that was copied.
    """
    if not job.experts:
        return
    folder = root / job.anchors
    if has_experts(folder):
        check_experts(folder)
        return
    models = {}
    for expert in job.experts:
        objective = expert.arm.removeprefix(arms.EXPERT)
        models[objective] = folder / f"{objective}.zip"
        with open(RunFolder(root / expert.path).model_file, "rb") as source, atomic_write(models[objective]) as copy:
            shutil.copyfileobj(source, copy)
    first = job.experts[0]
    of_run = RunFolder(root / first.path).facts()
    facts = {"env": first.env, "algo": first.config.algo, "steps": first.config.steps, "seed": first.config.seed}
    facts |= {name: getattr(first.config, name) for name in OF_TASK}
    write_experts(folder, models, {**facts, "backend": of_run["backend"], "versions": of_run["versions"]})
