"""`progress.csv`: one row a logged update, appended to; new columns may appear, and a resumed run goes on below."""

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

from dibs_rl.files import atomic_write

STEP = "time/total_timesteps"
_LAST_BYTES = 1 << 15  # more than a row has


class ProgressCSV(KVWriter):
    """SB3 log writer. Rows past the step a run is resumed from are dropped: they are about to be made again.

    Args:
        path: The file.
        resume_step: Environment step the run goes on from; 0 for a new one.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        self._path = path
        rows = read_progress(path) if resume_step and path.is_file() else []
        self._columns = list(rows[0]) if rows else []
        self._rewrite([row for row in rows if float(row.get(STEP) or 0) <= resume_step])

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Appends a row with the values that are not kept from CSV files."""
        row = {key: value for key, value in key_values.items() if "csv" not in (key_excluded.get(key) or ())}
        new = sorted(set(row) - set(self._columns))
        if new:
            rows = read_progress(self._path)
            self._columns += new
            self._rewrite(rows)
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)

    def close(self) -> None:
        """Nothing is kept open."""

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        if self._columns:
            writer = csv.DictWriter(text, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        with atomic_write(self._path) as file:
            file.write(text.getvalue().encode())


def read_progress(path: Path) -> list[dict[str, str]]:
    """The rows of a `progress.csv`, as texts by column; a last row that was cut off in the middle is left out."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]


def last_step(path: Path) -> int:
    """Environment steps in the last row of a `progress.csv`, read from its two ends only; 0 where there is none."""
    try:
        with open(path, "rb") as file:
            columns = file.readline().decode().strip().split(",")
            file.seek(max(file.tell(), file.seek(0, io.SEEK_END) - _LAST_BYTES))
            rows = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0
    for row in reversed(rows):
        cells = row.split(",")
        if len(cells) == len(columns) and STEP in columns:
            with contextlib.suppress(ValueError):
                return int(float(cells[columns.index(STEP)]))
    return 0
