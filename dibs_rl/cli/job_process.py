"""One job of a study in a process of its own: how it is started, stopped and judged."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dibs_rl.config import BY_OBJECTIVE, by_objective_text
from dibs_rl.envs import base_and_transform
from dibs_rl.envs.tasks import TASKS
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job

State = Literal["waiting", "running", "done", "failed", "stopped"]
_LAST_LINES = 200
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class JobProcess:
    """A process that trains, or goes on training, what is missing of a job.

    Args:
        job: The job.
        root: The study's folder.
    """

    def __init__(self, job: Job, root: Path) -> None:
        self.job = job
        self.folder = RunFolder(root / job.path)
        self.folder.error_file.unlink(missing_ok=True)
        self._state: State = "running"
        self._stopping = False
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dibs_rl.cli.job", str(os.getpid()), *train_flags(job, self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which passes it on once
        )

    def poll(self) -> State:
        """How the job stands now; where it has failed, its folder says why in `error.txt`."""
        code = self._process.poll()
        if self._state == "running" and code is not None:
            with self._said:
                self._state = self._judge(code)
        return self._state

    def stop(self) -> None:
        """Asks the process to save what it has learnt and to end."""
        self._stopping = True
        self._process.send_signal(signal.SIGTERM)

    def _judge(self, code: int) -> State:
        """What the folder says of a process that has ended."""
        if self.folder.finished:
            return "done"
        if self._stopping:
            return "stopped"
        if self.folder.in_use:  # another process was faster: it is that one's job now
            return "waiting"
        self._report(code)
        return "failed"

    def _report(self, code: int) -> None:
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").rstrip().splitlines()[-_LAST_LINES:]
        reason = said[-1] if said else f"ended with exit code {code}"
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        self.folder.write_error(reason.removeprefix("dibs-rl: error: "), "\n".join(said))


def train_flags(job: Job, folder: RunFolder) -> list[str]:
    """The flags of `dibs-rl train` that begin a job, or go on with it."""
    if folder.config_file.is_file():
        return ["--resume", str(folder.path)]
    # One processor: the gym backend steps in the process itself, the batch backend with one thread.
    of_process = {"threads": 1, "workers": int(base_and_transform(job.env)[0] in TASKS)}
    study = f"condition={job.condition},arm={job.arm}"
    settings = {"env": job.env, **of_process, **job.given, "study": study, "out": str(folder.path)}
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
