"""What a person sees while a study runs: a table of environments and arms in a terminal, a line for each job elsewhere."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dibs_rl.cli.job_process import State
from dibs_rl.progress_csv import last_step
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job

_INTERVAL = 1.0  # seconds between pictures
_LINES_AROUND = 8  # of the terminal, that are not rows of the table


class StudyDisplay:
    """Counts, speed and time left of a study's jobs.

    Args:
        states: Every job, and how it stands.
        root: The study's folder.
        console: Where to draw.
    """

    def __init__(self, states: Mapping[Job, State], root: Path, console: Console) -> None:
        self._root, self._console = root, console
        self._shown = dict(states)
        self._speed = Speedometer()
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        if self._live:
            self._live.start()

    def update(self, states: Mapping[Job, State]) -> None:
        """Shows how the jobs stand."""
        if time.monotonic() - self._drawn >= _INTERVAL:
            self._drawn = time.monotonic()
            self._speed.measure(states, self._steps)
            if self._live:
                self._live.update(self._picture(states), refresh=True)
        if self._live is None:
            self._print_ended(states)

    def close(self, states: Mapping[Job, State]) -> None:
        """Leaves the last picture standing."""
        self._drawn = 0.0
        self.update(states)
        if self._live:
            self._live.stop()

    def _steps(self, job: Job) -> int:
        return last_step(RunFolder(self._root / job.path).progress_file)

    def _print_ended(self, states: Mapping[Job, State]) -> None:
        for job, state in states.items():
            if state == self._shown[job] or state in ("waiting", "running"):
                continue
            ended = sum(each in ("done", "failed") for each in states.values())
            why = f": {error_of(job, self._root)}" if state == "failed" else ""
            goes_on = state != "stopped" and ended < len(states)
            left = f"  ({self._time_left(states, self._speed.overall())} left)" if goes_on else ""
            line = f"{ended}/{len(states)}  {job.path} {state}{why}{left}"
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)
        self._shown = dict(states)

    def _picture(self, states: Mapping[Job, State]) -> Group:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("environment", overflow="ellipsis")
        table.add_column("arm", overflow="ellipsis")
        for column in ("jobs", "done", "running", "failed", "steps/s", "left"):
            table.add_column(column, justify="right", no_wrap=True)
        rows: dict[tuple[str, str], dict[Job, State]] = {}
        for job, state in states.items():
            rows.setdefault((job.env, job.arm), {})[job] = state
        room = max(4, self._console.height - _LINES_AROUND)
        shown = sorted(rows, key=lambda row: _by_interest(rows[row]))[:room]
        for row in (row for row in rows if row in shown):
            table.add_row(*row, *self._cells(rows[row], self._speed.of(rows[row])))
        table.add_section()
        more = f"and {len(rows) - len(shown)} more" if len(rows) > len(shown) else ""
        table.add_row("all", more, *self._cells(states, self._speed.overall()))
        return Group(table, Text(str(self._root), style="dim"))

    def _cells(self, states: Mapping[Job, State], lasting_speed: float) -> list[str]:
        done, running, failed = (sum(each == state for each in states.values()) for state in ("done", "running", "failed"))
        speed = self._speed.of(states)
        left = self._time_left(states, lasting_speed) if running else ""
        return [
            str(len(states)),
            *(str(count or "") for count in (done, running, failed)),
            f"{speed:,.0f}" if speed else "",
            left,
        ]

    def _time_left(self, states: Mapping[Job, State], speed: float) -> str:
        return duration(self._speed.steps_left(states) / speed if speed else None)


class Speedometer:
    """Environment steps a second: of jobs while they run, and of all since it began to measure."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: dict[Job, tuple[float, int]] = {}  # when a job was first seen running, and its steps then
        self._last: dict[Job, tuple[float, int]] = {}
        self._running: set[Job] = set()

    def measure(self, states: Mapping[Job, State], steps: Callable[[Job], int]) -> None:
        """Takes how far the jobs are that run, or have run.

        Args:
            states: How each job stands.
            steps: From a job to its steps so far.
        """
        now = time.monotonic()
        ended = self._running - {job for job, state in states.items() if state == "running"}
        self._running = self._running - ended | {job for job, state in states.items() if state == "running"}
        for job in self._running | ended:
            self._last[job] = now, steps(job)
            self._first.setdefault(job, self._last[job])

    def of(self, jobs: Iterable[Job]) -> float:
        """Steps a second of those of these jobs that run."""
        return sum(self._of_one(job) for job in self._running.intersection(jobs))

    def overall(self) -> float:
        """Steps a second of all jobs since the beginning, with the pauses between them."""
        gained = sum(self._last[job][1] - first for job, (_, first) in self._first.items())
        return gained / max(time.monotonic() - self._began, 1e-9)

    def steps_left(self, states: Mapping[Job, State]) -> int:
        """Steps that are missing to the end of these jobs."""
        unfinished = [job for job, state in states.items() if state in ("waiting", "running")]
        return sum(max(0, job.config.steps - self._last.get(job, (0.0, 0))[1]) for job in unfinished)

    def _of_one(self, job: Job) -> float:
        (began, first), (now, last) = self._first[job], self._last[job]
        return max(0, last - first) / (now - began) if now > began else 0.0


def error_of(job: Job, root: Path) -> str:
    """The first line of a failed job's `error.txt`."""
    file = RunFolder(root / job.path).error_file
    return file.read_text(encoding="utf-8").splitlines()[0] if file.is_file() else "no reason is known"


def duration(seconds: float | None) -> str:
    """Hours, minutes or seconds, as a person says them."""
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _by_interest(states: Mapping[Job, State]) -> int:
    """Rows with running or failed jobs are shown first where there is no room for all."""
    found = set(states.values())
    return 0 if found & {"running", "failed"} else 1 if "waiting" in found else 2
