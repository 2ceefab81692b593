"""What a person sees while a study runs: a table of environments and arms in a terminal, a line for each job elsewhere."""

import time
from collections.abc import Mapping
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
        if self._live is None:
            self._print_ended(states)
        if time.monotonic() - self._drawn >= _INTERVAL:
            self._drawn = time.monotonic()
            self._speed.measure({job: self._steps(job) for job, state in states.items() if state == "running"})
            if self._live:
                self._live.update(self._picture(states), refresh=True)

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
            left = duration(self._speed.time_left(states))
            self._console.print(
                f"{ended}/{len(states)}  {job.path} {state}{why}  ({left} left)", highlight=False, soft_wrap=True, markup=False
            )
        self._shown = dict(states)

    def _picture(self, states: Mapping[Job, State]) -> Group:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("environment", no_wrap=True)
        table.add_column("arm", no_wrap=True)
        for column in ("jobs", "done", "running", "failed", "steps/s", "left"):
            table.add_column(column, justify="right")
        rows: dict[tuple[str, str], dict[Job, State]] = {}
        for job, state in states.items():
            rows.setdefault((job.env, job.arm), {})[job] = state
        room = max(4, self._console.height - _LINES_AROUND)
        shown = sorted(rows, key=lambda row: _by_interest(rows[row]))[:room]
        for row in (row for row in rows if row in shown):
            table.add_row(*row, *self._cells(rows[row]))
        table.add_section()
        more = f"and {len(rows) - len(shown)} more" if len(rows) > len(shown) else ""
        table.add_row("all", more, *self._cells(states))
        return Group(table, Text(str(self._root), style="dim"))

    def _cells(self, states: Mapping[Job, State]) -> list[str]:
        counts = [sum(each == state for each in states.values()) for state in ("done", "running", "failed")]
        speed = self._speed.of(states)
        left = duration(self._speed.time_left(states)) if counts[1] else ""
        return [str(len(states)), *(str(count) if count else "" for count in counts), f"{speed:,.0f}" if speed else "", left]


class Speedometer:
    """Environment steps a second of running jobs, over the time they were seen running."""

    def __init__(self) -> None:
        self._since: dict[Job, tuple[float, int]] = {}
        self._now: dict[Job, tuple[float, int]] = {}

    def measure(self, steps: Mapping[Job, int]) -> None:
        """Takes the steps of the jobs that run; the others are forgotten."""
        now = time.monotonic()
        self._since = {job: self._since.get(job, (now, done)) for job, done in steps.items()}
        self._now = {job: (now, done) for job, done in steps.items()}

    def of(self, jobs: Mapping[Job, State]) -> float:
        """Steps a second of these jobs together."""
        return sum(self._of_one(job) for job in jobs)

    def time_left(self, states: Mapping[Job, State]) -> float | None:
        """Seconds until these jobs have come to their end at the present speed; None where there is none."""
        speed = self.of(states)
        unfinished = [job for job, state in states.items() if state in ("waiting", "running")]
        left = sum(max(0, job.config.steps - self._now.get(job, (0.0, 0))[1]) for job in unfinished)
        return left / speed if speed else None

    def _of_one(self, job: Job) -> float:
        if job not in self._now:
            return 0.0
        (began, first), (now, last) = self._since[job], self._now[job]
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
