"""What a person sees while a run goes on: steps, speed, time left and every objective's return by name."""

import math
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_DRAWING_INTERVAL = 0.1  # seconds between pictures in a terminal; rollouts may be shorter
_PLAIN_INTERVAL = 10.0  # seconds between lines where there is no terminal to draw in


class TrainingDisplay:
    """A live bar and table in a terminal; elsewhere a plain line from time to time.

    Args:
        objectives: Their names.
        total: Environment steps in all.
        start: Steps done before.
        console: Where to draw.
    """

    def __init__(self, objectives: Sequence[str], total: int, start: int, console: Console) -> None:
        self._objectives, self._total, self._start = objectives, total, start
        self._console = console
        self._started = self._last_line = time.monotonic()
        self._last_update = 0.0
        self._returns: list[float] | None = None
        self._bar = Progress(
            TextColumn("steps"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=total, completed=start, speed="")
        self._live = Live(self._picture(), console=console, auto_refresh=False) if console.is_terminal else None
        if self._live:
            self._live.start()

    @property
    def due(self) -> bool:
        """Whether it has been a while since the last update."""
        return time.monotonic() - self._last_update > _DRAWING_INTERVAL

    def update(self, steps: int, returns: list[float] | None) -> None:
        """Shows where the run is.

        Args:
            steps: Environment steps done.
            returns: Mean return of the last episodes for each objective, NaN where there is none; None before the first.
        """
        self._returns = returns or self._returns
        self._last_update = time.monotonic()
        speed = (steps - self._start) / max(time.monotonic() - self._started, 1e-9)
        shown = min(steps, self._total)
        self._bar.update(self._task, completed=shown, speed=f"{speed:,.0f}/s")
        if self._live:
            self._live.update(self._picture(), refresh=True)
        elif time.monotonic() - self._last_line > _PLAIN_INTERVAL or steps >= self._total:
            self._last_line = time.monotonic()
            left = max(0, self._total - steps) / max(speed, 1e-9)
            self._console.print(
                f"{shown:,}/{self._total:,} steps  {speed:,.0f}/s  {left:.0f} s left  {self._plain_returns()}",
                highlight=False,
                soft_wrap=True,
            )

    def close(self) -> None:
        """Leaves the last picture standing."""
        if self._live:
            self._live.stop()

    def _plain_returns(self) -> str:
        if self._returns is None:
            return "(no episode has ended yet)"
        return "  ".join(f"{name} {_shown(value, '.5g')}" for name, value in zip(self._objectives, self._returns, strict=True))

    def _picture(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD)
        for name in self._objectives:
            table.add_column(name, justify="right")
        values = self._returns or [math.nan] * len(self._objectives)
        table.add_row(*(_shown(value, ",.2f") for value in values))
        return Group(self._bar, Text("mean return of the last 100 episodes", style="dim"), table)


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
