"""One job of a study in a process of its own: how it is started, stopped and judged.

What is imported here is light: a cluster's machine imports it beside every job, whose own process needs the memory.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from dibs_rl.run_folder import RunFolder

State = Literal["waiting", "running", "done", "failed", "stopped"]
_LAST_LINES = 200
_PAUSE = 0.2  # seconds between looks at a process
_OF_A_RANK = {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class JobProcess:
    """A process that trains, or goes on training, what is missing of a job.

    Args:
        path: Its run folder.
        begin: Flags of `dibs-rl train` that begin it; where there is a run already, it goes on.
    """

    def __init__(self, path: Path, begin: Sequence[str]) -> None:
        self.folder = RunFolder(path)
        self.folder.error_file.unlink(missing_ok=True)
        self._state: State = "running"
        self._stopping = False
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        flags = ["--resume", str(path)] if self.folder.config_file.is_file() else begin
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dibs_rl.cli.job", str(os.getpid()), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env={**_without_ranks(os.environ), **_ONE_THREAD},
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


def run_to_the_end(path: Path, begin: Sequence[str], directory: str) -> State:
    """Runs a job in a process of its own and waits for it; what a cluster's machine is asked to do.

    Args:
        path: Its run folder.
        begin: See `JobProcess`.
        directory: The working directory: a study's environments may be defined where it was started.
    """
    os.chdir(directory)
    process = JobProcess(path, begin)
    while process.poll() == "running":
        try:
            time.sleep(_PAUSE)
        except KeyboardInterrupt:  # how Ray cancels a task
            process.stop()
    return process.poll()


def _without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what torchrun says to its processes: a job that one of them starts is no rank."""
    return {
        name: value for name, value in environment.items() if name not in _OF_A_RANK and not name.startswith("TORCHELASTIC")
    }
