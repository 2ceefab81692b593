"""Who runs the jobs of a study, and when: a schedule, and the launcher of this machine."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dibs_rl.cli.anchors import gather_anchors
from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.job_process import JobProcess, State
from dibs_rl.cli.signals import obeying_signals
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job

_PAUSE = 0.1  # seconds between looks at the jobs


class Launcher(Protocol):
    """Runs jobs, each in a process of its own."""

    @property
    def has_room(self) -> bool:
        """Whether another job can be started now."""

    def start(self, job: Job) -> None:
        """Starts a job."""

    def ended(self) -> list[tuple[Job, State]]:
        """The jobs that have ended since the last call, and how."""

    def stop(self) -> None:
        """Asks all running jobs to save what they have learnt and to end."""

    def close(self) -> None:
        """Lets go of what the launcher holds, once no job runs."""


class LocalLauncher:
    """Processes on this machine.

    Args:
        root: The study's folder.
        slots: Jobs at a time.
    """

    def __init__(self, root: Path, slots: int) -> None:
        self._root, self._slots = root, slots
        self._running: dict[Job, JobProcess] = {}

    @property
    def has_room(self) -> bool:
        """Whether fewer jobs run than may."""
        return len(self._running) < self._slots

    def start(self, job: Job) -> None:
        """Starts a job's process."""
        self._running[job] = JobProcess(self._root / job.path, train_flags(job, self._root))

    def ended(self) -> list[tuple[Job, State]]:
        """The jobs whose processes have ended since the last call, and how."""
        states = [(job, process.poll()) for job, process in self._running.items()]
        ended: list[tuple[Job, State]] = [(job, state) for job, state in states if state != "running"]
        for job, _ in ended:
            del self._running[job]
        return ended

    def stop(self) -> None:
        """Asks all processes to save and to end."""
        for process in self._running.values():
            process.stop()

    def close(self) -> None:
        """Nothing is held."""


class Schedule:
    """Starts jobs as there is room, passes over those that have come to their end, and leaves alone what others run.

    Args:
        jobs: All of them, in the order of their turns.
        root: The study's folder.
        launcher: Runs them.

    Attributes:
        states: How each job stands.
    """

    def __init__(self, jobs: Sequence[Job], root: Path, launcher: Launcher) -> None:
        self._root, self._launcher = root, launcher
        self._stopped_by = 0
        self.states: dict[Job, State] = {job: "done" if self._folder(job).finished else "waiting" for job in jobs}

    def run(self, show: Callable[[dict[Job, State]], None]) -> int:
        """Runs all jobs; returns the number of the signal that stopped it, or 0.

        Args:
            show: Called with every job's state from time to time.
        """
        told = False
        with obeying_signals(self._stop):
            while self._has_work():
                for job, state in self._launcher.ended():
                    self.states[job] = state
                if self._stopped_by and not told:
                    self._launcher.stop()
                    told = True
                elif not self._stopped_by:
                    self._start_what_has_room()
                show(self.states)
                time.sleep(_PAUSE)
        return self._stopped_by

    def _has_work(self) -> bool:
        wanted = ("running",) if self._stopped_by else ("running", "waiting")
        return any(state in wanted for state in self.states.values())

    def _start_what_has_room(self) -> None:
        for job, state in self.states.items():
            if state != "waiting":
                continue
            if not self._launcher.has_room:
                return
            self.states[job] = self._begin(job)

    def _begin(self, job: Job) -> State:
        """Starts a job if its turn has come; returns how it stands then."""
        folder, before = self._folder(job), [self.states[other] for other in job.after]
        if folder.finished:
            return "done"
        if "failed" in before:
            folder.write_error("A job that it needs has failed.", "\n".join(str(other.path) for other in job.after))
            return "failed"
        if folder.in_use or any(state != "done" for state in before):  # in use: by another benchmark, say
            return "waiting"
        try:
            gather_anchors(job, self._root)
        except UserError as error:  # of this job alone: others are running
            folder.write_error(str(error), "")
            return "failed"
        self._launcher.start(job)
        return "running"

    def _folder(self, job: Job) -> RunFolder:
        return RunFolder(self._root / job.path)

    def _stop(self, number: int) -> None:
        """The jobs are told, and save and end."""
        self._stopped_by = number
